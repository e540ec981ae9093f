"""Find the cuts of each source with PySceneDetect's adaptive detector, fed with our frames at 25 ticks a second.

One decode, no copies. Every source frame is seen once, at the first tick that shows it: repeated frames (a source below
25 fps) would score 0 and pull down the average that the detector compares with. A long hole (media/damage.py) is a
scene of its own, so that the video before and after it can be used.
"""

from pathlib import Path

import numpy as np

from latentsync.config import VERSIONS, DetectScenes
from latentsync.ledger.columns import Source
from latentsync.ledger.files import read_ledger, run_dir
from latentsync.ledger.rows import Row
from latentsync.ledger.shard import run_shard
from latentsync.media.damage import require_little
from latentsync.media.read import Reader
from latentsync.media.repairs import Repairs, added
from latentsync.media.scenes import CutFinder


def run(cfg: DetectScenes, inputs: dict[str, list[Path]], outputs: dict[str, Path], sources: Path) -> None:
    """Ledger of sources -> the same with `cuts`, the ticks (without 0) at which a new scene begins."""
    [ledger] = inputs["resample"]
    root = run_dir(outputs["ledger"])

    def detect(row: Source, _: str) -> list[Row]:
        cuts, damage = find_cuts(sources / row["path"], np.load(root / row["ticks_file"]), cfg)
        return [row | {"cuts": cuts, "repairs": added(row["repairs"], damage)}]

    run_shard(outputs["ledger"], read_ledger(ledger), cfg, VERSIONS["detect_scenes"], detect)


def find_cuts(source: Path, ticks: np.ndarray, cfg: DetectScenes) -> tuple[list[int], Repairs]:
    """Ticks at which a new scene begins, and how many frames are lost; `ticks` says which frame each tick shows.

    Raises:
        Rejection: unreadable, too much is lost.
    """
    frames, first_ticks = np.unique(ticks, return_index=True)
    tick_of = dict(zip(frames.tolist(), first_ticks.tolist(), strict=True))
    reader, finder, cuts = Reader(source, strict=True), CutFinder(cfg), set[int]()
    holes: list[range] = []
    n_before = 0
    for index, frame in reader.frames(frames, holes):
        if len(holes) > n_before:  # the frames on both sides of a hole are no neighbours
            finder, n_before = CutFinder(cfg), len(holes)
        cuts.update(finder.see(tick_of[index], frame))
    lost = reader.lost.union(*holes)
    require_little(len(lost), len(reader.timeline.pts), holes)
    for hole in holes:
        cuts.update(np.searchsorted(ticks, [hole.start, hole.stop]).tolist())
    return sorted(cuts - {0, len(ticks)}), {"lost_frames": len(reader.lost)}
