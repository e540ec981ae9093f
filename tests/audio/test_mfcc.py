"""The coefficients of python_speech_features, by golden numbers and by what they must do."""

import wave

import numpy as np
import pytest
from safetensors.numpy import load_file

from latentsync.audio.mfcc import mel_filters, mfcc


def test_mfcc_is_golden(golden):
    folder = golden("syncnet_v2")
    with wave.open(str(folder / "audio_16k.wav")) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), np.int16)
    wanted = load_file(folder / "outputs.safetensors")["mfcc"]
    np.testing.assert_allclose(mfcc(samples), wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("samples", "columns"), [(1, 1), (400, 1), (401, 2), (560, 2), (561, 3), (16000, 99)])
def test_columns(samples, columns):
    result = mfcc(np.random.default_rng(0).standard_normal(samples) * 1000)
    assert result.shape == (13, columns)
    assert np.isfinite(result).all()


def test_digital_silence_is_finite():
    assert np.isfinite(mfcc(np.zeros(16000))).all()


def test_filters_are_triangles_that_follow_each_other():
    filters = mel_filters()
    assert filters.shape == (26, 257)
    assert (filters.max(axis=1) == 1).all()
    assert (np.diff(filters.argmax(axis=1)) > 0).all()
