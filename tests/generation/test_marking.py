"""Results say that they are generated: manifest, tags, label, and never an unmarked file under the final name."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest

import latentsync
from latentsync.config import Mark
from latentsync.generation import label
from latentsync.generation.marking import NOT_MARKED, version
from latentsync.generation.session import LipSync
from latentsync.media import certificate, manifest
from latentsync.media.codecs import output_format
from latentsync.media.frames import planes
from latentsync.media.read import read_frames
from latentsync.weights.find import find_weights
from latentsync.weights.registry import sha256_of
from tests.certificates import write_pair
from tests.generation.test_api import QUICK, trained  # noqa: F401  a fixture
from tests.videos import head, packets, write_video

SIGN_COPY = """
import sys
from pathlib import Path
from latentsync.config import Mark
from latentsync.generation.marking import marking

video, out = map(Path, sys.argv[1:])
with marking(Mark(), video, [], {}).written(out) as unmarked:
    unmarked.write_bytes(video.read_bytes())
    print("signing", flush=True)
"""
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def video(folder):
    tone = (0.3 * np.sin(2 * np.pi * 300 * np.arange(21_168) / 44_100)).astype(np.float32)
    return write_video(folder / "v.mp4", 12, images=head, size=(208, 176), audio=tone)


def tags_of(path) -> dict[str, str]:
    with av.open(str(path)) as container:
        return {name: value for name, value in container.metadata.items() if name in ("comment", "description")}


def test_marking_is_the_default_and_leaves_every_packet_as_it_is(trained, video, tmp_path):  # noqa: F811
    marked = latentsync.lip_sync(video, video, tmp_path / "marked.mp4", trained, generate=QUICK)
    plain = latentsync.lip_sync(
        video,
        video,
        tmp_path / "plain.mp4",
        trained,
        generate=QUICK,
        mark={"manifest": False},
        report=tmp_path / "r.json",
    )
    assert packets(tmp_path / "marked.mp4") == packets(tmp_path / "plain.mp4")
    assert marked.marked == f"signed by {certificate.TEST_NAME}" and "signed" not in marked.sentence
    assert plain.marked == NOT_MARKED and plain.sentence.endswith("; not marked, as asked")
    assert f'"marked": "{NOT_MARKED}"' in (tmp_path / "r.json").read_text()
    assert manifest.read(tmp_path / "plain.mp4") is None and tags_of(tmp_path / "plain.mp4") == {}
    said = tags_of(tmp_path / "marked.mp4")
    assert set(said) == {"comment", "description"}
    assert set(said.values()) == {f"AI-generated: mouth redrawn to other audio; LatentSync Studio {version()}"}
    found = manifest.read(tmp_path / "marked.mp4")
    assert found.faults == [] and found.ingredients == [f"v.mp4, sha256 {sha256_of(video)}"] * 2
    data = {one["label"]: one["data"] for one in found.details["assertions"]}["org.latentsync.studio.generation"]
    assert data["weights"] == marked.weights and data["settings"]["steps"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["marked.mp4", "plain.mp4", "r.json"]


def test_a_session_marks_as_its_settings_say(trained, video, tmp_path):  # noqa: F811
    own = Mark(label="AI", **write_pair(tmp_path / "own"))
    published = {"as_published": True, "steps": 1, "overlap": 0}
    with LipSync(*find_weights(trained)) as session:
        other = session.with_settings(mark=own)
        assert other(video, video, tmp_path / "own.mp4").marked == "signed by Example Studio"
        assert session.mark == Mark() != other.mark
        with pytest.raises(ValueError, match=r"^--certificate .* is not a file"):
            session.with_settings(mark=Mark(certificate="no.pem", private_key="no.pem"))
    result = latentsync.lip_sync(video, video, tmp_path / "p.mp4", trained, generate=published, mark={"label": "AI"})
    assert result.marked == f"signed by {certificate.TEST_NAME}"
    for name, signer in {"own": "Example Studio", "p": certificate.TEST_NAME}.items():
        found = manifest.read(tmp_path / f"{name}.mp4")
        assert (found.signer, found.faults) == (signer, []) and tags_of(tmp_path / f"{name}.mp4")
        _, first = next(iter(read_frames(tmp_path / f"{name}.mp4")))
        corner = first[-8:, :8].astype(int)
        assert corner.mean() < 0.5 * first[-40:-24, :8].mean(), "the box is dark"


@pytest.mark.parametrize(
    ("width", "height", "pix_fmt"),
    [
        (64, 64, "yuv420p"),
        (1920, 1080, "yuv420p"),
        (208, 176, "yuv420p10le"),
        (161, 99, "yuv444p"),
        (162, 99, "yuv422p"),
        (1080, 1920, "yuvj420p"),
    ],
)
@pytest.mark.parametrize(("turns", "mirrored"), [(0, False), (1, False), (3, True)])
def test_the_label_changes_only_its_box_and_can_be_read(width, height, pix_fmt, turns, mirrored):
    assert output_format(width, height, pix_fmt) == pix_fmt or width % 2 or height % 2
    frame = av.VideoFrame(width, height, pix_fmt)
    top = 2 ** frame.format.components[0].bits - 1
    for plane in planes(frame):
        plane[...] = top // 2
    before = [plane.copy() for plane in planes(frame)]
    drawn = label.overlay("AI-generated", width, height, turns, mirrored)(frame)
    assert all((plane == old).all() for plane, old in zip(planes(frame), before, strict=True)), "the given one stays"
    luma = planes(drawn)[0]
    luma = np.rot90(luma[:, ::-1] if mirrored else luma, turns)  # as displayed
    changed = luma != top // 2
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    assert rows[-1] == luma.shape[0] - 1 and columns[0] == 0, "the lower left corner"
    box = luma[rows[0] :, : columns[-1] + 1].astype(float) / top
    assert changed[rows[0] :, : columns[-1] + 1].mean() > 0.95
    assert box.shape[0] <= max(18, 0.1 * min(width, height) + 2) and box.shape[1] <= luma.shape[1]
    assert box.max() > 0.85 and np.median(box) < 0.3, "light on dark"
    strokes = np.flatnonzero(np.diff((box > 0.5).any(0).astype(int)) == 1)
    assert 8 <= len(strokes) <= 12, "letters that can be told apart"
    for plane, old in zip(planes(drawn)[1:], before[1:], strict=True):
        share = (plane != old).mean()
        assert share <= changed.mean() + 0.05


def test_a_label_that_cannot_be_drawn_is_one_sentence():
    with pytest.raises(
        ValueError, match=r"^--label .* does not fit into frames of 64 x 64, even at 6 px; shorten it\.$"
    ):
        label.overlay("made by a machine, not by a person", 64, 64, 0, False)
    with pytest.raises(ValueError, match=r"^--label .* has characters that the font lacks \(\u751f \u6210\)"):
        label.overlay("AI \u751f\u6210", 640, 480, 0, False)
    label.overlay("".join(map(chr, range(33, 127))), 1920, 1080, 0, False)


def test_a_label_is_written_upright_into_a_turned_video(trained, folder, tmp_path):  # noqa: F811
    def lying(index, width, height):
        return np.rot90(head(index, height, width), 1)

    turned = write_video(folder / "turned.mp4", 8, images=lying, size=(176, 208), rotation=(-90, False))
    tone = write_video(folder / "tone.mp4", 8, audio=np.ones(14_112, np.float32) / 9)
    shown = {}
    for name, text in {"with": "AI-generated", "without": None}.items():
        latentsync.lip_sync(turned, tone, tmp_path / f"{name}.mp4", trained, generate=QUICK, mark={"label": text})
        shown[name] = next(iter(read_frames(tmp_path / f"{name}.mp4")))[1].astype(int)
    assert shown["with"].shape == (176, 208, 3)
    changed = np.abs(shown["with"] - shown["without"]).max(2) > 20
    assert changed[-12:, :60].mean() > 0.5 and not changed[:-24].any() and not changed[:, 100:].any()


def test_a_kill_while_signing_leaves_no_unmarked_file(folder, tmp_path):
    """The file under the final name is the old one or the signed one, whenever the process is killed."""
    video = write_video(folder / "long.mov", 20, codec="rawvideo", pix_fmt="yuv420p", size=(1920, 1080))
    out = tmp_path / "out.mov"
    job = [sys.executable, "-c", SIGN_COPY, str(video), str(out)]
    for delay_s in (0.0, 0.1, 0.2):
        process = subprocess.Popen(job, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None and process.stdout.readline() == "signing\n"
        time.sleep(delay_s)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not out.exists() or manifest.read(out).faults == []
    assert subprocess.run(job, cwd=ROOT, check=True, stdout=subprocess.PIPE).returncode == 0
    assert manifest.read(out).faults == []
    assert [path.name for path in tmp_path.iterdir()] == ["out.mov"]
