"""The files of the input folder: one row each, one ledger per shard; and the table of their speakers.

Files are listed by name and stat; none is opened or changed.
"""

import csv
import errno
import io
import json
import os
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from latentsync.ledger.files import write_ledger
from latentsync.ledger.rows import Row, rejected, shard_of, source_id

# What a file with this suffix is, so that it is not opened. Every other file may be a video: FFmpeg decides by content.
OTHERS = {
    suffix: what
    for what, suffixes in {
        "text or data": ".txt .md .rst .csv .tsv .json .jsonl .ndjson .xml .yaml .yml .toml .ini .cfg .conf .log .nfo "
        ".html .htm .css .js .tex .bib .diz .parquet .feather .arrow .h5 .hdf5 .npy .npz .pkl .pickle .mat .db .sqlite "
        ".rttm .textgrid .eaf .lab .ctm .trn",
        "a picture": ".jpg .jpeg .jpe .jfif .png .bmp .tif .tiff .webp .heic .heif .avif .svg .psd .ico .cr2 .cr3 .nef "
        ".arw .dng .raw .exr .thm .gif .xcf .jp2",
        "audio": ".wav .mp3 .m4a .m4b .aac .flac .oga .opus .wma .aif .aiff .aifc .amr .ac3 .eac3 .dts .mka .mid .midi "
        ".caf .au .mp2 .mpa .ape .wv .spx .sph",
        "subtitles": ".srt .vtt .ass .ssa .sub .idx .sbv .ttml .dfxp .smi .scc .lrc .sup",
        "an archive": ".zip .tar .gz .tgz .bz2 .xz .zst .7z .rar .lz4 .cab .deb .rpm .dmg .pkg .apk .jar .whl",
        "a document": ".pdf .doc .docx .odt .rtf .xls .xlsx .ods .ppt .pptx .odp .key .pages .numbers .epub .eml .msg",
        "a checksum or a signature": ".md5 .sha1 .sha256 .sha512 .sfv .crc .par2 .sig .asc .pem .torrent .aria2",
        "a file of weights": ".pt .pth .ckpt .safetensors .onnx .tflite .pb .task .gguf .caffemodel .prototxt .msgpack",
        "a project or an edit list": ".prproj .aep .drp .fcpxml .fcp .otio .edl .aaf .veg .kdenlive .mlt .xmp .aae "
        ".cube .blend .imovieproj .camproj .lut",
        "an index of a camera or a player": ".cpi .mpl .bdm .bup .ifo .moff .modd .pek .cfa .sidx .lrprev",
        "a playlist": ".m3u .m3u8 .pls .mpd .ffconcat .cue .wpl .xspf .asx .sdp",
        "a program": ".py .pyc .ipynb .sh .bat .ps1 .exe .dll .so .c .h .cpp .cu .java .m .r .lua .pl .rb .go .rs",
        "a shortcut or a lock": ".lnk .url .webloc .desktop .lock .pid .swp",
    }.items()
    for suffix in suffixes.split()
}
# A folder with such a name has a row of its own, since it may be meant as a video; probe says what it is.
VIDEO_SUFFIXES = frozenset(
    ".mp4 .m4v .mov .qt .mkv .webm .avi .divx .mpg .mpeg .mpe .m1v .m2v .ts .m2t .mts .m2ts .tod .mod .vob .flv .f4v "
    ".wmv .asf .rm .rmvb .3gp .3g2 .ogv .ogm .mxf .gxf .dv .mjpeg .mjpg .y4m .lrv .wtv .nut .ivf .h264 .264 .hevc .265 "
    ".av1 .obu".split()
)
SYSTEM = ("/proc", "/sys", "/dev")


@dataclass
class Scan:
    """What a folder contains: a row for every file, `passed_over` the paths that are known by their names."""

    rows: list[Row] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)
    hidden: int = 0
    """Hidden files and folders (a leading dot), which have no rows."""

    @property
    def videos(self) -> int:
        """Rows of files that may be videos."""
        return len(self.rows) - len(self.passed_over)


def scan(folder: Path) -> Scan:
    """A row for every file below `folder`, sorted by path.

    A file that may be a video has the status ok, its size and its time. One that is plainly something else by its
    suffix (OTHERS, in lower case) is rejected as `not_video`; its row has neither size nor time, so writing into it
    changes no ledger. So is a link into a folder of the system, which is not followed. A folder without permission has
    a row, too, its path ending in a slash, since it may contain videos. Hidden files and folders are counted.

    Raises:
        ValueError: the folder is missing, is not a folder, has no video, or has two whose names differ only in the
            Unicode encoding of an accent.
        OSError: there is no permission to read it, or the drive fails.
    """
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise ValueError(f"input_dir {str(folder)!r} {what}; give the folder of your videos.")
    found = Scan()
    path_of: dict[str, str] = {}
    for path, size, mtime_ns, other in sorted(_walk(folder, found)):
        identity = source_id(path)
        if identity in path_of and not other:
            raise ValueError(
                f"{path_of[identity]!a} and {path!a} in input_dir are the same name on most systems (an accent is "
                "encoded in two ways); rename one of them."
            )
        row = {"id": identity, "kind": "source", "source_id": identity, "path": path}
        if not other:
            path_of[identity] = path
            row |= {"size": size, "mtime_ns": mtime_ns, "status": "ok", "reason": None, "detail": ""}
        elif identity not in path_of:  # two texts of the same name, an accent encoded in two ways, share a row
            path_of[identity] = path
            row = rejected(row, "not_video", other)
            found.passed_over.append(path)
        else:
            continue
        found.rows.append(row)
    if not found.videos:
        raise ValueError(
            f"input_dir {str(folder)!r} contains no video; {len(found.passed_over)} files in it and its subfolders are "
            f"something else by their names, {found.hidden} are hidden. Give the folder of your videos."
        )
    return found


def _walk(folder: Path, found: Scan) -> Iterator[tuple[str, int, int, str]]:
    """(relative POSIX path, size, mtime_ns, why it is passed over or "") of every file; hidden ones are counted.

    scandir saves a second stat of 100,000 files. Links to folders are followed after all real folders, sorted by path,
    and no folder is entered twice: cycles end, and a file that can be reached in two ways always has the same path,
    without links where there is one.

    Whatever is not a file (a pipe, a broken link, a folder with the suffix of a video), or cannot be read for lack of
    permission, is listed with size and time 0, and so is a folder without permission: probe gives the reason.
    """
    links, seen = [(folder, "")], set()
    system = _devices(SYSTEM) - _devices([folder])

    def inside(folder: Path, prefix: str) -> Iterator[tuple[str, int, int, str]]:
        try:
            stat = folder.stat()
            if stat.st_dev in system:
                yield prefix, 0, 0, "passed over: a link into a folder of the system"
                return
            if (stat.st_dev, stat.st_ino) in seen:
                return
            seen.add((stat.st_dev, stat.st_ino))
            with os.scandir(folder) as listed:
                everything = sorted(listed, key=lambda entry: entry.name)
        except PermissionError:
            if not prefix:
                raise
            yield prefix, 0, 0, ""
            return
        entries = [entry for entry in everything if not entry.name.startswith(".")]
        found.hidden += len(everything) - len(entries)
        for entry in entries:
            path = f"{prefix}{entry.name}"
            real_folder, a_folder, stat = _kind(entry)
            if real_folder:
                if is_video(path):
                    yield path, 0, 0, ""
                yield from inside(Path(entry.path), f"{path}/")
            elif a_folder:
                if is_video(path):
                    yield path, 0, 0, ""
                links.append((Path(entry.path), f"{path}/"))
            elif what := OTHERS.get(suffix := os.path.splitext(path)[1].lower()):
                yield path, 0, 0, f"passed over by its name: {suffix} is {what}"
            elif stat is not None and stat.st_dev in system:
                yield path, 0, 0, "passed over: a link into a folder of the system"
            else:
                yield path, stat.st_size if stat else 0, stat.st_mtime_ns if stat else 0, ""

    for link in links:  # `inside` appends to it
        yield from inside(*link)


def _kind(entry: os.DirEntry[str]) -> tuple[bool, bool, os.stat_result | None]:
    """Whether an entry is a real folder, whether it is or leads to a folder, and the stat of a regular file.

    Raises:
        OSError: the drive fails.
    """
    try:
        real_folder, a_folder = entry.is_dir(follow_symlinks=False), entry.is_dir()
        return real_folder, a_folder, entry.stat() if not a_folder and entry.is_file() else None
    except (PermissionError, FileNotFoundError, ProcessLookupError):  # the last two: it vanishes just now
        return False, False, None
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENAMETOOLONG):  # a link to itself, a link to an endless name
            raise
        return False, False, None


def _devices(folders: Iterable[str | Path]) -> set[int]:
    """The file systems of these folders, where they exist."""
    return {os.stat(folder).st_dev for folder in folders if os.path.isdir(folder)}


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


def write_sources(folder: Path, ledgers: Path, shards: int) -> Scan:
    """Write `<ledgers>/<shard>.jsonl` for every shard; returns what was found.

    Raises:
        ValueError: an error of `scan`.
    """
    found = scan(folder)
    members: dict[str, list[Row]] = {f"{number:05d}": [] for number in range(shards)}
    for row in found.rows:
        members[shard_of(row["id"], shards)].append(row)
    for shard, content in members.items():
        write_ledger(ledgers / f"{shard}.jsonl", content)
    return found


def refuse_other_shards(run: Path, shards: int) -> None:
    """Raise if the run was started with another number of shards: sources would move between its ledgers.

    The run's configuration says it. Where a kill left none, only more ledgers than shards are a proof.

    Raises:
        ValueError: another number.
    """
    try:
        before = json.loads((run / "config.json").read_text(encoding="utf-8"))["shards"]
    except (OSError, ValueError, KeyError):
        ledgers = (path for step in ("sources", "probe") for path in run.glob(f"{step}/[0-9]*.jsonl"))
        before = max(shards, max((int(path.stem) + 1 for path in ledgers), default=0))
    if before != shards:
        raise ValueError(
            f"shards is {shards}, but this run was started with {before}; keep shards: {before} or choose another run."
        )
