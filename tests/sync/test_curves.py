"""Offsets from curves: planted ones are found, unrelated audio is not, holes are harmless, SyncNet's are golden."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from latentsync.sync import curves

SHIFT = 15


def speech(seed: int, length_s: float) -> np.ndarray:
    """How far a mouth is open, 100 a second: uneven syllables and pauses."""
    rng = np.random.default_rng(seed)
    time = np.arange(round((length_s + 2) * 100)) / 100
    opening, at = np.zeros_like(time), 0.0
    while at < time[-1]:
        if rng.random() < 0.15:
            at += rng.uniform(0.2, 0.6)
        length = rng.uniform(0.14, 0.4)
        inside = np.clip((time - at) / length, 0, 1)
        opening = np.maximum(opening, rng.uniform(0.3, 1) * np.sin(np.pi * inside) ** 2)
        at += length * rng.uniform(0.8, 1.1)
    return opening


def audio_of(opening: np.ndarray, seed: int) -> np.ndarray:
    """Samples at 16 kHz, from one second into the opening: a buzz as loud as the mouth is open, and a little noise."""
    time = np.arange((len(opening) - 200) * 160) / 16000
    loud = np.interp(time + 1, np.arange(len(opening)) / 100, opening) ** 1.5
    buzz = sum(np.sin(2 * np.pi * 130 * k * time) / k for k in range(1, 20))
    return 0.2 * loud * buzz + 0.002 * np.random.default_rng(seed).standard_normal(len(time))


def envelope_of(audio: np.ndarray, n: int) -> np.ndarray:
    """As score_sync does it for a clip that is the whole file: unknown outside."""
    around = np.pad(audio, (800 + SHIFT * 640, 800 + (SHIFT + 1) * 640))
    envelope = curves.speech_envelope(around[: (n + 2 * SHIFT) * 640 + 1600], n + 2 * SHIFT)
    envelope[:SHIFT] = envelope[n + SHIFT :] = np.nan
    return envelope


def mouth_of(opening: np.ndarray, n: int, offset: int, noise: float, seed: int) -> np.ndarray:
    """What a detector measures when the video is `offset` ticks late."""
    times = 1 + (np.arange(n) - offset) / 25
    measured = 0.2 * np.interp(times, np.arange(len(opening)) / 100, opening)
    return measured + noise * np.random.default_rng(seed + 1).standard_normal(n)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    n=st.integers(75, 150),
    offset=st.integers(-12, 12),
    noise=st.sampled_from([0.003, 0.012]),
)
def test_a_planted_offset_is_found_surely(seed, n, offset, noise):
    opening = speech(seed, n / 25)
    curve = curves.envelope_curve(
        mouth_of(opening, n, offset, noise, seed), envelope_of(audio_of(opening, seed), n), SHIFT
    )
    found, confidence = curves.peak(curve)
    assert abs(found - offset) <= 1
    assert confidence > 4.5


def test_unrelated_audio_and_a_still_mouth_stay_below_what_the_right_audio_gets():
    n, right, wrong, still = 80, [], [], []
    for seed in range(40):
        mouth = mouth_of(speech(seed, n / 25), n, 3, 0.01, seed)
        own = envelope_of(audio_of(speech(seed, n / 25), seed), n)
        foreign = envelope_of(audio_of(speech(seed + 1000, n / 25), seed), n)
        jitter = 0.01 * np.random.default_rng(seed).standard_normal(n)
        right.append(curves.envelope_curve(mouth, own, SHIFT).max())
        wrong.append(curves.envelope_curve(mouth, foreign, SHIFT).max())
        still.append(curves.envelope_curve(jitter, own, SHIFT).max())
    assert min(right) > 6 and max(wrong) < 5 and max(still) < 2.5, (min(right), max(wrong), max(still))


def test_the_scale_is_that_of_chance():
    """Over unrelated pairs, one shift has about unit variance: the documented scale."""
    n, values = 100, []
    for seed in range(60):
        mouth = mouth_of(speech(seed, n / 25), n, 0, 0.006, seed)
        values.extend(
            curves.envelope_curve(mouth, envelope_of(audio_of(speech(seed + 500, n / 25), seed), n), SHIFT)[::6]
        )
    assert 0.7 < np.std(values) < 1.3 and abs(np.mean(values)) < 0.3


def test_holes_are_left_out():
    opening, n = speech(7, 4), 100
    mouth, envelope = mouth_of(opening, n, -6, 0.005, 7), envelope_of(audio_of(opening, 7), n)
    mouth[20:45] = np.nan
    curve = curves.envelope_curve(mouth, envelope, SHIFT)
    assert np.isfinite(curve).all()
    assert curves.peak(curve)[0] == -6


@pytest.mark.parametrize("mouth", [np.full(90, np.nan), np.zeros(90), np.full(90, 0.1)])
def test_a_mouth_that_says_nothing_gets_nothing(mouth):
    curve = curves.envelope_curve(mouth, envelope_of(audio_of(speech(1, 3.6), 1), 90), SHIFT)
    assert curves.peak(curve.round(9)) == (0, 0.0)


def test_silence_gets_nothing():
    curve = curves.envelope_curve(mouth_of(speech(1, 3.6), 90, 0, 0.01, 1), envelope_of(np.zeros(90 * 640), 90), SHIFT)
    assert curves.peak(curve) == (0, 0.0)


def test_a_clip_shorter_than_half_a_second_gets_nothing():
    opening = speech(3, 0.44)
    curve = curves.envelope_curve(mouth_of(opening, 11, 0, 0.0, 3), envelope_of(audio_of(opening, 3), 11), SHIFT)
    assert not curve.any()


def test_the_offset_of_a_clip_of_one_second_is_mostly_found():
    found = []
    for seed in range(30):
        opening, offset = speech(seed, 1.2), seed % 15 - 7
        curve = curves.envelope_curve(
            mouth_of(opening, 30, offset, 0.006, seed), envelope_of(audio_of(opening, seed), 30), SHIFT
        )
        found.append(abs(curves.peak(curve)[0] - offset) <= 1)
    assert np.mean(found) > 0.9


def test_loudness_does_not_matter():
    opening, n = speech(11, 4), 100
    mouth, audio = mouth_of(opening, n, 4, 0.005, 11), audio_of(opening, 11)
    loud, quiet = (curves.envelope_curve(mouth, envelope_of(gain * audio, n), SHIFT) for gain in (1, 0.01))
    np.testing.assert_allclose(loud, quiet, atol=0.05)


def test_of_equal_maxima_the_one_nearest_to_zero_wins():
    assert curves.peak(np.array([5.0, 0, 0, 5, 0])) == (1, 5.0)
    assert curves.peak(np.zeros(31)) == (0, 0.0)


def test_distances_are_those_of_the_original(golden):
    """golden/syncnet_v2: audio four frames late is -4; index i of the original is the offset 15 - i."""
    data = {
        k: v.astype(np.float64) for k, v in load_file(golden("syncnet_v2") / "synthetic_embeddings.safetensors").items()
    }
    wanted = load_file(golden("syncnet_v2") / "outputs.safetensors")
    each = curves.distances(data["video"], data["audio"], SHIFT)
    np.testing.assert_allclose(each[::-1].T, wanted["synthetic_dist_matrix"], atol=1e-3)
    means = curves.mean_distances(data["video"], data["audio"], SHIFT)
    np.testing.assert_allclose(means[::-1], wanted["synthetic_mean_dist"], atol=1e-3)
    offset, confidence = curves.peak(curves.distance_curve(data["video"], data["audio"], SHIFT))
    assert offset == -4
    assert confidence == pytest.approx(7.075444221496582, abs=1e-3)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), offset=st.integers(-10, 10))
def test_embeddings_that_agree_are_found_with_the_same_sign(seed, offset):
    audio = np.random.default_rng(seed).standard_normal((60, 16))
    video = np.roll(audio, offset, axis=0)  # late by offset
    assert curves.peak(curves.distance_curve(video, audio, SHIFT))[0] == offset


@given(v=st.integers(1, 20), max_shift=st.integers(1, 6), planted=st.data())
def test_equal_unit_vectors_are_found_at_their_shift(v, max_shift, planted):
    """Window w of the video was made from the audio of frame w - offset."""
    offset = planted.draw(st.integers(-max_shift, max_shift))
    audio = np.abs(np.random.default_rng(v).standard_normal((v + 2 * max_shift, 32)))
    audio /= np.linalg.norm(audio, axis=1, keepdims=True)
    video = audio[max_shift - offset : max_shift - offset + v]
    curve = curves.similarity_curve(video, audio, max_shift)
    assert curves.peak(curve)[0] == offset and len(curve) == 2 * max_shift + 1
    assert np.median(curve) == pytest.approx(0, abs=1e-12) and 0 < curve.max() < 1
