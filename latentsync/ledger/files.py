"""Files of a run: ledgers and other small files, written whole or not at all, by one process at a time.

A ledger is a file `results/<run>/<step>/<shard>.jsonl`, one JSON object a line, sorted by id, written to a temporary
name and renamed. Its sha256 is kept beside it, in `.<shard>.jsonl.sha256`, and compared when it is read.
"""

import csv
import fcntl
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from latentsync.ledger.faults import naming

WAIT_S = 3.0  # so long a lock is waited for without a word


def run_dir(declared: Path) -> Path:
    """The folder `results/<run>` to which a declared file `results/<run>/<step>/<name>` belongs."""
    return Path(declared).parent.parent


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path`; rename it to `path` when the block ends well, delete it otherwise.

    The suffix is kept because media libraries choose the format by it.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        with naming(path, temporary):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            if path.suffix == ".jsonl":
                checksum_of(path).unlink(missing_ok=True)  # of the old file
            os.replace(temporary, path)
    finally:
        with suppress(NotADirectoryError):
            temporary.unlink(missing_ok=True)


@contextmanager
def locked(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to read and append, alone: waits for another holder, which after kill -9 of Snakemake may live on.

    Two processes that write one file would mix their lines, or take each other's temporary file away.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as file:
        wait_for(lambda: _taken(file), lambda: f"{path} is held by {holder(file) or 'another process'}")
        yield file


def _taken(file: IO[Any]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait_for(ready: Callable[[], bool], why: Callable[[], str], pause_s: float = 0.05) -> None:
    """Return as soon as `ready`; after a few seconds of waiting, say `why` on stderr, once."""
    start, said = time.monotonic(), False
    while not ready():
        waited_s = time.monotonic() - start
        if waited_s > WAIT_S and not said:
            print(f"{why()}; waiting until it ends.", file=sys.stderr, flush=True)
            said = True
        time.sleep(min(1.0, max(pause_s, waited_s / 10)))


def holder(file: IO[Any]) -> str | None:
    """Who holds a flock on this open file, as "process 123 (command)"; None if the system does not tell."""
    stat = os.fstat(file.fileno())
    inode = f"{os.major(stat.st_dev):02x}:{os.minor(stat.st_dev):02x}:{stat.st_ino}"
    try:
        locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        pid = next(int(fields[4]) for fields in locks if fields[1] == "FLOCK" and fields[5] == inode)
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except (OSError, StopIteration, IndexError, ValueError):
        return None
    return f"process {pid} ({command[:160]})"


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


def checksum_of(ledger: Path) -> Path:
    """Path of the file with the sha256 of a ledger, in the format of sha256sum; ledgers of old runs have none."""
    return ledger.with_name(f".{ledger.name}.sha256")


def require_unchanged(ledger: Path) -> None:
    """Compare a ledger with the checksum beside it, if there is one: a second for a million rows.

    Lists of sources have none: they are compared with the input folder at every start, and may be copies.

    Raises:
        ValueError: it was edited, or a disk damaged it.
    """
    try:
        expected = checksum_of(ledger).read_text(errors="replace").split()
    except FileNotFoundError:
        return
    with open(ledger, "rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if expected[:1] != [actual]:
        raise ValueError(
            f"{ledger} is not as {ledger.parent.name} wrote it: it was edited or damaged. Delete it and run the same "
            "command again; finished work is kept."
        )


def iterate_ledger(path: Path) -> Iterator[Any]:
    """The rows of a ledger one by one, of the kinds that columns.py describes.

    Raises:
        ValueError: it is not as it was written, or a line is not JSON.
    """
    path = Path(path)
    require_unchanged(path)
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line.decode())
            except ValueError as error:  # not JSON, or not UTF-8
                raise ValueError(
                    f"{path} line {number} is not JSON ({error}); delete the file and run the same command again."
                ) from error
            yield row


def read_ledger(path: Path) -> list[Any]:
    """All rows of a ledger, as `iterate_ledger` gives them."""
    return list(iterate_ledger(path))


def read_ledgers(paths: Iterable[Path]) -> list[Any]:
    """The rows of several ledgers, sorted by id."""
    return sorted((row for path in paths for row in read_ledger(path)), key=lambda row: row["id"])


def write_ledger(path: Path, rows: Iterable[Any]) -> None:
    """Write rows sorted by id, one canonical JSON object a line, and their checksum beside them.

    A kill between the two leaves a ledger without a checksum, which is read like one of an old run.
    """
    path = Path(path)
    digest = hashlib.sha256()
    with replacing(path) as temporary, open(temporary, "wb") as file:
        for row in sorted(rows, key=lambda row: row["id"]):
            line = (dumps(row) + "\n").encode()
            digest.update(line)
            file.write(line)
    if path.parent.name != "sources":
        write_text(checksum_of(path), f"{digest.hexdigest()}  {path.name}\n")


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
