"""What lies in the input folder: one row per video, one ledger per shard, rewritten only when its content changes.

The Snakefile calls `write_sources` while it is parsed (main process only), so that adding a video touches one shard.
Files are listed by name and stat alone; nothing is opened, nothing is ever changed.
"""

import argparse
import os
from pathlib import Path

from latentsync import records

VIDEO_SUFFIXES = frozenset(".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .ts .mts .m2ts .flv .wmv .3gp .ogv".split())


def scan(folder: Path) -> tuple[list[records.Row], list[str]]:
    """Rows of all videos below `folder`, and the relative paths of the files that are not videos by their suffix.

    Hidden files and folders (a leading dot) are passed over. Suffixes are compared in lower case.

    Raises:
        ValueError: the folder is missing, not a folder, or holds no video.
    """
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise ValueError(f"input_dir {str(folder)!r} {what}; give the folder that holds your videos.")
    rows, others = [], []
    for path, size, mtime_ns in sorted(_walk(folder, "")):
        if Path(path).suffix.lower() not in VIDEO_SUFFIXES:
            others.append(path)
            continue
        identity = records.source_id(path)
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
        raise ValueError(f"input_dir {str(folder)!r} holds no video; looked for {known} in it and all folders below.")
    return rows, others


def _walk(folder: Path, prefix: str):
    """Yield (relative POSIX path, size, mtime_ns); scandir spares a second stat of 100,000 files."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(Path(entry.path), f"{prefix}{entry.name}/")
            elif entry.is_file():
                stat = entry.stat()
                yield f"{prefix}{entry.name}", stat.st_size, stat.st_mtime_ns


def write_sources(folder: Path, ledgers: Path, shards: int) -> tuple[int, list[str]]:
    """Write `<ledgers>/<shard>.jsonl` for every shard; returns the number of videos and the files passed over.

    Raises:
        ValueError: the run was begun with another number of shards, or `scan` finds nothing.
    """
    rows, others = scan(folder)
    before = len(list(ledgers.glob("[0-9]*.jsonl")))
    if before not in (0, shards):
        raise ValueError(
            f"shards is {shards}, but this run was begun with {before}; keep shards: {before} or choose another run."
        )
    members: dict[str, list[records.Row]] = {f"{number:05d}": [] for number in range(shards)}
    for row in rows:
        members[records.shard_of(row["id"], shards)].append(row)
    for shard, content in members.items():
        text = "".join(records.dumps(row) + "\n" for row in sorted(content, key=lambda row: row["id"]))
        path = ledgers / f"{shard}.jsonl"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            records.write_text(path, text)
    return len(rows), others


def main(argv: list[str] | None = None) -> None:
    """`python -m latentsync.sources FOLDER LEDGERS SHARDS`, for the rule that makes its own videos."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("ledgers", type=Path)
    parser.add_argument("shards", type=int)
    args = parser.parse_args(argv)
    videos, others = write_sources(args.folder, args.ledgers, args.shards)
    print(f"{videos} videos, {len(others)} other files")


if __name__ == "__main__":
    main()
