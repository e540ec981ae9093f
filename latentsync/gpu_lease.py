"""Which steps use a GPU, and one CUDA device for each local job.

Snakemake counts GPUs but assigns none, so without a lease every job would use the first. A lease is an exclusive flock
on a file in the temp folder, one file per device, held for the life of the process. Nothing happens where a scheduler
has already assigned a device (CUDA_VISIBLE_DEVICES is set) or there is no GPU.
"""

import fcntl
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from latentsync.faces.backends import BACKENDS
from latentsync.ledger.files import holder, wait_for
from latentsync.sync.scorers import SCORERS

DEVICES = Path("/proc/driver/nvidia/gpus")


def _always(_: Any) -> bool:
    return True


# Step -> whether it runs a network on the GPU, from its section. score_quality is missing: hyperiqa stays on the CPU
# (models/quality.py), and so are steps without a network.
USES_GPU: dict[str, Callable[[Any], bool]] = {
    "align_faces": lambda section: BACKENDS[section.backend].gpu,
    "score_sync": lambda section: SCORERS[section.backend].gpu,
    "evaluate": lambda section: BACKENDS[section.faces].gpu or SCORERS[section.sync_backend].gpu,
    "train_vae": _always,
    "extract_features": _always,
    "train_syncnet": _always,
    "train_unet_stage1": _always,
    "train_unet_stage2": _always,
    "generate": _always,
}


def count() -> int:
    """Number of NVIDIA GPUs of this machine."""
    return len(list(DEVICES.iterdir())) if DEVICES.is_dir() else 0


def wanted(step: str, section: Any) -> bool:
    """Whether a step with this section of the configuration runs a network on the GPU."""
    return step in USES_GPU and USES_GPU[step](section)


def lease(devices: int | None = None) -> IO[str] | None:
    """Wait for a free device and make it the only visible one; keep the returned file open while the device is used.

    After a few seconds it says on stderr which processes hold the devices.

    Raises:
        ValueError: the lock file cannot be read.
    """
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return None
    devices = count() if devices is None else devices
    leased: list[IO[str]] = []
    if devices:
        wait_for(lambda: any(_take(device, leased) for device in range(devices)), lambda: _held(devices), pause_s=1)
    return leased[0] if leased else None


def _take(device: int, leased: list[IO[str]]) -> bool:
    file = _open(device)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return False
    os.environ["CUDA_VISIBLE_DEVICES"] = str(device)
    leased.append(file)
    return True


def _held(devices: int) -> str:
    """Who holds the devices, as a part of a sentence."""
    holders = []
    for device in range(devices):
        with _open(device) as file:
            holders.append(f"{device} is held by {holder(file) or 'another process'}")
    return "No GPU is free: " + ", ".join(holders)


def _open(device: int) -> IO[str]:
    path = Path(tempfile.gettempdir()) / f"latentsync-gpu-{device}.lock"
    try:
        return open(path, opener=_shared)
    except PermissionError:
        raise ValueError(
            f"{path} belongs to another user and cannot be read; remove it, or choose a device yourself with "
            "CUDA_VISIBLE_DEVICES=0."
        ) from None


def _shared(path: str, _: int) -> int:
    """Open a lock file, or create one that all users can open.

    flock needs no more than read access. O_CREAT comes second: Linux refuses it for another user's file in /tmp,
    whatever the file's mode (fs.protected_regular).
    """
    try:
        return os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        pass
    try:
        file = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0o444)
    except FileExistsError:  # another job created it meanwhile
        return os.open(path, os.O_RDONLY)
    os.fchmod(file, 0o444)  # undo the umask
    return file
