"""The rows of a ledger: ids, statuses, and the closed list of reasons.

Rows are plain dicts; columns.py describes every column of every kind of row.
"""

import hashlib
import unicodedata
from collections.abc import Mapping
from typing import Any

from latentsync.ledger.columns import ERRORS, REASONS
from latentsync.timing import seconds

Row = dict[str, Any]


class Rejection(ValueError):
    """Raised by a step's work on one row: the row stays in the ledger with this reason."""

    def __init__(self, reason: str, detail: str = ""):
        assert reason in REASONS, reason
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def rejected(row: Row, reason: str, detail: str = "") -> Row:
    """The row with its verdict: status `error` for broken files, else `rejected`."""
    assert reason in REASONS, reason
    return row | {"status": "error" if reason in ERRORS else "rejected", "reason": reason, "detail": detail}


def source_id(path: str) -> str:
    """First 16 hex digits of sha256 of the NFC-normalised POSIX path relative to the input folder."""
    return hashlib.sha256(unicodedata.normalize("NFC", path).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def segment_id(source: str, start_tick: int, end_tick: int) -> str:
    """`<source_id>-<start tick>-<end tick>`, padded so that ids sort in time; half-open, 25 ticks a second."""
    return f"{source}-{start_tick:06d}-{end_tick:06d}"


def clip_id(source: str, start_tick: int, end_tick: int, track: int) -> str:
    """`<source_id>-<start tick>-<end tick>-t<track>`."""
    return f"{segment_id(source, start_tick, end_tick)}-t{track}"


def length_s(row: Mapping[str, Any]) -> float | None:
    """Length of a segment or clip in seconds; None for a whole source."""
    return None if row.get("start_tick") is None else seconds(row["end_tick"] - row["start_tick"])


def shard_of(source: str, shards: int) -> str:
    """The shard (five digits) of a source: a stable hash, so that adding a source moves no other."""
    return f"{int(source[:8], 16) % shards:05d}"
