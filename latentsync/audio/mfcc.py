"""The 13 cepstral coefficients that SyncNet takes, by the formulas of python_speech_features 0.6 at its defaults.

Axes: n samples, t columns (100 a second), c cepstral coefficients.
"""

import numpy as np
from jaxtyping import Float64, Shaped
from scipy.fft import dct, rfft

RATE_HZ = 16000
WINDOW, STEP, FFT = 400, 160, 512  # samples: 25 ms, 10 ms, next power of two
FILTERS, COEFFICIENTS, LIFTER = 26, 13, 22
PREEMPHASIS = 0.97
TINY = np.finfo(np.float64).eps


def mel_filters() -> Float64[np.ndarray, "26 257"]:
    """Triangles (26, 257), equally spaced in mel = 2595 log10(1 + f/700) from 0 to 8000 Hz, corners on whole bins."""
    top = 2595 * np.log10(1 + RATE_HZ / 2 / 700)
    corners_hz = 700 * (10 ** (np.linspace(0, top, FILTERS + 2) / 2595) - 1)
    corners = np.floor((FFT + 1) * corners_hz / RATE_HZ)
    bins = np.arange(FFT // 2 + 1)
    low, mid, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    # Half-open on both slopes, so that neighbouring triangles share no bin twice.
    rising = np.where((bins >= low) & (bins < mid), (bins - low) / np.maximum(mid - low, 1), 0)
    falling = np.where((bins >= mid) & (bins < high), (high - bins) / np.maximum(high - mid, 1), 0)
    return rising + falling


def mfcc(samples: Shaped[np.ndarray, " n"]) -> Float64[np.ndarray, "13 t"]:
    """MFCC (13, t) float64 of samples (n,) on the int16 scale; t = 1 + ceil((n - 400) / 160), zeros after the end.

    The first coefficient is replaced by the log energy of the window, as the original does by default.
    """
    signal = np.asarray(samples, np.float64)
    assert signal.ndim == 1 and signal.size > 0, signal.shape
    signal = np.concatenate([signal[:1], signal[1:] - PREEMPHASIS * signal[:-1]])
    columns = 1 + max(0, -(-(signal.size - WINDOW) // STEP))
    signal = np.pad(signal, (0, max(0, (columns - 1) * STEP + WINDOW - signal.size)))
    windows = np.lib.stride_tricks.sliding_window_view(signal, WINDOW)[::STEP][:columns]
    power = np.abs(rfft(windows, FFT)) ** 2 / FFT  # pyright: ignore[reportArgumentType, reportCallIssue]  # scipy.fft has no types
    energy = power.sum(axis=1)
    bands = power @ mel_filters().T
    logs = np.log(np.where(bands == 0, TINY, bands))
    cepstrum = dct(logs, type=2, axis=1, norm="ortho")[:, :COEFFICIENTS]  # pyright: ignore[reportArgumentType, reportCallIssue]  # scipy.fft has no types
    cepstrum *= 1 + LIFTER / 2 * np.sin(np.pi * np.arange(COEFFICIENTS) / LIFTER)
    cepstrum[:, 0] = np.log(np.where(energy == 0, TINY, energy))
    return cepstrum.T
