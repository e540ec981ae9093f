"""Find the cuts of each source with PySceneDetect's adaptive detector, fed with our frames at 25 ticks a second.

One decode, no copies. Every source frame is seen once, at the first tick that shows it: repeated frames (a source below
25 fps) would score 0 and pull down the average that the detector compares with.
"""

from pathlib import Path

import numpy as np

from latentsync.config import VERSIONS, DetectScenes
from latentsync.ledger.columns import Source
from latentsync.ledger.files import read_ledger, run_dir
from latentsync.ledger.rows import Row
from latentsync.ledger.shard import run_shard
from latentsync.media.read import read_video_frames
from latentsync.media.scenes import CutFinder


def run(cfg: DetectScenes, inputs: dict[str, list[Path]], outputs: dict[str, Path], sources: Path) -> None:
    """Ledger of sources -> the same with `cuts`, the ticks (without 0) at which a new scene begins."""
    [ledger] = inputs["resample"]
    root = run_dir(outputs["ledger"])

    def detect(row: Source, _: str) -> list[Row]:
        ticks = np.load(root / row["ticks_file"])
        return [row | {"cuts": find_cuts(sources / row["path"], ticks, cfg)}]

    run_shard(outputs["ledger"], read_ledger(ledger), cfg, VERSIONS["detect_scenes"], detect)


def find_cuts(source: Path, ticks: np.ndarray, cfg: DetectScenes) -> list[int]:
    """Ticks at which a new scene begins; `ticks` says which frame each tick shows."""
    frames, first_ticks = np.unique(ticks, return_index=True)
    tick_of = dict(zip(frames.tolist(), first_ticks.tolist(), strict=True))
    finder = CutFinder(cfg)
    return [cut for index, frame in read_video_frames(source, frames) for cut in finder.see(tick_of[index], frame)]
