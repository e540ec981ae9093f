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

DEVICES = Path("/proc/driver/nvidia/gpus")


def count() -> int:
    """NVIDIA GPUs of this machine."""
    return len(list(DEVICES.iterdir())) if DEVICES.is_dir() else 0


def lease(devices: int | None = None) -> IO[str] | None:
    """Wait for a free device, make it the only visible one; keep the returned file open as long as it is used."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return None
    devices = count() if devices is None else devices
    while devices:
        for device in range(devices):
            file = open(Path(tempfile.gettempdir()) / f"latentsync-gpu-{device}.lock", "a")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                continue
            os.environ["CUDA_VISIBLE_DEVICES"] = str(device)
            return file
        time.sleep(1)
    return None
