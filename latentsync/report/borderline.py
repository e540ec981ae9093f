"""Which clips to look at first: the best ones, and those that a threshold only just kept or only just rejected."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from latentsync.curation.selection import LIMITS
from latentsync.ledger.rows import Row
from latentsync.report.curation import tile

BEST_SHOWN, NEAR_SHOWN = 11, 4
RANKED = ("sync_confidence", "quality")


def best(selected: Sequence[Row], count: int = BEST_SHOWN) -> list[dict[str, Any]]:
    """The clips with the highest rank, at most one of each source, without those that may show no speaker.

    The rank of a score is the share of these clips that do not exceed it; the lower of the ranks in RANKED counts,
    ties by id.
    """
    silent = silent_clips(selected)
    selected = [row for row in selected if row["id"] not in silent]
    if not selected:
        return []
    places = []
    for column in RANKED:
        values = np.array([row[column] for row in selected], np.float64)
        places.append(np.searchsorted(np.sort(values), values, side="right") / len(values))
    order = sorted(zip(np.min(places, axis=0), selected, strict=True), key=lambda pair: (-pair[0], pair[1]["id"]))
    chosen: dict[str, Row] = {}
    for _, row in order:
        if len(chosen) == count:
            break
        chosen.setdefault(row["source_id"], row)
    return [tile(row) | {name: row[name] for name in RANKED} for row in chosen.values()]


def silent_clips(rows: Sequence[Row]) -> set[str]:
    """Ids of clips that may show no speaker, whatever the thresholds: the mouth is still (a photograph, a listener),
    nobody is heard, or another face of the segment moves more like the audio.
    """
    found = {row["id"] for row in rows if row.get("motion_hash", "") is None or row.get("speech_share") == 0}
    leads: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: (-row["sync_confidence"], row["id"])):
        if leads.setdefault(row.get("segment_id", row["id"]), row) is not row:
            found.add(row["id"])
    return found


def sheets(selected: Sequence[Row], rejected: Sequence[Row], thresholds: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For every threshold in force the nearest clips it kept and rejected: {key, title, at, kept, lost}.

    Rejected are the clips that have its reason and fail it, so the threshold shown is the one that decided. An offset
    below min_offset_confidence is not judged, and such a clip is on neither side of that threshold.
    """
    found = []
    for each in LIMITS:
        at, column = thresholds.get(each.key), each.column
        if at is None:
            continue
        sure = selected
        if column == "sync_offset_frames":
            sure = [row for row in selected if row["sync_confidence"] >= thresholds["min_offset_confidence"]]
        by_size = not each.least  # an upper limit judges the magnitude
        kept = _nearest(sure, column, at, by_size)
        failed = [row for row in rejected if row["reason"] == each.reason and each.refuses(row.get(column), at)]
        lost = _nearest(failed, column, at, by_size)
        if kept or lost:
            found.append({"key": each.key, "title": each.words, "at": at, "kept": kept, "lost": lost})
    return found


def _nearest(rows: Sequence[Row], column: str, at: float, by_size: bool) -> list[dict[str, Any]]:
    known = [row for row in rows if row.get(column) is not None]

    def distance(row: Row) -> float:
        return abs((abs(row[column]) if by_size else row[column]) - at)

    near = sorted(known, key=lambda row: (distance(row), row["id"]))[:NEAR_SHOWN]
    return [tile(row) | {"value": row[column]} for row in near]
