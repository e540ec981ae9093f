"""What every step cost: from Snakemake's benchmark files and the notes in `costs/`, for a small page beside the report.

Undeclared: seconds differ from run to run, and declared results must not.
"""

from pathlib import Path
from typing import Any

import pandas as pd

from latentsync.config import VERSIONS
from latentsync.ledger.files import read_ledger

BENCHMARK = ["s", "cpu_time", "max_rss"]  # columns of Snakemake's files: seconds, seconds, MB; "-" or NA: unknown


def collect(root: Path, source_s: float = 0.0) -> list[dict[str, Any]]:
    """One row per step with recorded costs in `results/<run>`, in the order of the data; None: not recorded.

    `source_s`: seconds of source video, for `cpu_per_video_s`, the CPU seconds of the step per second of it. They are
    summed from the notes on rows, the last of each row; without notes from the jobs, whose start they include.
    """
    steps = [_step(root, name, source_s) for name in VERSIONS]
    return [step for step in steps if step["jobs"] or step["rows"]]


def _step(root: Path, name: str, source_s: float) -> dict[str, Any]:
    files = [root / "benchmarks" / f"{name}.tsv", *sorted((root / "benchmarks" / name).glob("*.tsv"))]
    tables = [pd.read_csv(file, sep="\t", na_values="-").reindex(columns=BENCHMARK) for file in files if file.exists()]
    jobs = pd.concat([pd.DataFrame(columns=pd.Index(BENCHMARK), dtype=float), *tables])
    rows = [row for file in sorted((root / "costs" / name).glob("*.jsonl")) for row in read_ledger(file)]
    wall_s, cpu_s, _ = (_known(value) for value in jobs.sum(min_count=1))
    row_cpu_s = sum({row["id"]: row["cpu_s"] for row in rows}.values()) if rows else cpu_s
    return {
        "step": name,
        "jobs": len(jobs),
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "cpu_per_video_s": row_cpu_s / source_s if source_s and row_cpu_s is not None else None,
        "peak_mb": _known(float(jobs["max_rss"].max())),
        "rows": len(rows),
        "row_wall_s": sum(row["wall_s"] for row in rows) / len(rows) if rows else None,
    }


def _known(value: float) -> float | None:
    return None if pd.isna(value) else float(value)
