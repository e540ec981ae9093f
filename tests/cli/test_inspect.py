"""`latentsync inspect`, and the options of `latentsync generate` that mark."""

import json

import numpy as np
import pytest

from latentsync.cli import main as cli
from latentsync.config import Mark
from latentsync.generation.marking import definition
from latentsync.media import certificate, manifest
from latentsync.weights.registry import sha256_of
from tests.certificates import write_pair
from tests.cli.test_cli import latentsync, speech, trained, video  # noqa: F401  fixtures
from tests.videos import packets, write_video


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A video as a camera writes it, signed, and changed since."""
    folder = tmp_path_factory.mktemp("inspected")
    plain = write_video(folder / "plain.mp4", 10, audio=np.ones(17_640, np.float32) / 9)
    said = definition(plain, [plain], {"weights": {"unet": "0123456789abcdef"}})
    manifest.sign(plain, folder / "signed.mp4", said, certificate.identity(Mark()), None)
    content = (folder / "signed.mp4").read_bytes()
    (folder / "changed.mp4").write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    return folder


def inspect(*args) -> int:
    """Run the command in this process; its exit status."""
    return cli.app(["inspect", *map(str, args)], standalone_mode=False) or 0


def test_a_signed_video_says_who_what_and_from_what(files, capsys):
    assert inspect(files / "signed.mp4") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(f"signed.mp4: signed by {certificate.TEST_NAME} ({certificate.TEST_MEANING})")
    assert lines[2] == "changed since: no"
    assert f"made from: plain.mp4, sha256 {sha256_of(files / 'plain.mp4')}" in lines
    assert "network: unet 0123456789abcdef" in lines


def test_one_changed_byte_is_said_and_is_an_error(files, capsys):
    assert inspect(files / "changed.mp4") == 1
    assert "changed since: YES: images, audio or tags are not those that were signed" in capsys.readouterr().out
    assert inspect(files / "changed.mp4", "--json") == 1
    assert json.loads(capsys.readouterr().out)["manifest"]["faults"]


def test_a_foreign_video_has_no_manifest_which_is_no_error(files, capsys):
    assert inspect(files / "plain.mp4") == 0
    assert capsys.readouterr().out == f"{files / 'plain.mp4'}: no manifest\n"
    assert inspect(files / "plain.mp4", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"manifest": None, "tags": {}}


def test_other_files_are_one_sentence(files, tmp_path, monkeypatch, capsys):
    (tmp_path / "empty.mp4").touch()
    for name, words in {"none.mp4": "is not a file.", "empty.mp4": "is damaged"}.items():
        monkeypatch.setattr("sys.argv", ["latentsync", "inspect", str(tmp_path / name)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr().err
        assert ended.value.code == 1 and words in said and said.count("\n") == 1


def test_generate_marks_unless_it_is_told_not_to(trained, video, speech, tmp_path, capsys):  # noqa: F811
    asked = ("generate", "--weights", trained, "--video", video, "--audio", speech, "--steps", 1)
    pair = write_pair(tmp_path / "own")
    own = "--certificate", pair["certificate"], "--private-key", pair["private_key"]
    assert latentsync(*asked, "--out", tmp_path / "own.mp4", *own) == 0
    assert latentsync(*asked, "--out", tmp_path / "not.mp4", "--no-mark", "--report", tmp_path / "r.json") == 0
    said = capsys.readouterr().out
    assert said.count("not marked, as asked") == 1
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["marked"] == "not marked, as asked" and report["settings"]["mark"]["manifest"] is False
    assert packets(tmp_path / "own.mp4") == packets(tmp_path / "not.mp4")
    assert inspect(tmp_path / "own.mp4") == 0
    said = capsys.readouterr().out
    assert "signed by Example Studio (not compared with a list of trusted signers)" in said
    assert "made from: It's me.mp4, sha256 " in said and "made from: speech.wav, sha256 " in said
    assert "tag: comment: AI-generated: " in said
    assert inspect(tmp_path / "not.mp4") == 0
    assert capsys.readouterr().out.endswith("not.mp4: no manifest\n")
    with pytest.raises(ValueError, match=r"^--private-key is missing"):
        latentsync(*asked, "--out", tmp_path / "x.mp4", *own[:2])
