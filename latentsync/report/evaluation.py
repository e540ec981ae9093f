"""Evaluation on the page: cards of the key figures, the table of systems, and which videos are shown side by side."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from latentsync.evaluation.figures import CONTROLS, FURTHER, KEY_FIGURES, Figure, judge, judge_control
from latentsync.evaluation.systems import COLUMNS, SYSTEMS
from latentsync.ledger.columns import REASONS
from latentsync.ledger.consent import Coverage, grant_of
from latentsync.ledger.rows import Row
from latentsync.report.words import listed
from latentsync.timing import evenly_spaced

TRACE_POINTS = 2000  # a longer trace is thinned: it would be wider than any screen and make the page heavy
PLAYERS = {  # kind of a pair -> title of its player, its short name
    "own": ("Lip-synced to its own audio", "Own audio"),
    "cross": ("Lip-synced to foreign audio", "Foreign audio"),
}
COMPARED = (  # system, title of its player, its short name
    ("unenhanced", "Without enhancement", "Without"),
    ("ours", "With enhancement", "With"),
)
PASSED = {"no_face": "no face was found", "other_face": "the face was not the speaker's"}


def cards(found: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every key figure with its verdict (pass, fail, unknown) and its controls; `found`: figures of metrics.json."""
    return [_card(figure, found) for figure in KEY_FIGURES]


def unmeasured(cards: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Key figures without a value, together where the reason is the same: {reason, titles}."""
    titles: dict[str, list[str]] = {}
    for card in cards:
        if card["value"] is None:
            titles.setdefault(card["reason"], []).append(card["title"])
    return [{"reason": reason, "titles": listed(names)} for reason, names in titles.items()]


def _card(figure: Figure, found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    measured = found[figure.key]
    verdict, words = judge(figure, found)
    assert figure.axis is not None
    low, high = figure.axis
    value = measured["value"]
    return {
        "key": figure.key,
        "title": figure.title,
        **measured,
        "note": figure.before_note + measured["note"] if measured["note"] else "",
        "counted": figure.counted,
        "digits": figure.digits,
        "unit": figure.unit,
        "axis": [low, high if value is None or value <= high else round(1.1 * value, 6)],
        "bar": figure.bar,
        "bar_words": f"{'at most' if figure.at_most else 'at least'} {figure.bar:g}",
        "wording": figure.wording,
        "controls": [_control(control, found) for control in CONTROLS if control.control_of == figure.key],
        "verdict": verdict,
        "words": words,
    }


def _control(control: Figure, found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    measured = found[control.key]
    verdict, words = judge_control(control, found)
    value = measured["value"]
    shown = {"value": value, "shown": None if value is None else control.factor * value}
    shown |= {name: measured[name] for name in ("low", "high", "reason")}
    shown |= {"drawn": control.axis is not None, "digits": control.digits, "unit": control.unit}
    return {"key": control.key, "title": control.title, **shown, "verdict": verdict, "words": words}


def summarise(metrics: Mapping[str, Any], items: Sequence[Row]) -> dict[str, Any]:
    """The section of summary.json: rows of systems, notes on what is missing, further figures, failures."""
    figures, notes = metrics["figures"], []
    systems = []
    for row in metrics["table"]:
        cells = {}
        for column in COLUMNS:
            name, note = column.name, None
            reason = figures[column.explained_by]["reason"] if column.explained_by else None
            if row[name] is None and reason is not None:
                notes += [reason] if reason not in notes else []
                note = notes.index(reason) + 1
            limits = {"low": row.get(f"{name}_low"), "high": row.get(f"{name}_high")}
            cells[name] = {"value": row[name], **limits, "note": note}
        key = (row["system"], row["driven_by"])
        names = {name: row[name] for name in ("system", "driven_by", "title")} | {"short": SYSTEMS[key][1]}
        counts = {"ours": row["system"] == "ours", "n_items": row["n"], "failed": row["failed"]}
        systems.append({**names, **counts, "cells": cells, "each_mouth_r": _each(items, key)})
    cut = metrics.get("cut", [])
    return {
        "columns": [asdict(column) for column in COLUMNS],
        "systems": systems,
        "notes": notes,
        "further": [{"name": each.key, "title": each.title, **figures[each.key]} for each in FURTHER],
        "sync_scorer": metrics["sync_scorer"],
        "enhancement": metrics["enhancement"],
        "passed_through": [{"reason": PASSED.get(k, k), "frames": n} for k, n in metrics["passed_through"].items()],
        "cut": {"videos": len(cut), "seconds": round(sum(row["cut_s"] for row in cut), 1)},
        "failed": [row | {"words": REASONS.get(row["reason"], row["reason"])} for row in metrics["failed"]],
        "reason": None if systems else "No video was generated, so there is nothing to compare.",
    }


def _each(items: Sequence[Row], key: tuple[str, str]) -> list[float]:
    mine = [item for item in items if item["kind"] == "video" and (item["system"], item["drive"]) == key]
    return [round(item["mouth_r"], 4) for item in mine if item["mouth_r"] is not None]


def choose_players(generated: Sequence[Row], items: Sequence[Row], count: int) -> list[dict[str, Any]]:
    """At most `count` videos, evenly spaced over the ids, each with its source, its results and their traces.

    A video that failed becomes a sentence instead of a player.
    """
    ours = [row for row in generated if row["system"] == "ours"]
    made = sorted({row["picture_id"] for row in ours if row["status"] == "ok"})
    videos = [item for item in items if item["kind"] == "video"]
    rows = []
    for shown in (made[index] for index in evenly_spaced(len(made), count)):
        mine = [row for row in ours if row["picture_id"] == shown]
        path = mine[0]["picture_path"]
        source = _find(videos, system="ground_truth", picture_id=shown)
        shifted = source is not None and source["trace"]["true"]
        subtitle = "its audio is shifted on purpose; the line below is corrected for it" if shifted else ""
        columns = [_column("As filmed", "Source", subtitle, path, None, source)]
        missing = []
        for row in sorted(mine, key=lambda row: row["kind"] == "cross"):
            title, short = PLAYERS[row["kind"]]
            if row["status"] != "ok":
                missing.append(f"{title}: {REASONS.get(row['reason'], row['reason'])}. {row['detail']}")
                continue
            item = _find(videos, system="ours", pair_id=row["pair_id"])
            subtitle = f"speech of {row['sound_path']}" if row["kind"] == "cross" else ""
            columns.append(_column(title, short, subtitle, None, row["video_file"], item))
        if not any(row["kind"] == "cross" for row in mine):
            missing.append("There is no foreign audio: all held-out clips are of one video.")
        rows.append({"picture_id": shown, "title": path, "columns": columns, "missing": missing})
    return rows


def compared_players(
    generated: Sequence[Row], items: Sequence[Row], pairs: Sequence[str], count: int
) -> list[dict[str, Any]]:
    """At most `count` of the pairs, evenly spaced, each as filmed, without and with face enhancement."""
    written = {(row["system"], row["pair_id"]): row for row in generated if row["status"] == "ok"}
    videos = [item for item in items if item["kind"] == "video"]
    rows = []
    for ident in (pairs[index] for index in evenly_spaced(len(pairs), count)):
        ours = written["ours", ident]
        path, speech = ours["picture_path"], f"speech of {ours['sound_path']}"
        source = _find(videos, system="ground_truth", picture_id=ours["picture_id"])
        columns = [_column("As filmed", "Source", "", path, None, source)]
        for system, title, short in COMPARED:
            file, item = written[system, ident]["video_file"], _find(videos, system=system, pair_id=ident)
            columns.append(_column(title, short, speech, None, file, item))
        rows.append({"picture_id": ours["picture_id"], "title": path, "columns": columns, "missing": []})
    return rows


def consents(generated: Sequence[Row], coverage: Coverage | None) -> list[dict[str, Any]] | None:
    """The source of every video that was made, and the consent that it rests on; None: consent was not checked."""
    if coverage is None:
        return None
    made = Counter(row["picture_path"] for row in generated if row["status"] == "ok" and row["system"] == "ours")
    grants = {path: grant_of(coverage, path, "generation") for path in sorted(made)}
    return [{"path": path, "videos": made[path]} | asdict(grant) for path, grant in grants.items() if grant]


def _find(videos: Sequence[Row], **wanted: str) -> Row | None:
    return next((item for item in videos if all(item[name] == value for name, value in wanted.items())), None)


def _column(
    title: str, short: str, subtitle: str, path: str | None, file: str | None, item: Row | None
) -> dict[str, Any]:
    trace = item["trace"] if item else {"times_s": [], "measured": [], "true": None}
    step = max(1, -(-len(trace["times_s"]) // TRACE_POINTS))
    measured = _thinned(trace["measured"], step, 4)
    reason = "this video was not measured." if item is None else "no mouth was found in it."
    return {
        "title": title,
        "short": short,
        "subtitle": subtitle,
        "path": path,
        "file": file,
        "times_s": _thinned(trace["times_s"], step, 3),
        "measured": measured,
        "true": _thinned(trace["true"] or [], step, 4),
        "r": item["mouth_r"] if item else None,
        "reason": None if any(value is not None for value in measured) else reason,
    }


def _thinned(values: Sequence[float | None], step: int, digits: int) -> list[float | None]:
    return [None if value is None else round(value, digits) for value in values[::step]]
