"""Decoded frames as arrays: their planes, their colour description, and where their pixels lie on the screen.

Pictures are pasted into the planes of the source's own pixel format, so that a pixel outside the mask never takes the
way through RGB. Frames are copied before they are changed: a decoder still predicts later frames from those given out.
"""

import av
import numpy as np

from latentsync.lipsync import paste
from latentsync.media.picture import planes
from latentsync.media.probe import display_matrix, orientation

# Values of FFmpeg's AVColorSpace -> names in paste.LUMA; unspecified means BT.601 (FFmpeg, OpenCV and media/read.py).
_MATRICES = {1: "bt709", 2: "bt601", 4: "bt601", 5: "bt601", 6: "bt601", 7: "bt709", 9: "bt2020", 10: "bt2020"}
_FULL_RANGE = 2


def copied(frame: av.VideoFrame) -> av.VideoFrame:
    """A frame of its own memory with the same picture and colour description."""
    new = av.VideoFrame(frame.width, frame.height, frame.format.name)
    for source, target in zip(planes(frame), planes(new), strict=True):
        target[...] = source
    new.colorspace, new.color_range = frame.colorspace, frame.color_range
    new.color_primaries, new.color_trc = frame.color_primaries, frame.color_trc
    return new


def to_displayed(frame: av.VideoFrame) -> np.ndarray:
    """Matrix float64 [3, 3] from pixels in the file to pixels on the screen, (x, y, 1) columns.

    Ask once per video: PyAV's side data and its frame refer to each other, so that only the garbage collector frees
    a frame that was asked, and by then there may be hundreds.
    """
    turns, mirrored = orientation(display_matrix(frame))
    width, height = frame.width, frame.height
    matrix = np.eye(3)
    if mirrored:
        matrix = np.array([[-1, 0, width - 1], [0, 1, 0], [0, 0, 1]], float)
    for _ in range(turns):  # a quarter turn counter-clockwise: (x, y) -> (y, width - 1 - x)
        matrix = np.array([[0, 1, 0], [-1, 0, width - 1], [0, 0, 1]], float) @ matrix
        width, height = height, width
    return matrix


def paste_face(frame: av.VideoFrame, face: np.ndarray, matrix: np.ndarray, resolution: int) -> av.VideoFrame:
    """A copy of a YUV frame with the face float (R, R, 3), RGB 0..255, pasted into the mouth mask's hole.

    `matrix` float [2, 3] maps pixels in the file to crop pixels. Planes outside the mask keep their code values.
    """
    region, alpha = paste.paste_region((frame.height, frame.width), matrix, resolution)
    patch = paste.face_patch(face, matrix, resolution, region) if alpha.size else None
    return blended(frame, region, alpha, patch)


def blended(frame: av.VideoFrame, region: paste.Region, alpha: np.ndarray, patch: np.ndarray | None) -> av.VideoFrame:
    """A copy of a YUV frame with an RGB patch (h, w, 3) laid over a region as far as alpha (h, w) says."""
    result = copied(frame)
    if alpha.size:
        full_range = frame.color_range == _FULL_RANGE or frame.format.name.startswith("yuvj")
        paste.paste_yuv420(
            *planes(result),
            region,
            alpha,
            patch,
            matrix=_MATRICES.get(frame.colorspace, "bt601"),
            full_range=full_range,
            depth=frame.format.components[0].bits,
        )
    return result
