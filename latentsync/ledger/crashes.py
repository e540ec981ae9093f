"""Crashes of compiled code: a broken video may end the whole process, which no `except` can catch.

While a row is worked on, its key is in the file `<step>/journal/<shard>.crash`. On a crash (an abort, a segmentation
fault) faulthandler appends where it happened. SIGKILL, which is also how the kernel ends a process when memory runs
out, appends nothing and is not a crash. After a crash the process is restarted; a row at which it crashes twice is
rejected with the reason `crashed`.
"""

import ctypes
import faulthandler
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NamedTuple

ATTEMPTS = 2
# So many consecutive rows that crash, with none finished between them, point to the machine instead of the videos.
_CONSECUTIVE = 3
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


class Crash(NamedTuple):
    """How the last process of a shard crashed."""

    key: str  # of the row that it was working on
    n_finished: int  # rows that this process had finished before
    description: str  # what happened, and where


def path_of(ledger: Path) -> Path:
    """The crash file of the process that writes this ledger."""
    return Path(ledger).parent / "journal" / f"{Path(ledger).stem}.crash"


def last_crash(path: Path) -> Crash | None:
    """The crash that ended the last process; None if there was none: it finished, was killed, or never ran."""
    try:
        first_line, _, traceback = path.read_text(errors="replace").partition("\n")
    except FileNotFoundError:
        return None
    what = re.search(r"Fatal Python error: (.+)", traceback)
    if what is None:
        return None
    place = re.search(r'File "(?:.*/)?([^/"]+)", line (\d+) in (\S+)', traceback)
    where = f" in {place[3]} ({place[1]}, line {place[2]})" if place else " outside Python"
    key, n_finished = first_line.split()
    return Crash(key, int(n_finished), what[1] + where)


@contextmanager
def recording(path: Path) -> Iterator[Callable[[str, int], None]]:
    """Record crashes in the file `path`, which is deleted at the end, also after an exception.

    Yields `begin(key, n_finished)`, to be called before each row. Where faulthandler is enabled already (by pytest or
    PYTHONFAULTHANDLER), it keeps writing to its own file.
    """
    with open(path, "wb", buffering=0) as file:
        enabled_here = not faulthandler.is_enabled()
        if enabled_here:
            faulthandler.enable(file, all_threads=False)

        def begin(key: str, n_finished: int) -> None:
            file.seek(0)
            file.truncate()
            file.write(f"{key} {n_finished}\n".encode())

        try:
            yield begin
        finally:
            if enabled_here:
                faulthandler.disable()
            path.unlink(missing_ok=True)


def restart_on_crash(path: Path) -> None:
    """Fork and return in the child; the parent forks again after each crash and exits with the last child's status.

    Call it before any thread is started and before large imports. `path` is the crash file. The child is killed when
    its parent dies; SIGTERM is forwarded to it, and Ctrl-C reaches both.
    """
    consecutive = 0
    while True:
        status = _child_status()
        if status is None:
            return
        crash = last_crash(path) if status < 0 else None
        if crash is None:
            if -status == signal.SIGKILL:
                _log("Killed by SIGKILL: by a user, or by the system because memory ran out.")
            sys.exit(status if status >= 0 else 128 - status)
        consecutive = 1 if crash.n_finished else consecutive + 1
        if consecutive == ATTEMPTS * _CONSECUTIVE:
            _log(f"{crash.description}. {_CONSECUTIVE} consecutive rows crashed, so the machine may be faulty.")
            sys.exit(128 - status)
        _log(f"{crash.description}. Restarting; a row that crashes {ATTEMPTS} times is rejected as `crashed`.")


def _child_status() -> int | None:
    """None in the new child; in the parent the child's exit status, or minus the signal that ended it."""
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent died before the line above could take effect
            os._exit(1)
        return None

    def forward(number: int, _: FrameType | None) -> None:
        os.kill(child, number)

    before = signal.signal(signal.SIGTERM, forward), signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGINT, before[1])


def _log(sentence: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {sentence}", file=sys.stderr)
