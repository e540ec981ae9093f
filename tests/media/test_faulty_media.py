"""Files as recorders, editors and people make them: read as far as they can be, with what is repaired in numbers."""

import shutil
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from scipy.io import wavfile

from latentsync.ledger.rows import Rejection
from latentsync.media import probe
from latentsync.media.audio import Damage, audio_pieces, read_audio
from latentsync.media.read import frame_times, read_frames
from latentsync.media.repairs import KINDS, sentence
from tests.media.mangled import moved, remuxed
from tests.videos import clicks, number_of, numbered_image, write_video

RATE_HZ = 44_100


def heard(path: Path, track: int | None = None) -> tuple[np.ndarray, Damage]:
    damage = Damage()
    pieces = list(audio_pieces(path, track=track, damage=damage))
    return np.concatenate(pieces, axis=1)[0], damage


def clicks_at(samples: np.ndarray) -> list[float]:
    """Seconds at which clicks are heard, at 16 kHz."""
    loud = np.flatnonzero(np.abs(samples) > 0.25)
    return [] if not len(loud) else [round(float(at) / 16_000, 2) for at in loud[np.diff(loud, prepend=-9999) > 1600]]


def numbers(path: Path) -> list[int]:
    return [number_of(rgb) for _, rgb in read_frames(path)]


# --- clocks ---------------------------------------------------------------------------------------------------------


def test_a_jump_of_ten_hours_costs_no_memory_and_no_audio(tmp_path):
    plain = write_video(tmp_path / "a.mkv", 50, audio=clicks(2, [0.5, 1.5], RATE_HZ))
    jump = remuxed(plain, tmp_path / "jump.mkv", moved("audio", 1.0, 36_000))
    samples, _ = heard(jump)
    assert clicks_at(samples) == clicks_at(read_audio(plain)) and len(samples) < 3 * 16_000
    assert probe.probe_media(jump).repairs == {"clock_breaks": 1}


def test_a_jump_of_a_video_that_reorders_frames_is_closed(tmp_path):
    """Matroska stores no decoding times, and those that FFmpeg derives jump two frames late."""
    plain = write_video(tmp_path / "a.mp4", 75, audio=clicks(3, [0.5], RATE_HZ))
    jump = remuxed(plain, tmp_path / "jump.mkv", moved("video", 1.0, 5_000))
    info = probe.probe_media(jump)
    assert info.duration_s == pytest.approx(3, abs=0.1) and info.repairs == {"clock_breaks": 1}
    assert numbers(jump) == list(range(75))


def test_a_last_frame_far_behind_is_stray(tmp_path):
    """Its derived decoding time is that of the frames before it, so the clock itself does not jump."""
    plain = write_video(tmp_path / "a.mp4", 50, audio=clicks(2, [0.5], RATE_HZ))
    end = remuxed(plain, tmp_path / "end.mkv", moved("video", 1.95, 2_000))
    info = probe.probe_media(end)
    assert info.duration_s == pytest.approx(1.92, abs=0.05) and info.repairs == {"stray_times": 1}
    assert numbers(end) == list(range(info.n_frames)) and info.n_frames in (48, 49)  # one has no place in the file


def test_a_matroska_file_that_begins_late_is_whole(tmp_path):
    """The duration that it declares counts from 0, as in a recording that was cut into pieces."""
    late = write_video(tmp_path / "late.mkv", 50, start_s=5_000, audio_start_s=5_000, audio=clicks(2, [0.5], RATE_HZ))
    assert probe.probe_media(late).duration_s == pytest.approx(2, abs=0.05)
    whole, half = write_video(tmp_path / "whole.mkv", 200).read_bytes(), tmp_path / "half.mkv"
    half.write_bytes(whole[: len(whole) * 6 // 10])
    with pytest.raises(Rejection, match=r"cut off: \d\.\d of 8\.\d s"):
        probe.probe_media(half)


def test_joined_recordings_keep_every_frame_and_their_sync(tmp_path):
    sound = clicks(1, [0.5], RATE_HZ)
    parts = [
        write_video(tmp_path / f"{n}.ts", 25, start_s=1.0, audio_start_s=1.0, audio=sound,
                    images=lambda i, w, h, n=n: numbered_image(25 * n + i, w, h))
        for n in range(2)
    ]  # fmt: skip
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert numbers(joined) == list(range(50))
    times, end_s = frame_times(joined)
    assert times == pytest.approx(np.arange(50) / 25, abs=1e-4) and end_s == pytest.approx(2.0, abs=0.01)
    assert clicks_at(heard(joined)[0]) == pytest.approx([0.5, 1.5], abs=0.03)
    assert probe.probe_media(joined).repairs["clock_breaks"] >= 1


@pytest.mark.parametrize("codec", ["mjpeg", "mpeg4"])
def test_empty_packets_hold_the_frame_before(tmp_path, codec):
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    whole = write_video(tmp_path / "whole.avi", 50, codec=codec, pix_fmt=pix_fmt, b_frames=0, gop=1)
    path = remuxed(whole, tmp_path / "a.avi", lambda packets: packets[:20] + packets[23:])
    info = probe.probe_media(path)
    assert info.duration_s == pytest.approx(2.0, abs=0.05) and info.repairs == {"empty_packets": 3}
    shown = [i / 25 for i in range(50) if i not in (20, 21, 22)]
    assert frame_times(path)[0] == pytest.approx(shown, abs=0.02)
    assert numbers(path) == [i for i in range(50) if i not in (20, 21, 22)]


def test_a_subtitle_that_lasts_longer_is_no_missing_film(tmp_path):
    film = write_video(tmp_path / "a.mkv", 25, audio=clicks(1, [0.5], RATE_HZ))
    (tmp_path / "a.srt").write_text("1\n00:00:00,200 --> 00:00:20,000\nhello\n")
    out = tmp_path / "subtitled.mkv"
    with av.open(str(film)) as source, av.open(str(tmp_path / "a.srt")) as text, av.open(str(out), "w") as target:
        copies = {s: target.add_stream_from_template(s) for s in (*source.streams, *text.streams)}
        for container in (source, text):
            for packet in container.demux():
                if packet.size:
                    packet.stream = copies[packet.stream]
                    target.mux(packet)
    assert probe.probe_media(out).n_frames == 25


def test_of_two_frames_at_nearly_one_time_the_first_is_shown(tmp_path):
    times = [0.0, 0.04, 0.08, 0.08 + 2 / 90_000, 0.12, 0.16]
    path = write_video(tmp_path / "a.mkv", 6, times_s=times, options={"default_mode": "infer"})
    close = write_video(tmp_path / "a.mp4", 6, times_s=times, b_frames=0)
    assert numbers(close) == [0, 1, 2, 4, 5]
    assert probe.probe_media(close).repairs == {"close_frames": 1}
    assert len(numbers(path)) == 5  # matroska rounds to milliseconds, so both have one time


# --- audio ----------------------------------------------------------------------------------------------------------


def test_channels_in_the_order_of_films_are_heard_and_crash_nothing(tmp_path):
    """PyAV 17.1 to 18.1 end the process at a channel layout that is not one of FFmpeg's own."""
    path = write_video(tmp_path / "a.mov", audio=clicks(1, [0.4], 48_000), audio_rate_hz=48_000,
                       audio_codec="pcm_s16le", audio_layout="5.1")  # fmt: skip
    data = bytearray(path.read_bytes())
    place = data.find(b"chan")
    assert place > 0
    data[place + 8 : place + 16] = struct.pack(">II", 123 << 16 | 6, 0)  # L C R Ls Rs LFE
    path.write_bytes(data)
    assert clicks_at(heard(path)[0]) == [0.4]


def test_a_damaged_packet_becomes_silence_and_the_rest_stays_in_place(tmp_path):
    path = write_video(tmp_path / "a.mp4", 75, audio=clicks(3, [0.5, 1.5, 2.5], RATE_HZ))
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(container.streams.audio[0]) if packet.size]
        hit = min(packets, key=lambda packet: abs(float(packet.pts * packet.time_base) - 1.5))
        place, size = hit.pos, hit.size
    data = bytearray(path.read_bytes())
    data[place : place + size] = b"\xff" * size
    path.write_bytes(data)
    samples, damage = heard(path)
    assert damage.repairs["bad_audio"] >= 1 and 0 < damage.bad_s < 0.2
    assert [at for at in clicks_at(samples) if abs(at - 1.5) > 0.1] == [0.5, 2.5]
    damage.require_little(path)
    with pytest.raises(Rejection, match=r"a share of 0\.\d\d of the audio of a.mp4 is damaged; .*allows 0"):
        damage.require_little(path, 0.0, "resample.max_damaged_share")


def test_pieces_at_other_rates_are_resampled_each(tmp_path):
    parts = []
    for rate in (44_100, 22_050):
        bare = {"write_xing": "0", "id3v2_version": "0"}
        sound = {"audio": clicks(1, [0.5], rate), "audio_rate_hz": rate, "audio_codec": "libmp3lame"}
        parts.append(write_video(tmp_path / f"{rate}.mp3", video_track=False, options=bare, **sound).read_bytes())
    path = tmp_path / "both.mp3"
    path.write_bytes(b"".join(parts))
    samples, damage = heard(path)
    assert damage.repairs["rate_changes"] >= 1
    first, second = clicks_at(samples)
    assert 0.9 < second - first < 1.2


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_no_sample_that_is_not_finite_passes_the_door(tmp_path, value):
    samples = np.sin(np.arange(16_000) / 20).astype(np.float32) * 0.5
    samples[4000:4010] = value
    wavfile.write(tmp_path / "a.wav", 16_000, samples)
    found, damage = heard(tmp_path / "a.wav")
    assert np.isfinite(found).all() and damage.repairs == {"bad_audio": 1}
    assert np.abs(found[5000:15_000] - samples[5000:15_000]).max() < 0.01
    assert sentence(damage.repairs) == f"{KINDS['bad_audio']}: 1"


# --- tracks ---------------------------------------------------------------------------------------------------------


def two_tracks(path: Path, sounds: list[np.ndarray], default: int | None = None) -> Path:
    """A video with an audio track for each sound."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        streams = [container.add_stream("aac", rate=RATE_HZ, layout="mono") for _ in sounds]
        for number, stream in enumerate(streams):
            if default is not None:
                stream.disposition = av.stream.Disposition.default if number == default else av.stream.Disposition(0)
        for number in range(25):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 9 * number, np.uint8), "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for stream, sound in zip(streams, sounds, strict=True):
            for start in range(0, len(sound), 1024):
                frame = av.AudioFrame.from_ndarray(sound[None, start : start + 1024], "fltp", "mono")
                frame.sample_rate, frame.time_base, frame.pts = RATE_HZ, Fraction(1, RATE_HZ), start
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return path


def test_the_first_track_that_is_not_silent_is_heard(tmp_path):
    sound, silence = clicks(1, [0.5], RATE_HZ), np.zeros(RATE_HZ, np.float32)
    path = two_tracks(tmp_path / "a.mkv", [silence, sound])
    info = probe.probe_media(path)
    assert (info.audio_track, info.n_audio_tracks) == (2, 2) and clicks_at(heard(path)[0]) == [0.5]
    assert clicks_at(heard(path, track=1)[0]) == []
    with pytest.raises(Rejection, match="a.mkv has no audio track 3 that can be decoded; tracks .*: 1, 2"):
        heard(path, track=3)


def test_the_track_flagged_as_default_goes_first(tmp_path):
    path = two_tracks(tmp_path / "a.mkv", [clicks(1, [0.3], RATE_HZ), clicks(1, [0.7], RATE_HZ)], default=1)
    assert clicks_at(heard(path)[0]) == [0.7]


def test_a_track_without_a_decoder_is_passed_over(tmp_path):
    path = two_tracks(tmp_path / "a.mp4", [clicks(1, [0.3], RATE_HZ), clicks(1, [0.7], RATE_HZ)])
    data = bytearray(path.read_bytes())
    place = data.find(b"mp4a")
    data[place : place + 4] = b"apac"
    place = data.find(b"esds", place)
    data[place : place + 4] = b"dapa"
    path.write_bytes(data)
    assert probe.probe_media(path).audio_track == 2 and clicks_at(heard(path)[0]) == [0.7]


def test_pixels_that_are_not_square_are_shown_square(tmp_path):
    path = write_video(tmp_path / "a.mp4", 3, size=(80, 64), sample_aspect=Fraction(2), rotation=(90, False))
    info = probe.probe_media(path)
    assert (info.width, info.height, info.pixel_aspect) == (64, 160, 2.0)
    assert next(iter(read_frames(path)))[1].shape == (160, 64, 3)
    flat = shutil.copy(path, tmp_path / "b.mp4")
    assert probe.timeline(Path(flat)).size == (80, 64)
