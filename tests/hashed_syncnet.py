"""The reproducible filling of golden/syncnet_v2 (its README): weights of joonson's SyncNet without storing them."""

from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file

from latentsync.models.syncnet_v2 import SyncNetV2


def state_dict(folder: Path) -> dict[str, torch.Tensor]:
    """All 102 entries: tensors of two and more dimensions from integer hashes, the others from the golden file."""
    stored = load_file(folder / "one_dim_params_and_bn_buffers.safetensors")
    state = SyncNetV2().state_dict()
    for index, (key, value) in enumerate(sorted(state.items())):
        if value.dim() >= 2:
            state[key] = torch.from_numpy(_hashed(index, value.numel(), value[0].numel())).reshape(value.shape)
        elif key in stored:
            state[key] = torch.from_numpy(stored[key])
    return state


def _hashed(index: int, size: int, fan_in: int) -> np.ndarray:
    """float32 (size,), uniform in +-sqrt(6 / fan_in)."""
    mask = np.uint64(0xFFFFFFFF)
    x = np.arange(1, size + 1, dtype=np.uint64) * np.uint64(0x9E3779B1) + np.uint64((index + 1) * 0x85EBCA77) & mask
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor) & mask
    x ^= x >> np.uint64(16)
    return ((x / 2**32 * 2 - 1) * np.sqrt(6 / fan_in)).astype(np.float32)
