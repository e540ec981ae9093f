"""Work on one shard: a row is never dropped, and no fault makes a step repeat finished work.

What fails keeps its row with a status and a reason from the closed list in rows.py. A journal beside the ledgers
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
    """Append-only memory of finished rows, `<step>/journal/<shard>.jsonl`, locked for the life of the job."""

    def __init__(self, path: Path):
        self.path = Path(path)

    def __enter__(self) -> "Journal":
        self.lock = locked(self.path)
        self.file = self.lock.__enter__()
        self.file.seek(0)
        data = self.file.read()
        whole = data.rfind(b"\n") + 1  # a torn last line is what a kill left of a write: drop it
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
        """Remember the rows that one input row became; flushed, so that kill -9 of this process loses nothing."""
        self.rows[key] = rows
        self._write({"key": key, "rows": rows})

    def add_crash(self, key: str, words: str) -> None:
        """Remember that work on this input row ended the process."""
        self.crashes.setdefault(key, []).append(words)
        self._write({"key": key, "crash": words})

    def _write(self, entry: dict[str, Any]) -> None:
        self.file.write((dumps(entry) + "\n").encode())
        self.file.flush()


def run_shard(
    ledger: Path, rows: Iterable[Row], cfg: BaseModel, version: int, work: Callable[[Row, str], list[Row]]
) -> None:
    """Apply `work` to each row that is still ok, remember each result at once, and write the ledger.

    `work(row, key)` returns the rows that this one becomes (one, or several where a segment holds several faces), or
    raises Rejection. Rows already rejected pass through. A finished row is taken from the journal when the input row,
    the config section and the step version are the same and the files it names still exist.

    A row at which the process crashed (crashes.py) is tried once more, in a new process, and then rejected.

    `key` is 8 hex digits of those three. Files that `work` writes must carry it in their names (`media_file`): then a
    name says what is in the file, another section makes other files instead of changing these, and every step further
    down sees the difference in its input row.
    """
    root = run_dir(ledger)
    section = cfg.model_dump(mode="json")
    costs = root / "costs" / ledger.parent.name / ledger.name
    costs.parent.mkdir(parents=True, exist_ok=True)
    result: list[Row] = []
    words, worked = crashes.path_of(ledger), 0
    with Journal(ledger.parent / "journal" / ledger.name) as journal:
        if crash := crashes.last_crash(words):
            journal.add_crash(crash.key, crash.words)
        with crashes.last_words(words) as at, open(costs, "a") as cost_file:
            for row in rows:
                if row["status"] != "ok":
                    result.append(row)
                    continue
                key = fingerprint(row, section, version)
                done = journal.rows.get(key)
                if done is None or not all(_files_exist(root, item) for item in done):
                    at(key, worked)
                    wall, cpu = time.perf_counter(), time.process_time()
                    done = _attempt(work, row, key, journal.crashes.get(key, []), ledger.parent / "media")
                    journal.append(key, done)
                    worked += [item.get("reason") for item in done] != ["crashed"]
                    spent = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
                    cost = {"id": row["id"]} | {name: round(value, 4) for name, value in spent.items()}
                    cost_file.write(dumps(cost) + "\n")
                    cost_file.flush()
                result.extend(done)
        write_ledger(ledger, result)  # under the lock: an orphan of a killed workflow may be writing it too


def _attempt(work: Callable[[Row, str], list[Row]], row: Row, key: str, crashed: list[str], media: Path) -> list[Row]:
    """What a row becomes; `crashed` says how earlier processes ended at it."""
    if len(crashed) >= crashes.ATTEMPTS:
        for unfinished in media.glob(f".*{key[:8]}*"):
            unfinished.unlink()
        return [rejected(row, "crashed", f"{crashed[-1]}, {len(crashed)} times")]
    try:
        return work(row, key[:8])
    except Rejection as verdict:
        return [rejected(row, verdict.reason, verdict.detail)]
    except Exception as error:  # ours or the machine's fault: the next call tries again
        error.add_note(f"(While working on {row.get('path', '')}, {row['id']}.)")
        raise


def _files_exist(root: Path, row: Row) -> bool:
    return all((root / value).exists() for name, value in row.items() if name.endswith("_file") and value)
