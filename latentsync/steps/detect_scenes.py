"""Find the cuts of each source with PySceneDetect's adaptive detector, fed with our frames at 25 ticks a second.

One decode, no copies. Every source frame is seen once, at the first tick that shows it: repeated frames (a source below
25 fps) would score 0 and pull down the average that the detector compares with.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from scenedetect import AdaptiveDetector, FrameTimecode

from latentsync.config import VERSIONS, DetectScenes
from latentsync.media.read import read_video_frames, to_rgb
from latentsync.ops.timing import TICKS_PER_S
from latentsync.records import Row, read_ledger, run_dir, run_shard

# The score is a mean of pixel differences. So small a picture averages noise away and keeps cuts: a grainy video whose
# key frames renew the grain scores 19-23 at 256 px, beyond the detector's floor of 15, and 9-14 here; real cuts score
# 38-66 at both sizes (measured on synthetic talkers and a film).
_WIDTH_PX = 32


def run(cfg: DetectScenes, inputs: dict[str, list[Path]], outputs: dict[str, Path], sources: Path) -> None:
    """Ledger of sources -> the same with `cuts`, the ticks (without 0) at which a new scene begins."""
    [ledger] = inputs["resample"]
    root = run_dir(outputs["ledger"])

    def detect(row: Row, _: str) -> list[Row]:
        ticks = np.load(root / row["ticks_file"])
        return [row | {"cuts": find_cuts(small_pictures(sources / row["path"], ticks), cfg)}]

    run_shard(outputs["ledger"], read_ledger(ledger), cfg, VERSIONS["detect_scenes"], detect)


def small_pictures(source: Path, ticks: np.ndarray) -> Iterable[tuple[int, np.ndarray]]:
    """(first tick that shows it, small RGB picture) of every frame that some tick shows; all of the size of the first.

    The detector compares pixels, and a call or a broadcast may change its size on the way.
    """
    frames, first_ticks = np.unique(ticks, return_index=True)
    tick_of = dict(zip(frames.tolist(), first_ticks.tolist(), strict=True))
    size = None
    for index, frame in read_video_frames(source, frames):
        width = min(_WIDTH_PX, frame.width)
        size = size or (width, max(1, round(frame.height * width / frame.width)))
        yield tick_of[index], to_rgb(frame, *size)


def find_cuts(pictures: Iterable[tuple[int, np.ndarray]], cfg: DetectScenes) -> list[int]:
    """Ticks at which a new scene begins. `pictures`: (tick, uint8 [h, w, 3]) in order."""
    detector = AdaptiveDetector(adaptive_threshold=cfg.threshold, min_scene_len=cfg.min_scene_ticks)
    cuts = []
    for tick, rgb in pictures:
        bgr = np.ascontiguousarray(rgb[..., ::-1])
        cuts += detector.process_frame(FrameTimecode(tick, fps=float(TICKS_PER_S)), bgr)
    return [cut.frame_num for cut in cuts]
