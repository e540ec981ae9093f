"""summary.json of select_clips: what is left and what is lost at every stage of curation, and scores for histograms.

A stage is {stage, kind, left, hours, lost}: how many sources, segments or clips are left after it, how many hours they
last, and how many rows were rejected, as {reason: number}. A stage of clips has the name of its reason.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from latentsync.config import SelectClips
from latentsync.curation.selection import COLUMNS, ORDER
from latentsync.ledger.columns import REASONS
from latentsync.ledger.rows import Row, length_s
from latentsync.sync.scorers import SCORERS
from latentsync.timing import seconds

SCORES = (*COLUMNS, "face_share")
STAND_INS = {
    **{name: f"sync was scored by {scorer.stand_in}" for name, scorer in SCORERS.items() if scorer.stand_in},
    "piqe": "image quality was scored by PIQE, which needs no weights, not by HyperIQA",
}


def hours(rows: Iterable[Row]) -> float:
    """Total length of segments or clips."""
    return _in_hours(sum(row["end_tick"] - row["start_tick"] for row in rows))


def _in_hours(ticks: int) -> float:
    return round(seconds(ticks) / 3600, 6)


def _ticks_of(segment: str) -> int:
    """Length of a segment, from its id: its clips may be shorter."""
    start, end = segment.split("-")[1:3]
    return int(end) - int(start)


def funnel(rows: list[Row], rejected: list[Row]) -> list[dict[str, Any]]:
    """All stages, from the files found to the selected clips; those of files and of clips only where some are lost."""
    sources = {row["source_id"]: row for row in rows}
    by_kind = {kind: [row for row in rows if row["kind"] == kind] for kind in ("source", "segment", "clip")}
    others = [row for row in by_kind["source"] if row["reason"] == "not_video"]
    videos = sources.keys() - {row["source_id"] for row in others}
    unreadable = [row for row in by_kind["source"] if row["reason"] != "not_video"]
    readable = videos - {row["source_id"] for row in unreadable}
    clips = by_kind["clip"]
    segments = {row["segment_id"] for row in clips} | {row["id"] for row in by_kind["segment"]}
    reason_of = {row["id"]: row["reason"] for row in rejected}

    def stage(name: str, kind: str, left: int, length: float, gone: Iterable[Row] = ()) -> dict[str, Any]:
        lost = dict(sorted(Counter(reason_of[row["id"]] for row in gone).items()))
        return {"stage": name, "kind": kind, "left": left, "hours": length, "lost": lost}

    def source_hours(ids: Iterable[str]) -> float:
        return round(sum(sources[source].get("duration_s") or 0 for source in sorted(ids)) / 3600, 6)

    stages = [
        *([stage("files", "source", len(sources), source_hours(sources))] if others else []),
        stage("found", "source", len(videos), source_hours(videos), others),
        stage("readable", "source", len(readable), source_hours(readable), unreadable),
        stage("segments", "segment", len(segments), _in_hours(sum(map(_ticks_of, segments)))),
        stage("faces", "clip", len(clips), hours(clips), by_kind["segment"]),
    ]
    for reason in ("unreadable", "crashed", "failed", "no_audio", *ORDER):
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
    return {name: [value for row in ordered if (value := row.get(name)) is not None] for name in SCORES}
