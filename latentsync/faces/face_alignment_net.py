"""face-alignment's S3FD and 2DFAN4: 68 landmarks, weights by download. LatentSync 1.0 to 1.5 were made with it."""

from typing import cast

import numpy as np

from latentsync.faces.backends import IBUG_68
from latentsync.faces.face import Face, plausible
from latentsync.weights import registry


class FaceAlignmentDetector:
    """A Detector that looks at each frame on its own."""

    scheme = IBUG_68

    def __init__(self, max_faces: int):
        s3fd, fan = (registry.find(name, key="align_faces.backend: face_alignment") for name in ("s3fd", "2dfan4"))

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
        """Faces in an image uint8 (h, w, 3), the widest first."""
        boxes = [box for box in self.net.face_detector.detect_from_image(rgb.copy()) if plausible(box)]
        boxes = sorted(boxes, key=lambda box: box[0] - box[2])[: self.max_faces]
        if not boxes:
            return []
        landmarks = self.net.get_landmarks_from_image(rgb, detected_faces=[np.asarray(box) for box in boxes])
        return [self.scheme.face(points[:, :2]) for points in cast("list[np.ndarray] | None", landmarks) or []]
