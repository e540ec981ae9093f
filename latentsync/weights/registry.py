"""Registry of pretrained files: purpose, location, size, sha256 and licence of each.

The list is registry.toml. Files are looked up in the weights folder: the environment variable LATENTSYNC_WEIGHTS, or
~/.cache/latentsync. It may also be upstream's folder `checkpoints`; a file that has another path there is recognised by
its size. latentsync/required.py says which files a configuration needs, and fetch.py downloads them. This module does
not import torch, because the Snakefile imports it.
"""

import hashlib
import os
import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, get_args

Use = Literal["inference", "training", "curation", "evaluation", "enhancement"]
USES = get_args(Use)
ALLOWED = {"yes": True, "restricted": True, "unclear": False, "no": False}  # for commercial use
HUB = "https://huggingface.co"


@dataclass(frozen=True)
class File:
    """One file on disk."""

    place: str
    """Path relative to the weights folder."""
    url: str | None = None
    """None: the file cannot be downloaded."""
    size: int | None = None
    """Size in bytes, if known."""
    sha256: str | None = None
    """As many leading hex digits as are published; `fetch` records an unpublished one in `<file>.sha256`."""
    upstream: str | None = None
    """Path relative to upstream's folder `checkpoints`, if it differs: releases share one name there."""
    member: str | None = None
    """Name of the file inside the zip archive at `url`."""
    archive_sha256: str | None = None

    @property
    def path(self) -> Path:
        """Path of the file, or the path where it is expected."""
        path = weights_folder() / self.place
        upstream = weights_folder() / (self.upstream or self.place)
        return upstream if not path.exists() and upstream.is_file() and upstream.stat().st_size == self.size else path


@dataclass(frozen=True)
class Entry:
    """One entry of the registry with one licence: a file, or a folder of files."""

    name: str
    what: str
    needed_for: tuple[str, ...]
    """Members of USES that need it in the published recipe. Empty: an alternative."""
    licence: str
    commercial: str
    """Key of ALLOWED. restricted: allowed under the use restrictions of the licence."""
    source: str
    files: tuple[File, ...]
    instead: str = ""
    """Alternative if the file is missing or its licence does not allow the use."""
    resolution: int | None = None
    """Width and height of the faces that a U-Net was trained on, in pixels."""

    @property
    def path(self) -> Path:
        """The file, or the folder that contains all files."""
        return self.files[0].path if len(self.files) == 1 else Path(os.path.commonpath([f.path for f in self.files]))


@cache
def entries() -> dict[str, Entry]:
    """All entries of registry.toml by name, in the order of the file."""
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
    """The entry with this name.

    Raises:
        ValueError: no entry has this name.
    """
    if name not in entries():
        raise ValueError(f"Unknown weights {name}; choose one of {', '.join(entries())}.")
    return entries()[name]


def weights_folder() -> Path:
    """The folder of pretrained files."""
    return Path(os.environ.get("LATENTSYNC_WEIGHTS") or "~/.cache/latentsync").expanduser()


def find(name: str, chosen: str | Path | None = None, key: str = "") -> Path:
    """Path of pretrained weights, a file or a folder: `chosen` if given, else the path of the entry.

    Args:
        key: the configuration key or option that needs it, for the message.

    Raises:
        ValueError: it does not exist; the message names the path, `key` and how to get the file.
    """
    wanted = entry(name)
    needed_by = f" (needed by {key})" if key else ""
    if chosen:
        path = Path(chosen).expanduser()
        if not path.exists():
            raise ValueError(
                f"{path} is missing: {wanted.what}{needed_by}; correct the path, or omit it to use the file at "
                f"`latentsync weights path {name}`."
            )
        return path
    missing = [file.path for file in wanted.files if not file.path.exists()]
    if missing:
        fix = fix_for(wanted, key)
        raise ValueError(
            f"{missing[0]} is missing: {wanted.what}{needed_by}; run `latentsync weights fetch {name}`, copy it "
            f"there, or set LATENTSYNC_WEIGHTS to the folder that contains {wanted.files[0].place}"
            + (f", or {fix}." if fix else ".")
        )
    return wanted.path


def fix_for(part: Entry, key: str) -> str:
    """What to change if a part is missing or not allowed: omit the option, or give the key another value."""
    if key.startswith("--"):
        return f"omit {key.split()[0]}"
    return f"choose {part.instead}" if part.instead and not key.startswith("generate ") else ""


def find_start(init: str) -> Path:
    """The file that train_unet_stage1.init names: a U-Net of the registry such as `sd15`, or a path.

    Raises:
        ValueError: as `find`; or the path is a folder or does not exist.
    """
    key = f"train_unet_stage1.init: {init}"
    if init in starts():
        return find(init, key=key)
    path = Path(init).expanduser()
    if path.is_dir():
        raise ValueError(f"{key} is a folder; give the path of the weights file in it.")
    if not path.exists():
        raise ValueError(f"{key} is neither a file nor one of {', '.join(starts())}.")
    return path


def starts() -> list[str]:
    """Names of the entries that stage 1 can start from."""
    return [name for name, known in entries().items() if known.resolution is not None or name == "sd15"]


# --- identity of files ----------------------------------------------------------------------------------------------


def known_as(path: Path) -> Entry | None:
    """The entry that a file belongs to: by size and sha256, or by its path if the sha256 is unknown."""
    size, actual = path.stat().st_size, None
    for candidate in entries().values():
        for file in candidate.files:
            if file.sha256 and file.size == size:
                actual = actual or sha256_of(path)  # two releases of GFPGAN have the same size
                if actual.startswith(file.sha256):
                    return candidate
            if not file.sha256 and _is_place(path, file):
                return candidate
    return None


def _is_place(path: Path, file: File) -> bool:
    place = file.path
    return place.name == path.name and place.exists() and path.exists() and place.samefile(path)


def expected_sha256(path: Path) -> str | None:
    """Expected sha256: from the registry if it lists this path, else from `<file>.sha256` beside the file; or None.

    Raises:
        ValueError: `<file>.sha256` does not have the format of sha256sum.
    """
    for file in (file for known in entries().values() for file in known.files if file.sha256):
        if _is_place(path, file):
            return file.sha256
    recorded = recorded_at(path)
    if not recorded.exists():
        return None
    words = recorded.read_text(encoding="utf-8", errors="replace").split()
    if not words or not re.fullmatch(r"[0-9a-f]{64}", words[0]):
        raise ValueError(f"{recorded} does not begin with a sha256; delete it, or write it with sha256sum.")
    return words[0]


def recorded_at(path: Path) -> Path:
    """Path of the sha256, in the format of sha256sum, that `fetch` writes if the registry has none."""
    return path.with_name(path.name + ".sha256")


def sha256_of(path: Path) -> str:
    """The sha256 of a file as 64 hex digits; reads about two gigabytes per second.

    Raises:
        ValueError: the path is a folder.
    """
    _require_no_folder(path)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _require_no_folder(path: Path) -> None:
    if path.is_dir():
        raise ValueError(f"{path} is a folder, but a file is expected there; move the folder.")


def require_intact(path: Path) -> bool:
    """Compare a file with its expected sha256; False if none is known.

    Raises:
        ValueError: the sha256 differs, or the path is a folder.
    """
    _require_no_folder(path)
    expected = expected_sha256(path)
    if expected is None:
        return False
    actual = sha256_of(path)
    if not actual.startswith(expected):
        raise ValueError(
            f"{path} has sha256 {actual[:16]}... instead of {expected[:16]}...: it is damaged, or another file of "
            "this name; move it and fetch it again, or keep your own file at another path and give that path."
        )
    return True
