"""Decoded frames as arrays: their planes, their colour description, and where their pixels lie on the screen.

Pictures are pasted into the planes of the source's own pixel format, so that a pixel outside the mask never takes the
way through RGB. Frames are copied before they are changed: a decoder still predicts later frames from those given out.
"""

import av
import numpy as np

from latentsync.generation import paste
from latentsync.media import picture
from latentsync.media.picture import colour_of, planes
from latentsync.media.probe import display_matrix, orientation


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
    return picture.to_displayed(frame.width, frame.height, *orientation(display_matrix(frame)))


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
        paste.paste_yuv420(*planes(result), region, alpha, patch, *colour_of(frame))
    return result
