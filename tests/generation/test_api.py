"""The composition that Python callers, the command line and the steps share."""

import subprocess
import sys
import tempfile

import cv2
import numpy as np
import pytest
import torch

import latentsync
from latentsync.config import Enhance, FaceBackend, Generate, require_choice
from latentsync.generation import pipeline
from latentsync.generation.progress import Progress
from latentsync.generation.session import LipSync
from latentsync.media.audio import read_audio
from latentsync.media.read import read_frames
from latentsync.models import restorers
from latentsync.weights.find import find_weights
from tests.small_run import small_run
from tests.videos import head, write_video

QUICK = {"steps": 1, "guidance": 1.0, "crf": 0}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder like results/<run> with a small U-Net and VAE, as training leaves them."""
    torch.set_num_threads(1)
    return small_run(tmp_path_factory.mktemp("results") / "small")


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    tone = (0.3 * np.sin(2 * np.pi * 300 * np.arange(21_168) / 44_100)).astype(np.float32)
    return write_video(tmp_path_factory.mktemp("v") / "v.mp4", 12, images=head, size=(208, 176), audio=tone)


def pixels(path) -> np.ndarray:
    return np.array([rgb for _, rgb in read_frames(path)])


def test_importing_the_package_and_its_api_imports_neither_torch_nor_av():
    code = (
        "import sys, latentsync; light = not any(name.startswith('latentsync.') for name in sys.modules);"
        "latentsync.lip_sync; sys.exit(not light or bool({'torch', 'av', 'cv2'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(AttributeError, match="lipsync"):
        latentsync.lipsync  # noqa: B018


def test_one_call_and_a_session_write_the_same_file(trained, video, tmp_path):
    said = []
    settings = QUICK | {"length": "video"}
    result = latentsync.lip_sync(
        str(video), str(video), tmp_path / "a.mp4", str(trained), generate=settings, progress=said.append
    )
    expected = latentsync.Result(12, 12, {}, 0, 0.0, "face 1 of 1", 0)
    assert result == expected and result.seconds.keys() >= {"networks", "paste", "encode"}
    stages = list(dict.fromkeys(one.stage for one in said))
    assert stages[0].startswith("demonstration weights, 64 px") and stages[1:] == ["finding faces", "redrawing mouths"]
    assert said[-1] == Progress("redrawing mouths", 12, 12)
    np.testing.assert_array_equal(read_audio(video, 44_100), read_audio(tmp_path / "a.mp4", 44_100))  # copied packets
    with LipSync(*find_weights(trained), generate=Generate(**settings)) as session:
        for name in ("b", "c"):
            assert session(video, video, tmp_path / f"{name}.mp4") == result
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes() == (tmp_path / "c.mp4").read_bytes()


def test_a_whole_video_is_the_default(trained, video, tmp_path):
    """A run generates the first minute of each of its many videos; who passes one video wants all of it."""
    with LipSync(*find_weights(trained)) as session:
        assert session.generate.max_s is None
    cut = latentsync.lip_sync(video, video, tmp_path / "o.mp4", trained, generate=QUICK | {"max_s": 0.2})
    assert (cut.n_frames, cut.cut_s) == (5, 0.288)


def test_enhancement_encodes_only_once_and_needs_no_file_between(trained, video, tmp_path, monkeypatch):
    class Sharper:
        size = 64

        def __call__(self, faces):
            return faces + 4 * (faces - cv2.blur(faces[0], (3, 3)))

    opened, seen = [], set()
    open_writer = pipeline.open_writer

    def watched(file, *args, **settings):
        opened.append(file)
        return open_writer(file, *args, **settings)

    def progress(_):
        seen.update(path.name for path in (*tmp_path.iterdir(), *between.iterdir()))

    between = tmp_path.with_name("between")
    between.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(between))
    monkeypatch.setattr(pipeline, "open_writer", watched)
    monkeypatch.setattr(restorers, "open_restorer", lambda method, path, fidelity: Sharper())
    weights, out = tmp_path / "restorer.pth", tmp_path / "out.mp4"
    weights.write_bytes(b"weights")
    enhance = {"method": "gfpgan", "weights": str(weights)}

    def run(**settings):
        out.unlink(missing_ok=True)
        enhance = {"enhance": settings} if settings else {}
        result = latentsync.lip_sync(video, video, out, trained, generate=QUICK, progress=progress, **enhance)
        return result, out.read_bytes()

    plain, without = run()
    none, unchanged = run(**enhance, strength=0.0)
    result, enhanced = run(**enhance, strength=1.0)
    assert unchanged == without != enhanced
    assert (plain.n_enhanced, none.n_enhanced, result.n_enhanced) == (0, 0, plain.n_generated)
    assert len(opened) == 3 and seen == {"restorer.pth", "out.mp4.parts"}
    assert "restorer" in result.weights and "restorer" not in none.weights | plain.weights
    assert f"enhanced in {plain.n_generated}" in result.sentence


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"generate": {"steps": 0}}, "generate.steps is 0"),
        ({"generate": {"stpes": 1}}, "Unknown configuration key generate.stpes"),
        ({"enhance": {"method": "gfpgan", "weights": "none.pth"}}, r"none.pth is missing.*--enhance gfpgan"),
        ({"weights": "none"}, "--weights none does not exist"),
        ({"video": "none.mp4"}, "--video none.mp4 is not a file"),
        ({"video": __file__}, "--video .*test_api.py cannot be used: unreadable"),
        ({"generate": {"codec": "lossless", "crf": 20}}, "--crf 20 .* no effect with --codec lossless"),
        ({"start_s": 900.0}, r"--start 900 is after the end of the result, .* \(\d+\.\d s\); give --length video"),
    ],
)
def test_a_wrong_argument_is_one_sentence(trained, video, tmp_path, changed, words):
    arguments = {"video": video, "audio": video, "out": tmp_path / "o.mp4", "weights": trained} | changed
    with pytest.raises(ValueError, match=words):
        latentsync.lip_sync(**arguments)
    assert not (tmp_path / "o.mp4").exists()


def test_a_missing_restorer_is_found_before_anything_is_loaded():
    with pytest.raises(ValueError, match="none.pth is missing"):
        LipSync(enhance=Enhance(method="gfpgan", weights="none.pth"))


def test_a_choice_that_is_not_known_is_refused_with_all_that_are():
    """`lip_sync` asks this first; tests with checked annotations would refuse the Literal before it."""
    with pytest.raises(
        ValueError, match="^--faces dlib is not known; choose mediapipe, face_alignment or insightface.$"
    ):
        require_choice("--faces", "dlib", FaceBackend)
    require_choice("--faces", "mediapipe", FaceBackend)


def test_faces_are_listed_and_a_chosen_one_or_none_is_one_sentence(trained, video, tmp_path):
    [line] = latentsync.list_faces(video, tmp_path / "faces")
    assert line.startswith("face 1: 0.000 to 0.480 s") and (tmp_path / "faces/face-1.png").is_file()
    out = tmp_path / "out.mp4"
    with pytest.raises(ValueError, match="--face 2 is not there: the video has 1 face, which"):
        latentsync.lip_sync(video, video, out, trained, generate=QUICK | {"face": "2"})
    with pytest.raises(ValueError, match="--video .* cannot be used: not_redrawn: too_small in 12 frames"):
        latentsync.lip_sync(video, video, out, trained, generate=QUICK | {"length": "video", "min_face_px": 400})
    with pytest.raises(ValueError, match="Give either --audio, or --voices"):
        latentsync.lip_sync(video, None, out, trained)
    empty = write_video(tmp_path / "empty.mp4", 12)
    with pytest.raises(ValueError, match="--video .* cannot be used: not_redrawn: no_face in 12 frames"):
        latentsync.lip_sync(empty, video, out, trained, generate=QUICK | {"length": "video"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.mp4", "faces"]


def test_voices_of_a_table_say_what_it_names(trained, video, tmp_path):
    latentsync.list_faces(video, tmp_path)
    table = (tmp_path / "faces.csv").read_text()
    (tmp_path / "faces.csv").write_text(table.replace(".png,", f".png,{video}"))
    result = latentsync.lip_sync(
        video, None, tmp_path / "a.mp4", trained, voices=tmp_path / "faces.csv", generate=QUICK
    )
    again = latentsync.lip_sync(video, video, tmp_path / "b.mp4", trained, generate=QUICK)
    assert result == again and result.faces == "face 1 of 1"
    np.testing.assert_array_equal(pixels(tmp_path / "a.mp4"), pixels(tmp_path / "b.mp4"))
