"""StableSyncNet against tensors and key lists of the published one (golden/stable_syncnet)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from latentsync import timing
from latentsync.config import SyncNetEncoder, TrainSyncnet
from latentsync.models import syncnet
from latentsync.models.syncnet import StableSyncNet, build
from latentsync.training import losses
from latentsync.weights.files import load_strictly

PARAMETERS_M = {"16_pixel_attn": 401.31, "16_pixel": 371.77, "16_latent": 65.54}


@pytest.mark.parametrize("name, keys", [("16_pixel_attn", 266), ("16_pixel", 178), ("16_latent", 144)])
def test_full_size_has_the_published_keys_and_shapes(golden, name, keys):
    published = json.loads((golden("stable_syncnet") / f"keys_full_syncnet_{name}.json").read_text())
    with torch.device("meta"):
        net = syncnet.build_published(name)
    own = {key: list(value.shape) for key, value in net.state_dict().items()}
    assert own == published and len(own) == keys
    assert sum(value.numel() for value in net.parameters()) / 1e6 == pytest.approx(PARAMETERS_M[name], abs=0.01)


def test_the_page_of_models_shows_how_inputs_shrink():
    page = (Path(__file__).parents[2] / "docs/models.md").read_text()
    for name, published in syncnet.PUBLISHED.items():
        sound = (80, timing.mel_width(published.frames))
        for side, size in ((published.visual, published.size), (published.audio, sound)):
            path = syncnet.sizes(size, side.downsample_factors)
            assert path[-1] == (1, 1) and " -> ".join(f"{h}x{w}" for h, w in path) in page, name


@given(st.integers(2, 300), st.integers(2, 300), st.integers(2, 6), st.sampled_from(["n", "1n", "n1"]))
def test_a_block_shrinks_as_the_page_says(h, w, n, kind):
    factor = {"n": (n, n), "1n": (1, n), "n1": (n, 1)}[kind]
    told = (h if kind == "1n" else (h - 2) // n + 1, w if kind == "n1" else (w - 2) // n + 1)
    assert syncnet.sizes((h, w), [factor])[1] == told
    block = syncnet.ResnetBlock(2, 2, factor, 0.0)
    assert block(torch.zeros(1, 2, h, w)).shape[2:] == told


def test_the_defaults_of_training_are_the_published_net():
    published, own = syncnet.PUBLISHED["16_pixel_attn"], TrainSyncnet()
    assert (own.visual, own.audio, own.frames) == (published.visual, published.audio, published.frames)


def pixels():
    """The image input of the golden run, by the formula of its README."""
    b, c, y, x = np.meshgrid(np.arange(2.0), np.arange(48.0), np.arange(128.0), np.arange(256.0), indexing="ij")
    v = 0.6 * np.sin(0.13 * x + 0.07 * y * (1 + 0.02 * c) + 0.7 * c + 1.9 * b)
    v += 0.3 * np.cos(0.011 * x * y / 8 + 0.31 * c * (1 + b)) + 0.1 * np.sin(2.1 * x + 1.3 * y + 0.5 * c)
    return torch.from_numpy(v.astype(np.float32))


def test_the_visual_input_is_that_of_the_golden_run(golden):
    check = json.loads((golden("stable_syncnet") / "info.json").read_text())["visual_pixel_check"]
    values = pixels()
    assert list(values.shape) == check["shape"] and check["samples"]
    for place, expected in check["samples"].items():
        assert float(values[tuple(json.loads(place))]) == pytest.approx(expected, abs=1e-6)
    assert float(values.double().sum()) == pytest.approx(check["sum_float64"], abs=1e-2)


@pytest.mark.parametrize("name, noise", [("pixel_attn", 1e-2), ("latent", 1e-3)])
def test_outputs_and_gradients(golden, name, noise):
    folder = golden("stable_syncnet")
    inputs, outputs = load_file(folder / "inputs.safetensors"), load_file(folder / "outputs.safetensors")
    info = json.loads((folder / "info.json").read_text())
    shape = info["small_config"][name]
    net = StableSyncNet(SyncNetEncoder(**shape["visual_encoder"]), SyncNetEncoder(**shape["audio_encoder"])).eval()
    state = load_file(folder / f"weights_{name}.safetensors")
    load_strictly(net, {key: value.float() for key, value in state.items()}, "golden")

    seen = {}
    modules = dict(net.named_modules())
    expected_inside = {key.removeprefix(f"mid.{name}."): key for key in outputs if key.startswith(f"mid.{name}.")}
    shapes = {key.removeprefix(f"{name}."): size for key, size in info["feature_shapes"][name].items()}
    assert expected_inside and expected_inside.keys() <= shapes.keys()
    for path in shapes:
        module = modules[path.replace(".out", ".norm_out")]
        module.register_forward_hook(lambda _m, _i, output, path=path: seen.__setitem__(path, output.detach()))
    # In double precision: in single, the order in which a CPU sums moved one of 128 values by 2.2e-5.
    net.double()
    visual = (pixels() if name == "pixel_attn" else inputs["visual_latent"]).double().requires_grad_()
    vision, audio = (embedding.float() for embedding in net(visual, inputs["audio"].double()))
    assert {path: list(value.shape) for path, value in seen.items()} == shapes
    for path, key in expected_inside.items():
        actual = seen[path].relu() if path.endswith(".out") else seen[path]
        assert (actual - outputs[key]).abs().max() <= 1e-4 * outputs[key].abs().max(), path

    torch.testing.assert_close(vision, outputs[f"{name}.vision_embeds"], atol=2e-5, rtol=0)
    torch.testing.assert_close(audio, outputs[f"{name}.audio_embeds"], atol=2e-5, rtol=0)
    torch.testing.assert_close(losses.cosine(vision, audio), outputs[f"{name}.cosine"], atol=2e-5, rtol=0)
    mean = losses.sync(vision, audio, inputs["y"])
    torch.testing.assert_close(mean, outputs[f"{name}.loss_mean"], atol=2e-5, rtol=0)
    each = torch.stack([losses.sync(vision[i : i + 1], audio[i : i + 1], inputs["y"][i]) for i in range(2)])
    torch.testing.assert_close(each, outputs[f"{name}.loss_per_sample"], atol=2e-5, rtol=0)
    ones = losses.sync(vision, audio, torch.ones(2))
    torch.testing.assert_close(ones, outputs[f"{name}.loss_mean_all_ones"], atol=2e-5, rtol=0)
    ones.backward()
    block = outputs[f"{name}.grad_visual_block"]
    gradient = visual.grad[0, : len(block), :8, :8]
    # The stored gradient carries rounding noise: between two versions of torch upstream's own block of pixel_attn moved
    # by 0.34 % of its maximum and the norm by 0.17 %; of latent, by 0.02 %.
    torch.testing.assert_close(gradient.float(), block, atol=noise * float(block.abs().max()), rtol=0)
    norm = info["results"][name]["grad_norm_wrt_visual_input"]
    assert float(visual.grad.norm()) == pytest.approx(norm, rel=noise / 2)


def small(**changes):
    visual = {"in_channels": 48, "block_out_channels": (16, 32, 64), "attn_blocks": (False, True, False)}
    visual |= {"downsample_factors": ((2, 4), 4, 4)}
    audio = {"in_channels": 1, "block_out_channels": (16, 32, 64), "attn_blocks": (False, False, False)}
    audio |= {"downsample_factors": ((5, 4), 4, (4, 3))}
    return TrainSyncnet(**({"resolution": 64, "visual": visual, "audio": audio} | changes))


def test_a_narrow_net_gives_unit_vectors_without_negative_components():
    net = build(small())
    for embedding in net(torch.randn(3, 48, 32, 64), torch.randn(3, 1, 80, 52)):
        assert embedding.shape == (3, 64) and embedding.min() >= 0
        torch.testing.assert_close(embedding.norm(dim=1), torch.ones(3))


def test_a_shape_that_does_not_end_at_one_pixel_is_refused_with_its_way():
    with pytest.raises(ValueError, match=r"64x128 -> 32x32 -> 8x8 -> 2x2"):
        build(small(resolution=128))
    with pytest.raises(ValueError, match=r"80x52 -> 20x13 -> 5x3 -> 5x3;"):
        build(small(audio=small().audio.model_copy(update={"downsample_factors": (4, 4, 1)})))


def test_other_refusals():
    with pytest.raises(ValueError, match="in_channels is 48, but 5 RGB frames have 15"):
        build(small(frames=5))
    with pytest.raises(ValueError, match="end 64 and 32 wide"):
        build(small(audio=small().audio.model_copy(update={"block_out_channels": (16, 32, 32)})))
    with pytest.raises(ValueError, match="have 3, 2 and 3 entries"):
        build(small(visual=small().visual.model_copy(update={"downsample_factors": (2, 2)})))


def test_25_frames_run():
    """Upstream's syncnet_25_pixel.yaml lacks attn_blocks and fails; with them it is a good net of 25 frames."""
    torch.manual_seed(0)
    published = syncnet.PUBLISHED["25_pixel"]
    halved = {}
    for name in ("visual", "audio"):
        shape = getattr(published, name)
        widths = tuple(width // 8 for width in shape.block_out_channels)
        halved[name] = shape.model_copy(update={"block_out_channels": widths})
    net = build(TrainSyncnet(frames=25, **halved))
    for embedding in net(torch.randn(2, 75, 128, 256), torch.randn(2, 1, 80, 80)):
        torch.testing.assert_close(embedding.norm(dim=1), torch.ones(2))
    with torch.device("meta"):
        full = syncnet.build_published("25_pixel")
    assert len(full.state_dict()) == 162


def test_published_files_are_known_by_their_shapes(tmp_path, monkeypatch):
    """At an eighth of the widths, since the real ones have gigabytes."""
    narrow = {}
    for name, published in syncnet.PUBLISHED.items():
        encoders = []
        for shape in (published.visual, published.audio):
            widths = tuple(max(8, width // 8) for width in shape.block_out_channels)
            encoders.append(shape.model_copy(update={"block_out_channels": widths}))
        narrow[name] = syncnet.Published(*encoders, published.size, published.frames)
    monkeypatch.setattr(syncnet, "PUBLISHED", narrow)
    torch.manual_seed(0)
    for name in ("16_pixel_attn", "16_pixel", "25_pixel"):
        state = syncnet.build_published(name).state_dict()
        torch.save({"global_step": 1, "state_dict": state}, tmp_path / f"{name}.pt")
        net, cfg = syncnet.load(tmp_path / f"{name}.pt")
        assert (cfg.visual, cfg.frames, net.training) == (narrow[name].visual, narrow[name].frames, False)
        assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    torch.save({"state_dict": syncnet.build_published("16_latent").state_dict()}, tmp_path / "latent.pt")
    with pytest.raises(ValueError, match="is the published 16_latent, which takes latents"):
        syncnet.load(tmp_path / "latent.pt")
    torch.save({"state_dict": build(small()).state_dict()}, tmp_path / "own.pt")
    with pytest.raises(ValueError, match="has the shapes of no published StableSyncNet .*whose input is 16 RGB frames"):
        syncnet.load(tmp_path / "own.pt")
    torch.save({"state_dict": {"conv_in.weight": torch.zeros(2)}}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other\.pt has the shapes of no published StableSyncNet"):
        syncnet.load(tmp_path / "other.pt")
