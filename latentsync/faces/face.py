"""A face in an image, which of its landmarks are what, and what a detector is.

Convention: coordinates are (x, y) in source pixels, the centre of the top-left pixel at (0, 0); left and right are the
viewer's. P is the number of landmarks.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

MIN_FACE_PX = 32  # landmarks of narrower faces are guesswork
SAME_FACE_OVERLAP = 0.5  # two detections are one face if they share more than this of the smaller

Points = tuple[int, ...]  # indices of landmarks


@dataclass(frozen=True)
class Face:
    """One face in one image."""

    box: tuple[float, float, float, float]  # x0, y0, x1, y1 around the landmarks: ear to ear, brow to chin
    landmarks: np.ndarray  # float32 [P, 2]
    anchors: np.ndarray  # float32 [3, 2]: left brow, right brow, nose; the alignment is computed from them
    mouth_opening: float  # gap between the inner lips over the distance of the outer eye corners

    @property
    def width_px(self) -> float:
        """Width of the face, source pixels."""
        return self.box[2] - self.box[0]


@dataclass(frozen=True)
class Scheme:
    """Which landmarks are what."""

    n_points: int
    left_brow: Points  # each anchor is the mean of its landmarks
    right_brow: Points
    nose: Points
    eyes: tuple[int, int]  # outer corners
    upper_lip: Points  # inner edge, in three pairs with lower_lip
    lower_lip: Points
    pose: tuple[int, int, int, int, int, int]  # the six points of measures.HEAD_CM
    five: tuple[Points, Points, Points, Points, Points]  # eyes, nose tip, mouth corners; each the mean of its landmarks
    outer_lips: Points  # outer edge of both lips, all the way round

    def face(self, landmarks: np.ndarray) -> Face:
        """A Face from landmarks [P, 2]."""
        landmarks = landmarks.astype(np.float32)
        anchors = [landmarks[list(indices)].mean(0) for indices in (self.left_brow, self.right_brow, self.nose)]
        across = landmarks[self.eyes[1]] - landmarks[self.eyes[0]]
        eye_distance = float(np.hypot(*across))
        # The gap is measured along the face's own vertical, so that a tilted head does not open the mouth.
        gap = (landmarks[list(self.lower_lip)] - landmarks[list(self.upper_lip)]).mean(0)
        down = np.array([-across[1], across[0]]) / max(eye_distance, 1e-6)
        box = (*landmarks.min(0).tolist(), *landmarks.max(0).tolist())
        return Face(box, landmarks, np.stack(anchors), max(0.0, float(gap @ down) / max(eye_distance, 1e-6)))

    def five_points(self, landmarks: np.ndarray) -> np.ndarray:
        """Eyes, nose tip and mouth corners [..., 5, 2] of landmarks [..., P, 2]."""
        return np.stack([landmarks[..., list(indices), :].mean(-2) for indices in self.five], axis=-2)


@runtime_checkable
class Detector(Protocol):
    """Finds faces in the frames of a video, given in order; may use what it saw in earlier frames."""

    scheme: Scheme

    def detect(self, rgb: np.ndarray) -> list[Face]:
        """Faces in an image uint8 (h, w, 3), the widest first."""
        ...

    def reset(self) -> None:
        """Forget everything: the next frame belongs to another clip."""


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> tuple[float, float]:
    """Intersection of two boxes (x0, y0, x1, y1) over their union, and over the smaller of them."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0, 0.0
    both = width * height
    area_a, area_b = ((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return both / (area_a + area_b - both), both / min(area_a, area_b)


def is_new(box: tuple[float, ...], faces: list[Face]) -> bool:
    """Whether none of the faces is the one in the box; a small detection inside a face is that face."""
    return all(overlap(box, face.box)[1] < SAME_FACE_OVERLAP for face in faces)


def plausible(box: np.ndarray) -> bool:
    """Whether a box looks like a face: wide enough, and width over height between 0.2 and 1.5, as published."""
    width, height = box[2] - box[0], box[3] - box[1]
    return width >= MIN_FACE_PX and 0.2 <= width / height <= 1.5
