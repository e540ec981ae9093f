"""Listing the input folder: what is a video, which shard changes, and refusals."""

import os
import re
import socket
from pathlib import Path

import pytest
import yaml

from latentsync import required
from latentsync.config import VERSIONS, Config, validate
from latentsync.ledger import sources
from latentsync.ledger.files import read_ledgers
from latentsync.ledger.rows import shard_of, source_id
from latentsync.weights import registry
from latentsync.workflow import prepare


def videos(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_names_of_every_kind_are_listed_and_the_rest_is_told(tmp_path):
    names = ["a b.mp4", "UPPER.MP4", "sub/quo'te.mov", "-dash.mkv", "new\nline.webm", "\N{GRINNING FACE}.mp4"]
    videos(tmp_path, *names, "notes.txt", ".hidden.mp4")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path)
    found = sources.scan(tmp_path)
    rows = {row["path"]: row for row in found.rows}
    assert rows.keys() == {*names, "folder.mp4", "notes.txt"}, "probe says of the folder what it is"
    assert (found.passed_over, found.hidden, found.videos) == (["notes.txt"], 1, len(names) + 1)
    assert all(row["id"] == source_id(path) for path, row in rows.items())
    assert {path for path, row in rows.items() if row["status"] != "ok"} == {"notes.txt"}
    assert rows["notes.txt"]["reason"] == "not_video" and ".txt is text" in rows["notes.txt"]["detail"]


def test_only_what_is_plainly_something_else_is_passed_over(tmp_path):
    """FFmpeg knows hundreds of suffixes, and a suffix says little: all others are opened."""
    opened = "a.mxf a.vob a.asf a.3g2 a.f4v a.mts a.m2t a.dv a.gxf a.ogm a.rm a.divx a.mjpeg a a.xyz a.ogg a.mp4.part"
    other = "b.TXT b.jpeg b.wav b.srt b.zip b.pdf b.safetensors b.prproj b.m3u8 b.mp4.md5"
    videos(tmp_path, *opened.split(), *other.split())
    found = sources.scan(tmp_path)
    assert {row["path"] for row in found.rows if row["status"] == "ok"} == set(opened.split())
    assert set(found.passed_over) == set(other.split())
    assert not sources.VIDEO_SUFFIXES & sources.OTHERS.keys()


def test_writing_into_a_file_that_is_passed_over_changes_no_ledger(tmp_path):
    videos(tmp_path / "in", "a.mp4", "notes.txt")
    sources.write_sources(tmp_path / "in", tmp_path / "before", 1)
    (tmp_path / "in/notes.txt").write_text("much more")
    sources.write_sources(tmp_path / "in", tmp_path / "after", 1)
    assert (tmp_path / "before/00000.jsonl").read_bytes() == (tmp_path / "after/00000.jsonl").read_bytes()


def test_no_kind_of_entry_ends_the_scan(tmp_path):
    """Pipes, sockets, devices, loops and links into /proc: some have no end, some vanish while they are listed."""
    videos(tmp_path, "a.mp4")
    os.mkfifo(tmp_path / "pipe.mov")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "socket"))
    links = {"loop.mp4": "loop.mp4", "gone": "nowhere", "proc": "/proc", "self": "/proc/self", "ring": "."}
    links |= {"memory.mp4": "/proc/self/maps", "zero.mp4": "/dev/zero", "devices": "/dev", "long.mp4": "x" * 300}
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    rows = {row["path"]: row for row in sources.scan(tmp_path).rows}
    system = {"proc/", "self/", "memory.mp4"}
    assert {path for path, row in rows.items() if "a folder of the system" in row["detail"]} == system | {"devices/"}
    assert rows.keys() - system == {"a.mp4", "pipe.mov", "socket", "devices/"} | (links.keys() & {
        "loop.mp4", "gone", "zero.mp4", "long.mp4"
    })  # fmt: skip


def test_only_the_shard_of_a_new_video_is_rewritten(tmp_path):
    folder, before, after = tmp_path / "in", tmp_path / "before", tmp_path / "after"
    videos(folder, *(f"{number}.mp4" for number in range(20)))
    sources.write_sources(folder, before, 4)
    videos(folder, "new.mp4")
    sources.write_sources(folder, after, 4)
    lists = list(before.glob("[0-9]*.jsonl"))
    changed = {path.name for path in lists if path.read_bytes() != (after / path.name).read_bytes()}
    assert changed == {f"{shard_of(source_id('new.mp4'), 4)}.jsonl"}
    assert len(read_ledgers(after.glob("[0-9]*.jsonl"))) == 21


def test_links_to_folders_are_followed_once_and_real_paths_win(tmp_path):
    videos(tmp_path / "in", "b/x.mp4")
    videos(tmp_path / "drive", "y.mp4", "deep/z.mp4")
    for link, target in {"a": "in/b", "c": "drive", "e": "drive/deep", "up": "in", "d": "drive"}.items():
        (tmp_path / "in" / link).symlink_to(tmp_path / target)
    (tmp_path / "drive/ring").symlink_to(tmp_path / "drive")
    (tmp_path / "in/broken").symlink_to(tmp_path / "nowhere")
    rows = sources.scan(tmp_path / "in").rows
    assert [row["path"] for row in rows] == ["b/x.mp4", "broken", "c/deep/z.mp4", "c/y.mp4"]


def test_two_encodings_of_a_name_are_refused_by_name(tmp_path):
    videos(tmp_path, "caf\u00e9.mp4", "cafe\u0301.mp4")
    with pytest.raises(ValueError, match=r"'cafe\\u0301.mp4' and 'caf\\xe9.mp4' in input_dir are the same name"):
        sources.scan(tmp_path)


def test_a_speaker_table_is_read_as_excel_writes_it_and_refused_in_another_encoding(tmp_path):
    table = tmp_path / "speakers.csv"
    table.write_bytes("path,speaker\r\na.mp4,Zo\u00eb\r\n".encode("utf-8-sig"))
    assert sources.read_speakers([table]) == {"a.mp4": "Zo\u00eb"}
    table.write_bytes("path,speaker\na.mp4,Ann\nb.mp4,Zo\u00eb\n".encode("latin-1"))
    with pytest.raises(ValueError, match="speakers.csv line 3 is not UTF-8; save it as UTF-8"):
        prepare({"input_dir": "in", "select_clips": {"speakers": str(table)}}, main_process=False)


def test_refusals_are_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        sources.scan(tmp_path / "nowhere")
    videos(tmp_path, "notes.txt")
    with pytest.raises(ValueError, match="contains no video; 1 files in it .* something else by their names, 0 are"):
        sources.scan(tmp_path)
    videos(tmp_path, "a.mp4")
    with pytest.raises(ValueError, match="is not a folder"):
        sources.scan(tmp_path / "a.mp4")


@pytest.mark.parametrize("left", ["config.json", "probe/00001.jsonl"])
def test_the_number_of_shards_is_fixed_for_a_run(tmp_path, left):
    sources.refuse_other_shards(tmp_path, 1)
    (tmp_path / "probe").mkdir()
    (tmp_path / left).write_text('{"shards": 2}')
    sources.refuse_other_shards(tmp_path, 2)
    with pytest.raises(ValueError, match="shards is 1, but this run was started with 2; keep shards: 2 or choose"):
        sources.refuse_other_shards(tmp_path, 1)


def test_missing_weights_are_named_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTSYNC_WEIGHTS", str(tmp_path))
    with pytest.raises(ValueError, match="align_faces.backend"):
        required.check(Config())  # the published recipe needs published files
    with pytest.raises(ValueError, match="GFPGANv1.4.pth"):
        registry.find("gfpgan")
    (tmp_path / "enhance").mkdir()
    (tmp_path / "enhance/GFPGANv1.4.pth").touch()
    assert registry.find("gfpgan") == tmp_path / "enhance/GFPGANv1.4.pth"


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("align_faces", "backend", "face_alignment"),
        ("score_sync", "backend", "syncnet_v2"),
        ("score_quality", "backend", "hyperiqa"),
        ("extract_features", "audio_encoder", "whisper"),
        ("extract_features", "vae", "published"),
        ("train_unet_stage2", "teachers", "published"),
        ("enhance", "method", "gfpgan"),
        ("evaluate", "faces", "face_alignment"),
        ("evaluate", "sync_backend", "syncnet_v2"),
    ],
)
def test_every_part_that_needs_a_file_is_asked_for_it_at_the_start(tmp_path, monkeypatch, section, key, value):
    """The last step of all must not find out after weeks."""
    monkeypatch.setenv("LATENTSYNC_WEIGHTS", str(tmp_path))
    demo = yaml.safe_load((Path(__file__).parents[2] / "config/config.yaml").read_text())
    with pytest.raises(ValueError, match=rf"missing.*\s.*{section}\.{key}: {value}(\)|, or choose )"):
        required.check(validate(demo | {section: demo.get(section, {}) | {key: value}}))


def test_what_stage_1_starts_from_is_looked_for_too(tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTSYNC_WEIGHTS", str(tmp_path))
    demo = yaml.safe_load((Path(__file__).parents[2] / "config/config.yaml").read_text())

    def check(init):
        required.check(validate(demo | {"train_unet_stage1": demo["train_unet_stage1"] | {"init": init}}))

    check(None)
    with pytest.raises(ValueError, match=r"diffusion_pytorch_model\.safetensors is missing: .*unet_stage1\.init: sd15"):
        check("sd15")
    with pytest.raises(
        ValueError, match=r"unet_stage1\.init: .*nowhere\.pt is neither a file nor one of latentsync-1\.6"
    ):
        check(str(tmp_path / "nowhere.pt"))
    start = tmp_path / "stable-diffusion-v1-5/unet/diffusion_pytorch_model.safetensors"
    start.parent.mkdir(parents=True)
    start.touch()
    check("sd15")
    assert registry.find_start("sd15") == registry.find_start(str(start)) == start
    with pytest.raises(ValueError, match=r"train_unet_stage1\.init: .*unet is a folder; give the path"):
        check(str(start.parent))
    with pytest.raises(ValueError, match=r"train_unet_stage1\.init: vae is neither a file nor one of .*sd15"):
        check("vae")  # in the registry, but no U-Net


def test_all_that_is_missing_is_told_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTSYNC_WEIGHTS", str(tmp_path))
    own = {"extract_features": {"whisper_weights": str(tmp_path / "mine.pt")}}
    with pytest.raises(ValueError) as error:
        required.check(validate(own | {"train_unet_stage1": {"init": "sd15"}}))
    said = str(error.value).splitlines()
    assert said[0] == f"{len(said) - 2} pretrained parts are missing from {tmp_path}:" and len(said) > 8
    names = re.match("Run `latentsync weights fetch (.*)`", said[-1])[1].split()
    assert {"s3fd", "2dfan4", "syncnet_v2", "vae", "videomae_giant", "sd15"} <= set(names) and "whisper" not in names
    assert len(names) == len(set(names)) == len(said) - 3
    line = "  auxiliary/syncnet_v2.model: syncnet_v2, for score_sync.backend: syncnet_v2, or choose stable_syncnet "
    assert any(one.startswith(line) for one in said)
    assert any("mine.pt is missing" in line and "correct the path" in line for line in said)


def test_a_step_asks_only_for_what_it_reads(tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTSYNC_WEIGHTS", str(tmp_path))
    required.check(Config(), {"probe", "select_clips"})
    with pytest.raises(ValueError) as error:
        required.check(Config(), {"align_faces", "score_sync", "score_quality", "select_clips"})
    assert "Run `latentsync weights fetch s3fd 2dfan4 syncnet_v2 hyperiqa`" in str(error.value)
    assert required.by_step(Config()).keys() <= VERSIONS.keys()
