"""What is cached equals what would be computed; it is computed once, and again when anything under it changes."""

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from latentsync.config import ExtractFeatures, TrainVae
from latentsync.faces.crop import to_pixels
from latentsync.faces.mask import keep_mask
from latentsync.ledger.files import read_ledger, write_ledger
from latentsync.models import vae as vaes
from latentsync.steps import extract_features
from latentsync.training.clips import ClipStore
from tests import toys

CFG = ExtractFeatures(audio_encoder="embedded", width=16, layers=1, vae="embedded", batch_size=16, torch_threads=1)


def write_vae(path, seed=0):
    torch.manual_seed(seed)
    vaes.save(path, vaes.build(TrainVae(block_out_channels=(8, 8, 8, 8))), scaling_factor=0.5)
    return path


@pytest.fixture
def run(tmp_path):
    folder = toys.run_folder(tmp_path, n_frames=34, each=1)
    inputs = toys.ledgers(folder, "train", "val", "test", "sources") | {"vae": [write_vae(folder / "vae.safetensors")]}
    return folder, inputs, {"ledger": folder / "extract_features/00000.jsonl"}


def test_features_are_what_the_models_say(run):
    folder, inputs, outputs = run
    extract_features.run(CFG, inputs, outputs, None)
    rows = read_ledger(outputs["ledger"])
    assert sorted(row["split"] for row in rows) == ["test"] + ["train"] * 4 + ["val"]
    row = rows[0]
    assert row["audio_encoder"] == {"backend": "embedded", "weights": None, "width": 16, "layers": 1}
    features = load_file(folder / row["features_file"])
    shapes = {name: array.shape for name, array in features.items()}
    assert shapes == {
        "mel": (80, 1 + 34 * 640 // 200), "whisper": (68, 2, 16), "face_moments": (34, 8, 8, 8),
        "masked_moments": (34, 8, 8, 8),
    }  # fmt: skip
    clips = ClipStore([row], folder)
    assert np.array_equal(features["mel"], clips.mel(0))
    vae = vaes.load(inputs["vae"][0])
    pixels = to_pixels(clips.frames(0, 20, 21)).swapaxes(0, 1)
    for name, shown in (("face_moments", pixels), ("masked_moments", pixels * keep_mask(64))):
        moments = vaes.encode_moments(vae, torch.from_numpy(shown.copy()))[0].numpy()
        assert np.allclose(features[name][20], moments, atol=2e-3)
    assert not np.allclose(features["face_moments"], features["masked_moments"], atol=1e-2)


def test_a_second_run_computes_nothing_and_writes_the_same(run, monkeypatch):
    _, inputs, outputs = run
    extract_features.run(CFG, inputs, outputs, None)
    before = outputs["ledger"].read_bytes()
    outputs["ledger"].unlink()
    monkeypatch.setattr(extract_features, "_Extractor", lambda *_: pytest.fail("everything is there already"))
    extract_features.run(CFG, inputs, outputs, None)
    assert outputs["ledger"].read_bytes() == before


@pytest.mark.parametrize("change", ["vae", "encoder", "offset", "crop"])
def test_a_change_below_makes_new_files(run, change):
    folder, inputs, outputs = run
    extract_features.run(CFG, inputs, outputs, None)
    before = {row["id"]: row["features_file"] for row in read_ledger(outputs["ledger"])}
    cfg = CFG
    ledger = inputs["test"][0]
    (row,) = read_ledger(ledger)
    if change == "vae":
        write_vae(inputs["vae"][0], seed=1)
    elif change == "encoder":
        cfg = CFG.model_copy(update={"width": 32})
    elif change == "offset":
        write_ledger(ledger, [row | {"offset_frames": 5}])
    else:
        other = read_ledger(inputs["val"][0])[0]["crop_file"]
        (folder / row["crop_file"]).write_bytes((folder / other).read_bytes())
    extract_features.run(cfg, inputs, outputs, None)
    after = {row["id"]: row["features_file"] for row in read_ledger(outputs["ledger"])}
    changed = {key for key in before if before[key] != after[key]}
    assert changed == (set(before) if change in ("vae", "encoder") else {row["id"]})
    assert all((folder / file).exists() for file in (*before.values(), *after.values())), "old files stay"


def test_shards_share_the_clips_among_them(run):
    folder, inputs, outputs = run
    extract_features.run(CFG, inputs, outputs, None)
    whole = read_ledger(outputs["ledger"])
    parts = []
    for shard, rows in enumerate((whole[:2], whole[2:])):
        sources, ledger = folder / f"sources/{shard}.jsonl", folder / f"extract_features/{shard}.jsonl"
        write_ledger(sources, [{"id": row["source_id"]} for row in rows])
        extract_features.run(CFG, inputs | {"sources": [sources]}, {"ledger": ledger}, None)
        parts.append(read_ledger(ledger))
    assert parts == [whole[:2], whole[2:]]


def test_published_weights_that_are_missing_are_named(run, monkeypatch, tmp_path):
    _, inputs, outputs = run
    monkeypatch.setenv("LATENTSYNC_WEIGHTS", str(tmp_path))
    with pytest.raises(ValueError, match="extract_features.vae: published"):
        extract_features.run(CFG, inputs | {"vae": []}, outputs, None)
    with pytest.raises(ValueError, match="extract_features.audio_encoder: whisper"):
        extract_features.run(CFG.model_copy(update={"audio_encoder": "whisper"}), inputs, outputs, None)
