"""Pretrained files by name: what each is for, where it lies, what it must be, and what its licence allows.

The list is registry.toml. A file is looked for below the weights folder: the environment variable LATENTSYNC_WEIGHTS,
else ~/.cache/latentsync. Upstream's folder `checkpoints` may be named as it is: what lies elsewhere there is told apart
by its size.
What a configuration asks for is needs.py's business; fetch.py downloads. No torch here: the Snakefile asks, too.
"""

import hashlib
import os
import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

USES = ("inference", "training", "curation", "evaluation", "enhancement")
ALLOWED = {"yes": True, "restricted": True, "unclear": False, "no": False}  # for commercial use
HUB = "https://huggingface.co"


@dataclass(frozen=True)
class File:
    """One file on disk."""

    place: str
    """Below the weights folder."""
    url: str | None = None
    """None: it must be put there by hand."""
    size: int | None = None
    """Bytes, where known."""
    sha256: str | None = None
    """Its first digits, as many as were published; what fetch recorded stands in `<file>.sha256` beside the file."""
    upstream: str | None = None
    """Where it lies below upstream's folder `checkpoints`, if elsewhere: there the releases share one name."""
    member: str | None = None
    """Its name inside the zip archive that `url` names."""
    archive_sha256: str | None = None

    @property
    def path(self) -> Path:
        """Where it is, or belongs."""
        path = weights_folder() / self.place
        there = weights_folder() / (self.upstream or self.place)
        return there if not path.exists() and there.is_file() and there.stat().st_size == self.size else path


@dataclass(frozen=True)
class Entry:
    """One thing with one licence: a file, or a folder of files."""

    name: str
    what: str
    needed_for: tuple[str, ...]
    """Of USES: what does not work without it as published. Empty: an alternative."""
    licence: str
    commercial: str
    """Of ALLOWED. restricted: allowed under the use restrictions of its licence."""
    source: str
    files: tuple[File, ...]
    instead: str = ""
    """What to choose where the licence or the file is not at hand."""
    resolution: int | None = None
    """Side of the face that a U-Net was trained on, pixels."""

    @property
    def path(self) -> Path:
        """The file, or the folder that holds all its files."""
        return self.files[0].path if len(self.files) == 1 else Path(os.path.commonpath([f.path for f in self.files]))


@cache
def entries() -> dict[str, Entry]:
    """All of registry.toml by name, in its order."""
    found = {}
    for name, table in tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")).items():
        hub, revision = table.pop("hub", None), table.pop("revision", "main")
        files = []
        for file in table.pop("files"):
            hub_file = file.pop("hub_file", None)
            if hub_file is not None:
                file["url"] = f"{HUB}/{hub}/resolve/{revision}/{hub_file}"
            files.append(File(**file))
        source = table.pop("source", None) or f"{HUB}/{hub}"
        found[name] = Entry(name, needed_for=tuple(table.pop("needed_for")), source=source, files=tuple(files), **table)
    return found


def entry(name: str) -> Entry:
    """One entry.

    Raises:
        ValueError: no such name.
    """
    if name not in entries():
        raise ValueError(f"No weights are called {name}; known are {', '.join(entries())}.")
    return entries()[name]


def weights_folder() -> Path:
    """The folder below which pretrained files lie."""
    return Path(os.environ.get("LATENTSYNC_WEIGHTS") or "~/.cache/latentsync").expanduser()


def find(name: str, chosen: str | None = None, key: str = "") -> Path:
    """The path of pretrained weights, a file or a folder: `chosen` if given, else their place.

    Raises:
        ValueError: it is not there; the sentence names the place, the key that asked, and how to get it.
    """
    wanted = entry(name)
    asked = f" ({key} asks for it)" if key else ""
    if chosen:
        path = Path(chosen).expanduser()
        if not path.exists():
            raise ValueError(
                f"{path} is missing: {wanted.what}{asked}; correct the path, or leave it away for the file that "
                f"`latentsync weights path {name}` names."
            )
        return path
    missing = [file.path for file in wanted.files if not file.path.exists()]
    if missing:
        way_out = way_out_of(wanted, key)
        raise ValueError(
            f"{missing[0]} is missing: {wanted.what}{asked}; `latentsync weights fetch {name}` gets it, or put it "
            f"there by hand, or set LATENTSYNC_WEIGHTS to the folder that holds {wanted.files[0].place}"
            + (f", or {way_out}." if way_out else ".")
        )
    return wanted.path


def way_out_of(part: Entry, key: str) -> str:
    """The way out of a part that is not at hand or not allowed: an option is left away, a key gets another value."""
    if key.startswith("--"):
        return f"leave {key.split()[0]} away"
    return f"choose {part.instead}" if part.instead and not key.startswith("generate ") else ""


def find_start(init: str) -> Path:
    """The file that train_unet_stage1.init names: a U-Net of the registry such as `sd15`, or a path.

    Raises:
        ValueError: as `find`; or it is a folder, or no U-Net.
    """
    key = f"train_unet_stage1.init: {init}"
    if init in starts():
        return find(init, key=key)
    path = Path(init).expanduser()
    if path.is_dir():
        raise ValueError(f"{key} is a folder; name the file of weights in it.")
    if not path.exists():
        raise ValueError(f"{key} is neither a file nor one of {', '.join(starts())}.")
    return path


def starts() -> list[str]:
    """The entries that stage 1 can start from."""
    return [name for name, known in entries().items() if known.resolution is not None or name == "sd15"]


# --- what a file must be --------------------------------------------------------------------------------------------


def known_as(path: Path) -> Entry | None:
    """The entry that a file is, wherever it lies: by size and sha256, or, where those are not known, by its place."""
    size, actual = path.stat().st_size, None
    for candidate in entries().values():
        for file in candidate.files:
            if file.sha256 and file.size == size:
                actual = actual or sha256_of(path)  # two releases of GFPGAN are equally large
                if actual.startswith(file.sha256):
                    return candidate
            if not file.sha256 and _is_place(path, file):
                return candidate
    return None


def _is_place(path: Path, file: File) -> bool:
    place = file.path
    return place.name == path.name and place.exists() and path.exists() and place.samefile(path)


def expected_sha256(path: Path) -> str | None:
    """What the file must hash to: by the registry where the path is a place of it, else by `<file>.sha256` beside it.

    Raises:
        ValueError: that file holds something else than a line of sha256sum.
    """
    for file in (file for known in entries().values() for file in known.files if file.sha256):
        if _is_place(path, file):
            return file.sha256
    beside = recorded_at(path)
    if not beside.exists():
        return None
    words = beside.read_text(encoding="utf-8", errors="replace").split()
    if not words or not re.fullmatch(r"[0-9a-f]{64}", words[0]):
        raise ValueError(f"{beside} does not begin with a sha256; delete it, or write it with sha256sum.")
    return words[0]


def recorded_at(path: Path) -> Path:
    """Where fetch writes the sha256 of a file that the registry has none for, in the format of sha256sum."""
    return path.with_name(path.name + ".sha256")


def sha256_of(path: Path) -> str:
    """64 hex digits; about two gigabytes a second.

    Raises:
        ValueError: it is a folder.
    """
    _require_no_folder(path)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _require_no_folder(path: Path) -> None:
    if path.is_dir():
        raise ValueError(f"{path} is a folder where a file belongs; move it away.")


def require_intact(path: Path) -> bool:
    """Compare a file with the sha256 that is known of it; False where none is.

    Raises:
        ValueError: it is another file, a bit of it changed, or it is a folder.
    """
    _require_no_folder(path)
    expected = expected_sha256(path)
    if expected is None:
        return False
    actual = sha256_of(path)
    if not actual.startswith(expected):
        raise ValueError(
            f"{path} has sha256 {actual[:16]}... instead of {expected[:16]}...: it is damaged, or another file under "
            "this name; move it away and fetch it again, or name your own file by its path elsewhere."
        )
    return True
