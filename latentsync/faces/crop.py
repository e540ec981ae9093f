"""From a frame to the aligned face that networks see."""

import cv2
import numpy as np

from latentsync.faces import alignment
from latentsync.media.colour import yuv_to_rgb
from latentsync.media.frames import DisplayedFrame, colour_of, has_planes, planes, to_displayed


def aligned(frame: DisplayedFrame, matrix: np.ndarray, resolution: int) -> np.ndarray:
    """The aligned face float32 (R, R, 3), RGB about 0..255: `alignment.crop` of the frame, stretched.

    `matrix` maps displayed pixels to the crop. Planar YUV is cropped before the conversion to RGB, chroma centred on
    its block. (Where a side is odd, swscale stretches the chroma over it instead.) From the published resolution on,
    chroma keeps its ratio to luma: with 4:2:0, half the size of the crop, as crops are stored.
    """
    if not has_planes(frame.stored.format):
        return alignment.stretch(alignment.crop(frame.exact(), matrix, resolution), resolution)
    matrix = np.asarray(matrix, np.float64) @ to_displayed(
        frame.stored.width, frame.stored.height, frame.turns, frame.mirrored, frame.aspect
    )
    luma, blue, red = planes(frame.stored)
    name, full_range, depth = colour_of(frame.stored)
    grey = alignment.FILL if full_range else 16 + alignment.FILL * 219 / 255
    wide, high = (round(big / small) for big, small in zip(luma.shape[::-1], blue.shape[::-1], strict=True))
    halved = matrix @ np.array([[wide, 0, (wide - 1) / 2], [0, high, (high - 1) / 2], [0, 0, 1]])
    unit = 2 ** (depth - 8)
    brightness = alignment.stretch(alignment.crop((luma,), matrix, resolution, grey * unit), resolution)
    if resolution < alignment.PUBLISHED_RESOLUTION:
        colour = alignment.stretch(alignment.crop((blue, red), halved, resolution, 128 * unit), resolution)
    else:
        size = alignment.crop_size(resolution)
        own = -(-size[0] // wide), -(-size[1] // high)
        back = alignment.invert(alignment.resized(halved, size, own))
        colour = cv2.resize(alignment.warp((blue, red), back, own, 128 * unit), (resolution, resolution))
    return cv2.transform(cv2.merge((brightness, colour)), yuv_to_rgb(name, full_range, depth))


def align_face(frame: DisplayedFrame, matrix: np.ndarray, resolution: int) -> np.ndarray:
    """The aligned face uint8 (R, R, 3) of a frame: warp, stretch, one rounding."""
    face = aligned(frame, matrix, resolution)
    # Rounds and saturates in one go.
    return cv2.add(face, 0, dtype=cv2.CV_8U)  # pyright: ignore[reportArgumentType, reportCallIssue]  # a number is allowed


def to_pixels(frames: np.ndarray) -> np.ndarray:
    """Frames uint8 (f, h, w, 3) -> pixels float32 (3, f, h, w) in [-1, 1]."""
    return (frames.transpose(3, 0, 1, 2) / np.float32(127.5) - 1).astype(np.float32)


def lower_halves(faces: np.ndarray, resolution: int) -> np.ndarray:
    """Faces uint8 (f, h, w, 3) -> their lower halves, frames stacked on channels: (f c) resolution/2 resolution."""
    if faces.shape[1] != resolution:
        faces = np.stack([cv2.resize(face, (resolution, resolution), interpolation=cv2.INTER_AREA) for face in faces])
    half = to_pixels(faces[:, resolution // 2 :])
    return half.transpose(1, 0, 2, 3).reshape(-1, *half.shape[2:])
