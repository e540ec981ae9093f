"""Paste a generated face into a frame: the soft mask, the blend in the frame's own planes, its pixel geometry.

A region is (x0, y0, x1, y1), half-open, in pixels of the file; x0 and y0 are even, and x1 and y1 are even unless the
frame ends there, so that 4:2:0 chroma blocks stay whole. Everything is float32 and rounded once; the published code
works on full frames in fp16 and truncates. The soft mask equals the published one, which a test compares.

Faces are pasted into the planes of the source's own pixel format, so that a pixel outside the mask is never converted
to RGB and back. Frames are copied before they are changed, because the decoder still predicts later frames from them.
"""

import math
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import av
import cv2
import numpy as np

from latentsync.faces import alignment
from latentsync.faces.mask import feathered_hole
from latentsync.media import frames
from latentsync.media.colour import rgb_to_codes, rgb_to_yuv
from latentsync.media.display import display_matrix, orientation
from latentsync.media.frames import colour_of, planes

Region = tuple[int, int, int, int]
MAX_STEP_PX = 3.0  # of the face, between neighbouring samples of a paste


def face_region(shape: tuple[int, ...], matrix: np.ndarray, resolution: int) -> Region:
    """The part of a frame of `shape` (h, w, ...) that the crop box touches; (0, 0, 0, 0) if it touches none."""
    width, height = alignment.crop_size(resolution)
    corners = np.array([[-1, -1], [width, -1], [-1, height], [width, height]], np.float64)
    return region_around(alignment.apply(alignment.invert(matrix), corners), shape)


def region_around(corners: np.ndarray, shape: tuple[int, ...]) -> Region:
    """The region around some points, with one more pixel on each side: an erosion must find zeros around a box."""
    x0, y0 = (max(0, math.floor(value) - 1) // 2 * 2 for value in corners.min(0))
    x1, y1 = (-(-(math.ceil(value) + 2) // 2) * 2 for value in corners.max(0))
    region = x0, y0, min(x1, shape[1]), min(y1, shape[0])
    return region if region[0] < region[2] and region[1] < region[3] else (0, 0, 0, 0)


def from_region(matrix: np.ndarray, region: Region) -> np.ndarray:
    """The matrix [2, 3] from pixels of the file, as one from pixels of the region, float64."""
    shift = np.array(matrix, np.float64)
    shift[:, 2] += shift[:, :2] @ np.array(region[:2], np.float64)
    return shift


def size_of(region: Region) -> tuple[int, int]:
    """(width, height) of a region."""
    return region[2] - region[0], region[3] - region[1]


def soft_box(matrix: np.ndarray, resolution: int, region: Region) -> np.ndarray:
    """The published soft mask of the crop box on the region, float32 (h, w).

    The box is eroded by 2 x 2, again by twice a twentieth of the root of its area, then blurred over the same width.
    """
    width, height = alignment.crop_size(resolution)
    ones = np.ones((height, width, 1), np.float32)
    box = alignment.warp(ones, from_region(matrix, region), size_of(region), fill=0)[..., 0]
    box = cv2.erode(box, np.ones((2, 2), np.uint8))
    edge = int(math.sqrt(box.sum(dtype=np.float64))) // 20
    if edge == 0:  # a face of a few pixels, too small to feather
        return box
    box = cv2.erode(box, np.ones((2 * edge, 2 * edge), np.uint8))
    sigma = 0.3 * (edge - 1) + 0.8
    return cv2.GaussianBlur(box, (2 * edge + 1, 2 * edge + 1), sigma, borderType=cv2.BORDER_REFLECT_101)


@lru_cache
def opacity(resolution: int) -> np.ndarray:
    """How much of a pixel of the generated face is pasted, float32 (R, R) in 0..1; read-only.

    The soft box times the feathered hole of the mouth mask. Both scale with the face, so one map serves all frames.
    """
    width, height = alignment.crop_size(resolution)
    rim = 4  # the erosion of the soft box must find zeros around it
    box = soft_box(np.eye(3)[:2], resolution, (-rim, -rim, width + rim, height + rim))[rim:-rim, rim:-rim]
    alpha = cv2.resize(box * feathered_hole((width, height)), (resolution, resolution), interpolation=cv2.INTER_LINEAR)
    alpha.flags.writeable = False
    return alpha


@lru_cache
def hole_rows(resolution: int) -> tuple[int, int]:
    """First and last row (half-open) of the face that pasting reads, in whole blocks of 8: a good half of the face."""
    (rows,) = np.nonzero(opacity(resolution).any(1))
    rim = 4  # cubics reach two pixels further
    return max(0, int(rows[0]) - rim) // 8 * 8, min(resolution, -(-(int(rows[-1]) + 1 + rim) // 8) * 8)


def hole_region(shape: tuple[int, ...], matrix: np.ndarray, resolution: int) -> Region:
    """The part of a frame of `shape` (h, w, ...) that a generated face may change; (0, 0, 0, 0) if there is none."""
    return region_around(hole_corners(matrix, resolution), shape)


def hole_corners(matrix: np.ndarray, resolution: int) -> np.ndarray:
    """Corners of what pasting reads of the face, float64 [4, 2], pixels of the file."""
    top, bottom = hole_rows(resolution)
    corners = np.array([[x, y] for x in (-1, resolution) for y in (top - 1, bottom)], np.float64)
    return alignment.apply(alignment.invert(alignment.to_face(matrix, resolution)), corners)


def paste_region(shape: tuple[int, ...], matrix: np.ndarray, resolution: int) -> tuple[Region, np.ndarray]:
    """The region and opacity float32 (h, w) in 0..1 of luma, as pasting uses them.

    Where it is 0 the frame stays as it is, to the bit; "outside the mask" means exactly this in the evaluation.
    """
    region = hole_region(shape, matrix, resolution)
    if region == (0, 0, 0, 0):
        return region, np.zeros((0, 0), np.float32)
    return region, opacity_on(
        Grid((0,), from_region(alignment.to_face(matrix, resolution), region), region), resolution
    )


def opacity_on(grid: "Grid", resolution: int) -> np.ndarray:
    """`opacity` at the pixels of a grid, as pasting uses it: float32 (h, w) in 0..1."""
    scale, size = resizing_of(grid), size_of(grid.region)
    if scale > 1:
        back = back_from(grid, resolution, scale)
        return sampled(_enlarged(resolution, scale), back, size, cv2.INTER_LINEAR, cv2.BORDER_REPLICATE)
    opaque, back = _rows(opacity(resolution), resolution), back_from(grid, resolution, 1)
    return sampled(opaque, back, size, cv2.INTER_LINEAR, cv2.BORDER_CONSTANT)


@lru_cache
def _enlarged(resolution: int, scale: float) -> np.ndarray:
    opaque = _rows(opacity(resolution), resolution)
    return cv2.resize(opaque, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)


def sampled(values: np.ndarray, back: np.ndarray, size: tuple[int, int], interpolation: int, border: int) -> np.ndarray:
    """Values (h, w) or (h, w, c) at back [2, 3] of every pixel of an image of `size`."""
    return cv2.warpAffine(values, back, size, flags=interpolation | cv2.WARP_INVERSE_MAP, borderMode=border)


def resizing_of(grid: "Grid") -> float:
    """By what power of two a face is resized before it is sampled on a grid.

    Single cubic samples that lie three and more pixels of the face apart would flicker, so it is averaged first. Where
    it is enlarged, cubics double it and lines fill the rest: half the time of cubics, and 0.3 dB less. Chroma, whose
    errors are seen less, is doubled up to the step at which that saves no time.
    """
    step_px, is_chroma = alignment.scale_of(grid.back), len(grid.channels) > 1
    if step_px <= (1.4 if is_chroma else 1):
        return 2.0
    return 2.0 ** -min(3, max(0, math.ceil(math.log2(step_px / MAX_STEP_PX + 1e-9))))


class Grid(NamedTuple):
    """The pixels of one kind of plane (luma, or both of chroma) that a face is pasted into."""

    channels: tuple[int, ...]
    """Which planes: (0,) or (1, 2)."""
    back: np.ndarray
    """float64 [2, 3], pixels of the region in this plane -> pixels of the R x R face, or of another image."""
    region: Region
    """In pixels of this plane."""


def grids(frame: av.VideoFrame, matrix: np.ndarray, resolution: int) -> list[Grid]:
    """Where luma and chroma of a face go; none if the face lies outside of the frame."""
    return grids_to(
        frame, hole_region((frame.height, frame.width), matrix, resolution), alignment.to_face(matrix, resolution)
    )


def grids_to(frame: av.VideoFrame, region: Region, matrix: np.ndarray) -> list[Grid]:
    """The pixels of luma and chroma in a region of a frame; `matrix` [2, 3]: pixels of the file -> another image."""
    x0, y0, x1, y1 = region
    if x1 == 0:
        return []
    luma, chroma, *_ = (plane.shape for plane in planes(frame))
    found = []
    for channels, (height, width) in (((0,), luma), ((1, 2), chroma)):
        step_x, step_y = -(-luma[1] // width), -(-luma[0] // height)  # a chroma sample is the middle of its block
        middle = np.array([[step_x, 0, (step_x - 1) / 2], [0, step_y, (step_y - 1) / 2], [0, 0, 1]])
        region = x0 // step_x, y0 // step_y, min(-(-x1 // step_x), width), min(-(-y1 // step_y), height)
        found.append(Grid(channels, from_region(matrix @ middle, region), region))
    return found


Layers = list[tuple[Grid, list[np.ndarray], np.ndarray]]  # grid, values of its channels, opacity; all float32 (h, w)


def layers(
    frame: av.VideoFrame, face: np.ndarray, matrix: np.ndarray, resolution: int, opaque: np.ndarray | None = None
) -> Layers:
    """The face float32 (R, R, 3), RGB 0..255, as code values at the pixels of the frame's planes.

    One affine map from the face to the planes; cubics are Keys' with a = -0.75, as OpenCV has them. `opaque`: in place
    of `opacity`, float32 (R, R) in 0..1, and 0 where that is 0.
    """
    opaque = _rows(opacity(resolution) if opaque is None else opaque, resolution)
    codes = cv2.split(cv2.transform(_rows(face, resolution), rgb_to_codes(*colour_of(frame))))
    result = []
    for grid in grids(frame, matrix, resolution):
        *values, alpha = _placed([codes[channel] for channel in grid.channels], opaque, grid)
        result.append((grid, values, alpha))
    return result


def _rows(face: np.ndarray, resolution: int) -> np.ndarray:
    return face[slice(*hole_rows(resolution))]


def back_from(grid: Grid, resolution: int, scale: float) -> np.ndarray:
    """The matrix [2, 3] from pixels of a grid to the rows `hole_rows` of the face, resized by `scale`."""
    top, bottom = hole_rows(resolution)
    whole, new = (resolution, bottom - top), (int(resolution * scale), int((bottom - top) * scale))
    return alignment.resized(grid.back - [[0, 0, 0], [0, 0, top]], whole, new)


def _placed(channels: list[np.ndarray], opaque: np.ndarray, grid: Grid) -> list[np.ndarray]:
    """Channels of the rows `hole_rows` of a face, and their opacity, at the pixels of a grid: float32 (h, w) each."""
    height, resolution = opaque.shape
    scale, size = resizing_of(grid), size_of(grid.region)
    new, back = (int(resolution * scale), int(height * scale)), back_from(grid, resolution, scale)
    if scale > 1:  # lines serve for the opacity too, so that all go in one call
        doubled = [cv2.resize(channel, new, interpolation=cv2.INTER_CUBIC) for channel in channels]
        doubled.append(cv2.resize(opaque, new, interpolation=cv2.INTER_LINEAR))
        return list(cv2.split(sampled(cv2.merge(doubled), back, size, cv2.INTER_LINEAR, cv2.BORDER_REPLICATE)))
    if scale < 1:
        channels = [cv2.resize(channel, new, interpolation=cv2.INTER_AREA) for channel in channels]
    values = cv2.split(sampled(cv2.merge(channels), back, size, cv2.INTER_CUBIC, cv2.BORDER_REPLICATE))
    return [*values, sampled(opaque, back_from(grid, resolution, 1), size, cv2.INTER_LINEAR, cv2.BORDER_CONSTANT)]


def blend(frame: av.VideoFrame, pasted: Layers, strength: float = 1.0) -> None:
    """Blend layers into the planes of a frame, in place, rounded once; opacities are multiplied by `strength`."""
    found, depth = planes(frame), colour_of(frame)[2]
    for grid, values, alpha in pasted:
        x0, y0, x1, y1 = grid.region
        alpha = alpha if strength == 1 else alpha * np.float32(strength)
        for channel, new in zip(grid.channels, values, strict=True):
            part = found[channel][y0:y1, x0:x1]
            old = part.astype(np.float32)
            change = new - old
            change *= alpha
            change += old
            if depth == 8:  # rounds and saturates in one go
                part[...] = cv2.add(change, 0, dtype=cv2.CV_8U)  # pyright: ignore[reportArgumentType, reportCallIssue]  # a number is allowed
            else:
                part[...] = np.rint(change).clip(0, 2**depth - 1)


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
    patch = alignment.warp(alignment.resize_cubic(face, size), back, size_of(region))
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


def to_displayed(frame: av.VideoFrame, aspect: Fraction = frames.SQUARE) -> np.ndarray:
    """Matrix float64 [3, 3] from pixels of the file to displayed pixels, for columns (x, y, 1).

    `aspect`: width of a stored pixel over its height, which a frame does not tell.

    Call it once per video: PyAV's side data and its frame refer to each other, so a frame whose side data were read is
    freed only by the garbage collector, and hundreds may pile up before that.
    """
    return frames.to_displayed(frame.width, frame.height, *orientation(display_matrix(frame)), aspect)


def paste_face(
    frame: av.VideoFrame, face: np.ndarray, matrix: np.ndarray, resolution: int, strength: float = 1.0
) -> av.VideoFrame:
    """A copy of a YUV frame with the face float32 (R, R, 3), RGB 0..255, pasted into the hole of the mouth mask.

    `matrix` float [2, 3] maps pixels of the file to crop pixels. Outside the mask all code values stay as they are.
    """
    result = copied(frame)
    blend(result, layers(frame, face, matrix, resolution), strength)
    return result


def blended(frame: av.VideoFrame, region: Region, alpha: np.ndarray, patch: np.ndarray | None) -> av.VideoFrame:
    """A copy of a YUV frame with an RGB patch (h, w, 3) blended into a region by alpha (h, w) in 0..1."""
    result = copied(frame)
    if alpha.size:
        assert patch is not None
        y, u, v, *_ = planes(result)
        paste_yuv(y, u, v, region, alpha, patch, *colour_of(frame))
    return result
