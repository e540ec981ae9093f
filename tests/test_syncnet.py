"""StableSyncNet against tensors and key lists of the published one (golden/stable_syncnet)."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from latentsync.config import SyncNetEncoder, TrainSyncnet
from latentsync.models.syncnet import StableSyncNet, build
from latentsync.models.weights import load_strictly
from latentsync.ops import losses

NONE = (False,) * 8
PIXEL_VISUAL = SyncNetEncoder(
    in_channels=48,
    block_out_channels=(64, 128, 256, 256, 512, 1024, 2048, 2048),
    downsample_factors=((1, 2), 2, 2, 2, 2, 2, 2, 2),
    attn_blocks=NONE,
)
PIXEL_AUDIO = SyncNetEncoder(
    in_channels=1,
    block_out_channels=(32, 64, 128, 256, 512, 1024, 2048),
    downsample_factors=((2, 1), 2, 2, 1, 2, 2, (2, 3)),
    attn_blocks=NONE[:7],
)
LATENT_VISUAL = SyncNetEncoder(
    in_channels=64,
    block_out_channels=(64, 128, 256, 256, 512, 1024),
    downsample_factors=(2, 2, 2, 1, 2, 2),
    attn_blocks=NONE[:6],
)
LATENT_AUDIO = SyncNetEncoder(
    in_channels=1,
    block_out_channels=(32, 64, 128, 256, 512, 1024),
    downsample_factors=((2, 1), 2, 2, 2, 2, (2, 3)),
    attn_blocks=NONE[:6],
)


def full(name):
    with torch.device("meta"):
        if name == "syncnet_16_pixel_attn":
            return build(TrainSyncnet())  # the defaults are the published net
        if name == "syncnet_16_pixel":
            return StableSyncNet(PIXEL_VISUAL, PIXEL_AUDIO, (128, 256), 16)
        return StableSyncNet(LATENT_VISUAL, LATENT_AUDIO, (32, 32), 16)


@pytest.mark.parametrize("name, keys", [("16_pixel_attn", 266), ("16_pixel", 178), ("16_latent", 144)])
def test_full_size_has_the_published_keys_and_shapes(golden, name, keys):
    published = json.loads((golden("stable_syncnet") / f"keys_full_syncnet_{name}.json").read_text())
    own = {key: list(value.shape) for key, value in full(f"syncnet_{name}").state_dict().items()}
    assert own == published and len(own) == keys


def pixels():
    """The picture input of the golden run, by the formula of its README."""
    b, c, y, x = np.meshgrid(np.arange(2.0), np.arange(48.0), np.arange(128.0), np.arange(256.0), indexing="ij")
    v = 0.6 * np.sin(0.13 * x + 0.07 * y * (1 + 0.02 * c) + 0.7 * c + 1.9 * b)
    v += 0.3 * np.cos(0.011 * x * y / 8 + 0.31 * c * (1 + b)) + 0.1 * np.sin(2.1 * x + 1.3 * y + 0.5 * c)
    return torch.from_numpy(v.astype(np.float32))


def test_the_picture_input_is_that_of_the_golden_run(golden):
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
    visual = (pixels() if name == "pixel_attn" else inputs["visual_latent"]).requires_grad_()
    vision, audio = net(visual, inputs["audio"])
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
    torch.testing.assert_close(gradient, block, atol=noise * float(block.abs().max()), rtol=0)
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


def test_25_frames_can_be_built():
    """Upstream's syncnet_25_pixel.yaml lacks attn_blocks and fails; with them it is a good net of 25 frames."""
    visual = SyncNetEncoder(
        in_channels=75,
        block_out_channels=(128, 128, 256, 256, 512, 512, 1024, 1024),
        downsample_factors=PIXEL_VISUAL.downsample_factors,
        attn_blocks=NONE,
    )
    audio = SyncNetEncoder(
        in_channels=1,
        block_out_channels=(64, 128, 256, 256, 512, 1024),
        downsample_factors=(2,) * 6,
        attn_blocks=NONE[:6],
    )
    with torch.device("meta"):
        build(TrainSyncnet(frames=25, visual=visual, audio=audio))
