"""A decoded frame and its RGB: all of it exact, all of it quick, or an aligned face.

Exact RGB of 1080 x 1920 takes 13 ms on a slow core, quick RGB 1 to 2, a face straight from the planes 1. So detectors
get quick frames, and the input of networks is converted after it is cropped.
"""

import av
import numpy as np
from av.video.reformatter import Interpolation

from latentsync.media.probe import display_matrix, orientation

# Without these two flags swscale's short cut darkens by more than one grey level and doubles the chroma rows (measured:
# error 2.5 grey levels rms instead of 0.7).
_EXACT = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
# Values of FFmpeg's AVColorSpace -> names in media/colour.py; unspecified means BT.601, as in FFmpeg and OpenCV.
_MATRICES = {1: "bt709", 2: "bt601", 4: "bt601", 5: "bt601", 6: "bt601", 7: "bt709", 9: "bt2020", 10: "bt2020"}
_FULL_RANGE = 2


class DisplayedFrame:
    """A frame as displayed; coordinates and sizes are those after rotation.

    `turns` (quarter turns counter-clockwise) and `mirrored` are asked of the file once: PyAV's side data and its frame
    refer to each other, so that a frame that was asked stays until the garbage collector runs.
    """

    def __init__(self, frame: av.VideoFrame, turns: int, mirrored: bool):
        self.stored, self.turns, self.mirrored = frame, turns, mirrored
        size = frame.height, frame.width
        self.shape = (*(size[::-1] if turns % 2 else size), 3)

    def quick(self) -> np.ndarray:
        """uint8 (h, w, 3), within about 2.5 grey levels rms: good enough to find and measure faces."""
        return turned(self.stored.reformat(format="rgb24", threads=1).to_ndarray(), self.turns, self.mirrored)

    def exact(self) -> np.ndarray:
        """uint8 (h, w, 3)."""
        return turned(native_rgb(self.stored), self.turns, self.mirrored)


def turned(native: np.ndarray, turns: int, mirrored: bool) -> np.ndarray:
    """A frame (h, w, 3) as stored in the file -> as displayed."""
    return np.ascontiguousarray(np.rot90(native[:, ::-1] if mirrored else native, turns))


def to_displayed(width: int, height: int, turns: int, mirrored: bool) -> np.ndarray:
    """Matrix float64 [3, 3] from pixels in the file, of this size, to pixels on the screen, (x, y, 1) columns."""
    matrix = np.eye(3)
    if mirrored:
        matrix = np.array([[-1, 0, width - 1], [0, 1, 0], [0, 0, 1]], float)
    for _ in range(turns):  # a quarter turn counter-clockwise: (x, y) -> (y, width - 1 - x)
        matrix = np.array([[0, 1, 0], [-1, 0, width - 1], [0, 0, 1]], float) @ matrix
        width, height = height, width
    return matrix


def colour_of(frame: av.VideoFrame) -> tuple[str, bool, int]:
    """Colour matrix (a name of media/colour.py), whether the range is full, and bits of a component."""
    full_range = frame.color_range == _FULL_RANGE or frame.format.name.startswith("yuvj")
    return _MATRICES.get(frame.colorspace, "bt601"), full_range, frame.format.components[0].bits


def planes(frame: av.VideoFrame) -> list[np.ndarray]:
    """Views (h, w) of a frame's planes, uint8 or uint16; writing to them changes the frame."""
    views = []
    for plane in frame.planes:
        kind = np.uint8 if frame.format.components[0].bits == 8 else np.uint16
        samples = np.frombuffer(plane, kind)  # pyright: ignore[reportArgumentType, reportCallIssue]  # planes are buffers
        rows = samples.reshape(-1, plane.line_size // np.dtype(kind).itemsize)
        views.append(rows[: plane.height, : plane.width])
    return views


def has_planes(format: av.VideoFormat) -> bool:
    """Planar YUV, what nearly every codec gives: three planes, little-endian where deep."""
    return format.name.startswith(("yuv4", "yuvj4")) and format.is_planar and not format.name.endswith("be")


def to_rgb(frame: av.VideoFrame, width: int | None = None) -> np.ndarray:
    """A decoded frame as uint8 [h, w, 3], turned as its display matrix asks; `width` scales before turning."""
    return turned(native_rgb(frame, width), *orientation(display_matrix(frame)))


def native_rgb(frame: av.VideoFrame, width: int | None = None, height: int | None = None) -> np.ndarray:
    """A decoded frame as uint8 [h, w, 3] as stored in the file, before any rotation.

    The frame's own colour matrix and range are used; an untagged frame is BT.601 limited, as in FFmpeg and OpenCV.
    """
    if width is not None and height is None:
        height = max(1, round(frame.height * width / frame.width))
    scale = _EXACT if width is None else Interpolation.AREA
    return frame.reformat(width=width, height=height, format="rgb24", interpolation=scale, threads=1).to_ndarray()
