"""Work on one shard: no row is ever dropped, and no finished work is repeated after an interruption.

A row that fails stays, with its status and a reason from the closed list in rows.py. A journal beside the ledgers
remembers every finished row.
"""

import json
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from latentsync.ledger import content, crashes
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
    crash_file, n_finished, alike = crashes.path_of(ledger), 0, Alike()
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
                before = done and done[0]["reason"] == "failed" and not done[0]["detail"].endswith(content.AGAIN)
                if done is None or before or not all(_files_exist(root, item) for item in done):
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
        if content.is_of_machine(error):  # the next call retries
            error.add_note(f"(While working on {row.get('path', '')}, {row['id']}.)")
            raise
        print(f"{row.get('path', '')}, {row['id']}:", file=sys.stderr)
        traceback.print_exception(error)
        return [content.failed(row, error, media.parent.parent)]


class Alike:
    """Counts rows that fail in a row with the same error."""

    def __init__(self) -> None:
        self.kind, self.number = "", 0

    def require_varied(self, row: Row, step: str) -> None:
        """Look at the next finished row.

        Raises:
            ValueError: so many failed alike that the step is at fault, not the files.
        """
        detail = row["detail"]
        if row["reason"] != "failed":
            self.kind, self.number = "", 0
        elif not detail.endswith(content.AGAIN):
            kind = detail.partition(":")[0] + detail[detail.rindex("(") :]
            self.kind, self.number = kind, self.number + 1 if kind == self.kind else 1
        if self.number == content.CONSECUTIVE:
            raise ValueError(
                f"{self.number} rows in a row fail with the same error, the last one at {row.get('path', row['id'])}: "
                f"{detail}; so {step} may be at fault and not the files. The same command goes on behind them."
            )


def _files_exist(root: Path, row: Row) -> bool:
    return all((root / value).exists() for name, value in row.items() if name.endswith("_file") and value)
