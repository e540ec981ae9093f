"""Pauses of the audio, and which closed mouth each frame shows in them."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentsync.config import Generate
from latentsync.faces.tracking import Track
from latentsync.generation import gates, paste, silence, speakers
from latentsync.generation.audio import DrivingAudio
from latentsync.generation.pipeline import redraw
from latentsync.ledger.rows import Rejection
from latentsync.timing import SAMPLE_RATE_HZ
from tests.generation.test_two_voices import Loud
from tests.videos import head, write_video

TIMES_S = np.arange(100) / 25


def noise(length_s: float, level_db: float, seed: int = 0) -> np.ndarray:
    n = round(length_s * SAMPLE_RATE_HZ)
    return (np.random.default_rng(seed).standard_normal(n) * 10 ** (level_db / 20)).astype(np.float32)


def track(opening: np.ndarray) -> Track:
    n = len(opening)
    anchors = np.tile(np.array([[40, 40], [80, 40], [60, 70]], np.float32), (n, 1, 1))
    return Track(
        start=10,
        stop=10 + n,
        track_id=0,
        anchors=anchors,
        raw_anchors=anchors,
        landmarks=np.zeros((n, 0, 2), np.float32),
        boxes=np.tile(np.array([0, 0, 100, 120], np.float32), (n, 1)),
        mouth_opening=opening.astype(np.float32),
        found=np.ones(n, bool),
        centres=np.full((n, 2), 60, np.float32),
        measures=np.zeros((n, 0), np.float32),
    )


@pytest.mark.parametrize("background_db", [-120, -55, -45])
def test_a_gap_between_loud_parts_is_a_pause(background_db):
    samples = np.concatenate([noise(1, -20, 1), noise(0.6, background_db, 2), noise(1, -20, 3)])
    [[start_s, end_s]] = silence.pauses(samples)
    assert abs(start_s - 1) < 0.03 and abs(end_s - 1.6) < 0.03


def test_short_gaps_and_steady_noise_are_no_pauses():
    assert not len(silence.pauses(np.concatenate([noise(1, -20), noise(0.2, -120), noise(1, -20)])))
    assert not len(silence.pauses(noise(2, -20)))


def test_silence_without_speech_is_one_pause():
    assert silence.pauses(np.zeros(SAMPLE_RATE_HZ, np.float32)).tolist() == [[-np.inf, np.inf]]


@given(start_s=st.floats(0.1, 2), length_s=st.floats(0.25, 1.5), fps=st.sampled_from([16, 25, 60]))
@settings(max_examples=40, deadline=None)
def test_the_mouth_closes_within_the_pause_and_never_jumps(start_s, length_s, fps):
    times_s = np.arange(4 * fps) / fps
    share = silence.closed_share(np.array([[start_s, start_s + length_s]]), times_s)
    outside = (times_s <= start_s) | (times_s >= start_s + length_s - silence.LEAD_S)
    assert not share[outside].any() and share.max() <= 1
    assert np.abs(np.diff(share)).max() <= 1 / fps / silence.FADE_S + 1e-5


def test_a_face_that_never_closes_its_mouth_stays_as_generated():
    plan = _planned(np.full(100, 0.1))
    assert plan.n_open == 50 and not plan.shares.any() and "50 frames" in silence.why_open(plan.n_open)


def test_references_are_frames_with_closed_mouths():
    opening = np.full(100, 0.2)
    opening[20:25] = 0.01
    plan = _planned(opening)
    assert plan.n_open == 0 and len(plan.frames) and set(plan.frames) <= set(range(30, 35))  # of the video
    np.testing.assert_allclose(plan.shares.sum(1), _share(), atol=1e-5)


def test_a_closed_mouth_of_the_frame_itself_is_preferred():
    plan = _planned(np.zeros(100))
    assert not len(plan.frames)
    generated, _ = plan.opacities(np.ones(100, np.float32))
    np.testing.assert_allclose(generated, 1 - _share(), atol=1e-5)


def test_pauses_may_keep_the_frames_of_the_source(detector, tmp_path):
    sound = np.concatenate([noise(0.8, -20, 1), noise(0.8, -120, 2), noise(0.8, -20, 3)])
    video = write_video(tmp_path / "in.mp4", 60, images=head, size=(208, 176))
    tracks = speakers.track_video(video, detector, measure=gates.measure_faces(detector.scheme))
    cfg = Generate(silence="keep", steps=1, max_s=None)
    made = redraw(video, DrivingAudio(sound), tmp_path / "out.mp4", Loud(), cfg, tracks)
    kept = made["passed_through"].pop("silence")
    assert 10 <= kept <= 20 and not made["passed_through"] and made["n_generated"] == 60 - kept
    quiet = DrivingAudio(np.zeros(16_000, np.float32))
    with pytest.raises(Rejection, match="pauses"):
        redraw(video, quiet, tmp_path / "none.mp4", Loud(), cfg, tracks)


def test_only_the_lips_of_a_reference_are_pasted():
    whole, lips = paste.opacity(256), silence.lips(256)
    assert (lips <= whole).all() and lips.max() > 0.95 and lips[round(0.62 * 256), 128] > 0.95
    assert lips[:100].max() == 0 and lips[250:].max() == 0 and lips.sum() < whole.sum() / 2


def test_pursed_lips_are_no_closed_mouth():
    one = track(np.zeros(20))
    points = np.tile(np.float32([[0, 0], [0, -3], [-4, -3], [4, -3], [-3, 4], [3, 4]]), (20, 1, 1))
    points[5:10, 4:, 0] *= 0.7
    measures = np.concatenate([points.reshape(20, 12), np.ones((20, 2)), np.full((20, 51), 100)], 1)
    one = dataclasses.replace(one, measures=measures.astype(np.float32))
    assert np.flatnonzero(~silence.is_closed(one, Generate(max_yaw_deg=90))).tolist() == list(range(5, 10))


def test_a_reference_takes_the_light_of_the_frame():
    other = np.random.default_rng(0).integers(60, 120, (256, 256, 3), dtype=np.uint8)
    lit = silence.in_light_of(other + np.uint8(40), other)
    assert np.abs(lit - other - 40.0).max() < 1


def _share() -> np.ndarray:
    return (np.arange(100) >= 50).astype(np.float32)


def _planned(opening: np.ndarray) -> silence.Closing:
    one = dataclasses.replace(track(opening), shot=(0, 110))
    return silence.plan_closing([one], np.zeros(100, np.int64), np.arange(100) + 10, TIMES_S, _share(), Generate())
