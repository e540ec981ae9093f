"""Sharpness, exposure and alignment of crops with known answers; head pose of a turned model, from afar and near."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentsync.faces import alignment, measures
from latentsync.faces.backends import FACE_MESH, open_detector
from latentsync.faces.upright import open_upright

ALL = np.ones((256, 256), bool)


@pytest.fixture(scope="module")
def face():
    from skimage import data

    return np.ascontiguousarray(data.astronaut()[:256, 100:356])


def test_sharpness_falls_with_blur_and_compares_across_sizes(face):
    values = [measures.sharpness(cv2.GaussianBlur(face, (0, 0), s) if s else face, ALL) for s in (0, 1, 2, 4)]
    assert all(sharp > 2 * blurred for sharp, blurred in zip(values[:-1], values[1:], strict=True))
    large = cv2.resize(face, (512, 512), interpolation=cv2.INTER_CUBIC)
    assert measures.sharpness(large, np.ones((512, 512), bool)) == pytest.approx(values[0], rel=0.5)
    small = cv2.resize(face, (64, 64), interpolation=cv2.INTER_AREA)  # enlarged again, it is as blurred as it looks
    assert measures.sharpness(small, np.ones((64, 64), bool)) < values[1]
    assert measures.sharpness(np.full((64, 64, 3), 90, np.uint8), np.ones((64, 64), bool)) == 0


def test_only_the_face_counts(face):
    mask = np.zeros((256, 256), bool)
    mask[64:192, 64:192] = True
    noisy = face.copy()
    noisy[~mask] = np.random.default_rng(0).integers(0, 256, (int((~mask).sum()), 3))
    inner = np.zeros_like(mask)
    inner[66:190, 66:190] = True
    assert measures.sharpness(noisy, inner) == measures.sharpness(face, inner)
    assert measures.exposure(noisy, mask) == measures.exposure(face, mask)


def test_exposure_and_clipping():
    grey = np.full((64, 64, 3), 102, np.uint8)
    mask = np.ones((64, 64), bool)
    assert measures.exposure(grey, mask) == (pytest.approx(0.4), 0.0)
    grey[:16] = 255
    grey[16:24] = 0
    mean, clipped = measures.exposure(grey, mask)
    assert clipped == pytest.approx(24 / 64) and mean == pytest.approx((16 * 1 + 40 * 0.4) / 64)
    assert measures.exposure(grey, ~mask) == (0.0, 1.0)


@pytest.mark.parametrize("resolution", [64, 256, 512])
def test_landmarks_are_carried_to_the_stretched_face(resolution):
    """A dot drawn in the unstretched crop lies where alignment.to_face says after the stretch."""
    width, height = alignment.crop_size(resolution)
    crop = np.zeros((height, width, 3), np.float32)
    x, y = width // 3, height // 4
    crop[y, x] = 255
    stretched = alignment.stretch(crop, resolution)[..., 0].clip(0)
    rows, columns = np.mgrid[:resolution, :resolution]
    found = [(axis * stretched).sum() / stretched.sum() for axis in (columns, rows)]
    np.testing.assert_allclose(
        alignment.apply(alignment.to_face(np.eye(2, 3), resolution), np.array([x, y])), found, atol=0.15
    )


def test_the_mask_is_the_hull_of_the_landmarks():
    mask = measures.face_mask(np.array([[10, 10], [50, 10], [30, 20], [50, 40], [10, 40]], float), 64)
    assert mask.sum() == 41 * 31 and mask[10, 10] and not mask[9, 10]


def test_anchors_on_the_template_are_no_distance_away():
    for resolution in (64, 256):
        width, _ = alignment.crop_size(resolution)
        target = alignment.template(resolution)
        assert measures.anchor_distance(target, resolution) == 0
        moved = target + np.array([0.3 * width, 0.4 * width])
        assert measures.anchor_distance(moved, resolution) == pytest.approx(0.5)


def turned(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """The model after the rotation that the docstring describes, written out axis by axis; degrees."""
    (sy, sp, sr), (cy, cp, cr) = (f(np.radians([yaw, pitch, roll])) for f in (np.sin, np.cos))
    up = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    side = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    lean = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return measures.HEAD_CM @ (lean @ side @ up).T


def seen(points: np.ndarray, distance_cm: float | None) -> np.ndarray:
    """Pixels [1, 6, 2], y down, of a camera at a distance; None: from afar."""
    scale = 20.0 if distance_cm is None else 1000 / (distance_cm - points[:, 2:])
    return (points[:, :2] * scale * (1, -1) + (320, 240))[None]


@given(yaw=st.floats(-75, 75), pitch=st.floats(-75, 75), roll=st.floats(-80, 80))
def test_any_turn_is_recovered_exactly_from_afar(yaw, pitch, roll):
    np.testing.assert_allclose(
        measures.head_pose(seen(turned(yaw, pitch, roll), None))[0], [yaw, pitch, roll], atol=1e-6
    )


@pytest.mark.parametrize("yaw", [-45, 0, 30])
@pytest.mark.parametrize("pitch", [-25, 0, 25])
def test_a_camera_at_arms_length_costs_a_few_degrees(yaw, pitch):
    np.testing.assert_allclose(measures.head_pose(seen(turned(yaw, pitch, 10), 60))[0], [yaw, pitch, 10], atol=6)


def test_signs_are_those_of_the_docstring():
    """The nose moves to the right, upwards, or the right eye above the left one."""
    nose = slice(0, 1)
    rest = turned(0, 0, 0)
    assert (turned(20, 0, 0) - rest)[nose, 0] > 0
    assert (turned(0, 20, 0) - rest)[nose, 1] > 0
    assert turned(0, 0, 20)[3, 1] > turned(0, 0, 20)[2, 1]


def test_a_photograph_reads_sensibly():
    """The astronaut looks past the camera, her head nearly upright; mirrored, yaw and roll change their signs."""
    from skimage import data

    image = np.ascontiguousarray(data.astronaut()[:300, 60:380])
    angles = []
    for rgb in (image, np.ascontiguousarray(image[:, ::-1])):
        with open_detector("mediapipe", 1) as detector:
            [face] = detector.detect(rgb)
        angles.append(measures.head_pose(face.landmarks[None, FACE_MESH.pose])[0])
    assert np.abs(angles).max() < 40
    np.testing.assert_allclose(angles[0] * (-1, 1, -1), angles[1], atol=5)


def face_points(n: int, seed: int = 0) -> np.ndarray:
    """Landmarks [n, 40, 2] of a face 100 px wide that does not move."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, 100, (40, 2))
    points[:2] = [[0, 50], [100, 50]]
    return np.repeat(points[None], n, 0)


def test_a_photograph_stays_still_while_the_camera_moves_and_a_mouth_does_not():
    found = np.ones(50, bool)
    still, t = face_points(50), np.arange(50)
    noisy = still + np.random.default_rng(1).normal(0, 0.01, still.shape)
    assert measures.motion(still, found) == 0 and measures.motion(noisy, found) < 0.0005
    turn, zoom = np.exp(1j * 0.01 * t), 1 + 0.005 * t
    shot = (still @ [1, 1j]) * (turn * zoom)[:, None] + (3 * t * (1 + 1j))[:, None]
    panned = np.stack([shot.real, shot.imag], -1)
    assert measures.motion(panned, found) < 1e-6
    talking = still.copy()
    talking[:, 30:, 1] += 6 * np.sin(t)[:, None]
    assert measures.motion(talking, found) > 0.005


def test_repeated_and_missing_frames_are_no_motion_and_no_stillness():
    t = np.arange(50)
    talking = face_points(50)
    talking[:, 30:, 1] += 6 * np.sin(t)[:, None]
    once = measures.motion(talking, np.ones(50, bool))
    assert measures.motion(np.repeat(talking, 3, 0), np.ones(150, bool)) == pytest.approx(once)
    gone = np.arange(50) % 10 != 0
    assert measures.motion(talking, gone) == pytest.approx(once, rel=0.3)
    assert measures.motion(talking[:1], np.ones(1, bool)) == 0


@given(st.floats(-1.2, 1.2), st.floats(-1.2, 1.2))
def test_the_share_outside_is_that_of_mouth_and_chin_beyond_the_border(right, down):
    """An upright crop of 210 x 280 in a frame of its size, moved by shares of it."""
    matrix = np.array([[1.0, 0, -210 * right], [0, 1, -280 * down]])  # the frame moves the other way
    found = measures.outside_share(matrix[None], 256, (210, 280))
    inside_x = np.clip(min(0.8, 1 - right) - max(0.2, -right), 0, 0.6) / 0.6
    inside_y = np.clip(min(0.75, 1 - down) - max(0.5, -down), 0, 0.25) / 0.25
    assert found == pytest.approx(1 - inside_x * inside_y, abs=0.16)


@pytest.mark.parametrize("turns", range(4))
def test_only_an_upright_face_is_upright(face, turns):
    with open_upright() as upright:
        assert upright(np.ascontiguousarray(np.rot90(face[30:230, 30:230], turns))) == (turns == 0)
