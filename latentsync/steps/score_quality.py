"""score_quality: picture quality of each clip, the mean over a few frames spread from its first to its last.

Columns: quality (higher is better), quality_backend. The scales are those of models/quality.py. What is judged:
  hyperiqa  the crop, as published;
  piqe      the face in the pixels of the source, since the crop's resampling hides or invents what piqe looks for: the
            landmarks' box with a margin; a face larger than the crop is reduced to it, as the crop is.
"""

from pathlib import Path

import numpy as np

from latentsync import records
from latentsync.config import VERSIONS, ScoreQuality
from latentsync.media.read import read_clip, read_frames
from latentsync.models.quality import Scorer, open_scorer

MARGIN = 0.1  # of the box of the landmarks, on each side
MIN_SIDE_PX = 96  # six blocks of PIQE; a smaller box is widened into its surroundings
MAX_SIDE_PX = 256  # or the crop's, where that is larger


def run(cfg: ScoreQuality, inputs: dict[str, list[Path]], outputs: dict[str, Path], sources: Path | None) -> None:
    """Score every clip of one shard."""
    [ledger] = inputs["align_faces"]
    rows = records.read_ledger(ledger)
    root = records.run_dir(outputs["ledger"])
    scorer = open_scorer(cfg.backend)
    score = score_crop if cfg.backend == "hyperiqa" else score_source

    def work(row: records.Row, _: str) -> list[records.Row]:
        quality = score(row, scorer, cfg.frames, root, sources)
        return [row | {"quality": round(quality, 3), "quality_backend": cfg.backend}]

    records.run_shard(outputs["ledger"], rows, cfg, VERSIONS["score_quality"], work)


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
    import cv2

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
