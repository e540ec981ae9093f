"""Log-mels against upstream's (golden/audio) and against librosa."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from latentsync import timing
from latentsync.audio.mel import mel_filters, syncnet_mel, whisper_logmel


@pytest.fixture(scope="module")
def audio(golden):
    return load_file(golden("audio") / "outputs.safetensors")


def test_filters(audio):
    np.testing.assert_allclose(mel_filters(800, 55, 7600), audio["mel_basis_80x401"], atol=1e-7)
    np.testing.assert_allclose(mel_filters(400, 0, 8000), audio["whisper_mel_filters"], atol=1e-7)


def test_syncnet_mel_and_its_windows(audio, speech):
    mel = syncnet_mel(speech)
    assert mel.dtype == np.float32
    np.testing.assert_allclose(mel, audio["syncnet_mel"], atol=1e-4)
    for frame in (0, 1, 7, 20):
        start = timing.mel_start(frame)
        window = mel[:, start : start + timing.mel_width(16)]
        golden = audio[f"syncnet_window_frame{frame}"]
        np.testing.assert_allclose(window[None], golden, atol=1e-4)
        assert (audio["syncnet_mel"][None, :, start : start + timing.mel_width(16)] == golden).all()


@pytest.mark.parametrize("frames", [16, 25])
def test_windows_start_and_end_where_the_published_ones_do(golden, audio, frames):
    table = json.loads((golden("audio") / "info.json").read_text())[f"windows_F{frames}"]
    assert timing.mel_width(frames) == table["length"] and len(table["starts"]) == 60
    assert {frame: timing.mel_start(int(frame)) for frame in table["starts"]} == table["starts"]
    for frame, shape in table["shapes"].items():  # short near the end
        start = timing.mel_start(int(frame))
        assert audio["syncnet_mel"][None, :, start : start + timing.mel_width(frames)].shape == tuple(shape)


def test_lengths_are_the_published_ones(golden, speech):
    rule = json.loads((golden("audio") / "info.json").read_text())["length_rule"]
    assert len(rule) == 7
    for n, lengths in rule.items():
        samples = np.resize(speech, int(n))
        assert syncnet_mel(samples).shape == (80, lengths["mel_cols"])
        assert whisper_logmel(samples).shape == (80, lengths["logmel_cols"])


def test_whisper_logmel(audio, speech):
    logmel = whisper_logmel(speech)
    assert logmel.dtype == np.float32
    np.testing.assert_allclose(logmel, audio["whisper_logmel"], atol=1e-4)


def test_long_audio_is_computed_in_blocks_without_seams(speech):
    """Whisper's and SyncNet's columns far behind the first block equal those of a short piece around them."""
    long = np.tile(speech, 25)  # 75 s: 7500 Whisper columns, 6000 SyncNet columns
    mel, logmel = syncnet_mel(long), whisper_logmel(long)
    assert mel.shape == (80, 6001) and logmel.shape == (80, 7500)
    second = slice(240 * 17 + 5, 240 * 17 + 235)  # across column 4096
    np.testing.assert_allclose(mel[:, second], mel[:, 245:475], atol=1e-5)
    np.testing.assert_allclose(logmel[:, 300 * 13 + 5 : 300 * 13 + 295], logmel[:, 305:595], atol=1e-5)


@pytest.mark.parametrize("n", [0, 1, 159, 160, 199, 200, 401, 16159])
def test_lengths_and_finiteness(n):
    samples = np.random.default_rng(n).normal(size=n).astype(np.float32) * 0.1
    assert syncnet_mel(samples).shape == (80, 1 + n // 200)
    assert whisper_logmel(samples).shape == (80, n // 160)
    assert np.isfinite(syncnet_mel(samples)).all() and np.isfinite(whisper_logmel(samples)).all()


def test_silence_lies_at_the_floor():
    assert (syncnet_mel(np.zeros(16000)) == -4).all()
    assert (whisper_logmel(np.zeros(16000)) == -1.5).all()


def test_librosa_and_torch_agree():
    """Filters of librosa, spectra of torch: nothing of ours but the recipe."""
    import librosa.filters
    import torch

    samples = np.random.default_rng(0).normal(size=24_011) * np.linspace(0, 0.3, 24_011)

    def magnitude(signal, n_fft, hop, mode):
        window = torch.hann_window(n_fft, dtype=torch.float64)
        signal = torch.from_numpy(signal)
        return torch.stft(signal, n_fft, hop, window=window, pad_mode=mode, return_complex=True).abs().numpy()

    basis = librosa.filters.mel(sr=16_000, n_fft=800, n_mels=80, fmin=55, fmax=7600)
    emphasised = np.append(samples[0], samples[1:] - 0.97 * samples[:-1])
    decibel = 20 * np.log10(np.maximum(1e-5, basis @ magnitude(emphasised, 800, 200, "constant"))) - 20
    np.testing.assert_allclose(syncnet_mel(samples), np.clip(8 * (decibel + 100) / 100 - 4, -4, 4), atol=1e-5)

    basis = librosa.filters.mel(sr=16_000, n_fft=400, n_mels=80)
    log = np.log10(np.maximum(1e-10, basis @ magnitude(samples, 400, 160, "reflect")[:, :-1] ** 2))
    np.testing.assert_allclose(whisper_logmel(samples), (np.maximum(log, log.max() - 8) + 4) / 4, atol=1e-5)
