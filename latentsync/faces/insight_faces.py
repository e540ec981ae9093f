"""InsightFace's SCRFD-10G and 106 landmarks, with which LatentSync 1.6 was made. Optional: `pip install
latentsync-studio[insightface]`. The code is MIT, the weights (pack buffalo_l) are for non-commercial research only.

Anchors are those of LatentSync 1.5 and 1.6 (spec of the published code): the brows' upper edges, 43 48 49 51 50 and
101 to 105, and the nose, 74 77 83 86; the rounding to whole pixels is left out. Outer corners of the eyes: 35 and 93.
"""

from typing import Any

import numpy as np

from latentsync.faces.detection import Face, Scheme, plausible
from latentsync.weights import onnx, registry

POINTS_106 = Scheme(
    left_brow=(43, 48, 49, 51, 50),
    right_brow=(101, 102, 103, 104, 105),
    nose=(74, 77, 83, 86),
    eyes=(35, 93),
    upper_lip=(66, 62, 70),
    lower_lip=(54, 60, 57),
)
INPUT_PX, MIN_SCORE = 512, 0.5  # as published


class InsightFaceDetector:
    """A Detector that looks at each frame on its own."""

    def __init__(self, max_faces: int):
        folder = registry.find("buffalo_l", key="align_faces.backend: insightface")
        files = [folder / name for name in ("det_10g.onnx", "2d106det.onnx")]
        for file in files:
            registry.require_intact(file)
        try:
            import onnxruntime
            from insightface.model_zoo import get_model
        except ImportError as error:
            raise ValueError(
                f"align_faces.backend is insightface, which needs a package that is not installed ({error}); install "
                "latentsync-studio[insightface], or choose mediapipe or face_alignment."
            ) from error

        providers = onnx.providers()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.search, self.landmarks = (
            get_model(str(file), providers=providers, sess_options=options) for file in files
        )
        for model in (self.search, self.landmarks):
            onnx.require_started(model.session, providers)
        self.search.prepare(0 if len(providers) > 1 else -1, input_size=(INPUT_PX, INPUT_PX), det_thresh=MIN_SCORE)
        self.max_faces = max_faces

    def reset(self) -> None:
        """Nothing is remembered between frames."""

    def detect(self, rgb: np.ndarray) -> list[Face]:
        """Faces of uint8 (h, w, 3), the widest first."""
        bgr = np.ascontiguousarray(rgb[..., ::-1])
        boxes, _ = self.search.detect(bgr)
        boxes = sorted((box for box in boxes if plausible(box)), key=lambda box: box[0] - box[2])[: self.max_faces]
        return [POINTS_106.face(self.landmarks.get(bgr, _Box(box[:4]))) for box in boxes]


class _Box(dict[str, Any]):
    """What the landmark model asks of a face, and writes its answer into."""

    def __init__(self, bbox: np.ndarray):
        super().__init__()
        self.bbox = bbox
