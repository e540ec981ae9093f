"""Face restoration: alignment, blending and plumbing, with GFPGAN's own network at small size and random weights.

No trained restorer is available to tests; what a good one does to a face is not tested here.
"""

from contextlib import ExitStack

import cv2
import numpy as np
import pytest
import torch

from latentsync.config import Enhance, EnhanceInRun
from latentsync.faces import alignment, insight_faces
from latentsync.faces.backends import BACKENDS, FACE_MESH, INSIGHT_106, open_detector
from latentsync.generation import paste, speakers
from latentsync.generation import restore as enhance
from latentsync.generation.paste import paste_region
from latentsync.ledger.files import read_ledger, write_ledger
from latentsync.media.frames import planes
from latentsync.media.probe import probe_media
from latentsync.media.read import read_video_frames
from latentsync.models import restorers
from latentsync.steps import enhance as step
from latentsync.weights import files as weight_files
from tests.face_charts import Charted, of_face_mesh
from tests.videos import head, write_video

RESOLUTION = 64
SMALL = restorers.PUBLISHED_GFPGAN | {
    "out_size": 64,
    "num_style_feat": 32,
    "channel_multiplier": 1,
    "num_mlp": 2,
    "narrow": 0.0625,
}


class Paint:
    """A restorer that paints everything green."""

    size = 128

    def __call__(self, faces: np.ndarray) -> np.ndarray:
        return np.tile(np.float32([0, 255, 0]), (len(faces), self.size, self.size, 1))


class Same(Paint):
    """A restorer that changes nothing."""

    def __call__(self, faces: np.ndarray) -> np.ndarray:
        return faces


@pytest.fixture(scope="module")
def detector():
    with open_detector("mediapipe", 1) as detector:
        yield detector


@pytest.fixture(scope="module", params=BACKENDS)
def any_detector(request, detector):
    """FaceMesh's faces in the landmarks of every backend."""
    scheme = BACKENDS[request.param].scheme
    return detector if scheme is FACE_MESH else Charted(detector, scheme)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path, silence = tmp_path_factory.mktemp("video") / "v.mp4", np.zeros(24_000, np.float32)
    return write_video(path, 12, images=head, size=(208, 176), audio=silence)


@pytest.fixture(scope="module")
def matrices(video, detector):
    [track] = speakers.track_video(video, detector)
    found = np.array([alignment.similarity(anchors, RESOLUTION) for anchors in track.anchors])
    found[3] = np.nan  # a frame that passed through
    return found


def run(video, out, matrices, detector, restore, **settings):
    cfg = Enhance(method="gfpgan", **settings)
    n = enhance.enhance_video(video, out, matrices, RESOLUTION, restore, cfg, detector, crf=0)
    luma = [[planes(paste.copied(f))[0].astype(int) for _, f in read_video_frames(p)] for p in (video, out)]
    return n, np.abs(np.array(luma[0]) - np.array(luma[1]))


def test_the_five_points_land_where_ffhq_has_them():
    turned = np.array([[0.6, -0.2], [0.2, 0.6]])
    points = enhance.FFHQ @ turned.T + [40, 90]
    matrix = enhance.ffhq_matrix(points, 512)
    np.testing.assert_allclose(alignment.apply(matrix, points), enhance.FFHQ, atol=1e-6)
    half = alignment.apply(enhance.ffhq_matrix(points, 256), points)
    np.testing.assert_allclose((half + 0.5) * 2, enhance.FFHQ + 0.5, atol=1e-6)  # the same place of a smaller image


def test_a_real_face_lies_upright_in_the_square(video, any_detector):
    [track] = speakers.track_video(video, any_detector)
    points = any_detector.scheme.five_points(track.landmarks[0])
    aligned = alignment.apply(enhance.ffhq_matrix(points, 512), points)
    assert np.abs(aligned - enhance.FFHQ).max() < 40  # a real face is no template, but near it


def test_only_the_generated_region_changes_and_frames_that_passed_through_do_not(
    video, matrices, any_detector, tmp_path
):
    n, changed = run(video, tmp_path / "o.mp4", matrices, any_detector, Paint(), strength=1.0, lip_protection=0.0)
    assert n == 11 and changed[3].max() == 0
    for index in (0, 4, 11):
        region, alpha = paste_region(changed.shape[1:], matrices[index], RESOLUTION)
        inside = np.zeros(changed.shape[1:], bool)
        inside[region[1] : region[3], region[0] : region[2]] = alpha > 0
        assert changed[index][~inside].max() == 0 and changed[index][inside].mean() > 20


def test_strength_scales_and_lips_are_protected(video, matrices, detector, tmp_path):
    _, full = run(video, tmp_path / "a.mp4", matrices, detector, Paint(), strength=1.0, lip_protection=0.0)
    _, half = run(video, tmp_path / "b.mp4", matrices, detector, Paint(), strength=0.5, lip_protection=0.0)
    _, kept = run(video, tmp_path / "c.mp4", matrices, detector, Paint(), strength=1.0, lip_protection=1.0)
    _, none = run(video, tmp_path / "d.mp4", matrices, detector, Paint(), strength=0.0)
    assert none.max() == 0
    assert half.sum() == pytest.approx(full.sum() / 2, rel=0.05)
    [track] = speakers.track_video(video, detector)
    x, y = track.landmarks[0][[13, 14]].mean(0).round().astype(int)
    assert kept[0][y, x] == 0 < full[0][y, x] and 0 < kept.sum() < full.sum()


def test_a_restorer_that_changes_nothing_leaves_the_video(video, matrices, detector, tmp_path):
    _, changed = run(video, tmp_path / "o.mp4", matrices, detector, Same(), strength=1.0, lip_protection=0.0)
    assert changed.mean() < 1.5  # two resamplings at this size, and only there


def test_the_whole_face_where_that_is_asked_for(video, matrices, detector, tmp_path):
    [track] = speakers.track_video(video, detector)
    x, y = track.landmarks[0][[33, 133]].mean(0).round().astype(int)  # an eye
    for region, touched in (("mouth", False), ("face", True)):
        settings = {"strength": 1.0, "lip_protection": 0.0, "region": region}
        _, changed = run(video, tmp_path / f"{region}.mp4", matrices, detector, Paint(), **settings)
        assert (changed[0][y, x] > 0) == touched


class Remembers(Paint):
    """A restorer that paints everything green and keeps the first face it is given."""

    def __call__(self, faces: np.ndarray) -> np.ndarray:
        self.first = getattr(self, "first", faces[0])
        return super().__call__(faces)


def test_106_landmarks_align_the_face_and_protect_the_lips_as_facemesh_does(video, matrices, detector, tmp_path):
    """InsightFace's scheme through enhance_video, its points carried over from FaceMesh's of the same face."""
    changed, given = [], []
    for found_by in (detector, Charted(detector, INSIGHT_106)):
        restore, out = Remembers(), tmp_path / f"{len(changed)}.mp4"
        n, luma = run(video, out, matrices, found_by, restore, strength=1.0, lip_protection=1.0)
        assert n == 11
        changed.append(luma[0])
        given.append(cv2.GaussianBlur(restore.first, (0, 0), 3)[24:104, 24:104])  # without its border
    assert np.abs(given[0] - given[1]).mean() < 4  # the same face, moved by a pixel at most ...
    assert np.abs(given[0] - given[1][:, ::-1]).mean() > 20  # ... and the same way round

    [track] = speakers.track_video(video, detector)
    mesh = track.landmarks[0]
    five = INSIGHT_106.five_points(of_face_mesh(INSIGHT_106, mesh))
    placed = alignment.apply(enhance.ffhq_matrix(five, 512), FACE_MESH.five_points(mesh))
    assert np.abs(placed - enhance.FFHQ).max() < 40

    region, alpha = paste_region(changed[0].shape, matrices[0], RESOLUTION)
    redrawn = np.zeros(changed[0].shape, bool)
    redrawn[region[1] : region[3], region[0] : region[2]] = alpha > 0.5
    lips = cv2.fillPoly(
        np.zeros(redrawn.shape, np.uint8), [np.rint(mesh[list(FACE_MESH.outer_lips)]).astype(np.int32)], 1
    )
    around = cv2.dilate(lips, np.ones((25, 25), np.uint8)).astype(bool)
    for luma in changed:
        assert (luma[lips > 0] == 0).mean() > 0.95 and (luma[redrawn & ~around] > 0).mean() > 0.9


@pytest.fixture(scope="module")
def gfpgan_file(tmp_path_factory):
    """GFPGANv1Clean, small and untrained, in a file of ours."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    weight_files.save(path, restorers.gfpgan_network(**SMALL).state_dict(), SMALL)
    return path


def test_gfpgan_runs_and_does_not_flicker(gfpgan_file):
    restore = restorers.open_restorer("gfpgan", gfpgan_file)
    image = np.random.default_rng(0).uniform(0, 255, (1, 64, 64, 3)).astype(np.float32)
    twice = restore(np.concatenate([image, image]))
    assert twice.shape == (2, 64, 64, 3) and 0 <= twice.min() < twice.max() <= 255
    np.testing.assert_allclose(twice[0], twice[1], atol=1e-3)  # the same frame gives the same face


def test_a_foreign_pickle_is_read_and_a_wrong_one_is_named(tmp_path):
    path = tmp_path / "GFPGANv1.4.pth"
    torch.save({"params_ema": {"conv": torch.zeros(1)}}, path)
    with pytest.raises(ValueError, match=r"285 missing .*; 1 unexpected \(conv\).*enhance\.weights wants GFPGANv1\.3"):
        restorers.open_restorer("gfpgan", path)


def row(video, matrices, tmp_path) -> dict:
    media = tmp_path / "demo" / "generate" / "media"
    media.mkdir(parents=True)
    (media / "a.mp4").write_bytes(video.read_bytes())
    np.savez(media / "a.npz", matrices=matrices)
    return {
        "id": "a",
        "status": "ok",
        "system": "ours",
        "video_file": "generate/media/a.mp4",
        "render_file": "generate/media/a.npz",
        "resolution": RESOLUTION,
        "faces": "mediapipe",
        "n_faces": 1,
        "crf": 8,
    }


def test_off_the_rows_pass_through(video, matrices, tmp_path):
    rows = [row(video, matrices, tmp_path)]
    generated, enhanced = tmp_path / "demo/generate/00000.jsonl", tmp_path / "demo/enhance/00000.jsonl"
    write_ledger(generated, rows)
    step.run(EnhanceInRun(), {"generate": [generated]}, {"ledger": enhanced}, None)
    assert enhanced.read_bytes() == generated.read_bytes()


def test_the_step_writes_restored_videos_and_leaves_controls(video, matrices, tmp_path, gfpgan_file):
    first = row(video, matrices, tmp_path)
    generated, enhanced = tmp_path / "demo/generate/00000.jsonl", tmp_path / "demo/enhance/00000.jsonl"
    write_ledger(generated, [first, first | {"id": "b", "system": "untrained"}])
    cfg = EnhanceInRun(method="gfpgan", weights=str(gfpgan_file))
    step.run(cfg, {"generate": [generated]}, {"ledger": enhanced}, None)
    ours, control = read_ledger(enhanced)
    assert control["video_file"] == first["video_file"] == ours["unenhanced_file"] != ours["video_file"]
    before, after = probe_media(video), probe_media(tmp_path / "demo" / ours["video_file"])
    assert (before.n_frames, before.width, before.has_audio) == (after.n_frames, after.width, after.has_audio)
    assert ours["n_enhanced"] == 11


def test_the_step_opens_the_backend_that_the_row_names(video, matrices, tmp_path, gfpgan_file, monkeypatch):
    """InsightFace's detector is taken for one that needs no weights."""
    opened = []

    class Faces(Charted):
        def __init__(self, max_faces):
            opened.append(max_faces)
            super().__init__(stack.enter_context(open_detector("mediapipe", max_faces)), INSIGHT_106)

    monkeypatch.setattr(insight_faces, "InsightFaceDetector", Faces)
    generated, enhanced = tmp_path / "demo/generate/00000.jsonl", tmp_path / "demo/enhance/00000.jsonl"
    write_ledger(generated, [row(video, matrices, tmp_path) | {"faces": "insightface"}])
    with ExitStack() as stack:
        cfg = EnhanceInRun(method="gfpgan", weights=str(gfpgan_file))
        step.run(cfg, {"generate": [generated]}, {"ledger": enhanced}, None)
    [ours] = read_ledger(enhanced)
    assert opened == [1] and ours["n_enhanced"] == 11 and ours["faces"] == "insightface"


def test_missing_weights_are_one_sentence_before_anything_else(tmp_path):
    cfg = EnhanceInRun(method="gfpgan", weights=str(tmp_path / "none.pth"))
    ledger = tmp_path / "demo/generate/00000.jsonl"
    write_ledger(ledger, [])
    with pytest.raises(ValueError, match=r"none.pth.*enhance.method: gfpgan"):
        step.run(cfg, {"generate": [ledger]}, {"ledger": tmp_path / "demo/enhance/00000.jsonl"}, None)
