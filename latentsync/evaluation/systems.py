"""The table of systems: the same measurements on the source, on controls and on what the trained model wrote."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from latentsync.evaluation.evidence import measured, unknown
from latentsync.ledger.rows import Row

SYSTEMS = {  # (system, kind) -> title of its row, its name in the chart
    ("ground_truth", "own"): ("The source itself, its own audio (at its planted offset)", "Source, own audio"),
    ("copy", "cross"): ("Control: the source unchanged, under foreign audio", "Copy, foreign audio"),
    ("untrained", "cross"): ("Control: the same U-Net, untrained, foreign audio", "Untrained, foreign"),
    ("unenhanced", "cross"): ("Ours without face enhancement, foreign audio", "Unenhanced, foreign"),
    ("ours", "own"): ("Ours, own audio", "Ours, own audio"),
    ("ours", "cross"): ("Ours, foreign audio", "Ours, foreign audio"),
}


@dataclass(frozen=True)
class Column:
    """One measurement of the table."""

    name: str
    title: str
    better: str
    digits: int
    explained_by: str | None = None  # key of the figure whose reason explains a missing value


COLUMNS = (
    Column("mouth_r", "Mouth follows audio, r", "higher is better", 2, "mouth_r"),
    Column("psnr_outside_db", "Outside the mouth, dB", "higher is better", 1, "psnr_outside_db"),
    Column("sync_confidence", "Sync confidence", "median", 2),
    Column("sync_within_1", "In sync within one frame", "share of videos", 2),
)


def table(
    videos: Sequence[Row], failed: Mapping[tuple[str, str], int], interval: Callable[..., tuple[float, float]]
) -> list[Row]:
    """One row per system that ran or failed, controls first; what a row does not know is None."""
    rows = []
    for (system, kind), (title, _) in SYSTEMS.items():
        mine = [item for item in videos if (item["system"], item["drive"]) == (system, kind)]
        n_failed = failed.get((system, kind), 0)
        if not mine and not n_failed:
            continue
        known = [item["mouth_r"] or 0.0 for item in mine if item["mouth_r_known"]]
        r = measured(float(np.mean(known)), len(known), interval(known)) if known else unknown("")
        outside = [item["psnr_outside_db"] for item in mine if item["psnr_outside_db"] is not None]
        row = {"system": system, "driven_by": kind, "title": title, "n": len(mine), "failed": n_failed}
        row |= {"mouth_r": r.value, "mouth_r_low": r.low, "mouth_r_high": r.high}
        row["psnr_outside_db"] = _rounded(np.mean, outside)
        row["sync_confidence"] = _rounded(np.median, [item["sync_confidence"] for item in mine])
        row["sync_within_1"] = _rounded(np.mean, [abs(item["sync_offset_frames"]) <= 1 for item in mine])
        rows.append(row)
    return rows


def _rounded(statistic: Callable[[Sequence[float]], float], values: Sequence[float]) -> float | None:
    return round(float(statistic(values)), 3) if values else None
