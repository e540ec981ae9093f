"""From what a sample of sources yielded and cost to all sources: the numbers of `snakemake estimate` and its table.

Every total is a separate ratio estimate over strata of file size (curation/estimation.py): what the drawn sources
yielded per byte, times the bytes of all. The length of a file that was not opened is thus estimated from its size.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from latentsync.curation import estimation
from latentsync.report.words import TIME, in_unit

METHOD = (
    "Separate ratio estimate: per stratum of file size, what the drawn sources yielded or cost per byte, times the "
    "bytes of all. Ranges: middle 90 % of rescaled bootstrap replicates over the drawn sources; they do not cover "
    "a busier or faster machine. Rejections that depend on all sources, such as duplicates, are not predicted."
)
YIELDS = ("footage_h", "clips", "clip_h", "selected_clips", "selected_h")
NO_GPU = "not measured: no GPU here"


def predict(
    drawn: Sequence[Mapping[str, Any]],
    population: Sequence[Mapping[str, Any]],
    steps: Sequence[Mapping[str, Any]],
    *,
    shards: int,
    cores: int,
    gpus: int,
) -> dict[str, Any]:
    """The prediction for all sources.

    `drawn`: a row per drawn source with `stratum`, `size` in bytes, `readable` (0 or 1), YIELDS, and under `steps` for
    each step {cpu_s, wall_s, bytes}. `population`: a row per stratum with `sources` and `bytes`. `steps`: {step, gpu
    (whether it needs one), peak_mb, startup_cpu_s, startup_wall_s}. Jobs run one per shard, `cores` at a time.
    """
    stratum = np.array([row["stratum"] for row in drawn])
    factors = estimation.replicate_weights(stratum, [row["sources"] for row in population])
    sizes, known = [row["size"] for row in drawn], [row["bytes"] for row in population]

    def whole(values: Sequence[float], scale: float = 1.0, plus: float = 0.0) -> dict[str, float]:
        found = estimation.interval(values, sizes, stratum, known, factors)
        return {name: _rounded(value * scale + plus) for name, value in found.items()}

    rows, sampled_h = [], sum(row["footage_h"] for row in drawn)
    for step in steps:
        spent = {kind: [row["steps"][step["step"]][kind] for row in drawn] for kind in ("cpu_s", "wall_s", "bytes")}
        start = {kind: step[f"startup_{kind}"] * shards / 3600 for kind in ("cpu_s", "wall_s")}
        lanes = min(shards, gpus if step["gpu"] and gpus else cores)
        rows.append(
            {
                "step": step["step"],
                "cpu_h": whole(spent["cpu_s"], 1 / 3600, start["cpu_s"]),
                "wall_h": whole(spent["wall_s"], 1 / 3600 / lanes, start["wall_s"] / lanes),
                "gpu_h": whole(spent["wall_s"], 1 / 3600, start["wall_s"]) if step["gpu"] and gpus else None,
                "gpu_reason": NO_GPU if step["gpu"] and not gpus else None,
                "disk_gb": whole(spent["bytes"], 1e-9),
                "peak_mb": round(step["peak_mb"]),
                "cpu_s_per_video_s": _rounded(sum(spent["cpu_s"]) / (sampled_h * 3600)),
            }
        )
    return {
        "sources": {
            "all": sum(row["sources"] for row in population),
            "bytes": sum(known),
            "sampled": len(drawn),
            "sampled_unreadable": sum(not row["readable"] for row in drawn),
            "sampled_bytes": sum(sizes),
            "sampled_h": _rounded(sampled_h),
        },
        "predicted": {
            **{name: whole([row[name] for row in drawn]) for name in YIELDS},
            "disk_gb": whole([sum(each["bytes"] for each in row["steps"].values()) for row in drawn], 1e-9),
        },
        "steps": rows,
        "total": {kind: _rounded(sum(row[kind]["value"] for row in rows)) for kind in ("cpu_h", "wall_h")}
        | {"gpu_h": _gpu_total(rows)},
        "jobs_at_once": {"cores": cores, "gpus": gpus, "shards": shards},
        "method": METHOD,
    }


def _gpu_total(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Hours on a GPU of all steps; None where one of them needs a GPU and there was none."""
    if any(row["gpu_reason"] for row in rows):
        return None
    return _rounded(sum(row["gpu_h"]["value"] for row in rows if row["gpu_h"]))


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")


TITLES = {
    "footage_h": "footage",
    "clips": "clips with a face and scores",
    "clip_h": "their length",
    "selected_clips": "clips selected at the present thresholds",
    "selected_h": "their length",
    "disk_gb": "disk for all results of curation",
}


def table(found: Mapping[str, Any]) -> str:
    """The prediction as plain text for a terminal."""
    sources, jobs, total = found["sources"], found["jobs_at_once"], found["total"]
    broken = sources["sampled_unreadable"]
    state = f"{broken} of them cannot be read" if broken else "all of them can be read"
    lines = [
        f"{sources['sampled']} of {sources['all']:,} videos, {_time(sources['sampled_h'])} of footage, were curated "
        f"as a sample; {state}. For all videos, with 90 % ranges:",
        "",
        *(f"{title:38}{_ranged(name, found['predicted'][name])}" for name, title in TITLES.items()),
        "",
        _line("step", "CPU time", f"wall time, {min(jobs['cores'], jobs['shards'])} at once", "GPU time", "peak MB"),
    ]
    for row in found["steps"]:
        gpu = _time(row["gpu_h"]["value"]) if row["gpu_h"] else "not measured" if row["gpu_reason"] else "none"
        cpu, wall = (_ranged(name, row[name]) for name in ("cpu_h", "wall_h"))
        lines.append(_line(row["step"], cpu, wall, gpu, f"{row['peak_mb']:,}"))
    gpu = "not measured" if total["gpu_h"] is None else _time(total["gpu_h"]) if total["gpu_h"] else "none"
    lines.append(_line("all", _time(total["cpu_h"]), _time(total["wall_h"]), gpu, ""))
    if total["gpu_h"] is None:
        lines.append(f"GPU time {NO_GPU}; the steps that need one ran on the CPU, and their times are CPU times.")
    return "\n".join(lines)


def _line(*cells: str) -> str:
    return "".join(f"{cell:{width}}" for cell, width in zip(cells, (16, 32, 32, 14, 8), strict=True)).rstrip()


def _ranged(name: str, found: Mapping[str, float]) -> str:
    form = _time if name.endswith("_h") else _size if name.endswith("_gb") else _amount
    return f"{form(found['value'])} ({form(found['low'])} to {form(found['high'])})"


def _time(hours: float) -> str:
    return _in_units(3600 * hours, TIME)


def _size(gigabytes: float) -> str:
    return _in_units(gigabytes, (("TB", 1e3), ("GB", 1), ("MB", 1e-3)))


def _in_units(value: float, units: Sequence[tuple[str, float]]) -> str:
    number, unit = in_unit(value, units)
    return f"{_amount(number)} {unit}"


def _amount(value: float) -> str:
    """Two or three digits; an estimate has no more."""
    return f"{value:,.0f}" if value >= 10 or value == 0 else f"{value:.1f}"
