"""Face detectors: what they call a face, where its anchors lie, and how they behave from frame to frame."""

import cv2
import numpy as np
import pytest
from skimage import data

from latentsync.faces import alignment, detection
from latentsync.faces.detection import POINTS_68, Face, is_new, open_detector, overlap
from latentsync.faces.face_mesh import FACE_MESH
from latentsync.faces.insight_faces import POINTS_106


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """NASA's portrait of Eileen Collins, her face 92 px wide about (222, 110)."""
    return data.astronaut()


@pytest.fixture(scope="module")
def detector():
    with open_detector("mediapipe", 2) as opened:
        yield opened


def on_canvas(photo: np.ndarray, face_px: float, width: int, height: int, at: float = 0.5) -> np.ndarray:
    """The portrait's head, its face so wide, on a grey picture."""
    scale = face_px / 92
    head = cv2.resize(photo[:250, 120:330], None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    canvas = np.full((height, width, 3), 110, np.uint8)
    y, x = (height - head.shape[0]) // 3, int((width - head.shape[1]) * at)
    canvas[y : y + head.shape[0], x : x + head.shape[1]] = head
    return canvas


def test_a_portrait_has_one_face_where_one_sees_it(photo, detector):
    detector.reset()
    [face] = detector.detect(photo)
    assert face.width_px == pytest.approx(92, abs=8)
    assert face.landmarks.shape == (478, 2) and face.landmarks.dtype == face.anchors.dtype == np.float32
    left, right, nose = face.anchors
    assert left == pytest.approx([201, 89], abs=5)  # by eye
    assert right == pytest.approx([250, 92], abs=5)
    assert nose == pytest.approx([224, 120], abs=5)
    assert 0.02 < face.mouth_opening < 0.3  # she smiles, her teeth show


def test_the_crop_is_framed_as_published(photo, detector):
    detector.reset()
    [face] = detector.detect(photo)
    points = alignment.apply(alignment.similarity(face.anchors, 256), face.landmarks) / alignment.crop_size(256)
    eyes, mouth, chin = points[[33, 133, 362, 263]].mean(0), points[[61, 291]].mean(0), points[152]
    assert 0.22 < eyes[1] < 0.36 and 0.54 < mouth[1] < 0.72 and 0.8 < chin[1] < 0.96
    assert all(abs(place[0] - 0.5) < 0.08 for place in (eyes, mouth, chin))


@pytest.mark.parametrize(("face_px", "size"), [(45, (568, 320)), (60, (1080, 1920)), (90, (1920, 1080))])
def test_small_faces_are_found_and_followed(photo, detector, face_px, size):
    detector.reset()
    for shift in range(12):
        picture = np.roll(on_canvas(photo, face_px, *size), 3 * shift, axis=1)
        [face] = detector.detect(picture)
        assert face.width_px == pytest.approx(face_px, rel=0.2)
        if shift == 0:
            first = face.anchors
        assert np.abs(face.anchors - first - [3 * shift, 0]).max() < 0.1 * face_px


def test_two_faces_the_widest_first_and_no_more_than_asked_for(photo, detector):
    picture = on_canvas(photo, 70, 640, 320, at=0.05)
    picture[:, 320:] = on_canvas(photo, 110, 320, 320)
    detector.reset()
    large, small = detector.detect(picture)
    assert large.box[0] > 320 > small.box[2] and large.width_px > small.width_px
    with open_detector("mediapipe", 1) as one:
        assert len(one.detect(picture)) == 1


@pytest.mark.parametrize("name", ["coffee", "rocket", "hubble_deep_field"])
def test_pictures_without_people_have_no_face(detector, name):
    detector.reset()
    for _ in range(3):
        assert detector.detect(getattr(data, name)()[:400, :600]) == []


def test_after_a_reset_the_same_frames_give_the_same_faces(photo, detector):
    frames = [np.roll(photo, 2 * step, axis=0) for step in range(5)]
    runs = []
    for _ in range(2):
        detector.reset()
        runs.append([detector.detect(frame)[0].landmarks for frame in frames])
        detector.detect(np.zeros_like(photo))  # what came in between must not matter
    assert (np.array(runs[0]) == np.array(runs[1])).all()


def test_nothing_is_said_on_stderr(photo, capfd):
    with open_detector("mediapipe", 2) as opened:
        opened.detect(photo)
        opened.reset()
        opened.detect(on_canvas(photo, 60, 1080, 1920))
    assert capfd.readouterr().err == ""


def test_the_opening_is_measured_along_the_tilted_face():
    points = np.zeros((68, 2))
    points[36], points[45] = (-30, 0), (30, 0)
    points[61:64], points[65:68] = (0, 40), (0, 46)
    points[17:22], points[22:27], points[27:36] = (-20, -15), (20, -15), (0, 15)
    for angle in (0.0, 0.5, -1.0):
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        face = POINTS_68.face(points @ turn.T)
        assert face.mouth_opening == pytest.approx(0.1, abs=1e-6)
        assert face.anchors == pytest.approx(np.array([[-20, -15], [20, -15], [0, 15]]) @ turn.T, abs=1e-5)
    points[65:68] = (0, 39)  # lips that cross are closed
    assert POINTS_68.face(points).mouth_opening == 0


def test_a_find_inside_a_face_is_that_face():
    face = Face((0, 0, 100, 120), np.zeros((1, 2)), np.zeros((3, 2)), 0.0)
    assert not is_new((30, 40, 70, 80), [face]) and not is_new((10, 10, 110, 130), [face])
    assert is_new((80, 0, 180, 120), [face]) and is_new((0, 0, 1, 1), [])
    assert overlap((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx((1 / 3, 1 / 2))
    assert overlap((0, 0, 1, 1), (2, 2, 3, 3)) == (0, 0)


def test_unknown_and_missing_backends_are_one_sentence(tmp_path, monkeypatch):
    with (
        pytest.raises(ValueError, match="dlib is not known; known: mediapipe, face_alignment, insightface"),
        open_detector("dlib", 1),
    ):
        pass
    monkeypatch.setenv("LATENTSYNC_WEIGHTS", str(tmp_path))
    with pytest.raises(ValueError, match=r"s3fd-619a316812\.pth.*face_alignment"), open_detector("face_alignment", 1):
        pass
    with pytest.raises(ValueError, match=r"det_10g\.onnx.*insightface"), open_detector("insightface", 1):
        pass


def test_every_scheme_puts_its_anchors_where_the_template_has_them():
    """One face, described once, written into the points that each scheme calls brows, nose, eyes and lips."""
    face = {  # x, y in brow distances from the bridge of the nose, y downwards; what each scheme calls these places
        "left_brow": (-0.5, -0.25),
        "right_brow": (0.5, -0.25),
        "nose": (0.0, 0.35),
        "upper_lip": (0.0, 0.85),
        "lower_lip": (0.0, 0.95),
    }
    for scheme, count in ((POINTS_68, 68), (POINTS_106, 106), (FACE_MESH, 478)):
        points = np.zeros((count, 2))
        for name, place in face.items():
            points[list(getattr(scheme, name))] = place
        points[list(scheme.eyes)] = (-0.55, 0.0), (0.55, 0.0)
        found = scheme.face(100 * points + [300, 200])
        assert np.allclose(found.anchors, [(250, 175), (350, 175), (300, 235)], atol=1e-4)
        assert found.mouth_opening == pytest.approx(0.1 / 1.1, abs=1e-5)
        indices = [i for name in face for i in getattr(scheme, name)] + list(scheme.eyes)
        assert len(indices) == len(set(indices)) and max(indices) < count  # no point is two things


def test_published_anchor_points():
    """Spec of the published code, A.1.1: 68 points in 1.0 to 1.5, 106 points in 1.6."""
    assert POINTS_68.left_brow == (17, 18, 19, 20, 21) and POINTS_68.nose == tuple(range(27, 36))
    assert sorted(POINTS_106.left_brow) == [43, 48, 49, 50, 51] and POINTS_106.right_brow == (101, 102, 103, 104, 105)
    assert POINTS_106.nose == (74, 77, 83, 86)


def test_insightface_finds_what_its_files_say(weights_folder):
    """Files of the published form that see one face at a known place, whatever the picture."""
    pytest.importorskip("insightface", reason="the optional extra insightface is not installed")
    from onnx import TensorProto, helper, numpy_helper, save

    def model(path, side, outputs):
        given = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, side, side])
        nodes, infos = [], []
        for name, value in outputs.items():
            nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value)))
            infos.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape))
        path.parent.mkdir(parents=True, exist_ok=True)
        save(helper.make_model(helper.make_graph(nodes, "g", [given], infos), ir_version=9), path)

    outputs = {}
    for part, width in (("score", 1), ("box", 4), ("points", 10)):
        for stride in (8, 16, 32):
            value = np.zeros(((512 // stride) ** 2 * 2, width), np.float32)
            if stride == 16:
                cell = 2 * (10 * 32 + 12)  # row 10, column 12: at (192, 160)
                value[cell] = 0.9 if part == "score" else 3.0  # 48 px to every side
            outputs[f"{part}{stride}"] = value
    folder = weights_folder / "auxiliary/models/buffalo_l"
    model(folder / "det_10g.onnx", 512, outputs)
    shape = np.random.default_rng(0).uniform(-0.6, 0.6, (106, 2)).astype(np.float32)
    model(folder / "2d106det.onnx", 192, {"fc1": shape.reshape(1, 212)})
    with open_detector("insightface", 2) as opened:
        [found] = opened.detect(np.zeros((1024, 1024, 3), np.uint8))  # shown to the detector at half its size
        opened.reset()
    assert found.landmarks.shape == (106, 2)
    expected = 2 * (np.array([192, 160]) + shape * 96 * 1.5 * 96 / 192)  # 1.5 boxes wide, seen at 192 px
    assert np.abs(found.landmarks - expected).max() < 2


def test_face_alignment_runs_on_files_of_the_right_shape(weights_folder, monkeypatch, photo):
    """Untrained nets written under the published names: everything but the quality of the landmarks."""
    import numba
    import torch

    monkeypatch.setattr(numba.config, "DISABLE_JIT", True)  # compiling what reads the heat maps takes 30 s
    from face_alignment.detection.sfd.net_s3fd import s3fd
    from face_alignment.models import FAN

    torch.manual_seed(0)
    (weights_folder / "auxiliary").mkdir()
    blind = s3fd().state_dict()
    for name in (name for name in blind if name.endswith("mbox_conf.bias")):
        blind[name][-1] = -20  # an untrained net would find thousands of faces
    torch.save(blind, weights_folder / "auxiliary" / "s3fd-619a316812.pth")
    torch.save(FAN(4).state_dict(), weights_folder / "auxiliary" / "2DFAN4-11f355bf06.pth.tar")
    with open_detector("face_alignment", 1) as opened:
        assert opened.detect(photo) == []
        boxes = [np.array([180, 60, 270, 170, 0.9]), np.array([0, 0, 200, 40, 0.9]), np.array([0, 0, 20, 30, 0.9])]
        monkeypatch.setattr(opened.net.face_detector, "detect_from_image", lambda rgb: boxes)
        [face] = opened.detect(photo)  # too flat and too small ones are no faces
    assert face.landmarks.shape == (68, 2) and np.isfinite(face.landmarks).all()
    assert (face.landmarks.min(0) >= [100, 0]).all() and (face.landmarks.max(0) <= [350, 240]).all()
    assert detection.FaceAlignmentDetector.reset(opened) is None
