"""Work on one shard: no row is ever dropped, and no finished work is repeated after an interruption.

A row that fails stays, with its status and a reason from the closed list in rows.py. A journal beside the ledgers
remembers every finished row.
"""

import json
import re
import sys
import time
import traceback
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from latentsync.ledger import content, crashes
from latentsync.ledger.faults import naming
from latentsync.ledger.files import dumps, fingerprint, locked, run_dir, write_ledger
from latentsync.ledger.rows import Rejection, Row, rejected

_CHECKED = b'{"check":"%08x",'
_CHECK = re.compile(rb'\{"check":"([0-9a-f]{8})",')


class Journal:
    """Append-only record of finished rows, `<step>/journal/<shard>.jsonl`, locked while the job runs.

    Each line begins with a checksum of the rest, `{"check":"<crc32>",...}`, and names the sizes of the files that its
    rows have. A line that is torn or damaged is skipped, so its row is done again; lines of older versions, without a
    checksum, count if they are JSON.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        self.run = self.path.parent.parent.parent  # files are relative to it

    def __enter__(self) -> "Journal":
        self.lock = locked(self.path)
        self.file = self.lock.__enter__()
        self.file.seek(0)
        data = self.file.read()
        whole = data.rfind(b"\n") + 1  # a kill may leave an incomplete last line: drop it
        self.file.truncate(whole)
        self.rows: dict[str, list[Row]] = {}
        self.sizes: dict[str, dict[str, int]] = {}
        self.crashes: dict[str, list[str]] = {}
        lines = data[:whole].split(b"\n")[:-1]
        entries = [entry for line in lines if (entry := _entry(line)) is not None]
        for entry in entries:
            if "rows" in entry:
                self.rows[entry["key"]] = entry["rows"]
                self.sizes[entry["key"]] = entry.get("sizes", {})
            else:
                self.crashes.setdefault(entry["key"], []).append(entry["crash"])
        if damaged := len(lines) - len(entries):
            print(f"{self.path}: {damaged} damaged lines are skipped; their rows are done again.", file=sys.stderr)
        return self

    def __exit__(self, *error: Any) -> None:
        with naming(self.path):
            self.lock.__exit__(*error)

    def finished(self, key: str) -> list[Row] | None:
        """The rows made from one input row, if all their files still have their sizes; one stat for each file."""
        rows = self.rows.get(key)
        if rows is None:
            return None
        return rows if all(self._is_whole(file, self.sizes[key].get(file)) for file in _files_of(*rows)) else None

    def _is_whole(self, file: str, recorded: int | None) -> bool:
        size = _size(self.run / file)
        return size == recorded if recorded else size > 0

    def append(self, key: str, rows: list[Row]) -> None:
        """Record the rows made from one input row; flushed, so that SIGKILL loses nothing."""
        self.rows[key] = rows
        self.sizes[key] = {file: size for file in _files_of(*rows) if (size := _size(self.run / file))}
        self._write({"key": key, "rows": rows, "sizes": self.sizes[key]})

    def add_crash(self, key: str, description: str) -> None:
        """Record that the process crashed while it worked on this input row."""
        self.crashes.setdefault(key, []).append(description)
        self._write({"key": key, "crash": description})

    def _write(self, entry: dict[str, Any]) -> None:
        body = dumps(entry).encode()
        with naming(self.path):
            self.file.write(_CHECKED % zlib.crc32(body) + body[1:] + b"\n")
            self.file.flush()


def _entry(line: bytes) -> dict[str, Any] | None:
    """What a line of a journal says; None if it is damaged."""
    match = _CHECK.match(line)
    if match and zlib.crc32(b"{" + line[match.end() :]) != int(match[1], 16):
        return None
    try:
        entry = json.loads(line.decode())
    except ValueError:
        return None
    if not isinstance(entry, dict) or not isinstance(entry.get("key"), str):
        return None
    return entry if isinstance(entry.get("rows"), list) or isinstance(entry.get("crash"), str) else None


def run_shard(
    ledger: Path, rows: Iterable[Any], cfg: BaseModel, version: int, work: Callable[[Any, str], list[Any]]
) -> None:
    """Apply `work` to each row that is still ok, remember each result at once, and write the ledger.

    `work(row, key)` returns the rows that this one becomes (one, or several where a segment holds several faces), or
    raises Rejection. Rows already rejected pass through. A finished row is taken from the journal when the input row,
    the config section and the step version are the same and the files it names still exist.

    A row at which the process crashed (crashes.py) is retried once, in a new process, and then rejected. One whose
    content provokes an error (content.py) is rejected, and tried once more when the shard is worked on again.

    `key` is 8 hex digits of a hash of those three. Files that `work` writes must have it in their names (`media_file`):
    then another section writes other files instead of overwriting these, and every later step sees the difference in
    its input row.
    """
    root = run_dir(ledger)
    section = cfg.model_dump(mode="json")
    costs = root / "costs" / ledger.parent.name / ledger.name
    costs.parent.mkdir(parents=True, exist_ok=True)
    result: list[Row] = []
    crash_file, n_finished, alike = crashes.path_of(ledger), 0, content.Alike()
    with Journal(ledger.parent / "journal" / ledger.name) as journal:
        if crash := crashes.last_crash(crash_file):
            journal.add_crash(crash.key, crash.description)
        with crashes.recording(crash_file) as begin, open(costs, "a") as cost_file:
            for row in rows:
                if row["status"] != "ok":
                    result.append(row)
                    continue
                key = fingerprint(row, section, version)
                done = journal.finished(key)
                before = done and done[0]["reason"] == "failed" and not done[0]["detail"].endswith(content.AGAIN)
                if done is None or before:
                    _require_files(root, row)
                    begin(key, n_finished)
                    wall, cpu = time.perf_counter(), time.process_time()
                    done = _attempt(work, row, key, journal.crashes.get(key, []), ledger.parent / "media")
                    if before and done[0]["reason"] == "failed":
                        done[0]["detail"] += content.AGAIN
                    journal.append(key, done)
                    alike.require_varied(done[0], ledger.parent.name)
                    n_finished += [item.get("reason") for item in done] != ["crashed"]
                    spent = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
                    cost = {"id": row["id"]} | {name: round(value, 4) for name, value in spent.items()}
                    cost_file.write(dumps(cost) + "\n")
                    cost_file.flush()
                result.extend(done)
        write_ledger(ledger, result)  # under the lock: the orphaned job of a killed workflow may be writing it too


def _attempt(work: Callable[[Any, str], list[Any]], row: Row, key: str, crashed: list[str], media: Path) -> list[Row]:
    """The rows made from `row`; `crashed` describes the earlier crashes at it."""
    if len(crashed) >= crashes.ATTEMPTS:
        for unfinished in media.glob(f".*{key[:8]}*"):
            unfinished.unlink()
        return [rejected(row, "crashed", f"{crashed[-1]}, {len(crashed)} times")]
    try:
        return work(row, key[:8])
    except Rejection as verdict:
        return [rejected(row, verdict.reason, verdict.detail)]
    except Exception as error:
        if content.is_of_machine(error, media):  # the next call retries
            error.add_note(f"(While working on {row.get('path', '')}, {row['id']}.)")
            raise
        print(f"{row.get('path', '')}, {row['id']}:", file=sys.stderr)
        traceback.print_exception(error)
        return [content.failed(row, error, media.parent.parent)]


def _files_of(*rows: Row) -> set[str]:
    """The files that rows name, relative to the run."""
    return {value for row in rows for name, value in row.items() if name.endswith("_file") and value}


def _size(path: Path) -> int:
    """Size of a file in bytes; 0 if there is none."""
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return 0


def _require_files(root: Path, row: Row) -> None:
    """Raise if a file of an earlier step is missing or empty: that is no fault of the video.

    Raises:
        ValueError: it names the file and the option that makes it again.
    """
    for file in sorted(_files_of(row)):
        if not _size(root / file):
            raise ValueError(
                f"{root / file} is missing or empty, perhaps since a power cut. Run the same command again with "
                f"--forcerun {Path(file).parts[0]}; only this file is made again."
            )
