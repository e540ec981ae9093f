"""What every step cost: from Snakemake's benchmark files and the ledgers' own notes to a small page beside the report.

Undeclared: seconds differ from run to run, and declared results must not.
"""

import csv
from pathlib import Path
from typing import Any

from latentsync.config import VERSIONS
from latentsync.ledger.files import read_ledger


def collect(root: Path, source_s: float = 0.0) -> list[dict[str, Any]]:
    """One row per step that left a note below `results/<run>`, in the order of the data; None where nobody noted it.

    `source_s`: seconds of footage found, for `cpu_per_video_s`, the CPU seconds of the step for each of them. They are
    summed from the notes on rows, the last of each row; without such notes from the jobs, whose start they hold too.
    """
    steps = [_step(root, name, source_s) for name in VERSIONS]
    return [step for step in steps if step["jobs"] or step["rows"]]


def _step(root: Path, name: str, source_s: float) -> dict[str, Any]:
    files = [root / "benchmarks" / f"{name}.tsv", *sorted((root / "benchmarks" / name).glob("*.tsv"))]
    jobs = [job for file in files if file.exists() for job in _benchmark(file)]
    rows = [row for file in sorted((root / "costs" / name).glob("*.jsonl")) for row in read_ledger(file)]
    cpu_s = _total(jobs, "cpu_time")
    row_cpu_s = sum({row["id"]: row["cpu_s"] for row in rows}.values()) if rows else cpu_s
    return {
        "step": name,
        "jobs": len(jobs),
        "wall_s": _total(jobs, "s"),
        "cpu_s": cpu_s,
        "cpu_per_video_s": row_cpu_s / source_s if source_s and row_cpu_s is not None else None,
        "peak_mb": max((job["max_rss"] for job in jobs if job["max_rss"] is not None), default=None),
        "rows": len(rows),
        "row_wall_s": sum(row["wall_s"] for row in rows) / len(rows) if rows else None,
    }


def _benchmark(file: Path) -> list[dict[str, float | None]]:
    with open(file, newline="", encoding="utf-8") as lines:
        return [
            {name: _number(row.get(name)) for name in ("s", "cpu_time", "max_rss")}
            for row in csv.DictReader(lines, delimiter="\t")
        ]


def _number(cell: str | None) -> float | None:
    return None if cell in (None, "", "-", "NA") else float(cell)


def _total(jobs: list[dict[str, float | None]], name: str) -> float | None:
    known = [job[name] for job in jobs if job[name] is not None]
    return sum(known) if known else None
