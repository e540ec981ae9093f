"""The table of systems with its controls, the figures behind it, and which videos are shown side by side."""

from collections.abc import Mapping, Sequence
from typing import Any

from latentsync.ledger.rows import REASONS, Row
from latentsync.report.curation import spread

SHORT = {
    ("ground_truth", "own"): "Source, own sound",
    ("copy", "cross"): "Copy, foreign sound",
    ("untrained", "cross"): "Untrained, foreign",
    ("ours", "own"): "Ours, own sound",
    ("ours", "cross"): "Ours, foreign sound",
}
# column of the table -> title, what is better, digits, figure whose reason explains why it may be missing
COLUMNS = {
    "mouth_r": ("Mouth follows sound, r", "higher is better", 2, "mouth_r"),
    "psnr_outside_db": ("Outside the mouth, dB", "higher is better", 1, "psnr_outside_db"),
    "sync_confidence": ("Sync confidence", "median", 2, None),
    "sync_within_1": ("In sync within one frame", "share of videos", 2, None),
}
FURTHER = {
    "syncnet_accuracy_at_0.5": "SyncNet accuracy at the published threshold 0.5",
    "syncnet_auc": "SyncNet, area under the ROC curve",
    "offset_within_1_good": "Offsets within one frame, good clips alone",
}
TRACE_POINTS = 2000  # a longer trace is thinned out: it would be wider than any screen and make the page heavy
PASSED = {"no_face": "no face was found", "other_face": "the face was not the speaker's"}


def summarise(metrics: Mapping[str, Any], items: Sequence[Row]) -> dict[str, Any]:
    """The section of summary.json: rows of systems, notes on what is missing, further figures, failures."""
    figures, notes = metrics["figures"], []

    def note(reason: str) -> int:
        if reason not in notes:
            notes.append(reason)
        return notes.index(reason) + 1

    systems = []
    for row in metrics["table"]:
        cells = {}
        for name, (_, _, _, explained_by) in COLUMNS.items():
            cell = {"value": row[name], "low": row.get(f"{name}_low"), "high": row.get(f"{name}_high"), "note": None}
            reason = figures[explained_by]["reason"] if explained_by else None
            if row[name] is None and reason:
                cell["note"] = note(reason)
            cells[name] = cell
        key = (row["system"], row["driven_by"])
        systems.append(
            {
                "system": row["system"],
                "driven_by": row["driven_by"],
                "title": row["title"],
                "short": SHORT.get(key, row["title"]),
                "ours": row["system"] == "ours",
                "n_items": row["n"],
                "failed": row["failed"],
                "cells": cells,
                "each_mouth_r": _each(items, key),
            }
        )
    further = [{"name": name, "title": title, **figures[name]} for name, title in FURTHER.items() if name in figures]
    passed = [{"reason": PASSED.get(name, name), "frames": n} for name, n in metrics["passed_through"].items()]
    cut = metrics.get("cut", [])
    failed = [row | {"words": REASONS.get(row["reason"], row["reason"])} for row in metrics["failed"]]
    columns = [{"name": n, "title": t, "better": b, "digits": d} for n, (t, b, d, _) in COLUMNS.items()]
    reason = None if systems else "No video was generated, so there is nothing to compare."
    return {
        "columns": columns,
        "systems": systems,
        "notes": notes,
        "further": further,
        "passed_through": passed,
        "cut": {"videos": len(cut), "seconds": round(sum(row["cut_s"] for row in cut), 1)},
        "failed": failed,
        "reason": reason,
    }


def _each(items: Sequence[Row], key: tuple[str, str]) -> list[float]:
    mine = [item for item in items if item["kind"] == "video" and (item["system"], item["drive"]) == key]
    return [round(item["mouth_r"], 4) for item in mine if item["mouth_r"] is not None]


def choose_players(generated: Sequence[Row], items: Sequence[Row], count: int) -> list[dict[str, Any]]:
    """At most `count` pictures, spread over the ids, each with its source and what was made of it, and its traces.

    A video that failed becomes a sentence instead of a player.
    """
    ours = [row for row in generated if row["system"] == "ours"]
    made = sorted({row["picture_id"] for row in ours if row["status"] == "ok"})
    videos = [item for item in items if item["kind"] == "video"]
    rows = []
    for picture in spread(made, count) if count else []:
        mine = [row for row in ours if row["picture_id"] == picture]
        path = mine[0]["picture_path"]
        source = _find(videos, system="ground_truth", picture_id=picture)
        shifted = source is not None and source["trace"]["true"]
        subtitle = "its sound is shifted on purpose, the line below is put right" if shifted else ""
        columns = [_column("As filmed", "Source", subtitle, path, None, source)]
        missing = []
        for row in sorted(mine, key=lambda row: row["kind"] == "cross"):
            foreign = row["kind"] == "cross"
            title = "Redrawn to foreign sound" if foreign else "Redrawn to its own sound"
            if row["status"] != "ok":
                missing.append(f"{title}: {REASONS.get(row['reason'], row['reason'])}. {row['detail']}")
                continue
            item = _find(videos, system="ours", pair_id=row["pair_id"])
            subtitle = f"speech of {row['sound_path']}" if foreign else ""
            short = "Foreign sound" if foreign else "Own sound"
            columns.append(_column(title, short, subtitle, None, row["video_file"], item))
        if not any(row["kind"] == "cross" for row in mine):
            missing.append("There is no foreign sound: the held-out clips are all of one video.")
        rows.append({"picture_id": picture, "title": path, "columns": columns, "missing": missing})
    return rows


def _find(videos: Sequence[Row], **wanted: str) -> Row | None:
    return next((item for item in videos if all(item[name] == value for name, value in wanted.items())), None)


def _column(
    title: str, short: str, subtitle: str, path: str | None, file: str | None, item: Row | None
) -> dict[str, Any]:
    found = (item or {}).get("trace") or {}
    step = max(1, -(-len(found.get("times_s") or []) // TRACE_POINTS))
    measured = _rounded((found.get("measured") or [])[::step])
    column = {"title": title, "short": short, "subtitle": subtitle, "path": path, "file": file}
    column |= {"times_s": [round(t, 3) for t in (found.get("times_s") or [])[::step]], "measured": measured}
    column |= {"true": _rounded((found.get("true") or [])[::step]), "r": item["mouth_r"] if item else None}
    reason = "this video was not measured." if item is None else "no mouth was found in it."
    return column | {"reason": None if any(value is not None for value in measured) else reason}


def _rounded(values: Sequence[float | None]) -> list[float | None]:
    return [None if value is None else round(value, 4) for value in values]
