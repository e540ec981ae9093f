"""The resumable state of a training: one file per saved step, in a folder per fingerprint.

    results/<run>/<step>/state/lock                                held by the one process that trains
    results/<run>/<step>/state/<fingerprint>/step-00000100.pt      model, optimizer, scaler, EMA, progress
    results/<run>/<step>/state/<fingerprint>/fits.json             what the fingerprint is of

The folder is undeclared, since Snakemake deletes what is declared. A state is loaded only from the folder of its own
fingerprint, so a changed section, data row, input or thread count trains from scratch and keeps the old states.
"""

import fcntl
import json
import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from latentsync.config import VERSIONS, Training
from latentsync.ledger.files import fingerprint, replacing, write_json

KEPT_STATES = 2
FITS = "fits.json"


def ranks() -> PartialState:
    """This process among those that train. Without `cpu=True` on CPUs, accelerate lets each process train alone."""
    return PartialState(cpu=not torch.accelerator.is_available())


def fits(step: str, cfg: Training, data: Mapping[str, Any]) -> dict[str, Any]:
    """What a state must fit, by name: section, data and inputs (`data`), code version, torch, processes, processor.

    The number of steps counts only where the learning rate depends on it: a longer training continues a shorter one.
    The intervals of rows and states change no weight. Equal bytes are promised on CPUs only, so a training that
    resumes on another type of GPU continues.
    """
    ignored = {"save_every", "log_every", "torch_threads"} | (set() if cfg.cooldown_steps else {"steps"})
    capability, threads = torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()
    on_cpu = f"{platform.machine()} {capability}, threads: {threads}"
    return {
        **cfg.model_dump(mode="json", exclude=ignored),
        **{f"{name} (data)": fingerprint(value) for name, value in data.items()},
        "version": VERSIONS[step],
        "torch": torch.__version__,
        "processes": ranks().num_processes,
        "processor": "cuda" if ranks().device.type == "cuda" else on_cpu,  # pyright: ignore[reportOptionalMemberAccess]  # accelerate sets it
    }


def folder_of(root: Path, fitting: Mapping[str, Any]) -> Path:
    """The folder of the states that fit; writes what they fit into it."""
    folder = root / fingerprint(fitting)
    if ranks().is_main_process:
        write_json(folder / FITS, fitting)
    return folder


@contextmanager
def only_writer(folder: Path) -> Iterator[Path]:
    """Hold the folder's lock for the block, on the main process; other ranks wait for it.

    After kill -9 of Snakemake its training may still run: the new process waits for it and resumes from its states.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        if ranks().is_main_process:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"Another process still trains in {folder}: waiting for it.", file=sys.stderr, flush=True)
                fcntl.flock(lock, fcntl.LOCK_EX)
        ranks().wait_for_everyone()
        yield folder


def saved(folder: Path) -> list[Path]:
    """States of one fingerprint, oldest first."""
    return sorted(folder.glob("step-*.pt"))


def name(step: int) -> str:
    """File name of the state after this many steps."""
    return f"step-{step:08d}.pt"


def step_of(state: Path) -> int:
    """The number of finished steps that a state was saved after."""
    return int(state.stem.removeprefix("step-"))


def save(folder: Path, step: int, content: dict[str, Any]) -> None:
    """Write a state under a temporary name, rename it, and prune all but the newest two."""
    with replacing(folder / name(step)) as temporary:
        torch.save(content, temporary)
    for old in saved(folder)[:-KEPT_STATES]:
        old.unlink()


def latest(folder: Path, max_step: int) -> dict[str, Any] | None:
    """The newest state that is not beyond max_step; None if there is none (with a message if others do not fit)."""
    states = [state for state in saved(folder) if step_of(state) <= max_step]
    if states:
        print(f"Resuming at {states[-1]}.", file=sys.stderr, flush=True)
        return torch.load(states[-1], map_location="cpu", weights_only=True)
    others = [state for state in folder.parent.glob("*/step-*.pt") if state.parent != folder]
    if others and ranks().is_main_process:
        newest = max(others, key=lambda state: state.stat().st_mtime)
        changed = _changed(newest.parent / FITS, folder / FITS)
        print(
            f"{newest} does not fit ({changed}), so training starts from scratch; it is kept.",
            file=sys.stderr,
            flush=True,
        )
    return None


def _changed(old: Path, new: Path) -> str:
    if not old.exists():
        return "it does not say what it fits"
    before, now = (json.loads(path.read_text(encoding="utf-8")) for path in (old, new))
    return "other " + ", ".join(name for name in now | before if before.get(name) != now.get(name))
