"""What moves in a clip, as numbers that survive cutting, scaling, cropping, other frame rates and encoding again.

Two signatures, each enough by itself: how the face moves (from the geometry of align_faces) and how the spectrum of the
audio changes. Both are rates of change, so that neither place, size, volume nor a filter matters, at the even ticks of
the source, so that the signatures of a source's clips join to one series. curation/footage.py compares them.

Axes: n ticks of a clip, m even ticks of it, c channels.
"""

import base64
import zlib
from itertools import pairwise

import numpy as np

from latentsync.faces import alignment
from latentsync.timing import SAMPLE_RATE_HZ, SAMPLES_PER_TICK, TICKS_PER_S

STEP_TICKS = 2
SMOOTH_TICKS = 2.0  # standard deviation of the Gaussian whose slope is taken: little above 5 Hz is left
# Of one rate, per second, that is written as 1; 127 is the most. Place in widths of the crop, size as its logarithm,
# angles in degrees, the mouth in distances of the eyes.
FACE_UNITS = {"x": 0.01, "y": 0.01, "size": 0.01, "roll": 0.8, "yaw": 1.6, "pitch": 1.6, "mouth": 0.04}
# Bands of equal width in pitch, between what telephones and what strong compression leave; the channels are differences
# of neighbours, so that a step in loudness, which any two recordings may share, is in none of them.
BAND_EDGES_HZ = np.geomspace(250, 3600, 10)
AUDIO_UNIT = 3.0  # dB per second
FLOOR = 3e-3  # of a band's mean power; changes below it do not count, since there every encoder leaves its own noise
SILENCE = 1e-9  # the least floor, of full scale
AROUND_TICKS = 8  # audio that is read before and after a clip
_HOP = SAMPLES_PER_TICK // 2
_WINDOW = 1024


def even_ticks(start: int, stop: int) -> np.ndarray:
    """The ticks of [start, stop) that a signature has values for, int64 [m]."""
    return np.arange(start + start % STEP_TICKS, stop, STEP_TICKS)


def face_signature(
    matrices: np.ndarray, pose_deg: np.ndarray, opening: np.ndarray, resolution: int, start_tick: int
) -> np.ndarray | None:
    """The rates of FACE_UNITS, int8 [m, 7]; None where no mouth was seen.

    Args:
        matrices: source pixels -> unstretched crop pixels, [n, 2, 3].
        pose_deg: yaw and pitch, [n, 2].
        opening: of the mouth, [n], NaN where unknown.
        resolution: of the crop.
        start_tick: first tick of the clip.
    """
    known = np.isfinite(opening)
    if not known.any():
        return None
    matrices = matrices.astype(np.float64)
    width, height = alignment.crop_size(resolution)
    scale = np.hypot(matrices[:, 0, 0], matrices[:, 1, 0])  # crop pixels in a source pixel
    roll = np.degrees(np.unwrap(np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0])))
    # Where the middle of the crop lies in the source; its speed in widths of the crop.
    centre = np.linalg.solve(matrices[:, :, :2], (np.array([width, height]) / 2 - matrices[:, :, 2])[..., None])[..., 0]
    mouth = np.interp(np.arange(len(opening)), np.flatnonzero(known), opening[known])
    speed = slopes(centre, SMOOTH_TICKS, TICKS_PER_S) * (scale / width)[:, None]
    other = np.column_stack([np.log(scale), roll, pose_deg, mouth])
    rates = np.column_stack([speed, slopes(other, SMOOTH_TICKS, TICKS_PER_S)])
    return _written(rates[even_ticks(start_tick, start_tick + len(rates)) - start_tick], [*FACE_UNITS.values()])


def audio_signature(samples: np.ndarray, start_tick: int) -> np.ndarray:
    """Rates at which neighbouring bands change against each other, int8 [m, c]; 0 in silence.

    `samples`, float32, are those of the clip with AROUND_TICKS more at both ends; `start_tick` is its first tick.
    """
    per_tick = SAMPLES_PER_TICK // _HOP
    padded = np.pad(samples, _WINDOW // 2)
    pieces = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP][: len(samples) // _HOP]
    power = np.abs(np.fft.rfft(pieces * np.hanning(_WINDOW).astype(np.float32), axis=1)) ** 2 / _WINDOW**2
    edges = np.rint(BAND_EDGES_HZ * _WINDOW / SAMPLE_RATE_HZ).astype(int)
    bands = np.stack([power[:, a:b].sum(1) for a, b in pairwise(edges)], 1)
    level_db = 10 * np.log10(bands + np.maximum(FLOOR * bands.mean(0), SILENCE))
    rates = slopes(np.diff(level_db, axis=1), SMOOTH_TICKS * per_tick, TICKS_PER_S * per_tick)
    n_ticks = len(samples) // SAMPLES_PER_TICK - 2 * AROUND_TICKS
    at = even_ticks(start_tick, start_tick + n_ticks) - start_tick + AROUND_TICKS
    return _written(rates[at * per_tick], AUDIO_UNIT)


def slopes(values: np.ndarray, smooth: float, per_s: int) -> np.ndarray:
    """Slope per second of curves [n, c], smoothed by a Gaussian of so many samples."""
    from scipy.ndimage import gaussian_filter1d

    return per_s * gaussian_filter1d(values, smooth, axis=0, order=1, mode="nearest")


def _written(rates: np.ndarray, units: float | list[float]) -> np.ndarray:
    return np.rint(rates / np.asarray(units)).clip(-127, 127).astype(np.int8)


def as_text(signature: np.ndarray | None) -> str | None:
    """For a column of a ledger: zlib and base64, about 90 characters a second and signature."""
    return None if signature is None else base64.b64encode(zlib.compress(signature.tobytes(), 9)).decode()


def from_text(text: str, channels: int) -> np.ndarray:
    """Back again: int8 [m, c]."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), np.int8).reshape(-1, channels)
