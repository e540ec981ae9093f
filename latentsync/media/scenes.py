"""Cuts, by PySceneDetect's adaptive detector on small frames: of a source's ticks, or of every frame of a video."""

import av
from av.video.reformatter import Interpolation, VideoReformatter
from scenedetect import AdaptiveDetector, FrameTimecode

from latentsync.config import DetectScenes
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
        self.converter = VideoReformatter()

    def see(self, number: int, frame: av.VideoFrame) -> list[int]:
        """The numbers at which, as is known with this frame, a new scene begins.

        All are compared at the size of the first: a call or a broadcast may change its size on the way.
        """
        if self.size is None:
            width = min(_WIDTH_PX, frame.width)
            self.size = width, max(1, round(frame.height * width / frame.width))
        width, height = self.size  # turning the frame would change no score
        small = self.converter.reformat(
            frame, width=width, height=height, format="bgr24", interpolation=Interpolation.AREA, threads=1
        )
        bgr = small.to_ndarray()
        return [cut.frame_num for cut in self.detector.process_frame(FrameTimecode(number, float(TICKS_PER_S)), bgr)]
