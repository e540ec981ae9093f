"""Paste a generated face into a frame: the soft mask, the blend in the frame's own planes, its pixel geometry.

A region is (x0, y0, x1, y1), half-open, in pixels of the file; x0 and y0 are even, and x1 and y1 are even unless the
frame ends there, so that 4:2:0 chroma blocks stay whole. Everything is float32 and rounded once; the published code
works on full frames in fp16 and truncates. The soft mask equals the published one, which a test compares.

Faces are pasted into the planes of the source's own pixel format, so that a pixel outside the mask is never converted
to RGB and back. Frames are copied before they are changed, because the decoder still predicts later frames from them.
"""

import math

import av
import cv2
import numpy as np

from latentsync.faces import alignment
from latentsync.faces.mask import feathered_hole
from latentsync.media import frames
from latentsync.media.colour import rgb_to_yuv
from latentsync.media.frames import colour_of, planes
from latentsync.media.probe import display_matrix, orientation

Region = tuple[int, int, int, int]


def face_region(shape: tuple[int, ...], matrix: np.ndarray, resolution: int) -> Region:
    """The part of a frame of `shape` (h, w, ...) that the crop box touches; (0, 0, 0, 0) if it touches none."""
    width, height = alignment.crop_size(resolution)
    corners = np.array([[-1, -1], [width, -1], [-1, height], [width, height]], np.float64)
    corners = alignment.apply(alignment.invert(matrix), corners)
    # One more pixel on each side: the erosion below must find zeros around the box.
    x0, y0 = (max(0, math.floor(value) - 1) // 2 * 2 for value in corners.min(0))
    x1, y1 = (-(-(math.ceil(value) + 2) // 2) * 2 for value in corners.max(0))
    region = x0, y0, min(x1, shape[1]), min(y1, shape[0])
    return region if region[0] < region[2] and region[1] < region[3] else (0, 0, 0, 0)


def from_region(matrix: np.ndarray, region: Region) -> np.ndarray:
    """The matrix [2, 3] from pixels of the file, as one from pixels of the region, float64."""
    shift = np.array(matrix, np.float64)
    shift[:, 2] += shift[:, :2] @ np.array(region[:2], np.float64)
    return shift


def _size(region: Region) -> tuple[int, int]:
    return region[2] - region[0], region[3] - region[1]


def soft_box(matrix: np.ndarray, resolution: int, region: Region) -> np.ndarray:
    """The published soft mask of the crop box on the region, float32 (h, w).

    The box is eroded by 2 x 2, again by twice a twentieth of the root of its area, then blurred over the same width.
    """
    width, height = alignment.crop_size(resolution)
    ones = np.ones((height, width, 1), np.float32)
    box = alignment.warp(ones, from_region(matrix, region), _size(region), fill=0)[..., 0]
    box = cv2.erode(box, np.ones((2, 2), np.uint8))
    edge = int(math.sqrt(box.sum(dtype=np.float64))) // 20
    if edge == 0:  # a face of a few pixels, too small to feather
        return box
    box = cv2.erode(box, np.ones((2 * edge, 2 * edge), np.uint8))
    sigma = 0.3 * (edge - 1) + 0.8
    return cv2.GaussianBlur(box, (2 * edge + 1, 2 * edge + 1), sigma, borderType=cv2.BORDER_REFLECT_101)


def paste_region(shape: tuple[int, ...], matrix: np.ndarray, resolution: int) -> tuple[Region, np.ndarray]:
    """The blend used for generation: the soft box times the feathered hole of the mouth mask, float32 (h, w) in 0..1.

    Where it is 0 the frame stays as it is, to the bit; "outside the mask" means exactly this in the evaluation.
    """
    region = face_region(shape, matrix, resolution)
    if region == (0, 0, 0, 0):
        return region, np.zeros((0, 0), np.float32)
    hole = feathered_hole(alignment.crop_size(resolution))[..., None]
    hole = alignment.warp(hole, from_region(matrix, region), _size(region), 0)[..., 0]
    return region, soft_box(matrix, resolution, region) * hole


def face_patch(face: np.ndarray, matrix: np.ndarray, resolution: int, region: Region) -> np.ndarray:
    """The face (R, R, 3), 0..255, warped onto the region: float32 (h, w, 3), the fill value outside the crop box.

    Unstretched by antialiased bicubic and warped bilinearly, as published. Where the frame shows the face at less than
    a third of the crop's size, it is scaled down first, since single bilinear samples would flicker.
    """
    width, height = alignment.crop_size(resolution)
    shrink = max(1, int(alignment.scale_of(matrix) / 1.5))
    size = max(1, round(width / shrink)), max(1, round(height / shrink))
    back = from_region(matrix, region)
    for axis, (small, whole) in enumerate(zip(size, (width, height), strict=True)):
        back[axis] *= small / whole  # pixel centres: small = (whole + 1/2) * ratio - 1/2
        back[axis, 2] += (small / whole - 1) / 2
    patch = alignment.warp(alignment.resize_cubic(face, size), back, _size(region))
    return patch.clip(0, 255)


def paste_yuv(
    y: np.ndarray,
    u: np.ndarray,
    v: np.ndarray,
    region: Region,
    alpha: np.ndarray,
    rgb_patch: np.ndarray,
    matrix: str = "bt601",
    full_range: bool = False,
    depth: int = 8,
) -> None:
    """Blend an RGB patch (h, w, 3), 0..255, into the planes of a frame, in place; uint8, or uint16 at a greater depth.

    Planes may be 4:2:0, 4:2:2 or 4:4:4: the subsampling follows from their shapes. Pixels where alpha is 0 keep their
    code values; converting to RGB and back would change them by about a level. Chroma takes the alpha-weighted mean of
    its block, so a block that is half outside the mask changes half as much.
    """
    if not alpha.size:
        return
    x0, y0, x1, y1 = region
    yuv = rgb_to_yuv(rgb_patch.astype(np.float32), matrix, full_range, depth)
    top = 2**depth - 1
    for plane, channel in ((y, 0), (u, 1), (v, 2)):
        step_x, step_y = -(-y.shape[1] // plane.shape[1]), -(-y.shape[0] // plane.shape[0])
        assert x0 % step_x == 0 and y0 % step_y == 0, region
        weight = _blocks(alpha, step_x, step_y)
        value = _blocks(alpha * yuv[..., channel], step_x, step_y)
        rows = slice(y0 // step_y, y0 // step_y + weight.shape[0])
        part = plane[rows, x0 // step_x : x0 // step_x + weight.shape[1]]
        part[...] = np.rint(part * (1 - weight) + value).clip(0, top)


def _blocks(values: np.ndarray, step_x: int, step_y: int) -> np.ndarray:
    """Means over blocks; an incomplete block at an odd frame edge is padded with its last row or column."""
    height, width = values.shape
    values = np.pad(values, ((0, -height % step_y), (0, -width % step_x)), mode="edge")
    return values.reshape(values.shape[0] // step_y, step_y, values.shape[1] // step_x, step_x).mean((1, 3))


def copied(frame: av.VideoFrame) -> av.VideoFrame:
    """A frame with its own memory, the same pixels and the same colour description."""
    new = av.VideoFrame(frame.width, frame.height, frame.format.name)
    for source, target in zip(planes(frame), planes(new), strict=True):
        target[...] = source
    new.colorspace, new.color_range = frame.colorspace, frame.color_range
    new.color_primaries, new.color_trc = frame.color_primaries, frame.color_trc
    return new


def to_displayed(frame: av.VideoFrame) -> np.ndarray:
    """Matrix float64 [3, 3] from pixels of the file to displayed pixels, for columns (x, y, 1).

    Call it once per video: PyAV's side data and its frame refer to each other, so a frame whose side data were read is
    freed only by the garbage collector, and hundreds may pile up before that.
    """
    return frames.to_displayed(frame.width, frame.height, *orientation(display_matrix(frame)))


def paste_face(frame: av.VideoFrame, face: np.ndarray, matrix: np.ndarray, resolution: int) -> av.VideoFrame:
    """A copy of a YUV frame with the face float (R, R, 3), RGB 0..255, pasted into the hole of the mouth mask.

    `matrix` float [2, 3] maps pixels of the file to crop pixels. Outside the mask all code values stay as they are.
    """
    region, alpha = paste_region((frame.height, frame.width), matrix, resolution)
    patch = face_patch(face, matrix, resolution, region) if alpha.size else None
    return blended(frame, region, alpha, patch)


def blended(frame: av.VideoFrame, region: Region, alpha: np.ndarray, patch: np.ndarray | None) -> av.VideoFrame:
    """A copy of a YUV frame with an RGB patch (h, w, 3) blended into a region by alpha (h, w) in 0..1."""
    result = copied(frame)
    if alpha.size:
        assert patch is not None
        y, u, v = planes(result)
        paste_yuv(y, u, v, region, alpha, patch, *colour_of(frame))
    return result
