"""What counts as speech: voices do, silence, hum and hiss do not."""

import numpy as np
import pytest

from latentsync.audio.vad import FRAME_SAMPLES, speech_share
from latentsync.media.audio import read_audio
from latentsync.synthetic.voice import speak


@pytest.mark.parametrize("seed", range(4))
def test_talkers_speak_most_of_the_time(seed):
    voice = speak(np.random.default_rng(seed), 5.0, 100 + 30 * seed, 1.0)
    assert 0.5 < speech_share(voice.audio) <= 1


def test_half_a_speech_is_half_a_share():
    voice = speak(np.random.default_rng(0), 4.0, 120, 1.0).audio
    whole, half = speech_share(voice), speech_share(np.concatenate([np.zeros_like(voice), voice]))
    assert half == pytest.approx(whole / 2, abs=0.06)


def test_silence_hum_and_quiet_hiss_are_no_speech():
    time = np.arange(48_000) / 16_000
    assert speech_share(np.zeros(48_000)) == 0
    assert speech_share(0.3 * np.sin(2 * np.pi * 100 * time)) < 0.1
    assert speech_share(0.003 * np.random.default_rng(0).standard_normal(48_000)) < 0.1
    assert speech_share(np.zeros(FRAME_SAMPLES - 1)) == speech_share(np.zeros(0)) == 0


@pytest.mark.parametrize("name", ["ls_demo1.mp4", "talkvid_tys.mp4", "vrt3.mp4"])
def test_people_speak(clips, name):
    sound = read_audio(clips / name)
    assert speech_share(sound) > 0.8
    assert speech_share(sound) == speech_share(sound)  # nothing is remembered from call to call
