"""Run one step, as the rules do.

    python -m latentsync.steps STEP --config JSON --input NAME PATH... --output NAME PATH [--sources FOLDER]

A command from a log can be pasted into a shell. A user error, and a fault of the machine wherever it shows, ends with
one sentence and exit status 1; being stopped ends with exit status 130.
"""

import argparse
import ctypes
import importlib
import json
import os
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

from latentsync import gpu_lease
from latentsync.config import STEP_SECTIONS, VERSIONS
from latentsync.ledger import crashes, faults
from latentsync.ledger.columns import KINDS, columns
from latentsync.ledger.files import iterate_ledger, locked, run_dir

MODULES = {"train_unet_stage1": "train_unet", "train_unet_stage2": "train_unet"}  # two rules, one module


def main(argv: list[str] | None = None, own_process: bool = False) -> int:
    """Parse the arguments and call the step's `run(cfg, inputs, outputs, sources)`; returns the exit status.

    `inputs`: name -> list of paths. `outputs`: name -> path, or for --outputs a list of paths. `sources`: the folder of
    the raw videos, or None. ValueError and OSError are printed as one sentence.

    `own_process`: this process runs nothing else, so a step that writes a ledger may be restarted after a crash.
    """
    parser = argparse.ArgumentParser(prog="python -m latentsync.steps", description=__doc__)
    parser.add_argument("step", choices=STEP_SECTIONS)
    parser.add_argument("--config", required=True, help="the step's section as JSON; {} means the defaults")
    named: dict[str, Any] = {"action": "append", "default": [], "metavar": ("NAME", "PATH")}
    parser.add_argument("--input", nargs="+", help="a named input: any number of files", **named)
    parser.add_argument("--output", nargs=2, help="a named output", **named)
    parser.add_argument("--outputs", nargs="+", help="a named output that is a list of files, one per shard", **named)
    parser.add_argument("--sources", type=Path, help="folder of the raw videos; only read, never changed")
    parser.add_argument("--version", type=int, help="version of the step; ignored, it is there for Snakemake's record")
    args = parser.parse_args(argv)
    cfg = STEP_SECTIONS[args.step].model_validate(json.loads(args.config))
    # Thread counts change sums, so they are configuration; libraries read them when they are imported.
    threads = str(getattr(cfg, "torch_threads", 1))
    os.environ.update({name: threads for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")})
    os.environ.setdefault("GOMP_SPINCOUNT", "300000")  # about a millisecond: see docs/decisions.md
    _keep_freed_memory()
    device = None
    inputs = {name: [Path(path) for path in paths] for name, *paths in args.input}
    outputs: dict[str, Path | list[Path]] = {name: Path(path) for name, path in args.output}
    outputs |= {name: [Path(path) for path in paths] for name, *paths in args.outputs}
    if own_process and isinstance(ledger := outputs.get("ledger"), Path):
        crashes.restart_on_crash(crashes.path_of(ledger))
    try:
        with _output_lock(args.step, outputs):
            if gpu_lease.wanted(args.step, cfg):
                device = gpu_lease.lease()  # before CUDA is initialised; held until the file is closed
            module = importlib.import_module(f"latentsync.steps.{MODULES.get(args.step, args.step)}")
            module.run(cfg, inputs, outputs, args.sources)
    except KeyboardInterrupt:
        _say(f"{args.step}: stopped; {faults.CARRY_ON}.")
        return 130
    except Exception as error:
        if (sentence := _sentence(error, inputs, outputs)) is None:
            raise
        if own_process:  # a zip file on a full disk would complain once more as it is deleted
            sys.unraisablehook = lambda _: None
        _say(f"{args.step}: {' '.join([sentence, *getattr(error, '__notes__', [])])}")
        return 1
    finally:
        if device is not None:
            device.close()
    return 0


def _sentence(error: Exception, inputs: Mapping[str, list[Path]], outputs: Mapping[str, Any]) -> str | None:
    """What to tell about an error; None for a bug, which deserves its traceback."""
    folder = run_dir(_first(outputs)) if outputs else Path("results")
    if fault := faults.sentence(error, folder):
        return fault
    if isinstance(error, KeyError) and (old := _without_column(error.args[0], inputs)):
        return old
    return str(error) if isinstance(error, ValueError | OSError) else None


def _without_column(name: Any, inputs: Mapping[str, list[Path]]) -> str | None:
    """What to tell if an input ledger has no column of this name, although the step that writes it is done."""
    writers = {found[name][1].step for kind in KINDS.values() if name in (found := columns(kind))} & VERSIONS.keys()
    order = list(VERSIONS)  # the order of the data
    for path in (
        path for paths in inputs.values() for path in paths if path.suffix == ".jsonl" and path.parent.name in VERSIONS
    ):
        due = sorted(step for step in writers if order.index(step) <= order.index(path.parent.name))
        if due and any(row.get("status") == "ok" and name not in row for row in iterate_ledger(path)):
            return (
                f"{path} has rows without {name}, as an older version of this package wrote them. Run the same command "
                f"again with --forcerun {' '.join(due)}; finished work is kept."
            )
    return None


def _first(outputs: Mapping[str, Any]) -> Path:
    first = next(iter(outputs.values()))
    return first if isinstance(first, Path) else first[0]


def _say(sentence: str) -> None:
    with suppress(OSError):  # the log may be on the disk that is full
        print(sentence, file=sys.stderr, flush=True)


def _keep_freed_memory() -> None:
    """Keep freed blocks above 128 kB in the process; glibc returns them, and the next image faults its pages in again.

    Measured on align_faces at 1080 x 1920, one core: it saves 5 % of the CPU time and four fifths of the page faults.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        m_mmap_threshold, m_trim_threshold = -3, -1  # <malloc.h>; the first may be 32 MB at most
        libc.mallopt(m_mmap_threshold, 32 << 20)
        libc.mallopt(m_trim_threshold, 256 << 20)


def _output_lock(step: str, outputs: Mapping[str, Path | list[Path]]) -> AbstractContextManager:
    """Lock the outputs against other processes. Training has its own lock, as its ranks are several processes."""
    if step.startswith("train_") or not outputs:
        return nullcontext()
    first = _first(outputs)
    return locked(run_dir(first) / "locks" / f"{step}.{first.name}")


if __name__ == "__main__":
    if status := main(own_process=True):
        sys.stdout.flush()
        os._exit(status)  # where memory ran out, compiled libraries may wait for ever for threads that did not start
