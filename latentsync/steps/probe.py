"""What each source file is: content hash and properties of its streams, or the sentence that says why it is unreadable.

Only the first frame is decoded, and no file of the user is ever changed.
"""

import hashlib
import os
from dataclasses import asdict
from pathlib import Path

from latentsync.config import VERSIONS, Probe
from latentsync.ledger.files import read_ledger
from latentsync.ledger.rows import Rejection, Row, rejected
from latentsync.ledger.shard import run_shard
from latentsync.media.opening import verdict
from latentsync.media.probe import probe_media


def run(cfg: Probe, inputs: dict[str, list[Path]], outputs: dict[str, Path], sources: Path) -> None:
    """Sources -> ledger of sources with sha256 and the columns of MediaInfo."""
    [ledger] = inputs["sources"]
    run_shard(
        outputs["ledger"], read_ledger(ledger), cfg, VERSIONS["probe"], lambda row, _: [probe_source(row, sources)]
    )


def probe_source(row: Row, sources: Path) -> Row:
    """The row with its new columns; an unreadable file keeps its hash, so that copies of it are still recognised."""
    path = sources / row["path"]
    row = {name: value for name, value in row.items() if name != "mtime_ns"}
    try:
        if os.path.isfile(path):  # False where a folder above may not be entered
            row |= {"sha256": sha256_of(path)}
        return row | asdict(probe_media(path))
    except Rejection as verdict:
        return rejected(row, verdict.reason, verdict.detail)


def sha256_of(path: Path) -> str:
    """Hash of a file's content, read in pieces."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise verdict(path, error) from error
