"""score_quality: what each clip looks and sounds like, in numbers. No judgement: thresholds belong to select_clips.

Means over a few frames spread from the clip's first to its last, unless said otherwise.
  quality, quality_backend  a metric without a reference, higher is better; scales in models/quality.py. It judges
                 hyperiqa  the crop, as published;
                 piqe      the face in the pixels of the source, since the crop's resampling hides or invents what piqe
                           looks for: the landmarks' box with a margin, reduced to the crop where it is larger.
Always, from the crop, its geometry and the sound, without another decode of the source:
  sharpness      variance of the Laplacian of the face at 256 px (ops/face_measures.py)
  exposure       mean luma of the face, 0..1; clipped_share: share of its pixels that are black or white
  yaw_deg, pitch_deg, roll_deg  head pose, median over all frames with the face (ops/head_pose.py)
  speech_share   share of the clip with speech, 0..1 (ops/speech.py); null without sound
  aligned_share  share of the frames in which a fresh detector finds exactly one face in the crop, its anchors on
                 average within ALIGNED_WITHIN of the template: step 7 of the published pipeline, "remove incorrect
                 affined". Always FaceMesh, so that it needs no weights and does not trust what made the crop.
  picture_hash   of the middle frame; motion_hash: of the mouth's movement, null where it rests (ops/duplicates.py)
"""

from pathlib import Path

import cv2
import numpy as np

from latentsync import records
from latentsync.config import VERSIONS, ScoreQuality
from latentsync.media.read import read_clip, read_flac, read_frames
from latentsync.models.faces import Detector, open_detector
from latentsync.models.quality import Scorer, open_scorer
from latentsync.ops import duplicates, geometry
from latentsync.ops import face_measures as measures
from latentsync.ops.head_pose import head_pose, pose_points
from latentsync.ops.speech import speech_share
from latentsync.ops.timing import samples_of

MARGIN = 0.1  # of the box of the landmarks, on each side
MIN_SIDE_PX = 96  # six blocks of PIQE; a smaller box is widened into its surroundings
MAX_SIDE_PX = 256  # or the crop's, where that is larger
# Of the crop's width. Measured on 216 crops of 73 clips at 64 px, talkers and public videos: median 0.036, 99 % below
# 0.075, the furthest 0.09; a face off by a third of its width, too near or on its side lies farther away or is missed.
# FaceMesh takes a face on its head for an upright one.
ALIGNED_WITHIN = 0.12
LOOKED_AT = 256  # resolution of the crop as the fresh detector sees it, unstretched, ...
SURROUNDINGS = 0.25  # ... in a grey frame this wide, of its height: a face that fills a picture is missed


def run(cfg: ScoreQuality, inputs: dict[str, list[Path]], outputs: dict[str, Path], sources: Path | None) -> None:
    """Score every clip of one shard."""
    [ledger] = inputs["align_faces"]
    rows = records.read_ledger(ledger)
    root = records.run_dir(outputs["ledger"])
    scorer = open_scorer(cfg.backend)
    score = score_crop if cfg.backend == "hyperiqa" else score_source
    with open_detector("mediapipe", 2) as detector:

        def work(row: records.Row, _: str) -> list[records.Row]:
            quality = score(row, scorer, cfg.frames, root, sources)
            measured = measure_crop(row, cfg.frames, detector, root)
            return [row | {"quality": round(quality, 3), "quality_backend": cfg.backend} | measured]

        records.run_shard(outputs["ledger"], rows, cfg, VERSIONS["score_quality"], work)


def measure_crop(row: records.Row, frames: int, detector: Detector, root: Path) -> records.Row:
    """The columns that need no metric."""
    with np.load(root / row["geometry_file"]) as arrays:
        geometry_of = {name: arrays[name] for name in ("found", "landmarks", "matrices", "mouth_opening")}
    found, landmarks, matrices = (geometry_of[name] for name in ("found", "landmarks", "matrices"))
    crop_file, looks = root / row["crop_file"], []
    for tick in chosen_ticks(found, frames):
        face = read_clip(crop_file, tick, tick + 1)[0]
        points = measures.to_face(geometry.apply(matrices[tick], landmarks[tick]), row["resolution"])
        mask = measures.face_mask(points, row["resolution"])
        looks.append((measures.sharpness(face, mask), *measures.exposure(face, mask), is_aligned(face, detector)))
    pose = np.median(head_pose(pose_points(landmarks[found])), axis=0)
    middle = len(found) // 2
    names = ("sharpness", "exposure", "clipped_share", "aligned_share", "yaw_deg", "pitch_deg", "roll_deg")
    numbers = zip(names, [*np.mean(looks, axis=0), *pose], strict=True)
    return {name: round(float(value), 4) + 0.0 for name, value in numbers} | {
        "speech_share": _speech_share(row, root),
        "picture_hash": duplicates.picture_hash(read_clip(crop_file, middle, middle + 1)[0]),
        "motion_hash": duplicates.motion_hash(geometry_of["mouth_opening"].astype(np.float64)),
    }


def _speech_share(row: records.Row, root: Path) -> float | None:
    if row["audio_file"] is None:
        return None
    return round(speech_share(read_flac(root / row["audio_file"], *samples_of(row["start_tick"], row["end_tick"]))), 4)


def is_aligned(face: np.ndarray, detector: Detector) -> bool:
    """Whether a crop uint8 (R, R, 3) holds one face, and that where the template has it."""
    width, height = geometry.crop_size(LOOKED_AT)
    grows = face.shape[0] < height
    crop = cv2.resize(face, (width, height), interpolation=cv2.INTER_CUBIC if grows else cv2.INTER_AREA)
    margin = round(SURROUNDINGS * height)
    grey = (geometry.FILL,) * 3
    detector.reset()
    faces = detector.detect(cv2.copyMakeBorder(crop, *(margin,) * 4, cv2.BORDER_CONSTANT, value=grey))
    return len(faces) == 1 and measures.anchor_distance(faces[0].anchors - margin, LOOKED_AT) <= ALIGNED_WITHIN


def chosen_ticks(found: np.ndarray, frames: int) -> np.ndarray:
    """Indices of at most `frames` ticks with the face found, from the first to the last, evenly spread."""
    [candidates] = np.nonzero(found)
    places = np.linspace(0, len(candidates) - 1, min(frames, len(candidates)))
    return candidates[np.rint(places).astype(int)]


def score_crop(row: records.Row, scorer: Scorer, frames: int, root: Path, sources: Path | None) -> float:
    """Mean score of frames of the crop video."""
    with np.load(root / row["geometry_file"]) as geometry:
        ticks = chosen_ticks(geometry["found"], frames)
    return float(np.mean([scorer(read_clip(root / row["crop_file"], tick, tick + 1)[0]) for tick in ticks]))


def score_source(row: records.Row, scorer: Scorer, frames: int, root: Path, sources: Path | None) -> float:
    """Mean score of the face region in frames of the source."""
    assert sources is not None, "the step needs --sources"
    with np.load(root / row["geometry_file"]) as geometry:
        ticks = chosen_ticks(geometry["found"], frames)
        landmarks = geometry["landmarks"][ticks]
    indices = np.load(root / row["ticks_file"])[row["start_tick"] + ticks]
    pictures = dict(read_frames(sources / row["path"], np.unique(indices)))
    limit_px = max(MAX_SIDE_PX, row["resolution"])
    return float(
        np.mean(
            [
                scorer(face_region(pictures[int(i)], points, limit_px))
                for i, points in zip(indices, landmarks, strict=True)
            ]
        )
    )


def face_region(rgb: np.ndarray, landmarks: np.ndarray, limit_px: int) -> np.ndarray:
    """The part (h, w, 3) of a picture around landmarks (p, 2): their box, its margin, inside the picture.

    At least MIN_SIDE_PX where the picture has as much; reduced by area averaging to at most `limit_px` a side.
    """
    low, high = landmarks.min(axis=0), landmarks.max(axis=0)
    size_px = np.array(rgb.shape[1::-1])
    sides = np.minimum(np.maximum(np.rint((high - low) * (1 + 2 * MARGIN)), MIN_SIDE_PX), size_px).astype(int)
    start = np.clip(np.rint((low + high - sides) / 2).astype(int), 0, size_px - sides)
    region = rgb[start[1] : start[1] + sides[1], start[0] : start[0] + sides[0]]
    scale = limit_px / max(sides)
    if scale < 1:
        width, height = (max(1, round(side * scale)) for side in sides)
        region = cv2.resize(region, (width, height), interpolation=cv2.INTER_AREA)
    return region
