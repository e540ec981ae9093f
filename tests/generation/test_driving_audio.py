"""What is written beside the image: its own packets where an mp4 can hold them, whatever their decoder is called."""

import wave

import av
import numpy as np
import pytest

from latentsync.generation.audio import driving_audio
from latentsync.media.audio import read_channels
from latentsync.media.probe import probe_media
from latentsync.media.write import VideoWriter
from tests.videos import clicks, write_video


@pytest.mark.parametrize(
    ("codec", "container", "copied"), [("aac", "mp4", True), ("libmp3lame", "mp4", True), ("pcm_s16le", "mov", False)]
)
def test_own_audio_is_copied_where_an_mp4_can_hold_it(tmp_path, codec, container, copied):
    source = write_video(
        tmp_path / f"own.{container}", audio=clicks(2, [1.0], 44_100), audio_codec=codec, audio_layout="stereo"
    )
    driving = driving_audio(source, own=True)
    assert (driving.copied_from == source) is copied and (driving.written is None) is copied
    assert driving_audio(source).copied_from is None
    if copied:
        with VideoWriter(tmp_path / "copy.mp4", 25, 64, 64, copy_audio_from=source) as writer:
            for _ in range(50):
                writer.write(np.zeros((64, 64, 3), np.uint8))
        assert probe_media(tmp_path / "copy.mp4").audio_rate_hz == 44_100


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
    assert np.abs(driving.written - tones).max() < 1e-4
    mean = two_tones(32_000, 16_000).mean(0)
    assert np.abs(driving.for_model[200:-200] - mean[200:-200]).max() < 0.01
    with VideoWriter(tmp_path / "out.mp4", 25, 64, 64, audio=driving.written, audio_rate_hz=rate_hz) as writer:
        for _ in range(50):
            writer.write(np.zeros((64, 64, 3), np.uint8))
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.audio[0].codec_context.channels == 2
    again = read_channels(tmp_path / "out.mp4", rate_hz, "stereo")
    assert all(np.corrcoef(a[2000:80_000], b[2000:80_000])[0, 1] > 0.99 for a, b in zip(again, tones, strict=True))
    start = read_channels(tmp_path / "out.mp4", rate_hz, "stereo", max_s=0.5)
    assert start.shape == (2, 22_050) and (start == again[:, :22_050]).all()
    of_video = driving_audio(tmp_path / "out.mp4")
    assert of_video.written.shape == again.shape
    assert np.abs(of_video.for_model[2000:30_000]).max() <= 0.95  # a sum would clip
