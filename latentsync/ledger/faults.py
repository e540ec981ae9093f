"""Faults of the machine (a full disk, too little memory, a missing permission) in one sentence that says what to do.

Libraries report them in their own ways: PyAV as OSError, safetensors and torch as errors of their own with a text of
the system or none at all. This module is the one place that knows these ways.
"""

import errno
import os
import re
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CARRY_ON = "the same command carries on"
_FULL = {errno.ENOSPC, errno.EDQUOT}
_DISK = {errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO}
_FULL_TEXT = re.compile(r"No space left on device|StorageFull|os error 28\b|Disk quota exceeded")
# torch writes its zip files with no more than this to say; it is a full disk only if there is no space.
_WRITE_TEXT = re.compile(r"PytorchStreamWriter failed|file write failed|unexpected pos")
_LITTLE_BYTES = 1 << 20
_MEMORY_TEXT = re.compile(
    r"can't allocate memory|[Cc]annot allocate memory|Unable to allocate|Insufficient memory|out of memory"
    r"|failed to map segment|bad_alloc|can't start new thread"
)
_AMOUNT = re.compile(r"(?:allocate|tried to allocate) (\d[\d.]*) ?(bytes|(?:[KMGT]i?)?B)?", re.IGNORECASE)
_ON_GPU = re.compile(r"CUDA|HIP")


@contextmanager
def naming(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Give errors of the system, while this file is written, its name: they may have none, or a temporary one.

    Where the disk is full, the size that the temporary file reached is remembered as `written_bytes`. An error without
    a name that reading provokes as well is remembered as `unsure`.
    """
    try:
        yield
    except Exception as error:
        named = getattr(error, "filename", None)
        if named is not None and not (temporary and Path(os.fsdecode(named)).name == temporary.name):
            raise
        number = errno.ENOSPC if _is_full(error, path) else getattr(error, "errno", None)
        if number not in _FULL | _DISK:
            raise
        fault = OSError(number, os.strerror(number), str(path))
        fault.__dict__["unsure"] = named is None and number not in _FULL | {errno.EROFS}
        if temporary is not None and temporary.is_file():
            fault.__dict__["written_bytes"] = temporary.stat().st_size
        raise fault from error


def _is_full(error: BaseException, path: Path) -> bool:
    text = str(error)
    if getattr(error, "errno", None) == errno.ENOSPC or _FULL_TEXT.search(text):
        return True
    return bool(_WRITE_TEXT.search(text)) and _free(path) < _LITTLE_BYTES


def sentence(error: BaseException, folder: Path) -> str | None:
    """What happened and what to do, without the name of the step; None if the machine is not at fault.

    Args:
        error: with its causes.
        folder: of the run, where files are written of which `error` has no name.
    """
    seen: BaseException | None = error
    while seen is not None:
        if text := _disk(seen, folder) or _memory(seen):
            return text
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return None


def _disk(error: BaseException, folder: Path) -> str | None:
    number, text = getattr(error, "errno", None), str(error)
    named = getattr(error, "filename", None)
    place = Path(os.fsdecode(named)) if isinstance(named, str | bytes) else folder
    what = f"{place} could not be written" if named else f"a file in {folder} could not be written"
    where = f"{place} or a file that is read for it" if getattr(error, "unsure", False) else f"{place}"
    if number in _FULL or _FULL_TEXT.search(text):
        full = "the quota of the disk is used up" if number == errno.EDQUOT else "the disk is full"
        written = getattr(error, "written_bytes", 0)
        needed = f"it needs more than {written / 1e6:.1f} MB, and " if written else ""
        return f"{what}: {full}; {needed}{_free(place) / 1e6:.1f} MB are free there now. Free some space; {CARRY_ON}."
    if not isinstance(error, OSError):
        return None
    if number == errno.EROFS:
        return f"{what}: its disk is mounted read-only. Mount it writable, or use another folder; {CARRY_ON}."
    if number in (errno.EACCES, errno.EPERM):
        return f"There is no permission for {where}; change its owner or its mode; {CARRY_ON}."
    if number in (errno.EMFILE, errno.ENFILE):
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return f"Too many files are open (the limit is {limit}); raise it with `ulimit -n`; {CARRY_ON}."
    if number in (errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO):
        return f"The drive of {where} fails ({os.strerror(number)}); check it and its connection; {CARRY_ON}."
    return None


def _memory(error: BaseException) -> str | None:
    text = " ".join(str(error).split())
    short = isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM
    if not short and not (isinstance(error, RuntimeError | ImportError | OSError) or "cv2" in type(error).__module__):
        return None
    if not short and not _MEMORY_TEXT.search(text):
        return None
    amount = _AMOUNT.search(text)
    wanted = f" ({amount[1]} {amount[2] or 'bytes'} more were needed)" if amount else ""
    if _ON_GPU.search(text):
        return f"The memory of the GPU is used up{wanted}; end other programs on it, or use smaller batches."
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        cause = f"this process may use {limit / 1e6:.0f} MB (`ulimit -v`). Raise the limit"
    else:
        cause = f"{_available_mb():.0f} MB are available. End other programs, or start fewer jobs at once (`--cores 1`)"
    return f"Memory ran out{wanted}: {cause}; {CARRY_ON}."


def _free(place: Path) -> int:
    """Free bytes on the disk of a file or folder, which may not exist."""
    while not place.exists() and place != place.parent:
        place = place.parent
    return shutil.disk_usage(place).free


def _available_mb() -> float:
    try:
        found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        found = None
    return int(found[1]) / 1e3 if found else os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e6
