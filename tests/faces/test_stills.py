"""Faces kept in the source's pixels: which, how much around them, and that one is always there."""

import av
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from latentsync.faces.alignment import TEMPLATE, similarity
from latentsync.faces.stills import STILLS, Stills, face_region, read_stills
from latentsync.faces.tracking import Track
from latentsync.media.frames import DisplayedFrame


def image(number: int) -> DisplayedFrame:
    """Its grey level is the frame's number."""
    return DisplayedFrame(av.VideoFrame.from_ndarray(np.full((240, 320, 3), number, np.uint8), "rgb24"), 0, False)


def track(start: int, found: np.ndarray, track_id: int = 0) -> Track:
    n = len(found)
    landmarks = np.repeat((TEMPLATE * 1.5 + [100, 60])[None], n, 0)
    return Track(start, start + n, track_id, None, None, landmarks, None, None, found, landmarks.mean(1), None)


@settings(max_examples=40, deadline=None)
@given(n_frames=st.integers(1, 130), data=st.data())
def test_the_frames_are_spread_and_only_finds_are_kept(tmp_path_factory, n_frames, data):
    start = data.draw(st.integers(0, n_frames - 1))
    stop = data.draw(st.integers(start + 1, n_frames))
    missing = set(data.draw(st.lists(st.integers(start + 1, stop), max_size=20)))
    found = np.array([number not in missing for number in range(start, stop)])
    matrix = similarity(TEMPLATE * 1.5 + [100, 60], 64)
    stills = Stills(n_frames)
    for number in range(start, stop):
        stills.add(0, number, image(number), matrix, 64)
    path = tmp_path_factory.mktemp("stills") / "x.npz"
    stills.write(path, track(start, found))
    levels = [int(np.median(still)) for still in read_stills(path, 99)]
    assert levels[0] == start and all(found[level - start] for level in levels)
    assert levels == sorted(set(levels)) and len(levels) <= STILLS + 1
    if found.all() and (start, stop) == (0, n_frames) and n_frames >= STILLS:
        assert len(levels) >= STILLS - 1 and np.diff(levels).max() <= -(-n_frames // STILLS)
    few = [int(np.median(still)) for still in read_stills(path, 3)]
    assert few[0] == levels[0] and few[-1] == levels[-1] and len(few) == min(3, len(levels))


def test_a_face_at_the_edge_is_kept_as_far_as_it_is_seen(tmp_path):
    landmarks = TEMPLATE * 1.5 + [-30, 200]
    stills = Stills(1)
    stills.add(0, 0, image(9), similarity(landmarks, 64), 64)
    one = track(0, np.ones(1, bool))
    one.landmarks[0] = landmarks
    stills.write(tmp_path / "x.npz", one)
    [still] = read_stills(tmp_path / "x.npz", 3)
    assert min(still.shape[:2]) > 10 and (still == 9).all()


def test_the_region_lies_in_the_frame_and_is_large_enough_and_not_too_large():
    image = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)

    def shape(x0, y0, x1, y1):
        return face_region(image, np.array([[x0, y0], [x1, y1]], float)).shape[:2]

    assert shape(100, 100, 200, 220) == (144, 120)
    assert shape(100, 100, 120, 125) == (96, 96)
    assert shape(-40, -30, 60, 70) == (120, 120)
    assert shape(0, 0, 400, 300) == (192, 256)
    assert face_region(image[:50, :70], np.array([[10.0, 10], [40, 40]])).shape[:2] == (50, 70)
