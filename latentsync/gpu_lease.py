"""One CUDA device for each local job: Snakemake counts GPUs but hands out none, so every job would land on the first.

A lease is an exclusive flock on a file in the temp folder, one per device, held for the life of the process. Where a
scheduler has already chosen (CUDA_VISIBLE_DEVICES is set) or there is no GPU, nothing happens.
"""

import fcntl
import os
import tempfile
import time
from pathlib import Path
from typing import IO

from pydantic import BaseModel

# Steps that always use a GPU where there is one; `wanted` knows those that do for some backends.
STEPS = {
    "extract_features",
    "train_vae",
    "train_syncnet",
    "train_unet_stage1",
    "train_unet_stage2",
    "generate",
    "enhance",
}
DEVICES = Path("/proc/driver/nvidia/gpus")


def count() -> int:
    """NVIDIA GPUs of this machine."""
    return len(list(DEVICES.iterdir())) if DEVICES.is_dir() else 0


def wanted(step: str, section: BaseModel) -> bool:
    """Whether a step, configured so, runs a network on the GPU. hyperiqa stays on the CPU, see models/quality.py."""
    if step == "align_faces":
        return section.backend != "mediapipe"
    if step == "score_sync":
        return section.backend != "envelope"
    if step == "evaluate":
        return section.faces != "mediapipe"
    return step in STEPS


def lease(devices: int | None = None) -> IO[str] | None:
    """Wait for a free device, make it the only visible one; keep the returned file open as long as it is used."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return None
    devices = count() if devices is None else devices
    while devices:
        for device in range(devices):
            path = Path(tempfile.gettempdir()) / f"latentsync-gpu-{device}.lock"
            try:
                file = open(path, opener=_shared)
            except PermissionError:
                raise ValueError(
                    f"{path} was made by another user and cannot be read; remove it, or choose a device yourself with "
                    "CUDA_VISIBLE_DEVICES=0."
                ) from None
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                continue
            os.environ["CUDA_VISIBLE_DEVICES"] = str(device)
            return file
        time.sleep(1)
    return None


def _shared(path: str, _: int) -> int:
    """Open the lock of whoever came first, or make one that all users can open.

    Read-only is enough for flock; Linux lets nobody O_CREAT another's file in /tmp, whatever its mode
    (fs.protected_regular), so creating is the second try.
    """
    try:
        return os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        pass
    try:
        file = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0o444)
    except FileExistsError:  # another job was faster
        return os.open(path, os.O_RDONLY)
    os.fchmod(file, 0o444)  # the umask took some of it
    return file
