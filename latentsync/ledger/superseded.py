"""Which media files of a run no ledger names any more."""

import fcntl
from pathlib import Path

from latentsync.ledger.files import read_ledger


def superseded_media(run: Path) -> list[Path]:
    """Files in results/<run>/<step>/media that no ledger names; steps with unfinished ledgers are left out.

    Raises:
        ValueError: the folder is not a run, or a job is running in it.
    """
    if not (run / "sources").is_dir():
        raise ValueError(f"{run} is not the folder of a run: it has no sources/; give results/<run>.")
    journals = sorted(run.glob("*/journal/*.jsonl"))
    _require_idle(journals)
    ledgers = sorted(run.glob("*/*.jsonl"))
    named = {
        (run / value).resolve()
        for ledger in ledgers
        for row in read_ledger(ledger)
        for name, value in row.items()
        if name.endswith("_file") and isinstance(value, str)
    }
    found = []
    for media in sorted(run.glob("*/media")):
        finished = any(ledger.parent == media.parent for ledger in ledgers) and all(
            (media.parent / journal.name) in ledgers for journal in journals if journal.parent.parent == media.parent
        )
        if finished:
            found += [path for path in sorted(media.rglob("*")) if path.is_file() and path.resolve() not in named]
    return found


def _require_idle(journals: list[Path]) -> None:
    for journal in journals:
        with open(journal, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(
                    f"A job of {journal.parent.parent.name} is running; clean when it has finished."
                ) from None
