"""Reading audio: to the sample, from time zero of the video, in step for an hour."""

from fractions import Fraction

import av
import numpy as np
import pytest

from latentsync.media import write
from latentsync.media.audio import read_audio, read_flac
from tests.videos import clicks, write_video


@pytest.mark.parametrize("rate_hz", [16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("layout", ["mono", "stereo"])
def test_a_click_in_aac_is_heard_at_its_sample(tmp_path, rate_hz, layout):
    at_s = [0.25, 0.5, 1.375]
    clicking = clicks(2, at_s, rate_hz)
    path = write_video(tmp_path / "click.mp4", audio=clicking, audio_rate_hz=rate_hz, audio_layout=layout)
    heard = read_audio(path)
    assert heard.dtype == np.float32 and abs(len(heard) - 32_000) < 2048
    for time in at_s:
        near = np.abs(heard[round(time * 16_000) - 400 : round(time * 16_000) + 400])
        assert abs(int(near.argmax()) - 400) <= 1
    quiet = np.abs(heard[12_000:16_000])
    assert quiet.max() < 0.05


@pytest.mark.parametrize(
    ("name", "video_s", "audio_s", "slack"),
    [
        ("both.mp4", 0.0, 0.0, 1),
        ("late_video.mp4", 0.2, 0.0, 1),
        ("late_audio.mp4", 0.0, 0.3, 16),  # the muxer rounds an empty edit to a millisecond
        ("early_audio.mp4", 0.1, -0.05, 1),
        ("late_video.mkv", 0.2, 0.0, 16),
        ("late_audio.mkv", 0.0, 0.3, 16),
        ("both.ts", 0.5, 0.5, 1),
        ("both.avi", 0.0, 0.0, 1),
    ],
)
def test_audio_starts_at_time_zero_of_the_video(tmp_path, name, video_s, audio_s, slack):
    codec = "pcm_s16le" if name.endswith("avi") else "aac"
    path = write_video(
        tmp_path / name, start_s=video_s, audio=clicks(2, [1.0], 44_100), audio_start_s=audio_s, audio_codec=codec
    )
    heard = read_audio(path)
    expected = round((1.0 + audio_s - video_s) * 16_000)
    assert abs(int(np.abs(heard).argmax()) - expected) <= slack
    if audio_s > video_s:  # missing audio is silence
        assert not heard[:4000].any()


@pytest.mark.parametrize("lead_s", [0.026, 0.03, 0.05, 0.1])
def test_audio_that_begins_packets_before_the_video_is_cut_there(tmp_path, lead_s):
    """A packet that straddles time zero by a few milliseconds is not late by them."""
    at_s = [0.3, 1.0, 1.9]
    clicking = clicks(2 + lead_s, [lead_s + at for at in at_s], 48_000)
    path = write_video(
        tmp_path / f"lead {lead_s}.mkv", start_s=lead_s, audio=clicking, audio_rate_hz=48_000, audio_codec="pcm_s16le"
    )
    heard = np.abs(read_audio(path))
    for at in at_s:
        near = heard[round(at * 16_000) - 400 : round(at * 16_000) + 400]
        assert abs(int(near.argmax()) - 400) <= 16, at  # Matroska's clock ticks once a millisecond


@pytest.mark.parametrize(("ppm", "jitter_s"), [(0, 0.002), (100, 0.0), (-60, 0.002)])
def test_audio_stays_in_step_for_an_hour(tmp_path, ppm, jitter_s):
    """An audio card that runs fast or slow, stamped by the clock of the recorder; one click a minute."""
    rate_hz, minutes = 8_000, 60
    clock = 1 + ppm * 1e-6  # seconds by the stamps for a second of samples
    clicks_s = 30 + 60 * np.arange(minutes)
    samples = np.zeros(minutes * 60 * rate_hz, np.int16)
    samples[np.rint(clicks_s / clock * rate_hz).astype(int)] = 20_000
    path, rng = tmp_path / f"hour {ppm} {jitter_s}.mkv", np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=1)
        video.width = video.height = 16
        track = container.add_stream("pcm_s16le", rate=rate_hz, layout="mono")
        container.start_encoding()
        images = [av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), "rgb24") for _ in range(2)]
        for number, image in enumerate(images):
            image.pts, image.time_base = number, Fraction(1)
            container.mux(video.encode(image))
        container.mux(video.encode(None))
        for start in range(0, len(samples), 800):
            packet = av.Packet(samples[start : start + 800].tobytes())
            stamp_s = start / rate_hz * clock + (rng.uniform(-jitter_s, jitter_s) if start else 0)
            packet.pts = packet.dts = round(max(0, stamp_s) * 1000)
            packet.time_base, packet.stream = Fraction(1, 1000), track
            container.mux(packet)
    heard = np.abs(read_audio(path))
    found = np.array([np.argmax(heard[(at - 1) * 16_000 : (at + 1) * 16_000]) + (at - 1) * 16_000 for at in clicks_s])
    drift_ms = (found / 16_000 - clicks_s) * 1000
    print(f"{ppm:+d} ppm, stamps within {jitter_s * 1000:.0f} ms: off by {np.abs(drift_ms).max():.2f} ms at most")
    assert np.abs(drift_ms).max() < 1.0


def test_a_gap_in_the_audio_is_silence_and_moves_nothing(tmp_path):
    whole = write_video(tmp_path / "whole.mkv", audio=clicks(2, [0.25, 1.75], 48_000), audio_rate_hz=48_000)
    with av.open(str(whole)) as source, av.open(str(tmp_path / "gap.mkv"), "w") as container:
        copies = {s.index: container.add_stream_from_template(s) for s in source.streams}
        for packet in source.demux():
            in_gap = packet.stream.type == "audio" and packet.size and 0.5 < packet.pts * packet.time_base < 1.5
            if packet.size and not in_gap:
                packet.stream = copies[packet.stream_index]
                container.mux(packet)
    heard = read_audio(tmp_path / "gap.mkv")
    peaks = [int(np.abs(heard[:16_000]).argmax()), 16_000 + int(np.abs(heard[16_000:]).argmax())]
    assert abs(peaks[0] - 4_000) <= 16 and abs(peaks[1] - 28_000) <= 16
    assert not heard[9_000:23_000].any()


def test_channels_are_averaged_and_a_tone_keeps_its_level(tmp_path):
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(88_200) / 44_100).astype(np.float32)
    path = write_video(tmp_path / "tone.mov", audio=tone, audio_codec="pcm_s16le", audio_layout="stereo")
    heard = read_audio(path)
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(32_000) / 16_000)
    assert np.abs(heard[200:-200] - expected[200 : len(heard) - 200]).max() < 2e-3
    assert len(read_audio(path, 8_000)) == 16_000


def test_no_audio_is_no_samples(tmp_path):
    assert len(read_audio(write_video(tmp_path / "mute.mp4"))) == 0


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
