"""Curation on the page: stages, splits, histograms, what-if tables, and which clips are shown.

Only select_clips judges; here its thresholds are tried at other values on the stored scores.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from latentsync.curation.selection import COLUMNS, LIMITS, SPLITS, Limit, limits_of
from latentsync.ledger.columns import REASONS, Clip, text_columns
from latentsync.ledger.rows import Row, length_s
from latentsync.report import measures
from latentsync.report.plots import round_step
from latentsync.timing import evenly_spaced, seconds

SELECTED_SHOWN, REJECTED_SHOWN, LISTED = 33, 6, 400
TEXT_COLUMNS = text_columns(Clip)  # of rejected.csv
STAGES = {
    "files": ("Files found", "files"),
    "found": ("Videos found", "videos"),
    "readable": ("that can be read", "videos"),
    "segments": ("cut into segments", "segments"),
    "faces": ("with a face", "clips"),
    "unreadable": ("decodable to the end", "clips"),
    "crashed": ("read without a crash", "clips"),
    "failed": ("read without an error", "clips"),
    "no_audio": ("with audio", "clips"),
    "no_consent": ("with consent to training", "clips"),
    "duplicate": ("not an exact copy", "clips"),
    "not_speaking": ("face of the speaker", "clips"),
    "near_duplicate": ("not a near duplicate", "clips"),
    "selected": ("Selected", "clips"),
    **{limit.reason: (limit.kept, "clips") for limit in LIMITS},
}
UNITS = {
    "length_s": (" s", 1),
    "face_px": (" px", 0),
    "sync_offset_frames": (" frames", 0),
}  # unit, digits; others: none, three


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


def summarise(selection: Mapping[str, Any], selected: list[Row], rejected: list[Row]) -> dict[str, Any]:
    """The section of summary.json. `selection`: summary.json of select_clips; every selected clip is given once."""
    selected = [row | {"length_s": length_s(row)} for row in selected]
    by_confidence = sorted(selected, key=lambda row: (-row["sync_confidence"], row["id"]))
    shown = [by_confidence[index] for index in evenly_spaced(len(selected), SELECTED_SHOWN)]
    stages = funnel(selection["funnel"])
    scores = dict.fromkeys([*COLUMNS, *selection["scores"]["selected"]])  # those without a threshold come last
    return {
        "stages": stages,
        "longest_s": max((stage["seconds"] + stage["lost_s"] for stage in stages), default=0.0),
        "reasons": selection["reasons"],
        "splits": [_split(name, selection["splits"][name]) for name in SPLITS],
        "same_clips_in_all_splits": selection["same_clips_in_all_splits"],
        "offsets_applied": selection["offsets_applied"],
        "sources_with_shared_footage": selection["sources_with_shared_footage"],
        "thresholds": selection["thresholds"],
        "histograms": [histogram(score, selection) for score in scores],
        "what_if": what_if(selected, rejected, selection["thresholds"]),
        "shown_n": len(shown),
        "shown": [tile(row) | {name: row.get(name) for name in ("sync_confidence", "quality")} for row in shown],
        "rejected_sheets": rejected_sheets(rejected),
        "rejected": [_listed(row) for row in by_reason(rejected)[:LISTED]],
        "rejected_n": len(rejected),
        "rejected_more": max(0, len(rejected) - LISTED),
    }


def warnings(selection: Mapping[str, Any]) -> list[str]:
    """What readers must know before any number."""
    found = []
    if selection["same_clips_in_all_splits"]:
        found.append(
            "There were too few speakers or sources for three splits, so training, validation and test hold the same "
            "clips: nothing on this page is held out."
        )
    if selection["speakers_without_source"]:
        found.append("Some paths in the table of speakers match no source; their speakers were not used.")
    return found


def shown_ids(section: Mapping[str, Any]) -> list[str]:
    """Ids of the rows whose image is in the section."""
    items = [*section["shown"], *(item for sheet in section["rejected_sheets"] for item in sheet["shown"])]
    return [item["id"] for item in items]


def _split(name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    counts = {"clips": found["clips"], "sources": found["sources"], "groups": len(found["groups"])}
    return {"split": name, **counts, "seconds": round(found["hours"] * 3600, 1)}


def tile(row: Row) -> dict[str, Any]:
    """What every image on the page says of its row: id, path, and start_s, None for a whole file."""
    start_s = None if row.get("start_tick") is None else seconds(row["start_tick"])
    return {"id": row["id"], "path": row["path"], "start_s": start_s}


def _listed(row: Row) -> dict[str, Any]:
    names = {"reason": row["reason"], "name": measures.reason_name(row["reason"])}
    return tile(row) | names | {"detail": measures.in_words(row["detail"])}


def funnel(stages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What is left after every stage and what was lost at it, lengths in seconds, reasons in words."""
    result: list[dict[str, Any]] = []
    for stage in stages:
        name, length_s = stage["stage"], round(stage["hours"] * 3600, 1)
        title, unit = STAGES.get(name, (f"not {measures.reason_name(name)}", "clips"))
        before = result[-1]["seconds"] if result else length_s
        lost_s = round(max(0.0, before - length_s), 1) if stage["lost"] else 0.0
        lost = [_reason(reason) | {"rows": n} for reason, n in stage["lost"].items()]
        counts = {"left": stage["left"], "seconds": length_s, "lost_s": lost_s, "lost": lost}
        result.append({"stage": name, "title": title, "unit": unit, **counts})
    return result


def _reason(reason: str) -> dict[str, str]:
    return {"reason": reason, "name": measures.reason_name(reason), "words": measures.reason_words(reason)}


def histogram(score: str, selection: Mapping[str, Any]) -> dict[str, Any]:
    """Counts of selected and rejected clips over one score, with the thresholds that judge it."""
    judging, thresholds = [limit for limit in LIMITS if limit.column == score], selection["thresholds"]
    title = measures.title(score)
    axis = judging[0].axis if judging else title
    kept, lost = (_finite(selection["scores"][group].get(score, [])) for group in ("selected", "rejected"))
    result = {"score": score, "title": title, "axis": axis, "meaning": measures.meaning(score)}
    result |= {"judged": bool(judging), "off": [_off(each) for each in judging if thresholds.get(each.key) is None]}
    result |= {"kept_n": len(kept), "lost_n": len(lost)}
    values = np.concatenate([kept, lost])
    if not len(values):
        return result | {"outside_n": 0, "reason": "No clip has this score."}
    marks = _marks(judging, thresholds)
    edges = _edges(score, values, [mark["at"] for mark in marks])
    kept_counts, lost_counts = (np.histogram(np.clip(each, edges[0], edges[-1]), edges)[0] for each in (kept, lost))
    return result | {
        "outside_n": int(((values < edges[0]) | (values > edges[-1])).sum()),
        "reason": None,
        "edges": edges.round(6).tolist(),
        "kept": kept_counts.tolist(),
        "lost": lost_counts.tolist(),
        "marks": marks,
    }


def _finite(values: Sequence[float | None]) -> np.ndarray:
    array = np.array(values, np.float64)  # None becomes NaN
    return array[np.isfinite(array)]


def _off(limit: Limit) -> dict[str, Any]:
    """A threshold that rejects nothing; it is drawn at the end of the axis where it would have to lie for that."""
    return {"key": limit.key, "least": limit.least, "words": f"at {'least' if limit.least else 'most'}: off"}


def _marks(judging: Sequence[Limit], thresholds: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Where the thresholds of one score are; an upper limit of a signed score is on both sides of zero."""
    marks = []
    for each in judging:
        limit = thresholds.get(each.key)
        if limit is None:
            continue
        if each.signed:
            at = limit + 0.5 if each.column == "sync_offset_frames" else limit  # between the bars of two frames
            marks += [{"at": sign * at, "words": f"{sign * limit:+g}".replace("-", "−")} for sign in (-1, 1)]
        else:
            marks.append({"at": limit, "words": f"at {'least' if each.least else 'most'} {limit:g}"})
    return marks


def _edges(score: str, values: np.ndarray, marks: Sequence[float]) -> np.ndarray:
    """About 24 bars between round numbers, one bar per frame for offsets; the last bar holds a long tail."""
    if score == "sync_offset_frames":
        reach = max(15.0, np.abs(values).max(), *(abs(mark) for mark in marks))
        return np.arange(-math.ceil(reach) - 0.5, math.ceil(reach) + 1)
    low, high = min([values.min(), *marks]), max([np.quantile(values, 0.99) * 1.02, values.min(), *marks])
    if low >= 0 and (low < 0.5 * high or values.min() == values.max()):
        low = 0.0
    step = round_step(float(max(high - low, 1e-6)) / 24, (1, 2, 2.5, 5, 10))
    first, last = math.floor(low / step), max(math.ceil(high / step), math.floor(low / step) + 1)
    return np.arange(first, last + 1) * step


def what_if(selected: list[Row], rejected: list[Row], thresholds: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For every threshold: clips and seconds that would be selected at other values, all other thresholds unchanged.

    Only clips count that were judged by thresholds alone: those rejected by earlier steps and silent faces stay
    rejected. It is not checked whether a clip that returns is a near duplicate of another.
    """
    silent = "; also not_speaking"  # in the detail of select_clips
    judged = [*selected, *(row for row in rejected if limits_of(row["reason"]) and silent not in row.get("detail", ""))]
    if not judged:
        return []
    clips = pd.DataFrame(judged, columns=pd.Index(COLUMNS)).astype(float)
    applied = clips["sync_confidence"] >= thresholds["min_offset_confidence"]
    clips["sync_offset_frames"] = clips["sync_offset_frames"].where(applied, 0)

    def passes(each: Limit, limit: float | None) -> pd.Series:
        if limit is None:
            return pd.Series(True, clips.index)
        values = clips[each.column]
        return values.isna() | (values >= limit if each.least else values.abs() <= limit)

    passed = {each.key: passes(each, thresholds.get(each.key)) for each in LIMITS}
    tables = []
    for each in LIMITS:
        now, known = thresholds.get(each.key), cast(pd.Series, clips[each.column].dropna())
        if known.empty:
            continue  # a score that these rows do not have
        others = np.all([mask for key, mask in passed.items() if key != each.key], axis=0)
        rows = []
        for limit in _tried(each, now, known if each.least else known.abs()):
            left = others & passes(each, limit)
            length_s = round(float(clips["length_s"][left].sum()), 1)
            rows.append({"at": limit, "clips": int(left.sum()), "seconds": length_s, "now": limit == now})
        tables.append({"key": each.key, "title": each.words, "off": now is None, "rows": rows})
    return tables


def _tried(each: Limit, now: float | None, values: pd.Series) -> list[float | None]:
    """Values to try, loosest first: none, then around the threshold, or quantiles of the clips where it is off."""
    if now is None:
        shares = (0.1, 0.25, 0.5) if each.least else (0.9, 0.75, 0.5)
        tried = {float(f"{values.quantile(share):.2g}") for share in shares}
    elif each.column == "sync_offset_frames":
        tried = {value for value in (now - 4, now - 2, now, now + 2, now + 4) if value >= 0}
    else:
        tried = {now} | {float(f"{now * factor:.2g}") for factor in (0.5, 0.75, 1.25, 1.5)}
    return [None, *sorted(tried, reverse=not each.least)]


def by_reason(rejected: list[Row]) -> list[Row]:
    """In the order of the closed list of reasons, then by file and time."""
    order = list(REASONS)
    return sorted(rejected, key=lambda row: (order.index(row["reason"]), row["path"], row["id"]))


def rejected_sheets(rejected: list[Row]) -> list[dict[str, Any]]:
    """For each reason that occurred a few of its rows, with the deciding number."""
    sheets = []
    for reason, group in groupby(by_reason(rejected), key=lambda row: row["reason"]):
        rows = list(group)
        shown = [rows[index] for index in evenly_spaced(len(rows), REJECTED_SHOWN)]
        shown = [tile(row) | {"note": _note(row)} for row in shown]
        sheets.append(_reason(reason) | {"rows": len(rows), "shown": shown})
    return sheets


def _note(row: Row) -> dict[str, Any] | None:
    judging = limits_of(row["reason"])
    if not judging or row.get(judging[0].column) is None:
        return None
    unit, digits = UNITS.get(judging[0].column, ("", None))
    return {"value": row[judging[0].column], "digits": digits, "unit": unit}
