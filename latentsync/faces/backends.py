"""The face backends, one entry each: detector, landmarks, weights, and what a user must know about it.

A new backend is a detector file, an entry here, its name in config.FaceBackend, and its weights in registry.toml.

Anchors are means of landmarks, as LatentSync takes them: of 68 points (1.0 to 1.5) each brow and the nose; of 106
points (1.5 and 1.6) the upper edges of the brows and four points of the nose, here without rounding to whole pixels; of
FaceMesh the same places: upper and lower edges of the brows; bridge, tip and base of the nose.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib import import_module

from latentsync.faces.face import Detector, Scheme
from latentsync.weights import registry

FACE_MESH = Scheme(
    n_points=478,
    left_brow=(70, 63, 105, 66, 107, 46, 53, 52, 65, 55),
    right_brow=(300, 293, 334, 296, 336, 276, 283, 282, 295, 285),
    nose=(168, 6, 195, 4, 98, 97, 2, 326, 327),
    eyes=(33, 263),
    upper_lip=(82, 13, 312),
    lower_lip=(87, 14, 317),
    pose=(1, 168, 33, 263, 61, 291),
    five=((33, 133), (362, 263), (4,), (61,), (291,)),
    outer_lips=(61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181, 91, 146),
)
IBUG_68 = Scheme(
    n_points=68,
    left_brow=(17, 18, 19, 20, 21),
    right_brow=(22, 23, 24, 25, 26),
    nose=(27, 28, 29, 30, 31, 32, 33, 34, 35),
    eyes=(36, 45),
    upper_lip=(61, 62, 63),
    lower_lip=(67, 66, 65),
    pose=(30, 27, 36, 45, 48, 54),
    five=((36, 37, 38, 39, 40, 41), (42, 43, 44, 45, 46, 47), (30,), (48,), (54,)),
    outer_lips=(48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59),
)
INSIGHT_106 = Scheme(  # the chart 2d106markup of InsightFace's coordinate_reg; 34, 38, 88 and 92 are pupils
    n_points=106,
    left_brow=(43, 48, 49, 51, 50),
    right_brow=(101, 102, 103, 104, 105),
    nose=(74, 77, 83, 86),
    eyes=(35, 93),
    upper_lip=(66, 62, 70),
    lower_lip=(54, 60, 57),
    pose=(86, 72, 35, 93, 52, 61),
    five=((35, 41, 40, 42, 39, 37, 33, 36), (89, 95, 94, 96, 93, 91, 87, 90), (86,), (52,), (61,)),
    outer_lips=(52, 64, 63, 71, 67, 68, 61, 58, 59, 53, 56, 55),
)


@dataclass(frozen=True)
class Backend:
    """What the rest of the program knows about a face backend."""

    name: str  # the value of align_faces.backend, evaluate.faces and --faces
    detector: str  # module:class of a Detector, called with max_faces; imported when it is opened
    scheme: Scheme
    weights: tuple[str, ...]  # names in the registry of pretrained files
    gpu: bool  # whether it runs on a GPU where there is one
    code_licence: str  # of the package, and of the models that come with it
    stand_in: str | None  # a sentence for the list of stand-ins; None: a published release uses it

    @property
    def licence(self) -> str:
        """Of the weights, as the registry has it, else of the package."""
        return "; ".join(dict.fromkeys(registry.entry(name).licence for name in self.weights)) or self.code_licence


BACKENDS = {
    backend.name: backend
    for backend in (
        Backend(
            name="mediapipe",
            detector="latentsync.faces.face_mesh:MediapipeDetector",
            scheme=FACE_MESH,
            weights=(),
            gpu=False,
            code_licence="Apache-2.0",
            stand_in="faces were found by MediaPipe's FaceMesh, not by S3FD and 2DFAN4 as in LatentSync 1.5",
        ),
        Backend(
            name="face_alignment",
            detector="latentsync.faces.face_alignment_net:FaceAlignmentDetector",
            scheme=IBUG_68,
            weights=("s3fd", "2dfan4"),
            gpu=True,
            code_licence="BSD-3-Clause",
            stand_in=None,
        ),
        Backend(
            name="insightface",
            detector="latentsync.faces.insight_faces:InsightFaceDetector",
            scheme=INSIGHT_106,
            weights=("buffalo_l",),
            gpu=True,
            code_licence="MIT",
            stand_in=None,
        ),
    )
}


def backend(name: str) -> Backend:
    """The backend of a name.

    Raises:
        ValueError: there is none.
    """
    if name not in BACKENDS:
        raise ValueError(f"Face backend {name} is not known; known: {', '.join(BACKENDS)}.")
    return BACKENDS[name]


@contextmanager
def open_detector(name: str, max_faces: int) -> Iterator[Detector]:
    """The detector of a backend, for at most `max_faces` faces in a frame.

    Raises:
        ValueError: for an unknown backend, or one whose weights or package are missing.
    """
    module, _, kind = backend(name).detector.partition(":")
    detector: Detector = getattr(import_module(module), kind)(max_faces)
    with detector if isinstance(detector, AbstractContextManager) else nullcontext():
        yield detector
