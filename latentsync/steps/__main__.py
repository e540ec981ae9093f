"""Run one step, as the rules do.

    python -m latentsync.steps <step> --config JSON --input NAME PATH... --output NAME PATH [--sources FOLDER]

A line from a log can be pasted into a shell. User errors end with one sentence and exit status 1.
"""

import argparse
import ctypes
import importlib
import json
import os
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from latentsync import gpu_lease
from latentsync.config import SECTIONS
from latentsync.ledger import crashes
from latentsync.ledger.files import locked, run_dir

MODULES = {"train_unet_stage1": "train_unet", "train_unet_stage2": "train_unet"}  # two rules, one module


def main(argv: list[str] | None = None, alone: bool = False) -> int:
    """Parse, call the step's `run(cfg, inputs, outputs, sources)`, and turn user and machine errors into a sentence.

    `alone`: the process is ours, so that a step that writes a ledger may outlive a crash (crashes.py).
    """
    parser = argparse.ArgumentParser(prog="python -m latentsync.steps", description=__doc__)
    parser.add_argument("step", choices=SECTIONS)
    parser.add_argument("--config", required=True, help="the step's section as JSON; {} means the published values")
    parser.add_argument(
        "--input", nargs="+", action="append", default=[], metavar=("NAME", "PATH"), help="named inputs"
    )
    parser.add_argument(
        "--output", nargs=2, action="append", default=[], metavar=("NAME", "PATH"), help="a named output"
    )
    parser.add_argument("--sources", type=Path, help="folder of the raw videos; only ever read")
    parser.add_argument("--version", type=int, help="version of the step, for the record of the workflow")
    args = parser.parse_args(argv)
    cfg = SECTIONS[args.step].model_validate(json.loads(args.config))
    # Thread counts change sums, so they are configuration; libraries read them when they are imported.
    threads = str(getattr(cfg, "torch_threads", 1))
    os.environ.update({name: threads for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")})
    os.environ.setdefault("GOMP_SPINCOUNT", "300000")  # about a millisecond: see docs/decisions.md
    _keep_freed_memory()
    device = None
    inputs = {name: [Path(path) for path in paths] for name, *paths in args.input}
    outputs = {name: Path(path) for name, path in args.output}
    if alone and "ledger" in outputs:
        crashes.outlive(crashes.path_of(outputs["ledger"]))
    try:
        with _alone(args.step, outputs):
            if gpu_lease.wanted(args.step, cfg):
                device = gpu_lease.lease()  # before CUDA is looked at; held, as an open file, to the end of the process
            module = importlib.import_module(f"latentsync.steps.{MODULES.get(args.step, args.step)}")
            module.run(cfg, inputs, outputs, args.sources)
    except (ValueError, OSError) as error:
        print(f"{args.step}: {' '.join([str(error), *getattr(error, '__notes__', [])])}", file=sys.stderr)
        return 1
    finally:
        if device is not None:
            device.close()
    return 0


def _keep_freed_memory() -> None:
    """glibc hands blocks above 128 kB back when they are freed, and the next picture faults all its pages in again.

    Measured on align_faces at 1080 x 1920, one core: 5 % of its CPU time, five times as many page faults.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        m_mmap_threshold, m_trim_threshold = -3, -1  # <malloc.h>; the first may be 32 MB at most
        libc.mallopt(m_mmap_threshold, 32 << 20)
        libc.mallopt(m_trim_threshold, 256 << 20)


def _alone(step: str, outputs: dict[str, Path]) -> AbstractContextManager:
    """Nobody else writes these outputs meanwhile. Training has a lock of its own: its ranks are several processes."""
    if step.startswith("train_") or not outputs:
        return nullcontext()
    first = next(iter(outputs.values()))
    return locked(run_dir(first) / "locks" / f"{step}.{first.name}")


if __name__ == "__main__":
    sys.exit(main(alone=True))
