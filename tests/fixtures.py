"""What many tests share: checks and builders of rows."""

from collections.abc import Mapping
from typing import Any

import pydantic

from latentsync.ledger.columns import columns
from latentsync.ledger.rows import Row, clip_id, segment_id, source_id

# What score_quality measures of a person who talks; select_clips judges it by default.
TALKING = {"motion": 0.004, "outside_share": 0.0, "upright_share": 1.0, "audio_peak": 0.4, "speech_share": 0.9}
STRICT = pydantic.ConfigDict(strict=True)


def source(path: str, **values: Any) -> Row:
    """Row of a source that is ok, with the columns that every row has and those given."""
    identity = values.get("source_id", source_id(path))
    row = {"id": identity, "kind": "source", "source_id": identity, "path": path}
    return row | {"status": "ok", "reason": None, "detail": ""} | values


def segment(path: str, start_tick: int, end_tick: int, **values: Any) -> Row:
    """Row of a segment, ticks [start_tick, end_tick) of the source `path`."""
    row = source(path, **values)
    ident = segment_id(row["source_id"], start_tick, end_tick)
    return row | {"id": ident, "kind": "segment", "start_tick": start_tick, "end_tick": end_tick} | values


def clip(path: str, start_tick: int, end_tick: int, track: int = 0, **values: Any) -> Row:
    """Row of a clip: face track `track` of a segment as long as the clip."""
    row = segment(path, start_tick, end_tick, **values)
    ident = clip_id(row["source_id"], start_tick, end_tick, track)
    return row | {"id": ident, "kind": "clip", "segment_id": row["id"], "track": track} | values


def faults(row: Mapping[str, Any], kind: type) -> list[str]:
    """What a row holds that its kind does not describe: an unknown column, or a value of another type."""
    known = columns(kind)
    found = [f"{name} is not described" for name in row.keys() - known.keys()]
    for name in row.keys() & known.keys():
        try:
            pydantic.TypeAdapter(known[name][0], config=STRICT).validate_python(row[name])
        except pydantic.ValidationError:
            found.append(f"{name} is {row[name]!r}, not {known[name][0]}")
    return sorted(found)
