"""From a frame to the aligned face that networks see."""

import functools

import av
import cv2
import numpy as np

from latentsync.faces import alignment
from latentsync.media.colour import rgb_to_codes, yuv_to_rgb
from latentsync.media.frames import DisplayedFrame, colour_of, has_planes, planes, to_displayed


def aligned(frame: DisplayedFrame, matrix: np.ndarray, resolution: int) -> np.ndarray:
    """The aligned face float32 (R, R, 3), RGB about 0..255: `alignment.crop` of the frame, stretched.

    `matrix` maps displayed pixels to the crop. Planar YUV is cropped before the conversion to RGB, chroma centred on
    its block. (Where a side is odd, swscale stretches the chroma over it instead.)
    """
    if not has_planes(frame.stored.format):
        return alignment.stretch(alignment.crop(frame.exact(), matrix, resolution), resolution)
    luma, chroma = _aligned_planes(frame, matrix, resolution)
    codes = cv2.merge((luma, cv2.resize(chroma, (resolution, resolution))))
    return cv2.transform(codes, yuv_to_rgb(*colour_of(frame.stored)))


def _aligned_planes(frame: DisplayedFrame, matrix: np.ndarray, resolution: int) -> tuple[np.ndarray, np.ndarray]:
    """The aligned luma float32 (R, R) and chroma (h, w, 2) of planar YUV, in the codes of the source.

    From the published resolution on, chroma keeps its ratio to luma: with 4:2:0 about half the size of the crop, as
    crops are stored. Below, it has the size of luma.
    """
    matrix = np.asarray(matrix, np.float64) @ to_displayed(
        frame.stored.width, frame.stored.height, frame.turns, frame.mirrored, frame.aspect
    )
    luma, blue, red, *_ = planes(frame.stored)
    _, full_range, depth = colour_of(frame.stored)
    grey = alignment.FILL if full_range else 16 + alignment.FILL * 219 / 255
    wide, high = (round(big / small) for big, small in zip(luma.shape[::-1], blue.shape[::-1], strict=True))
    halved = matrix @ np.array([[wide, 0, (wide - 1) / 2], [0, high, (high - 1) / 2], [0, 0, 1]])
    unit = 2 ** (depth - 8)
    brightness = alignment.stretch(alignment.crop((luma,), matrix, resolution, grey * unit), resolution)
    if resolution < alignment.PUBLISHED_RESOLUTION:
        return brightness, alignment.stretch(alignment.crop((blue, red), halved, resolution, 128 * unit), resolution)
    size = alignment.crop_size(resolution)
    own = -(-size[0] // wide), -(-size[1] // high)
    back = alignment.invert(alignment.resized(halved, size, own))
    return brightness, alignment.warp((blue, red), back, own, 128 * unit)


def align_face(frame: DisplayedFrame, matrix: np.ndarray, resolution: int) -> np.ndarray:
    """The aligned face uint8 (R, R, 3) of a frame: warp, stretch, one rounding."""
    return _rounded(aligned(frame, matrix, resolution))


def _rounded(values: np.ndarray, into: np.ndarray | None = None) -> np.ndarray:
    """Values as uint8, rounded and saturated in one go, written `into` an array if there is one."""
    return cv2.add(values, 0, dst=into, dtype=cv2.CV_8U)  # pyright: ignore[reportArgumentType, reportCallIssue]  # a number is allowed


def face_frame(frame: DisplayedFrame, matrix: np.ndarray, resolution: int) -> av.VideoFrame:
    """The aligned face as a frame to be encoded: yuv420p, BT.709, limited range; rgb24 if the source is no planar YUV.

    Luma and chroma of planar YUV are cropped as they are, so that no chroma is enlarged, converted to RGB and halved
    again. This is `align_face` in other codes, within a grey level, and takes half its time.
    """
    if not has_planes(frame.stored.format):
        return av.VideoFrame.from_ndarray(align_face(frame, matrix, resolution), format="rgb24")
    luma, chroma = _aligned_planes(frame, matrix, resolution)
    codes = _to_bt709(*colour_of(frame.stored))
    if codes is not None:
        # Grey has no chroma in any of the matrices, so luma adds nothing to the new chroma.
        tint = cv2.transform(cv2.resize(chroma, (resolution, resolution)), codes[:1, 1:])
        luma, chroma = luma * codes[0, 0] + tint, cv2.transform(chroma, codes[1:, 1:])
    half = cv2.resize(chroma, (resolution // 2, resolution // 2), interpolation=cv2.INTER_AREA)
    result = av.VideoFrame(resolution, resolution, "yuv420p")
    for plane, values in zip(planes(result), (luma, *cv2.split(half)), strict=True):
        _rounded(values, plane)
    return result


@functools.cache
def _to_bt709(matrix: str, full_range: bool, depth: int) -> np.ndarray | None:
    """Matrix float64 [3, 4] from these codes (Y', Cb, Cr, 1) to those of BT.709, limited, 8 bits; None: they are."""
    if (matrix, full_range, depth) == ("bt709", False, 8):
        return None
    return rgb_to_codes("bt709") @ np.vstack([yuv_to_rgb(matrix, full_range, depth), [0, 0, 0, 1]])


def to_pixels(frames: np.ndarray) -> np.ndarray:
    """Frames uint8 (f, h, w, 3) -> pixels float32 (3, f, h, w) in [-1, 1]."""
    return (frames.transpose(3, 0, 1, 2) / np.float32(127.5) - 1).astype(np.float32)


def lower_halves(faces: np.ndarray, resolution: int) -> np.ndarray:
    """Faces uint8 (f, h, w, 3) -> their lower halves, frames stacked on channels: (f c) resolution/2 resolution."""
    if faces.shape[1] != resolution:
        faces = np.stack([cv2.resize(face, (resolution, resolution), interpolation=cv2.INTER_AREA) for face in faces])
    half = to_pixels(faces[:, resolution // 2 :])
    return half.transpose(1, 0, 2, 3).reshape(-1, *half.shape[2:])
