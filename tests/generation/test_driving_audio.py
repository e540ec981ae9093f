"""What is written beside the image: its own packets where an mp4 can hold them, whatever their decoder is called."""

import wave
from fractions import Fraction

import av
import numpy as np
import pytest

from latentsync.generation.audio import driving_audio
from latentsync.media.audio import read_audio, read_channels
from latentsync.media.join import join
from latentsync.media.probe import probe_media
from latentsync.media.write import FrameClock, VideoWriter
from tests.videos import clicks, write_video


def joined(tmp_path, driving, seconds=2.0):
    """A grey video of so many seconds with the driving audio, as generate writes it."""
    with VideoWriter(tmp_path / "part.mp4", 25, 64, 64) as writer:
        for _ in range(round(25 * seconds)):
            writer.write(np.zeros((64, 64, 3), np.uint8))
    join([tmp_path / "part.mp4"], tmp_path / "out.mp4", FrameClock.of(Fraction(25)), driving.track(seconds))
    return tmp_path / "out.mp4"


@pytest.mark.parametrize(
    ("codec", "container", "copied"), [("aac", "mp4", True), ("libmp3lame", "mp4", True), ("pcm_s16le", "mov", False)]
)
def test_audio_is_copied_where_an_mp4_can_hold_it(tmp_path, codec, container, copied):
    source = write_video(
        tmp_path / f"own.{container}", audio=clicks(2, [1.0], 44_100), audio_codec=codec, audio_layout="stereo"
    )
    driving = driving_audio(source)
    assert driving.copied() is copied
    out = joined(tmp_path, driving)
    assert probe_media(out).audio_rate_hz == 44_100
    heard, original = read_audio(out), read_audio(source)
    if copied:
        np.testing.assert_array_equal(heard[: len(original)], original[: len(heard)])
    assert abs(np.abs(heard).argmax() - 16_000) <= 16  # the click is where it was, to the millisecond


@pytest.mark.parametrize(
    ("suffix", "codec", "rate_hz", "copied"),
    [
        ("mp3", "libmp3lame", 44_100, True),
        ("m4a", "aac", 48_000, True),
        ("flac", "flac", 48_000, True),
        ("opus", "libopus", 48_000, True),
        ("wav", "pcm_s16le", 22_050, False),
    ],
)
def test_a_file_of_audio_keeps_its_packets_and_its_time(tmp_path, suffix, codec, rate_hz, copied):
    path = tmp_path / f"speech.{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate_hz, layout="mono")
        samples = clicks(3.0, [1.0], rate_hz)
        frame_size = 960
        for start in range(0, len(samples), frame_size):
            part = samples[None, start : start + frame_size]
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(part, np.float32), "fltp", "mono")
            frame.sample_rate, frame.time_base, frame.pts = rate_hz, Fraction(1, rate_hz), start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    driving = driving_audio(path)
    assert driving.copied() is copied and driving.length_s == pytest.approx(3.0, abs=0.05)
    out = joined(tmp_path, driving)
    heard = read_audio(out)
    assert 1.9 < len(heard) / 16_000 < 2.05  # longer audio ends with the video, at a packet
    at_model = np.abs(driving.for_model).argmax()
    assert abs(np.abs(heard).argmax() - at_model) <= 16 and abs(at_model - 16_000) <= 16


def write_audio(path, codec, samples, rate_hz, layout, bit_rate=None):
    """A file of audio from float32 [c, n]."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate_hz, layout=layout)
        if bit_rate:
            stream.codec_context.bit_rate = bit_rate
        for start in range(0, samples.shape[1], 960):
            part = np.ascontiguousarray(samples[:, start : start + 960], np.float32)
            frame = av.AudioFrame.from_ndarray(part, "fltp", layout)
            frame.sample_rate, frame.time_base, frame.pts = rate_hz, Fraction(1, rate_hz), start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("later_s", [0.3, -0.4])
@pytest.mark.parametrize(("suffix", "codec"), [("m4a", "aac"), ("mp3", "libmp3lame"), ("wav", "pcm_s16le")])
def test_an_offset_moves_the_audio_of_the_model_and_of_the_file(tmp_path, suffix, codec, later_s):
    path = write_audio(tmp_path / f"a.{suffix}", codec, clicks(3.0, [1.0], 44_100)[None], 44_100, "mono")
    driving = driving_audio(path).shifted(later_s)
    heard = read_audio(joined(tmp_path, driving))
    for samples in (driving.for_model, heard):
        assert abs(np.abs(samples).argmax() - (1 + later_s) * 16_000) <= 16
    with pytest.raises(ValueError, match="--audio-offset -5000 leaves nothing of an audio of 3"):
        driving_audio(path).shifted(-5)


@pytest.mark.parametrize(
    ("codec", "suffix", "layout", "source_bits", "written", "channel_bits"),
    [
        ("pcm_s16le", "wav", "5.1", None, "5.1", 128_000),
        ("pcm_s16le", "wav", "stereo", None, "stereo", 128_000),
        ("mp2", "mp2", "stereo", 96_000, "stereo", 96_000),
        ("mp2", "mp2", "mono", 32_000, "mono", 64_000),
    ],
)
def test_encoded_audio_keeps_its_channels_at_a_rate_that_suits_it(
    tmp_path, codec, suffix, layout, source_bits, written, channel_bits
):
    channels = av.AudioLayout(layout).nb_channels
    noise = 0.3 * np.random.default_rng(0).standard_normal((channels, 96_000))
    driving = driving_audio(write_audio(tmp_path / f"a.{suffix}", codec, noise, 48_000, layout, source_bits))
    assert (driving.copied(), driving.layout, driving.channel_bits) == (False, written, channel_bits)
    with av.open(str(joined(tmp_path, driving))) as container:
        stream = container.streams.audio[0]
        assert stream.codec_context.layout.name == written
        n_bits = 8 * sum(packet.size for packet in container.demux(stream))
    assert n_bits / 2 == pytest.approx(channel_bits * channels, rel=0.3)


def test_a_mov_holds_the_samples_of_a_wav(tmp_path):
    tones = two_tones(96_000, 48_000)
    driving = driving_audio(write_audio(tmp_path / "a.wav", "pcm_s24le", tones, 48_000, "stereo"))
    assert not driving.copied(".mp4") and driving.copied(".mov")
    with VideoWriter(tmp_path / "part.mov", 25, 64, 64, codec="prores") as writer:
        for _ in range(50):
            writer.write(np.zeros((64, 64, 3), np.uint8))
    out = tmp_path / "out.mov"
    join([tmp_path / "part.mov"], out, FrameClock.of(Fraction(25)), driving.track(2.0, ".mov"))
    again = read_channels(out, 48_000, "stereo")
    assert again.shape == tones.shape and np.abs(again - tones).max() < 1e-6


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_become_silence_and_are_told(tmp_path, value):
    with av.open(str(tmp_path / "bad.wav"), "w") as container:
        stream = container.add_stream("pcm_f32le", rate=16_000, layout="mono")
        samples = np.zeros((1, 16_000), np.float32)
        samples[0, 500] = value
        frame = av.AudioFrame.from_ndarray(samples, "flt", "mono")
        frame.sample_rate, frame.time_base, frame.pts = 16_000, Fraction(1, 16_000), 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    driving = driving_audio(tmp_path / "bad.wav")
    assert np.isfinite(driving.for_model).all() and not driving.copied()
    assert driving.notes[0] == "bad.wav: damaged pieces of audio replaced by silence: 1"


def two_tones(n: int, rate_hz: int) -> np.ndarray:
    """float32 [2, n]: another loud tone on each side."""
    at = 2 * np.pi * np.arange(n) / rate_hz
    return (0.9 * np.sin([300 * at, 500 * at])).astype(np.float32)


def test_stereo_is_heard_as_its_mean_and_written_in_stereo(tmp_path):
    rate_hz, tones = 44_100, two_tones(88_200, 44_100)
    with wave.open(str(tmp_path / "speech.wav"), "wb") as file:
        file.setparams((2, 2, rate_hz, 0, "NONE", ""))
        file.writeframes((tones.T * 32767).astype(np.int16).tobytes())
    driving = driving_audio(tmp_path / "speech.wav")
    written = np.concatenate(list(driving.pieces(rate_hz, "stereo")), axis=1)
    assert (driving.copied(), driving.layout, driving.rate_hz) == (False, "stereo", rate_hz)
    assert np.abs(written - tones).max() < 1e-4
    mean = two_tones(32_000, 16_000).mean(0)
    assert np.abs(driving.for_model[200:-200] - mean[200:-200]).max() < 0.01
    joined(tmp_path, driving)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.audio[0].codec_context.channels == 2
    again = read_channels(tmp_path / "out.mp4", rate_hz, "stereo")
    assert all(np.corrcoef(a[2000:80_000], b[2000:80_000])[0, 1] > 0.99 for a, b in zip(again, tones, strict=True))
    start = read_channels(tmp_path / "out.mp4", rate_hz, "stereo", max_s=0.5)
    assert start.shape == (2, 22_050) and (start == again[:, :22_050]).all()
    of_video = driving_audio(tmp_path / "out.mp4")
    assert of_video.copied() and of_video.layout == "stereo"
    assert np.abs(of_video.for_model[2000:30_000]).max() <= 0.95  # a sum would clip
