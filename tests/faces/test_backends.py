"""The table of face backends: every entry is complete, every scheme names the same places of a face, and what else the
program asks about a backend comes from its entry."""

import dataclasses
import subprocess
import sys
from importlib import import_module
from typing import get_args

import cv2
import numpy as np
import pytest
from skimage import data

from latentsync import config, gpu_lease, required
from latentsync.config import AlignFaces, Config, Evaluate, FaceBackend
from latentsync.faces import backends, measures
from latentsync.faces.backends import BACKENDS, FACE_MESH, IBUG_68, INSIGHT_106, open_detector
from latentsync.faces.face import Face
from latentsync.weights import registry
from tests.face_charts import of_face_mesh

SCHEMES = pytest.mark.parametrize("scheme", [IBUG_68, INSIGHT_106], ids=lambda scheme: str(scheme.n_points))


@pytest.fixture(scope="module")
def mesh() -> Face:
    """The face of NASA's portrait of Eileen Collins, 92 px wide, in points of FaceMesh."""
    with open_detector("mediapipe", 1) as detector:
        [face] = detector.detect(data.astronaut())
    return face


def test_the_configuration_knows_the_backends_of_the_table():
    assert get_args(FaceBackend) == tuple(BACKENDS)
    assert AlignFaces.model_fields["backend"].annotation == Evaluate.model_fields["faces"].annotation == FaceBackend


@pytest.mark.parametrize("name", BACKENDS)
def test_every_entry_is_complete(name):
    entry = BACKENDS[name]
    assert entry.name == name
    module, kind = entry.detector.split(":")
    detector = getattr(import_module(module), kind)
    assert detector.scheme is entry.scheme and callable(detector.detect) and callable(detector.reset)
    assert all(registry.entry(weights).files for weights in entry.weights)
    assert isinstance(entry.gpu, bool) and entry.code_licence and entry.licence
    assert all(registry.entry(weights).licence in entry.licence for weights in entry.weights)
    assert entry.stand_in is None or (entry.stand_in.startswith("faces ") and "\n" not in entry.stand_in)


@pytest.mark.parametrize("name", BACKENDS)
def test_every_scheme_is_complete(name):
    scheme = BACKENDS[name].scheme
    for field in dataclasses.fields(scheme):
        value = getattr(scheme, field.name)
        indices = np.concatenate([np.atleast_1d(part) for part in value]) if isinstance(value, tuple) else [0]
        assert len(indices) and len(set(indices)) == len(indices), field.name
        assert min(indices) >= 0 and max(indices) < scheme.n_points, field.name
    assert len(scheme.upper_lip) == len(scheme.lower_lip) == 3
    assert (len(scheme.pose), len(scheme.five)) == (6, 5) and len(scheme.outer_lips) >= 12
    assert scheme.pose[2:4] == scheme.eyes and scheme.pose[4:] == (*scheme.five[3], *scheme.five[4])
    assert {*scheme.pose[4:]} < {*scheme.outer_lips} and not {*scheme.upper_lip, *scheme.lower_lip} & {
        *scheme.outer_lips
    }


def test_published_anchor_points():
    """Spec of the published code, A.1.1: 68 points in 1.0 to 1.5, 106 points in 1.6."""
    assert IBUG_68.left_brow == (17, 18, 19, 20, 21) and IBUG_68.nose == tuple(range(27, 36))
    assert sorted(INSIGHT_106.left_brow) == [43, 48, 49, 50, 51] and INSIGHT_106.right_brow == (101, 102, 103, 104, 105)
    assert INSIGHT_106.nose == (74, 77, 83, 86)


def test_every_scheme_puts_its_anchors_where_the_template_has_them():
    """One face, described once, written into the points that each scheme calls brows, nose, eyes and lips."""
    face = {  # x, y in brow distances from the bridge of the nose, y downwards; what each scheme calls these places
        "left_brow": (-0.5, -0.25),
        "right_brow": (0.5, -0.25),
        "nose": (0.0, 0.35),
        "upper_lip": (0.0, 0.85),
        "lower_lip": (0.0, 0.95),
    }
    for scheme in (IBUG_68, INSIGHT_106, FACE_MESH):
        points = np.zeros((scheme.n_points, 2))
        for name, place in face.items():
            points[list(getattr(scheme, name))] = place
        points[list(scheme.eyes)] = (-0.55, 0.0), (0.55, 0.0)
        found = scheme.face(100 * points + [300, 200])
        assert np.allclose(found.anchors, [(250, 175), (350, 175), (300, 235)], atol=1e-4)
        assert found.mouth_opening == pytest.approx(0.1 / 1.1, abs=1e-5)
        indices = [i for name in face for i in getattr(scheme, name)] + list(scheme.eyes)
        assert len(indices) == len(set(indices)) and max(indices) < scheme.n_points  # no point is two things


@SCHEMES
def test_one_photograph_reads_the_same_in_every_scheme(scheme, mesh):
    """Anchors, mouth, five points, lips and pose of one face, its landmarks carried over by the published charts."""
    face = scheme.face(of_face_mesh(scheme, mesh.landmarks))
    eyes_px = float(np.hypot(*np.diff(mesh.landmarks[list(FACE_MESH.eyes)], axis=0)[0]))
    assert np.abs(face.anchors - mesh.anchors).max() < 0.12 * eyes_px
    assert face.mouth_opening == pytest.approx(mesh.mouth_opening, abs=1e-6)
    five, expected = (s.five_points(f.landmarks) for s, f in ((scheme, face), (FACE_MESH, mesh)))
    assert np.abs(five - expected).max() < 0.03 * eyes_px
    _, *others = scheme.pose  # all but the tip of the nose, of which no two charts agree
    assert np.abs(face.landmarks[others] - mesh.landmarks[list(FACE_MESH.pose[1:])]).max() < 1e-3
    ring = face.landmarks[list(scheme.outer_lips)]
    around = ring - ring.mean(0)
    angles = np.unwrap(np.arctan2(around[:, 1], around[:, 0]))
    assert (np.diff(angles) > 0).all() and 4.5 < np.ptp(angles) < 2 * np.pi  # once round the mouth, in order
    areas, overlap = lips_area(scheme, face, mesh)
    assert areas[0] == pytest.approx(areas[1], rel=0.15) and overlap > 0.85
    poses = [measures.head_pose(f.landmarks[None, s.pose])[0] for s, f in ((scheme, face), (FACE_MESH, mesh))]
    yaw, pitch, roll = np.abs(poses[0] - poses[1])
    assert yaw < 1 and roll < 1 and pitch < 12  # the charts have the tip of the nose at vertex 4, HEAD_CM at 1


def lips_area(scheme, face: Face, mesh: Face) -> tuple[list[int], float]:
    """Pixels inside both outlines of the lips, ten to a pixel of the photograph, and their intersection over union."""
    masks = []
    for one, landmarks in ((scheme, face.landmarks), (FACE_MESH, mesh.landmarks)):
        ring = np.rint((landmarks[list(one.outer_lips)] - mesh.landmarks[61] + [20, 40]) * 10).astype(np.int32)
        masks.append(cv2.fillPoly(np.zeros((800, 800), np.uint8), [ring], 1) > 0)
        assert abs(cv2.contourArea(ring) - masks[-1].sum()) < 0.1 * masks[-1].sum()  # it goes once round the mouth
    return [int(mask.sum()) for mask in masks], float((masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum())


def test_the_table_costs_no_heavy_import():
    heavy = "cv2 mediapipe torch onnx onnxruntime insightface face_alignment scipy".split()
    code = "import sys, latentsync.faces.backends, latentsync.required"
    code += f"; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"


def test_unknown_and_missing_backends_are_one_sentence(tmp_path, monkeypatch):
    with (
        pytest.raises(ValueError, match="dlib is not known; known: mediapipe, face_alignment, insightface"),
        open_detector("dlib", 1),
    ):
        pass
    with pytest.raises(ValueError, match="dlib is not known; known: mediapipe, face_alignment, insightface"):
        backends.backend("dlib")
    monkeypatch.setenv("LATENTSYNC_WEIGHTS", str(tmp_path))
    with pytest.raises(ValueError, match=r"s3fd-619a316812\.pth.*face_alignment"), open_detector("face_alignment", 1):
        pass
    with pytest.raises(ValueError, match=r"det_10g\.onnx.*insightface"), open_detector("insightface", 1):
        pass


class Fake:
    """A detector of a backend that is in the table for one test only."""

    scheme = IBUG_68

    def __init__(self, max_faces: int):
        self.max_faces = max_faces


@pytest.fixture
def fake(monkeypatch) -> backends.Backend:
    """A backend that takes the name insightface, with other weights, on the CPU."""
    entry = backends.Backend(
        "insightface", f"{__name__}:Fake", IBUG_68, ("taesd", "vae"), False, "MIT", "faces are fake"
    )
    monkeypatch.setitem(BACKENDS, "insightface", entry)
    return entry


def test_one_entry_is_all_that_the_program_knows_of_a_backend(fake):
    with open_detector("insightface", 3) as detector:
        assert type(detector).__name__ == "Fake" and detector.max_faces == 3
    section = AlignFaces(backend="insightface")
    assert not gpu_lease.wanted("align_faces", section)
    assert not gpu_lease.wanted("evaluate", Evaluate(faces="insightface", sync_backend="envelope"))
    asked = required.by_step(Config(align_faces=section))["align_faces"]
    assert asked[:2] == [(name, None, "align_faces.backend: insightface") for name in fake.weights]
    assert fake.licence == registry.entry("taesd").licence  # both are MIT, which is said once


def test_gpu_and_weights_of_the_published_backends():
    for name, gpu in (("mediapipe", False), ("face_alignment", True), ("insightface", True)):
        assert gpu_lease.wanted("align_faces", AlignFaces(backend=name)) == gpu
        assert gpu_lease.wanted("evaluate", Evaluate(faces=name, sync_backend="envelope")) == gpu
    cfg = config.validate({"align_faces": {"backend": "face_alignment"}, "evaluate": {"faces": "insightface"}})
    read = required.by_step(cfg)
    keys = [(name, key) for step in ("align_faces", "evaluate") for name, _, key in read[step]][:3]
    by_align = [(name, "align_faces.backend: face_alignment") for name in ("s3fd", "2dfan4")]
    assert keys == [*by_align, ("buffalo_l", "evaluate.faces: insightface")]
