"""Files of weights: ours come back equal, foreign ones through their adapters, wrong ones with a sentence."""

import pickle
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from latentsync.models import weights
from latentsync.models.unet import UNet3D, UNetConfig

SHAPE = {"block_out_channels": (16, 24), "attention_heads": 2, "norm_groups": 8}


def unet(**changes):
    torch.manual_seed(0)
    return UNet3D(UNetConfig(**(SHAPE | {"cross_attention_dim": 12, "motion": "none"} | changes)))


def test_round_trip_with_metadata(tmp_path):
    net = unet()
    path = tmp_path / "deep" / "unet.safetensors"
    weights.save(path, net.state_dict(), vars(net.config), trained_steps=7, audio={"backend": "embedded"})
    state, metadata = weights.load(path)
    assert metadata["trained_steps"] == 7 and metadata["audio"] == {"backend": "embedded"}
    assert weights.metadata(path) == metadata
    again = weights.load_strictly(UNet3D(UNetConfig(**metadata["config"])), state, str(path))
    assert again.config == net.config
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in again.state_dict().items())
    assert list(path.parent.iterdir()) == [path]


def test_bytes_depend_on_content_alone(tmp_path):
    """Another process hashes strings differently; several metadata entries would come in another order."""
    tensors, config, rest = {"b": torch.ones(3), "a": torch.zeros(2, 2)}, {"x": 1, "y": [2]}, {"k": 1, "j": 2}
    weights.save(tmp_path / "here.safetensors", tensors, config, **rest)
    code = (
        "import sys, torch; from latentsync.models import weights;"
        "weights.save(sys.argv[1], {'a': torch.zeros(2, 2), 'b': torch.ones(3)}, {'y': [2], 'x': 1}, j=2, k=1)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "there.safetensors"], check=True)
    assert (tmp_path / "here.safetensors").read_bytes() == (tmp_path / "there.safetensors").read_bytes()


def test_files_of_others_have_no_configuration(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="x.safetensors carries no configuration"):
        weights.load(tmp_path / "x.safetensors")


def test_strict_loading_names_what_is_wrong():
    net = nn.Linear(3, 2)
    with pytest.raises(ValueError) as error:
        weights.load_strictly(net, {"weight": torch.zeros(2, 4), "scale": torch.zeros(1)}, "w.pt")
    assert str(error.value) == (
        "w.pt does not fit the network as configured: 1 missing (bias); 1 unexpected (scale); "
        "1 of another shape (weight (2, 4) instead of (2, 3))."
    )


def test_a_net_without_motion_modules_does_not_swallow_a_file_that_has_them(golden):
    """Upstream's does, silently."""
    state = load_file(golden("unet_tiny") / "weights.safetensors")
    net = UNet3D(UNetConfig(block_out_channels=(32, 64, 96, 96), cross_attention_dim=48, motion="none"))
    with pytest.raises(ValueError, match=r"560 unexpected \(down_blocks.0.motion_modules"):
        weights.load_strictly(net, state, "upstream")


def test_foreign_wrappings_are_taken_off(tmp_path):
    inner = {"conv.weight": torch.ones(2)}
    for number, wrapped in enumerate(
        (
            inner,
            {"global_step": 5, "state_dict": inner},
            {"dims": {"n_mels": 80}, "model_state_dict": inner},
            {"module": inner},
            {"state_dict": {"module.conv.weight": torch.ones(2)}},
        )
    ):
        torch.save(wrapped, tmp_path / f"{number}.pt")
        state = weights.read_foreign(tmp_path / f"{number}.pt")
        assert state.keys() == inner.keys() and torch.equal(state["conv.weight"], torch.ones(2))


class Attack:
    def __reduce__(self):
        return (open, ("/nowhere/at/all", "w"))


def test_code_in_a_pickle_never_runs(tmp_path):
    torch.save({"state_dict": {"x": Attack()}}, tmp_path / "bad.pt")
    with pytest.raises(ValueError, match="bad.pt holds more than tensors"):
        weights.read_foreign(tmp_path / "bad.pt")
    with open(tmp_path / "plain.pt", "wb") as file:
        pickle.dump(Attack(), file)
    with pytest.raises(ValueError, match="plain.pt holds more than tensors"):
        weights.read_foreign(tmp_path / "plain.pt")


def test_starting_from_stable_diffusion():
    """SD 1.5 has 4 input channels and 768-wide text; the rest is taken over, conv_in starts at zero."""
    start = unet(in_channels=4, cross_attention_dim=20)
    for parameter in start.parameters():
        nn.init.normal_(parameter)
    net = unet(motion="all")
    before = {key: value.clone() for key, value in net.state_dict().items()}
    fresh = weights.init_unet(net, start.state_dict())
    after = net.state_dict()
    taken = [key for key in after if key not in fresh]
    assert len(taken) == len(start.state_dict()) - 2 - 2 * 6  # conv_in; to_k and to_v of six attn2
    assert all(torch.equal(after[key], start.state_dict()[key]) for key in taken)
    assert net.conv_in.weight.abs().max() == 0 and net.conv_in.bias.abs().max() == 0
    kept = [key for key in fresh if not key.startswith("conv_in.")]
    assert all("motion_modules" in key or "attn2.to_" in key for key in kept)
    assert all(torch.equal(after[key], before[key]) for key in kept)


def test_stage_2_starts_from_stage_1():
    stage1, stage2 = unet(), unet(motion="all")
    nn.init.normal_(stage1.conv_out.weight)
    fresh = weights.init_unet(stage2, stage1.state_dict())
    assert fresh and all("motion_modules" in key for key in fresh)
    sample, audio, t = torch.randn(1, 13, 3, 8, 8), torch.randn(1, 3, 5, 12), torch.tensor(500)
    torch.testing.assert_close(stage2(sample, t, audio), stage1(sample, t, audio))  # fresh motion is the identity


def test_a_start_of_another_architecture_is_refused():
    wider = unet(block_out_channels=(32, 48))
    with pytest.raises(ValueError, match="do not start this U-Net"):
        weights.init_unet(unet(), wider.state_dict())
    with pytest.raises(ValueError, match="model.diffusion_model.time_embed"):
        weights.init_unet(unet(), unet().state_dict() | {"model.diffusion_model.time_embed.0.weight": torch.zeros(1)})


def test_upstreams_checkpoint_loads(golden, tmp_path):
    state = {key: value.float() for key, value in load_file(golden("unet_tiny") / "weights.safetensors").items()}
    torch.save({"global_step": 1, "state_dict": state}, tmp_path / "latentsync_unet.pt")
    net = UNet3D(UNetConfig(block_out_channels=(32, 64, 96, 96), cross_attention_dim=48))
    assert weights.init_unet(net, weights.read_foreign(tmp_path / "latentsync_unet.pt")) == []
    weights.load_strictly(net, weights.read_foreign(tmp_path / "latentsync_unet.pt"), "latentsync_unet.pt")
