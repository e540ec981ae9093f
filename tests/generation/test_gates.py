"""Which frames pass through and why, that none flicker, and that the result fades in and out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data

from latentsync.config import Generate
from latentsync.faces.backends import FACE_MESH
from latentsync.faces.measures import HEAD_CM
from latentsync.faces.tracking import Track, track_faces
from latentsync.generation import gates, timeline
from latentsync.media.read import Reader

CFG = Generate()
GOOD = 40  # frames


def a_track(start: int = 0, n: int = GOOD, yaw_deg: float = 0.0, width: float = 100.0, shot=None, **measured) -> Track:
    """A track whose measures are those of an ordinary face, but for `measured`: margin, sharpness, lower."""
    turn = np.radians(yaw_deg)
    x, y, z = HEAD_CM.T
    pose = 10 * np.stack([x * np.cos(turn) + z * np.sin(turn), -y], 1)
    row = np.concatenate([pose.ravel(), [0.5, 100.0], np.full(3, 150.0), np.full(48, 140.0)])
    measures = np.tile(row, (n, 1)).astype(np.float32)
    for name, column in (("margin", slice(12, 13)), ("sharpness", slice(13, 14)), ("lower", slice(17, None))):
        if name in measured:
            measures[:, column] = np.asarray(measured[name], np.float32).reshape(n, -1)
    boxes = np.tile(np.float32([10, 10, 10 + width, 130]), (n, 1))
    found, anchors = np.ones(n, bool), np.zeros((n, 3, 2), np.float32)
    return Track(
        start, start + n, 0, anchors, anchors, anchors[:, :0], boxes, found, found, anchors[:, 0], measures, shot
    )


def passed(tracks, labels, **more):
    return gates.passed(tracks, np.array(labels), np.arange(len(labels)) / 25, CFG, **more)


def at(frames, bad: float, usual: float) -> np.ndarray:
    return np.where(np.isin(np.arange(GOOD), list(frames)), bad, usual)


@pytest.mark.parametrize(
    ("reason", "fault", "frames"),
    [
        ("mouth_outside", {"margin": at(range(10, 20), -0.1, 0.5)}, range(10, 20)),
        ("too_small", {"width": 30.0}, range(GOOD)),
        ("profile", {"yaw_deg": 70.0}, range(GOOD)),
        ("profile", {"yaw_deg": -70.0}, range(GOOD)),
        ("occluded", {"lower": np.repeat(at(range(20, 26), 20.0, 140.0)[:, None], 48, 1)}, range(20, 26)),
        ("motion_blur", {"sharpness": at(range(30, 35), 10.0, 100.0)}, range(30, 35)),
    ],
)
def test_each_gate_takes_its_fault_and_no_other_frame(reason, fault, frames):
    labels = passed([a_track(**fault)], [0] * GOOD)
    assert [gates.PASSED_THROUGH.get(label) for label in labels.tolist()] == [
        reason if frame in frames else None for frame in range(GOOD)
    ]


def test_an_ordinary_face_is_redrawn_and_labels_of_others_stay():
    tracks = [a_track(), a_track(start=45, n=20, yaw_deg=40)]
    labels = [0] * 40 + [gates.NO_FACE] * 5 + [1] * 20 + [gates.OTHER_FACE] * 3
    assert passed(tracks, labels).tolist() == labels


def test_even_changes_of_the_light_are_no_occlusion_and_a_soft_face_is_not_blurred():
    light = np.linspace(0.4, 1, GOOD)
    track = a_track(sharpness=np.full(GOOD, 0.5), lower=np.repeat(140 * light[:, None], 48, 1))
    track.measures[:, 14:17] = 150 * light[:, None]
    assert (passed([track], [0] * GOOD) == 0).all()


def test_frames_before_start_and_after_end_pass_through():
    labels = passed([a_track()], [0] * GOOD, start_s=0.4, end_s=1.2)
    assert (labels >= 0).nonzero()[0].tolist() == list(range(10, 30))
    assert {gates.PASSED_THROUGH[label] for label in labels[labels < 0].tolist()} == {"outside"}


@settings(max_examples=200, deadline=None)
@given(st.lists(st.booleans(), min_size=GOOD, max_size=GOOD), st.sampled_from([12.5, 25, 60]))
def test_single_frames_do_not_flicker(blurred, fps):
    """Between borders of the track no stretch is shorter than its limit, and long ones stay what they were."""
    track = a_track(sharpness=np.where(blurred, 1.0, 100.0))
    track.measures[:, 13] /= max(float(np.median(track.measures[:, 13])), 1.0) / 100  # the usual face is sharp
    bad = gates.codes(track, CFG) < 0
    labels = gates.passed([track], np.zeros(GOOD, np.int64), np.arange(GOOD) / fps, CFG)
    runs = timeline.spans(labels < 0)
    for start, stop, taken in runs:
        if start > 0 and stop < GOOD:
            assert (stop - start) / fps >= (gates.MIN_GAP_S if taken else gates.MIN_RUN_S) - 1e-6
        if len(runs) > 1:
            assert (stop - start) / fps >= gates.MIN_GAP_S - 1e-6
    for start, stop, taken in timeline.spans(bad):
        if (stop - start) / fps >= (gates.MIN_GAP_S if taken else gates.MIN_RUN_S):
            assert ((labels[start:stop] < 0) == taken).all()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([-1, -3, 0, 1]), st.integers(1, 9), st.booleans()), min_size=1, max_size=9))
def test_the_opacity_never_jumps_but_at_cuts(parts):
    labels = np.concatenate([[label] * n for label, n, _ in parts])
    shots = np.repeat(np.cumsum([cut for *_, cut in parts]), [n for _, n, _ in parts])
    alpha = gates.opacity(labels, shots)
    assert alpha.dtype == np.float32 and (alpha[labels < 0] == 0).all() and (alpha[labels >= 0] > 0).all()
    same_shot = np.diff(shots) == 0
    assert np.abs(np.diff(alpha))[same_shot].max(initial=0) <= 1 / (gates.FADE_FRAMES + 1) + 1e-6
    passes = np.flatnonzero(labels < 0)
    for frame in np.flatnonzero(labels >= 0):
        away = [abs(p - frame) for p in passes if shots[p] == shots[frame]]
        assert alpha[frame] == pytest.approx(min([1, *(gap / (gates.FADE_FRAMES + 1) for gap in away)]))


def test_tracks_say_where_cuts_are():
    tracks = [a_track(2, 10, shot=(0, 15)), a_track(20, 10, shot=(15, 30))]
    assert gates.shots(tracks, 35).tolist() == [0] * 15 + [15] * 15 + [-1] * 5


def test_the_reasons_are_said_with_their_counts():
    assert gates.why_nothing(np.array([-1] * 3 + [-4])) == (
        "no_face in 3 frames (no face was found), "
        "mouth_outside in 1 frame (the mouth lies at or beyond the border of the frame)"
    )


def test_every_threshold_is_a_key_and_every_reason_says_something():
    assert {reason.key for reason in gates.REASONS.values()} - {None} <= Generate.model_fields.keys()
    assert len(set(gates.PASSED_THROUGH.values())) == len(gates.REASONS)


class Fixed:
    """A detector that finds the same face in every frame; a real one would follow it."""

    scheme = FACE_MESH

    def __init__(self, face):
        self.face = face

    def detect(self, rgb):
        return [self.face]

    def reset(self):
        pass


@pytest.fixture(scope="module")
def portrait(detector):
    rgb = np.ascontiguousarray(data.astronaut()[:300, 90:390])
    detector.reset()
    return rgb, detector.detect(rgb)[0]


def reasons_of(portrait, images) -> list[str | None]:
    rgb, face = portrait
    [track] = track_faces(images, Fixed(face), 3, measure=gates.measure_faces(FACE_MESH))
    labels = passed([track], [0] * track.stop)
    return [gates.PASSED_THROUGH.get(label) for label in labels.tolist()]


def test_real_pixels_a_dark_thing_before_the_mouth_and_a_blurred_face(portrait):
    import cv2

    rgb, face = portrait
    x, y = face.landmarks[list(FACE_MESH.outer_lips)].mean(0).astype(int)
    covered = cv2.ellipse(rgb.copy(), (int(x), int(y) + 25), (30, 45), 0, 0, 360, (20, 20, 25), -1)
    length = round(0.2 * face.width_px)
    blurred = cv2.blur(rgb, (length, 1))
    dim = (rgb * 0.7).astype(np.uint8)
    images = [rgb] * 15 + [covered] * 5 + [rgb] * 10 + [blurred] * 5 + [dim] * 15
    expected = [None] * 15 + ["occluded"] * 5 + [None] * 10 + ["motion_blur"] * 5 + [None] * 15
    assert reasons_of(portrait, images) == expected


def test_a_mouth_below_the_border_is_outside(portrait):
    rgb, face = portrait
    lips_y = face.landmarks[list(FACE_MESH.outer_lips), 1]
    assert set(reasons_of(portrait, [rgb[: int(lips_y.mean())]] * 10)) == {"mouth_outside"}
    assert set(reasons_of(portrait, [rgb[: int(lips_y.max()) + 3]] * 10)) == {None}


@pytest.mark.parametrize(("shown", "reason"), [(1.0, None), (0.55, "mouth_outside")])
def test_a_real_clip_whole_and_cut_off_above_the_mouth(shown, reason, clips, detector):
    frames = (frame.quick() for _, frame in Reader(clips / "vrt3.mp4").displayed_frames(np.arange(40)))
    images = (np.ascontiguousarray(rgb[: int(shown * len(rgb))]) for rgb in frames)
    [track] = track_faces(images, detector, 8, measure=gates.measure_faces(FACE_MESH))
    labels = passed([track], [0] * track.stop)
    assert track.stop == 40 and {gates.PASSED_THROUGH.get(label) for label in labels.tolist()} == {reason}
