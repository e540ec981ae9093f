"""Errors that the content of a file provokes while it is read, tracked or scored: a reason of its row, not an end.

Whatever a library or this package raises at one row is taken for a fault of its content, unless it is plainly one of
the machine: an error of the system (a full disk, no permission), of an import, of a GPU. The same error at three rows
in a row is a fault of the step, which stops it.
"""

import re
import traceback
from pathlib import Path

import av.error

from latentsync.ledger import faults
from latentsync.ledger.columns import KINDS, columns
from latentsync.ledger.rows import Row, rejected

CONSECUTIVE = 3  # rows that fail with the same error, with none finished between them, stop a step
_COLUMNS = {name for kind in KINDS.values() for name in columns(kind)}
AGAIN = ", twice"  # end of the detail of a row that was tried again


def is_of_machine(error: BaseException, folder: Path) -> bool:
    """Whether an error says nothing about the content of the row that was worked on; `folder`: where is written.

    A column that a row lacks is the fault of an older ledger.
    """
    if isinstance(error, MemoryError):  # a file may ask for more than any machine has
        return False
    if isinstance(error, av.error.FFmpegError):  # some are OSErrors, too, whatever they say
        return faults.sentence(error, folder) is not None
    if isinstance(error, KeyError) and error.args[0] in _COLUMNS:
        return True
    on_gpu = type(error).__module__.startswith("torch.") or "CUDA" in str(error)
    return isinstance(error, OSError | ImportError) or on_gpu or faults.sentence(error, folder) is not None


def failed(row: Row, error: Exception, root: Path) -> Row:
    """The row with the reason `failed`: the error, and where in this package it was raised."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    if path := row.get("path"):
        text = re.sub(r"/[^'\"]*?" + re.escape(path), path, text)
    text = text.replace(f"{root.absolute()}/", "").replace(f"{Path.cwd()}/", "")
    return rejected(row, "failed", f"{text[:300]} ({place(error)})")


def place(error: BaseException) -> str:
    """Where an error was raised, as deep in this package as it is known: "audio.py, line 12 in audio_pieces"."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/latentsync/" in frame.filename and frame.name != "_attempt"] or frames
    return f"{Path(ours[-1].filename).name}, line {ours[-1].lineno} in {ours[-1].name}" if ours else "outside Python"


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
        elif not detail.endswith(AGAIN):
            kind = detail.partition(":")[0] + detail[detail.rindex("(") :]
            self.kind, self.number = kind, self.number + 1 if kind == self.kind else 1
        if self.number == CONSECUTIVE:
            raise ValueError(
                f"{self.number} rows in a row fail with the same error, the last one at {row.get('path', row['id'])}: "
                f"{detail}; so {step} may be at fault and not the files. The same command goes on behind them."
            )
