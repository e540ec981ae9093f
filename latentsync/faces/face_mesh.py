"""MediaPipe's FaceMesh, its models in the wheel: on the whole image, and on windows around small faces.

478 landmarks, 4 ms a frame on one core. FaceMesh looks for faces at 128 x 128 pixels and misses those below about a
tenth of the image's longer side (measured: it misses 130 px in 1080 x 1920). The full-range detector finds smaller
faces but gives no mesh: so it searches, and a second FaceMesh follows what it found in a window (measured: 45 px in
568 x 320, 60 px in 1080 x 1920).
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
from mediapipe.python.solutions.face_detection import FaceDetection
from mediapipe.python.solutions.face_mesh import FaceMesh

from latentsync.faces.backends import FACE_MESH
from latentsync.faces.face import MIN_FACE_PX, Face, is_new

# MediaPipe's own limit of 0.5 sometimes takes a collar for a face; with 0.7 the 13 real clips lose 1 frame of 2662.
# In a window a real face fills the view and scores above 0.8; hands, which the full-range detector often finds, do not.
SURE, SURE_SMALL = 0.7, 0.8
_BLANK = np.zeros((64, 64, 3), np.uint8)  # a first image, so that a graph logs its start-up while stderr is closed


class MediapipeDetector:
    """A Detector that follows faces from frame to frame; a context manager."""

    scheme = FACE_MESH
    SCAN_EVERY = 10  # frames between searches for small faces while another face is seen

    def __init__(self, max_faces: int):
        self.max_faces = max_faces
        self.stack = ExitStack()
        self.windows: list[_Window] = []
        self.idle: list[_Mesh] = []  # meshes of closed windows, for the next one: starting a mesh takes 40 ms
        self.frame = 0

    def __enter__(self) -> "MediapipeDetector":
        with _quiet():
            self.mesh = self.stack.enter_context(_Mesh(self.max_faces, SURE))
            self.search = self.stack.enter_context(FaceDetection(model_selection=1, min_detection_confidence=0.5))
            self.search.process(_BLANK)
        return self

    def __exit__(self, *_: object) -> None:
        self.reset()
        with _quiet():
            for mesh in self.idle:
                mesh.close()
            self.stack.close()

    def reset(self) -> None:
        """Forget everything: the next frame belongs to another clip."""
        self.mesh.stale = True
        self._free(self.windows)
        self.windows, self.frame = [], 0

    def _free(self, windows: "list[_Window]") -> None:
        for window in windows:
            window.mesh.stale = True
            self.idle.append(window.mesh)

    def detect(self, rgb: np.ndarray) -> list[Face]:
        """Faces in an image uint8 (h, w, 3), the widest first."""
        rgb = np.ascontiguousarray(rgb)
        faces: list[Face] = []
        for face in self.mesh.detect(rgb):  # sometimes it finds one face twice
            if is_new(face.box, faces):
                faces.append(face)
        alive = []
        for window in self.windows:
            face = window.detect(rgb)
            if face is not None and is_new(face.box, faces):
                faces.append(face)
                alive.append(window)
        self._free([window for window in self.windows if window not in alive])
        self.windows = alive
        if len(faces) < self.max_faces and (self.frame % self.SCAN_EVERY == 0 or not faces):
            self._scan(rgb, faces)
        self.frame += 1
        return sorted(faces, key=lambda face: (-face.width_px, face.box))[: self.max_faces]

    def _scan(self, rgb: np.ndarray, faces: list[Face]) -> None:
        """Add faces that only the full-range detector sees, each with a window to follow it by."""
        for x0, y0, part in _squares(rgb):
            height, width = part.shape[:2]
            for detection in self.search.process(part).detections or []:  # pyright: ignore[reportAttributeAccessIssue]  # fields are made at run time
                share = detection.location_data.relative_bounding_box
                left, top = x0 + share.xmin * width, y0 + share.ymin * height
                box = (left, top, left + share.width * width, top + share.height * height)
                if is_new(box, faces):
                    self._open_window(rgb, box, faces)

    def _open_window(self, rgb: np.ndarray, box: tuple[float, ...], faces: list[Face]) -> None:
        if self.idle:
            mesh = self.idle.pop()
        else:
            with _quiet():
                mesh = _Mesh(1, SURE_SMALL)
        window = _Window(mesh, box)
        face = window.detect(rgb)
        if face is not None and is_new(face.box, faces):
            faces.append(face)
            self.windows.append(window)
        else:
            self._free([window])


def _squares(rgb: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
    """(x0, y0, image): the whole and, if it is oblong, overlapping squares along it, in which a face is larger."""
    yield 0, 0, rgb
    height, width = rgb.shape[:2]
    side, long = min(height, width), max(height, width)
    if long > 1.25 * side:
        for start in np.linspace(0, long - side, 1 + -(-2 * (long - side) // side)).astype(int).tolist():
            x0, y0 = (start, 0) if width > height else (0, start)
            yield x0, y0, np.ascontiguousarray(rgb[y0 : y0 + side, x0 : x0 + side])


class _Mesh:
    """One FaceMesh, restarted before use when `stale`: it follows faces from frame to frame."""

    def __init__(self, max_faces: int, confidence: float):
        # refine_landmarks: lips and eyes from the attention mesh, for 0.4 ms more.
        self.graph = FaceMesh(
            static_image_mode=False,
            max_num_faces=max_faces,
            refine_landmarks=True,
            min_detection_confidence=confidence,
        )
        self.graph.process(_BLANK)
        self.stale = True

    def __enter__(self) -> "_Mesh":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.graph.close()

    def detect(self, rgb: np.ndarray) -> list[Face]:
        """Faces that are wide enough; MediaPipe gives landmarks as shares of the image's sides."""
        with _quiet(self.stale):
            if self.stale:
                self.graph.reset()
            found = self.graph.process(rgb).multi_face_landmarks or []  # pyright: ignore[reportAttributeAccessIssue]  # fields are made at run time
        self.stale = False
        size = np.array(rgb.shape[1::-1], np.float32)
        points = [np.array([(p.x, p.y) for p in item.landmark], np.float32) * size - 0.5 for item in found]
        return [face for face in map(FACE_MESH.face, points) if face.width_px >= MIN_FACE_PX]


class _Window:
    """A region three faces wide around one small face. It stays in place while the face is near its middle, so that its
    mesh can follow the face."""

    def __init__(self, mesh: _Mesh, box: tuple[float, ...]):
        self.mesh = mesh
        self._centre(box)

    def _centre(self, box: tuple[float, ...]) -> None:
        self.x, self.y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        self.half = 1.5 * max(box[2] - box[0], box[3] - box[1])
        self.mesh.stale = True

    def detect(self, rgb: np.ndarray) -> Face | None:
        x0, y0 = max(0, int(self.x - self.half)), max(0, int(self.y - self.half))
        part = np.ascontiguousarray(rgb[y0 : int(self.y + self.half) + 1, x0 : int(self.x + self.half) + 1])
        if min(part.shape[:2]) < MIN_FACE_PX:
            return None
        for face in self.mesh.detect(part):
            face = FACE_MESH.face(face.landmarks + np.array([x0, y0], np.float32))
            away = max(abs((face.box[0] + face.box[2]) / 2 - self.x), abs((face.box[1] + face.box[3]) / 2 - self.y))
            if away > 0.3 * self.half or not 0.2 < face.width_px / (2 * self.half) < 0.6:
                self._centre(face.box)
            return face
        return None


@contextmanager
def _quiet(silent: bool = True) -> Iterator[None]:
    """Discard what C++ threads write to stderr as they start, which no setting switches off; exceptions still rise."""
    if not silent:
        yield
        return
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)
