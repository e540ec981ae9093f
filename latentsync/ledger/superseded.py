"""Which media files of a run no ledger names any more."""

import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from latentsync.ledger.files import read_ledger


def superseded_media(run: Path) -> tuple[list[Path], list[Path]]:
    """Files in results/<run>/<step>/media that no ledger names, and folders that are left alone because they are links.

    Steps with unfinished ledgers are left out. The run itself, or results/, may be a link; inside the run no link is
    followed and none is listed, so every file lies in the run's own folder.

    Raises:
        ValueError: the folder is not a run, or a job is running in it, or a ledger is damaged.
    """
    if not (run / "sources").is_dir():
        raise ValueError(f"{run} is not the folder of a run: it has no sources/; give results/<run>.")
    root = run.resolve()
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
    found, links = [], []
    for media in sorted(run.glob("*/media")):
        if media.is_symlink() or media.parent.is_symlink():
            links.append(media)
            continue
        finished = any(ledger.parent == media.parent for ledger in ledgers) and all(
            (media.parent / journal.name) in ledgers for journal in journals if journal.parent.parent == media.parent
        )
        if finished:
            found += [path for path in _files_in(media) if path.resolve() not in named]
    assert all(path.resolve().is_relative_to(root) for path in found)
    return found, links


def _files_in(folder: Path) -> Iterator[Path]:
    """Files below a folder, without links and what links lead to; sorted."""
    for path, folders, names in os.walk(folder, followlinks=False):
        folders.sort()
        for name in sorted(names):
            file = Path(path, name)
            if stat.S_ISREG(file.lstat().st_mode):
                yield file


def _require_idle(journals: list[Path]) -> None:
    for journal in journals:
        with open(journal, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(
                    f"A job of {journal.parent.parent.name} is running; clean when it has finished."
                ) from None
