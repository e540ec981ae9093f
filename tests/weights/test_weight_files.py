"""Weights files: those of this project come back equal or not at all, foreign ones unwrapped, wrong ones refused."""

import hashlib
import pickle
import struct
import subprocess
import sys
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from latentsync.models.unet import UNet3D, UNetConfig
from latentsync.weights import files as weight_files

SHAPE = {"block_out_channels": (16, 24), "attention_heads": 2, "norm_groups": 8}


def unet(**changes):
    torch.manual_seed(0)
    return UNet3D(UNetConfig(**(SHAPE | {"cross_attention_dim": 12, "motion": "none"} | changes)))


def test_round_trip_with_metadata(tmp_path):
    net = unet()
    path = tmp_path / "deep" / "unet.safetensors"
    weight_files.save(path, net.state_dict(), vars(net.config), trained_steps=7, audio={"backend": "embedded"})
    state, metadata = weight_files.load(path)
    assert metadata["trained_steps"] == 7 and metadata["audio"] == {"backend": "embedded"}
    assert weight_files.metadata(path) == metadata and weight_files.is_ours(path)
    again = weight_files.load_strictly(UNet3D(UNetConfig(**metadata["config"])), state, str(path))
    assert again.config == net.config
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in again.state_dict().items())
    assert list(path.parent.iterdir()) == [path]


def test_a_net_built_from_its_weights_is_the_same_net(tmp_path):
    net = unet(motion="all")
    nn.init.normal_(net.conv_out.weight)
    state = {key: value.clone() for key, value in net.state_dict().items()}
    again = weight_files.build_with(lambda: unet(motion="all"), {k: v.half() for k, v in state.items()}, "x")
    assert all(value.dtype == torch.float32 and not value.is_meta for value in again.state_dict().values())
    built = weight_files.build_with(lambda: unet(motion="all"), state, "x")
    sample, audio, t = torch.randn(1, 13, 3, 8, 8), torch.randn(1, 3, 5, 12), torch.tensor(500)
    assert torch.equal(built(sample, t, audio), net(sample, t, audio))
    built(sample, t, audio).square().mean().backward()  # its weights can be trained
    assert built.conv_in.weight.grad is not None


def test_bytes_depend_on_content_alone(tmp_path):
    """Another process hashes strings differently; several metadata entries would come in another order."""
    tensors, config, rest = {"b": torch.ones(3), "a": torch.zeros(2, 2)}, {"x": 1, "y": [2]}, {"k": 1, "j": 2}
    weight_files.save(tmp_path / "here.safetensors", tensors, config, **rest)
    code = (
        "import sys, torch; from latentsync.weights import files;"
        "files.save(sys.argv[1], {'a': torch.zeros(2, 2), 'b': torch.ones(3)}, {'y': [2], 'x': 1}, j=2, k=1)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "there.safetensors"], check=True)
    assert (tmp_path / "here.safetensors").read_bytes() == (tmp_path / "there.safetensors").read_bytes()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool])
def test_every_type_of_number_is_hashed(tmp_path, dtype):
    tensors = {
        "a": torch.ones(3, 2).to(dtype),
        "scalar": torch.tensor(1).to(dtype),
        "empty": torch.zeros(0, 4).to(dtype),
    }
    weight_files.save(tmp_path / "x.safetensors", tensors, {})
    state, _ = weight_files.load(tmp_path / "x.safetensors")
    assert all(torch.equal(state[key], value) for key, value in tensors.items())


def test_every_changed_bit_of_our_files_is_detected(tmp_path):
    path = tmp_path / "x.safetensors"
    weight_files.save(path, {"a": torch.arange(100.0), "b": torch.ones(7)}, {"width": 16}, steps=5)
    good = path.read_bytes()
    for byte in range(8, len(good)):  # the first eight say how long the header is; test_damaged_files.py has those too
        path.write_bytes(good[:byte] + bytes([good[byte] ^ 1]) + good[byte + 1 :])
        try:
            state, metadata = weight_files.load(path)
        except ValueError:
            continue
        # The header has spaces at its end; a changed one of those changes nothing.
        assert metadata == {"config": {"width": 16}, "steps": 5} and torch.equal(state["a"], torch.arange(100.0)), byte


def test_foreign_files_have_no_configuration(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="x.safetensors has no configuration in its metadata"):
        weight_files.load(tmp_path / "x.safetensors")
    assert not weight_files.is_ours(tmp_path / "x.safetensors")


def test_strict_loading_names_what_is_wrong():
    net = nn.Linear(3, 2)
    before = net.weight.clone()
    with pytest.raises(ValueError) as error:
        weight_files.load_strictly(net, {"weight": torch.zeros(2, 4), "scale": torch.zeros(1)}, "w.pt")
    assert str(error.value) == (
        "w.pt does not fit the network as configured: 1 missing (bias); 1 unexpected (scale); "
        "1 of another shape (weight (2, 4) instead of (2, 3))."
    )
    bad = {"weight": torch.full((2, 3), float("nan")), "bias": torch.zeros(2, dtype=torch.int64)}
    with pytest.raises(ValueError, match=r"1 of another type \(bias torch.int64 .*; 1 non-finite \(weight\)"):
        weight_files.load_strictly(net, bad, "w.pt")
    assert torch.equal(net.weight, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_narrow_types_are_converted_to_float32(dtype):
    state = {"weight": torch.ones(2, 3).to(dtype), "bias": torch.tensor([0.5, 2.0]).to(dtype)}
    net = weight_files.load_strictly(nn.Linear(3, 2), state, "w.pt")
    assert net.bias.dtype == torch.float32 and net.bias.tolist() == [0.5, 2.0]
    state["bias"] = torch.tensor([0.5, float("nan")]).to(dtype)
    with pytest.raises(ValueError, match=r"1 non-finite \(bias\)"):
        weight_files.load_strictly(nn.Linear(3, 2), state, "w.pt")


def test_many_keys_are_counted_by_pattern():
    keys = [f"blocks.{n}.norm.weight" for n in range(12)] + ["conv_in.bias", "a", "b", "c", "d"]
    assert weight_files.listed(keys) == "blocks.*.norm.weight x 12, conv_in.bias, a, b, and 2 more"


def test_a_net_without_motion_modules_refuses_a_file_that_has_them(golden):
    """Upstream loads such a file silently."""
    state = load_file(golden("unet_tiny") / "weights.safetensors")
    net = UNet3D(UNetConfig(block_out_channels=(32, 64, 96, 96), cross_attention_dim=48, motion="none"))
    with pytest.raises(
        ValueError,
        match=r"560 unexpected \(down_blocks.*motion_modules.*It looks like .*or 1\.6 \(config/latentsync-512",
    ):
        weight_files.load_strictly(net, state, "upstream")


def test_foreign_state_dicts_are_unwrapped(tmp_path):
    inner = {"conv.weight": torch.ones(2)}
    for number, wrapped in enumerate(
        (
            inner,
            {"global_step": 5, "state_dict": inner},
            {"dims": {"n_mels": 80}, "model_state_dict": inner},
            {"module": inner},
            {"params_ema": inner},
            {"state_dict": {"module.conv.weight": torch.ones(2)}},
        )
    ):
        torch.save(wrapped, tmp_path / f"{number}.pt", _use_new_zipfile_serialization=number % 2 == 0)
        state = weight_files.read_foreign(tmp_path / f"{number}.pt")
        assert state.keys() == inner.keys() and torch.equal(state["conv.weight"], torch.ones(2))


class Attack:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pkl", ".model", ".safetensors"])
def test_code_in_a_pickle_never_runs(tmp_path, suffix):
    marker, bad, plain = tmp_path / "it ran", tmp_path / f"bad{suffix}", tmp_path / f"plain{suffix}"
    torch.save({"state_dict": {"x": Attack(marker)}}, bad)
    with open(plain, "wb") as file:
        pickle.dump(Attack(marker), file, protocol=2)
    for path in (bad, plain):
        with pytest.raises(ValueError, match=r"contains more than tensors|is damaged or not a weights file"):
            weight_files.read_foreign(path)
    assert not marker.exists()


def test_a_flipped_bit_in_a_foreign_pickle_is_detected_by_the_checksums_inside(tmp_path):
    """torch itself loads the file without an error."""
    path, values = tmp_path / "x.pt", torch.arange(1000.0)
    torch.save({"state_dict": {"a": values}}, path)
    content = bytearray(path.read_bytes())
    content[content.find(values.numpy().tobytes()) + 1234] ^= 4
    path.write_bytes(content)
    assert not torch.equal(torch.load(path)["state_dict"]["a"], values)
    with pytest.raises(ValueError, match=r"is damaged .*the checksum of x/data/0 is wrong"):
        weight_files.read_foreign(path)


def test_a_flipped_bit_in_a_foreign_safetensors_is_detected_if_its_sha256_is_known(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.arange(1000.0)}, path)
    good = path.read_bytes()
    (tmp_path / "x.safetensors.sha256").write_text(hashlib.sha256(good).hexdigest() + "  x.safetensors\n")
    assert weight_files.read_foreign(path)
    path.write_bytes(good[:-100] + bytes([good[-100] ^ 1]) + good[-99:])
    with pytest.raises(ValueError, match="is damaged, or another file of this name"):
        weight_files.read_foreign(path)


def test_other_files_are_refused_by_name(tmp_path):
    contents = {
        "page.pt": (b"<!DOCTYPE html><html>Sign in</html>", "is a web page"),
        "pointer.safetensors": (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\n", "is a Git LFS pointer"),
        "empty.pt": (b"", r"empty\.pt is empty"),
        "text.pt": (b"hello", "not a weights file"),
        "empty.safetensors": (b"", r"empty\.safetensors is empty"),
        "huge.safetensors": (struct.pack("<Q", 1 << 60) + b"{}", "is damaged or not a weights file"),
    }
    for name, (content, words) in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=words):
            weight_files.read_foreign(tmp_path / name)
    for nothing in ({"epoch": 3}, [torch.ones(2)], torch.ones(2), {"state_dict": {}}):
        torch.save(nothing, tmp_path / "nothing.pt")
        with pytest.raises(ValueError, match="contains no named tensors"):
            weight_files.read_foreign(tmp_path / "nothing.pt")
    with zipfile.ZipFile(tmp_path / "images.pt", "w") as file:
        file.writestr("a.png", b"image")
    with pytest.raises(ValueError, match="is damaged or not a weights file"):
        weight_files.read_foreign(tmp_path / "images.pt")
    with pytest.raises(ValueError, match="is a folder, not a weights file"):
        weight_files.read_foreign(tmp_path)
    with pytest.raises(ValueError, match="does not exist"):
        weight_files.load(tmp_path / "none.safetensors")
