"""Synthetic speech without words: syllables from a source-filter model, and the mouth opening that goes with them.

One trajectory drives both. Its peaks choose the vowel (wide open is a, nearly closed is i or u, as in people), and its
height sets the loudness, so the audio determines the mouth opening. Onsets have fricatives and bursts, phrases have
falling pitch, and pauses are silent or contain room noise. The rhythm never repeats, so no other shift fits.

Axes: n audio samples at RATE_HZ, m control points at CONTROL_HZ. The control points extend MARGIN_S beyond both ends of
the audio, so that frames shifted against the audio have a mouth opening, too.
"""

from dataclasses import dataclass

import numpy as np
from scipy.signal import butter, lfilter, resample_poly, sosfilt

RATE_HZ = 16_000
CONTROL_HZ = 200
MARGIN_S = 1.0
# Mouth opening, and formants in Hz of a vocal tract of medium length (after Peterson and Barney 1952).
VOWELS = (
    (0.0, (290, 2200, 2950)),  # i
    (0.15, (310, 900, 2300)),  # u
    (0.4, (440, 1950, 2600)),  # e
    (0.5, (480, 900, 2500)),  # o
    (0.75, (640, 1750, 2500)),  # ae
    (0.85, (760, 1250, 2550)),  # a
)
BANDWIDTH_HZ = (70, 90, 130, 200)
ROOM_DB = -58.0


@dataclass(frozen=True)
class Voice:
    """audio: float32 (n,) at RATE_HZ from time zero; opening: float64 (m,) at CONTROL_HZ from -MARGIN_S."""

    audio: np.ndarray
    opening: np.ndarray

    def opening_at(self, time_s: np.ndarray | float) -> np.ndarray:
        """Mouth opening at a time, 0 to 1."""
        at = (np.asarray(time_s, np.float64) + MARGIN_S) * CONTROL_HZ
        return np.interp(at, np.arange(len(self.opening)), self.opening)


@dataclass(frozen=True)
class Syllable:
    """start_s and length_s of the mouth movement, its peak (0 to 1), and the audio that goes with it."""

    start_s: float
    length_s: float
    peak: float
    vowel: int
    gain: float  # loudness relative to the opening, about 1
    onset: str  # "", "s", "f" or "t"


def speak(rng: np.random.Generator, duration_s: float, pitch_hz: float, tract: float) -> Voice:
    """Speech of `duration_s`; `tract` scales the formants (above 1: short vocal tract)."""
    total_s = duration_s + 2 * MARGIN_S
    syllables, phrases = _rhythm(rng, total_s)
    control = np.arange(round(total_s * CONTROL_HZ)) / CONTROL_HZ
    shut, loud = np.ones_like(control), np.zeros_like(control)
    for s in syllables:
        bump = s.peak * _bump(control, s.start_s, s.length_s)
        shut *= 1 - bump
        loud = np.maximum(loud, bump**1.5 * s.gain)
    opening = 1 - shut
    n = round(total_s * RATE_HZ)
    time = np.arange(n) / RATE_HZ
    source = _glottis(rng, time, phrases, pitch_hz)
    voiced = np.zeros(n)
    window = np.hanning(9) / np.hanning(9).sum()  # smooths the transitions between formants
    for vowel, (_, formants) in enumerate(VOWELS):
        spans = [_bump(control, s.start_s - 0.02, s.length_s + 0.04) > 0 for s in syllables if s.vowel == vowel]
        if spans:
            weight = np.convolve(np.any(spans, axis=0), window, mode="same")
            voiced += np.interp(time, control, weight) * _formants(source, np.array(formants) * tract)
    level = np.interp(time, control, loud) * (1 + 0.06 * np.interp(time, control, rng.standard_normal(len(control))))
    audio = voiced / (voiced.std() + 1e-9) * level
    audio += _consonants(rng, syllables, time)
    audio *= 10 ** (rng.uniform(-19, -13) / 20) / (np.abs(audio).max() + 1e-9) * 4
    room = 10 ** (ROOM_DB / 20) * _room(rng, n)
    # Every second recording is noise-gated: a model trained without digital silence opens the mouth when it occurs.
    gated = rng.random() < 0.5
    audio += room * np.interp(time, control, loud > 1e-3) if gated else room
    first, last = round(MARGIN_S * RATE_HZ), round((MARGIN_S + duration_s) * RATE_HZ)
    return Voice(np.clip(audio, -0.98, 0.98)[first:last].astype(np.float32), opening)


def at_48k(audio: np.ndarray) -> np.ndarray:
    """The audio at 48 kHz, as a camera stores it, float32."""
    return np.clip(resample_poly(audio, 3, 1), -1, 1).astype(np.float32)


def _rhythm(rng: np.random.Generator, total_s: float) -> tuple[list[Syllable], list[tuple[float, float]]]:
    """Syllables in phrases of 2 to 6, and start and end of each phrase; lengths, peaks and pauses are irregular."""
    syllables: list[Syllable] = []
    phrases = []
    at = rng.uniform(0.0, 0.3)
    while at < total_s:
        start = at
        for _ in range(rng.integers(2, 7)):
            length = float(np.exp(rng.uniform(np.log(0.18), np.log(0.46))))
            peak = float(rng.uniform(0.22, 1.0))
            fits = np.array([abs(peak - openness) for openness, _ in VOWELS])
            vowel = int(rng.choice(np.argsort(fits)[:2]))
            onset = str(rng.choice(("", "", "s", "f", "t", "t")))
            syllables.append(Syllable(float(at), length, peak, vowel, float(rng.uniform(0.85, 1.18)), onset))
            at += length * rng.uniform(0.72, 0.98) + (rng.uniform(0.03, 0.08) if onset else 0)
        phrases.append((start, float(at)))
        at += rng.uniform(0.12, 0.5)
    return syllables, phrases


def _bump(time: np.ndarray, start_s: float, length_s: float) -> np.ndarray:
    """0 outside, up to 1 inside: the mouth opens faster than it closes."""
    x = np.clip((time - start_s) / length_s, 0, 1) ** 0.85
    return np.sin(np.pi * x) ** 1.6


def _glottis(
    rng: np.random.Generator, time: np.ndarray, phrases: list[tuple[float, float]], pitch_hz: float
) -> np.ndarray:
    """Pulse train: derivative of Rosenberg's glottal flow, with falling pitch per phrase, jitter and breath noise."""
    hertz = np.full_like(time, pitch_hz)
    for start, end in phrases:
        inside = (time >= start) & (time < end)
        fall = (time[inside] - start) / max(end - start, 0.1)
        lilt = rng.uniform(0.03, 0.08) * np.sin(2 * np.pi * (rng.uniform(1.5, 3) * time[inside] + rng.uniform()))
        hertz[inside] *= 1.12 - 0.26 * fall + lilt
    every_10_ms = np.arange(0, time[-1] + 0.01, 0.01)
    jitter = np.interp(time, every_10_ms, rng.standard_normal(len(every_10_ms)))
    phase = np.cumsum(hertz * (1 + 0.008 * jitter)) / RATE_HZ % 1.0
    rise, fall_end = 0.42, 0.6
    flow = np.where(
        phase < rise,
        0.5 * (1 - np.cos(np.pi * phase / rise)),
        np.where(phase < fall_end, np.cos(np.pi / 2 * (phase - rise) / (fall_end - rise)), 0.0),
    )
    pulses = np.diff(flow, prepend=0.0)
    return pulses / pulses.std() + 0.06 * rng.standard_normal(len(time))


def _formants(source: np.ndarray, formants_hz: np.ndarray) -> np.ndarray:
    """Klatt's cascade of two-pole resonators with unit gain at 0 Hz; the fourth is at 3600 Hz."""
    result = source
    for hertz, bandwidth in zip((*formants_hz, 3600.0), BANDWIDTH_HZ, strict=True):
        radius = np.exp(-np.pi * bandwidth / RATE_HZ)
        b, c = 2 * radius * np.cos(2 * np.pi * hertz / RATE_HZ), -(radius**2)
        result = lfilter([1 - b - c], [1, -b, -c], result)
    return result / (result.std() + 1e-9)  # pyright: ignore[reportAttributeAccessIssue]  # no tuple without zi


# Each onset: noise band in Hz, length in s, amplitude.
_ONSETS = {"s": (4200, 7400, 0.08, 0.05), "f": (1500, 6500, 0.07, 0.025), "t": (2500, 6500, 0.022, 0.09)}


def _consonants(rng: np.random.Generator, syllables: list[Syllable], time: np.ndarray) -> np.ndarray:
    """Noise at the onsets, too soft to be taken for an open mouth."""
    audio = np.zeros_like(time)
    for kind, (low, high, length_s, height) in _ONSETS.items():
        noise = sosfilt(butter(2, (low, high), "bandpass", fs=RATE_HZ, output="sos"), rng.standard_normal(len(time)))
        envelope = np.zeros_like(time)
        for s in syllables:
            if s.onset == kind:
                x = (time - (s.start_s - length_s * 0.5)) / length_s
                envelope += np.where((x > 0) & (x < 1), np.sin(np.pi * np.clip(x, 0, 1)), 0.0)
        audio += height * envelope * noise / noise.std()  # pyright: ignore[reportAttributeAccessIssue]  # no tuple without zi
    return audio


def _room(rng: np.random.Generator, n: int) -> np.ndarray:
    """Quiet low-pass noise."""
    noise = lfilter([0.1], [1, -0.9], rng.standard_normal(n))
    return noise / noise.std()  # pyright: ignore[reportAttributeAccessIssue]  # no tuple without zi
