"""What curation kept and lost, in numbers for the report; plain functions on rows.

A stage is {stage, kind, left, hours, lost}: how many sources, segments or clips are left after it, how many hours they
last, and what it cost, as {reason: number}. Stages of clips bear the name of their reason (records.REASONS).
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from latentsync.config import SelectClips
from latentsync.curation.selection import COLUMNS, ORDER, length_s
from latentsync.ledger.rows import REASONS, Row
from latentsync.sync.scorers import SCORERS
from latentsync.timing import TICKS_PER_S

SCORES = (*COLUMNS, "face_share")
STAND_INS = {
    **{name: f"sync was scored by {scorer.stand_in}" for name, scorer in SCORERS.items() if scorer.stand_in},
    "piqe": "picture quality was scored by PIQE, which needs no weights, not by HyperIQA",
}


def hours(rows: Iterable[Row]) -> float:
    """How long segments or clips last together."""
    return round(sum(row["end_tick"] - row["start_tick"] for row in rows) / TICKS_PER_S / 3600, 6)


def _ticks_of(segment: str) -> int:
    """Length of a segment, from its id: its clips may be shorter."""
    start, end = segment.split("-")[1:3]
    return int(end) - int(start)


def funnel(rows: list[Row], rejected: list[Row]) -> list[dict[str, Any]]:
    """All stages, from the files found to the selected clips; of the stages of clips, only those that lost some."""
    sources = {row["source_id"]: row for row in rows}
    broken = [row for row in rows if row["kind"] == "source"]
    readable = sources.keys() - {row["source_id"] for row in broken}
    pieces = [row for row in rows if row["kind"] != "source"]
    segments = {row.get("segment_id", row["id"]) for row in pieces}
    clips = [row for row in pieces if row["kind"] == "clip"]
    reason_of = {row["id"]: row["reason"] for row in rejected}

    def stage(name: str, kind: str, left: int, length: float, gone: Iterable[Row] = ()) -> dict[str, Any]:
        lost = dict(sorted(Counter(reason_of[row["id"]] for row in gone).items()))
        return {"stage": name, "kind": kind, "left": left, "hours": length, "lost": lost}

    def source_hours(ids: Iterable[str]) -> float:
        return round(sum(sources[source].get("duration_s") or 0 for source in sorted(ids)) / 3600, 6)

    stages = [
        stage("found", "source", len(sources), source_hours(sources)),
        stage("readable", "source", len(readable), source_hours(readable), broken),
        stage("segments", "segment", len(segments), round(sum(map(_ticks_of, segments)) / TICKS_PER_S / 3600, 6)),
        stage("faces", "clip", len(clips), hours(clips), (row for row in pieces if row["kind"] == "segment")),
    ]
    for reason in ("unreadable", "crashed", "no_audio", *ORDER):
        gone = [row for row in clips if reason_of.get(row["id"]) == reason]
        clips = [row for row in clips if reason_of.get(row["id"]) != reason]
        if gone:
            stages.append(stage(reason, "clip", len(clips), hours(clips), gone))
    return [*stages, stage("selected", "clip", len(clips), hours(clips))]


def summary(rows: list[Row], rejected: list[Row], splits: Mapping[str, list[Row]], cfg: SelectClips) -> dict[str, Any]:
    """Funnel, reasons, splits, thresholds, scorers, and every score for histograms."""
    selected = {row["id"]: row for members in splits.values() for row in members}
    backends = {
        step: sorted({row[column] for row in rows if column in row})
        for step, column in (("score_sync", "sync_backend"), ("score_quality", "quality_backend"))
    }
    by_reason = {reason: [row["source_id"] for row in rejected if row["reason"] == reason] for reason in REASONS}
    return {
        "funnel": funnel(rows, rejected),
        "reasons": {reason: {"rows": len(ids), "sources": len(set(ids))} for reason, ids in by_reason.items()},
        "splits": {
            split: {
                "clips": len(members),
                "sources": len({row["source_id"] for row in members}),
                "hours": hours(members),
                "groups": sorted({row["group"] for row in members}),
            }
            for split, members in splits.items()
        },
        "offsets_applied": sum(row["offset_frames"] != 0 for row in selected.values()),
        "thresholds": cfg.model_dump(mode="json", exclude={"speakers"}),
        "backends": backends,
        "stand_ins": [STAND_INS[name] for names in backends.values() for name in names if name in STAND_INS],
        "scores": {
            "selected": scores(selected.values()),
            "rejected": scores(row for row in rejected if row["kind"] == "clip"),
        },
    }


def scores(rows: Iterable[Row]) -> dict[str, list[float]]:
    """Score -> its values in the order of the ids; clips that lack it are left out."""
    ordered = sorted(rows, key=lambda row: row["id"])
    ordered = [row | {"length_s": length_s(row)} for row in ordered]
    return {name: [row[name] for row in ordered if row.get(name) is not None] for name in SCORES}
