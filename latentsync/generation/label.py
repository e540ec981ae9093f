"""The visible label: light text on a dark box in the lower left corner of every frame, as displayed.

It is drawn into the planes of the frame's own format, so that no other pixel changes. The text is as large as a
24th of the shorter side, at least 10 pixels, and smaller only where the frame is too narrow for it.
"""

from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import cv2
import numpy as np

from latentsync.generation.marking import Overlay
from latentsync.generation.paste import Region, blended
from latentsync.media.display import displayed_size
from latentsync.media.frames import SQUARE
from latentsync.media.probe import timeline

LEAST_PX, USUAL_LEAST_PX, SHARE = 6, 10, 24
BOX_OPACITY = 0.65


def overlay_for(text: str, video: Path, as_displayed: bool) -> Overlay:
    """What draws `text` into the result of a video; as_displayed: frames are written turned, as they are displayed.

    Raises:
        ValueError: as `overlay`.
    """
    found = timeline(video)
    turns, size = found.info.rotation_deg // 90, found.size
    if as_displayed:
        return overlay(text, size[turns % 2], size[1 - turns % 2], 0, False)
    return overlay(text, size[0], size[1], turns, found.mirrored, found.pixel_aspect)


def overlay(text: str, width: int, height: int, turns: int, mirrored: bool, aspect: Fraction = SQUARE) -> Overlay:
    """What draws `text` into frames of this size, as stored in the file; turns and so on as of `DisplayedFrame`.

    Raises:
        ValueError: the text does not fit, or has characters that the font lacks.
    """
    squared = displayed_size(width, height, aspect)
    shown = squared[::-1] if turns % 2 else squared
    box = _box(text, *shown)
    x0, y0 = 0, shown[1] - box.shape[0]
    canvas = np.zeros((shown[1], shown[0], 2), np.float32)
    canvas[y0:, x0 : box.shape[1]] = box
    stored = np.rot90(canvas, -turns)
    stored = stored[:, ::-1] if mirrored else stored
    if aspect != 1:
        stored = cv2.resize(np.ascontiguousarray(stored), (width, height), interpolation=cv2.INTER_AREA)
    region = _region(stored[..., 1])
    left, top, right, bottom = region
    part = stored[top:bottom, left:right]
    patch, alpha = np.repeat(part[..., :1], 3, 2), np.ascontiguousarray(part[..., 1])

    def draw(frame: av.VideoFrame) -> av.VideoFrame:
        return blended(frame, region, alpha, patch)

    return draw


def _box(text: str, width: int, height: int) -> np.ndarray:
    """The box, float32 (h, w, 2): grey level 0..255, opacity 0..1. Its sides are even unless they are the frame's."""
    from PIL import Image, ImageDraw

    size = max(USUAL_LEAST_PX, round(min(width, height) / SHARE))
    while True:
        font, margin = _font(size), max(2, size // 3)
        left, top, right, bottom = (round(edge) for edge in font.getbbox(text))
        need = right - left + 2 * margin, bottom - top + 2 * margin
        if need[0] <= width and need[1] <= height:
            break
        size -= 1
        if size < LEAST_PX:
            raise ValueError(
                f"--label {text!r} does not fit into frames of {width} x {height}, even at {LEAST_PX} px; shorten it."
            )
    _require_glyphs(text)
    need = min(width, need[0] + need[0] % 2), min(height, need[1] + need[1] % 2)
    image = Image.new("L", need, 0)
    ImageDraw.Draw(image).text((margin - left, margin - top), text, fill=255, font=font)
    letters = np.asarray(image, np.float32) / 255
    return np.stack([255 * letters, np.maximum(letters, BOX_OPACITY)], -1)


@cache
def _font(size: int):  # noqa: ANN202  Pillow's, which is part of the package
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _require_glyphs(text: str) -> None:
    font = _font(24)
    drawn = {letter: np.array(font.getmask(letter)).tobytes() for letter in [*dict.fromkeys(text), "\uffff"]}
    missing = [letter for letter in dict.fromkeys(text) if drawn[letter] == drawn["\uffff"]]
    if missing:
        raise ValueError(f"--label {text!r} has characters that the font lacks ({' '.join(missing)}); use ASCII.")


def _region(alpha: np.ndarray) -> Region:
    """Where alpha is above 0, with the even edges that `paste_yuv` asks for."""
    height, width = alpha.shape
    rows, columns = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
    x0, y0 = int(columns[0]) // 2 * 2, int(rows[0]) // 2 * 2
    return x0, y0, min(width, -(-int(columns[-1] + 1) // 2) * 2), min(height, -(-int(rows[-1] + 1) // 2) * 2)
