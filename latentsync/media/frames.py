"""A decoded frame and its RGB: all of it exact, all of it quick, or an aligned face.

Exact RGB of 1080 x 1920 takes 13 ms on a slow core, quick RGB 1 to 2, a face straight from the planes 1. So detectors
get quick frames, and the input of networks is converted after it is cropped.
"""

from fractions import Fraction

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from latentsync.media.display import display_matrix, displayed_size, orientation

# Without these two flags swscale's short cut darkens by more than one grey level and doubles the chroma rows (measured:
# error 2.5 grey levels rms instead of 0.7).
_EXACT = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
# Values of FFmpeg's AVColorSpace -> names in media/colour.py; unspecified means BT.601, as in FFmpeg and OpenCV.
_MATRICES = {1: "bt709", 2: "bt601", 4: "bt601", 5: "bt601", 6: "bt601", 7: "bt709", 9: "bt2020", 10: "bt2020"}
_FULL_RANGE = 2
SQUARE = Fraction(1)


class DisplayedFrame:
    """A frame as displayed: coordinates and sizes are those in square pixels, after rotation.

    `turns` (quarter turns counter-clockwise), `mirrored` and `aspect` (width of a stored pixel over its height) are
    asked of the file once: PyAV's side data and its frame refer to each other, so that a frame that was asked stays
    until the garbage collector runs. Frames that share a `converter` set it up once (0.1 ms); it is for one thread.
    """

    def __init__(
        self,
        frame: av.VideoFrame,
        turns: int,
        mirrored: bool,
        aspect: Fraction = SQUARE,
        converter: VideoReformatter | None = None,
    ):
        self.converter = converter or VideoReformatter()
        self.stored, self.turns, self.mirrored, self.aspect = frame, turns, mirrored, aspect
        self.size = displayed_size(frame.width, frame.height, aspect)
        self.shape = (*(self.size if turns % 2 else self.size[::-1]), 3)

    def quick(self) -> np.ndarray:
        """uint8 (h, w, 3), within about 2.5 grey levels rms: good enough to find and measure faces."""
        width, height = self.size
        rgb = self.converter.reformat(self.stored, width=width, height=height, format="rgb24", threads=1).to_ndarray()
        return turned(rgb, self.turns, self.mirrored)

    def exact(self) -> np.ndarray:
        """uint8 (h, w, 3)."""
        return turned(squared(self.stored, self.aspect), self.turns, self.mirrored)


def squared(frame: av.VideoFrame, aspect: Fraction) -> np.ndarray:
    """A frame in square pixels, uint8 (h, w, 3), before it is turned."""
    if aspect == 1:
        return native_rgb(frame)
    width, height = displayed_size(frame.width, frame.height, aspect)
    smooth = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
    return frame.reformat(width=width, height=height, format="rgb24", interpolation=smooth, threads=1).to_ndarray()


def turned(native: np.ndarray, turns: int, mirrored: bool) -> np.ndarray:
    """A frame (h, w, 3) as stored in the file -> as displayed."""
    return np.ascontiguousarray(np.rot90(native[:, ::-1] if mirrored else native, turns))


def to_displayed(width: int, height: int, turns: int, mirrored: bool, aspect: Fraction = SQUARE) -> np.ndarray:
    """Matrix float64 [3, 3] from pixels in the file, of this size, to pixels on the screen, (x, y, 1) columns."""
    size = displayed_size(width, height, aspect)
    scale = np.array(size, float) / (width, height)
    matrix = np.array([[scale[0], 0, (scale[0] - 1) / 2], [0, scale[1], (scale[1] - 1) / 2], [0, 0, 1]])
    width, height = size
    if mirrored:
        matrix = np.array([[-1, 0, width - 1], [0, 1, 0], [0, 0, 1]], float) @ matrix
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
    """Planar YUV, what nearly every codec gives: three planes, a fourth of alpha, little-endian where deep."""
    return format.name.startswith(("yuv4", "yuvj4", "yuva4")) and format.is_planar and not format.name.endswith("be")


def has_alpha(format: av.VideoFormat) -> bool:
    """Whether pixels may be transparent."""
    return any(component.is_alpha for component in format.components)


def to_rgb(frame: av.VideoFrame, width: int | None = None, aspect: Fraction = SQUARE) -> np.ndarray:
    """A decoded frame as uint8 [h, w, 3], turned as its display matrix asks; `width` scales before turning."""
    if width is None:
        rgb = squared(frame, aspect)
    else:
        shown = displayed_size(frame.width, frame.height, aspect)
        rgb = native_rgb(frame, width, max(1, round(shown[1] * width / shown[0])))
    return turned(rgb, *orientation(display_matrix(frame)))


def native_rgb(frame: av.VideoFrame, width: int | None = None, height: int | None = None) -> np.ndarray:
    """A decoded frame as uint8 [h, w, 3] as stored in the file, before any rotation.

    The frame's own colour matrix and range are used; an untagged frame is BT.601 limited, as in FFmpeg and OpenCV.
    """
    if width is not None and height is None:
        height = max(1, round(frame.height * width / frame.width))
    scale = _EXACT if width is None else Interpolation.AREA
    return frame.reformat(width=width, height=height, format="rgb24", interpolation=scale, threads=1).to_ndarray()
