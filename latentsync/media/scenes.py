"""Cuts, by PySceneDetect's adaptive detector on small frames: of a source's ticks, or of every frame of a video."""

import av
import numpy as np
from scenedetect import AdaptiveDetector, FrameTimecode

from latentsync.config import DetectScenes
from latentsync.media.frames import native_rgb
from latentsync.timing import TICKS_PER_S

# The score is a mean of pixel differences. Such a small frame averages noise away and keeps cuts: a grainy video whose
# key frames renew the grain scores 19-23 at 256 px, beyond the detector's floor of 15, and 9-14 here; real cuts score
# 38-66 at both sizes (measured on synthetic talkers and a film).
_WIDTH_PX = 32
DELAY_FRAMES = 4  # a cut is known at most so many frames later: the detector compares with two frames on each side


class CutFinder:
    """Finds cuts in frames given one after another, at most DELAY_FRAMES late."""

    def __init__(self, cfg: DetectScenes):
        self.detector = AdaptiveDetector(adaptive_threshold=cfg.threshold, min_scene_len=cfg.min_scene_ticks)
        self.size: tuple[int, int] | None = None

    def see(self, number: int, frame: av.VideoFrame) -> list[int]:
        """The numbers at which, as is known with this frame, a new scene begins.

        All are compared at the size of the first: a call or a broadcast may change its size on the way.
        """
        width = min(_WIDTH_PX, frame.width)
        self.size = self.size or (width, max(1, round(frame.height * width / frame.width)))
        bgr = np.ascontiguousarray(native_rgb(frame, *self.size)[..., ::-1])  # turning it would change no score
        return [cut.frame_num for cut in self.detector.process_frame(FrameTimecode(number, float(TICKS_PER_S)), bgr)]
