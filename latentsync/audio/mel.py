"""The two log-mel spectrograms in use, both of 16 kHz mono audio. No torch, no librosa.

StableSyncNet's (Wav2Lip's recipe): 80 bands, 80 columns a second. Whisper's: 80 bands, 100 columns a second.
Both use Slaney's mel scale with area-normalised triangles (Auditory Toolbox, 1998), as librosa does.
"""

from functools import lru_cache

import numpy as np
import scipy.fft
from jaxtyping import Float, Float32

SAMPLE_RATE_HZ = 16_000
N_MELS = 80
SYNCNET_FFT, SYNCNET_HOP = 800, 200
WHISPER_FFT, WHISPER_HOP = 400, 160
_BLOCK = 4096  # columns computed at a time: the spectra of an hour of audio would take gigabytes


def syncnet_mel(samples: Float[np.ndarray, " n"]) -> Float32[np.ndarray, "80 t"]:
    """StableSyncNet's mel: float32 [80, 1 + n // 200] in [-4, 4]: -4 is -100 dB or less, 4 is 0 dB or more.

    Decibels are relative to Wav2Lip's reference of 20 dB. The loudness is not normalised. samples: in [-1, 1].
    """
    samples = np.asarray(samples, np.float64)
    if len(samples) == 0:
        return np.full((N_MELS, 1), -4, np.float32)
    emphasised = samples - 0.97 * np.concatenate([[0.0], samples[:-1]])
    padded = np.pad(emphasised, SYNCNET_FFT // 2)
    filters = mel_filters(SYNCNET_FFT, 55, 7600)
    mel = _mel(padded, filters, SYNCNET_HOP, 1 + len(samples) // SYNCNET_HOP, power=1)
    decibel = 20 * np.log10(np.maximum(1e-5, mel)) - 20
    return np.clip(8 * (decibel + 100) / 100 - 4, -4, 4).astype(np.float32)


def whisper_logmel(samples: Float[np.ndarray, " n"]) -> Float32[np.ndarray, "80 t"]:
    """Whisper's log-mel over the whole audio: float32 [80, n // 160].

    Values are clamped at 8 (a factor of 10^8 in power) below the loudest value of the whole audio, so every column
    depends on all of it. Upstream's last STFT column is dropped here too.
    """
    columns = len(samples) // WHISPER_HOP
    if columns == 0:
        return np.zeros((N_MELS, 0), np.float32)
    half = WHISPER_FFT // 2
    padded = np.pad(samples, half, mode="reflect" if len(samples) > half else "constant")
    log = _mel(padded, mel_filters(WHISPER_FFT, 0, SAMPLE_RATE_HZ / 2), WHISPER_HOP, columns, power=2)
    np.log10(np.maximum(1e-10, log, out=log), out=log)  # in place: an hour of audio is 230 MB
    log = np.maximum(log, log.max() - 8, out=log)
    log += 4
    log /= 4
    return log.astype(np.float32)


def _mel(padded: np.ndarray, filters: np.ndarray, hop: int, count: int, power: int) -> np.ndarray:
    """Filtered magnitudes (power 1) or squares of them (2) of `count` Hann-windowed spectra: float64 [80, count]."""
    n_fft = 2 * (filters.shape[1] - 1)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)  # periodic
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop][:count]
    result = np.empty((len(filters), count))
    for start in range(0, count, _BLOCK):
        magnitudes = np.abs(scipy.fft.rfft(frames[start : start + _BLOCK] * window))  # pyright: ignore[reportArgumentType, reportCallIssue]  # scipy.fft has no types
        result[:, start : start + _BLOCK] = filters @ (magnitudes**power).T
    return result


@lru_cache
def mel_filters(n_fft: int, low_hz: float, high_hz: float) -> Float32[np.ndarray, "80 bins"]:
    """Triangular filters [80, n_fft/2 + 1] of unit area in Hz, evenly spaced on Slaney's mel scale."""
    edges = _mel_to_hz(np.linspace(_hz_to_mel(low_hz), _hz_to_mel(high_hz), N_MELS + 2))
    bins = np.linspace(0, SAMPLE_RATE_HZ / 2, n_fft // 2 + 1)
    rising = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    triangles = np.maximum(0, np.minimum(rising, falling))
    filters = triangles * (2 / (edges[2:] - edges[:-2]))[:, None]
    filters = filters.astype(np.float32)  # the precision that librosa and Whisper store
    filters.setflags(write=False)
    return filters


# Slaney's scale: linear up to 1000 Hz (15 mel), then a factor of 6.4 every 27 mel.
_LINEAR_HZ, _BREAK_HZ, _BREAK_MEL, _STEP = 200 / 3, 1000.0, 15.0, np.log(6.4) / 27


def _hz_to_mel(hz: float) -> float:
    return hz / _LINEAR_HZ if hz < _BREAK_HZ else _BREAK_MEL + np.log(hz / _BREAK_HZ) / _STEP


def _mel_to_hz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < _BREAK_MEL, mel * _LINEAR_HZ, _BREAK_HZ * np.exp((mel - _BREAK_MEL) * _STEP))
