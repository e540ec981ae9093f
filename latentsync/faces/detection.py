"""Faces of a picture: boxes, landmarks, the three alignment anchors, and how far the mouth is open.

Three backends behind one protocol: `mediapipe` (FaceMesh, 478 points, models in its wheel, 4 ms a frame on one core),
`face_alignment` (S3FD + 2DFAN4, 68 points, weights by download; LatentSync 1.0-1.5 was made with it) and `insightface`
(SCRFD + 106 points, 1.6; insight_faces.py).

Anchors are the means that LatentSync takes: of 68 points each brow (17-21, 22-26) and the nose (27-35), of 106 points
those named in insight_faces.py. For FaceMesh the same places were picked: the brow as upper and lower edge, the nose as
bridge, tip and base. Left and right are the viewer's. Coordinates are (x, y) in source pixels, the centre of the
top-left pixel at (0, 0).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from latentsync.weights.registry import find

MIN_FACE_PX = 32  # narrower faces: the landmarks are guesswork
SAME_FACE_OVERLAP = 0.5  # two finds are one face if they share more than this of the smaller


@dataclass(frozen=True)
class Face:
    """One face of one picture."""

    box: tuple[float, float, float, float]  # x0, y0, x1, y1 around the landmarks, ear to ear and brow to chin
    landmarks: np.ndarray  # float32 [P, 2]
    anchors: np.ndarray  # float32 [3, 2]: left brow, right brow, nose
    mouth_opening: float  # gap between the inner lips / distance of the outer eye corners

    @property
    def width_px(self) -> float:
        """Width of the face, source pixels."""
        return self.box[2] - self.box[0]


class Detector(Protocol):
    """Finds faces in the frames of a video, given in order; may use what it saw in the frames before."""

    def detect(self, rgb: np.ndarray) -> list[Face]:
        """Faces of uint8 (h, w, 3), the widest first."""

    def reset(self) -> None:
        """Forget everything: the next frame belongs to another clip."""


@dataclass(frozen=True)
class Scheme:
    """Which landmarks are what."""

    left_brow: tuple[int, ...]
    right_brow: tuple[int, ...]
    nose: tuple[int, ...]
    eyes: tuple[int, int]  # outer corners
    upper_lip: tuple[int, ...]  # inner edge, three pairs with lower_lip
    lower_lip: tuple[int, ...]

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


POINTS_68 = Scheme(
    left_brow=tuple(range(17, 22)),
    right_brow=tuple(range(22, 27)),
    nose=tuple(range(27, 36)),
    eyes=(36, 45),
    upper_lip=(61, 62, 63),
    lower_lip=(67, 66, 65),
)


@contextmanager
def open_detector(backend: str, max_faces: int) -> Iterator[Detector]:
    """A detector of at most `max_faces` faces a frame.

    Raises:
        ValueError: for an unknown backend, or one whose weights are missing.
    """
    if backend == "mediapipe":
        from latentsync.faces.face_mesh import MediapipeDetector  # mediapipe takes a second to import

        with MediapipeDetector(max_faces) as detector:
            yield detector
    elif backend == "face_alignment":
        yield FaceAlignmentDetector(max_faces)
    elif backend == "insightface":
        from latentsync.faces.insight_faces import InsightFaceDetector

        yield InsightFaceDetector(max_faces)
    else:
        raise ValueError(f"Face detector {backend} is not known; known: mediapipe, face_alignment, insightface.")


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
    """Whether none of the faces is the one in the box; a small find inside a face is that face."""
    return all(overlap(box, face.box)[1] < SAME_FACE_OVERLAP for face in faces)


class FaceAlignmentDetector:
    """face-alignment's S3FD and 2DFAN4, each frame on its own."""

    def __init__(self, max_faces: int):
        s3fd, fan = (find(name, key="align_faces.backend: face_alignment") for name in ("s3fd", "2dfan4"))

        import torch
        from face_alignment import FaceAlignment, LandmarksType
        from face_alignment.detection.sfd.net_s3fd import s3fd as S3FD
        from face_alignment.models import FAN

        from latentsync.weights import files as weight_files

        weight_files.load_strictly(S3FD(), weight_files.read_foreign(s3fd), str(s3fd))  # its own loader checks nothing

        class FromFile(FaceAlignment):
            """Takes its landmark net from our weights folder instead of downloading it."""

            def _load_native(self, network_name, network_size, device, dtype):
                net = weight_files.load_strictly(FAN(network_size), weight_files.read_foreign(fan), str(fan))
                return net.to(device, dtype).eval()

        self.max_faces = max_faces
        self.net = FromFile(
            LandmarksType.TWO_D,
            device="cuda" if torch.cuda.is_available() else "cpu",
            flip_input=False,
            face_detector_kwargs={"path_to_detector": str(s3fd)},
            compile=False,  # it would write machine code to the home folder, and change results between machines
        )

    def reset(self) -> None:
        """Nothing is remembered between frames."""

    def detect(self, rgb: np.ndarray) -> list[Face]:
        """Faces of uint8 (h, w, 3), the widest first."""
        boxes = [box for box in self.net.face_detector.detect_from_image(rgb.copy()) if plausible(box)]
        boxes = sorted(boxes, key=lambda box: box[0] - box[2])[: self.max_faces]
        if not boxes:
            return []
        landmarks = self.net.get_landmarks_from_image(rgb, detected_faces=[np.asarray(box) for box in boxes])
        return [POINTS_68.face(points[:, :2]) for points in landmarks or []]


def plausible(box: np.ndarray) -> bool:
    """A.1.1: width over height between 0.2 and 1.5; size is judged by select_clips."""
    width, height = box[2] - box[0], box[3] - box[1]
    return width >= MIN_FACE_PX and 0.2 <= width / height <= 1.5
