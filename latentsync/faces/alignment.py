"""The published face alignment: a similarity transform of three points to a template, a warp, a stretch.

Convention: points are (x, y) with the centre of the top-left pixel at (0, 0); sizes are (width, height); a matrix
[2, 3] maps column vectors (x, y, 1) from source pixels to pixels of the *unstretched crop*, a 3:4 box (210 x 280 at
R = 256). Networks see that crop stretched to R x R, anisotropically, as the published checkpoints expect. *File pixels*
are as stored; *displayed pixels*, where landmarks lie, are those after the rotation that the file asks for.
Formulas: LatentSync a229c39, latentsync/utils/affine_transform.py, restated; tests compare with its matrices and crops.
"""

import functools
import math

import cv2
import numpy as np

Image = np.ndarray | tuple[np.ndarray, ...]  # an image (H, W, c), or its channels as planes (H, W)

# Left brow, right brow (as one sees them), nose, in units of a 75 x 100 box.
TEMPLATE = np.array([[17.0, 20.0], [58.0, 20.0], [37.5, 40.0]])
FILL = 127.0  # grey level where the crop reaches beyond the image
PUBLISHED_RESOLUTION = 256  # the lowest of the published models


def crop_size(resolution: int) -> tuple[int, int]:
    """(width, height) of the unstretched crop: int(75 r), int(100 r) with r = 2.8 R / 256, in exact arithmetic."""
    return 75 * 28 * resolution // 2560, 100 * 28 * resolution // 2560


def template(resolution: int) -> np.ndarray:
    """The three targets float64 [3, 2] in crop pixels."""
    return TEMPLATE * (2.8 * resolution / 256)


def similarity(points: np.ndarray, resolution: int) -> np.ndarray:
    """Matrices float64 [..., 2, 3] that map anchors float [..., 3, 2] to the template, with the published bias.

    The published code adds a difference in normalised units to a translation in pixels; it stays, because checkpoints
    were trained on such crops. It is the same number of crop pixels at 256 and 512 (below one for upright faces). Below
    256, where nothing is published, it shrinks with R, so that a small crop is a 256 crop made smaller.
    """
    matrix, bias = _fit(points, resolution)
    matrix[..., 2] += bias * min(1.0, resolution / PUBLISHED_RESOLUTION)
    return matrix


def published_similarity(points: np.ndarray, resolution: int, bias: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The published code's matrix: anchors rounded to integers (half to even), bias averaged over calls.

    Returns the matrix and the state for the next call. Only for parity: rounding adds jitter, and the moving average
    smooths only the sub-pixel bias, not the face.
    """
    matrix, now = _fit(np.rint(points), resolution)
    bias = now if bias is None else 0.2 * bias + 0.8 * now
    matrix[:, 2] += bias
    return matrix, bias


def _fit(points: np.ndarray, resolution: int) -> tuple[np.ndarray, np.ndarray]:
    """Matrices without bias, and the biases: template nose minus anchor nose, both in normalised units.

    Scale = ratio of the sample deviations (over all six numbers), rotation by Procrustes: close to, but not, Umeyama.
    In the plane that rotation needs no singular values: with anchors a and template b as complex numbers, it is by the
    angle of sum(conj(a) b).
    """
    source = np.asarray(points, np.float64)
    source_mean = source.mean(-2, keepdims=True)
    centred = source - source_mean
    source_scale = np.sqrt((centred**2).sum((-2, -1), keepdims=True) / 5)
    if not source_scale.all():
        where = source_mean[(source_scale == 0)[..., 0, 0]].reshape(-1, 2)[0]
        raise ValueError(f"The three anchors of a face coincide at {where}; no alignment exists.")
    target_mean, target_scale, b = _target(resolution)
    a = centred / source_scale
    cosine, sine = (a * b).sum((-2, -1)), (a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]).sum(-1)
    length = np.hypot(cosine, sine)
    cosine = np.where(length > 0, cosine, 1.0)  # all rotations fit alike: none is taken
    factor = target_scale / source_scale[..., 0, 0] / np.where(length > 0, length, 1.0)
    row = np.stack([cosine, -sine], -1), np.stack([sine, cosine], -1)
    linear = np.stack(row, -2) * factor[..., None, None]
    moved = target_mean - (linear @ source_mean.swapaxes(-1, -2))[..., 0]
    return np.concatenate([linear, moved[..., None]], -1), b[2] - a[..., 2, :]


@functools.cache
def _target(resolution: int) -> tuple[np.ndarray, float, np.ndarray]:
    """Mean and sample deviation of the template, and its points in normalised units."""
    target = template(resolution)
    mean = target.mean(0)
    scale = float((target - mean).std(ddof=1))
    return mean, scale, (target - mean) / scale


def invert(matrix: np.ndarray) -> np.ndarray:
    """The inverse [2, 3] of an affine matrix [2, 3], float64.

    Raises:
        LinAlgError: there is none.
    """
    (a, b, x), (c, d, y) = np.asarray(matrix, np.float64).tolist()  # LAPACK takes ten times as long
    if (determinant := a * d - b * c) == 0:
        raise np.linalg.LinAlgError(f"the matrix {matrix} has no inverse")
    return np.array([[d, -b, b * y - d * x], [-c, a, c * x - a * y]]) / determinant


def apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points float [..., 2] through an affine matrix [2, 3]."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def scale_of(matrix: np.ndarray) -> float:
    """Crop pixels per source pixel."""
    (a, b, _), (c, d, _) = np.asarray(matrix, np.float64).tolist()
    return math.sqrt(abs(a * d - b * c))


def warp(image: Image, back: np.ndarray, size: tuple[int, int], fill: float = FILL) -> np.ndarray:
    """Sample `image` bilinearly, `back` [2, 3] mapping output pixels to input pixels; float32 (h', w', c).

    Exact to a thousandth of a pixel: cv2.warpAffine and cv2.remap round positions to 1/32 pixel, an error of up to
    1.7 grey levels (measured) that makes a slowly moving face jump; so cv2.remap only gathers neighbours. Beyond the
    border the image is `fill`, blended in over one pixel.
    """
    width, height = size
    ends = _shape(image)[1::-1]
    corners = apply(back, np.array([[0, 0], [width - 1, 0], [0, height - 1], [width - 1, height - 1]], np.float64))
    # Farther out than one pixel everything is fill: clip there, so that the patch below stays small.
    low, high = (np.clip(edge, -1, ends) for edge in (corners.min(0), corners.max(0)))
    left, top = (math.floor(at) for at in low)
    right, bottom = (math.floor(at) + 2 for at in high)
    patch = _cut(image, left, top, right, bottom, fill)
    beyond = bool((corners.min(0) < low).any() or (corners.max(0) > high).any())
    x, y = np.arange(width), np.arange(height)
    places = []
    for row, start, end in ((back[0], left, ends[0]), (back[1], top, ends[1])):
        place = (row[1] * y + (row[2] - start)).astype(np.float32)[:, None] + (row[0] * x).astype(np.float32)
        places.append(np.clip(place, 0, end - start, out=place) if beyond else place)
    whole = [place.astype(np.int16) for place in places]  # none is below 0 by more than rounding, so this rounds down
    fraction_x, fraction_y = (
        cv2.merge([place - floor] * patch.shape[2]) for place, floor in zip(places, whole, strict=True)
    )
    corner = cv2.merge(whole)

    def row_of(patch: np.ndarray) -> np.ndarray:
        """The upper (or, one row down, lower) two neighbours of every position, blended."""
        a, b = (
            cv2.remap(part, corner, None, cv2.INTER_NEAREST).astype(np.float32)  # pyright: ignore[reportArgumentType, reportCallIssue]  # map2 may be None
            for part in (patch, patch[:, 1:])
        )
        return _blend(a, b, fraction_x)

    return _blend(row_of(patch), row_of(patch[1:]), fraction_y).reshape(height, width, -1)


def _blend(a: np.ndarray, b: np.ndarray, share: np.ndarray) -> np.ndarray:
    """a + (b - a) * share, in the memory of b."""
    b -= a
    b *= share.reshape(b.shape)
    b += a
    return b


def _shape(image: Image) -> tuple[int, ...]:
    return (image[0] if isinstance(image, tuple) else image).shape


def _part(image: Image, top: int, bottom: int, left: int, right: int) -> np.ndarray:
    """Rows and columns of an image, (h, w, c)."""
    if not isinstance(image, tuple):
        return image[top:bottom, left:right]
    planes = [plane[top:bottom, left:right] for plane in image]
    merged = cv2.merge(planes) if planes[0].size else np.stack(planes, -1)
    return merged.reshape(*planes[0].shape, len(planes))


def _cut(image: Image, left: int, top: int, right: int, bottom: int, fill: float) -> np.ndarray:
    """Contiguous patch (h, w, c), half-open ranges, padded with `fill` where it reaches beyond the image."""
    height, width = _shape(image)[:2]
    rows, columns = (max(top, 0), min(bottom, height)), (max(left, 0), min(right, width))
    inside = _part(image, rows[0], max(rows), columns[0], max(columns))
    pads = ((max(-top, 0), max(bottom - height, 0)), (max(-left, 0), max(right - width, 0)), (0, 0))
    if not np.any(pads):
        return np.ascontiguousarray(inside)
    return np.pad(inside, pads, constant_values=np.asarray(fill, inside.dtype))


def crop(image: Image, matrix: np.ndarray, resolution: int, fill: float = FILL) -> np.ndarray:
    """The unstretched crop, float32 (h, w, c), of an image.

    At 256 and above one bilinear sample per pixel, as published. Below, where a face is usually shrunk several times
    and single samples would flicker, the image is shrunk by area first, and each crop pixel is the mean of k x k
    samples at most a pixel of the shrunk image apart.
    """
    width, height = crop_size(resolution)
    if resolution >= PUBLISHED_RESOLUTION:
        return warp(image, invert(matrix), (width, height), fill)
    image, matrix = _shrunk(image, matrix, resolution)
    k = max(1, math.ceil(1 / scale_of(matrix) - 1e-6))
    fine = np.asarray(matrix, np.float64) * k
    fine[:, 2] += (k - 1) / 2  # k samples per pixel, spread evenly about its centre
    samples = warp(image, invert(fine), (width * k, height * k), fill)
    return samples.reshape(height, k, width, k, -1).mean((1, 3))


def _shrunk(image: Image, matrix: np.ndarray, resolution: int) -> tuple[Image, np.ndarray]:
    """The part of an image that a crop shows, shrunk by area in whole blocks, and the matrix from there to the crop.

    All crops share one grid of blocks, so that they do not flicker when the face moves.
    """
    block = max(1, int(1 / scale_of(matrix) + 1e-6))
    if block == 1:
        return image, matrix
    size, shape = crop_size(resolution), _shape(image)
    corners = np.array([[0, 0], [size[0], 0], [0, size[1]], size], np.float64) - 0.5
    corners = apply(invert(matrix), corners)
    low, high = np.floor(corners.min(0)) - block - 1, np.ceil(corners.max(0)) + block + 2
    left, top = (
        int(min(max(at, 0), length - 1)) // block * block for at, length in zip(low, shape[1::-1], strict=True)
    )
    right = min(max(int(high[0]), left + 1), shape[1])
    bottom = min(max(int(high[1]), top + 1), shape[0])
    patch = _part(image, top, bottom, left, right)
    columns, rows = -(-patch.shape[1] // block), -(-patch.shape[0] // block)
    rest = (0, rows * block - patch.shape[0]), (0, columns * block - patch.shape[1]), (0, 0)
    patch = np.pad(patch, rest, "edge") if np.any(rest) else patch
    small = cv2.resize(patch, (columns, rows), interpolation=cv2.INTER_AREA).reshape(rows, columns, -1)
    middle = (block - 1) / 2
    grid = np.array([[block, 0, left + middle], [0, block, top + middle], [0, 0, 1]])
    return small, np.asarray(matrix, np.float64) @ grid


def stretch(cropped: np.ndarray, resolution: int) -> np.ndarray:
    """The crop (h, w, 3), uint8 or float32, as the R x R face: Lanczos4, as published."""
    return cv2.resize(cropped, (resolution, resolution), interpolation=cv2.INTER_LANCZOS4)


def to_face(matrix: np.ndarray, resolution: int) -> np.ndarray:
    """The matrix [2, 3] from source pixels to pixels of the stretched R x R face, float64; `matrix` is to the crop."""
    return resized(matrix, crop_size(resolution), (resolution, resolution))


def resized(matrix: np.ndarray, size: tuple[int, int], new: tuple[int, int]) -> np.ndarray:
    """A matrix [2, 3] to an image of `size` (width, height), as the matrix to that image resized to `new`."""
    scale = np.array(new, np.float64) / size
    result = np.asarray(matrix, np.float64) * scale[:, None]
    result[:, 2] += (scale - 1) / 2  # pixel centres: both images share their top-left corner, at (-0.5, -0.5)
    return result


def resize_cubic(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Antialiased bicubic resize (a = -0.5), float32 (h, w, c) to (h', w', c), as in torch and Pillow."""
    rows, columns = _cubic_weights(image.shape[0], size[1]), _cubic_weights(image.shape[1], size[0])
    tall = np.tensordot(rows, image.astype(np.float32), (1, 0))
    return np.ascontiguousarray(np.tensordot(columns, tall, (1, 1)).transpose(1, 0, 2))


def _cubic_weights(length: int, new: int) -> np.ndarray:
    """Weights float32 [new, length] of Keys' cubic, widened by the shrink factor, normalised at the borders."""
    ratio = length / new
    centre = (np.arange(new)[:, None] + 0.5) * ratio - 0.5
    d = np.abs(np.arange(length) - centre) / max(ratio, 1.0)
    weights = np.where(d < 1, (1.5 * d - 2.5) * d * d + 1, np.where(d < 2, ((-0.5 * d + 2.5) * d - 4) * d + 2, 0.0))
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)
