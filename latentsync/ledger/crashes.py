"""Crashes in compiled code: a broken video may end the process itself, past every `except`.

While an item is worked on, its key stands in `<step>/journal/<shard>.last_words`. A crash (an assertion, a bad address)
makes faulthandler write the place behind it; kill -9, also the kernel's for want of memory, writes nothing and counts
for nothing. Then the process is started anew, and what crashed twice becomes a row with the reason `crashed`.
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
# Videos that crash one after the other, with nothing finished between: then it is the machine rather than the videos.
_IN_A_ROW = 3
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


class Crash(NamedTuple):
    """What the last process of a shard left."""

    key: str  # of the item that it was at
    finished: int  # items that this process had finished before
    words: str  # what it was, and where


def path_of(ledger: Path) -> Path:
    """Where the last words of the process that writes this ledger stand."""
    return Path(ledger).parent / "journal" / f"{Path(ledger).stem}.last_words"


def last_crash(path: Path) -> Crash | None:
    """The crash that ended the last process; None where it went well, was killed, or never was."""
    try:
        head, _, rest = path.read_text(errors="replace").partition("\n")
    except FileNotFoundError:
        return None
    what = re.search(r"Fatal Python error: (.+)", rest)
    if what is None:
        return None
    place = re.search(r'File "(?:.*/)?([^/"]+)", line (\d+) in (\S+)', rest)
    where = f" in {place[3]} ({place[1]}, line {place[2]})" if place else " outside Python"
    key, finished = head.split()
    return Crash(key, int(finished), what[1] + where)


@contextmanager
def last_words(path: Path) -> Iterator[Callable[[str, int], None]]:
    """Gives `at(key, finished)`, to be called before each item; afterwards, whatever is raised, no file is left.

    Where faulthandler is on already (under pytest, or by PYTHONFAULTHANDLER), it goes on telling whom it told before.
    """
    with open(path, "wb", buffering=0) as file:
        ours = not faulthandler.is_enabled()
        if ours:
            faulthandler.enable(file, all_threads=False)

        def at(key: str, finished: int) -> None:
            file.seek(0)
            file.truncate()
            file.write(f"{key} {finished}\n".encode())

        try:
            yield at
        finally:
            if ours:
                faulthandler.disable()
            path.unlink(missing_ok=True)


def outlive(path: Path) -> None:
    """Go on in a child; this process waits, starts another child after a crash at an item, and ends as the last did.

    Call it before threads are started and anything big is imported. `path`: of the last words. The child dies with its
    parent; SIGTERM is handed on, Ctrl-C reaches both.
    """
    crashed_in_a_row = 0
    while True:
        status = _child_status()
        if status is None:
            return
        crash = last_crash(path) if status < 0 else None
        if crash is None:
            if -status == signal.SIGKILL:
                _say("Killed by SIGKILL: by somebody, or by the system for want of memory.")
            sys.exit(status if status >= 0 else 128 - status)
        crashed_in_a_row = 1 if crash.finished else crashed_in_a_row + 1
        if crashed_in_a_row == ATTEMPTS * _IN_A_ROW:
            _say(f"{crash.words}. {_IN_A_ROW} items in a row crashed; if not the videos, the machine is at fault.")
            sys.exit(128 - status)
        _say(f"{crash.words}. Starting again; an item that crashes {ATTEMPTS} times is put aside as `crashed`.")


def _child_status() -> int | None:
    """None in a new child; in the parent how the child ended, minus the signal if one ended it."""
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before it could be asked for
            os._exit(1)
        return None

    def hand_on(number: int, _: FrameType | None) -> None:
        os.kill(child, number)

    before = signal.signal(signal.SIGTERM, hand_on), signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGINT, before[1])


def _say(sentence: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {sentence}", file=sys.stderr)
