"""Work on one shard: no row is ever dropped, and no finished work is repeated after an interruption.

A row that fails stays, with its status and a reason from the closed list in rows.py. A journal beside the ledgers
remembers every finished row.
"""

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from latentsync.ledger import crashes
from latentsync.ledger.files import dumps, fingerprint, locked, run_dir, write_ledger
from latentsync.ledger.rows import Rejection, Row, rejected


class Journal:
    """Append-only record of finished rows, `<step>/journal/<shard>.jsonl`, locked while the job runs."""

    def __init__(self, path: Path):
        self.path = Path(path)

    def __enter__(self) -> "Journal":
        self.lock = locked(self.path)
        self.file = self.lock.__enter__()
        self.file.seek(0)
        data = self.file.read()
        whole = data.rfind(b"\n") + 1  # a kill may leave an incomplete last line: drop it
        self.file.truncate(whole)
        entries = [json.loads(line) for line in data[:whole].splitlines()]
        self.rows = {entry["key"]: entry["rows"] for entry in entries if "rows" in entry}
        self.crashes: dict[str, list[str]] = {}
        for entry in entries:
            if "crash" in entry:
                self.crashes.setdefault(entry["key"], []).append(entry["crash"])
        return self

    def __exit__(self, *error: Any) -> None:
        self.lock.__exit__(*error)

    def append(self, key: str, rows: list[Row]) -> None:
        """Record the rows made from one input row; flushed, so that SIGKILL loses nothing."""
        self.rows[key] = rows
        self._write({"key": key, "rows": rows})

    def add_crash(self, key: str, description: str) -> None:
        """Record that the process crashed while it worked on this input row."""
        self.crashes.setdefault(key, []).append(description)
        self._write({"key": key, "crash": description})

    def _write(self, entry: dict[str, Any]) -> None:
        self.file.write((dumps(entry) + "\n").encode())
        self.file.flush()


def run_shard(
    ledger: Path, rows: Iterable[Any], cfg: BaseModel, version: int, work: Callable[[Any, str], list[Any]]
) -> None:
    """Apply `work` to each row that is still ok, remember each result at once, and write the ledger.

    `work(row, key)` returns the rows that this one becomes (one, or several where a segment holds several faces), or
    raises Rejection. Rows already rejected pass through. A finished row is taken from the journal when the input row,
    the config section and the step version are the same and the files it names still exist.

    A row at which the process crashed (crashes.py) is retried once, in a new process, and then rejected.

    `key` is 8 hex digits of a hash of those three. Files that `work` writes must have it in their names (`media_file`):
    then another section writes other files instead of overwriting these, and every later step sees the difference in
    its input row.
    """
    root = run_dir(ledger)
    section = cfg.model_dump(mode="json")
    costs = root / "costs" / ledger.parent.name / ledger.name
    costs.parent.mkdir(parents=True, exist_ok=True)
    result: list[Row] = []
    crash_file, n_finished = crashes.path_of(ledger), 0
    with Journal(ledger.parent / "journal" / ledger.name) as journal:
        if crash := crashes.last_crash(crash_file):
            journal.add_crash(crash.key, crash.description)
        with crashes.recording(crash_file) as begin, open(costs, "a") as cost_file:
            for row in rows:
                if row["status"] != "ok":
                    result.append(row)
                    continue
                key = fingerprint(row, section, version)
                done = journal.rows.get(key)
                if done is None or not all(_files_exist(root, item) for item in done):
                    begin(key, n_finished)
                    wall, cpu = time.perf_counter(), time.process_time()
                    done = _attempt(work, row, key, journal.crashes.get(key, []), ledger.parent / "media")
                    journal.append(key, done)
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
    except Exception as error:  # a bug or a fault of the machine: the next call retries
        error.add_note(f"(While working on {row.get('path', '')}, {row['id']}.)")
        raise


def _files_exist(root: Path, row: Row) -> bool:
    return all((root / value).exists() for name, value in row.items() if name.endswith("_file") and value)
