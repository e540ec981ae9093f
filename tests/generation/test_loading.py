"""Published U-Nets for generation: the release decides the face size, and a file for another purpose says which."""

import hashlib

import pytest
import torch
from safetensors.torch import load_file

from latentsync.generation import loading
from latentsync.weights import files as weight_files
from latentsync.weights import registry
from latentsync.weights.registry import Entry, File


@pytest.fixture(scope="module")
def states(golden):
    """The golden net as 1.5 and 1.6 are, as 1.0 is, and as stage2_efficient is."""
    every = {key: value.float() for key, value in load_file(golden("unet_tiny") / "weights.safetensors").items()}
    none = {key: value for key, value in every.items() if ".motion_modules." not in key}
    decoder = none | {key: value for key, value in every.items() if key.startswith("up_blocks.")}
    return {"all": every, "none": none, "decoder": decoder}


@pytest.fixture
def releases(states, tmp_path, monkeypatch):
    """A registry whose 1.5 and 1.6 are two files of the same shapes, known by size and sha256."""
    entries = {}
    for release, side in (("1.5", 256), ("1.6", 512)):
        path = tmp_path / f"original-{release}.pt"
        state = dict(states["all"])
        state["conv_out.bias"] = torch.full((4,), float(side))
        torch.save({"global_step": side, "state_dict": state}, path)
        known = File(
            f"latentsync-{release}/u.pt", None, path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()
        )
        entries[f"latentsync-{release}"] = Entry(
            f"latentsync-{release}", f"LatentSync {release}: the U-Net", (), "x", "yes", "x", (known,), resolution=side
        )
    monkeypatch.setattr(registry, "entries", lambda: entries)
    monkeypatch.setenv("LATENTSYNC_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path


@pytest.mark.parametrize("motion", ["all", "none", "decoder"])
def test_the_shape_is_read_off_the_tensors(states, tmp_path, motion):
    torch.save({"global_step": 3, "state_dict": states[motion]}, tmp_path / "u.pt")
    state, metadata = loading.read_unet(tmp_path / "u.pt")
    assert metadata["config"] == {
        "in_channels": 13, "block_out_channels": (32, 64, 96, 96), "cross_attention_dim": 48, "motion": motion
    }  # fmt: skip
    assert metadata["frames"] == 16 and metadata["audio_encoder"] == {"backend": "whisper"}
    net = weight_files.build_with(lambda: loading.UNet3D(loading.UNetConfig(**metadata["config"])), state, "u.pt")
    assert len(net.state_dict()) == {"all": 1246, "none": 686, "decoder": 1022}[motion]


def test_a_release_is_known_wherever_it_lies_and_refuses_the_other_size(releases):
    for release, side, other in (("1.5", 256, 512), ("1.6", 512, 256)):
        path = releases / f"original-{release}.pt"
        _, metadata = loading.read_unet(path)
        assert loading._resolution(path, metadata, None) == side == loading._resolution(path, metadata, side)
        with pytest.raises(ValueError, match=rf"LatentSync {release}.* trained on faces of {side} px, not {other}"):
            loading._resolution(path, metadata, other)
    with pytest.raises(ValueError, match=r"such as latentsync-1\.5 \(config/latentsync-256\.yaml\)"):
        loading._resolution(path, metadata, 256)


def test_an_unknown_file_of_the_shapes_of_both_asks_for_the_size(states, tmp_path):
    path = tmp_path / "fine_tuned.pt"
    torch.save({"state_dict": states["all"]}, path)
    _, metadata = loading.read_unet(path)
    with pytest.raises(ValueError, match=r"of 256 px \(1\.0, 1\.5\) and of 512 px \(1\.6\) have the same shapes; add"):
        loading._resolution(path, metadata, None)
    assert loading._resolution(path, metadata, 512) == 512
    torch.save({"state_dict": states["none"]}, path)  # 1.0, or upstream's stage 1 at 256 or at 512
    _, metadata = loading.read_unet(path)
    with pytest.raises(ValueError, match="add --resolution 256 or 512"):
        loading._resolution(path, metadata, None)
    assert loading._resolution(path, metadata, 256) == 256 and loading._resolution(path, metadata, 512) == 512


def test_ours_know_their_size(tmp_path):
    metadata = {"config": {}, "frames": 8, "resolution": 64, "audio_encoder": {"backend": "embedded"}}
    with pytest.raises(ValueError, match="trained on faces of 64 px, not 512; leave out --resolution"):
        loading._resolution(tmp_path / "unet.safetensors", metadata, 512)


def test_other_files_are_named(tmp_path):
    torch.save({"state_dict": {"visual_encoder.conv_in.weight": torch.zeros(64, 48, 3, 3)}}, tmp_path / "syncnet.pt")
    with pytest.raises(
        ValueError, match=r"holds no LatentSync U-Net\. It looks like a StableSyncNet whose input is 16 RGB"
    ):
        loading.read_unet(tmp_path / "syncnet.pt")
    weight_files.save(tmp_path / "vae.safetensors", {"post_quant_conv.weight": torch.zeros(1)}, {"latent_channels": 4})
    with pytest.raises(ValueError, match=r"was not written by train_unet: it lacks frames.*looks like a VAE"):
        loading.read_unet(tmp_path / "vae.safetensors")
