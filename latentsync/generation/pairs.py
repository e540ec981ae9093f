"""Many videos in one call: a table of videos, audio and outputs, continued where it stopped.

The table is a CSV with the columns `video`, `audio` and `out`; paths are relative to it. What became of each row is
written beside it, into <table>.results.csv, after every row. A row is not done again while its output is there and its
files and the settings are those of then. A row that fails is recorded with its sentence, and the next one begins.
"""

import csv
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from latentsync.generation.progress import Progress, Report, silent
from latentsync.ledger.files import csv_rows, fingerprint, replacing

COLUMNS = ("video", "audio", "out")


@dataclass(frozen=True)
class Pair:
    """One row: what is to be written."""

    video: Path
    audio: Path
    out: Path


@dataclass(frozen=True)
class Outcome:
    """What became of a row; a row of the results."""

    video: str
    audio: str
    out: str
    state: str
    """written, or failed."""
    says: str
    """What was redrawn, or why nothing was."""
    key: str
    """Of its files and the settings."""


def read_pairs(table: Path) -> list[Pair]:
    """The rows of a table.

    Raises:
        ValueError: it is not such a table, or two rows have the same output.
    """
    lines = csv_rows(table, "--pairs", f"write a CSV with the columns {', '.join(COLUMNS)}")
    missing = [name for name in COLUMNS if lines and name not in lines[0]]
    if missing:
        header = ",".join(lines[0])
        raise ValueError(
            f"--pairs {table} begins with {header!r}; its first line must name {', '.join(COLUMNS)}, "
            "separated by commas."
        )
    pairs, lines_of = list[Pair](), dict[Path, int]()
    for number, line in enumerate(lines, 2):
        empty = [name for name in COLUMNS if not line.get(name)]
        if empty:
            raise ValueError(
                f"--pairs {table} has no {' and no '.join(empty)} in line {number}; each row needs all three."
            )
        pair = Pair(*(table.parent / line[name] for name in COLUMNS))
        first = lines_of.setdefault(pair.out.resolve(), number)
        if first != number:
            raise ValueError(f"--pairs {table} writes {line['out']} in lines {first} and {number}; give each its own.")
        pairs.append(pair)
    if not pairs:
        raise ValueError(f"--pairs {table} has no rows.")
    return pairs


def results_of(table: Path) -> Path:
    """Where the outcomes of a table are written."""
    return table.with_name(f"{table.stem}.results.csv")


def work_through(
    table: Path,
    settings: str,
    redraw: Callable[[Pair, Pair | None], str],
    progress: Report = silent,
    refuses: Callable[[Pair], str | None] = lambda pair: None,
) -> Iterator[Outcome]:
    """The outcome of every row, in order; rows that are done are not done again.

    Args:
        table: as `read_pairs` takes it.
        settings: whatever else decides the outputs.
        redraw: writes the output of a row and returns a sentence; a ValueError is the outcome of its row. It also gets
            the next row that is to be done, which may be prepared meanwhile.
        progress: called when a row begins.
        refuses: why a row must not be drawn, even if it is done; None: it may.
    """
    pairs, results = read_pairs(table), results_of(table)
    before = {outcome.out: outcome for outcome in _read(results)}
    done = dict(before)  # rows not yet reached keep what became of them
    keys = [fingerprint(settings, *map(_identity, (pair.video, pair.audio))) for pair in pairs]

    def is_done(pair: Pair, key: str) -> bool:
        known = before.get(str(pair.out))
        done = known is not None and known.state == "written" and known.key == key and pair.out.is_file()
        return done and refuses(pair) is None

    missing = deque(pair for pair, key in zip(pairs, keys, strict=True) if not is_done(pair, key))
    for number, (pair, key) in enumerate(zip(pairs, keys, strict=True), 1):
        if not missing or missing[0] is not pair:
            known = before[str(pair.out)]
            yield replace(known, says=f"done before: {known.says}")
            continue
        missing.popleft()
        progress(Progress(f"{number} of {len(pairs)}: {pair.out}"))
        try:
            if why := refuses(pair):
                raise ValueError(why)
            state, says = "written", redraw(pair, missing[0] if missing else None)
        except ValueError as error:
            state, says = "failed", str(error)
        outcome = Outcome(str(pair.video), str(pair.audio), str(pair.out), state, says, key)
        done[outcome.out] = outcome
        _write(results, [done[str(one.out)] for one in pairs if str(one.out) in done])
        yield outcome


def _identity(path: Path) -> list[int]:
    stat = path.stat() if path.is_file() else None
    return [stat.st_size, stat.st_mtime_ns] if stat else []


def _read(results: Path) -> list[Outcome]:
    if not results.is_file():
        return []
    with results.open(encoding="utf-8", newline="") as file:
        return [Outcome(**line) for line in csv.DictReader(file)]


def _write(results: Path, outcomes: list[Outcome]) -> None:
    with replacing(results) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(Outcome.__dataclass_fields__), lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(asdict, outcomes))
