"""Whisper features against upstream's (golden/audio), windows of tokens, and what the embedded encoder hears."""

import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from latentsync import timing
from latentsync.audio import whisper
from latentsync.audio.whisper import WhisperFeatures, build, tokens_at, window_tokens
from latentsync.weights import layouts

WEIGHTS = "whisper_tiny_random_encoder.safetensors"


@pytest.fixture(scope="module")
def audio(golden):
    return {key: value.numpy() for key, value in load_file(golden("audio") / "outputs.safetensors").items()}


@pytest.fixture(scope="module")
def encoder(golden):
    return whisper.load_whisper(golden("audio") / WEIGHTS, heads=6)


def test_features_and_windows(audio, encoder, speech):
    features = WhisperFeatures(encoder).features(speech)
    np.testing.assert_allclose(features, audio["whisper_feature"], atol=1e-4)
    for frame in (0, 1, 20, 76):
        [tokens] = window_tokens(audio["whisper_feature"], frame, 1)
        assert (tokens == audio[f"whisper_window_frame{frame}"]).all()


def test_the_last_state_is_taken_before_the_norm(audio, encoder, speech):
    last = torch.from_numpy(WhisperFeatures(encoder).features(speech)[:, -1])
    after = encoder.layer_norm(last).detach().numpy()
    np.testing.assert_allclose(after, audio["whisper_ln_post_out_first150"], atol=1e-4)
    assert np.abs(last.numpy() - after).max() > 3


def test_rows_of_every_listed_window(golden):
    info = json.loads((golden("audio") / "info.json").read_text())
    assert len(info["window_row_indices"]) == 11
    numbered = np.broadcast_to(np.arange(info["T"])[:, None, None], (info["T"], 5, 1))
    for frame, rows in info["window_row_indices"].items():
        centre = timing.whisper_rows(np.array([int(frame) / 25]))
        assert timing.whisper_window(centre, info["T"]).tolist() == [rows]
        [tokens] = window_tokens(numbered, int(frame), 1)
        assert tokens.ravel().tolist() == np.repeat(rows, 5).tolist()
    assert [*window_tokens(numbered, 7, 16).shape[:2], 48] == info["window_clip_from_7_shape"]


def test_odd_lengths_give_as_many_rows_as_published(golden, encoder, speech):
    rule = json.loads((golden("audio") / "info.json").read_text())["length_rule"]
    assert len(rule) == 7
    for n, lengths in rule.items():
        assert len(WhisperFeatures(encoder).features(np.resize(speech, int(n)))) == lengths["T"]


def test_published_pieces_of_30_s(audio, encoder, speech):
    features = WhisperFeatures(encoder, "published").features(np.tile(speech, 11))
    assert len(features) == 1650
    for first, stop in ((0, 4), (1496, 1504), (1646, 1650)):
        expected = audio[f"tiled33s_feature_rows_{first}_{stop}"]
        np.testing.assert_allclose(features[first:stop], expected, atol=1e-4)


def test_overlapping_windows_leave_no_jump(encoder, speech):
    """At 30 s published features jump; blended ones go on as if nothing were there."""
    long = np.tile(speech, 11)
    jumps = {}
    for chunking in ("published", "overlap"):
        features = WhisperFeatures(encoder, chunking).features(long)
        assert len(features) == 1650
        # The sound repeats every 150 rows: a seam is what differs from one repetition to the next, step by step.
        steps = np.abs(np.diff(features, axis=0)).mean(axis=(1, 2))
        jumps[chunking] = steps[1499] / np.median(steps[np.arange(1499 - 3 * 150, 1499, 150)])
    assert jumps["published"] > 1.5 and jumps["overlap"] < 1.2


@pytest.mark.parametrize("columns", [0, 1, 2999, 3000, 3001, 4000, 4999, 5001, 5002, 17_333])
@pytest.mark.parametrize("chunking", ["overlap", "published"])
def test_windows_cover_every_row_once(columns, chunking):
    total = np.zeros(columns // 2)
    for start, weight in whisper._windows(columns, chunking):
        assert start % 2 == 0 and len(weight) <= 1500
        total[start // 2 : start // 2 + len(weight)] += weight
    np.testing.assert_allclose(total, 1, atol=1e-6)


@pytest.mark.parametrize("chunking", ["overlap", "published"])
def test_rows_are_computed_when_asked_for_in_any_order(embedded, chunking):
    """Bit for bit the sum over all windows, while few windows are held."""
    samples = np.random.default_rng(0).normal(size=105 * 16_000).astype(np.float32)
    features, encoded = WhisperFeatures(embedded.encoder, chunking), []
    encode = features.encode
    features.encode = lambda logmel: encoded.append(logmel) or encode(logmel)
    logmel, rows = whisper.whisper_logmel(samples), features.rows(samples)
    assert len(rows) == 5250 and not encoded
    expected = np.zeros(rows.shape, np.float32)
    for start, weight in whisper._windows(logmel.shape[1], chunking):
        piece = encode(logmel[:, start : start + whisper.CHUNK_COLUMNS]).numpy()[: len(weight)]
        expected[start // 2 : start // 2 + len(weight)] += weight[:, None, None] * piece
    forward = [np.arange(first, first + 100) for first in range(0, 5250, 350)]
    for asked in [*forward, np.array([[3, 3], [5000, 1]])]:
        assert np.array_equal(rows[asked].numpy(), expected[asked])
    n_windows, n_encoded = len(rows.windows), len(encoded)
    assert n_windows <= n_encoded <= n_windows + 2 and rows.encoded.cache_info().currsize <= whisper.KEPT
    there_and_back = [np.arange(first, first + 30) for first in (1300, 1400, 1500, 1400, 1300, 1400, 1500)]
    for asked in there_and_back:
        rows[asked]
    assert len(encoded) <= n_encoded + whisper.KEPT
    tokens = tokens_at(rows, np.array([0, 2600, 5249]))
    assert np.array_equal(tokens.numpy(), tokens_at(expected, np.array([0, 2600, 5249])))


def test_tokens_of_a_tensor_are_those_of_an_array():
    features = np.random.default_rng(0).normal(size=(31, 5, 6)).astype(np.float32)
    array, tensor = window_tokens(features, 3, 16), window_tokens(torch.from_numpy(features), 3, 16)
    assert array.shape == (16, 50, 6) and np.array_equal(tensor.numpy(), array)
    assert np.array_equal(array[2], window_tokens(features, 5, 1)[0])
    token = 3 * 5 + 2  # third row after the first, state 2
    assert np.array_equal(array[4][token], features[2 * (3 + 4) - 4 + 3, 2])
    at_50_fps = tokens_at(features, timing.whisper_rows(np.arange(20) / 50))
    assert np.array_equal(at_50_fps[10], window_tokens(features, 5, 1)[0])


def hugging_face_names(state):
    names = {"attn.query": "self_attn.q_proj", "attn.key": "self_attn.k_proj", "attn.value": "self_attn.v_proj"}
    names |= {"attn.out": "self_attn.out_proj", "attn_ln": "self_attn_layer_norm", "mlp.0": "fc1", "mlp.2": "fc2"}
    names |= {"mlp_ln": "final_layer_norm", "ln_post": "layer_norm", "positional_embedding": "embed_positions.weight"}
    result = {}
    for key, value in state.items():
        key = re.sub(r"blocks\.(\d+)", r"layers.\1", key)
        for old, new in names.items():
            key = re.sub(rf"(?<=\.){re.escape(old)}(?=\.|$)", new, key)
        result[f"model.{key}"] = value
    return result


def test_openai_and_hugging_face_files_give_the_same_encoder(golden, encoder, tmp_path):
    state = load_file(golden("audio") / WEIGHTS)
    torch.save(
        {"dims": {"n_mels": 80}, "model_state_dict": state | {"decoder.x": torch.zeros(1)}}, tmp_path / "tiny.pt"
    )
    folder = tmp_path / "whisper-tiny"
    folder.mkdir()
    save_file(hugging_face_names(state) | {"model.decoder.x": torch.zeros(1)}, folder / "model.safetensors")
    for path in (tmp_path / "tiny.pt", folder):
        loaded = whisper.load_whisper(path, heads=6).state_dict()
        assert all(torch.equal(value, loaded[key]) for key, value in encoder.state_dict().items())


def test_whisper_small_loads_and_gives_thirteen_states(golden, tmp_path):
    """Twelve blocks of 768 in the published file; two of them here. 64 channels a head, as in every published size."""
    torch.manual_seed(0)
    own = whisper.WhisperEncoder(whisper._config(768, 2, 12)).state_dict()
    torch.save(hugging_face_keys_of(own), tmp_path / "pytorch_model.bin")
    loaded = whisper.load_whisper(tmp_path)
    assert loaded.config.encoder_attention_heads == 12
    assert all(torch.equal(value, own[key]) for key, value in loaded.state_dict().items())
    assert WhisperFeatures(loaded).features(np.zeros(3200, np.float32)).shape == (10, 3, 768)
    wide = dict(hugging_face_keys_of(own)) | {"model.encoder.conv1.weight": torch.zeros(768, 128, 3)}
    torch.save(wide, tmp_path / "large.pt")
    with pytest.raises(ValueError, match=r"large\.pt is a Whisper with 128 mel bands"):
        whisper.load_whisper(tmp_path / "large.pt")


def hugging_face_keys_of(state):
    return {f"model.encoder.{key}": value for key, value in state.items()}


def test_the_real_tiny_encoder_has_the_published_shapes(golden):
    published = json.loads((golden("audio") / "keys_full_whisper_tiny_encoder.json").read_text())
    with torch.device("meta"):
        state = {key: torch.empty(shape) for key, shape in published.items()}
        net = whisper.WhisperEncoder(whisper._config(384, 4, 6))
    expected = {key: value.shape for key, value in layouts.whisper_encoder_state(state).items()}
    assert {key: value.shape for key, value in net.state_dict().items()} == expected


def test_missing_weights_are_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTSYNC_WEIGHTS", str(tmp_path))
    with pytest.raises(ValueError, match="whisper/tiny.pt is missing"):
        build("whisper")
    with pytest.raises(ValueError, match="model.safetensors does not exist"):
        build("whisper", path=tmp_path)


# --- the embedded encoder -------------------------------------------------------------------------------------------


def babble(seed, seconds=4.0):
    """Syllables of a buzzing voice, and how loud it is at every 20 ms."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * 16_000)) / 16_000
    loud = np.clip(np.sin(2 * np.pi * 3.1 * t + rng.uniform(0, 6)) + 0.4 * np.sin(2 * np.pi * 1.3 * t), 0, None)
    pitch_hz = rng.uniform(100, 200)
    voice = sum(np.sin(2 * np.pi * pitch_hz * k * t) / k for k in range(1, 30))
    samples = (0.1 * loud * voice + 0.001 * rng.normal(size=len(t))).astype(np.float32)
    return samples, loud[::320]


@pytest.fixture(scope="module")
def embedded():
    return build("embedded", width=48, layers=4)


def test_embedded_is_the_same_every_time_and_leaves_randomness_alone(embedded):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    again, other = build("embedded", width=48, layers=4), build("embedded", width=48, layers=4, seed=1)
    assert torch.equal(before, torch.random.get_rng_state())
    samples, _ = babble(0, 1.0)
    features = embedded.features(samples)
    assert features.shape == (50, 5, 48) and features.dtype == np.float32
    assert np.array_equal(features, again.features(samples))
    assert not np.allclose(features, other.features(samples), atol=0.1)


def test_embedded_states_vary_in_time_like_numbers_of_order_one(embedded):
    features = embedded.features(babble(0)[0])
    spread = features.std(axis=0).mean(axis=-1)
    assert spread.shape == (5,) and (spread > 0.3).all() and (spread < 2).all()


def test_embedded_carries_loudness_to_new_audio(embedded):
    """A linear reading of state 0, fitted on one sound, follows another."""

    def rows(seed):
        samples, loud = babble(seed)
        features = embedded.features(samples)
        return np.c_[features[:, 0], np.ones(len(features))], loud

    x, y = rows(0)
    reading = np.linalg.lstsq(x.T @ x + np.eye(x.shape[1]), x.T @ y, rcond=None)[0]
    for seed in (1, 2):
        x, y = rows(seed)
        assert np.corrcoef(x @ reading, y)[0, 1] > 0.9


def test_embedded_does_not_tell_where_in_the_clip_it_is(embedded):
    """The same sound 1.2 s later gives the same first state, and nearly the same last one (attention sees the rest)."""
    samples, _ = babble(3, 2.0)
    silence = np.zeros(19_200, np.float32)
    early = embedded.features(np.concatenate([samples, silence, silence]))[5:95]
    late = embedded.features(np.concatenate([silence, samples, silence]))[65:155]
    np.testing.assert_allclose(early[:, 0], late[:, 0], atol=1e-3)
    assert np.abs(early[:, -1] - late[:, -1]).mean() < 0.02 * early[:, -1].std()
