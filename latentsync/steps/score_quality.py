"""score_quality: image quality, light, pose, speech and alignment of each clip. select_clips applies the thresholds.

Means over a few frames spread from the clip's first to its last, unless stated otherwise.
  quality, quality_backend  a metric without a reference, higher is better; scales in models/quality.py. It judges
                 hyperiqa  the crop, as published;
                 piqe      the crop; below 256 px the face in the pixels of the source, since a crop that small hides
                           what PIQE measures: the box of the landmarks with a margin, kept by align_faces
                           (faces/stills.py)
Always, from the crop, its geometry and the audio, without decoding the source again:
  sharpness      variance of the Laplacian of the face at 256 px (faces/measures.py)
  exposure       mean luma of the face, 0..1; clipped_share: share of its pixels that are black or white
  yaw_deg, pitch_deg, roll_deg  head pose, median over all frames with the face (faces/measures.py)
  speech_share   share of the clip with speech, not music or noise, 0..1 (audio/speech.py); null without audio
  aligned_share  share of the frames in which a second detector finds exactly one face in the crop, with anchors on
                 average within ALIGNED_WITHIN of the template: step 7 of the published pipeline, "remove incorrect
                 affined". Always FaceMesh: it needs no weights, and it is independent of the one that made the crop.
  motion         how much the face moves in itself; a photograph does not (faces/measures.py)
  outside_share  share of mouth and chin beyond the border of the frame
  upright_share  share of the frames in which the crop looks most like a face as it is, not turned (faces/upright.py)
  audio_peak     largest absolute sample; null without audio
  picture_hash   of the middle frame; motion_hash: of the mouth's movement, null where it rests (curation/duplicates.py)
  face_signature, audio_signature  what moves and what sounds, to recognise the same footage (curation/signature.py)
"""

from pathlib import Path

import cv2
import numpy as np

from latentsync.audio.speech import Speech
from latentsync.config import VERSIONS, ScoreQuality
from latentsync.curation import duplicates, signature
from latentsync.faces import alignment, measures
from latentsync.faces.backends import backend, open_detector
from latentsync.faces.face import Detector
from latentsync.faces.stills import read_stills
from latentsync.faces.upright import Upright, open_upright
from latentsync.ledger.columns import Clip
from latentsync.ledger.files import read_ledger, run_dir
from latentsync.ledger.rows import Row
from latentsync.ledger.shard import run_shard
from latentsync.media.audio import read_flac
from latentsync.media.read import read_clip
from latentsync.models.quality import Scorer, open_scorer
from latentsync.timing import evenly_spaced, samples_of

# Of the crop's width. Measured on 216 crops of 73 clips at 64 px, talkers and public videos: median 0.036, 99 % below
# 0.075, at most 0.09; a face that is off by a third of its width, too near or on its side is farther or not found.
# FaceMesh takes an upside-down face for an upright one.
ALIGNED_WITHIN = 0.12
CHECK_RESOLUTION = 256  # of the unstretched crop that the second detector sees, ...
BORDER = 0.25  # ... with a grey border this wide, of its height: a face that fills the image is missed


def run(
    cfg: ScoreQuality, inputs: dict[str, list[Path]], outputs: dict[str, Path], sources: Path | None = None
) -> None:
    """Score every clip of one shard."""
    [ledger] = inputs["align_faces"]
    rows = read_ledger(ledger)
    root = run_dir(outputs["ledger"])
    scorer, speech = open_scorer(cfg.backend), Speech()
    score = score_crop if cfg.backend == "hyperiqa" else score_stills
    with open_detector("mediapipe", 2) as detector, open_upright() as upright:

        def work(row: Clip, _: str) -> list[Row]:
            quality = score(row, scorer, cfg.frames, root)
            measured = measure_crop(row, cfg.frames, detector, upright, speech, root)
            return [row | {"quality": round(quality, 3), "quality_backend": cfg.backend} | measured]

        run_shard(outputs["ledger"], rows, cfg, VERSIONS["score_quality"], work)


def measure_crop(row: Clip, frames: int, detector: Detector, upright: Upright, speech: Speech, root: Path) -> Row:
    """The columns that need no quality metric."""
    with np.load(root / row["geometry_file"]) as arrays:
        found, landmarks, matrices, mouth_opening = (
            arrays[name] for name in ("found", "landmarks", "matrices", "mouth_opening")
        )
    crop_file, per_frame = root / row["crop_file"], []
    for tick in chosen_ticks(found, frames):
        face = read_clip(crop_file, tick, tick + 1)[0]
        points = alignment.apply(alignment.to_face(matrices[tick], row["resolution"]), landmarks[tick])
        mask = measures.face_mask(points, row["resolution"])
        looks = *measures.exposure(face, mask), is_aligned(face, detector), upright(face)
        per_frame.append((measures.sharpness(face, mask), *looks))
    turns = measures.head_pose(landmarks[:, backend(row["faces"]).scheme.pose])
    pose = np.median(turns[found], axis=0)
    moves = signature.face_signature(matrices, turns[:, :2], mouth_opening, row["resolution"], row["start_tick"])
    middle = len(found) // 2
    names = ("sharpness", "exposure", "clipped_share", "aligned_share", "upright_share")
    numbers: dict[str, float] = dict(
        zip((*names, "yaw_deg", "pitch_deg", "roll_deg"), [*np.mean(per_frame, axis=0), *pose], strict=True)
    )
    size = row["width"], row["height"]
    numbers["outside_share"] = measures.outside_share(matrices[found], row["resolution"], size)
    samples = _audio(row, root)
    return {name: round(float(value), 4) + 0.0 for name, value in numbers.items()} | {
        "motion": round(measures.motion(landmarks, found), 6),
        "speech_share": None if samples is None else round(speech.share(samples), 4),
        "audio_peak": None if samples is None else round(float(np.abs(samples).max(initial=0)), 6),
        "picture_hash": duplicates.picture_hash(read_clip(crop_file, middle, middle + 1)[0]),
        "motion_hash": duplicates.motion_hash(mouth_opening.astype(np.float64)),
        "face_signature": signature.as_text(moves),
        "audio_signature": _audio_signature(row, root),
    }


def _audio(row: Clip, root: Path) -> np.ndarray | None:
    if row["audio_file"] is None:
        return None
    return read_flac(root / row["audio_file"], *samples_of(row["start_tick"], row["end_tick"]))


def _audio_signature(row: Clip, root: Path) -> str | None:
    if row["audio_file"] is None:
        return None
    start, stop = row["start_tick"] - signature.AROUND_TICKS, row["end_tick"] + signature.AROUND_TICKS
    samples = read_flac(root / row["audio_file"], *samples_of(start, stop))
    return signature.as_text(signature.audio_signature(samples, row["start_tick"]))


def is_aligned(face: np.ndarray, detector: Detector) -> bool:
    """Whether a crop uint8 (R, R, 3) holds exactly one face, aligned with the template."""
    width, height = alignment.crop_size(CHECK_RESOLUTION)
    grows = face.shape[0] < height
    crop = cv2.resize(face, (width, height), interpolation=cv2.INTER_CUBIC if grows else cv2.INTER_AREA)
    margin = round(BORDER * height)
    grey = (alignment.FILL,) * 3
    detector.reset()
    faces = detector.detect(cv2.copyMakeBorder(crop, margin, margin, margin, margin, cv2.BORDER_CONSTANT, value=grey))
    return len(faces) == 1 and measures.anchor_distance(faces[0].anchors - margin, CHECK_RESOLUTION) <= ALIGNED_WITHIN


def chosen_ticks(found: np.ndarray, frames: int) -> np.ndarray:
    """Indices of at most `frames` ticks with the face found, from the first to the last, evenly spread."""
    [candidates] = np.nonzero(found)
    return candidates[evenly_spaced(len(candidates), frames)]


def score_crop(row: Clip, scorer: Scorer, frames: int, root: Path) -> float:
    """Mean score of frames of the crop video."""
    with np.load(root / row["geometry_file"]) as geometry:
        ticks = chosen_ticks(geometry["found"], frames)
    return float(np.mean([scorer(read_clip(root / row["crop_file"], tick, tick + 1)[0]) for tick in ticks]))


def score_stills(row: Clip, scorer: Scorer, frames: int, root: Path) -> float:
    """Mean score of the stills; of the crop where it is large enough to need none."""
    if row["stills_file"] is None:
        return score_crop(row, scorer, frames, root)
    return float(np.mean([scorer(still) for still in read_stills(root / row["stills_file"], frames)]))
