"""Reading images: order, time zero, rotation, seeking, holes, what cannot be decoded."""

import struct
from fractions import Fraction

import av
import numpy as np
import pytest

from latentsync.ledger.rows import Rejection
from latentsync.media import frames, probe, read, write
from latentsync.media.audio import read_audio
from latentsync.timing import ticks_to_frames
from tests.videos import VFR_S, clicks, number_of, write_two_sizes, write_video

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
        some = dict(read.read_frames(path, np.array(wanted, int)))
        assert list(some) == sorted(set(wanted))
        assert all((some[index] == everything[index]).all() for index in some)


def test_a_video_that_changes_its_size_is_read_in_each_and_written_in_none(folder, tmp_path):
    path = write_two_sizes(folder / "call.ts")
    images = dict(read.read_frames(path))
    assert [number_of(rgb) for rgb in images.values()] == list(range(40))
    assert [rgb.shape[1] for rgb in images.values()] == [160] * 20 + [320] * 20
    [(_, late)] = read.read_frames(path, np.array([30]))
    assert (late == images[30]).all()
    frames = [frame for _, frame in read.read_video_frames(path)]
    with (
        pytest.raises(Rejection, match="change their size from 160 x 64 to 320 x 128; convert it"),
        write.VideoWriter(tmp_path / "x.mp4", 25, 160, 64, like=frames[0]) as writer,
    ):
        for frame in frames:
            writer.write_frame(frame)


@pytest.mark.parametrize(("name", "counted"), [("a.avi", True), ("camera.avi", False), ("old.avi", False)])
def test_an_avi_whose_codec_never_reorders_can_be_sought(folder, name, counted):
    """From the start, ten seconds at the end of ten minutes take 1.7 instead of 0.04 s (640 x 360, flat images)."""
    assert probe.timeline(write_video(folder / name, 41, **CONTAINERS[name])).counted == counted


def test_asking_for_a_frame_that_is_not_there_says_how_many_there_are(folder):
    path = write_video(folder / "short.mp4", 5)
    with pytest.raises(ValueError, match="frames 3 to 5 asked of .* which has 5"):
        list(read.read_frames(path, np.array([3, 5])))


@pytest.mark.parametrize(("first", "length"), [(10, 25), (15, 20), (0, 25)])
def test_a_trimmed_file_shows_what_its_edit_list_leaves(folder, first, length):
    """Phones trim by an edit list: the hidden frames are still in the file, and are neither shown nor missing."""
    data = bytearray(write_video(folder / "whole.mp4", 50, audio=clicks(2, [0.5], 44_100)).read_bytes())
    at = data.index(b"elst") + 12  # of the image, which is the first track
    _, media_time = struct.unpack(">Ii", data[at : at + 8])
    struct.pack_into(">Ii", data, at, 40 * length, media_time + first * 512)
    path = folder / "trimmed.mp4"
    path.write_bytes(data)
    info = probe.probe_media(path)
    assert info.n_frames == length and info.duration_s == pytest.approx(length / 25)
    assert [number_of(rgb) for _, rgb in read.read_frames(path)] == list(range(first, first + length))
    assert number_of(next(read.read_frames(path, np.array([17])))[1]) == first + 17
    assert abs(int(np.abs(read_audio(path)).argmax()) - 8_000) <= 1  # the audio was not trimmed


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_frames_are_turned_as_the_display_matrix_asks(folder, degrees, mirrored):
    def ramps(_, width, height):  # red grows to the right, green downwards
        red, green = np.meshgrid(np.linspace(20, 235, width), np.linspace(20, 235, height))
        return np.stack([red, green, np.full_like(red, 128)], -1).astype(np.uint8)

    path = write_video(folder / "turned.mp4", 3, images=ramps, rotation=(degrees, mirrored))
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


def test_a_small_frame_is_the_frame_made_small(folder):
    path = write_video(folder / "small.mp4", 2)
    _, frame = next(read.read_video_frames(path))
    small = frames.to_rgb(frame, width=40)
    assert small.shape == (16, 40, 3) and np.abs(small[8].astype(int) - frames.to_rgb(frame)[32, 1::4]).mean() < 12


@pytest.mark.parametrize(("missing", "ok"), [(range(10, 14), True), (range(38, 41), True), (range(10, 30), False)])
def test_a_short_hole_shows_the_frame_before_it_and_a_long_one_is_refused(folder, monkeypatch, missing, ok):
    path = write_video(folder / "hole.mp4", 41)
    decoded = read._decoded
    monkeypatch.setattr(read, "_decoded", lambda *args: ((i, f) for i, f in decoded(*args) if i not in missing))
    if ok:
        shown = [number_of(rgb) for _, rgb in read.read_frames(path)]
        assert shown == [missing[0] - 1 if i in missing else i for i in range(41)]
    else:
        with pytest.raises(Rejection, match=r"no frame can be decoded between 0.40 and 1.20 s"):
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
    assert probe.probe_media(broken).n_frames == 60  # probing decodes one image only
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
            seen.append([number_of(image.exact()) for _, image in reader.displayed_frames(span)])
        except Rejection as verdict:
            seen.append(verdict.reason)
        alone = []
        try:
            alone = [number_of(image.exact()) for _, image in read.Reader(broken).displayed_frames(span)]
        except Rejection as verdict:
            alone = verdict.reason
        assert seen[-1] == alone
    whole = [numbers == list(span) for numbers, span in zip(seen, spans, strict=True)]
    assert whole == [True, True, False, False, True, True, True, True]  # a key frame at 160: what follows 130 is lost


def test_a_reader_that_is_left_in_the_middle_can_be_asked_again(folder):
    reader = read.Reader(write_video(folder / "whole.mp4", 60))
    for index, _ in reader.displayed_frames(np.arange(30)):
        if index == 12:
            break
    assert [number_of(image.exact()) for _, image in reader.displayed_frames(np.arange(5, 20))] == list(range(5, 20))


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
