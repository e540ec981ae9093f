"""What is written beside the picture: its own packets where an mp4 can hold them, whatever their decoder is called."""

import numpy as np
import pytest

from latentsync.lipsync.sounds import sound_of
from latentsync.media.probe import probe_media
from latentsync.media.write import VideoWriter
from tests.videos import clicks, write_video


@pytest.mark.parametrize(
    ("codec", "container", "copied"), [("aac", "mp4", True), ("libmp3lame", "mp4", True), ("pcm_s16le", "mov", False)]
)
def test_own_sound_is_copied_where_an_mp4_can_hold_it(tmp_path, codec, container, copied):
    source = write_video(
        tmp_path / f"own.{container}", sound=clicks(2, [1.0], 44_100), sound_codec=codec, sound_layout="stereo"
    )
    sound = sound_of(source, own=True)
    assert (sound.copied_from == source) is copied and (sound.written is None) is copied
    assert sound_of(source).copied_from is None
    if copied:
        with VideoWriter(tmp_path / "copy.mp4", 25, 64, 64, copy_audio_from=source) as writer:
            for _ in range(50):
                writer.write(np.zeros((64, 64, 3), np.uint8))
        assert probe_media(tmp_path / "copy.mp4").audio_rate_hz == 44_100
