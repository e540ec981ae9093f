"""The U-Net against tensors and key lists of the published one (golden/unet_tiny)."""

import json

import pytest
import torch
from safetensors.torch import load_file

from latentsync.config import TrainUnetStage2
from latentsync.models.unet import (
    ClipNorm,
    FrameNorm,
    PositionTable,
    TransformerBlock,
    UNet3D,
    UNetConfig,
    without_copies,
)
from latentsync.weights.files import load_strictly

TINY = {"block_out_channels": (32, 64, 96, 96), "cross_attention_dim": 48}
NARROW = UNetConfig(block_out_channels=(16, 24), cross_attention_dim=12, attention_heads=2, norm_groups=8)


class Tiny:
    """The golden net, its inputs and its outputs."""

    def __init__(self, folder):
        self.weights = {key: value.float() for key, value in load_file(folder / "weights.safetensors").items()}
        self.inputs = load_file(folder / "inputs.safetensors")
        self.outputs = load_file(folder / "outputs.safetensors")
        self.inner = load_file(folder / "intermediates_f5.safetensors")
        self.info = json.loads((folder / "info.json").read_text())

    def net(self, motion="all"):
        net = UNet3D(UNetConfig(**TINY, motion=motion))
        own = net.state_dict()
        return load_strictly(net, {key: self.weights[key] for key in own}, "golden").eval()

    def run(self, net, frames=16, audio="audio_f16"):
        tokens = None if audio is None else self.inputs["audio_f16"] if audio == "audio_f16" else audio
        tokens = None if tokens is None else tokens[:, :frames]
        return net(self.inputs["sample_f16"][:, :, :frames], self.inputs["timestep_f16"], tokens)


@pytest.fixture(scope="module")
def tiny(golden):
    return Tiny(golden("unet_tiny"))


def close(actual, expected, tolerance=2e-4):
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize(
    "name, motion, trainable",
    [
        ("stage1", "none", ("",)),
        ("stage2", "all", TrainUnetStage2().trainable),
        ("stage2_efficient", "decoder", ("motion_modules.", "attn2.")),
    ],
)
def test_full_size_has_the_published_keys_and_shapes(golden, name, motion, trainable):
    published = json.loads((golden("unet_tiny") / f"keys_full_{name}.json").read_text())
    counts = json.loads((golden("unet_tiny") / "info.json").read_text())["full"][name]
    with torch.device("meta"):
        net = UNet3D(UNetConfig(motion=motion))
    assert {key: list(value.shape) for key, value in net.state_dict().items()} == {
        key: value["shape"] for key, value in published.items()
    }
    parameters = dict(net.named_parameters())
    assert parameters.keys() == {key for key, value in published.items() if value["kind"] == "param"}
    assert (len(published), sum(p.numel() for p in parameters.values())) == (counts["keys"], counts["params"])
    chosen = {key for key in parameters if any(part in key for part in trainable)}
    assert chosen == {key for key, value in published.items() if value["trainable"]}
    assert len(chosen) == counts["trainable_tensors"]


def test_position_table_is_the_published_one(tiny):
    tables = {key: value for key, value in tiny.weights.items() if key.endswith("pos_encoder.pe")}
    assert len(tables) == 40
    for table in tables.values():
        close(PositionTable(table.shape[-1], 24).pe, table, 1e-6)


@torch.no_grad()
def test_outputs(tiny):
    net, inputs, outputs = tiny.net(), tiny.inputs, tiny.outputs
    f5 = tiny.run(net, 5)
    close(f5, outputs["out_f5"])
    assert (f5 - outputs["WRONG_out_f5_inflated_groupnorm"]).abs().max() > 0.4  # norms of single frames: 0.48 off
    f16 = tiny.run(net)
    close(f16, outputs["out_f16"])
    assert (f16[:, :, :5] - f5).abs().max() == pytest.approx(1.571, abs=1e-3)  # norms see all frames of the clip
    close(tiny.run(net, audio=torch.zeros_like(inputs["audio_f16"])), outputs["out_f16_null_audio"])
    close(tiny.run(net, 5, audio=None), outputs["out_f5_audio_none"])
    close(net(inputs["sample_b2"], inputs["timesteps_b2"], inputs["audio_b2"]), outputs["out_b2"])
    close(net(inputs["sample_odd"], inputs["timestep_odd"], inputs["audio_odd"]), outputs["out_odd"])


@torch.no_grad()
def test_norms_without_copies_are_the_same(tiny, monkeypatch):
    published = tiny.outputs["out_f16"], tiny.outputs["out_f5"]
    net, own = tiny.net(), (tiny.run(tiny.net()),)
    monkeypatch.setattr(ClipNorm, "forward", lambda norm, x: without_copies(x, norm))
    monkeypatch.setattr(FrameNorm, "forward", lambda norm, x: without_copies(x.flatten(0, 1), norm).reshape(x.shape))
    for frames, expected in zip((16, 5), published, strict=True):
        close(tiny.run(net, frames), expected)
    assert not torch.equal(tiny.run(net), own[0])  # they were used


@torch.no_grad()
def test_half_precision_is_full_precision_within_its_rounding(tiny):
    inputs, expected = tiny.inputs, tiny.outputs["out_f16"]
    half = tiny.net().half()(inputs["sample_f16"].half(), inputs["timestep_f16"], inputs["audio_f16"].half()).float()
    away = half - expected
    assert away.norm() < 4e-3 * expected.norm() and away.abs().max() < 0.02  # 0.0025 and 0.0065; values reach 3


@torch.no_grad()
@pytest.mark.parametrize("name, motion", [("stage1", "none"), ("stage2_efficient", "decoder")])
def test_outputs_with_fewer_motion_modules(tiny, name, motion):
    net = tiny.net(motion)
    variant = tiny.info["variants"][name]
    assert len(net.state_dict()) == variant["keys"] == len(tiny.weights) - variant["keys_not_used"]
    for frames in (5, 16):
        close(tiny.run(net, frames), tiny.outputs[f"out_f{frames}_{name}"])


@torch.no_grad()
def test_audio_may_come_with_frames_in_the_batch(tiny):
    net, tokens = tiny.net(), tiny.inputs["audio_b2"]
    noisy = tiny.inputs["sample_b2"], tiny.inputs["timesteps_b2"]
    flat = net(*noisy, tokens.flatten(0, 1))
    close(flat, tiny.outputs["out_b2"])
    assert torch.equal(flat, net(*noisy, tokens))


@torch.no_grad()
def test_what_happens_inside(tiny):
    net = tiny.net()
    close(net.time_embedding.sinusoids(tiny.inputs["timestep_f16"][None]), tiny.inner["time_proj"], 1e-4)
    places = {"time_embedding": net.time_embedding, "conv_in": net.conv_in, "conv_norm_out": net.conv_norm_out}
    places |= {"mid": net.mid_block}
    for side, blocks in (("down", net.down_blocks), ("up", net.up_blocks)):
        places |= {f"{side}{number}": block for number, block in enumerate(blocks)}
    for name, block in (("down0", net.down_blocks[0]), ("up3", net.up_blocks[3])):
        places |= {f"{name}.resnet0": block.resnets[0], f"{name}.attn0": block.attentions[0]}
        places |= {f"{name}.motion0": block.motion_modules[0]}
    seen = {}

    def keep(name):
        def hook(_module, _inputs, output):
            seen[name] = output[0] if isinstance(output, tuple) else output

        return hook

    for name, module in places.items():
        module.register_forward_hook(keep(name))
    tiny.run(net, 5)
    assert seen.keys() | {"time_proj"} == tiny.inner.keys()
    for name, value in seen.items():
        expected = tiny.inner[name]
        actual = value.permute(0, 4, 1, 2, 3) if value.dim() == 5 else value
        close(actual, expected, 2e-4 if name.startswith(("up", "conv_norm")) else 1e-4)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients(tiny, checkpointing):
    net = tiny.net()
    net.set_gradient_checkpointing(checkpointing)
    loss = torch.nn.functional.mse_loss(tiny.run(net, 5), tiny.inputs["grad_target_f5"])
    close(loss, tiny.outputs["grad_loss_f5"], 1e-5)
    loss.backward()
    gradients = {key: parameter.grad for key, parameter in net.named_parameters()}
    norms = tiny.info["grad_norms_f5"]
    assert gradients.keys() == norms.keys() and sum(norm > 1e-5 for norm in norms.values()) > 1000
    for key, norm in norms.items():
        if norm > 1e-5:
            assert float(gradients[key].norm()) == pytest.approx(norm, rel=1e-3, abs=0), key
        else:  # a bias before a GroupNorm with one channel a group: zero but for rounding
            assert float(gradients[key].norm()) < 1e-5, key
    stored = {key: value for key, value in tiny.outputs.items() if key.startswith("grad.")}
    assert len(stored) == 4
    for key, expected in stored.items():
        close(gradients[key.removeprefix("grad.")], expected, 1e-3 * float(expected.abs().max()))


def test_what_starts_at_zero_is_what_the_published_net_starts_at_zero(tiny):
    net = UNet3D(UNetConfig(**TINY))
    zero = {key for key, value in net.named_parameters() if not value.any() and "norm" not in key}
    # conv_in as well where a checkpoint lacks it: weights.init_unet does that.
    assert zero == set(tiny.info["zero_init_params"]) - {"conv_in.weight", "conv_in.bias"}


def test_gradient_checkpointing_computes_layers_again(tiny):
    calls = []
    net = tiny.net()
    for block in net.modules():
        if isinstance(block, TransformerBlock):
            block.register_forward_hook(lambda *_: calls.append(1))
    for enabled, times in ((False, 1), (True, 2)):
        calls.clear()
        net.set_gradient_checkpointing(enabled)
        tiny.run(net, 2).square().mean().backward()
        mid = 1  # the middle block is not part of it
        assert len(calls) == mid + times * 15


@torch.no_grad()
def test_the_null_audio_adds_only_a_bias():
    block = TransformerBlock(NARROW, 16)
    x, audio = torch.randn(3, 6, 16), torch.zeros(3, 10, 12)
    close(block.attn2(x, audio), block.attn2.to_out[0].bias.expand_as(x), 1e-6)


@torch.no_grad()
def test_only_audio_positions_make_the_order_of_tokens_count():
    sample, audio = torch.randn(1, 13, 3, 8, 8), torch.randn(1, 3, 10, 12)
    for positions in (False, True):
        cfg = UNetConfig(**(vars(NARROW) | {"audio_positions": positions}))
        torch.manual_seed(0)
        net = UNet3D(cfg)
        torch.nn.init.normal_(net.conv_out.weight)
        difference = (net(sample, torch.tensor(500), audio) - net(sample, torch.tensor(500), audio.flip(2))).abs().max()
        assert (difference > 1e-3) if positions else (difference < 1e-4)
    assert net.state_dict().keys() == UNet3D(NARROW).state_dict().keys()


def test_a_fresh_net_predicts_nothing_and_learns_everywhere():
    """Two steps: the zero-initialised last layers let gradients through from the second on."""
    torch.manual_seed(0)
    net = UNet3D(NARROW)
    sample, audio, target = torch.randn(2, 13, 3, 8, 8), torch.randn(2, 3, 10, 12), torch.randn(2, 4, 3, 8, 8)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for step in range(3):
        prediction = net(sample, torch.tensor([10, 900]), audio)
        if step == 0:
            assert prediction.abs().max() == 0
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(prediction, target).backward()
        optimizer.step()
    without = [key for key, parameter in net.named_parameters() if not parameter.grad.abs().max() > 0]
    assert without == []


def test_refusals():
    with pytest.raises(ValueError, match="norm_groups is 32, which does not divide the U-Net's width 40"):
        UNetConfig(block_out_channels=(40, 64))
    with pytest.raises(ValueError, match="attention_heads is 3"):
        UNetConfig(block_out_channels=(32, 64), attention_heads=3)
    net = UNet3D(NARROW)
    with pytest.raises(ValueError, match="25 frames is longer than motion_max_frames = 24"):
        net(torch.zeros(1, 13, 25, 8, 8), torch.tensor(1))


def test_a_config_survives_json():
    assert UNetConfig(**json.loads(json.dumps(vars(NARROW)))) == NARROW


@pytest.mark.needs_cuda
@torch.no_grad()
def test_outputs_on_a_gpu(tiny):
    net = tiny.net().cuda()
    inputs = {key: value.cuda() for key, value in tiny.inputs.items()}
    outputs = net(inputs["sample_f16"], inputs["timestep_f16"], inputs["audio_f16"]).cpu()
    close(outputs, tiny.outputs["out_f16"], 5e-3)  # TF32 may be on
    assert net.half()(inputs["sample_f16"].half(), inputs["timestep_f16"], inputs["audio_f16"].half()).isfinite().all()
