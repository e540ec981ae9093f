"""What many tests share: checks and builders of rows."""

from collections.abc import Mapping
from typing import Any

import pydantic

from latentsync.ledger.columns import columns

STRICT = pydantic.ConfigDict(strict=True)


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
