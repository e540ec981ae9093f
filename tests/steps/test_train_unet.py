"""Both stages of the U-Net: windows, four losses and their gradients, what trains, what resumes, what is refused."""

import csv

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState

from latentsync.config import (
    ExtractFeatures,
    LossWeights,
    SyncNetEncoder,
    TrainSyncnet,
    TrainUnetStage1,
    TrainUnetStage2,
    TrainVae,
    UNetShape,
)
from latentsync.ledger.files import read_ledger
from latentsync.models import syncnet
from latentsync.models import vae as vaes
from latentsync.steps import extract_features, train_unet
from latentsync.training import loop
from latentsync.training.data import draw_windows, window
from latentsync.weights import files as weight_files
from tests import toys

ON_CPU = {"mixed_precision": "no", "torch_threads": 1}
STAGE1 = TrainUnetStage1(
    **ON_CPU, steps=6, batch_size=2, learning_rate=3e-3, log_every=2, save_every=2, frames=8, condition_dropout=0.3,
    init=None, unet=UNetShape(block_out_channels=(16, 32), layers_per_block=1, attention_heads=2, norm_groups=8),
)  # fmt: skip
STAGE2 = TrainUnetStage2(
    **ON_CPU, steps=3, batch_size=2, learning_rate=1e-3, log_every=1, save_every=2, frames=8, teachers="embedded"
)
SYNCNET = TrainSyncnet(
    frames=8, resolution=32,
    visual=SyncNetEncoder(
        in_channels=24, block_out_channels=(8, 8, 8, 8, 128), downsample_factors=((1, 2), 2, 2, 2, 2),
        attn_blocks=(False,) * 5,
    ),
    audio=SyncNetEncoder(
        in_channels=1, block_out_channels=(8, 8, 8, 8, 8, 128),
        downsample_factors=((2, 1), 2, 2, 2, 2, (2, 1)), attn_blocks=(False,) * 6,
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run folder as it stands before the U-Net: features of toys, an untrained VAE and an untrained SyncNet."""
    folder = toys.run_folder(tmp_path_factory.mktemp("run"), n_frames=24, each=1)
    torch.manual_seed(0)
    vaes.save(folder / "vae.safetensors", vaes.build(TrainVae(block_out_channels=(8, 8, 8, 8))), scaling_factor=2.0)
    net = syncnet.build(SYNCNET)
    weight_files.save(folder / "syncnet.safetensors", net.state_dict(), SYNCNET.model_dump(mode="json"))
    cfg = ExtractFeatures(audio_encoder="embedded", width=16, layers=1, vae="embedded", torch_threads=1)
    inputs = toys.ledgers(folder, "train", "val", "test", "sources") | {"vae": [folder / "vae.safetensors"]}
    extract_features.run(cfg, inputs, {"ledger": folder / "extract_features/00000.jsonl"}, None)
    return folder


def run(folder, cfg, name, **inputs):
    outputs = {"weights": folder / name / "unet.safetensors", "curve": folder / name / "curve.csv"}
    given = {"features": [folder / "extract_features/00000.jsonl"], "vae": [folder / "vae.safetensors"]}
    if isinstance(cfg, TrainUnetStage2):
        given |= {"syncnet": [folder / "syncnet.safetensors"], "stage1": [folder / "stage1/unet.safetensors"]}
    train_unet.run(cfg, given | {key: [path] for key, path in inputs.items()}, outputs, None)
    return outputs


def curve(outputs):
    return list(csv.DictReader(outputs["curve"].open()))


@pytest.fixture(scope="module")
def stage1(folder):
    return run(folder, STAGE1, "stage1")


@pytest.fixture(scope="module")
def stage2(folder, stage1):
    return run(folder, STAGE2, "stage2")


@pytest.fixture(params=[pytest.param("fp16", marks=pytest.mark.needs_cuda), "bf16"])
def half(request):
    """A mixed precision; accelerate takes only one in the life of a process unless its state is reset."""
    AcceleratorState._reset_state()
    yield {"mixed_precision": request.param}
    AcceleratorState._reset_state()


def data_of(folder, cfg, step="train_unet_stage2"):
    rows = read_ledger(folder / "extract_features/00000.jsonl")
    return train_unet.read_data(cfg, step, rows, folder, folder / "vae.safetensors")


@pytest.mark.parametrize("n_frames", [16, 17, 23, 24, 40])
def test_a_reference_never_overlaps_its_window(n_frames):
    seen = set()
    for seed in range(300):
        start, reference = draw_windows(n_frames, 8, np.random.default_rng(seed))
        assert 0 <= start <= n_frames - 8 and 0 <= reference <= n_frames - 8 and abs(start - reference) >= 8
        seen.add(start)
    allowed = {s for s in range(n_frames - 7) if any(abs(s - r) >= 8 for r in range(n_frames - 7))}
    assert seen == allowed


def test_a_window_is_aligned_in_all_its_arrays(folder):
    features = data_of(folder, STAGE2).train
    item = window(features, 0, 3, 14, 8)
    shapes = {name: array.shape for name, array in item.items()}
    assert shapes == {
        "face": (8, 8, 8, 8), "masked": (8, 8, 8, 8), "reference": (8, 8, 8, 8), "audio": (8, 20, 16),
        "mel": (1, 80, 26),
    }  # fmt: skip
    assert np.array_equal(item["face"], features.array(0, "face_moments")[3:11].astype(np.float32))
    assert np.array_equal(item["reference"], features.array(0, "face_moments")[14:22].astype(np.float32))
    whisper = features.array(0, "whisper").astype(np.float32)
    assert np.array_equal(item["audio"][2].reshape(10, 2, 16), whisper[2 * 5 - 4 : 2 * 5 + 6]), (
        "rows around frame 3 + 2"
    )
    assert np.array_equal(item["mel"][0], features.array(0, "mel")[:, 80 * 3 // 25 : 80 * 3 // 25 + 26])


def test_stage_1_learns_and_says_what_it_is(stage1):
    rows = curve(stage1)
    assert [row["step"] for row in rows] == ["2", "4", "6"]
    assert float(rows[0]["recon"]) == pytest.approx(1, abs=0.1), "the last convolution starts at zero"
    assert float(rows[-1]["val_recon"]) < float(rows[0]["val_recon"])
    tensors, metadata = weight_files.load(stage1["weights"])
    assert not any("motion_modules" in name for name in tensors)
    assert metadata["config"]["motion"] == "none" and metadata["config"]["cross_attention_dim"] == 16
    assert (metadata["stage"], metadata["frames"], metadata["resolution"]) == (1, 8, 64)
    assert metadata["scaling_factor"] == 2.0
    assert metadata["audio_encoder"] == {"backend": "embedded", "weights": None, "width": 16, "layers": 1}


def test_an_interrupted_stage_1_ends_with_the_same_bytes(folder, stage1, monkeypatch):
    whole = train_unet.window

    def interrupted(*args):
        interrupted.calls += 1
        if interrupted.calls == 2 * 5:
            raise KeyboardInterrupt
        return whole(*args)

    interrupted.calls = 0
    monkeypatch.setattr(train_unet, "window", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(folder, STAGE1.model_copy(update={"save_every": 1}), "again")
    monkeypatch.setattr(train_unet, "window", whole)
    outputs = run(folder, STAGE1.model_copy(update={"save_every": 1}), "again")
    assert outputs["weights"].read_bytes() == stage1["weights"].read_bytes()


def test_stage_2_logs_four_losses_and_their_gradients(stage2):
    rows = curve(stage2)
    assert [row["step"] for row in rows] == ["1", "2", "3"]
    for row in rows:
        for name in ("recon", "sync", "lpips", "trepa"):
            assert float(row[name]) > 0
            assert float(row[f"grad_{name}"]) > 0, f"{name} must pull at the U-Net's output"
        total = sum(float(row[name]) * weight for name, weight in LossWeights().model_dump().items())
        assert float(row["loss"]) == pytest.approx(total, rel=1e-3)


def test_half_precision_trains_with_every_loss(folder, stage1, half):
    name = half["mixed_precision"]
    rows = curve(run(folder, STAGE1.model_copy(update=half | {"steps": 2}), f"stage1 {name}"))
    assert float(rows[0]["recon"]) == pytest.approx(1, abs=0.1)
    for row in curve(run(folder, STAGE2.model_copy(update=half | {"steps": 2}), f"stage2 {name}")):
        for loss in ("recon", "sync", "lpips", "trepa"):
            assert 0 < float(row[loss]) < 100 and 0 < float(row[f"grad_{loss}"]) < 100


def test_stage_2_trains_only_what_it_says(stage1, stage2):
    before, after = (weight_files.load(outputs["weights"])[0] for outputs in (stage1, stage2))
    assert weight_files.metadata(stage2["weights"])["config"]["motion"] == "all"
    assert any("motion_modules" in name for name in after)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all("attentions." in name for name in changed)
    moved = [name for name in after if name.endswith("temporal_transformer.proj_out.weight") and after[name].any()]
    assert moved, "motion modules start as the identity and must have moved"


def test_motion_modules_change_nothing_at_first(folder, stage1):
    joined = train_unet.continued_unet(STAGE2, stage1["weights"])
    tensors, metadata = weight_files.load(stage1["weights"])
    alone = train_unet.UNet3D(train_unet.UNetConfig(**metadata["config"]))
    alone.load_state_dict(tensors)
    sample, audio = torch.randn(1, 13, 8, 8, 8), torch.randn(1, 8, 20, 16)
    assert torch.equal(joined(sample, torch.tensor([500]), audio), alone(sample, torch.tensor([500]), audio))


def losses_of(folder, cfg, told, monkeypatch=None, t=None):
    data = data_of(folder, cfg)
    decoded = train_unet.decoded_losses(cfg, folder / "syncnet.safetensors", data)
    losses = train_unet.UnetLosses(data, decoded, cfg)
    items = [
        train_unet._items(cfg, data.train, folder)(n, np.random.default_rng(n)) | {"conditioned": np.float32(value)}
        for n, value in enumerate(told)
    ]
    batch = {name: torch.from_numpy(np.stack([item[name] for item in items])) for name in items[0]}
    if t is not None:
        monkeypatch.setattr(train_unet.torch, "randint", lambda *_, **__: torch.tensor(t))
    unet = train_unet.continued_unet(cfg, folder / "stage1/unet.safetensors")
    context = loop.Context(torch.device("cpu"), torch.Generator().manual_seed(0))
    return losses(unet, batch, context)


def test_decoded_losses_act_where_x0_means_something_and_the_audio_was_given(folder, stage1, monkeypatch):
    low = STAGE2.model_copy(update={"max_timestep": 400})
    names = {"recon", "sync", "lpips", "trepa"}
    assert set(losses_of(folder, low, [1, 1], monkeypatch, [100, 900])) == names
    assert set(losses_of(folder, low, [1, 1], monkeypatch, [401, 900])) == {"recon"}
    assert set(losses_of(folder, low, [0, 1], monkeypatch, [100, 900])) == {"recon"}
    assert set(losses_of(folder, low, [0, 1], monkeypatch, [900, 400])) == names


def test_only_active_items_count(folder, stage1, monkeypatch):
    low = STAGE2.model_copy(update={"max_timestep": 400})
    both = losses_of(folder, low, [1, 1], monkeypatch, [100, 900])
    one = losses_of(folder, low, [1, 0], monkeypatch, [100, 300])
    assert both["lpips"].item() == pytest.approx(one["lpips"].item(), rel=1e-4)


def test_a_weight_of_zero_switches_a_loss_off(folder, stage1):
    off = STAGE2.model_copy(update={"losses": LossWeights(sync=0, trepa=0)})
    assert set(losses_of(folder, off, [1, 1])) == {"recon", "lpips"}


def test_null_audio_is_zeros(folder, stage1):
    """Told or not is the only difference between items, and not told means zero tokens, as in generation."""
    data = data_of(folder, STAGE1, "train_unet_stage1")
    heard = []

    def unet(sample, t, audio):
        heard.append(audio)
        return sample[:, :4]

    item = train_unet._items(STAGE1, data.train, None)
    items = [item(n, np.random.default_rng(n)) for n in range(40)]
    share = 1 - np.mean([item["conditioned"] for item in items])
    assert 0.1 < share < 0.5
    batch = {name: torch.from_numpy(np.stack([item[name] for item in items[:8]])) for name in items[0]}
    context = loop.Context(torch.device("cpu"), torch.Generator().manual_seed(0))
    train_unet.UnetLosses(data, None, STAGE1)(unet, batch, context)
    assert [bool(audio.any()) for audio in heard[0]] == [bool(value) for value in batch["conditioned"]]


def test_refusals_are_one_sentence(folder, stage1, tmp_path):
    with pytest.raises(
        ValueError, match=r"Too little data for train_unet_stage1: 0 of 4 clips have the 26 frames .* 24\)"
    ):
        run(folder, STAGE1.model_copy(update={"frames": 13}), "no")
    with pytest.raises(ValueError, match=r"another VAE than .*run extract_features again"):
        vaes.save(tmp_path / "v.safetensors", vaes.build(TrainVae(block_out_channels=(8, 8, 8, 8))), 1.0)
        run(folder, STAGE1, "no", vae=tmp_path / "v.safetensors")
    with pytest.raises(ValueError, match=r"frames is 6, but SyncNet was trained on windows of 8"):
        run(folder, STAGE2.model_copy(update={"frames": 6}), "no")
    with pytest.raises(ValueError, match=r"trainable is \['nothing'\].*nothing would be trained"):
        run(folder, STAGE2.model_copy(update={"trainable": ("nothing",)}), "no")
