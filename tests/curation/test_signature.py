"""Signatures stay what they are under all that a copy changes, and are 0 where nothing moves or sounds."""

import numpy as np
import pytest

from latentsync.curation import signature
from tests.curation.films import Film

FILM = Film(1, 12.0)
INNER = slice(5, -5)  # at its ends a clip does not see what came before


def faces(**changes) -> np.ndarray:
    return signature.from_text(FILM.clip("a.mp4", 2.0, 6.0, **changes)["face_signature"], 7).astype(int)


def test_a_face_at_another_size_or_place_has_the_same_signature():
    assert np.abs(faces(scale=0.4) - faces()).max() <= 1
    assert faces().std(0).min() > 3  # in every channel something is seen


def test_parts_of_a_film_are_parts_of_its_signature():
    """Clips that begin at even and odd ticks."""
    whole = signature.from_text(FILM.clip("a.mp4", 0.0, 10.0)["face_signature"], 7)
    heard = FILM.heard(0.0, 250, 0, 1.0)
    for start in (50, 75):
        part = signature.from_text(FILM.clip("a.mp4", start / 25, 4.0, start)["face_signature"], 7)
        at = signature.even_ticks(start, start + 100) // 2
        assert len(part) == len(at) and (part[INNER] == whole[at][INNER]).all()
        assert (
            np.abs(FILM.heard(start / 25, 100, start, 1.0).astype(int) - heard[at]).mean() < 2
        )  # the floor depends on the part


@pytest.mark.parametrize("fps", [15, 24, 30000 / 1001, 30, 60])
def test_another_frame_rate_changes_it_little(fps):
    a, b = faces()[INNER].ravel(), faces(fps=fps)[INNER].ravel()
    assert np.corrcoef(a, b)[0, 1] > (0.93 if fps < 24 else 0.96)


def test_volume_changes_nothing_and_another_voice_everything():
    heard = FILM.heard(2.0, 150, 0, 1.0)
    assert np.abs(FILM.heard(2.0, 150, 0, 0.2).astype(int) - heard).max() <= 1
    other = Film(2, 12.0).heard(2.0, 150, 0, 1.0)
    assert abs(np.corrcoef(heard.ravel(), other.ravel())[0, 1]) < 0.2


def test_silence_and_a_still_face_are_zero():
    samples = np.zeros((100 + 2 * signature.AROUND_TICKS) * 640, np.float32)
    assert not signature.audio_signature(samples, 7).any()
    hiss = samples + 1e-5 * np.random.default_rng(0).standard_normal(len(samples)).astype(np.float32)
    assert np.abs(signature.audio_signature(hiss, 7)).max() <= 2
    still = np.repeat(np.array([[[0.3, 0.0, 5.0], [0.0, 0.3, 7.0]]]), 100, 0)
    found = signature.face_signature(still, np.zeros((100, 2)), np.full(100, 0.2), 64, 7)
    assert found is not None and found.shape == (50, 7) and not found.any()
    assert signature.face_signature(still, np.zeros((100, 2)), np.full(100, np.nan), 64, 7) is None


def test_text_is_short_and_read_back():
    found = FILM.heard(0.0, 250, 0, 1.0)
    text = signature.as_text(found)
    assert (signature.from_text(text, found.shape[1]) == found).all() and len(text) < 150 * 10
    assert signature.as_text(None) is None
