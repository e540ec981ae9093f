"""Ledgers: one JSON row for every source, segment and clip, from the first step to the last.

A ledger is a file `results/<run>/<step>/<shard>.jsonl`, one JSON object a line, sorted by id, written to a temporary
name and renamed. A row is never dropped: what fails keeps its row with a status and a reason from the closed list
below. A journal beside the ledgers remembers every finished row, so that no fault makes a step repeat finished work.

Rows are plain dicts. Every row has `id`, `kind` (source, segment or clip), `source_id`, `path` (of the source, relative
to the input folder), `status` (ok, rejected or error), `reason` (None or a key of REASONS) and `detail` (a sentence).
A column that names a file ends in `_file` and holds a POSIX path relative to the run folder `results/<run>`.
"""

import fcntl
import hashlib
import json
import os
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from pydantic import BaseModel

from latentsync import crashes

Row = dict[str, Any]

# The closed list: key -> what it means, in words for the report.
REASONS = {
    "unreadable": "the file cannot be decoded as a video, or is cut off",
    "crashed": "reading it ended the program itself, twice (a fault of a library that the file brings out)",
    "no_audio": "there is no sound, so nothing can be said about sync",
    "no_face": "no face was found in the segment",
    "too_short": "the clip is shorter than select_clips.min_s",
    "small_face": "the face is smaller than select_clips.min_face_px",
    "low_sync": "picture and sound do not move together (select_clips.min_sync_confidence)",
    "large_offset": "the sound is further off than select_clips.max_offset_frames",
    "low_quality": "the picture is worse than select_clips.min_quality",
    "blurred": "the face is blurred (select_clips.min_sharpness)",
    "badly_lit": "the face is too dark or too bright (select_clips.min_exposure, max_exposure)",
    "turned_away": "the head is turned away (select_clips.max_yaw_deg, max_pitch_deg)",
    "misaligned": "a second look does not find one face where the crop has it (select_clips.min_aligned_share)",
    "little_speech": "too little of the sound is speech (select_clips.min_speech_share)",
    "not_speaking": "another face in the same picture moves with the sound",
    "near_duplicate": "another clip shows the same, encoded or scaled anew (select_clips.max_duplicate_bits)",
    "duplicate": "the same file stands in the input folder a second time",
}
ERRORS = {"unreadable", "crashed"}  # reasons that are faults of the file rather than a judgement


class Rejection(ValueError):
    """Raised by a step's work on one row: the row stays in the ledger with this reason."""

    def __init__(self, reason: str, detail: str = ""):
        assert reason in REASONS, reason
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def rejected(row: Row, reason: str, detail: str = "") -> Row:
    """The row with its verdict: status `error` for broken files, else `rejected`."""
    assert reason in REASONS, reason
    return row | {"status": "error" if reason in ERRORS else "rejected", "reason": reason, "detail": detail}


def source_id(path: str) -> str:
    """First 16 hex digits of sha256 of the NFC-normalised POSIX path relative to the input folder."""
    return hashlib.sha256(unicodedata.normalize("NFC", path).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def segment_id(source: str, start_tick: int, end_tick: int) -> str:
    """`<source_id>-<start tick>-<end tick>`, padded so that ids sort in time; half-open, 25 ticks a second."""
    return f"{source}-{start_tick:06d}-{end_tick:06d}"


def clip_id(source: str, start_tick: int, end_tick: int, track: int) -> str:
    """`<source_id>-<start tick>-<end tick>-t<track>`."""
    return f"{segment_id(source, start_tick, end_tick)}-t{track}"


def shard_of(source: str, shards: int) -> str:
    """The shard (five digits) of a source: a stable hash, so that adding a source moves no other."""
    return f"{int(source[:8], 16) % shards:05d}"


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


def iterate_ledger(path: Path) -> Iterator[Row]:
    """The rows of a ledger one by one; an unreadable line is an error that names file and line."""
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path} line {number} is not JSON ({error}); delete it and run again.") from error


def read_ledger(path: Path) -> list[Row]:
    """All rows of a ledger, as `iterate_ledger` gives them."""
    return list(iterate_ledger(path))


def read_ledgers(paths: Iterable[Path]) -> list[Row]:
    """The rows of several ledgers, sorted by id."""
    return sorted((row for path in paths for row in read_ledger(path)), key=lambda row: row["id"])


def write_ledger(path: Path, rows: Iterable[Row]) -> None:
    """Write rows sorted by id, one canonical JSON object a line."""
    write_text(path, "".join(dumps(row) + "\n" for row in sorted(rows, key=lambda row: row["id"])))


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


def media_file(step: str, ident: str, key: str, suffix: str) -> str:
    """`<step>/media/<id>.<key><suffix>`, relative to the run folder; `key` comes from run_shard."""
    return f"{step}/media/{ident}.{key}{suffix}"


def fingerprint(*parts: Any) -> str:
    """16 hex digits over canonical JSON: equal parts, equal fingerprint."""
    return hashlib.sha256(dumps(parts).encode()).hexdigest()[:16]


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
