"""Files of a run: ledgers and other small files, written whole or not at all, by one process at a time.

A ledger is a file `results/<run>/<step>/<shard>.jsonl`, one JSON object a line, sorted by id, written to a temporary
name and renamed.
"""

import csv
import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


def run_dir(declared: Path) -> Path:
    """The folder `results/<run>` to which a declared file `results/<run>/<step>/<name>` belongs."""
    return Path(declared).parent.parent


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path`; rename it to `path` when the block ends well, delete it otherwise.

    The suffix is kept because media libraries choose the format by it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def locked(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to read and append, alone: waits for another holder, which after kill -9 of Snakemake may live on.

    Two processes that write one file would mix their lines, or take each other's temporary file away.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text so that a reader sees either the old file or the whole new one."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON, keys in the order given; NaN is refused (JSON has none)."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def dumps(row: Any) -> str:
    """One canonical line: sorted keys, no spaces, no NaN."""
    return json.dumps(row, sort_keys=True, separators=(",", ":"), allow_nan=False)


def iterate_ledger(path: Path) -> Iterator[Any]:
    """The rows of a ledger one by one, of the kinds that columns.py describes.

    Raises:
        ValueError: a line is not JSON.
    """
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path} line {number} is not JSON ({error}); delete it and run again.") from error


def read_ledger(path: Path) -> list[Any]:
    """All rows of a ledger, as `iterate_ledger` gives them."""
    return list(iterate_ledger(path))


def read_ledgers(paths: Iterable[Path]) -> list[Any]:
    """The rows of several ledgers, sorted by id."""
    return sorted((row for path in paths for row in read_ledger(path)), key=lambda row: row["id"])


def write_ledger(path: Path, rows: Iterable[Any]) -> None:
    """Write rows sorted by id, one canonical JSON object a line."""
    write_text(path, "".join(dumps(row) + "\n" for row in sorted(rows, key=lambda row: row["id"])))


def csv_rows(path: Path, option: str, made_by: str) -> list[dict[str, str]]:
    """The rows of a table that a user edits; `option` names it in errors, and `made_by` says where one comes from.

    Raises:
        ValueError: it is missing, or not a CSV in UTF-8.
    """
    if not path.is_file():
        raise ValueError(f"{option} {path} is not a file; {made_by}.")
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            return list(csv.DictReader(file))
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{option} {path} is not a CSV file in UTF-8: {error}.") from None


def media_file(step: str, ident: str, key: str, suffix: str) -> str:
    """`<step>/media/<id>.<key><suffix>`, relative to the run folder; `key` comes from run_shard."""
    return f"{step}/media/{ident}.{key}{suffix}"


def fingerprint(*parts: Any) -> str:
    """16 hex digits over canonical JSON: equal parts, equal fingerprint."""
    return hashlib.sha256(dumps(parts).encode()).hexdigest()[:16]
