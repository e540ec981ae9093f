"""Weights: the files we write, the published files we read, and every foreign key name, which stops here.

Ours are safetensors with one metadata entry, JSON: {"config": how to build the network, ...}. Foreign pickles are read
with weights_only=True. Where published files lie is registry.py's business.
"""

import hashlib
import json
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from latentsync.records import replacing

State = dict[str, Tensor]

_METADATA = "latentsync"  # one entry only: safetensors writes several in random order, and bytes must not depend on it


def stamp(path: Path) -> str:
    """16 hex digits over the whole content of a weights file, or over the files of a folder."""
    digest = hashlib.sha256()
    for part in sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]:
        with open(part, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


# --- ours -----------------------------------------------------------------------------------------------------------


def save(path: Path, state: Mapping[str, Tensor], config: Mapping[str, Any], **metadata: Any) -> None:
    """Write a state dict with what is needed to rebuild its network; same content, same bytes."""
    text = json.dumps({"config": dict(config)} | metadata, sort_keys=True, allow_nan=False)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    with replacing(Path(path)) as temporary:
        save_file(tensors, temporary, metadata={_METADATA: text})


def metadata(path: Path) -> dict[str, Any]:
    """What `save` wrote beside the tensors: `config` and the rest."""
    with safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get(_METADATA)
    if text is None:
        raise ValueError(f"{path} carries no configuration in its metadata, so it was not written by this project.")
    return json.loads(text)


def load(path: Path) -> tuple[State, dict[str, Any]]:
    """The tensors and the metadata of a file that `save` wrote."""
    return load_file(path), metadata(path)


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], what: str) -> nn.Module:
    """Load every key, or say in one sentence which are missing, unexpected or of another shape."""
    own = module.state_dict()
    faults = {
        "missing": [key for key in own if key not in state],
        "unexpected": [key for key in state if key not in own],
        "of another shape": [
            f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
            for key in own
            if key in state and state[key].shape != own[key].shape
        ],
    }
    if any(faults.values()):
        listed = "; ".join(f"{len(keys)} {kind} ({_some(keys)})" for kind, keys in faults.items() if keys)
        raise ValueError(f"{what} does not fit the network as configured: {listed}.")
    module.load_state_dict(dict(state))
    return module


def _some(keys: list[str], limit: int = 3) -> str:
    return ", ".join(keys[:limit]) + (", ..." if len(keys) > limit else "")


# --- foreign files --------------------------------------------------------------------------------------------------


def read_foreign(path: Path) -> State:
    """The flat state dict of a .safetensors file or of a pickle, out of the wrappings in use.

    Upstream's U-Net and SyncNet: {"global_step", "state_dict"}; OpenAI Whisper: {"dims", "model_state_dict"};
    VideoMAEv2: {"module"} or {"model"}. A DistributedDataParallel prefix `module.` is dropped.
    """
    if Path(path).suffix == ".safetensors":
        return load_file(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} holds more than tensors, or is no file of weights; not loaded.") from error
    for wrapping in ("state_dict", "model_state_dict", "module", "model"):
        if isinstance(state.get(wrapping), Mapping):
            state = state[wrapping]
    return {key.removeprefix("module."): value for key, value in state.items() if isinstance(value, Tensor)}


def init_unet(unet: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """Start a U-Net from SD 1.5 or from a LatentSync checkpoint without motion modules; returns the keys left fresh.

    As published, conv_in, conv_out and the audio keys and values are taken only where their shapes fit (SD 1.5 has 4
    input channels and 768-wide text); conv_in starts at zero then. Motion modules start fresh where the file has none.
    """
    own = unet.state_dict()
    optional = re.compile(r"conv_in\.|conv_out\.|.*attn2\.to_[kv]\.|.*motion_modules\.")
    fits = {key: value for key, value in state.items() if key in own and value.shape == own[key].shape}
    if "conv_in.weight" not in fits:
        fits.pop("conv_in.bias", None)
    fresh = [key for key in own if key not in fits]
    wrong = [key for key in fresh if not optional.match(key)] + [
        key for key in state if key not in own and not optional.match(key)
    ]
    if wrong:
        raise ValueError(
            f"These weights do not start this U-Net: {len(wrong)} keys are missing, unexpected or of another shape "
            f"({_some(wrong)})."
        )
    unet.load_state_dict(fits, strict=False)
    if "conv_in.weight" in fresh:
        nn.init.zeros_(unet.conv_in.weight)
        nn.init.zeros_(unet.conv_in.bias)
    return fresh


_WHISPER_LAYER = {
    "attn.query": "self_attn.q_proj",
    "attn.key": "self_attn.k_proj",
    "attn.value": "self_attn.v_proj",
    "attn.out": "self_attn.out_proj",
    "attn_ln": "self_attn_layer_norm",
    "mlp.0": "fc1",
    "mlp.2": "fc2",
    "mlp_ln": "final_layer_norm",
}


def whisper_encoder_state(state: Mapping[str, Tensor]) -> State:
    """OpenAI's or Hugging Face's Whisper -> transformers' WhisperEncoder; the decoder is left out."""
    if any(key.startswith("model.encoder.") for key in state):
        return {
            key.removeprefix("model.encoder."): value
            for key, value in state.items()
            if key.startswith("model.encoder.")
        }
    result = {}
    for key, value in state.items():
        if not key.startswith("encoder."):
            continue
        name = key.removeprefix("encoder.")
        if name == "positional_embedding":
            name = "embed_positions.weight"
        elif name.startswith("ln_post."):
            name = name.replace("ln_post", "layer_norm")
        elif match := re.fullmatch(r"blocks\.(\d+)\.(.+)\.(weight|bias)", name):
            name = f"layers.{match[1]}.{_WHISPER_LAYER[match[2]]}.{match[3]}"
        result[name] = value
    return result


_VIDEOMAE_LAYER = {
    "norm1.": "layernorm_before.",
    "norm2.": "layernorm_after.",
    "attn.proj.": "attention.output.dense.",
    "mlp.fc1.": "intermediate.dense.",
    "mlp.fc2.": "output.dense.",
}


def videomae_state(state: Mapping[str, Tensor]) -> State:
    """VideoMAEv2's VisionTransformer -> transformers' VideoMAEForVideoClassification (fused qkv is split)."""
    result = {}
    for key, value in state.items():
        if match := re.fullmatch(r"blocks\.(\d+)\.(.+)", key):
            layer, name = f"videomae.encoder.layer.{match[1]}.", match[2]
            if name == "attn.qkv.weight":
                for part, rows in zip(("query", "key", "value"), value.chunk(3), strict=True):
                    result[f"{layer}attention.attention.{part}.weight"] = rows
            elif name in ("attn.q_bias", "attn.v_bias"):
                part = "query" if name == "attn.q_bias" else "value"
                result[f"{layer}attention.attention.{part}.bias"] = value
            else:
                old, new = next(pair for pair in _VIDEOMAE_LAYER.items() if name.startswith(pair[0]))
                result[layer + name.replace(old, new, 1)] = value
        elif key.startswith("patch_embed.proj."):
            result[key.replace("patch_embed.proj.", "videomae.embeddings.patch_embeddings.projection.")] = value
        else:
            result[key.replace("head.", "classifier.")] = value
    return result


_VGG16_SLICES = (4, 9, 16, 23, 30)  # lpips cuts VGG16's features after each of five ReLUs


def lpips_vgg16_state(state: Mapping[str, Tensor]) -> State:
    """torchvision's VGG16 -> the trunk `net` of lpips.LPIPS(net="vgg")."""
    result = {}
    for key, value in state.items():
        if match := re.fullmatch(r"features\.(\d+)\.(weight|bias)", key):
            number = next(n for n, end in enumerate(_VGG16_SLICES, 1) if int(match[1]) < end)
            result[f"slice{number}.{match[1]}.{match[2]}"] = value
    return result
