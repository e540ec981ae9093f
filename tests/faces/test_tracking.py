"""Tracking faces: which detection belongs to which track, gaps, numbering, and anchors without jitter."""

import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import savgol_filter

from latentsync.faces import smoothing
from latentsync.faces.backends import IBUG_68
from latentsync.faces.face import Face
from latentsync.faces.smoothing import jitter_px, smooth, steady
from latentsync.faces.tracking import track_faces


def face(x: float, y: float = 100, width: float = 60) -> Face:
    """A face of 68 points whose box is `width` wide about (x, y)."""
    grid = np.stack(np.meshgrid(np.linspace(-0.5, 0.5, 17), np.linspace(-0.6, 0.6, 4)), -1).reshape(-1, 2)
    found = IBUG_68.face(grid * width + [x, y])
    return Face(found.box, found.landmarks, found.anchors, 0.25)


class Script:
    """A detector that finds what was written for each frame; the frame's first pixel is its number."""

    def __init__(self, faces: dict[int, list[Face]]):
        self.faces, self.resets, self.seen = faces, [], -1

    def detect(self, rgb):
        self.seen = int(rgb[0, 0, 0])
        return self.faces.get(self.seen, [])

    def reset(self):
        self.resets.append(self.seen + 1)


def frames(n: int, cuts=()):
    """Frames whose size changes at each cut."""
    for number in range(n):
        side = 2 + sum(cut <= number for cut in cuts)
        yield np.full((side, side, 3), number, np.uint8)


def follow(faces: dict[int, list[Face]], n: int = 40, max_gap: int = 3, cuts=(), **more):
    return track_faces(frames(n, cuts), Script(faces), max_gap, **more)


def test_one_face_all_the_way():
    [track] = follow({t: [face(100 + t)] for t in range(40)})
    assert (track.start, track.stop, track.found.all()) == (0, 40, True)
    assert track.anchors.shape == (40, 3, 2) and track.landmarks.shape == (40, 68, 2) and track.boxes.shape == (40, 4)
    assert track.anchors.dtype == track.landmarks.dtype == track.mouth_opening.dtype == np.float32
    assert (track.mouth_opening == 0.25).all() and track.face_px == pytest.approx(60)
    assert np.abs(np.diff(track.anchors[:, 0, 0]) - 1).max() < 1e-3  # a straight course stays one


def test_a_short_gap_is_bridged_and_marked():
    gap = (10, 11, 12)
    [track] = follow({t: [face(100 + 2 * t)] for t in range(40) if t not in gap})
    assert track.found.sum() == 37 and not track.found[list(gap)].any()
    assert np.isnan(track.mouth_opening[list(gap)]).all() and np.isfinite(track.mouth_opening[track.found]).all()
    centres = track.boxes[:, ::2].mean(1)
    assert np.abs(centres - (100 + 2 * np.arange(40))).max() < 1e-3
    assert np.abs(track.landmarks[11] - (track.landmarks[9] + track.landmarks[13]) / 2).max() < 1e-3


def test_a_long_gap_ends_the_track():
    early, late = follow({t: [face(100, width=60 if t < 10 else 50)] for t in range(40) if not 10 <= t < 14})
    assert [(t.start, t.stop) for t in (early, late)] == [(0, 10), (14, 40)]
    assert early.found.all() and late.found.all()


def test_a_gap_at_the_end_is_cut_off():
    [track] = follow({t: [face(100)] for t in range(5, 38)})
    assert (track.start, track.stop) == (5, 38)


def test_two_faces_keep_to_themselves_whatever_the_order_of_finds_and_the_larger_is_first():
    script = {t: [face(100 + t), face(300 - t, width=70)][:: 1 if t % 2 else -1] for t in range(40)}
    large, small = follow(script)
    assert (large.boxes[:, 0] > 200).all() and (small.boxes[:, 2] < 200).all()
    assert large.face_px > small.face_px
    again = follow(script)
    assert all((a.anchors == b.anchors).all() for a, b in zip((large, small), again, strict=True))


@pytest.mark.parametrize("jump", [(200, 60), (100, 120)])
def test_a_face_that_jumps_or_swells_is_another_face(jump):
    x, width = jump
    tracks = follow({t: [face(100)] if t < 20 else [face(x, width=width)] for t in range(40)})
    assert sorted((t.start, t.stop) for t in tracks) == [(0, 20), (20, 40)]


@pytest.mark.parametrize("hidden_px", [3, 40])
def test_faces_that_pass_one_another_are_never_taken_for_each_other(hidden_px):
    """Two people change places, the one in front hides the other; who is who afterwards is not known."""

    def person(which: int, x: float) -> Face:
        found = face(x, width=60 + which)
        return Face(found.box, found.landmarks, found.anchors, 0.2 if which == 0 else 0.6)

    script = {}
    for t in range(60):
        places = 100 + 4 * t, 340 - 4 * t
        hidden = abs(places[0] - places[1]) < hidden_px
        script[t] = [person(0, places[0])] + ([] if hidden else [person(1, places[1])])
    tracks = follow(script, n=60, max_gap=8)
    for track in tracks:
        openings = track.mouth_opening[np.isfinite(track.mouth_opening)]
        assert np.ptp(openings) < 0.01, "two people in one track"
    long = [track for track in tracks if track.stop - track.start >= 20]
    assert len(long) >= 3  # one of each before the meeting, and at least the one in front after it
    assert {round(float(np.nanmean(track.mouth_opening)), 1) for track in long} == {0.2, 0.6}


def test_neighbours_whose_boxes_touch_keep_their_tracks():
    script = {t: [face(100 + t / 2, width=60), face(150 + t / 2, width=62)] for t in range(40)}
    assert [(track.start, track.stop) for track in follow(script)] == [(0, 40), (0, 40)]


@settings(max_examples=30, deadline=None)
@given(deviation_px=st.floats(0.05, 2), speed=st.floats(-3, 3), width=st.floats(30, 300), seed=st.integers(0, 99))
def test_jitter_is_measured_in_pixels_of_the_crop_whatever_the_even_motion(deviation_px, speed, width, seed):
    still = np.array([[0, 0], [width, 0], [width / 2, width / 2]])
    moving = still + speed * np.arange(400)[:, None, None]
    assert jitter_px(moving) < 1e-6
    brows_px = 114.8  # their distance in a 256 crop
    noise = np.random.default_rng(seed).normal(0, deviation_px * width / brows_px, moving.shape)
    if deviation_px < 0.5:  # larger jitter changes the brows' distance itself
        assert jitter_px(moving + noise) == pytest.approx(deviation_px, rel=0.12)
    assert jitter_px(steady(moving + noise)) < jitter_px(moving + noise)


def test_too_few_frames_have_no_jitter():
    assert jitter_px(np.zeros((2, 3, 2))) == 0


def test_short_tracks_are_dropped_unless_there_is_nothing_else():
    long = {t: [face(100)] + ([face(400)] if t in (7, 8, 9) else []) for t in range(40)}
    assert len(follow(long)) == 1
    [track] = follow({7: [face(100)], 8: [face(100), face(300, width=90)], 9: [face(100), face(300, width=90)]})
    assert (track.start, track.stop) == (7, 10)
    assert follow({}) == []


def test_no_track_crosses_a_change_of_the_frame_size():
    detector = Script({t: [face(100)] for t in range(40)})
    tracks = track_faces(frames(40, cuts=[15]), detector, 3)
    assert sorted((t.start, t.stop) for t in tracks) == [(0, 15), (15, 40)]
    assert detector.resets == [0, 15]


def test_a_detection_that_cannot_be_aligned_is_not_found():
    point = Face((50, 50, 150, 150), np.full((68, 2), 100, np.float32), np.full((3, 2), 100, np.float32), 0.0)
    nowhere = Face((0, 0, 60, 60), np.full((68, 2), np.nan, np.float32), np.full((3, 2), np.nan, np.float32), 0.0)
    [track] = follow({t: [point if t == 20 else nowhere if t == 25 else face(100)] for t in range(40)})
    assert np.flatnonzero(~track.found).tolist() == [20, 25] and np.isfinite(track.anchors).all()
    assert follow({t: [point, nowhere] for t in range(40)}) == []


def test_on_end_is_called_once_for_each_track_and_short_tracks_beside_a_long_one_get_no_anchors():
    script = {t: [face(100)] + ([face(300 + 200 * (t // 4 % 2))] if t % 4 < 2 and t < 36 else []) for t in range(40)}
    given, ended = [], []
    [track] = follow(script, max_gap=1, on_anchors=lambda track_id, *_: given.append(track_id), on_end=ended.append)
    assert set(given) - {track.track_id} <= {1}  # the first short track came before any track was long enough
    assert sorted(ended) == list(range(10)) and len(given) <= 42


finds = st.lists(st.lists(st.booleans(), min_size=2, max_size=2), min_size=1, max_size=45)


@settings(max_examples=60, deadline=None)
@given(finds, st.integers(0, 4), st.sets(st.integers(1, 40), max_size=2), st.integers(0, 5))
def test_on_anchors_gets_each_frame_once_in_order_with_the_anchors_of_the_track(seen, max_gap, cuts, seed):
    jitter = np.random.default_rng(seed).normal(0, 0.3, (len(seen), 2))
    script = {
        t: [face(x + 3 * t + jitter[t, k]) for k, x in enumerate((100, 400)) if seen[t][k]] for t in range(len(seen))
    }
    given: dict[int, list] = {}

    def on_anchors(track_id, number, frame, anchors):
        assert frame[0, 0, 0] == number
        given.setdefault(track_id, []).append((number, anchors))

    for track in follow(script, len(seen), max_gap, on_anchors=on_anchors, cuts=cuts):
        numbers, anchors = zip(*given[track.track_id], strict=True)
        assert list(numbers) == list(range(track.start, track.stop))
        assert np.abs(np.array(anchors) - track.anchors).max() < 1e-3
        assert track.found[0] and track.found[-1]
        gaps = "".join("x" if found else "." for found in track.found).split("x")
        assert max(map(len, gaps)) <= max_gap


def test_only_a_few_frames_are_held():
    alive, most = set(), 0

    class DisplayedFrame(np.ndarray):
        pass

    def images():
        nonlocal most
        for number in range(120):
            image = np.full((2, 2, 3), number, np.uint8).view(DisplayedFrame)
            key = id(image)
            alive.add(key)
            weakref.finalize(image, alive.discard, key)
            most = max(most, len(alive))
            yield image

    script = Script({t: [face(100)] for t in range(120) if t % 7 > 1})
    track_faces(images(), script, 3, on_anchors=lambda *_: None)
    assert most <= smoothing.SMOOTHING_WINDOW + 3 + 3


@given(st.integers(3, 40), st.integers(0, 99))
def test_the_filter_is_savitzky_golay(n, seed):
    values = np.random.default_rng(seed).normal(size=(n, 2, 2))
    window = min(smoothing.SMOOTHING_WINDOW, n if n % 2 else n - 1)
    assert np.abs(smooth(values) - savgol_filter(values, window, 2, axis=0)).max() < 1e-9


def test_jitter_goes_and_motion_stays():
    rng = np.random.default_rng(0)
    time = np.arange(200) / 25
    course = np.array([[-40.0, 0], [40, 0], [0, 40]]) + 200 + 60 * np.sin(2 * np.pi * 0.5 * time)[:, None, None]
    noisy = course + rng.normal(0, 0.15, (200, 3, 2))
    steadied = steady(noisy)
    assert np.std(steadied - course) < 0.7 * np.std(noisy - course)
    assert np.abs(steadied - noisy).max() < 80 * (smoothing.POSITION_LIMIT + smoothing.SHAPE_LIMIT)
    nod = course + np.where(np.abs(time - 4) < 0.05, 15.0, 0)[:, None, None]  # three frames of a quick nod
    assert np.abs(steady(nod) - nod).max() < 0.5 * 80 * smoothing.POSITION_LIMIT + 1e-6
    assert np.abs(smooth(nod) - nod).max() > 2


@settings(max_examples=30, deadline=None)
@given(st.lists(st.booleans(), min_size=6, max_size=600), st.integers(0, 9))
def test_measures_instead_of_landmarks_and_the_same_track_otherwise(seen, seed):
    """What is kept of each face is given back for its frame, and linear in between, however long the track."""
    jitter = np.random.default_rng(seed).normal(0, 0.3, len(seen))
    script = {t: [face(100 + jitter[t], 100 + t / 9)] for t in range(len(seen)) if seen[t] or t % 5 == 0}

    def measure(rgb, found):
        return np.float32([[found.landmarks[0, 0], found.box[2]], [found.mouth_opening, rgb.shape[0]]])

    def long(measure=None):
        images = (np.full((2, 2, 3), number % 256, np.uint8) for number in range(len(seen)))
        detector = Script({})
        numbers = iter(range(len(seen)))
        detector.detect = lambda rgb: script.get(next(numbers), [])
        return track_faces(images, detector, 5, measure=measure)

    [kept], [measured] = long(), long(measure)
    n = kept.stop
    assert measured.landmarks.shape == (n, 0, 2) and kept.measures.shape == (n, 0)
    assert measured.measures.shape == (n, 2, 2) and measured.measures.dtype == kept.landmarks.dtype == np.float32
    for name in ("anchors", "raw_anchors", "boxes", "mouth_opening", "found", "centres"):
        np.testing.assert_array_equal(getattr(kept, name), getattr(measured, name))
    np.testing.assert_allclose(kept.centres, kept.landmarks.mean(1), atol=1e-3)
    np.testing.assert_array_equal(measured.measures[:, 0, 0], kept.landmarks[:, 0, 0])
    known = np.flatnonzero(kept.found)
    course = [script[int(t)][0].landmarks[5, 1] for t in known]
    np.testing.assert_allclose(kept.landmarks[:, 5, 1], np.interp(np.arange(n), known, course), atol=1e-3)
