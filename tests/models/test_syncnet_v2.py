"""The published SyncNet: keys, embeddings, distances and offset of golden/syncnet_v2, and what a wrong file says."""

import json
import wave
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from latentsync.audio.mfcc import mfcc
from latentsync.models import syncnet_v2
from latentsync.sync import curves
from tests import hashed_syncnet


def both(net, frames, coefficients, windows):
    return syncnet_v2.embed_frames(net, frames, windows), syncnet_v2.embed_audio(net, coefficients, windows)


@pytest.fixture(scope="module")
def folder(golden):
    return golden("syncnet_v2")


@pytest.fixture(scope="module")
def clip(folder):
    """(frames, coefficients, windows) of the golden clip."""
    frames = np.stack([cv2.imread(str(path)) for path in sorted((folder / "frames").glob("*.png"))])
    with wave.open(str(folder / "audio_16k.wav")) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), np.int16)
    return frames, mfcc(samples), min(len(frames), len(samples) // 640) - 5


@pytest.fixture(scope="module")
def net(folder):
    """The net of the golden run."""
    state = hashed_syncnet.state_dict(folder)
    check = json.loads((folder / "info.json").read_text())["hash_check"]
    assert check
    for key, (*first, total) in check.items():
        values = state[key].double().flatten()
        np.testing.assert_allclose(values[:4], first, rtol=1e-6)
        assert float(values.sum()) == pytest.approx(total, rel=1e-5, abs=1e-3)
    net = syncnet_v2.SyncNetV2()
    net.load_state_dict(state)
    return net.eval()


@pytest.fixture(scope="module")
def embeddings(net, clip):
    """(image, sound) of the golden clip."""
    return both(net, *clip)


@torch.inference_mode()
def test_towers_are_golden_before_their_heads(folder, net, clip):
    wanted = load_file(folder / "outputs.safetensors")
    frames, coefficients, windows = clip
    info = json.loads((folder / "info.json").read_text())
    assert (len(frames), list(coefficients.shape), windows) == (info["frames"], info["mfcc_shape"], info["windows"])
    lips = net.lip_features(torch.from_numpy(frames[:5]).permute(3, 0, 1, 2)[None].float())
    sound = net.audio_features(torch.from_numpy(coefficients[:, :20]).float()[None, None])
    np.testing.assert_allclose(lips[0], wanted["lip_cnn_first_window"], atol=2e-3)
    np.testing.assert_allclose(sound[0], wanted["aud_cnn_first_window"], atol=2e-3)


def test_keys_and_size(folder):
    wanted = json.loads((folder / "keys_full.json").read_text())
    net = syncnet_v2.SyncNetV2()
    assert {key: list(value.shape) for key, value in net.state_dict().items()} == wanted
    assert sum(p.numel() for p in net.parameters()) == 13_631_616


def test_embeddings_are_golden(folder, embeddings):
    wanted = load_file(folder / "outputs.safetensors")
    np.testing.assert_allclose(embeddings[0], wanted["video_embed"], atol=2e-3)
    np.testing.assert_allclose(embeddings[1], wanted["audio_embed"], atol=2e-3)


def test_distances_offset_and_confidence_are_golden(folder, embeddings):
    wanted = load_file(folder / "outputs.safetensors")
    real = json.loads((folder / "info.json").read_text())["real_net"]
    np.testing.assert_allclose(curves.distances(*embeddings, 15)[::-1].T, wanted["dist_matrix"], atol=1e-3)
    means = curves.mean_distances(*embeddings, 15)
    np.testing.assert_allclose(means[::-1], wanted["mean_dist"], atol=1e-3)
    assert means.min() == pytest.approx(real["min_dist"], abs=1e-3)
    offset, confidence = curves.peak(curves.distance_curve(*embeddings, 15))
    assert offset == real["offset"]
    assert confidence == pytest.approx(real["conf"], abs=1e-3)


def test_embeddings_do_not_depend_on_the_chunks(monkeypatch):
    torch.manual_seed(0)
    net = syncnet_v2.SyncNetV2().eval()
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (12, 224, 224, 3), np.uint8)
    coefficients = mfcc(1000 * rng.standard_normal(12 * 640))
    whole = both(net, frames, coefficients, 7)
    monkeypatch.setattr(syncnet_v2, "CHUNK_WINDOWS", 3)
    for one, other in zip(whole, both(net, frames, coefficients, 7), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("zipped", [False, True])
def test_the_published_file_has_no_counters_of_batches(net, clip, tmp_path, zipped):
    """It was written before torch saved them: 88 entries."""
    state = {key: value for key, value in net.state_dict().items() if "num_batches" not in key}
    assert len(state) == 88
    path = tmp_path / "syncnet_v2.model"
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    loaded = syncnet_v2.load(path)
    for one, other in zip(both(loaded, *clip[:2], 3), both(net, *clip[:2], 3), strict=True):
        np.testing.assert_array_equal(one, other)
    del state["netcnnlip.1.running_var"]  # no batch norm of the file: its counter is missing, too
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"2 missing \(netcnnlip\.\*\.running_var, netcnnlip\.\*\.num_batches"):
        syncnet_v2.load(path)


def test_a_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"syncnet_v2\.model does not exist"):
        syncnet_v2.load(tmp_path / "syncnet_v2.model")


def test_a_file_of_something_else_is_one_sentence(tmp_path):
    path = tmp_path / "other.model"
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match=r"does not fit the network.*: 102 missing .*; 1 unexpected \(weight\)"):
        syncnet_v2.load(path)


def test_code_in_a_pickle_is_not_run(tmp_path):
    path = tmp_path / "evil.model"
    torch.save(Path("anything"), path)
    with pytest.raises(ValueError, match=r"evil\.model .*contains more than tensors"):
        syncnet_v2.load(path)
