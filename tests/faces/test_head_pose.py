"""Head pose from six points of a turned model, seen from afar and from near."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentsync.faces.head_pose import MODEL_CM, POINTS, head_pose, pose_points


def turned(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """The model after the rotation that the docstring describes, written out axis by axis; degrees."""
    (sy, sp, sr), (cy, cp, cr) = (f(np.radians([yaw, pitch, roll])) for f in (np.sin, np.cos))
    up = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    side = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    lean = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return MODEL_CM @ (lean @ side @ up).T


def seen(points: np.ndarray, distance_cm: float | None) -> np.ndarray:
    """Pixels [1, 6, 2], y down, of a camera at a distance; None: from afar."""
    scale = 20.0 if distance_cm is None else 1000 / (distance_cm - points[:, 2:])
    return (points[:, :2] * scale * (1, -1) + (320, 240))[None]


@given(yaw=st.floats(-75, 75), pitch=st.floats(-75, 75), roll=st.floats(-80, 80))
def test_any_turn_is_recovered_exactly_from_afar(yaw, pitch, roll):
    np.testing.assert_allclose(head_pose(seen(turned(yaw, pitch, roll), None))[0], [yaw, pitch, roll], atol=1e-6)


@pytest.mark.parametrize("yaw", [-45, 0, 30])
@pytest.mark.parametrize("pitch", [-25, 0, 25])
def test_a_camera_at_arms_length_costs_a_few_degrees(yaw, pitch):
    np.testing.assert_allclose(head_pose(seen(turned(yaw, pitch, 10), 60))[0], [yaw, pitch, 10], atol=6)


def test_signs_are_those_of_the_docstring():
    """The nose moves to the right, upwards, or the right eye above the left one."""
    nose = slice(0, 1)
    rest = turned(0, 0, 0)
    assert (turned(20, 0, 0) - rest)[nose, 0] > 0
    assert (turned(0, 20, 0) - rest)[nose, 1] > 0
    assert turned(0, 0, 20)[3, 1] > turned(0, 0, 20)[2, 1]


@pytest.mark.parametrize("number", POINTS)
def test_points_are_picked_from_known_schemes(number):
    landmarks = np.arange(2 * number * 2, dtype=float).reshape(2, number, 2)
    assert pose_points(landmarks)[1].tolist() == [landmarks[1, k].tolist() for k in POINTS[number]]


def test_an_unknown_scheme_is_one_sentence():
    with pytest.raises(ValueError, match="faces of 5 points; known are 68, 106, 478"):
        pose_points(np.zeros((1, 5, 2)))


def test_a_photograph_reads_sensibly():
    """The astronaut looks past the camera, her head nearly upright; mirrored, yaw and roll change their signs."""
    from skimage import data

    from latentsync.faces.detection import open_detector

    picture = np.ascontiguousarray(data.astronaut()[:300, 60:380])
    angles = []
    for rgb in (picture, np.ascontiguousarray(picture[:, ::-1])):
        with open_detector("mediapipe", 1) as detector:
            [face] = detector.detect(rgb)
        angles.append(head_pose(pose_points(face.landmarks[None]))[0])
    assert np.abs(angles).max() < 40
    np.testing.assert_allclose(angles[0] * (-1, 1, -1), angles[1], atol=5)
