"""What WebRTC's detector takes for a voice: talkers, not silence, hum and hiss; music and loud noise, too."""

import numpy as np
import pytest

from latentsync.audio.vad import voiced
from latentsync.media.audio import read_audio
from latentsync.synthetic.voice import speak

FRAME_SAMPLES = 480


@pytest.mark.parametrize("seed", range(4))
def test_talkers_speak_most_of_the_time(seed):
    voice = speak(np.random.default_rng(seed), 5.0, 100 + 30 * seed, 1.0)
    assert 0.5 < voiced(voice.audio, FRAME_SAMPLES).mean() <= 1


def test_half_a_speech_is_half_a_share():
    voice = speak(np.random.default_rng(0), 4.0, 120, 1.0).audio
    later = voiced(np.concatenate([np.zeros_like(voice), voice]), FRAME_SAMPLES)
    assert later.mean() == pytest.approx(voiced(voice, FRAME_SAMPLES).mean() / 2, abs=0.06)


def test_silence_hum_and_quiet_hiss_are_no_voice():
    time = np.arange(48_000) / 16_000
    assert not voiced(np.zeros(48_000), FRAME_SAMPLES).any()
    assert voiced(0.3 * np.sin(2 * np.pi * 100 * time), FRAME_SAMPLES).mean() < 0.1
    assert voiced(0.003 * np.random.default_rng(0).standard_normal(48_000), FRAME_SAMPLES).mean() < 0.1
    assert len(voiced(np.zeros(FRAME_SAMPLES - 1), FRAME_SAMPLES)) == len(voiced(np.zeros(0), FRAME_SAMPLES)) == 0


@pytest.mark.parametrize("name", ["ls_demo1.mp4", "talkvid_tys.mp4", "vrt3.mp4"])
def test_people_speak(clips, name):
    sound = read_audio(clips / name)
    found = voiced(sound, FRAME_SAMPLES)
    assert found.mean() > 0.8
    assert np.array_equal(found, voiced(sound, FRAME_SAMPLES))  # nothing is remembered from call to call
