"""A face from its landmarks, and whether two detections are one face."""

import numpy as np
import pytest

from latentsync.faces.backends import IBUG_68
from latentsync.faces.face import Face, is_new, overlap


def test_the_opening_is_measured_along_the_tilted_face():
    points = np.zeros((68, 2))
    points[36], points[45] = (-30, 0), (30, 0)
    points[61:64], points[65:68] = (0, 40), (0, 46)
    points[17:22], points[22:27], points[27:36] = (-20, -15), (20, -15), (0, 15)
    for angle in (0.0, 0.5, -1.0):
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        face = IBUG_68.face(points @ turn.T)
        assert face.mouth_opening == pytest.approx(0.1, abs=1e-6)
        assert face.anchors == pytest.approx(np.array([[-20, -15], [20, -15], [0, 15]]) @ turn.T, abs=1e-5)
    points[65:68] = (0, 39)  # lips that cross are closed
    assert IBUG_68.face(points).mouth_opening == 0


def test_a_find_inside_a_face_is_that_face():
    face = Face((0, 0, 100, 120), np.zeros((1, 2)), np.zeros((3, 2)), 0.0)
    assert not is_new((30, 40, 70, 80), [face]) and not is_new((10, 10, 110, 130), [face])
    assert is_new((80, 0, 180, 120), [face]) and is_new((0, 0, 1, 1), [])
    assert overlap((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx((1 / 3, 1 / 2))
    assert overlap((0, 0, 1, 1), (2, 2, 3, 3)) == (0, 0)
