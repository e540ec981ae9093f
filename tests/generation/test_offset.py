"""The audio offset that is measured on a video's own audio."""

import dataclasses

import numpy as np
import pytest

from latentsync.faces.tracking import Track
from latentsync.generation.audio import DrivingAudio
from latentsync.generation.offset import own_offset

SECONDS, FPS = 6, 30


def talker(late_s: float) -> tuple[DrivingAudio, Track, np.ndarray]:
    """Noise whose loudness opens the mouth, which moves `late_s` after the audio."""
    rng = np.random.default_rng(3)
    steps = np.convolve(rng.uniform(0, 1, 25 * (SECONDS + 2)), np.ones(3) / 3, "same") ** 2

    def loudness(at_s: np.ndarray) -> np.ndarray:
        return np.interp(at_s + 1, np.arange(len(steps)) / 25, steps)

    at_s = np.arange(16_000 * SECONDS) / 16_000
    samples = (0.5 * loudness(at_s) * rng.standard_normal(len(at_s))).clip(-1, 1).astype(np.float32)
    times_s = np.arange(FPS * SECONDS) / FPS
    opening = 0.3 * np.sqrt(loudness(times_s - late_s)).astype(np.float32)
    n = len(times_s)
    shown = {"start": 0, "stop": n, "track_id": 0, "mouth_opening": opening, "found": np.ones(n, bool)}
    boxes = np.tile(np.float32([0, 0, 100, 100]), (n, 1))
    track = Track(**dict.fromkeys(field.name for field in dataclasses.fields(Track)) | shown | {"boxes": boxes})
    return DrivingAudio(samples), track, times_s


@pytest.mark.parametrize("late_s", [0.0, 0.12, -0.08])
def test_audio_follows_the_mouths(late_s):
    audio, track, times_s = talker(late_s)
    speaks = np.zeros(len(times_s), np.int64)
    offset_s, confidence = own_offset(audio, [track], speaks, times_s)
    assert offset_s == pytest.approx(late_s) and confidence > 8
    again, _ = own_offset(audio.shifted(offset_s), [track], speaks, times_s)
    assert again == 0


def test_without_strong_evidence_nothing_moves():
    audio, track, times_s = talker(0.0)
    speaks = np.zeros(len(times_s), np.int64)
    other = DrivingAudio(np.random.default_rng(5).permutation(audio.for_model))
    assert own_offset(other, [track], speaks, times_s)[0] == 0
    assert own_offset(audio, [], speaks - 1, times_s) == (0, 0)  # no face
    audio, track, times_s = talker(0.4)
    offset_s, confidence = own_offset(audio, [track], speaks, times_s)
    assert offset_s == 0 and confidence > 8  # further off than curation would follow
