"""Who is in a data set and how unevenly: clips and seconds of every group and source; plain functions on rows."""

import re
from collections.abc import Sequence
from typing import Any

from latentsync.ledger.rows import Row
from latentsync.report.curation import length_s

SHOWN = 20
_SOURCE_ID = re.compile("[0-9a-f]{16}")
CONCENTRATED = 0.5  # share of the selected time from which one speaker is warned about


def summarise(selected: Sequence[Row]) -> dict[str, Any]:
    """Groups and sources of the selected clips, the longest first, SHOWN of each; whether anybody said who speaks.

    A group without a speaker bears the id of a source (curation/selection.py); it is shown under that source's path.
    """
    path_of = {row["source_id"]: row["path"] for row in selected}
    groups, sources = _sums(selected, "group"), _sums(selected, "source_id")
    one_of = {row["group"]: row["path"] for row in reversed(selected)}  # the source it is named after may have no clip
    named = 0
    for item in groups:
        if item["name"] in path_of or _SOURCE_ID.fullmatch(item["name"]):
            item["name"] = path_of.get(item["name"], one_of[item["name"]])
        else:
            named += 1
    for item in sources:
        item["name"] = path_of.get(item["name"], item["name"])
    return {
        "groups": groups[:SHOWN],
        "groups_n": len(groups),
        "groups_more": max(0, len(groups) - SHOWN),
        "named_n": named,
        "sources": sources[:SHOWN],
        "sources_n": len(sources),
        "sources_more": max(0, len(sources) - SHOWN),
        "warning": warning(groups),
    }


def _sums(rows: Sequence[Row], column: str) -> list[dict[str, Any]]:
    total = sum(length_s(row) for row in rows)
    sums: dict[str, dict[str, Any]] = {}
    for row in rows:
        item = sums.setdefault(row[column], {"name": row[column], "clips": 0, "seconds": 0.0, "videos": set()})
        item["clips"] += 1
        item["seconds"] += length_s(row)
        item["videos"].add(row["source_id"])
    ordered = sorted(sums.values(), key=lambda item: (-item["seconds"], item["name"]))
    for item in ordered:
        item["share"] = round(item["seconds"] / total, 4)
        item |= {"seconds": round(item["seconds"], 1), "videos": len(item["videos"])}
    return ordered


def warning(groups: Sequence[dict[str, Any]]) -> str | None:
    """A sentence where one group holds more than CONCENTRATED of the time; `groups`: the longest first."""
    if not groups or groups[0]["share"] <= CONCENTRATED:
        return None
    return (
        f"{groups[0]['name']} speaks in {groups[0]['share']:.0%} of the selected time: a model will learn that person "
        "rather than speech. Add footage of others, or leave some of theirs out."
    )
