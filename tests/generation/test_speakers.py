"""Which face is redrawn: the largest, the one that speaks, one by its side, number or place."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentsync.config import validate
from latentsync.faces.tracking import Track
from latentsync.generation import speakers
from latentsync.generation.speakers import NO_FACE, OTHER_FACE


def a_track(start: int, stop: int, x: float = 100, width: float = 60, opening=None) -> Track:
    n = stop - start
    boxes = np.tile(np.float32([x - width / 2, 50, x + width / 2, 130]), (n, 1))
    centres = np.tile(np.float32([x, 90]), (n, 1))
    opening = np.full(n, 0.1, np.float32) if opening is None else opening.astype(np.float32)
    return Track(start, stop, 0, None, None, None, boxes, opening, np.ones(n, bool), centres, np.zeros((n, 0)))


LEFT, RIGHT, LATER = a_track(0, 40, 80, 60), a_track(0, 30, 300, 90), a_track(50, 60, 200, 40)
TRACKS = [RIGHT, LEFT, LATER]


@pytest.mark.parametrize(
    ("face", "first", "taken"),
    [
        ("largest", 0, (1,)),
        ("left", 1, (1, 2)),
        ("right", 0, (1,)),
        ("1", 0, (1,)),
        ("2", 1, (2,)),
        ("81,60", 1, (2,)),
        ("300.5,129", 0, (1,)),
    ],
)
def test_the_named_face_is_taken_and_the_others_are_counted(face, first, taken):
    choice = speakers.choose(TRACKS, 70, face)
    assert choice.taken == taken and choice.n_left_alone == 2 - len(taken)
    assert (choice.labels[:30] == first).all() and (choice.labels[60:] == NO_FACE).all()
    stays = choice.labels[50:60]  # another shot: the person of a number or point, elsewhere whoever is there
    assert (stays == (OTHER_FACE if face in ("2", "81,60") else 2)).all()


def test_the_choice_in_words():
    assert str(speakers.choose(TRACKS, 70)) == "face 1 of 2"
    assert str(speakers.choose(TRACKS, 70, "left")) == "face 1 and face 2 of 2"
    assert str(speakers.choose([], 70)) == "no face of 0"


def test_faces_known_to_speak_come_first():
    assert (speakers.choose(TRACKS, 70, "largest", chosen=[1]).labels[:40] == 1).all()
    assert (speakers.choose(TRACKS, 70, "1", chosen=[1]).labels[:40] == 1).all()


@pytest.mark.parametrize(
    ("face", "words"),
    [
        ("3", "--face 3 is not there: the video has 2 faces"),
        ("500,90", "--face 500,90 lies in no face"),
    ],
)
def test_a_face_that_is_not_there_is_one_sentence(face, words):
    with pytest.raises(ValueError, match=words):
        speakers.choose(TRACKS, 70, face)


tracks = st.lists(
    st.builds(
        lambda start, n, x, width: a_track(start, start + n, x, width),
        *(st.integers(0, 50), st.integers(1, 30), st.integers(50, 400), st.integers(40, 200)),
    ),
    max_size=6,
)


@settings(max_examples=100, deadline=None)
@given(tracks, st.sampled_from(["largest", "left", "right"]))
def test_every_track_belongs_to_one_person_who_is_in_one_place_at_a_time(found, face):
    persons = speakers.people(found)
    assert sorted(index for own in persons for index in own) == list(range(len(found)))
    for own in persons:
        seen = np.zeros(80, int)
        for index in own:
            seen[found[index].start : found[index].stop] += 1
        assert seen.max() == 1
    choice = speakers.choose(found, 80, face)
    covered = np.zeros(80, bool)
    for track in found:
        covered[track.start : track.stop] = True
    assert ((choice.labels == NO_FACE) == ~covered).all()
    for index in set(choice.labels[choice.labels >= 0].tolist()):
        assert (choice.labels[found[index].start : found[index].stop] == index).all()  # never half a track
    for number in range(1, len(persons) + 1):
        labels = speakers.choose(found, 80, str(number)).labels
        assert set(labels[labels >= 0].tolist()) == set(persons[number - 1])


def syllables(n: int, fps: float, seed: int) -> np.ndarray:
    """Opening 0..1 of n frames that opens and closes some five times a second."""
    rng, t = np.random.default_rng(seed), np.arange(n) / fps
    return np.clip(sum(np.sin(2 * np.pi * f * t + rng.uniform(0, 6)) for f in rng.uniform(2, 6, 4)) / 2, 0, 1)


def sound_of(opening: np.ndarray, fps: float, seed: int = 0) -> np.ndarray:
    """Noise as loud as a mouth is open, float32 at 16 kHz."""
    at = np.arange(round(len(opening) / fps * 16_000)) / 16_000 * fps
    noise = np.random.default_rng(seed).normal(0, 0.2, len(at))
    return (noise * np.interp(at, np.arange(len(opening)), opening) ** 2).astype(np.float32)


@pytest.mark.parametrize(("fps", "late"), [(25, 0), (30, 3), (50, -3)])
def test_the_one_whose_mouth_moves_with_the_audio_speaks(fps, late):
    n = round(6 * fps)
    said, other = syllables(n, fps, 1), syllables(n, fps, 2)
    times_s = np.arange(n) / fps
    shown = np.roll(said, late)
    found = [a_track(0, n, 300, 90, 0.2 * other), a_track(0, n, 100, 60, 0.2 * shown), a_track(0, n, 200, 80)]
    agreement = speakers.audio_agreement(times_s, sound_of(said, fps))
    values = [agreement(track) for track in found]
    assert values[1] > 5 > max(values[0], values[2]) and values[2] < 1
    assert (speakers.choose(found, n, "speaking", agreement=agreement).labels == 1).all()


def test_agreement_is_the_same_in_a_later_part_and_beyond_the_audio():
    fps, n = 25, 250
    said = syllables(n, fps, 3)
    agreement = speakers.audio_agreement(
        np.arange(2 * n) / fps, np.concatenate([np.zeros(160_000), sound_of(said, fps)])
    )
    assert agreement(a_track(n, 2 * n, opening=0.2 * said)) > 5
    short = speakers.audio_agreement(np.arange(n) / fps, sound_of(said, fps)[:80_000])
    assert short(a_track(0, n, opening=0.2 * said)) > 5
    assert short(a_track(140, n, opening=0.2 * said[140:])) == 0  # after the end there is nothing to agree with
    assert short(a_track(0, 1, opening=said[:1])) == 0


@pytest.mark.parametrize("face", ["tallest", "0", "1,", "-1,3", "1,2,3", "Left", ""])
def test_a_value_that_means_nothing_is_refused_with_the_others(face):
    with pytest.raises(ValueError, match=f"--face {face} is not known; choose largest, speaking"):
        validate({"generate": {"face": face}})
