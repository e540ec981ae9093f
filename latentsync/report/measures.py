"""Measures and reasons in words, from the tables that define them: LIMITS, the columns of a clip, and REASONS."""

import re

from latentsync.curation.selection import LIMITS
from latentsync.ledger.columns import REASONS, Clip, columns
from latentsync.report.words import spoken

_TITLES = {limit.column: limit.title for limit in LIMITS}
_MEANINGS = {name: column.meaning for name, (_, column) in columns(Clip).items()}
_MEANINGS["length_s"] = "how long the clip lasts"  # of its ticks, not a column
_UNIT = re.compile("_(px|deg)$")
_ALSO = re.compile(rf"; also ({'|'.join(REASONS)})\b")  # in the detail of select_clips


def title(column: str) -> str:
    """What a measure is called; the unit in the name of a column that is described is no part of it."""
    if column in _MEANINGS:
        return _TITLES.get(column, spoken(_UNIT.sub("", re.sub("^n_", "number_of_", column))))
    return spoken(column)


def meaning(column: str) -> str:
    """What it measures; empty for a column that nobody described."""
    return _MEANINGS.get(column, "")


def reason_name(reason: str) -> str:
    """A reason without its underscores."""
    return reason.replace("_", " ")


def reason_words(reason: str) -> str:
    """What a reason means."""
    return REASONS[reason]


def in_words(detail: str) -> str:
    """The sentence beside a reason, further reasons in it named in words."""
    return _ALSO.sub(lambda found: f"; also {reason_name(found[1])}", detail)
