"""Which sources a run has curated already: all steps of a chain have finished them with the present configuration."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latentsync.config import VERSIONS, Config
from latentsync.ledger.files import fingerprint, iterate_ledger


def finished(run: Path, shard: str, chain: Mapping[str, str], configuration: Config) -> set[str]:
    """Ids of the sources of one shard of `run` that every step of `chain` (step -> the step before) has finished.

    A step has finished a row if its journal holds the key of the row, its section and its version, as for run_shard. A
    shard without a ledger or without notes of its costs counts as not finished.
    """
    places = [run / step / shard for step in chain] + [run / "costs" / step / shard for step in chain]
    if not all(path.is_file() for path in [run / "sources" / shard, *places]):
        return set()
    left = {row["id"] for row in iterate_ledger(run / "sources" / shard)}
    for step, before in chain.items():
        known = _keys(run / step / "journal" / shard)
        section = getattr(configuration, step).model_dump(mode="json")
        for row in iterate_ledger(run / before / shard):
            if row["status"] == "ok" and fingerprint(row, section, VERSIONS[step]) not in known:
                left.discard(row["source_id"])
    return left


def _keys(journal: Path) -> set[str]:
    """Keys of the finished rows; a line that cannot be read counts for nothing."""
    found = set()
    with open(journal, "rb") as file:
        for line in file:
            try:
                entry: Any = json.loads(line)
            except ValueError:  # torn by a kill
                continue
            if isinstance(entry, dict) and "rows" in entry:
                found.add(entry["key"])
    return found
