"""Errors that the content of a file provokes while it is read, tracked or scored: a reason of its row, not an end.

Whatever a library or this package raises at one row is taken for a fault of its content, unless it is plainly one of
the machine: an error of the system (a full disk, no permission), of an import, of a GPU. The same error at three rows
in a row is a fault of the step, which stops it.
"""

import errno
import re
import traceback
from pathlib import Path

import av.error

from latentsync.ledger.rows import Row, rejected

CONSECUTIVE = 3  # rows that fail with the same error, with none finished between them, stop a step
_SYSTEM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EMFILE, errno.ENFILE, errno.EIO}
AGAIN = ", twice"  # end of the detail of a row that was tried again


def is_of_machine(error: BaseException) -> bool:
    """Whether an error says nothing about the content of the row that was worked on."""
    if isinstance(error, av.error.FFmpegError):  # some are OSErrors, too; a file is read by FFmpeg, which knows no disk
        return error.errno in _SYSTEM
    on_gpu = type(error).__module__.startswith("torch.") or "CUDA" in str(error)
    return isinstance(error, OSError | ImportError) or on_gpu


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
    ours = [frame for frame in frames if "/latentsync/" in frame.filename] or frames
    return f"{Path(ours[-1].filename).name}, line {ours[-1].lineno} in {ours[-1].name}" if ours else "outside Python"
