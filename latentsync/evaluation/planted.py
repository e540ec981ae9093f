"""Curation against the ground truth of synthetic talkers: was every planted fault rejected for its own reason?

A truth row describes a video: `expected`, a list of {start_s, end_s, reason (None: good), track, side}, and
`offset_frames`, by how many frames at 25 per second the video is late. An outcome is the result for one expected
stretch: {id, path, start_s, end_s, expected (reason), found (reasons, None: selected), right, ...}.
A row whose face is far from every planted width is a stray detection (a detector finds a small face in some hair). It
says nothing about the planted face, so it counts only if it was selected, and then against the stretch.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

from latentsync.ledger.rows import Row, length_s
from latentsync.timing import seconds

STRAY_RATIO = 1.5  # planted and measured widths differ by 1.04 at most, a face found in hair by 2.8 (demo, three seeds)
NO_TALKING_FACE = ("unreadable", "no_audio", "no_face", "low_sync", "not_speaking")  # these have no offset to find


def outcomes(
    truth: Iterable[Row],
    rows: Sequence[Row],
    selected: set[str],
    reasons: Mapping[str, str],
    centre_x: Mapping[str, float],
    min_confidence: float,
) -> list[Row]:
    """The outcome of every expected stretch.

    Args:
        truth: one row per video.
        rows: every row of score_sync, of any kind.
        selected: ids of the selected clips.
        reasons: id -> reason of the other rows.
        centre_x: id of a clip -> middle of its face as a share of the frame's width, where faces share a frame.
        min_confidence: an offset with less confidence was not applied, which counts as not found.

    A row belongs to the stretch that it overlaps most. A fault is right if every row of it was rejected for its reason.
    A good stretch is right if the rows that cover more than half of it were selected.
    """
    by_source: dict[str, list[Row]] = {}
    for row in rows:
        by_source.setdefault(row["source_id"], []).append(row)
    result = []
    for video in truth:
        own = [(row, _stretch_of(row, video["expected"], centre_x)) for row in by_source.get(video["id"], [])]
        for number, stretch in enumerate(video["expected"]):
            every = [row for row, belongs in own if belongs == number]
            strays = [row["id"] for row in every if _stray(row, video.get("face_px", ()))]
            mine = [row for row in every if row["id"] not in strays]
            wanted = stretch["reason"]
            if wanted is None:
                half_s = (stretch["end_s"] - stretch["start_s"]) / 2
                mine = [row for row in mine if (length_s(row) or math.inf) > half_s]
            found = [None if row["id"] in selected else reasons.get(row["id"], "missing") for row in mine]
            found += ["a stray find was selected" for ident in strays if ident in selected]
            right = bool(found) and all(reason == wanted for reason in found)
            outcome = {"id": f"{video['id']}-{number}", "path": video["path"], "expected": wanted, "right": right}
            outcome |= {"start_s": stretch["start_s"], "end_s": stretch["end_s"]}
            outcome["found"] = sorted({str(reason) if reason else "selected" for reason in found}) or ["missing"]
            talking = wanted not in NO_TALKING_FACE and stretch["track"] == "speaker"
            result.append(outcome | (_offset(mine, video["offset_frames"], min_confidence) if talking else {}))
    return result


def _stretch_of(row: Row, expected: Sequence[Row], centre_x: Mapping[str, float]) -> int:
    """Index of the expected stretch that a row belongs to; rows of whole sources belong to the first."""
    start_s = seconds(row.get("start_tick", 0))
    end_s = seconds(row["end_tick"]) if "end_tick" in row else math.inf

    def likeness(stretch: Row) -> tuple[float, bool]:
        shared = min(end_s, stretch["end_s"]) - max(start_s, stretch["start_s"])
        side = "left" if centre_x.get(row["id"], 0.5) < 0.5 else "right"
        return round(shared, 3), stretch.get("side") in (None, side)

    return max(range(len(expected)), key=lambda number: likeness(expected[number]))


def _stray(row: Row, planted_px: Sequence[float]) -> bool:
    ratios = [max(row["face_px"] / px, px / row["face_px"]) for px in planted_px if row.get("face_px")]
    return bool(ratios) and min(ratios) > STRAY_RATIO


def _offset(rows: Sequence[Row], planted: int, min_confidence: float) -> Row:
    """Planted and measured offset of the longest row of a stretch."""
    scored = [row for row in rows if row.get("sync_confidence") is not None]
    if not scored:
        return {"planted_offset": planted, "measured_offset": None, "sync_confidence": None, "offset_within_1": False}
    row = max(scored, key=lambda row: (row["end_tick"] - row["start_tick"], row["sync_confidence"]))
    offset, confidence = row["sync_offset_frames"], row["sync_confidence"]
    hit = confidence >= min_confidence and abs(offset - planted) <= 1
    return {"planted_offset": planted, "measured_offset": offset, "sync_confidence": confidence, "offset_within_1": hit}
