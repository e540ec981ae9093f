"""How stored frames are displayed: turned, mirrored, and with pixels that need not be square."""

from fractions import Fraction

import av
import numpy as np


def pixel_aspect(video: av.VideoStream, first: av.VideoFrame) -> Fraction:
    """Width of a stored pixel over its height, 1 where the file says nothing or what no camera has."""
    aspect = video.sample_aspect_ratio
    return Fraction(aspect) if aspect and 1 / 4 <= aspect <= 4 else Fraction(1)


def displayed_size(width: int, height: int, aspect: Fraction) -> tuple[int, int]:
    """(width, height) in square pixels before turning: the side that pixels are too long in is made longer."""
    return (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))


def display_matrix(frame: av.VideoFrame) -> tuple[int, ...] | None:
    """The nine numbers of a frame's display matrix in FFmpeg's layout, None if it has none."""
    data = frame.side_data.get("DISPLAYMATRIX")
    return tuple(int(v) for v in np.frombuffer(bytes(data), np.int32)) if data is not None else None


def orientation(matrix: tuple[int, ...] | None) -> tuple[int, bool]:
    """A display matrix as (quarter turns counter-clockwise, mirrored left-right before turning).

    Angles that are no quarter turn go to the nearest one, as players do.
    """
    if matrix is None:
        return 0, False
    a, b, _, c, d = matrix[:5]
    mirrored = a * d - b * c < 0
    if mirrored:
        a, b = -a, -b
    angle = np.degrees(np.arctan2(-b, a))  # rows of the matrix are images of the axes, y points down
    return int(np.rint(angle / 90)) % 4, bool(mirrored)
