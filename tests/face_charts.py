"""The charts of 68 and of 106 landmarks in points of FaceMesh, and detectors that find FaceMesh's faces in them.

Written from the published charts (iBUG's 68, InsightFace's 2d106markup) part by part, independently of the schemes in
latentsync/faces/backends.py, so that a wrong index there lands somewhere else on the face.
"""

import numpy as np

from latentsync.faces.backends import IBUG_68, INSIGHT_106
from latentsync.faces.face import Scheme

# Viewer's left temple to chin to right temple.
JAW = (127, 234, 93, 132, 58, 172, 136, 150, 149, 176, 148, 152, 377, 400, 378, 379, 365, 397, 288, 361, 323, 454, 356)
MOUTH = (61, 40, 37, 0, 267, 270, 291, 321, 314, 17, 84, 91, 78, 82, 13, 312, 308, 317, 14, 87)  # outer, then inner

CHART_68 = dict(
    zip(
        range(17, 68),
        (
            *(70, 63, 105, 66, 107),  # left brow
            *(336, 296, 334, 293, 300),  # right brow
            *(168, 197, 5, 4, 98, 97, 2, 326, 327),  # nose: bridge down to the tip, base
            *(33, 160, 158, 133, 153, 144),  # left eye: outer corner, upper lid, inner corner, lower lid
            *(362, 385, 387, 263, 373, 380),  # right eye: inner corner, upper lid, outer corner, lower lid
            *MOUTH,
        ),
        strict=True,
    )
)


def _paired(indices: tuple[int, ...], vertices: tuple[int, ...]) -> dict[int, int]:
    return dict(zip(indices, vertices, strict=True))


CHART_106 = (
    _paired((43, 48, 49, 51, 50, 46, 47, 45, 44), (70, 63, 105, 66, 107, 55, 65, 52, 53))  # left brow
    | _paired((102, 103, 104, 105, 101, 100, 99, 98, 97), (336, 296, 334, 293, 300, 283, 282, 295, 285))  # right brow
    | _paired(
        (72, 73, 74, 86), (168, 197, 5, 4)
    )  # bridge of the nose down to its tip, then its left side, base and right side
    | _paired((75, 76, 77, 78, 79, 80, 85, 84, 83, 82, 81), (193, 198, 129, 98, 97, 2, 326, 327, 358, 420, 417))
    | _paired(
        (35, 41, 40, 42, 39, 37, 33, 36, 34, 38), (33, 160, 159, 158, 133, 153, 145, 144, 468, 468)
    )  # left eye, pupil
    | _paired((89, 95, 94, 96, 93, 91, 87, 90, 88, 92), (362, 385, 386, 387, 263, 373, 374, 380, 473, 473))
    | _paired((52, 64, 63, 71, 67, 68, 61, 58, 59, 53, 56, 55), MOUTH[:12])  # outer lips
    | _paired((65, 66, 62, 70, 69, 57, 60, 54), MOUTH[12:])  # inner lips
)
JAW_106 = (1, *range(9, 17), *range(2, 9), 0, 24, 23, 22, 21, 20, 19, 18, 32, 31, 30, 29, 28, 27, 26, 25, 17)


def of_face_mesh(scheme: Scheme, mesh: np.ndarray) -> np.ndarray:
    """Landmarks [P, 2] of a scheme of 68 or 106 points, of a face whose FaceMesh landmarks are [478, 2]."""
    chart, jaw = (CHART_68, range(17)) if scheme is IBUG_68 else (CHART_106, JAW_106)
    points = np.full((scheme.n_points, 2), np.nan)
    points[list(chart)] = mesh[list(chart.values())]
    outline = mesh[list(JAW)]
    at = np.linspace(0, len(outline) - 1, len(jaw))
    points[list(jaw)] = np.stack([np.interp(at, np.arange(len(outline)), axis) for axis in outline.T], 1)
    assert np.isfinite(points).all()
    return points


class Charted:
    """Another detector's faces in the scheme of 68 or of 106 points."""

    def __init__(self, detector, scheme: Scheme = INSIGHT_106):
        self.detector, self.scheme = detector, scheme

    def detect(self, rgb):
        return [self.scheme.face(of_face_mesh(self.scheme, face.landmarks)) for face in self.detector.detect(rgb)]

    def reset(self):
        self.detector.reset()
