"""Reading and writing pictures and sound: order, time zero, rotation, seeking, colours, sound to the sample, bytes."""

import errno
import os
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from videos import clicks, number_of, numbered_picture, smooth_pictures, write_two_sizes, write_video

from latentsync.media import picture, probe, read, write
from latentsync.media.sound import read_audio, read_flac
from latentsync.ops.timing import ticks_to_frames
from latentsync.records import Rejection

VFR_S = np.cumsum([0.0, *[1 / 30, 2 / 30, 1 / 60, 0.1] * 10]).tolist()
CONTAINERS = {
    "plain.mp4": {},
    "faststart.mp4": {"options": {"movflags": "+faststart"}},
    "fragmented.mp4": {"options": {"movflags": "frag_keyframe+empty_moov"}},
    "late.mp4": {"start_s": 0.2},
    "vfr.mp4": {"times_s": VFR_S},
    "ntsc.mp4": {"fps": Fraction(30000, 1001)},
    "sixty.mp4": {"fps": 60},
    "no_b.mp4": {"b_frames": 0},
    "open_gop.mp4": {"codec_options": {"x264-params": "open-gop=1:keyint=12:scenecut=0"}},
    "deep.mp4": {"pix_fmt": "yuv420p10le"},
    "hevc.mp4": {
        "codec": "libx265",
        "codec_options": {"x265-params": "log-level=none:open-gop=1:keyint=12:min-keyint=12:pools=1"},
    },
    "mpeg4.mp4": {"codec": "mpeg4"},
    "odd.mp4": {"codec": "mpeg4", "size": (161, 63)},
    "a.mkv": {"start_s": 0.2},
    "a.mov": {},
    "a.ts": {},
    "a.avi": {},
    "camera.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p", "b_frames": 0},
    "old.avi": {"codec": "msmpeg4", "b_frames": 0, "fps": 30},
    "a.webm": {"codec": "libvpx", "b_frames": 0, "codec_options": {"auto-alt-ref": "1", "lag-in-frames": "16"}},
    "a:b %03d 日本.mp4": {},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("videos")


@pytest.mark.parametrize("name", CONTAINERS)
def test_frames_come_in_presentation_order_at_their_times_and_seeks_agree(folder, name):
    path = write_video(folder / name, 41, **CONTAINERS[name])
    times, end_s = read.frame_times(path)
    expected = CONTAINERS[name].get("times_s", [i / CONTAINERS[name].get("fps", 25) for i in range(41)])
    assert times[0] == 0 and np.abs(times - np.array(expected, float)).max() < 1e-3  # Matroska counts milliseconds
    usual_s = float(np.median(np.diff(times)))
    assert end_s - times[-1] == pytest.approx(usual_s, abs=0.002) or ("vfr" in name and 0 < end_s - times[-1] <= 0.1)
    everything = dict(read.read_frames(path))
    assert [number_of(rgb) for rgb in everything.values()] == list(everything) == list(range(41))
    for wanted in ([40], [13, 13, 14, 29], [5, 39], []):
        some = dict(read.read_frames(path, np.array(wanted, int), threads=2))
        assert list(some) == sorted(set(wanted))
        assert all((some[index] == everything[index]).all() for index in some)


def test_a_picture_that_changes_its_size_is_read_in_each_and_written_in_none(folder, tmp_path):
    path = write_two_sizes(folder / "call.ts")
    pictures = dict(read.read_frames(path))
    assert [number_of(rgb) for rgb in pictures.values()] == list(range(40))
    assert [rgb.shape[1] for rgb in pictures.values()] == [160] * 20 + [320] * 20
    [(_, late)] = read.read_frames(path, np.array([30]))
    assert (late == pictures[30]).all()
    frames = [frame for _, frame in read.read_video_frames(path)]
    with (
        pytest.raises(Rejection, match="changes its size from 160 x 64 to 320 x 128; convert it"),
        write.VideoWriter(tmp_path / "x.mp4", 25, 160, 64, like=frames[0]) as writer,
    ):
        for frame in frames:
            writer.write_frame(frame)


@pytest.mark.parametrize(("name", "counted"), [("a.avi", True), ("camera.avi", False), ("old.avi", False)])
def test_an_avi_whose_codec_never_reorders_can_be_sought(folder, name, counted):
    """From the start, ten seconds at the end of ten minutes take 1.7 instead of 0.04 s (640 x 360, flat pictures)."""
    assert probe.timeline(write_video(folder / name, 41, **CONTAINERS[name])).counted == counted


def test_asking_for_a_frame_that_is_not_there_says_how_many_there_are(folder):
    path = write_video(folder / "short.mp4", 5)
    with pytest.raises(ValueError, match="frames 3 to 5 asked of .* which has 5"):
        list(read.read_frames(path, np.array([3, 5])))


@pytest.mark.parametrize(("first", "length"), [(10, 25), (15, 20), (0, 25)])
def test_a_trimmed_file_shows_what_its_edit_list_leaves(folder, first, length):
    """Phones trim by an edit list: the hidden frames are still in the file, and are neither shown nor missing."""
    data = bytearray(write_video(folder / "whole.mp4", 50, sound=clicks(2, [0.5], 44_100)).read_bytes())
    at = data.index(b"elst") + 12  # of the picture, which is the first track
    _, media_time = struct.unpack(">Ii", data[at : at + 8])
    struct.pack_into(">Ii", data, at, 40 * length, media_time + first * 512)
    path = folder / "trimmed.mp4"
    path.write_bytes(data)
    info = probe.probe_media(path)
    assert info.n_frames == length and info.duration_s == pytest.approx(length / 25)
    assert [number_of(rgb) for _, rgb in read.read_frames(path)] == list(range(first, first + length))
    assert number_of(next(read.read_frames(path, np.array([17])))[1]) == first + 17
    assert abs(int(np.abs(read_audio(path)).argmax()) - 8_000) <= 1  # the sound was not trimmed


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_pictures_are_turned_as_the_display_matrix_asks(folder, degrees, mirrored):
    def ramps(_, width, height):  # red grows to the right, green downwards
        red, green = np.meshgrid(np.linspace(20, 235, width), np.linspace(20, 235, height))
        return np.stack([red, green, np.full_like(red, 128)], -1).astype(np.uint8)

    path = write_video(folder / "turned.mp4", 3, pictures=ramps, rotation=(degrees, mirrored))
    _, shown = next(read.read_frames(path))
    expected = np.rot90(ramps(0, 160, 64), degrees // 90)
    expected = expected[:, ::-1] if mirrored else expected
    info = probe.probe_media(path)
    assert (info.height, info.width) == shown.shape[:2] == expected.shape[:2]
    assert np.abs(shown.astype(int) - expected).mean() < 4
    _, native = next(read.read_video_frames(path))
    assert (native.width, native.height) == (160, 64)
    if not mirrored:
        assert info.rotation_deg == degrees


def test_a_small_picture_is_the_picture_made_small(folder):
    path = write_video(folder / "small.mp4", 2)
    _, frame = next(read.read_video_frames(path))
    small = picture.to_rgb(frame, width=40)
    assert small.shape == (16, 40, 3) and np.abs(small[8].astype(int) - picture.to_rgb(frame)[32, 1::4]).mean() < 12


@pytest.mark.parametrize(("missing", "ok"), [(range(10, 14), True), (range(38, 41), True), (range(10, 30), False)])
def test_a_short_hole_shows_the_picture_before_it_and_a_long_one_is_refused(folder, monkeypatch, missing, ok):
    path = write_video(folder / "hole.mp4", 41)
    decoded = read._decoded
    monkeypatch.setattr(read, "_decoded", lambda *args: ((i, f) for i, f in decoded(*args) if i not in missing))
    if ok:
        shown = [number_of(rgb) for _, rgb in read.read_frames(path)]
        assert shown == [missing[0] - 1 if i in missing else i for i in range(41)]
    else:
        with pytest.raises(Rejection, match=r"no picture can be decoded between 0.40 and 1.20 s"):
            list(read.read_frames(path))


def test_a_frame_that_cannot_be_decoded_is_a_rejection(folder):
    path = write_video(folder / "sound.mp4", 60, codec="mpeg4", b_frames=0, gop=10)
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    for position, size in packets[20:50]:
        data[position : position + size] = bytes(size)
    broken = folder / "broken.mp4"
    broken.write_bytes(data)
    assert probe.probe_media(broken).n_frames == 60  # probing decodes one picture only
    with pytest.raises(Rejection) as verdict:
        list(read.read_frames(broken))
    assert verdict.value.reason == "unreadable" and " s" in verdict.value.detail


def test_a_reader_goes_on_behind_what_is_broken_as_a_new_one_would(folder):
    """The same frames, however they are reached: in one go, from the middle, or after a call that failed."""
    path = write_video(folder / "long.mp4", 400, codec="mpeg4", b_frames=0, gop=40)
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    for position, size in packets[130:135]:
        data[position : position + size] = bytes(size)
    broken = folder / "broken.mp4"
    broken.write_bytes(data)
    spans = [np.arange(first, first + 50) for first in range(0, 400, 50)]
    reader, seen = read.Reader(broken), []
    for span in spans:
        try:
            seen.append([number_of(picture.exact()) for _, picture in reader.pictures(span)])
        except Rejection as verdict:
            seen.append(verdict.reason)
        alone = []
        try:
            alone = [number_of(picture.exact()) for _, picture in read.Reader(broken).pictures(span)]
        except Rejection as verdict:
            alone = verdict.reason
        assert seen[-1] == alone
    whole = [numbers == list(span) for numbers, span in zip(seen, spans, strict=True)]
    assert whole == [True, True, False, False, True, True, True, True]  # a key frame at 160: what follows 130 is lost


def test_a_reader_that_is_left_in_the_middle_can_be_asked_again(folder):
    reader = read.Reader(write_video(folder / "whole.mp4", 60))
    for index, _ in reader.pictures(np.arange(30)):
        if index == 12:
            break
    assert [number_of(picture.exact()) for _, picture in reader.pictures(np.arange(5, 20))] == list(range(5, 20))


@pytest.mark.parametrize("rate_hz", [16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("layout", ["mono", "stereo"])
def test_a_click_in_aac_is_heard_at_its_sample(folder, rate_hz, layout):
    at_s = [0.25, 0.5, 1.375]
    sound = clicks(2, at_s, rate_hz)
    path = write_video(folder / "click.mp4", sound=sound, sound_rate_hz=rate_hz, sound_layout=layout)
    heard = read_audio(path)
    assert heard.dtype == np.float32 and abs(len(heard) - 32_000) < 2048
    for time in at_s:
        near = np.abs(heard[round(time * 16_000) - 400 : round(time * 16_000) + 400])
        assert abs(int(near.argmax()) - 400) <= 1
    quiet = np.abs(heard[12_000:16_000])
    assert quiet.max() < 0.05


@pytest.mark.parametrize(
    ("name", "picture_s", "sound_s", "slack"),
    [
        ("both.mp4", 0.0, 0.0, 1),
        ("late_picture.mp4", 0.2, 0.0, 1),
        ("late_sound.mp4", 0.0, 0.3, 16),  # the muxer rounds an empty edit to a millisecond
        ("early_sound.mp4", 0.1, -0.05, 1),
        ("late_picture.mkv", 0.2, 0.0, 16),
        ("late_sound.mkv", 0.0, 0.3, 16),
        ("both.ts", 0.5, 0.5, 1),
        ("both.avi", 0.0, 0.0, 1),
    ],
)
def test_sound_starts_at_time_zero_of_the_picture(folder, name, picture_s, sound_s, slack):
    codec = "pcm_s16le" if name.endswith("avi") else "aac"
    path = write_video(
        folder / name, start_s=picture_s, sound=clicks(2, [1.0], 44_100), sound_start_s=sound_s, sound_codec=codec
    )
    heard = read_audio(path)
    expected = round((1.0 + sound_s - picture_s) * 16_000)
    assert abs(int(np.abs(heard).argmax()) - expected) <= slack
    if sound_s > picture_s:  # missing sound is silence
        assert not heard[:4000].any()


@pytest.mark.parametrize("lead_s", [0.026, 0.03, 0.05, 0.1])
def test_sound_that_begins_packets_before_the_picture_is_cut_there(folder, lead_s):
    """A packet that straddles time zero by a few milliseconds is not late by them."""
    at_s = [0.3, 1.0, 1.9]
    sound = clicks(2 + lead_s, [lead_s + at for at in at_s], 48_000)
    path = write_video(
        folder / f"lead {lead_s}.mkv", start_s=lead_s, sound=sound, sound_rate_hz=48_000, sound_codec="pcm_s16le"
    )
    heard = np.abs(read_audio(path))
    for at in at_s:
        near = heard[round(at * 16_000) - 400 : round(at * 16_000) + 400]
        assert abs(int(near.argmax()) - 400) <= 16, at  # Matroska's clock ticks once a millisecond


@pytest.mark.parametrize("ppm", [0, 100, -60])
@pytest.mark.parametrize("jitter_s", [0.0, 0.002])
def test_sound_stays_in_step_for_an_hour(folder, ppm, jitter_s):
    """A sound card that runs fast or slow, stamped by the clock of the recorder; here something clicks every minute."""
    rate_hz, minutes = 8_000, 60
    clock = 1 + ppm * 1e-6  # seconds by the stamps for a second of samples
    clicks_s = 30 + 60 * np.arange(minutes)
    samples = np.zeros(minutes * 60 * rate_hz, np.int16)
    samples[np.rint(clicks_s / clock * rate_hz).astype(int)] = 20_000
    path, rng = folder / f"hour {ppm} {jitter_s}.mkv", np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=1)
        video.width = video.height = 16
        sound = container.add_stream("pcm_s16le", rate=rate_hz, layout="mono")
        container.start_encoding()
        pictures = [av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), "rgb24") for _ in range(2)]
        for number, picture in enumerate(pictures):
            picture.pts, picture.time_base = number, Fraction(1)
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
        for start in range(0, len(samples), 800):
            packet = av.Packet(samples[start : start + 800].tobytes())
            stamp_s = start / rate_hz * clock + (rng.uniform(-jitter_s, jitter_s) if start else 0)
            packet.pts = packet.dts = round(max(0, stamp_s) * 1000)
            packet.time_base, packet.stream = Fraction(1, 1000), sound
            container.mux(packet)
    heard = np.abs(read_audio(path))
    found = np.array([np.argmax(heard[(at - 1) * 16_000 : (at + 1) * 16_000]) + (at - 1) * 16_000 for at in clicks_s])
    drift_ms = (found / 16_000 - clicks_s) * 1000
    print(f"{ppm:+d} ppm, stamps within {jitter_s * 1000:.0f} ms: off by {np.abs(drift_ms).max():.2f} ms at most")
    assert np.abs(drift_ms).max() < 1.0


def test_a_gap_in_the_sound_is_silence_and_moves_nothing(folder):
    whole = write_video(folder / "whole.mkv", sound=clicks(2, [0.25, 1.75], 48_000), sound_rate_hz=48_000)
    with av.open(str(whole)) as source, av.open(str(folder / "gap.mkv"), "w") as container:
        copies = {s.index: container.add_stream_from_template(s) for s in source.streams}
        for packet in source.demux():
            in_gap = packet.stream.type == "audio" and packet.size and 0.5 < packet.pts * packet.time_base < 1.5
            if packet.size and not in_gap:
                packet.stream = copies[packet.stream_index]
                container.mux(packet)
    heard = read_audio(folder / "gap.mkv")
    peaks = [int(np.abs(heard[:16_000]).argmax()), 16_000 + int(np.abs(heard[16_000:]).argmax())]
    assert abs(peaks[0] - 4_000) <= 16 and abs(peaks[1] - 28_000) <= 16
    assert not heard[9_000:23_000].any()


def test_channels_are_averaged_and_a_tone_keeps_its_level(folder):
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(88_200) / 44_100).astype(np.float32)
    path = write_video(folder / "tone.mov", sound=tone, sound_codec="pcm_s16le", sound_layout="stereo")
    heard = read_audio(path)
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(32_000) / 16_000)
    assert np.abs(heard[200:-200] - expected[200 : len(heard) - 200]).max() < 2e-3
    assert len(read_audio(path, 8_000)) == 16_000


def test_no_sound_is_no_samples(folder):
    assert len(read_audio(write_video(folder / "mute.mp4"))) == 0


@pytest.mark.parametrize(
    ("width", "height", "pix_fmt"), [(96, 64, "yuv420p"), (95, 64, "yuv444p"), (95, 63, "yuv444p")]
)
def test_what_is_written_is_read_back_and_the_bytes_repeat(tmp_path, width, height, pix_fmt):
    pictures = smooth_pictures(60, width, height)
    files = [tmp_path / name for name in ("a.mp4", "b.mp4")]
    for path in files:
        with write.VideoWriter(path, 25, width, height, audio=clicks(2.4, [0.5, 1.5], 16_000)) as writer:
            assert writer.pix_fmt == pix_fmt
            for rgb in pictures:
                writer.write(rgb)
    assert files[0].read_bytes() == files[1].read_bytes()
    info = probe.probe_media(files[0])
    assert (info.width, info.height, info.fps, info.n_frames, info.duration_s) == (width, height, 25, 60, 2.4)
    clip = read.read_clip(files[0])
    error = clip.astype(int) - np.stack(pictures)
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
from videos import smooth_pictures
with VideoWriter(sys.argv[1], 25, 320, 240, audio=np.sin(np.arange(25_600) / 9).astype(np.float32)) as writer:
    for picture in smooth_pictures(40, 320, 240):
        writer.write(picture)
print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())
"""


def test_the_bytes_do_not_depend_on_what_the_memory_held_before(tmp_path):
    """x264 with its macroblock tree fails this: glibc fills fresh memory with MALLOC_PERTURB_."""
    hashes = set()
    for filling in ("0", "1", "85"):
        done = subprocess.run(
            [sys.executable, "-c", WRITE, str(tmp_path / "x.mp4")],
            env=os.environ | {"MALLOC_PERTURB_": filling, "PYTHONPATH": str(Path(__file__).parent)},
            capture_output=True,
            text=True,
            check=True,
        )
        hashes.add(done.stdout.strip())
    assert len(hashes) == 1


def test_variable_frame_times_are_kept(tmp_path):
    pictures = [numbered_picture(i) for i in range(len(VFR_S))]
    with write.VideoWriter(tmp_path / "vfr.mp4", 30, 160, 64, frame_times=VFR_S, end_s=VFR_S[-1] + 0.2) as writer:
        for rgb in pictures:
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
    source = write_video(folder / f"{pix_fmt}.mp4", 30, pix_fmt=pix_fmt, rotation=(90, False), sound=sound)
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
def test_copied_sound_keeps_its_place(folder, tmp_path, picture_s, sound_s):
    source = write_video(folder / "own.mp4", start_s=picture_s, sound=clicks(2, [1.0], 44_100), sound_start_s=sound_s)
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


def test_sound_that_mp4_cannot_hold_is_named(folder, tmp_path):
    source = write_video(folder / "alaw.mov", sound=clicks(2, [1.0], 44_100), sound_codec="pcm_alaw")
    with (
        pytest.raises(ValueError, match="pcm_alaw cannot stand in an mp4"),
        write.VideoWriter(tmp_path / "x.mp4", 25, 64, 64, copy_audio_from=source),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_flac_is_exact_anywhere_and_silent_outside(tmp_path):
    rng = np.random.default_rng(3)
    samples = (rng.integers(-32768, 32768, 50_000) / 32768).astype(np.float32)
    for name in ("a.flac", "b.flac"):
        write.write_flac(tmp_path / name, samples)
    assert (tmp_path / "a.flac").read_bytes() == (tmp_path / "b.flac").read_bytes()
    assert (read_flac(tmp_path / "a.flac") == samples).all()
    padded = np.pad(samples, (10_000, 10_000))
    for start, stop in [(0, 1), (-10_000, 60_000), (49_999, 50_010), (59_000, 59_005), (-500, -100), (4_095, 4_097)] + [
        tuple(sorted(rng.integers(-9_000, 59_000, 2))) for _ in range(40)
    ]:
        assert (read_flac(tmp_path / "a.flac", start, stop) == padded[start + 10_000 : stop + 10_000]).all()
    write.write_flac(tmp_path / "loud.flac", np.array([2.0, -2.0, 0.0], np.float32))
    assert read_flac(tmp_path / "loud.flac").tolist() == [32767 / 32768, -1.0, 0.0]


def test_real_clips_give_the_same_frames_after_a_seek(clips):
    for name in ("vrt1.mp4", "iplap_129.mp4", "talkvid_aoc.mp4"):
        times, _ = read.frame_times(clips / name)
        wanted = np.linspace(len(times) // 3, len(times) - 1, 4).astype(int)
        whole = {i: frame for i, frame in read.read_frames(clips / name) if i in wanted}
        some = dict(read.read_frames(clips / name, wanted))
        assert some.keys() == whole.keys() and all((some[i] == whole[i]).all() for i in some)


def test_a_real_vfr_clip_keeps_its_times(clips):
    times, end_s = read.frame_times(clips / "vrt1.mp4")
    gaps_ms = set(np.rint(np.diff(times) * 1000).astype(int).tolist())
    assert gaps_ms <= {33, 34, 66, 67} and len(gaps_ms) >= 2 and len(times) == 135
    table = ticks_to_frames(times, end_s)
    assert table[-1] == 134 and np.abs(times[table] - np.arange(len(table)) / 25).max() <= 0.034
