"""What curation kept and lost: stages, splits, histograms, what-if tables, and which clips are shown.

Judgement happens in select_clips alone; here its thresholds are only tried at other values on the stored scores.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from latentsync.ops.selection import KEYS, SPLITS
from latentsync.ops.timing import TICKS_PER_S
from latentsync.records import REASONS, Row

SELECTED_SHOWN, REJECTED_SHOWN, LISTED = 33, 6, 400
TEXT_COLUMNS = frozenset("id kind source_id path reason detail".split())
STAGES = {
    "found": ("Videos found", "videos"),
    "readable": ("that can be read", "videos"),
    "segments": ("cut into segments", "segments"),
    "faces": ("with a face", "clips"),
    "no_audio": ("with sound", "clips"),
    "duplicate": ("seen once", "clips"),
    "too_short": ("long enough", "clips"),
    "small_face": ("face large enough", "clips"),
    "low_quality": ("sharp enough", "clips"),
    "low_sync": ("picture and sound belong together", "clips"),
    "large_offset": ("offset small enough", "clips"),
    "selected": ("Selected", "clips"),
}
# score -> title, axis
SCORES = {
    "sync_confidence": ("Sync confidence", "confidence"),
    "sync_offset_frames": ("Offset between picture and sound", "frames at 25 fps; above 0 the picture is late"),
    "quality": ("Picture quality", "quality, higher is better"),
    "face_px": ("Face width", "pixels of the source"),
    "length_s": ("Clip length", "seconds"),
}
# threshold -> score that it judges, its words
LIMITS = {
    "min_sync_confidence": ("sync_confidence", "Sync confidence, at least"),
    "max_offset_frames": ("sync_offset_frames", "Offset in frames, at most"),
    "min_quality": ("quality", "Quality, at least"),
    "min_face_px": ("face_px", "Face width in pixels, at least"),
    "min_s": ("length_s", "Length in seconds, at least"),
}


def read_rejected(path: Path) -> list[Row]:
    """The rows of rejected.csv; numbers become numbers, empty cells None."""
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = [{name: _cell(name, value) for name, value in row.items()} for row in csv.DictReader(file)]
    return [row | {"length_s": length_s(row)} for row in rows]


def _cell(name: str, value: str) -> Any:
    if name in TEXT_COLUMNS:
        return value
    if value == "":
        return None
    number = float(value)
    return int(number) if number.is_integer() else number


def length_s(row: Row) -> float | None:
    """Length of a segment or clip; None for a whole file."""
    return None if row.get("start_tick") is None else (row["end_tick"] - row["start_tick"]) / TICKS_PER_S


def summarise(facts: Mapping[str, Any], selected: list[Row], rejected: list[Row]) -> dict[str, Any]:
    """The section of summary.json. `facts` is what select_clips wrote; rows of the same clip are given once."""
    selected = [row | {"length_s": length_s(row)} for row in selected]
    shown = spread(sorted(selected, key=lambda row: (-row["sync_confidence"], row["id"])), SELECTED_SHOWN)
    stages = funnel(facts["funnel"])
    return {
        "stages": stages,
        "longest_s": max((stage["seconds"] + stage["lost_s"] for stage in stages), default=0.0),
        "reasons": facts["reasons"],
        "splits": [_split(name, facts["splits"][name]) for name in SPLITS],
        "same_clips_in_all_splits": facts["same_clips_in_all_splits"],
        "offsets_applied": facts["offsets_applied"],
        "thresholds": facts["thresholds"],
        "histograms": [histogram(score, facts) for score in [*SCORES, *_untitled(facts)]],
        "what_if": what_if(selected, rejected, facts["thresholds"]),
        "shown_n": len(shown),
        "shown": [{"id": row["id"], "path": row["path"], **_scores(row)} for row in shown],
        "rejected_sheets": rejected_sheets(rejected),
        "rejected": [_listed(row) for row in by_reason(rejected)[:LISTED]],
        "rejected_n": len(rejected),
        "rejected_more": max(0, len(rejected) - LISTED),
    }


def warnings(facts: Mapping[str, Any]) -> list[str]:
    """What a reader must know before any number."""
    found = []
    if facts["same_clips_in_all_splits"]:
        found.append(
            "There were too few people or sources for three splits, so training, validation and test hold the same "
            "clips: nothing on this page is held out."
        )
    if facts["speakers_without_source"]:
        found.append("Some paths in the table of speakers fit no source; their speakers were not used.")
    return found


def shown_ids(section: Mapping[str, Any]) -> list[str]:
    """Ids of the rows whose picture stands in the section."""
    items = [*section["shown"], *(item for sheet in section["rejected_sheets"] for item in sheet["shown"])]
    return [item["id"] for item in items]


def spoken(column: str) -> str:
    """The name of a column in words: `face_share` is "Face share"."""
    return column.replace("_", " ").capitalize()


def _untitled(facts: Mapping[str, Any]) -> list[str]:
    """Scores that select_clips wrote down and that have no title above; they are shown under their own names."""
    return [score for score in facts["scores"]["selected"] if score not in SCORES]


def _split(name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    counts = {"clips": found["clips"], "sources": found["sources"], "groups": len(found["groups"])}
    return {"split": name, **counts, "seconds": round(found["hours"] * 3600, 1)}


def _scores(row: Row) -> dict[str, Any]:
    return {name: row.get(name) for name in ("sync_confidence", "quality")}


def _listed(row: Row) -> dict[str, Any]:
    start = row.get("start_tick")
    return {
        "id": row["id"],
        "reason": row["reason"],
        "path": row["path"],
        "detail": row["detail"],
        "start_s": None if start is None else start / TICKS_PER_S,
    }


def funnel(stages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Stage by stage what is left and what was lost on the way, lengths in seconds, reasons in words."""
    result: list[dict[str, Any]] = []
    for stage in stages:
        name, seconds = stage["stage"], round(stage["hours"] * 3600, 1)
        title, unit = STAGES.get(name, (f"not {name}", "clips"))
        before = result[-1]["seconds"] if result else seconds
        result.append(
            {
                "stage": name,
                "title": title,
                "unit": unit,
                "left": stage["left"],
                "seconds": seconds,
                "lost_s": round(max(0.0, before - seconds), 1) if stage["lost"] else 0.0,
                "lost": [
                    {"reason": reason, "words": REASONS[reason], "rows": n} for reason, n in stage["lost"].items()
                ],
            }
        )
    return result


def histogram(score: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Counts of selected and rejected clips over one score, with the thresholds that judge it."""
    title, axis = SCORES.get(score) or (spoken(score), spoken(score))
    kept, lost = (_finite(facts["scores"][group].get(score, [])) for group in ("selected", "rejected"))
    result = {
        "score": score,
        "title": title,
        "axis": axis,
        "kept_n": len(kept),
        "lost_n": len(lost),
        "outside_n": 0,
        "reason": None,
    }
    if len(kept) + len(lost) == 0:
        return result | {"reason": "No clip has this score."}
    marks = _marks(score, facts["thresholds"])
    edges = _edges(score, np.concatenate([kept, lost]), [mark["at"] for mark in marks])
    counts = {}
    for name, values in (("kept", kept), ("lost", lost)):
        counts[name] = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0].tolist()
    outside = np.concatenate([kept, lost])
    result["outside_n"] = int(((outside < edges[0]) | (outside > edges[-1])).sum())
    return result | {"edges": [round(float(edge), 6) for edge in edges], **counts, "marks": marks}


def _finite(values: Sequence[float | None]) -> np.ndarray:
    array = np.array([math.nan if value is None else value for value in values], np.float64)
    return array[np.isfinite(array)]


def _marks(score: str, thresholds: Mapping[str, Any]) -> list[dict[str, Any]]:
    if score == "sync_offset_frames":
        limit = thresholds["max_offset_frames"]
        return (
            []
            if limit is None
            else [{"at": sign * (limit + 0.5), "words": f"{sign * limit:+d}".replace("-", "−")} for sign in (-1, 1)]
        )
    limit = next((thresholds[key] for key, (name, _) in LIMITS.items() if name == score), None)
    return [] if limit is None else [{"at": limit, "words": f"at least {limit:g}"}]


def _edges(score: str, values: np.ndarray, marks: Sequence[float]) -> np.ndarray:
    """About 24 bars between round numbers; frames get a bar each; a far tail ends in the last bar."""
    if score == "sync_offset_frames":
        reach = max(15.0, np.abs(values).max(), *(abs(mark) for mark in marks))
        return np.arange(-math.ceil(reach) - 0.5, math.ceil(reach) + 1)
    low, high = min([values.min(), *marks]), max([np.quantile(values, 0.99) * 1.02, values.min(), *marks])
    low = 0.0 if 0 <= low < 0.5 * high else low
    raw = max(high - low, 1e-6) / 24
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    first, last = math.floor(low / step), max(math.ceil(high / step), math.floor(low / step) + 1)
    return np.arange(first, last + 1) * step


def what_if(selected: list[Row], rejected: list[Row], thresholds: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For every threshold: clips and seconds that would be left at other values, all others as they are.

    Only clips count that select_clips judged by a threshold; what an earlier step refused stays refused.
    """
    judged = selected + [row for row in rejected if row["reason"] in KEYS]
    if not judged:
        return []
    columns = {name: np.array([row[name] for row in judged], np.float64) for name in SCORES}
    sure = columns["sync_confidence"] >= thresholds["min_offset_confidence"]
    columns["sync_offset_frames"] = np.where(sure, np.abs(columns["sync_offset_frames"]), 0)

    def passes(key: str, limit: float | None) -> np.ndarray:
        if limit is None:
            return np.ones(len(judged), bool)
        values = columns[LIMITS[key][0]]
        return values <= limit if key.startswith("max") else values >= limit

    tables = []
    for key, (score, title) in LIMITS.items():
        others = np.all([passes(other, thresholds[other]) for other in LIMITS if other != key], axis=0)
        rows = []
        for limit in _tried(key, thresholds[key], columns[score]):
            left = others & passes(key, limit)
            seconds = round(float(columns["length_s"][left].sum()), 1)
            rows.append({"at": limit, "clips": int(left.sum()), "seconds": seconds, "now": limit == thresholds[key]})
        tables.append({"key": key, "title": title, "rows": rows})
    return tables


def _tried(key: str, now: float | None, values: np.ndarray) -> list[float | None]:
    """Values to try, loosest first: none at all, then around what is set, or what clips have where nothing is set."""
    if now is None:
        tried = {float(f"{np.quantile(values, share):.2g}") for share in (0.1, 0.25, 0.5)}
    elif key == "max_offset_frames":
        tried = {value for value in (now - 4, now - 2, now, now + 2, now + 4) if value >= 0}
    else:
        tried = {now} | {float(f"{now * factor:.2g}") for factor in (0.5, 0.75, 1.25, 1.5)}
    return [None, *sorted(tried, reverse=key.startswith("max"))]


def spread(rows: list[Row], count: int) -> list[Row]:
    """At most `count` rows, evenly spaced over the list, both ends included."""
    if len(rows) <= count:
        return rows
    return [rows[round(index * (len(rows) - 1) / (count - 1))] for index in range(count)]


def by_reason(rejected: list[Row]) -> list[Row]:
    """In the order of the closed list of reasons, then by file and time."""
    order = list(REASONS)
    return sorted(rejected, key=lambda row: (order.index(row["reason"]), row["path"], row["id"]))


def rejected_sheets(rejected: list[Row]) -> list[dict[str, Any]]:
    """For each reason that occurred a few of its rows, with the number that decided."""
    sheets = []
    ordered = by_reason(rejected)
    for reason, words in REASONS.items():
        rows = [row for row in ordered if row["reason"] == reason]
        if rows:
            shown = [{"id": row["id"], "path": row["path"], "note": _note(row)} for row in spread(rows, REJECTED_SHOWN)]
            sheets.append({"reason": reason, "words": words, "rows": len(rows), "shown": shown})
    return sheets


def _note(row: Row) -> dict[str, Any] | None:
    key = KEYS.get(row["reason"])
    if key is None:
        return None
    units = {"min_s": (" s", 1), "min_face_px": (" px", 0), "max_offset_frames": (" frames", 0)}
    unit, digits = units.get(key, ("", 1))
    return {"value": row[LIMITS[key][0]], "digits": digits, "unit": unit}
