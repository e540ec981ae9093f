"""Files of weights: written so that damage shows, read without running code, and loaded whole or not at all.

Ours are safetensors with one metadata entry, JSON: {"config": how to build the network, ..., "sha256": over all of it}.
Foreign pickles are read with weights_only=True. Whatever is wrong with a file is a ValueError of one sentence, raised
before the network is touched. Foreign key names are weights.py's business, places and checksums registry.py's.
"""

import errno
import hashlib
import json
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

_METADATA = "latentsync"  # one entry only: safetensors writes several in random order, and bytes must not depend on it
# What the two readers raise on bytes that are no weights, or no longer.
_DAMAGE = (pickle.UnpicklingError, SafetensorError, zipfile.BadZipFile, struct.error, EOFError, RuntimeError,
           ValueError, TypeError, LookupError, AttributeError, AssertionError, OverflowError, MemoryError)  # fmt: skip


# Of a folder in the layout of diffusers or transformers one file of weights is read, the first that is there.
FOLDER_WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin", "model.safetensors",
                  "pytorch_model.bin")  # fmt: skip


def stamp(path: Path) -> str:
    """16 hex digits over the whole content of a weights file, or over what is read of a folder."""
    parts = [path]
    if path.is_dir():
        parts = [path / name for name in FOLDER_WEIGHTS if (path / name).is_file()][:1]
        parts += [path / "config.json"] if (path / "config.json").is_file() else []
    digest = hashlib.sha256()
    for part in parts:
        digest.update(bytes.fromhex(registry.sha256_of(part)))
    return digest.hexdigest()[:16]


# --- ours -----------------------------------------------------------------------------------------------------------


def save(path: Path, state: Mapping[str, Tensor], config: Mapping[str, Any], **metadata: Any) -> None:
    """Write a state dict with what is needed to rebuild its network; same content, same bytes."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    facts = {"config": dict(config)} | metadata
    facts["sha256"] = _sha256(tensors, facts)
    text = json.dumps(facts, sort_keys=True, allow_nan=False)
    with replacing(Path(path)) as temporary:
        save_file(tensors, temporary, metadata={_METADATA: text})


def metadata(path: Path) -> dict[str, Any]:
    """What `save` wrote beside the tensors: `config` and the rest. The tensors are not looked at."""
    return {key: value for key, value in _facts(path).items() if key != "sha256"}


def is_ours(path: Path) -> bool:
    """Whether `save` wrote this file; only a name that ends in .safetensors is looked into."""
    require_file(path)
    if Path(path).suffix != ".safetensors":
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return _METADATA in (file.metadata() or {})
    except _DAMAGE as error:
        raise ValueError(_damaged(path, error)) from error


def load(path: Path) -> tuple[State, dict[str, Any]]:
    """The tensors and the metadata of a file that `save` wrote.

    Raises:
        ValueError: it is no such file, or a bit of it is not as it was written.
    """
    facts = _facts(path)
    expected = facts.pop("sha256", None)
    try:
        state = load_file(path)
    except _DAMAGE as error:
        raise ValueError(_damaged(path, error)) from error
    if _sha256(state, facts) != expected:
        raise ValueError(f"{path} is damaged: it does not have the sha256 that it was written with; make it again.")
    return state, facts


def _facts(path: Path) -> dict[str, Any]:
    require_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_METADATA)
    except _DAMAGE as error:
        raise ValueError(_damaged(path, error)) from error
    if text is None:
        raise ValueError(f"{path} carries no configuration in its metadata, so it was not written by this project.")
    try:
        facts = json.loads(text)
    except ValueError as error:
        raise ValueError(_damaged(path, error)) from error
    if not isinstance(facts, dict) or not isinstance(facts.get("config"), dict):
        raise ValueError(f"{path} is damaged: its metadata has no configuration; make it again.")
    return facts


def _sha256(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> str:
    """Over names, types, shapes and bytes of the tensors, and over the other metadata."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, allow_nan=False).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def read(path: Path) -> tuple[State, dict[str, Any]]:
    """Tensors and metadata of any file of weights: ours, or a foreign one, which has no metadata.

    Raises:
        ValueError: as `load` and `read_foreign`.
    """
    return load(path) if is_ours(path) else (read_foreign(path), {})


# --- foreign files --------------------------------------------------------------------------------------------------


def read_foreign(path: Path, intact: bool = False) -> State:
    """The flat state dict of a .safetensors file or of a pickle, out of the wrappings in use.

    Upstream's U-Net and SyncNet: {"global_step", "state_dict"}; OpenAI Whisper: {"dims", "model_state_dict"};
    VideoMAEv2: {"module"} or {"model"}; GFPGAN and CodeFormer: {"params_ema"}. A DistributedDataParallel prefix
    `module.` is dropped. Files whose sha256 is known (registry.py) are compared with it; without one the checksums
    inside a zip-format pickle are, which torch does not look at.

    Args:
        intact: the caller has compared the sha256 already (five gigabytes take three seconds).

    Raises:
        ValueError: it is damaged, holds more than tensors, or is something else, such as a web page.
    """
    path = Path(path)
    require_file(path)
    known = intact or registry.require_intact(path)
    if is_program(path):
        raise ValueError(f"{path} is a program (ONNX or TorchScript), not a file of tensors; give the tensors.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if not known and zipfile.is_zipfile(path):
            _check_sums(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} is no file of weights, or holds more than tensors, which might run code, so it is not loaded; get "
            "it from its source (docs/licences.md), or as safetensors."
        ) from error
    except _DAMAGE as error:
        raise ValueError(_damaged(path, error)) from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # a wrong offset in the file; anything else is the disk's
            raise
        raise ValueError(_damaged(path, error)) from error
    for wrapping in ("params_ema", "params", "state_dict", "model_state_dict", "module", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(wrapping), Mapping):
            state = state[wrapping]
    tensors = {}
    if isinstance(state, Mapping):
        tensors = {str(key).removeprefix("module."): value for key, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(f"{path} holds no tensors by name where its kind of file has them; fetch it again.")
    return tensors


def is_program(path: Path) -> bool:
    """Whether a file is run rather than read: ONNX, or TorchScript (a zip archive with constants beside its code)."""
    if path.suffix == ".onnx":
        return True
    try:
        with zipfile.ZipFile(path) as file:
            return any(name.endswith("/constants.pkl") for name in file.namelist())
    except (*_DAMAGE, OSError):  # no archive, or a damaged one: the readers tell
        return False


def _check_sums(path: Path) -> None:
    with zipfile.ZipFile(path) as file:
        if any(info.CRC for info in file.infolist()):  # torch can be told to write none
            wrong = file.testzip()
            if wrong is not None:
                raise ValueError(f"the checksum of {wrong} is wrong")


def require_file(path: Path) -> None:
    """Refuse what is no file, a web page or a pointer, with a sentence of its own."""
    if not Path(path).is_file():
        raise ValueError(f"{path} {'is a folder, not a file of weights' if Path(path).is_dir() else 'does not exist'}.")
    with open(path, "rb") as file:
        start = file.read(64).lstrip().lower()
    if not start:
        raise ValueError(f"{path} is empty; fetch or make it again.")
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ValueError(
            f"{path} is a web page, not a file of weights: the download was answered by a page; fetch again."
        )
    if start.startswith(b"version https://git-lfs"):
        raise ValueError(
            f"{path} is a Git LFS pointer, not the file of weights itself; fetch it again, or git lfs pull."
        )


def _damaged(path: Path, error: BaseException) -> str:
    said = re.sub(r"\s+", " ", str(error)).strip()[:100]
    why = f" ({said})" if " " in said else ""  # a bare number or name says nothing
    return f"{path} is damaged or no file of weights{why}; fetch or make it again."


# --- into a network -------------------------------------------------------------------------------------------------


def build_with(build: Callable[[], Net], state: Mapping[str, Tensor], what: str) -> Net:
    """The network with exactly these weights; nothing is initialised, nothing copied (seconds saved on a billion).

    `build` must make its parameters and buffers from the state dict alone: true of the networks of this project.
    """
    with torch.device("meta"):
        network = build()
    return load_strictly(network, state, what)


def load_strictly(module: Net, state: Mapping[str, Tensor], what: str, raw: Mapping[str, Tensor] | None = None) -> Net:
    """Load every key, or say in one sentence what does not fit and, where it is known, what the file is.

    A network on the meta device takes the tensors themselves, as float32 where it has float32.

    Args:
        what: the file's name, for the sentence.
        raw: the state dict before its names were mapped.

    Raises:
        ValueError: keys are missing, unexpected, of another shape, not numbers of the right kind, or not finite. The
            module is as it was.
    """
    own = module.state_dict()
    state = _counters(own, state) | dict(state)
    both = [key for key in own if key in state]
    kinds = {key: (state[key].is_floating_point(), own[key].is_floating_point()) for key in both}
    faults = {
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
        "not finite": [key for key in both if kinds[key][0] and not is_finite(state[key])],
    }
    if any(faults.values()):
        told = "; ".join(f"{len(keys)} {kind} ({listed(keys)})" for kind, keys in faults.items() if keys)
        looks = layouts.recognise(state if raw is None else raw)
        raise ValueError(f"{what} does not fit the network as configured: {told}." + (f" {looks}" if looks else ""))
    assign = any(value.is_meta for value in own.values())
    fitting = {key: state[key].to(own[key].dtype) if assign else state[key] for key in own}
    module.load_state_dict(fitting, assign=assign)
    return module


def _counters(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> State:
    """Batch norms' counters of batches, which torch before 0.4.1 did not save; in evaluation nothing reads them."""
    found = {}
    for key in own:
        norm, _, name = key.rpartition(".")
        if name == "num_batches_tracked" and key not in state and f"{norm}.running_var" in state:
            found[key] = torch.zeros((), dtype=own[key].dtype)
    return found


def is_finite(tensor: Tensor) -> bool:
    """Whether all numbers are; the smallest and the largest tell, in one pass without a mask of the tensor's size."""
    numbers = tensor.float() if tensor.element_size() == 1 else tensor  # no comparisons of eight bits in torch
    return tensor.numel() == 0 or all(bool(end.isfinite()) for end in numbers.aminmax())


def listed(keys: Iterable[str], limit: int = 4) -> str:
    """Names with their numbers left open and counted: `attentions.*.norm.weight x 12, conv_in.bias, and 3 more`."""
    counts = Counter(re.sub(r"\b\d+\b(?=\.)", "*", key) for key in keys)
    shown = [name + (f" x {n}" if n > 1 else "") for name, n in list(counts.items())[:limit]]
    rest = sum(list(counts.values())[limit:])
    return ", ".join(shown) + (f", and {rest} more" if rest else "")
