"""Two hundred damaged weights files in every loader: a clear error within a second, and nothing partially loaded.

Damage: truncation, flipped bits, and a tensor of another shape or type, missing or with a NaN. A flipped bit in the
tensors is always detected if the sha256 of the file is known or recorded in it; other foreign files may load, but only
with every tensor in place.
"""

import json
import pickle
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from safetensors.torch import save_file

from latentsync.audio import whisper as audio_encoder
from latentsync.config import TrainVae
from latentsync.generation.loading import read_unet
from latentsync.models import syncnet, syncnet_v2
from latentsync.models import vae as vaes
from latentsync.models.unet import UNet3D, UNetConfig
from latentsync.weights import files as weight_files
from latentsync.weights.initialise import start_unet
from tests.models.test_syncnet import small

UNET = UNetConfig(block_out_channels=(32, 64), cross_attention_dim=12, attention_heads=2, motion="all")
METADATA = {"frames": 16, "resolution": 256, "audio_encoder": {"backend": "whisper"}}
ALWAYS_DETECTED = {"our U-Net", "our SyncNet", "our VAE"}  # they contain their sha256


@dataclass
class Kind:
    """A kind of file: how one is written from a state dict, and how it is loaded to a network."""

    state: dict[str, torch.Tensor]
    write: Callable[[Path, dict[str, torch.Tensor]], None]
    load: Callable[[Path], torch.nn.Module]
    name: str = "x.safetensors"


def unet_of(path: Path) -> torch.nn.Module:
    state, metadata = read_unet(path)
    shape = metadata["config"] | {"attention_heads": 2}
    return weight_files.build_with(lambda: UNet3D(UNetConfig(**shape)), state, str(path))


def write_pickle(path: Path, state: dict[str, torch.Tensor]) -> None:
    torch.save({"global_step": 7, "state_dict": state}, path)


def write_old_pickle(path: Path, state: dict[str, torch.Tensor]) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=False)


def write_folder(path: Path, state: dict[str, torch.Tensor]) -> None:
    config = {"_class_name": "AutoencoderKL"} | dict(vaes.build(SMALL_VAE).config)
    (path.parent / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "_name_or_path"}))
    save_file(state, path)


SMALL_VAE = TrainVae(block_out_channels=(8, 16), latent_channels=3)


@pytest.fixture(scope="module")
def kinds():
    torch.manual_seed(0)
    unet, net = UNet3D(UNET).state_dict(), syncnet.build(small()).state_dict()
    whisper = audio_encoder.build("embedded", width=64, layers=1).encoder.state_dict()
    whisper = {f"model.encoder.{key}": value.contiguous() for key, value in whisper.items()}
    vae, v2 = vaes.build(SMALL_VAE).state_dict(), syncnet_v2.SyncNetV2().state_dict()
    vae = {key: value.contiguous() for key, value in vae.items()}
    config = small().model_dump(mode="json")
    return {
        "our U-Net": Kind(unet, lambda path, s: weight_files.save(path, s, asdict(UNET), **METADATA), unet_of),
        "our SyncNet": Kind(
            net, lambda path, s: weight_files.save(path, s, config), lambda path: syncnet.load(path)[0]
        ),
        "our VAE": Kind(vae, lambda path, s: vaes.save(path, _holding(s), 0.5), vaes.load),
        "published U-Net": Kind(unet, write_pickle, unet_of, "latentsync_unet.pt"),
        "Whisper's folder": Kind(whisper, save_file_swapped, audio_encoder.load_whisper, "model.safetensors"),
        "Whisper's pickle": Kind(whisper, write_pickle, audio_encoder.load_whisper, "tiny.pt"),
        "VAE's folder": Kind(
            vae, write_folder, lambda path: vaes.load(path.parent), "diffusion_pytorch_model.safetensors"
        ),
        "syncnet_v2": Kind(v2, write_old_pickle, syncnet_v2.load, "syncnet_v2.model"),
    }


def save_file_swapped(path: Path, state: dict[str, torch.Tensor]) -> None:
    save_file(state, path)


def _holding(state: dict[str, torch.Tensor]) -> AutoencoderKL:
    """A VAE whose state dict is this, whatever its shapes."""
    vae = vaes.build(SMALL_VAE)
    vae.state_dict = lambda: state
    return vae


# --- ways to damage a file ------------------------------------------------------------------------------------------


def cut(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: rng.integers(0, len(content))]


def flipped(content: bytes, rng: np.random.Generator) -> bytes:
    damaged = bytearray(content)
    for place in rng.integers(0, len(content), rng.integers(1, 9)):
        damaged[place] ^= 1 << rng.integers(0, 8)
    return bytes(damaged)


def header_flipped(content: bytes, rng: np.random.Generator) -> bytes:
    damaged = bytearray(content)
    for place in rng.integers(0, min(2000, len(content)), 3):
        damaged[place] ^= 1 << rng.integers(0, 8)
    return bytes(damaged)


BYTES = {"cut": cut, "flipped": flipped, "header flipped": header_flipped}


def other_shape(state, key, value):
    state[key] = torch.cat([value.reshape(-1), value.reshape(-1)[:1]])


def other_type(state, key, value):
    state[key] = value.to(torch.int64)


def missing(state, key, value):
    del state[key]


def not_a_number(state, key, value):
    state[key] = value.clone()
    state[key].view(-1)[0] = float("nan")


TENSORS = {"other shape": other_shape, "other type": other_type, "missing": missing, "not a number": not_a_number}
PER_KIND = 25  # of eight kinds: two hundred files


def damaged_files(kind: Kind, folder: Path, rng: np.random.Generator):
    """25 files: (what was done, path)."""
    folder.mkdir()
    path = folder / kind.name
    kind.write(path, kind.state)
    kind.load(path)  # as it is, it loads
    good = path.read_bytes()
    for number in range(13):
        what = list(BYTES)[number % len(BYTES)]
        content = BYTES[what](good, rng)
        if content != good:
            path.write_bytes(content)
            yield what, path
    floats = [key for key, value in kind.state.items() if value.is_floating_point() and value.dim() > 0]
    for number in range(12):
        what, key = list(TENSORS)[number % len(TENSORS)], floats[rng.integers(len(floats))]
        state = dict(kind.state)
        TENSORS[what](state, key, state[key])
        kind.write(path, state)
        yield what, path


@pytest.mark.parametrize("name", ["our U-Net", "our SyncNet", "our VAE", "published U-Net", "Whisper's folder",
                                  "Whisper's pickle", "VAE's folder", "syncnet_v2"])  # fmt: skip
def test_damage_is_one_clear_sentence_within_two_cpu_seconds(kinds, name, tmp_path):
    kind, tried, loaded = kinds[name], 0, []
    for what, path in damaged_files(kind, tmp_path / "weights", np.random.default_rng(len(name))):
        tried += 1
        before = time.process_time()  # other programs do not count
        try:
            net = kind.load(path)
        except ValueError as error:
            assert path.name in str(error) or path.parent.name in str(error), (what, error)
            assert len(str(error)) < 1500 and "\n" not in str(error), (what, error)
        else:
            loaded.append(what)
            assert net.state_dict().keys() and not any(value.is_meta for value in net.state_dict().values())
        assert time.process_time() - before < 2, what
    assert tried >= PER_KIND - 2
    assert set(loaded) <= {"flipped", "header flipped"}  # all other damage is always detected
    if name in ALWAYS_DETECTED | {"published U-Net", "Whisper's pickle"}:
        assert "flipped" not in loaded  # a sha256, or the checksums of a zip


def test_no_partial_state(tmp_path):
    """A network that refuses a file is unchanged."""
    torch.manual_seed(0)
    net = UNet3D(UNET)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    state = {key: value + 1 for key, value in before.items()}
    late = [key for key in state if key.startswith("up_blocks.") and "motion" not in key][-1]
    for damage in TENSORS.values():
        damaged = dict(state)
        damage(damaged, late, damaged[late])
        with pytest.raises(ValueError):
            weight_files.load_strictly(net, damaged, "x")
        with pytest.raises(ValueError):
            start_unet(net, damaged, "x")
        assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_pickles_of_other_things(tmp_path):
    for number, thing in enumerate(({"state_dict": 3}, {1: torch.ones(2)}, "text", None, {"a": {"b": torch.ones(1)}})):
        path = tmp_path / f"{number}.pt"
        torch.save(thing, path)
        for load in (unet_of, syncnet_v2.load, audio_encoder.load_whisper, lambda path: syncnet.load(path)):
            with pytest.raises(ValueError, match=path.name):
                load(path)
    path = tmp_path / "numbers.pkl"
    path.write_bytes(pickle.dumps(np.ones(3)))
    with pytest.raises(ValueError, match=r"numbers\.pkl .*contains more than tensors"):
        weight_files.read_foreign(path)
