"""Speakers and sources of a data set: clips and seconds of each, and whether one of them dominates."""

import re
from collections.abc import Sequence
from typing import Any, cast

import pandas as pd

from latentsync.ledger.rows import Row
from latentsync.timing import TICKS_PER_S

SHOWN = 20
_SOURCE_ID = re.compile("[0-9a-f]{16}")
CONCENTRATED = 0.5  # share of the selected time above which a speaker dominates


def summarise(selected: Sequence[Row]) -> dict[str, Any]:
    """Groups and sources of the selected clips, the longest first, SHOWN of each; how many groups are named speakers.

    A group without a named speaker has the id of a source (curation/selection.py) and is shown under its path.
    """
    path_of = {row["source_id"]: row["path"] for row in selected}
    groups, sources = _sums(selected, "group"), _sums(selected, "source_id")
    one_of = {row["group"]: row["path"] for row in reversed(selected)}  # the source that is named may have no clip
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
    """Clips, seconds, videos and share of the time for every value of a column, the longest first."""
    ticks = [row["end_tick"] - row["start_tick"] for row in rows]
    names, sources = ([row[name] for row in rows] for name in (column, "source_id"))
    table = pd.DataFrame({"name": names, "ticks": ticks, "source": sources})
    by_name = table.groupby("name", as_index=False)
    sums = cast(
        pd.DataFrame, by_name.agg(clips=("ticks", "size"), ticks=("ticks", "sum"), videos=("source", "nunique"))
    )
    sums = sums.sort_values(["ticks", "name"], ascending=[False, True])
    sums["seconds"], sums["share"] = (sums["ticks"] / TICKS_PER_S).round(1), (sums["ticks"] / sum(ticks)).round(4)
    shown = cast(pd.DataFrame, sums[["name", "clips", "seconds", "videos", "share"]])
    return cast(list[dict[str, Any]], shown.to_dict("records"))


def warning(groups: Sequence[dict[str, Any]]) -> str | None:
    """A sentence where one group holds more than CONCENTRATED of the time; `groups`: the longest first."""
    if not groups or groups[0]["share"] <= CONCENTRATED:
        return None
    return (
        f"{groups[0]['name']} speaks in {groups[0]['share']:.0%} of the selected time, so a model may learn this "
        "person rather than speech: add footage of other speakers, or remove some of this one."
    )
