"""Restore generated faces while they are in memory: align by five points, restore, and add the detail to the frame.

Restorers are trained on faces in FFHQ alignment at 512 pixels, not on LatentSync's stretched crop, so every face is
aligned anew, in one warp from the pasted frame. What comes back into the frame is the difference between the restored
and the aligned face, not the restored face itself: a restorer that changes nothing changes no pixel, and the frame
keeps what the alignment cannot hold. Of this difference

- what is coarser than an eighth of the face is left out: restorers shift colour and light, from frame to frame;
- what is finer is smoothed over five frames, in aligned coordinates, where the face itself stays as it was;
- the lips take less, by `lip_protection`: restorers pull them towards a resting mouth, and sync is lost.

The points are those of the source's face (gates.py measures them while it is tracked), so nothing is detected anew.

Axes: m written frames, k points of the outline of the lips, S side of the aligned face in pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import av
import cv2
import numpy as np

from latentsync.config import Enhance
from latentsync.faces import alignment
from latentsync.faces.smoothing import smooth
from latentsync.faces.tracking import Track
from latentsync.generation import gates, paste, timeline
from latentsync.generation.plan import Plan, VoicePlan
from latentsync.media.colour import rgb_to_codes, yuv_to_rgb
from latentsync.media.frames import colour_of, planes

# Eyes, nose tip, mouth corners of FFHQ-aligned faces at 512 pixels (x, y), as facexlib and GFPGAN use them.
_X = (192.98138, 318.90277, 256.63416, 201.26117, 313.08905)
_Y = (239.94708, 240.1936, 314.01935, 371.41043, 371.15118)
FFHQ = np.stack([_X, _Y], axis=1)
MOVED = 20.0  # grey levels between two aligned faces; a neighbour that differs by more adds little
COARSE = 8  # cells of the face along each side; detail is what is finer
LEAST_OPEN = 0.3  # how far any mouth may open, as a share of the distance between the outer corners of the eyes
SMALL = 64  # side of the aligned face on which motion is judged
WINDOW_STEP = 16
OUTLINE = 128  # side of the aligned face on which the lips are outlined
_RIM = 6  # of these pixels around the lips are protected, too; the eyes are 31 apart

Restore = Callable[[np.ndarray], np.ndarray]  # faces float32 (n, S, S, 3), RGB 0..255 -> restored; `restore.size` is S
Change = list[np.ndarray]  # of luma and chroma within the window, code values, float32 (h, w) and twice (h / 2, w / 2)


class Enhancer(NamedTuple):
    """A restorer, and how it is used."""

    restore: Restore
    cfg: Enhance
    weights: str
    """Content hash of the restorer's file."""

    @property
    def size(self) -> int:
        """S."""
        return self.restore.size  # pyright: ignore[reportFunctionMemberAccess]  # every restorer has it


def ffhq_matrix(points: np.ndarray, size: int) -> np.ndarray:
    """Matrices [..., 2, 3] from source pixels to FFHQ-aligned pixels of side `size`, for five points [..., 5, 2].

    The similarity with the least squared distance from the template.
    """
    template = (FFHQ + 0.5) * (size / 512) - 0.5  # pixel centres
    z, target = np.asarray(points, np.float64) @ [1, 1j], template @ [1, 1j]
    middle, centre = z.mean(-1, keepdims=True), target.mean()
    turn = ((target - centre) * (z - middle).conj()).sum(-1) / (np.abs(z - middle) ** 2).sum(-1)
    shift = centre - turn * middle[..., 0]
    rows = [[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]]
    return np.moveaxis(np.array(rows), (0, 1), (-2, -1))


@dataclass(frozen=True)
class Places:
    """Where the generated face of one voice is restored in each written frame."""

    matrices: np.ndarray
    """float64 [m, 2, 3], pixels of the file -> aligned face; NaN where nothing is restored."""
    lips: np.ndarray
    """float32 [m, k, 2], points of the aligned face; the lips lie within their hull, however far the mouth opens."""
    spans: np.ndarray
    """int64 [m]; frames are smoothed only with frames of the same number."""
    mouths: np.ndarray
    """float64 [m, 2, 3], pixels of the file -> crop."""
    opacity: np.ndarray
    """float32 [m], of the generated mouth."""
    size: int
    """S."""
    window: paste.Region
    """Of the aligned face: what may change lies within it; x0, y0, x1, y1, multiples of WINDOW_STEP."""
    n_coarse: int
    """Redrawn frames left as they are, since the generated face is as fine as the frame."""

    @property
    def restored(self) -> np.ndarray:
        """Whether each frame is restored, bool [m]."""
        return np.isfinite(self.matrices[:, 0, 0])


def find_places(
    plan: Plan,
    voice: VoicePlan,
    tracks: Sequence[Track],
    to_displayed: np.ndarray,
    resolution: int,
    enhancer: Enhancer,
) -> Places:
    """Where a voice's face is restored: in all frames with its mouth, if the crop is smaller than the face in them.

    That is decided for each stretch of frames by its median, so that nothing flickers at the limit.

    Args:
        tracks: with the measures of `gates.measure_faces`.
        to_displayed: pixels of the file -> displayed pixels, float64 [3, 3].
        resolution: side of the generated face, pixels.
        enhancer: `cfg.force` restores small faces as well.
    """
    size, n = enhancer.size, len(plan.order)
    matrices, outlines, n_coarse = np.full((n, 2, 3), np.nan), {}, 0
    spans = np.zeros(n, np.int64)
    drawn = np.where(voice.opacity > 0, voice.labels, -1)
    for number, (start, stop, index) in enumerate(timeline.spans(drawn, plan.order)):
        spans[start:stop] = number
        if index < 0:
            continue
        scales = [alignment.scale_of(alignment.to_face(matrix, resolution)) for matrix in voice.matrices[start:stop]]
        if np.median(scales) >= 1 and not enhancer.cfg.force:
            n_coarse += stop - start
            continue
        at = plan.order[start:stop] - tracks[index].start
        shown = ffhq_matrix(smooth(gates.five_points(tracks[index]))[at], size)
        matrices[start:stop] = shown @ to_displayed
        swept = _swept(tracks[index])[at]
        outlines[start, stop] = swept @ shown[..., :2].swapaxes(-1, -2) + shown[:, None, :, 2]
    n_points = max((outline.shape[1] for outline in outlines.values()), default=0)
    lips = np.zeros((n, n_points, 2), np.float32)
    for (start, stop), outline in outlines.items():
        lips[start:stop] = outline
    window = 0, 0, size, size
    if enhancer.cfg.region == "mouth":
        window = _window(matrices, voice.matrices, resolution, size)
    return Places(matrices, lips, spans, voice.matrices, voice.opacity, size, window, n_coarse)


def _window(matrices: np.ndarray, mouths: np.ndarray, resolution: int, size: int) -> paste.Region:
    """The part of the aligned face that holds the generated mouth of every frame."""
    corners = [
        alignment.apply(matrix, paste.hole_corners(mouth, resolution))
        for matrix, mouth in zip(matrices, mouths, strict=True)
        if np.isfinite(matrix).all()
    ]
    if not corners:
        return 0, 0, size, size
    low, high = np.min(corners, (0, 1)).clip(0, size), np.max(corners, (0, 1)).clip(0, size)
    (x0, y0), (x1, y1) = (np.floor(low / WINDOW_STEP).tolist(), np.ceil(high / WINDOW_STEP).tolist())
    return int(x0) * WINDOW_STEP, int(y0) * WINDOW_STEP, int(x1) * WINDOW_STEP, int(y1) * WINDOW_STEP


def _swept(track: Track) -> np.ndarray:
    """Points around the lips of each frame as they are and opened as far as the face may, float [k, 2 p, 2], displayed.

    The generated mouth is open where the source's may be closed, so its lips lie anywhere between the two.
    """
    lips, eyes = gates.outer_lips(track), gates.outer_eyes(track)
    across = eyes[:, 1] - eyes[:, 0]
    opening = np.nan_to_num(track.mouth_opening)
    further = np.maximum(0, max(LEAST_OPEN, float(np.percentile(opening, 95))) - opening)
    down = np.stack([-across[:, 1], across[:, 0]], -1) * further[:, None]
    return np.concatenate([lips, lips + down[:, None]], 1)


def lip_mask(lips: np.ndarray, size: int) -> np.ndarray:
    """How much the lips are protected, float32 (OUTLINE, OUTLINE) in 0..1: 1 within the hull of points, then a rim."""
    scale = OUTLINE / size
    hull = cv2.convexHull(np.ascontiguousarray((lips + 0.5) * scale - 0.5, np.float32))
    inside = np.zeros((OUTLINE, OUTLINE), np.float32)
    cv2.fillConvexPoly(inside, np.rint(hull * 16).astype(np.int32), (1.0,), shift=4)
    inside = cv2.dilate(inside, _disc(2 * _RIM + 1))
    return cv2.GaussianBlur(inside, (_RIM + 1, _RIM + 1), 0)  # reaches half as far as was added


@lru_cache
def _disc(side: int) -> np.ndarray:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))


# --- one frame ------------------------------------------------------------------------------------------------------


def aligned_face(frame: av.VideoFrame, matrix: np.ndarray, size: int) -> np.ndarray:
    """The aligned face uint8 (S, S, 3), RGB, of a YUV frame; the frame's border goes on beyond it."""
    fine = max(1, round(1 / alignment.scale_of(matrix)))  # samples along a pixel, where the frame is finer than that
    name, full_range, depth = colour_of(frame)
    found = []
    for grid in paste.grids_to(frame, (0, 0, frame.width, frame.height), matrix):
        side = size if grid.channels == (0,) else size // 2
        there = alignment.resized(grid.back, (size, size), (side * fine, side * fine))
        kind = cv2.INTER_AREA if fine > 1 else cv2.INTER_LINEAR
        for channel in grid.channels:
            plane = planes(frame)[channel]
            warped = cv2.warpAffine(plane, there, (side * fine,) * 2, borderMode=cv2.BORDER_REPLICATE)
            found.append(cv2.resize(warped, (size, size), interpolation=kind))
    rgb = cv2.transform(cv2.merge(found), yuv_to_rgb(name, full_range, depth).astype(np.float32))
    return rgb if depth == 8 else np.minimum(rgb, 255).astype(np.uint8)


def detail(face: np.ndarray, restored: np.ndarray, window: paste.Region, colour: tuple[str, bool, int]) -> Change:
    """What a restorer adds to a face within a window, without what is coarse.

    Args:
        face: uint8 (S, S, 3), RGB.
        restored: float32 (S, S, 3), RGB 0..255.
        window: x0, y0, x1, y1 in pixels of the face, multiples of 2.
        colour: of the frame, as `colour_of` gives it.
    """
    x0, y0, x1, y1 = window
    added = cv2.subtract(restored[y0:y1, x0:x1], face[y0:y1, x0:x1], dtype=cv2.CV_32F)
    to_codes = rgb_to_codes(*colour)[:, :3].astype(np.float32)
    luma, *chroma = cv2.split(cv2.transform(added, to_codes))
    halved = [cv2.resize(plane, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for plane in chroma]
    cells = max(1, (x1 - x0) * COARSE // len(face)), max(1, (y1 - y0) * COARSE // len(face))
    return [_fine(plane, cells) for plane in (luma, *halved)]


def _fine(values: np.ndarray, cells: tuple[int, int]) -> np.ndarray:
    coarse = cv2.resize(values, cells, interpolation=cv2.INTER_AREA)
    return cv2.subtract(values, cv2.resize(coarse, values.shape[1::-1], interpolation=cv2.INTER_LINEAR))


def still(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """How alike two small aligned faces are at each pixel, float32 (h, w) in 0..1: 1 where nothing moved."""
    return np.exp(-((cv2.blur(cv2.absdiff(one, other), (3, 3)) / MOVED) ** 2))


def weighted(changes: Sequence[Change], weights: Sequence[np.ndarray]) -> Change:
    """The mean of changes, with weights float32 (h, w) that lie over them at any size."""
    total = np.sum(weights, 0)
    sums = [np.zeros_like(plane) for plane in changes[0]]
    for change, weight in zip(changes, weights, strict=True):
        share = weight / total
        luma = cv2.resize(share, change[0].shape[1::-1], interpolation=cv2.INTER_LINEAR)
        chroma = cv2.resize(share, change[1].shape[1::-1], interpolation=cv2.INTER_LINEAR)
        for plane, over, result in zip(change, (luma, chroma, chroma), sums, strict=True):
            cv2.accumulateProduct(plane, over, result)
    return sums


def add_detail(frame: av.VideoFrame, change: Change, index: int, places: Places, resolution: int, region: str) -> None:
    """Add a change to the planes of a frame, in place, rounded once.

    Args:
        frame: in YUV, with memory of its own.
        change: from `detail`.
        index: number of the frame.
        places: where its face is.
        resolution: side of the generated face, pixels.
        region: mouth: only what is redrawn changes, as softly as it was pasted; face: the aligned face, its rim soft.
    """
    shape, size, found = (frame.height, frame.width), places.size, planes(frame)
    matrix, mouth, depth = places.matrices[index], places.mouths[index], colour_of(frame)[2]
    if region == "mouth":
        touched = paste.hole_region(shape, mouth, resolution)
    else:
        corners = np.array([[x, y] for x in (-1, size) for y in (-1, size)], np.float64)
        touched = paste.region_around(alignment.apply(alignment.invert(matrix), corners), shape)
    alpha = None
    for grid in paste.grids_to(frame, touched, matrix):
        x0, y0, x1, y1 = grid.region
        if alpha is not None:  # of chroma: the mean over its block
            alpha = cv2.resize(alpha, paste.size_of(grid.region), interpolation=cv2.INTER_AREA)
        elif region == "mouth":
            alpha = paste.opacity_on(paste.grids(frame, mouth, resolution)[0], resolution)
        else:
            size_px = paste.size_of(grid.region)
            alpha = paste.sampled(_ramp(size), grid.back, size_px, cv2.INTER_LINEAR, cv2.BORDER_CONSTANT)
        added = _sampled(cv2.merge([change[channel] for channel in grid.channels]), grid, places)
        for channel, values in zip(grid.channels, cv2.split(added), strict=True):
            part = found[channel][y0:y1, x0:x1]
            values = cv2.multiply(values, alpha)
            if depth == 8:  # rounds and saturates in one go
                part[...] = cv2.add(part, values, dtype=cv2.CV_8U)
            else:
                part[...] = np.rint(part + values).clip(0, 2**depth - 1)


def _sampled(values: np.ndarray, grid: paste.Grid, places: Places) -> np.ndarray:
    """Values within the window, at any size, at the pixels of a grid; averaged first where those are coarser.

    Where they are finer, cubics double the values and lines fill the rest, as in pasting.
    """
    x0, y0, x1, y1 = places.window
    whole = x1 - x0, y1 - y0
    step = alignment.scale_of(grid.back) * len(values) / whole[1]
    factor = 2.0 if step <= 1 else 0.5 ** max(0, round(np.log2(step)))
    if factor != 1:
        kind = cv2.INTER_CUBIC if factor > 1 else cv2.INTER_AREA
        values = cv2.resize(values, None, fx=factor, fy=factor, interpolation=kind)
    height, width = values.shape[:2]
    back = alignment.resized(grid.back - [[0, 0, x0], [0, 0, y0]], whole, (width, height))
    return paste.sampled(values, back, paste.size_of(grid.region), cv2.INTER_LINEAR, cv2.BORDER_CONSTANT)


@lru_cache
def _ramp(size: int) -> np.ndarray:
    """Opacity of the aligned face, float32 (S, S): a soft rim of an eighth of its side."""
    ramp = np.clip(np.minimum(np.arange(size) + 0.5, size - np.arange(size) - 0.5) / (size / 8), 0, 1)
    return np.minimum.outer(ramp, ramp).astype(np.float32)
