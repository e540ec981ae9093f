"""InsightFace's SCRFD-10G and 106 landmarks, with which LatentSync 1.6 was made. Optional: `pip install
latentsync-studio[insightface]`. The code is MIT, the weights (pack buffalo_l) are for non-commercial research only.
"""

from typing import Any

import numpy as np

from latentsync.faces.backends import INSIGHT_106
from latentsync.faces.face import Face, plausible
from latentsync.weights import onnx, registry

INPUT_PX, MIN_SCORE = 512, 0.5  # as published


class InsightFaceDetector:
    """A Detector that looks at each frame on its own."""

    scheme = INSIGHT_106

    def __init__(self, max_faces: int):
        folder = registry.find("buffalo_l", key="align_faces.backend: insightface")
        files = [folder / name for name in ("det_10g.onnx", "2d106det.onnx")]
        for file in files:
            registry.require_intact(file)
        try:
            import onnxruntime
            from insightface.model_zoo import get_model  # pyright: ignore[reportMissingImports]  # optional package
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
        """Faces in an image uint8 (h, w, 3), the widest first."""
        bgr = np.ascontiguousarray(rgb[..., ::-1])
        boxes, _ = self.search.detect(bgr)
        boxes = sorted((box for box in boxes if plausible(box)), key=lambda box: box[0] - box[2])[: self.max_faces]
        return [self.scheme.face(self.landmarks.get(bgr, _Box(box[:4]))) for box in boxes]


class _Box(dict[str, Any]):
    """The face that the landmark model reads its box from, and writes its landmarks to."""

    def __init__(self, bbox: np.ndarray):
        super().__init__()
        self.bbox = bbox
