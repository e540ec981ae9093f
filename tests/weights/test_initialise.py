"""Initialising a U-Net from SD 1.5, another stage or upstream's weights; anything else is refused."""

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from latentsync.config import TrainUnetStage1
from latentsync.models.unet import UNet3D, UNetConfig
from latentsync.steps import train_unet
from latentsync.weights import files as weight_files
from latentsync.weights.initialise import start_unet
from tests.weights.test_weight_files import unet


def test_starting_from_stable_diffusion():
    """SD 1.5 has 4 input channels and 768-wide text; the rest is loaded, conv_in starts at zero."""
    source = unet(in_channels=4, cross_attention_dim=20)
    for parameter in source.parameters():
        nn.init.normal_(parameter)
    net = unet(motion="all")
    before = {key: value.clone() for key, value in net.state_dict().items()}
    start = start_unet(net, source.state_dict(), "sd")
    after = net.state_dict()
    assert len(start.taken) == len(source.state_dict()) - 2 - 2 * 6  # conv_in; to_k and to_v of six attn2
    assert all(torch.equal(after[key], source.state_dict()[key]) for key in start.taken)
    assert net.conv_in.weight.abs().max() == 0 and net.conv_in.bias.abs().max() == 0
    kept = [key for key in start.fresh if not key.startswith("conv_in.")]
    assert all("motion_modules" in key or "attn2.to_" in key for key in kept)
    assert all(torch.equal(after[key], before[key]) for key in kept)
    assert (
        f"{len(start.taken)} tensors loaded; {len(start.fresh)} start from scratch (conv_in.weight, conv_in.bias"
        in str(start)
    )


def test_sd_15_is_loaded_except_for_conv_in_and_the_text(golden):
    """At full size, on shapes alone: SD 1.5 has the 686 keys of stage 1."""
    with torch.device("meta"):
        net = UNet3D(UNetConfig(motion="none"))
    shapes = {key: tuple(value.shape) for key, value in net.state_dict().items()}
    with torch.device("meta"):
        sd15 = UNet3D(UNetConfig(motion="none", in_channels=4, cross_attention_dim=768)).state_dict()
    differing = {key for key, value in sd15.items() if tuple(value.shape) != shapes[key]}
    assert sd15.keys() == shapes.keys() and len(sd15) == 686
    assert len(differing) == 1 + 2 * 16 and all("attn2.to_" in key or key == "conv_in.weight" for key in differing)


def test_stage_2_starts_from_stage_1_and_stage_1_from_a_stage_2():
    stage1, stage2 = unet(), unet(motion="all")
    nn.init.normal_(stage1.conv_out.weight)
    start = start_unet(stage2, stage1.state_dict(), "stage 1")
    assert start.fresh and all("motion_modules" in key for key in start.fresh) and not start.unused
    sample, audio, t = torch.randn(1, 13, 3, 8, 8), torch.randn(1, 3, 5, 12), torch.tensor(500)
    torch.testing.assert_close(stage2(sample, t, audio), stage1(sample, t, audio))  # fresh motion is the identity
    start = start_unet(unet(), stage2.state_dict(), "stage 2")
    assert not start.fresh and len(start.unused) == len(stage2.state_dict()) - len(stage1.state_dict())
    assert "of the file unused (down_blocks.*.motion_modules" in str(start)


def test_weights_of_another_architecture_are_refused():
    net = unet()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(ValueError, match=r"w\.pt does not fit this U-Net.*It looks like .*widths 32-48"):
        start_unet(net, unet(block_out_channels=(32, 48)).state_dict(), "w.pt")
    original = {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"Stable Diffusion in its original single file"):
        start_unet(net, original, "v1-5-pruned.ckpt")
    broken = {key: value.clone() for key, value in before.items()} | {"conv_out.bias": torch.full((4,), torch.inf)}
    with pytest.raises(ValueError, match=r"1 tensors are non-finite or of another type \(conv_out.bias\)"):
        start_unet(net, broken, "w.pt")
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_a_damaged_file_of_this_project_is_refused(tmp_path):
    """Its sha256 is verified here, too."""
    shape = {"block_out_channels": [32, 48, 64, 64], "layers_per_block": 1, "norm_groups": 16}
    cfg = TrainUnetStage1(init=str(tmp_path / "unet.safetensors"), unet=shape)
    vae = SimpleNamespace(config={"latent_channels": 4})
    data = SimpleNamespace(vae=vae, metadata={"audio_encoder": {"width": 12}})
    fresh = train_unet.fresh_unet(cfg.model_copy(update={"init": None}), data)
    weight_files.save(tmp_path / "unet.safetensors", fresh.state_dict(), {})
    started = train_unet.fresh_unet(cfg, data)
    assert all(torch.equal(value, fresh.state_dict()[key]) for key, value in started.state_dict().items())
    content = bytearray((tmp_path / "unet.safetensors").read_bytes())
    content[-3] ^= 1
    (tmp_path / "unet.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="does not have the recorded sha256"):
        train_unet.fresh_unet(cfg, data)


def test_upstreams_checkpoint_loads(golden, tmp_path):
    state = {key: value.float() for key, value in load_file(golden("unet_tiny") / "weights.safetensors").items()}
    torch.save({"global_step": 1, "state_dict": state}, tmp_path / "latentsync_unet.pt")
    published = weight_files.read_foreign(tmp_path / "latentsync_unet.pt")
    net = UNet3D(UNetConfig(block_out_channels=(32, 64, 96, 96), cross_attention_dim=48))
    start = start_unet(net, published, "latentsync_unet.pt")
    assert len(start.taken) == 1246 and not start.fresh and not start.unused
    weight_files.load_strictly(net, published, "latentsync_unet.pt")
