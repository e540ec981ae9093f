"""Step probe: facts of good files, sentences for broken ones, and nothing else."""

import errno
import hashlib
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

import av
import pytest

from latentsync.config import Probe
from latentsync.ledger.files import read_ledger, write_ledger
from latentsync.ledger.rows import Rejection
from latentsync.media.probe import probe_media
from latentsync.steps import probe
from tests.fixtures import source
from tests.videos import clicks, write_video

# What shared/clips/README.md says, and what ffprobe's fields say where that is rounded.
CLIPS = {  # width, height, fps, frames, seconds, codec, rate of the audio
    "vrt1.mp4": (700, 700, 30, 135, 6.1, "h264", 44100),
    "vrt3.mp4": (590, 590, 25, 125, 5.0, "h264", 44100),
    "vrt5.mp4": (524, 524, 25, 122, 4.88, "h264", 44100),
    "ls_demo1.mp4": (1080, 1920, 25, 250, 10.0, "hevc", 44100),
    "ls_demo3.mp4": (1080, 1920, 30, 600, 20.0, "hevc", 44100),
    "talkvid_aoc.mp4": (512, 512, 30000 / 1001, 137, 4.571233, "h264", 44100),
    "talkvid_tys.mp4": (512, 512, 25, 100, 3.975, "h264", 16000),
    "w2lgfpgan_kim.mp4": (1920, 1080, 30, 223, 7.433333, "h264", 44100),
    "musetalk_yongen.mp4": (704, 1216, 25, 268, 10.72, "h264", None),
    "iplap_129.mp4": (256, 256, 30, 270, 9.0, "mpeg4", None),
    "realtime_girl.mp4": (832, 1248, 16, 161, 10.0625, "h264", None),
    "cosmos10.mp4": (854, 480, 24, 240, 10.0, "h264", None),
    "synctalk_demo.mp4": (512, 512, 25, 331, 13.24, "h264", 16000),
}


@pytest.mark.parametrize("name", CLIPS)
def test_real_clips(clips, name):
    width, height, fps, n_frames, duration_s, codec, rate_hz = CLIPS[name]
    info = probe_media(clips / name)
    assert (info.width, info.height, info.rotation_deg, info.n_frames) == (width, height, 0, n_frames)
    assert info.fps == pytest.approx(fps, abs=1e-5) and info.duration_s == pytest.approx(duration_s, abs=1e-5)
    assert (info.video_codec, info.pix_fmt) == (codec, "yuv420p")
    assert (info.has_audio, info.audio_rate_hz) == (rate_hz is not None, rate_hz)


def cut(path, share):
    data = path.read_bytes()
    short = path.with_name(f"cut_{path.name}")
    short.write_bytes(data[: int(len(data) * share)])
    return short


def playlist(path):
    write_video(path.with_name("part.mp4"), 5)
    path.write_text("ffconcat version 1.0\nfile part.mp4\n")
    return path


def picture(path):
    with av.open(str(path), "w", format="image2", options={"update": "1"}) as container:
        stream = container.add_stream("png", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "rgb24"
        container.mux(stream.encode(av.VideoFrame(64, 64, "rgb24")))
    return path


def made(path, content):
    path.write_bytes(content)
    return path


def folder_of(path):
    path.mkdir()
    return path


def gone(path):
    path.with_name("neighbour.mp4").touch()
    return path


SOUND = clicks(2, [1.0], 44_100)
BROKEN = {
    "empty": (lambda p: made(p, b""), "the file is empty"),
    "text": (lambda p: made(p, b"Dear diary,\n" * 999), "FFmpeg cannot read it: Invalid data"),
    "folder": (folder_of, "this is a folder, not a file"),
    "gone": (lambda p: gone(p), "the file cannot be opened: No such file or directory"),
    "playlist": (playlist, "this is a playlist, not a video"),
    "index lost": (lambda p: cut(write_video(p, audio=SOUND), 0.9), "it begins as an mp4, but its index is missing"),
    "second half lost": (
        lambda p: cut(write_video(p, audio=SOUND, options={"movflags": "+faststart"}), 0.7),
        r"cut off: \d+ of 50 frames",
    ),
    "fragment lost": (
        lambda p: cut(write_video(p, options={"movflags": "frag_keyframe+empty_moov"}), 0.7),
        r"cut off: \d+ of \d+ frames",
    ),
    "Matroska cut": (
        lambda p: cut(write_video(p, 100, container_format="matroska"), 0.5),
        r"cut off: [12]\.\d of 4\.0 s",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_unreadable_and_say_why(tmp_path, name):
    make, sentence = BROKEN[name]
    with pytest.raises(Rejection, match=f"unreadable: {sentence}"):
        probe_media(make(tmp_path / "x.mp4"))


@pytest.mark.parametrize("kind", ["audio alone", "still picture"])
def test_what_holds_no_video_is_told_apart_from_what_is_broken(tmp_path, kind):
    path = tmp_path / "x.mp4"
    picture(path) if kind == "still picture" else write_video(path, audio=SOUND, video_track=False)
    with pytest.raises(Rejection, match="not_video: (there is no video stream in it|this is a still image)"):
        probe_media(path)


def test_a_folder_that_dropped_out_is_no_verdict(tmp_path):
    for path in (tmp_path / "x.mp4", tmp_path / "gone/x.mp4"):
        with pytest.raises(OSError, match="run again") as caught:
            probe_media(path)
        assert not isinstance(caught.value, Rejection) and caught.value.filename == str(path)


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EMFILE, errno.ETIMEDOUT, errno.ENOSPC])
def test_faults_of_the_machine_are_no_verdict_and_the_next_call_tries_again(tmp_path, monkeypatch, number):
    path = write_video(tmp_path / "x.mp4", 10)

    def refuse(*_, **__):
        raise OSError(number, "made up")

    def refuse_as_ffmpeg(*_, **__):
        av.error.err_check(-number, str(path))

    for place, fault in ((av, refuse_as_ffmpeg), (hashlib, refuse)):
        name = "open" if place is av else "file_digest"
        with monkeypatch.context() as patched, pytest.raises(OSError, match="not noted against the file") as caught:
            patched.setattr(place, name, fault)
            probe.probe_source(*row_of(path))
        assert caught.value.errno == number and caught.value.filename == str(path)
    assert probe.probe_source(*row_of(path))["status"] == "ok"


@pytest.mark.parametrize("readable", [True, False])
def test_ffmpegs_input_errors_are_the_files_where_the_system_can_read_it(tmp_path, monkeypatch, readable):
    path = write_video(tmp_path / "x.mp4", 10)
    monkeypatch.setattr(av, "open", lambda *_, **__: av.error.err_check(-errno.EIO, str(path)))
    if not readable:

        def drop(*_):
            raise OSError(errno.EIO, "Input/output error", str(path))

        monkeypatch.setattr("builtins.open", drop)
    with pytest.raises(Rejection if readable else OSError, match="Input/output error") as caught:
        probe_media(path)
    assert isinstance(caught.value, Rejection) == readable


@contextmanager
def unprivileged():
    """Root may read everything, so it becomes nobody for a while."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_no_permission_is_a_verdict_with_a_way_out():
    with tempfile.TemporaryDirectory() as folder:  # tmp_path lies in a folder that only its owner may enter
        os.chmod(folder, 0o755)
        path = write_video(Path(folder, "x.mp4"), 5)
        path.chmod(0)
        with unprivileged(), pytest.raises(Rejection, match="no permission to read it; grant it and touch"):
            probe_media(path)


def test_a_title_that_is_not_utf_8_is_no_fault(tmp_path):
    path = write_video(tmp_path / "x.mkv", 10)
    path.write_bytes(path.read_bytes().replace(b"Lavf", b"La\xe4f"))
    assert probe_media(path).n_frames == 10


def row_of(path):
    [row] = source_rows(path.parent, [path.name])
    return row, path.parent


def test_audio_is_not_required(tmp_path):
    info = probe_media(write_video(tmp_path / "mute.mp4"))
    assert not info.has_audio and info.audio_rate_hz is None


def source_rows(folder, names):
    rows = []
    for name in names:
        stat = (folder / name).stat()
        rows.append(source(name, size=stat.st_size, mtime_ns=stat.st_mtime_ns))
    return rows


def test_the_step_keeps_every_row_and_touches_no_source(tmp_path):
    videos = tmp_path / "videos with space; $(date)"
    (videos / "über").mkdir(parents=True)
    names = ["über/a:b.MP4", "über/copy.mp4", "text.mp4", os.fsdecode(b"not utf-8 \xff.mp4")]
    write_video(videos / "good.mp4", 10)
    for name in (names[0], names[1], names[3]):
        (videos / name).write_bytes((videos / "good.mp4").read_bytes())
    (videos / "text.mp4").write_text("no video")
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in videos.rglob("*")}
    sources, ledger = tmp_path / "results/demo/sources/00000.jsonl", tmp_path / "results/demo/probe/00000.jsonl"
    write_ledger(sources, source_rows(videos, names))
    probe.run(Probe(), {"sources": [sources]}, {"ledger": ledger}, videos)
    rows = {row["path"]: row for row in read_ledger(ledger)}
    assert set(rows) == set(names) and all("mtime_ns" not in row for row in rows.values())
    good = rows[names[0]]
    assert good["status"] == "ok" and (good["width"], good["height"], good["n_frames"]) == (160, 64, 10)
    assert good["sha256"] == hashlib.sha256((videos / "good.mp4").read_bytes()).hexdigest() == rows[names[1]]["sha256"]
    assert rows[names[3]]["status"] == "ok"
    bad = rows["text.mp4"]
    assert (bad["status"], bad["reason"]) == ("error", "unreadable") and bad["detail"] and len(bad["sha256"]) == 64
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in videos.rglob("*")} == before
