"""Open a file with FFmpeg: what is wrong with it is a Rejection, what is wrong with the machine an OSError.

A verdict is remembered for ever, a job that fails tries the file again.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import av.container
import av.error

from latentsync.ledger.rows import Rejection

# FFmpeg says these of broken contents too (measured on 1,300 damaged files: Matroska, ASF and mov, in this order).
_ALSO_CONTENT = {errno.EIO, errno.EPERM, errno.ENOMEM}
_PIECE = 1 << 24
PLAYLISTS = frozenset("concat dash hls imf".split())  # FFmpeg's names


@contextmanager
def opened(path: Path) -> Iterator[av.container.InputContainer]:
    """An input container; whatever FFmpeg finds wrong with it becomes Rejection("unreadable"), see `verdict`.

    The absolute path keeps a colon in a name from being read as a protocol, and the whitelist keeps a playlist that
    calls itself .mp4 from opening anything but local files. Playlists are refused: FFmpeg would read the files that
    they name, and the user who supplied one may not be allowed to. Titles that are not UTF-8 are no fault.
    """
    path = Path(path).absolute()
    try:
        with av.open(str(path), options={"protocol_whitelist": "file"}, metadata_errors="replace") as container:
            if container.format.name in PLAYLISTS:
                raise Rejection("unreadable", "this is a playlist, not a video or audio")
            yield container
    except av.error.FFmpegError as error:
        raise verdict(path, error) from error


def verdict(path: Path, error: OSError | av.error.FFmpegError) -> Rejection:
    """The Rejection for a file that cannot be opened or read.

    No permission is a verdict, so that one such file does not hold up all the others; a touched file is a new one.

    Raises:
        OSError: the machine or the network is at fault, and the file may be whole.
    """
    if isinstance(error, FileNotFoundError | NotADirectoryError) and _has_neighbours(path):
        return Rejection("unreadable", f"the file cannot be opened: {error.strerror}")
    if error.errno == errno.ELOOP:
        return Rejection("unreadable", "this is a link that leads back to itself")
    if error.errno == errno.EACCES and os.path.isdir(path):
        return Rejection(
            "unreadable", "this folder may not be entered, so its content is not known; change its permissions"
        )
    if error.errno == errno.EACCES:
        return Rejection("unreadable", "there is no permission to read it; grant it and touch the file")
    if isinstance(error, av.error.FFmpegError) and error.errno in _ALSO_CONTENT:
        _read_through(path)
    elif isinstance(error, OSError) and not path.is_dir():
        raise _machine_fault(path, error) from error
    return Rejection("unreadable", _sentence(path, error))


def _has_neighbours(path: Path) -> bool:
    """Whether its folder holds anything: an empty or missing one looks like a drive that dropped out."""
    try:
        return any(path.parent.iterdir())
    except OSError:
        return False


def _read_through(path: Path) -> None:
    """Read a file to its end: what FFmpeg calls an error of input and the system reads is broken content."""
    try:
        with open(path, "rb") as file:
            while file.read(_PIECE):
                pass
    except OSError as error:
        raise _machine_fault(path, error) from error


def _machine_fault(path: Path, error: OSError) -> OSError:
    message = f"{error.strerror}: a fault of the machine or the network, not noted against the file; run again"
    return OSError(error.errno, message, str(path))


def _sentence(path: Path, error: OSError | av.error.FFmpegError) -> str:
    if path.is_dir():
        return "this is a folder, not a file"
    if path.is_file() and path.stat().st_size == 0:
        return "the file is empty"
    if isinstance(error, av.error.InvalidDataError) and path.is_file():
        with open(path, "rb") as file:
            if file.read(8)[4:] == b"ftyp":
                return "it begins as an mp4, but its index is missing or broken, as in a file that is cut off"
    return f"FFmpeg cannot read it: {error.strerror}"
