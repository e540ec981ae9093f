"""The photograph that all talkers are made from: the astronaut of scikit-image (Eileen Collins, NASA, public domain).

The photograph is part of the wheel of scikit-image, and the models for face and segmentation are part of the wheel of
mediapipe, so nothing is downloaded. Points are (x, y) in photo pixels; the centre of the first pixel is (0, 0).
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

# FaceMesh vertices along the lips, from one corner of the mouth to the other; upper and lower lists pair up.
INNER_UPPER = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308)
INNER_LOWER = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308)
OUTER_UPPER = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291)
OUTER_LOWER = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291)
FACE_OVAL = (10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152, 148, 176)
FACE_OVAL += (149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109)
# Eyelids from the outer to the inner corner, upper and lower lists pair up; then the iris.
LIDS_UPPER = ((33, 246, 161, 160, 159, 158, 157, 173, 133), (263, 466, 388, 387, 386, 385, 384, 398, 362))
LIDS_LOWER = ((33, 7, 163, 144, 145, 153, 154, 155, 133), (263, 249, 390, 373, 374, 380, 381, 382, 362))
IRIS = ((468, 469, 470, 471, 472), (473, 474, 475, 476, 477))
EYE_CORNERS = ((33, 133), (263, 362))
BROWS = ((70, 63, 105, 66, 107, 46, 53, 52, 65, 55), (300, 293, 334, 296, 336, 276, 283, 282, 295, 285))
NOSE = (168, 6, 195, 4, 98, 97, 2, 326, 327)
CHIN, NOSE_TIP = 152, 4


@dataclass(frozen=True)
class Photo:
    """The photograph, its face mesh and the mask of the person.

    pixels: uint8 (h, w, 3) RGB; points: float64 (478, 2); depth: float64 (478,), photo pixels, larger is further away;
    person: float32 (h, w), 0 to 1; triangles: int64 (n, 3) vertices of the face mesh, which is open at eyes and mouth.
    """

    pixels: np.ndarray
    points: np.ndarray
    depth: np.ndarray
    person: np.ndarray
    triangles: np.ndarray


@lru_cache(maxsize=2)
def photo(mirrored: bool) -> Photo:
    """The photograph, or its mirror image; the mesh is detected in both, so that left and right keep their meaning."""
    import mediapipe
    from skimage.data import astronaut

    pixels = astronaut()
    if mirrored:
        pixels = np.ascontiguousarray(pixels[:, ::-1])
    height, width = pixels.shape[:2]
    solutions: Any = mediapipe.solutions  # its modules are added when it is imported
    with solutions.face_mesh.FaceMesh(static_image_mode=True, refine_landmarks=True) as mesh:
        [face] = mesh.process(pixels).multi_face_landmarks
    points = np.array([(p.x * width, p.y * height, p.z * width) for p in face.landmark])
    # The segmentation needs a large person, so it gets the upper 4/5 of the image; the last row is repeated below.
    top = np.ascontiguousarray(pixels[: height * 4 // 5])
    with solutions.selfie_segmentation.SelfieSegmentation(model_selection=0) as segmenter:
        upper = segmenter.process(top).segmentation_mask
    person = np.vstack([upper, np.repeat(upper[-1:], height - len(upper), axis=0)])
    # Slightly eroded, because the edge of the hair contains light from the wall of the studio.
    person = np.clip((person.astype(np.float32) - 0.35) / 0.6, 0, 1)
    return Photo(pixels, points[:, :2] - 0.5, points[:, 2], person, _triangles())


def _triangles() -> np.ndarray:
    """Triangles of the mesh: FaceMesh publishes edges, and its triangles are the cycles of length three."""
    from mediapipe.python.solutions.face_mesh_connections import FACEMESH_TESSELATION

    edges = {tuple(sorted(edge)) for edge in FACEMESH_TESSELATION}
    neighbours: dict[int, set[int]] = {}
    for a, b in edges:
        neighbours.setdefault(a, set()).add(b)
        neighbours.setdefault(b, set()).add(a)
    cycles = {tuple(sorted((a, b, c))) for a, b in edges for c in neighbours[a] & neighbours[b]}
    return np.array(sorted(cycles))
