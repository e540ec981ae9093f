"""What counts as speech: voices do, at any level and with music under them; music, tones, noise and silence do not."""

import os
import subprocess
import sys

import numpy as np
import pytest
from scipy.signal import butter, lfilter, sosfilt

from latentsync.audio import speech
from latentsync.audio.speech import FRAME_SAMPLES, Speech
from latentsync.audio.vad import voiced
from latentsync.media.audio import read_audio
from latentsync.synthetic.voice import speak

RATE_HZ = 16_000
N = 5 * RATE_HZ
TIME_S = np.arange(N) / RATE_HZ
# Talkers that the network takes for people; of others it takes as little as nothing, since they say no words.
TALKERS = ((56, 130, 0.85), (64, 180, 0.85))


@pytest.fixture(scope="module")
def listener():
    return Speech()


def talker(number: int, duration_s: float = 4.0) -> np.ndarray:
    seed, pitch_hz, tract = TALKERS[number]
    return speak(np.random.default_rng(seed), duration_s, pitch_hz, tract).audio


def at_level(audio: np.ndarray) -> np.ndarray:
    return (audio * 0.1 / audio.std()).clip(-1, 1).astype(np.float32)


def chords() -> np.ndarray:
    """Four chords of notes with eight harmonics that fade, as of a piano."""
    audio = np.zeros(N)
    for number, root_hz in enumerate((220, 175, 131, 196)):
        since_s = np.maximum(TIME_S - 1.25 * number, 0)
        for note_hz in root_hz * 2 ** (np.array([0, 4, 7]) / 12):
            for k in range(1, 9):
                tone = np.sin(2 * np.pi * k * note_hz * since_s) * np.exp(-since_s * (1.5 + k / 2))
                audio += (since_s > 0) * (since_s < 1.25) * tone / k
    return audio


def plucked() -> np.ndarray:
    """A tune on a plucked string (Karplus and Strong 1983)."""
    rng, notes = np.random.default_rng(1), []
    for half_tones in rng.integers(0, 13, 20):
        period = round(RATE_HZ / (220 * 2 ** (half_tones / 12)))
        burst = np.zeros(N // 20)
        burst[:period] = rng.uniform(-1, 1, period)
        notes.append(lfilter([1], [1, *np.zeros(period - 1), -0.498, -0.498], burst))
    return np.concatenate(notes)


def applause() -> np.ndarray:
    """Thirty people who clap three times a second."""
    rng, audio = np.random.default_rng(2), np.zeros(N)
    for _ in range(30):
        for at in np.cumsum(rng.normal(RATE_HZ / 3, 300, 15)).astype(int):
            audio[at : at + 400] += (rng.standard_normal(400) * np.exp(-np.arange(400) / 100))[: max(0, N - at)]
    return sosfilt(butter(2, (700, 3500), "bandpass", fs=RATE_HZ, output="sos"), audio)


NO_SPEECH = {
    "chords": chords,
    "tune": plucked,
    "both": lambda: at_level(chords()) + at_level(plucked()),
    "tone": lambda: np.sin(2 * np.pi * 440 * TIME_S),
    "noise": lambda: np.random.default_rng(3).standard_normal(N),
    "applause": applause,
}


@pytest.mark.parametrize("name", NO_SPEECH)
def test_music_tones_and_noise_are_no_speech_although_webrtc_hears_a_voice(listener, name):
    audio = at_level(NO_SPEECH[name]())
    assert listener.share(audio) < 0.05
    assert voiced(audio, 480).mean() > 0.8


@pytest.mark.parametrize("number", range(len(TALKERS)))
def test_a_voice_is_speech_at_any_level_and_over_music(listener, number):
    voice = talker(number)
    share = listener.share(voice)
    assert 0.7 < share <= 1 and share == listener.share(voice)  # nothing is remembered from call to call
    assert listener.share(voice * np.float32(10 ** (-50 / 20))) == pytest.approx(share, abs=0.01)
    music = at_level(chords())[: len(voice)] * (voice.std() / 0.1)
    assert listener.share(voice + music * np.float32(10 ** (-10 / 20))) > 0.5


def test_half_a_speech_is_half_a_share(listener):
    voice = talker(0)
    later = listener.share(np.concatenate([np.zeros_like(voice), voice]))
    assert later == pytest.approx(listener.share(voice) / 2, abs=0.06)


def test_a_click_does_not_set_the_level(listener):
    voice = talker(0) * np.float32(0.01)
    clicked = voice.copy()
    clicked[-1] = 1  # elsewhere it would be heard within the voice
    assert listener.share(clicked) == pytest.approx(listener.share(voice), abs=0.06)


def test_silence_hum_and_hiss_are_no_speech(listener):
    assert listener.share(np.zeros(N)) == listener.share(np.zeros(1)) == listener.share(np.zeros(0)) == 0
    assert listener.share(0.3 * np.sin(2 * np.pi * 100 * TIME_S)) < 0.05
    assert listener.share(0.003 * np.random.default_rng(0).standard_normal(N)) < 0.05
    assert listener.probabilities(np.zeros(0)).shape == (0,)
    assert listener.probabilities(np.zeros(FRAME_SAMPLES)).shape == (1,)
    assert listener.probabilities(np.zeros(FRAME_SAMPLES + 1)).shape == (2,)


def test_blocks_of_frames_join_without_a_trace(listener, monkeypatch):
    whole = listener.probabilities(talker(0))
    monkeypatch.setattr(speech, "FRAMES_AT_ONCE", 7)
    assert np.allclose(listener.probabilities(talker(0)), whole, atol=1e-6)


@pytest.mark.slow  # torch
def test_probabilities_are_those_of_the_package(listener):
    import torch
    from silero_vad import load_silero_vad

    n_threads = torch.get_num_threads()  # the package sets it to 1
    try:
        model = load_silero_vad()
        audio = np.concatenate([talker(0), at_level(chords()), talker(1)[:1000]])
        wanted = model.audio_forward(torch.from_numpy(audio), RATE_HZ)[0].numpy()
    finally:
        torch.set_num_threads(n_threads)
    assert wanted.min() < 0.05 and wanted.max() > 0.95
    assert np.allclose(listener.probabilities(audio), wanted, atol=1e-4)


def test_the_package_is_not_imported_and_nor_is_torch():
    code = (
        "import sys, numpy\nfrom latentsync.audio.speech import Speech\n"
        "assert Speech().share(numpy.zeros(16000)) == 0\n"
        "assert not {'torch', 'silero_vad'} & set(sys.modules), 'imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0 and done.stderr == "", done.stderr


def test_a_missing_package_stops_the_step(monkeypatch):
    """An error of an import is none of a file's content (ledger/content.py)."""
    monkeypatch.setattr(speech, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="No module named 'silero_vad'"):
        Speech()


@pytest.mark.parametrize("name", ["ls_demo1.mp4", "talkvid_tys.mp4", "vrt3.mp4"])
def test_people_speak(listener, clips, name):
    audio = read_audio(clips / name)
    share = listener.share(audio)
    assert share > 0.8
    quiet = (np.round(audio * 10 ** (-40 / 20) * 32768) / 32768).astype(np.float32)  # as 16 bits hold it
    assert listener.share(quiet) == pytest.approx(share, abs=0.05)
    music = np.resize(at_level(chords()), len(audio)) * (audio.std() / 0.1)
    assert listener.share((audio + music).astype(np.float32)) > 0.5  # as loud as the voice
