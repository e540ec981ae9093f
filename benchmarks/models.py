"""What the two big networks cost: time, memory, and how much of the device's measured matrix rate they reach.

    python benchmarks/models.py [--device cpu|cuda] [--only REGEX] [--limit-s N] [--json FILE]

On a GPU: the published U-Net (16 frames of 256 and 512 px) and StableSyncNet (16 windows), bf16, eager and compiled. On
a CPU: both with narrower layers and the same inputs, after them what the published ones would have to compute.
"forward" has weights of the row's type, under inference mode. "forward, backward" makes the gradients of all weights,
float32, under autocast where the row says bfloat16; "checkpointed" computes layers twice to save memory, as training
does. No optimizer.

TFLOP: 2 for each multiply-add of matrix products, attention and convolutions, counted on the meta device, the same for
every device; a layer that is computed again counts again. Seconds: the median of calls that are waited for one by one;
"first s" is the call before them, compilation included. The matrix rate is the best of square products of several sizes
in the same type, measured in the same process, so that other load meets both. Peak memory, MB (2^20 bytes): weights,
inputs, activations and gradients, on a GPU as its allocator saw it, on a CPU as growth of the resident memory.

Every row is a process of its own; one that fails says so and the next begins. --only keeps rows whose line matches.
"""

import argparse
import gc
import json
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parent.parent
CALLS = ("forward", "forward, backward", "forward, backward, checkpointed")
COLUMNS = {  # heading: width, characters
    "network": 20,
    "input": 15,
    "call": 41,
    "type": 8,
    "TFLOP": 7,
    "s": 8,
    "first s": 7,
    "TFLOP/s": 7,
    "of matrix rate": 14,
    "peak MB": 7,
}
REDUCED_UNET = (64, 128, 256, 256)  # published: 320, 640, 1280, 1280
REDUCED_SYNCNET = 4  # so many times narrower than published
MATRIX_SIDES = {"cpu": (512, 1024, 2048), "cuda": (4096, 8192, 16384)}
BUDGET_S = {"cpu": 5.0, "cuda": 3.0}  # for the timed calls of a row
LEAST_CALLS, MOST_CALLS = 3, 30


@dataclass(frozen=True)
class Case:
    """One row: a call of a network."""

    network: str  # "U-Net" or "StableSyncNet"
    published: bool  # or reduced
    call: str  # of CALLS
    dtype: str = "bfloat16"
    batch: int = 1  # clips of the U-Net, windows of StableSyncNet
    side_px: int = 256  # of the face; the U-Net sees latents an eighth as wide
    frames: int = 16
    compiled: bool = False


def cases(device: str, dtypes: list[str]) -> Iterator[tuple[Case, bool]]:
    """The rows of a device, and whether to run them or only to count; compiled ones take minutes and come last."""
    sizes = [("U-Net", 1, 256), ("U-Net", 2, 256), ("U-Net", 1, 512), ("StableSyncNet", 16, 256)]
    published = [
        Case(network, True, call, batch=batch, side_px=side)
        for network, batch, side in sizes
        for call in calls(network)
        if batch != 2 or call == "forward"  # two clips at a time: classifier-free guidance
    ]
    if device == "cuda":
        yield from ((replace(case, compiled=compiled), True) for compiled in (False, True) for case in published)
        return
    for (network, batch), dtype in product((("U-Net", 1), ("StableSyncNet", 16)), dtypes):
        yield from ((Case(network, False, call, dtype, batch), True) for call in calls(network))
    yield from ((case, False) for case in published)


def calls(network: str) -> tuple[str, ...]:
    """StableSyncNet has no gradient checkpointing worth a row."""
    return CALLS if network == "U-Net" else CALLS[:2]


# --- one row --------------------------------------------------------------------------------------------------------


def build(case: Case) -> nn.Module:
    """The network, on torch's default device. Imported here: the U-Net needs nothing but torch."""
    if case.network == "U-Net":
        from latentsync.models.unet import UNet3D, UNetConfig

        net = UNet3D(UNetConfig() if case.published else UNetConfig(block_out_channels=REDUCED_UNET))
        net.set_gradient_checkpointing(case.call == CALLS[2])
        return net
    from latentsync.config import TrainSyncnet
    from latentsync.models import syncnet

    cfg = TrainSyncnet(frames=case.frames, resolution=case.side_px)
    if not case.published:
        encoders = {name: getattr(cfg, name) for name in ("visual", "audio")}
        for name, encoder in encoders.items():
            widths = tuple(width // REDUCED_SYNCNET for width in encoder.block_out_channels)
            encoders[name] = encoder.model_copy(update={"block_out_channels": widths})
        cfg = cfg.model_copy(update=encoders)
    return syncnet.build(cfg)


def inputs(case: Case, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Noise of the shapes that the network is trained on, on torch's default device."""
    b, f, side = case.batch, case.frames, case.side_px
    if case.network == "U-Net":
        shapes = ((b, 13, f, side // 8, side // 8), (b, f, 50, 384))
        sample, audio = (torch.randn(shape, dtype=dtype) for shape in shapes)
        return [sample, torch.full((b,), 500), audio]
    return [torch.randn(shape, dtype=dtype) for shape in ((b, 3 * f, side // 2, side), (b, 1, 80, -(-f * 16 // 5)))]


def call(case: Case, net: nn.Module, arguments: list[Tensor], autocast: str | None = None) -> None:
    """What a row does once; `autocast` is the kind of device that casts to bfloat16."""
    if case.call == "forward":
        with torch.inference_mode():
            net(*arguments)
        return
    net.zero_grad(set_to_none=True)
    with torch.autocast(autocast or "cpu", torch.bfloat16, enabled=autocast is not None):
        outputs = net(*arguments)
    outputs = outputs if isinstance(outputs, Tensor) else outputs[0] - outputs[1]
    outputs.float().square().mean().backward()


def tflop(case: Case) -> float:
    """10^12 floating-point operations of one call; takes no memory."""
    with torch.device("meta"):
        net, arguments = build(case), inputs(case)
        with FlopCounterMode(display=False) as counter:
            call(case, net, arguments)
    return counter.get_total_flops() / 1e12


def measured(case: Case, device: str) -> dict[str, float]:
    """Time, memory and matrix rate of a row, in this process, which should do nothing else."""
    before_mb, dtype = memory_mb(device), getattr(torch, case.dtype)
    forward = case.call == "forward"
    torch.manual_seed(0)
    with torch.device(device):
        net, arguments = build(case), inputs(case, dtype if forward else torch.float32)
    for weight in net.parameters():  # some start at zero, and products with zeros are quicker
        if not weight.any():
            nn.init.normal_(weight, std=0.02)
    net = net.to(dtype) if forward else net
    forget_peak(device)
    net = torch.compile(net) if case.compiled else net
    autocast = device if case.dtype == "bfloat16" else None
    first_s, spent_s = timed(partial(call, case, net, arguments, autocast), device)
    row = {"s": statistics.median(spent_s), "calls": len(spent_s), "first_s": first_s}
    row["peak_mb"] = memory_mb(device, "peak") - before_mb
    del net, arguments
    gc.collect()
    return row | {"matrix_tflop_per_s": matrix_rate(dtype, device)}


def memory_mb(device: str, which: str = "now") -> float:
    """Memory in use, or its peak so far; resident memory on a CPU, which only Linux tells."""
    if device == "cuda":
        return (torch.cuda.max_memory_allocated() if which == "peak" else torch.cuda.memory_allocated()) / 2**20
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.search(rf"Vm{'HWM' if which == 'peak' else 'RSS'}:\s+(\d+) kB", status)[1]) / 2**10


def forget_peak(device: str) -> None:
    """Drop the float32 weights from the peak: a forward pass in another type never holds them (CUDA only)."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()


def timed(work: Callable[[], Any], device: str) -> tuple[float, list[float]]:
    """Seconds of the first call, then of as many as the budget allows, after one more that nobody looks at."""
    spent_s: list[float] = []
    while len(spent_s) < 2 + LEAST_CALLS or (len(spent_s) < 2 + MOST_CALLS and sum(spent_s[2:]) < BUDGET_S[device]):
        wait(device)
        start_s = time.perf_counter()
        work()
        wait(device)
        spent_s.append(time.perf_counter() - start_s)
    return spent_s[0], spent_s[2:]


def wait(device: str) -> None:
    """Until the device has done what it was told."""
    if device == "cuda":
        torch.cuda.synchronize()


def matrix_rate(dtype: torch.dtype, device: str) -> float:
    """TFLOP/s of the best of some square matrix products of noise."""
    best = 0.0
    for side in MATRIX_SIDES[device]:
        left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        out = torch.empty_like(left)
        with torch.inference_mode():
            _, spent_s = timed(lambda: torch.mm(left, right, out=out), device)  # noqa: B023 - called at once
        best = max(best, 2 * side**3 / statistics.median(spent_s) / 1e12)
    return best


def row_of(case: Case, device: str, run: bool = True, limit_s: float = 600) -> dict[str, Any]:
    """The figures of a case as a dictionary; a case that fails has `failed`, a word or two, instead of its time."""
    row: dict[str, Any] = asdict(case) | {"tflop": tflop(case)}
    if not run:
        return row
    command = [sys.executable, __file__, "--device", device, "--row", json.dumps(asdict(case))]
    # Threads that spin while they wait take ten times as long as soon as something else has a core.
    environment = {"OMP_WAIT_POLICY": "PASSIVE"} | os.environ | {"PYTHONPATH": str(ROOT)}
    try:
        child = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=limit_s, env=environment)
    except subprocess.TimeoutExpired:
        return row | {"failed": f"over {limit_s:g} s"}
    if child.returncode:
        return row | {"failed": f"killed by signal {-child.returncode}" if child.returncode < 0 else "crashed"}
    row |= json.loads(child.stdout.splitlines()[-1])
    if "failed" not in row:
        row["tflop_per_s"] = row["tflop"] / row["s"]
        row["of_matrix_rate"] = row["tflop_per_s"] / row["matrix_tflop_per_s"]
    return row


def child(case: Case, device: str) -> dict[str, Any]:
    """What a row's own process finds."""
    try:
        return measured(case, device)
    except torch.OutOfMemoryError:  # a figure, too: this device is too small for the row
        return {"failed": "out of memory"}


# --- the table ------------------------------------------------------------------------------------------------------


def line(row: dict[str, Any]) -> str:
    """A row of the table, markdown."""
    windows = f"{row['batch']} windows" if row["network"] == "StableSyncNet" else f"{row['batch']} x {row['frames']} x"
    figures = [
        row["network"] + ("" if row["published"] else ", small"),
        windows if row["network"] == "StableSyncNet" else f"{windows} {row['side_px']} px",
        row["call"] + (", compiled" if row["compiled"] else ""),
        row["dtype"],
        shown(row.get("tflop"), ".3f"),
        row.get("failed") or shown(row.get("s"), ".3g"),
        shown(row.get("first_s"), ".3g"),
        shown(row.get("tflop_per_s"), ".3g"),
        shown(row.get("of_matrix_rate"), ".0%"),
        shown(row.get("peak_mb"), ".0f"),
    ]
    return " | ".join(f"{text:{width}}" for text, width in zip(figures, COLUMNS.values(), strict=True))


def shown(value: float | None, form: str) -> str:
    """A number, or a dash for what was not measured."""
    return "-" if value is None else format(value, form)


def facts(device: str) -> dict[str, Any]:
    """Where the figures come from."""
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    names = re.findall(r"model name\s*: (.+)", cpuinfo)
    return {
        "command": shlex.join(["python", str(Path(sys.argv[0]).resolve().relative_to(ROOT)), *sys.argv[1:]]),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} x {names[0] if names else 'CPU'}",
        "device": torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads",
        "load_before": os.getloadavg()[0],
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def main() -> None:
    """Measure every row of this machine, printing each as it is ready."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=tuple(BUDGET_S), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", default="", help="rows whose line matches this expression")
    parser.add_argument("--limit-s", type=float, default=600, help="for one row, compilation included")
    parser.add_argument("--json", type=Path, help="write the figures here, too; after every row")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.row:
        print(json.dumps(child(Case(**json.loads(args.row)), args.device)))
        return
    result = facts(args.device) | {"rows": []}
    print("\n".join(f"{name}: {value}" for name, value in result.items() if name != "rows"))
    dtypes = ["float32", "bfloat16"]
    if args.device == "cpu" and matrix_rate(torch.bfloat16, "cpu") < matrix_rate(torch.float32, "cpu"):
        dtypes.remove("bfloat16")
        print("bfloat16: left out, since this CPU multiplies it more slowly than float32")
    print("\n| " + " | ".join(f"{name:{width}}" for name, width in COLUMNS.items()) + " |")
    print("|" + "|".join("-" * (width + 2) for width in COLUMNS.values()) + "|", flush=True)
    for case, run in cases(args.device, dtypes):
        if not re.search(args.only, line(asdict(case))):
            continue
        row = row_of(case, args.device, run, args.limit_s)
        result["rows"].append(row)
        print(f"| {line(row)} |", flush=True)
        if args.json:
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.write_text(json.dumps(result) + "\n", encoding="utf-8")
    crashed = sum(row.get("failed") == "crashed" for row in result["rows"])
    if crashed:
        sys.exit(f"{crashed} of {len(result['rows'])} rows crashed; what they said stands above.")


if __name__ == "__main__":
    main()
