"""The videos of the input folder: one row each, one ledger per shard; and the table of their speakers.

The Snakefile calls `write_sources` while it is parsed (in the main process only). A ledger is rewritten only when its
content changes, so adding a video touches one shard. Files are listed by name and stat; none is opened or changed.
"""

import csv
import errno
import io
import os
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from latentsync.ledger.files import dumps, write_text
from latentsync.ledger.rows import Row, shard_of, source_id

VIDEO_SUFFIXES = frozenset(".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .ts .mts .m2ts .flv .wmv .3gp .ogv".split())


def scan(folder: Path) -> tuple[list[Row], list[str]]:
    """Rows of all videos below `folder`, and the relative paths of the files that are not videos by their suffix.

    A folder without permission has a row, too, its path ending in a slash, since it may contain videos.
    Hidden files and folders (a leading dot) are skipped. Suffixes are compared in lower case.

    Raises:
        ValueError: the folder is missing, is not a folder, has no video, or has two whose names differ only in the
            Unicode encoding of an accent.
        OSError: there is no permission to read it, or the drive fails.
    """
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise ValueError(f"input_dir {str(folder)!r} {what}; give the folder of your videos.")
    rows, others = [], []
    path_of: dict[str, str] = {}
    for path, size, mtime_ns in sorted(_walk(folder)):
        if not (is_video(path) or path.endswith("/")):
            others.append(path)
            continue
        identity = source_id(path)
        if identity in path_of:
            raise ValueError(
                f"{path_of[identity]!a} and {path!a} in input_dir are the same name on most systems (an accent is "
                "encoded in two ways); rename one of them."
            )
        path_of[identity] = path
        row = {
            "id": identity,
            "kind": "source",
            "source_id": identity,
            "path": path,
            "size": size,
            "mtime_ns": mtime_ns,
        }
        rows.append(row | {"status": "ok", "reason": None, "detail": ""})
    if not rows:
        known = ", ".join(sorted(VIDEO_SUFFIXES))
        raise ValueError(f"input_dir {str(folder)!r} contains no video; searched it and its subfolders for {known}.")
    return rows, others


def _walk(folder: Path) -> Iterator[tuple[str, int, int]]:
    """(relative POSIX path, size, mtime_ns) of every file; scandir saves a second stat of 100,000 files.

    Links to folders are followed after all real folders, sorted by path, and no folder is entered twice: cycles end,
    and a file that can be reached in two ways always has the same path, without links where there is one.

    Whatever has the suffix of a video but is not a file (a folder, a pipe, a broken link), or cannot be read for lack
    of permission, is listed with size and time 0, and so is a folder without permission: probe gives the reason.
    """
    links, seen = [(folder, "")], set()

    def inside(folder: Path, prefix: str) -> Iterator[tuple[str, int, int]]:
        try:
            stat = folder.stat()
            if (stat.st_dev, stat.st_ino) in seen:
                return
            seen.add((stat.st_dev, stat.st_ino))
            with os.scandir(folder) as found:
                entries = [entry for entry in found if not entry.name.startswith(".")]
        except PermissionError:
            if not prefix:
                raise
            yield prefix, 0, 0
            return
        for entry in sorted(entries, key=lambda entry: entry.name):
            path = f"{prefix}{entry.name}"
            try:
                real_folder, a_folder = entry.is_dir(follow_symlinks=False), entry.is_dir()
                stat = entry.stat() if not a_folder and entry.is_file() else None
            except PermissionError:
                real_folder, a_folder, stat = False, False, None
            except OSError as error:
                if error.errno != errno.ELOOP:  # a link to itself
                    raise
                real_folder, a_folder, stat = False, False, None
            if stat is not None:
                yield path, stat.st_size, stat.st_mtime_ns
            elif is_video(path):
                yield path, 0, 0
            if real_folder:
                yield from inside(Path(entry.path), f"{path}/")
            elif a_folder:
                links.append((Path(entry.path), f"{path}/"))

    for link in links:  # `inside` appends to it
        yield from inside(*link)


def is_video(path: str) -> bool:
    """Whether a file or folder has the suffix of a video."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


def refuse_results(folder: Path, results: Path) -> None:
    """Raise if one of the folders contains the other: the run's own crops and videos would become sources.

    Raises:
        ValueError: one contains the other.
    """
    given, ours = folder.resolve(), results.resolve()
    if ours.is_relative_to(given) or given.is_relative_to(ours):
        raise ValueError(
            f"input_dir {str(folder)!r} contains the results in {str(ours)!r} or is inside them; give a folder that "
            "contains only your videos."
        )


def read_speakers(paths: Iterable[Path]) -> dict[str, str]:
    """Path (NFC, relative to the input folder) -> speaker, from at most one CSV with the columns path and speaker.

    Raises:
        ValueError: the file is not UTF-8 (with or without a byte order mark), or lacks a column.
    """
    speakers = {}
    for path in paths:
        data = Path(path).read_bytes()
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = data[: error.start].count(b"\n") + 1
            raise ValueError(f"{path} line {line} is not UTF-8; save it as UTF-8 (in Excel: CSV UTF-8).") from None
        reader = csv.DictReader(io.StringIO(text, newline=""))
        if not {"path", "speaker"} <= set(reader.fieldnames or []):
            raise ValueError(f"{path} has the columns {reader.fieldnames}; it needs path and speaker.")
        for row in reader:
            if row["speaker"]:
                speakers[unicodedata.normalize("NFC", row["path"])] = row["speaker"]
    return speakers


def write_sources(folder: Path, ledgers: Path, shards: int) -> tuple[int, list[str]]:
    """Write `<ledgers>/<shard>.jsonl` for every shard; returns the number of videos and the skipped files.

    Raises:
        ValueError: the run has another number of shards, or an error of `scan`.
    """
    rows, others = scan(folder)
    # The last ledger is written first, so that the number is right even after a kill in the middle.
    before = max((int(path.stem) + 1 for path in ledgers.glob("[0-9]*.jsonl")), default=shards)
    if before != shards:
        raise ValueError(
            f"shards is {shards}, but this run was started with {before}; keep shards: {before} or choose another run."
        )
    members: dict[str, list[Row]] = {f"{number:05d}": [] for number in range(shards)}
    for row in rows:
        members[shard_of(row["id"], shards)].append(row)
    for shard, content in reversed(members.items()):
        text = "".join(dumps(row) + "\n" for row in sorted(content, key=lambda row: row["id"]))
        path = ledgers / f"{shard}.jsonl"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)
    return len(rows), others
