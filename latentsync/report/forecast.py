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
    each step {cpu_s, wall_s, bytes}. `population`: a row per stratum with `sources` and `bytes`, and what of these the
    run has curated, `done` and `done_bytes`. `steps`: {step, gpu (whether it needs one), peak_mb, startup_cpu_s,
    startup_wall_s}. Jobs run one per shard, `cores` at a time.
    """
    stratum = np.array([row["stratum"] for row in drawn])
    factors = estimation.replicate_weights(stratum, [row["sources"] for row in population])
    sizes, known = [row["size"] for row in drawn], [row["bytes"] for row in population]

    def whole(values: Sequence[float], scale: float = 1.0, plus: float = 0.0) -> dict[str, float]:
        found = estimation.interval(values, sizes, stratum, known, factors)
        return {name: _rounded(value * scale + plus) for name, value in found.items()}

    open_bytes = [row["bytes"] - row["done_bytes"] for row in population]
    left: dict[str, float] = {"cpu_h": 0.0, "wall_h": 0.0}
    rows, sampled_h = [], sum(row["footage_h"] for row in drawn)
    for step in steps:
        spent = {kind: [row["steps"][step["step"]][kind] for row in drawn] for kind in ("cpu_s", "wall_s", "bytes")}
        start = {kind: step[f"startup_{kind}"] * shards / 3600 for kind in ("cpu_s", "wall_s")}
        lanes = min(shards, gpus if step["gpu"] and gpus else cores)
        if any(open_bytes):
            for kind, at_once in (("cpu", 1), ("wall", lanes)):
                rest = estimation.interval(spent[f"{kind}_s"], sizes, stratum, open_bytes, factors)["value"] / 3600
                left[f"{kind}_h"] += (rest + start[f"{kind}_s"]) / at_once
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
        "done": {"sources": sum(row["done"] for row in population)},
        "left": {kind: _rounded(hours) for kind, hours in left.items()},
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
    done = found["done"]["sources"]
    known = f" ({done:,} of all videos are curated already)" if done else ""
    lines = [
        f"{sources['sampled']:,} of {sources['all']:,} videos, {in_hours(sources['sampled_h'])} of footage, were "
        f"curated as a sample{known}; {state}. For all videos, with 90 % ranges:",
        "",
        *(f"{title:44}{_ranged(name, found['predicted'][name])}" for name, title in TITLES.items()),
        "",
        _line("step", "CPU time", f"wall time, {min(jobs['cores'], jobs['shards'])} at once", "GPU time", "peak MB"),
    ]
    for row in found["steps"]:
        gpu = in_hours(row["gpu_h"]["value"]) if row["gpu_h"] else "not measured" if row["gpu_reason"] else "none"
        cpu, wall = (_ranged(name, row[name]) for name in ("cpu_h", "wall_h"))
        lines.append(_line(row["step"], cpu, wall, gpu, f"{row['peak_mb']:,}"))
    gpu = "not measured" if total["gpu_h"] is None else in_hours(total["gpu_h"]) if total["gpu_h"] else "none"
    lines.append(_line("all", in_hours(total["cpu_h"]), in_hours(total["wall_h"]), gpu, ""))
    if done:
        cpu, wall = (in_hours(found["left"][kind]) for kind in ("cpu_h", "wall_h"))
        lines.append(_line("still to do", cpu, wall, "", ""))
    if total["gpu_h"] is None:
        lines.append(f"GPU time {NO_GPU}; the steps that need one ran on the CPU, and their times are CPU times.")
    return "\n".join(lines)


def _line(*cells: str) -> str:
    return "".join(f"{cell:{width}}" for cell, width in zip(cells, (16, 32, 32, 14, 8), strict=True)).rstrip()


def _ranged(name: str, found: Mapping[str, float]) -> str:
    form = in_hours if name.endswith("_h") else in_size if name.endswith("_gb") else _amount
    return f"{form(found['value'])} ({form(found['low'])} to {form(found['high'])})"


def in_hours(hours: float) -> str:
    """Hours in the unit that suits them."""
    return _in_units(3600 * hours, TIME)


def in_size(gigabytes: float) -> str:
    """Gigabytes in the unit that suits them."""
    return _in_units(gigabytes, (("TB", 1e3), ("GB", 1), ("MB", 1e-3)))


def _in_units(value: float, units: Sequence[tuple[str, float]]) -> str:
    number, unit = in_unit(value, units)
    return f"{_amount(number)} {unit}"


def _amount(value: float) -> str:
    """Two or three digits; an estimate has no more."""
    return f"{value:,.0f}" if value >= 10 or value == 0 else f"{value:.1f}"
