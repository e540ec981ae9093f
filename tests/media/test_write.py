"""Writing videos and audio: colours, times, bytes that repeat, and nothing left of a failure."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from latentsync.ledger.rows import Rejection
from latentsync.media import probe, read, write
from latentsync.media.audio import read_audio
from tests.videos import VFR_S, clicks, number_of, numbered_image, smooth_images, write_video


@pytest.mark.parametrize(
    ("width", "height", "pix_fmt"), [(96, 64, "yuv420p"), (95, 64, "yuv444p"), (95, 63, "yuv444p")]
)
def test_what_is_written_is_read_back_and_the_bytes_repeat(tmp_path, width, height, pix_fmt):
    images = smooth_images(60, width, height)
    files = [tmp_path / name for name in ("a.mp4", "b.mp4")]
    for path in files:
        with write.VideoWriter(path, 25, width, height, audio=clicks(2.4, [0.5, 1.5], 16_000)) as writer:
            assert writer.pix_fmt == pix_fmt
            for rgb in images:
                writer.write(rgb)
    assert files[0].read_bytes() == files[1].read_bytes()
    info = probe.probe_media(files[0])
    assert (info.width, info.height, info.fps, info.n_frames, info.duration_s) == (width, height, 25, 60, 2.4)
    clip = read.read_clip(files[0])
    error = clip.astype(int) - np.stack(images)
    assert clip.shape == (60, height, width, 3) and np.abs(error).mean() < 3 and np.abs(error.mean((0, 1, 2))).max() < 1
    for start, stop in ((0, 1), (24, 26), (37, 60), (7, 7)):
        assert (read.read_clip(files[0], start, stop) == clip[start:stop]).all()
    with pytest.raises(ValueError, match="which has 60"):
        read.read_clip(files[0], 50, 61)
    heard = read_audio(files[0])
    assert {int(np.abs(heard[:16_000]).argmax()), 16_000 + int(np.abs(heard[16_000:]).argmax())} == {8_000, 24_000}
    # key frames at most `keyint` apart, and the index before the media, so that a browser can start at once
    with av.open(str(files[0])) as container:
        keys = [round(p.pts * p.time_base * 25) for p in container.demux(video=0) if p.is_keyframe]
    assert keys[:3] == [0, 25, 50] and files[0].read_bytes().index(b"moov") < files[0].read_bytes().index(b"mdat")


WRITE = """
import hashlib, sys
import numpy as np
from latentsync.media.write import VideoWriter
from tests.videos import VFR_S, smooth_images
with VideoWriter(sys.argv[1], 25, 320, 240, audio=np.sin(np.arange(25_600) / 9).astype(np.float32)) as writer:
    for image in smooth_images(40, 320, 240):
        writer.write(image)
print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())
"""


def test_the_bytes_do_not_depend_on_what_the_memory_held_before(tmp_path):
    """x264 with its macroblock tree fails this: glibc fills fresh memory with MALLOC_PERTURB_."""
    hashes = set()
    for filling in ("0", "1", "85"):
        done = subprocess.run(
            [sys.executable, "-c", WRITE, str(tmp_path / "x.mp4")],
            env=os.environ | {"MALLOC_PERTURB_": filling, "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            check=True,
        )
        hashes.add(done.stdout.strip())
    assert len(hashes) == 1


def test_variable_frame_times_are_kept(tmp_path):
    images = [numbered_image(i) for i in range(len(VFR_S))]
    with write.VideoWriter(tmp_path / "vfr.mp4", 30, 160, 64, frame_times=VFR_S, end_s=VFR_S[-1] + 0.2) as writer:
        for rgb in images:
            writer.write(rgb)
    times, end_s = read.frame_times(tmp_path / "vfr.mp4")
    assert np.abs(times - VFR_S).max() < 1 / 90_000 and abs(end_s - VFR_S[-1] - 0.2) < 1 / 90_000
    assert [number_of(rgb) for _, rgb in read.read_frames(tmp_path / "vfr.mp4")] == list(range(len(VFR_S)))
    with pytest.raises(ValueError, match="frame_times must increase"):
        write.VideoWriter(tmp_path / "bad.mp4", 30, 160, 64, frame_times=[0, 0.1, 0.1])


def test_a_failed_write_leaves_nothing(tmp_path):
    class Stop(Exception):
        pass

    with pytest.raises(Stop), write.VideoWriter(tmp_path / "x.mp4", 25, 64, 64) as writer:
        writer.write(np.zeros((64, 64, 3), np.uint8))
        raise Stop
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p", "yuv420p10le"])
def test_native_frames_pass_without_conversion(folder, tmp_path, pix_fmt):
    """What generate does: decode, change some pixels, write in the source's own format, matrix and size."""
    sound = clicks(1.2, [1], 44_100)
    source = write_video(folder / f"{pix_fmt}.mp4", 30, pix_fmt=pix_fmt, rotation=(90, False), audio=sound)
    frames = [frame for _, frame in read.read_video_frames(source)]
    planes = [[bytes(plane) for plane in frame.planes] for frame in frames]
    like = frames[0]
    size = (like.width, like.height)
    crf = 1 if "10" in pix_fmt else 0  # 0 is lossless at 8 bit
    with write.VideoWriter(tmp_path / "out.mp4", 25, *size, crf=crf, copy_audio_from=source, like=like) as writer:
        for frame in frames:
            writer.write_frame(frame)
    before, after = probe.probe_media(source), probe.probe_media(tmp_path / "out.mp4")
    assert after == before
    written = [[bytes(plane) for plane in frame.planes] for _, frame in read.read_video_frames(tmp_path / "out.mp4")]
    if crf == 0:
        assert written == planes


@pytest.mark.parametrize(
    ("wanted", "written"),
    [
        ("yuv422p12le", "yuv422p10le"),
        ("yuv444p12le", "yuv444p10le"),
        ("p010le", "yuv420p10le"),
        ("uyvy422", "yuv422p"),
        ("nv12", "yuv420p"),
        ("yuv411p", "yuv420p"),
        ("gray", "yuv420p"),
    ],
)
def test_formats_that_x264_does_not_know_keep_their_chroma_and_ten_bits(tmp_path, wanted, written):
    like = av.VideoFrame(64, 64, wanted)
    for plane in like.planes:
        plane.update(b"\x64\0" * (plane.buffer_size // 2))  # a new frame holds what lay in memory, beyond its depth too
    with write.VideoWriter(tmp_path / "x.mp4", 25, 64, 64, like=like) as writer:
        writer.write_frame(like)
    assert probe.probe_media(tmp_path / "x.mp4").pix_fmt == written


def test_samples_beyond_their_depth_do_not_end_the_process(tmp_path):
    """x264 aborts by an assertion on this very noise, where nothing clips it."""
    noise = np.random.default_rng(3)
    frame = av.VideoFrame(64, 64, "yuv444p12le")
    for plane in frame.planes:
        plane.update(noise.bytes(plane.buffer_size))
    with write.VideoWriter(tmp_path / "x.mp4", 25, 64, 64, like=frame) as writer:
        writer.write_frame(frame)
    assert len(list(read.read_video_frames(tmp_path / "x.mp4"))) == 1


@pytest.mark.parametrize(("picture_s", "sound_s"), [(0.0, 0.0), (0.2, 0.0), (0.0, 0.25)])
def test_copied_audio_keeps_its_place(folder, tmp_path, picture_s, sound_s):
    source = write_video(folder / "own.mp4", start_s=picture_s, audio=clicks(2, [1.0], 44_100), audio_start_s=sound_s)
    with write.VideoWriter(tmp_path / "copy.mp4", 25, 64, 64, copy_audio_from=source) as writer:
        for _ in range(50):
            writer.write(np.zeros((64, 64, 3), np.uint8))
    before, after = read_audio(source), read_audio(tmp_path / "copy.mp4")
    assert abs(int(np.abs(before).argmax()) - int(np.abs(after).argmax())) <= 16
    lag = int(np.abs(after).argmax()) - int(np.abs(before).argmax())
    length = min(len(before), len(after)) - 32
    assert np.abs(before[16 : 16 + length] - after[16 + lag : 16 + lag + length]).max() < 0.02


def test_a_full_disk_is_no_fault_of_the_file_that_is_read(folder, tmp_path, monkeypatch):
    source = write_video(folder / "whole.mp4", 20)

    def full(*_):
        av.error.err_check(-errno.ENOSPC, "out.mp4")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space left") as caught:
        patched.setattr(write, "_encoded_sound", full)
        write.mux_clip(tmp_path / "out.mp4", source, np.zeros(16_000, np.float32))
    assert not isinstance(caught.value, Rejection) and list(tmp_path.iterdir()) == []
    write.mux_clip(tmp_path / "out.mp4", source, np.zeros(16_000, np.float32))
    assert len(read.read_clip(tmp_path / "out.mp4")) == 20


def test_audio_that_mp4_cannot_hold_is_named(folder, tmp_path):
    source = write_video(folder / "alaw.mov", audio=clicks(2, [1.0], 44_100), audio_codec="pcm_alaw")
    with (
        pytest.raises(ValueError, match="pcm_alaw cannot be stored in an mp4"),
        write.VideoWriter(tmp_path / "x.mp4", 25, 64, 64, copy_audio_from=source),
    ):
        pass
    assert list(tmp_path.iterdir()) == []
