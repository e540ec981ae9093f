"""Weights files: written with a checksum, read without running code, and loaded completely or not at all.

Files of this project are safetensors with one metadata entry in JSON: {"config": how to build the network, ...,
"sha256": over tensors and metadata}. Foreign pickles are read with weights_only=True. Any problem with a file is a
ValueError, raised before the network changes. layouts.py maps foreign key names; registry.py knows paths and sha256.
"""

import errno
import hashlib
import json
import math
import pickle
import re
import struct
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from latentsync.ledger.files import replacing
from latentsync.weights import layouts, registry

State = dict[str, Tensor]
Net = TypeVar("Net", bound=nn.Module)

_METADATA = "latentsync"  # a single entry: safetensors writes several in random order, which would change the bytes
# What torch and safetensors raise for files that are damaged or contain no weights.
_DAMAGE = (pickle.UnpicklingError, SafetensorError, zipfile.BadZipFile, struct.error, EOFError, RuntimeError,
           ValueError, TypeError, LookupError, AttributeError, AssertionError, OverflowError, MemoryError)  # fmt: skip


# In a folder in the layout of diffusers or transformers, the first of these files that exists is read.
FOLDER_WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin", "model.safetensors",
                  "pytorch_model.bin")  # fmt: skip


def content_hash(path: Path) -> str:
    """16 hex digits over the content of a weights file, or over the files of a folder that are read."""
    parts = [path]
    if path.is_dir():
        parts = [path / name for name in FOLDER_WEIGHTS if (path / name).is_file()][:1]
        parts += [path / "config.json"] if (path / "config.json").is_file() else []
    digest = hashlib.sha256()
    for part in parts:
        digest.update(bytes.fromhex(registry.sha256_of(part)))
    return digest.hexdigest()[:16]


# --- files of this project ------------------------------------------------------------------------------------------


def save(path: Path, state: Mapping[str, Tensor], config: Mapping[str, Any], **metadata: Any) -> None:
    """Write a state dict and the configuration of its network; the same content gives the same bytes."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    metadata = {"config": dict(config)} | metadata
    metadata["sha256"] = _sha256(tensors, metadata)
    text = json.dumps(metadata, sort_keys=True, allow_nan=False)
    with replacing(Path(path)) as temporary:
        save_file(tensors, temporary, metadata={_METADATA: text})


def metadata(path: Path) -> dict[str, Any]:
    """The metadata that `save` wrote: `config` and the rest. The tensors are not read."""
    return {key: value for key, value in _read_metadata(path).items() if key != "sha256"}


def n_parameters(path: Path) -> int:
    """Numbers in the tensors of a safetensors file, from its header."""
    with safe_open(path, framework="pt") as file:
        return sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())


def is_ours(path: Path) -> bool:
    """Whether `save` wrote this file; only files named *.safetensors are opened."""
    require_file(path)
    if Path(path).suffix != ".safetensors":
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return _METADATA in (file.metadata() or {})
    except _DAMAGE as error:
        raise ValueError(_damaged(path, error)) from error


def load(path: Path) -> tuple[State, dict[str, Any]]:
    """Tensors and metadata of a file that `save` wrote.

    Raises:
        ValueError: `save` did not write the file, or its content has changed since.
    """
    metadata = _read_metadata(path)
    expected = metadata.pop("sha256", None)
    try:
        state = load_file(path)
    except _DAMAGE as error:
        raise ValueError(_damaged(path, error)) from error
    if _sha256(state, metadata) != expected:
        raise ValueError(f"{path} is damaged: its content does not have the recorded sha256; create it again.")
    return state, metadata


def _read_metadata(path: Path) -> dict[str, Any]:
    require_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_METADATA)
    except _DAMAGE as error:
        raise ValueError(_damaged(path, error)) from error
    if text is None:
        raise ValueError(f"{path} has no configuration in its metadata, so it was not written by this project.")
    try:
        metadata = json.loads(text)
    except ValueError as error:
        raise ValueError(_damaged(path, error)) from error
    if not isinstance(metadata, dict) or not isinstance(metadata.get("config"), dict):
        raise ValueError(f"{path} is damaged: its metadata has no configuration; create it again.")
    return metadata


def _sha256(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> str:
    """The sha256 over names, types, shapes and bytes of the tensors and over the other metadata."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True, allow_nan=False).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())  # pyright: ignore[reportArgumentType]  # arrays are buffers
    return digest.hexdigest()


def read(path: Path) -> tuple[State, dict[str, Any]]:
    """Tensors and metadata of any weights file; a foreign file has no metadata.

    Raises:
        ValueError: as `load` and `read_foreign`.
    """
    return load(path) if is_ours(path) else (read_foreign(path), {})


# --- foreign files --------------------------------------------------------------------------------------------------


def read_foreign(path: Path, intact: bool = False) -> State:
    """The flat state dict of a .safetensors file or of a pickle, without the dicts that publishers wrap it in.

    Upstream's U-Net and SyncNet: {"global_step", "state_dict"}; OpenAI Whisper: {"dims", "model_state_dict"};
    VideoMAEv2: {"module"} or {"model"}; GFPGAN and CodeFormer: {"params_ema"}. A DistributedDataParallel prefix
    `module.` is removed. The file is compared with its sha256 if one is known (registry.py). If not, the checksums
    inside a zip-format pickle are checked, which torch does not do.

    Args:
        intact: the caller has already compared the sha256 (three seconds for five gigabytes).

    Raises:
        ValueError: the file is damaged, contains more than tensors, or is something else, such as a web page.
    """
    path = Path(path)
    require_file(path)
    known = intact or registry.require_intact(path)
    if is_program(path):
        raise ValueError(f"{path} is a program (ONNX or TorchScript); give a file of tensors.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if not known and zipfile.is_zipfile(path):
            _require_checksums(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} is not a weights file, or contains more than tensors and could run code, so it is not loaded; get "
            "it from its source (docs/licences.md), or as safetensors."
        ) from error
    except _DAMAGE as error:
        raise ValueError(_damaged(path, error)) from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # EINVAL: a wrong offset in the file; other errors come from the disk
            raise
        raise ValueError(_damaged(path, error)) from error
    for wrapper in ("params_ema", "params", "state_dict", "model_state_dict", "module", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    tensors = {}
    if isinstance(state, Mapping):
        tensors = {str(key).removeprefix("module."): value for key, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(f"{path} contains no named tensors at the expected place; fetch it again.")
    return tensors


def is_program(path: Path) -> bool:
    """Whether a file is a program: ONNX, or TorchScript (a zip archive that contains code and constants.pkl)."""
    if path.suffix == ".onnx":
        return True
    try:
        with zipfile.ZipFile(path) as file:
            return any(name.endswith("/constants.pkl") for name in file.namelist())
    except (*_DAMAGE, OSError):  # not an archive, or a damaged one: reading it raises the error
        return False


def _require_checksums(path: Path) -> None:
    with zipfile.ZipFile(path) as file:
        if any(info.CRC for info in file.infolist()):  # torch can write files without checksums
            wrong = file.testzip()
            if wrong is not None:
                raise ValueError(f"the checksum of {wrong} is wrong")


def require_file(path: Path) -> None:
    """Refuse a missing or empty file, a folder, a web page and a Git LFS pointer.

    Raises:
        ValueError: the path is one of these.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path} {'is a folder, not a weights file' if Path(path).is_dir() else 'does not exist'}.")
    with open(path, "rb") as file:
        start = file.read(64).lstrip().lower()
    if not start:
        raise ValueError(f"{path} is empty; fetch or create it again.")
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ValueError(
            f"{path} is a web page, not a weights file: the server answered the download with a page; fetch again."
        )
    if start.startswith(b"version https://git-lfs"):
        raise ValueError(
            f"{path} is a Git LFS pointer, not the weights file itself; fetch it again, or run git lfs pull."
        )


def _damaged(path: Path, error: BaseException) -> str:
    message = re.sub(r"\s+", " ", str(error)).strip()[:100]
    reason = f" ({message})" if " " in message else ""  # a bare number or name explains nothing
    return f"{path} is damaged or not a weights file{reason}; fetch or create it again."


# --- loading into a network -----------------------------------------------------------------------------------------


def build_with(build: Callable[[], Net], state: Mapping[str, Tensor], what: str) -> Net:
    """A network made of these tensors, without initialising or copying any (saves seconds for 10^9 parameters).

    Every parameter and buffer of the network that `build` returns must be in its state dict, as in all networks of
    this project.
    """
    with torch.device("meta"):
        network = build()
    return load_strictly(network, state, what)


def load_strictly(module: Net, state: Mapping[str, Tensor], what: str, raw: Mapping[str, Tensor] | None = None) -> Net:
    """Load every key; if one does not fit, say why and, if possible, what the file contains.

    A network on the meta device uses the given tensors themselves, converted to its own types.

    Args:
        what: name of the file, for the message.
        raw: the state dict before its keys were mapped.

    Raises:
        ValueError: tensors are missing, unexpected, of another shape or type, or non-finite. The module is unchanged.
    """
    own = module.state_dict()
    state = _missing_counters(own, state) | dict(state)
    both = [key for key in own if key in state]
    kinds = {key: (state[key].is_floating_point(), own[key].is_floating_point()) for key in both}
    problems = {
        "missing": [key for key in own if key not in state],
        "unexpected": [key for key in state if key not in own],
        "of another shape": [
            f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
            for key in both
            if state[key].shape != own[key].shape
        ],
        "of another type": [
            f"{key} {state[key].dtype} instead of {own[key].dtype}" for key in both if len(set(kinds[key])) > 1
        ],
        "non-finite": [key for key in both if kinds[key][0] and not is_finite(state[key])],
    }
    if any(problems.values()):
        listing = "; ".join(f"{len(keys)} {problem} ({listed(keys)})" for problem, keys in problems.items() if keys)
        looks = layouts.recognise(state if raw is None else raw)
        raise ValueError(f"{what} does not fit the network as configured: {listing}." + (f" {looks}" if looks else ""))
    assign = any(value.is_meta for value in own.values())
    fitting = {key: state[key].to(own[key].dtype) if assign else state[key] for key in own}
    module.load_state_dict(fitting, assign=assign)
    return module


def _missing_counters(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> State:
    """Batch counters of batch norms, which torch before 0.4.1 did not save and which evaluation does not read."""
    found = {}
    for key in own:
        norm, _, name = key.rpartition(".")
        if name == "num_batches_tracked" and key not in state and f"{norm}.running_var" in state:
            found[key] = torch.zeros((), dtype=own[key].dtype)
    return found


def is_finite(tensor: Tensor) -> bool:
    """Whether all values are finite; minimum and maximum show it in one pass and without a mask."""
    numbers = tensor.float() if tensor.element_size() == 1 else tensor  # torch cannot compare 8-bit floats
    return tensor.numel() == 0 or all(bool(end.isfinite()) for end in numbers.aminmax())


def listed(keys: Iterable[str], limit: int = 4) -> str:
    """Names grouped by pattern and counted: `attentions.*.norm.weight x 12, conv_in.bias, and 3 more`."""
    counts = Counter(re.sub(r"\b\d+\b(?=\.)", "*", key) for key in keys)
    shown = [name + (f" x {n}" if n > 1 else "") for name, n in list(counts.items())[:limit]]
    rest = sum(list(counts.values())[limit:])
    return ", ".join(shown) + (f", and {rest} more" if rest else "")
