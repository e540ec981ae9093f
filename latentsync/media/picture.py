"""A decoded frame and its RGB: all of it or a part, exact or quick, turned as players turn it.

Exact costs six times as much as quick (measured: 13 against 2 ms for 1080 x 1920 on a slow core), so what only looks
for faces takes quick pictures, and what people and networks will see is converted exactly, but only where it is needed.
"""

import av
import numpy as np
from av.video.reformatter import Interpolation

from latentsync.media.probe import display_matrix, orientation

# Without these two flags swscale's short cut darkens by more than one grey level and doubles the chroma rows (measured:
# error 2.5 grey levels rms instead of 0.7).
_EXACT = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
_MARGIN_PX = 8  # a multiple of every chroma block; swscale's filters reach less far

Region = tuple[int, int, int, int]  # x0, y0, x1, y1, half-open


class Picture:
    """A frame as displayed; coordinates and sizes are those after rotation.

    `turns` (quarter turns counter-clockwise) and `mirrored` are asked of the file once: PyAV's side data and its frame
    refer to each other, so that a frame that was asked stays until the garbage collector runs.
    """

    def __init__(self, frame: av.VideoFrame, turns: int, mirrored: bool):
        self.frame, self.turns, self.mirrored = frame, turns, mirrored
        size = frame.height, frame.width
        self.shape = (*(size[::-1] if turns % 2 else size), 3)

    def quick(self) -> np.ndarray:
        """uint8 (h, w, 3), within about 2.5 grey levels rms: good enough to find and measure faces."""
        return self._turned(self.frame.reformat(format="rgb24", threads=1).to_ndarray())

    def exact(self, region: Region | None = None) -> np.ndarray:
        """uint8 (h, w, 3) of a region inside the picture (None: all of it), the same pixels as of the whole."""
        if region is None:
            return self._turned(native_rgb(self.frame))
        assert 0 <= region[0] < region[2] <= self.shape[1] and 0 <= region[1] < region[3] <= self.shape[0], region
        x0, y0, x1, y1 = self._native(region)
        if not _can_be_cut(self.frame):
            return self._turned(native_rgb(self.frame)[y0:y1, x0:x1])
        left, top = (max(0, start // _MARGIN_PX - 1) * _MARGIN_PX for start in (x0, y0))
        right, bottom = ((stop // _MARGIN_PX + 2) * _MARGIN_PX for stop in (x1, y1))
        part = _cut(self.frame, left, top, right, bottom)
        return self._turned(native_rgb(part)[y0 - top : y1 - top, x0 - left : x1 - left])

    def _turned(self, rgb: np.ndarray) -> np.ndarray:
        if self.mirrored:
            rgb = rgb[:, ::-1]
        return np.ascontiguousarray(np.rot90(rgb, self.turns))

    def _native(self, region: Region) -> Region:
        """Where a region lies in the file: the way back of `_turned`."""
        x0, y0, x1, y1 = region
        height, width = self.shape[:2]
        for _ in range(self.turns):  # back by a quarter turn: (x, y) -> (height - 1 - y, x)
            x0, y0, x1, y1 = height - y1, x0, height - y0, x1
            height, width = width, height
        if self.mirrored:
            x0, x1 = width - x1, width - x0
        return x0, y0, x1, y1


def planes(frame: av.VideoFrame) -> list[np.ndarray]:
    """Views (h, w) of a frame's planes, uint8 or uint16; writing to them changes the frame."""
    views = []
    for plane in frame.planes:
        kind = np.uint8 if frame.format.components[0].bits == 8 else np.uint16
        rows = np.frombuffer(plane, kind).reshape(-1, plane.line_size // np.dtype(kind).itemsize)
        views.append(rows[: plane.height, : plane.width])
    return views


def _can_be_cut(frame: av.VideoFrame) -> bool:
    """Whether a part can be converted like the whole: planar YUV or grey, as codecs give it, in whole chroma blocks.

    Where a side is odd, swscale stretches the chroma a little over the whole of it.
    """
    name = frame.format.name
    planar = name.startswith(("yuv4", "yuvj4", "gray")) and frame.format.is_planar and not name.endswith("be")
    return planar and frame.width % 4 == 0 and frame.height % 4 == 0


def _cut(frame: av.VideoFrame, left: int, top: int, right: int, bottom: int) -> av.VideoFrame:
    """A frame of its own with the part [left, right) x [top, bottom) of another, cut off at that one's edges."""
    width, height = min(right, frame.width) - left, min(bottom, frame.height) - top
    part = av.VideoFrame(width, height, frame.format.name)
    chroma = frame.format.chroma_width(_MARGIN_PX), frame.format.chroma_height(_MARGIN_PX)
    for number, (source, target) in enumerate(zip(planes(frame), planes(part), strict=True)):
        across, down = chroma if number in (1, 2) else (_MARGIN_PX, _MARGIN_PX)
        x, y = left * across // _MARGIN_PX, top * down // _MARGIN_PX
        target[...] = source[y : y + target.shape[0], x : x + target.shape[1]]
    part.colorspace, part.color_range = frame.colorspace, frame.color_range
    return part


def to_rgb(frame: av.VideoFrame, width: int | None = None, height: int | None = None) -> np.ndarray:
    """A decoded frame as uint8 [h, w, 3], turned as its display matrix asks; `width` scales before turning."""
    rgb = native_rgb(frame, width, height)
    turns, mirrored = orientation(display_matrix(frame))
    if mirrored:
        rgb = rgb[:, ::-1]
    return np.ascontiguousarray(np.rot90(rgb, turns))


def native_rgb(frame: av.VideoFrame, width: int | None = None, height: int | None = None) -> np.ndarray:
    """A decoded frame as uint8 [h, w, 3] as its pixels lie in the file, before any turn.

    The frame's own colour matrix and range are used; an untagged frame is BT.601 limited, as in FFmpeg and OpenCV.
    """
    if width is not None and height is None:
        height = max(1, round(frame.height * width / frame.width))
    scale = _EXACT if width is None else Interpolation.AREA
    return frame.reformat(width=width, height=height, format="rgb24", interpolation=scale, threads=1).to_ndarray()
