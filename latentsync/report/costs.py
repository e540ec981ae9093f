"""What every step cost: from Snakemake's benchmark files and the ledgers' own notes to a small page beside the report.

Undeclared: seconds differ from run to run, and declared results must not.
"""

import csv
from pathlib import Path
from typing import Any

from latentsync import records
from latentsync.config import VERSIONS

COLUMNS = ("jobs", "wall_s", "cpu_s", "peak_mb", "rows", "row_wall_s")


def collect(root: Path) -> list[dict[str, Any]]:
    """One row per step that left a note below `results/<run>`, in the order of the data; None where nobody noted it."""
    steps = [_step(root, name) for name in VERSIONS]
    return [step for step in steps if step["jobs"] or step["rows"]]


def _step(root: Path, name: str) -> dict[str, Any]:
    files = [root / "benchmarks" / f"{name}.tsv", *sorted((root / "benchmarks" / name).glob("*.tsv"))]
    jobs = [job for file in files if file.exists() for job in _benchmark(file)]
    rows = [row for file in sorted((root / "costs" / name).glob("*.jsonl")) for row in records.read_ledger(file)]
    return {
        "step": name,
        "jobs": len(jobs),
        "wall_s": _total(jobs, "s"),
        "cpu_s": _total(jobs, "cpu_time"),
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
