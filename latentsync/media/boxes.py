"""A look at the index of an mp4 before FFmpeg builds it: a header of a kilobyte may ask for gigabytes.

FFmpeg sets aside 24 bytes and more for every sample that an index declares, whether the file can hold it or not
(measured: 85 million samples in a file of 1 kB, 3 GB and 10 s). ISO/IEC 14496-12: `stsz` and `stz2` hold the number of
samples of a track, `trun` that of a fragment.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from latentsync.ledger.rows import Rejection

_FIRST = {b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide", b"pnot", b"uuid"}
_PARENTS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf"}
_DEEPEST = 5  # moov trak mdia minf stbl
_COUNT_AT = {b"stsz": 8, b"stz2": 8, b"trun": 4}  # bytes behind the header: version and flags, for two sizes of sample


def refuse_absurd_index(path: Path) -> None:
    """Do nothing for other formats and for an index that the file can hold: every sample has at least a byte.

    Raises:
        Rejection: "unreadable".
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        declared = sum(_samples(file, 0, size)) if _begins_as_mp4(file) else 0
    if declared > size:
        raise Rejection("unreadable", f"its index declares {declared} samples, more than the file has bytes ({size})")


def _begins_as_mp4(file: BinaryIO) -> bool:
    file.seek(4)
    return file.read(4) in _FIRST


def _samples(file: BinaryIO, start: int, stop: int, depth: int = 0) -> Iterator[int]:
    """The numbers of samples declared between two places; a box that does not fit ends the search, as in FFmpeg."""
    while start + 8 <= stop:
        file.seek(start)
        size, kind = struct.unpack(">I4s", file.read(8))
        body = start + 8
        if size == 1 and body + 8 <= stop:
            size, body = *struct.unpack(">Q", file.read(8)), body + 8
        end = stop if size == 0 else min(stop, start + size)
        if end < body:
            return
        if kind in _PARENTS and depth < _DEEPEST:
            yield from _samples(file, body, end, depth + 1)
        elif kind in _COUNT_AT and body + _COUNT_AT[kind] + 4 <= end:
            file.seek(body + _COUNT_AT[kind])
            yield from struct.unpack(">I", file.read(4))
        start = end
