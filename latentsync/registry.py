"""Pretrained files by name: what each is for, where it lies, what it must be, and what its licence allows.

The list is registry.toml. A file is looked for below the weights folder: the environment variable LATENTSYNC_WEIGHTS,
else ~/.cache/latentsync. Its places are those of upstream's folder `checkpoints`, so that folder may be named as it is.
No torch here: the Snakefile asks, too. fetch.py downloads.
"""

import hashlib
import os
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from latentsync.config import Config

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
    member: str | None = None
    """Its name inside the zip archive that `url` names."""
    archive_sha256: str | None = None


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
        places = [file.place for file in self.files]
        return weights_folder() / (places[0] if len(places) == 1 else os.path.commonpath(places))


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
    return Path(os.environ.get("LATENTSYNC_WEIGHTS", "~/.cache/latentsync")).expanduser()


def find(name: str, chosen: str | None = None, key: str = "") -> Path:
    """The path of pretrained weights, a file or a folder: `chosen` if given, else their place.

    Raises:
        ValueError: it is not there; the sentence names the place, the key that asked, and how to get it.
    """
    wanted = entry(name)
    paths = [Path(chosen).expanduser()] if chosen else [weights_folder() / file.place for file in wanted.files]
    missing = [path for path in paths if not path.exists()]
    if not missing:
        return paths[0] if chosen else wanted.path
    asked = f" ({key} asks for it)" if key else ""
    fetchable = all(file.url for file in wanted.files)
    get = f"`latentsync weights fetch {name}` gets it" if fetchable else f"get it from {wanted.source}"
    raise ValueError(
        f"{missing[0]} is missing: {wanted.what}{asked}; {get}, or put it there by hand, or set LATENTSYNC_WEIGHTS to "
        f"the folder that holds {wanted.files[0].place}" + (f", or choose {wanted.instead}." if wanted.instead else ".")
    )


def find_start(init: str) -> Path:
    """The file that train_unet_stage1.init names: a name of the registry such as `sd15`, or a path.

    Raises:
        ValueError: as `find`; or it is a folder.
    """
    key = f"train_unet_stage1.init: {init}"
    path = find(init, key=key) if init in entries() else find("sd15", init, key)
    if path.is_dir():
        raise ValueError(f"train_unet_stage1.init is {init}, which is a folder; name the file of weights in it.")
    return path


# --- what a file must be --------------------------------------------------------------------------------------------


def known_as(path: Path) -> Entry | None:
    """The entry that a file is, wherever it lies: by size and sha256, or, where those are not known, by its place."""
    for candidate in entries().values():
        for file in candidate.files:
            if file.size == path.stat().st_size and file.sha256 and sha256_of(path).startswith(file.sha256):
                return candidate
            if not file.sha256 and _is_place(path, file):
                return candidate
    return None


def _is_place(path: Path, file: File) -> bool:
    place = weights_folder() / file.place
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
    """64 hex digits; about two gigabytes a second."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_intact(path: Path) -> bool:
    """Compare a file with the sha256 that is known of it; False where none is.

    Raises:
        ValueError: it is another file, or a bit of it changed.
    """
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


# --- what a configuration needs -------------------------------------------------------------------------------------

NEEDED_BY_FACES = {"mediapipe": (), "face_alignment": ("s3fd", "2dfan4"), "insightface": ("buffalo_l",)}


def needed(cfg: Config) -> Iterator[tuple[str, str | None, str]]:
    """Every pretrained part that a configuration asks for: its name, the path chosen for it, and the key that asks."""
    sync, features, stage2 = cfg.score_sync, cfg.extract_features, cfg.train_unet_stage2
    for key, faces in (("align_faces.backend", cfg.align_faces.backend), ("evaluate.faces", cfg.evaluate.faces)):
        for name in NEEDED_BY_FACES[faces]:
            yield name, None, f"{key}: {faces}"
    if sync.backend == "syncnet_v2":
        yield "syncnet_v2", sync.weights, "score_sync.backend: syncnet_v2"
    elif sync.backend == "stable_syncnet":
        yield "stable_syncnet", sync.weights, "score_sync.backend: stable_syncnet"
    if cfg.score_quality.backend == "hyperiqa":
        yield "hyperiqa", None, "score_quality.backend: hyperiqa"
    if features.audio_encoder == "whisper":
        yield "whisper", features.whisper_weights, "extract_features.audio_encoder: whisper"
    if features.vae == "published":
        yield "vae", features.vae_weights, "extract_features.vae: published"
    if stage2.teachers == "published":
        if stage2.losses.lpips:
            yield "vgg16", None, "train_unet_stage2.teachers: published"
        if stage2.losses.trepa:
            yield f"videomae_{stage2.video_teacher}", None, "train_unet_stage2.teachers: published"
    if cfg.enhance.method is not None:
        yield cfg.enhance.method, cfg.enhance.weights, f"enhance.method: {cfg.enhance.method}"


def check(cfg: Config) -> None:
    """Find every pretrained file that the configuration asks for, before any job starts.

    Raises:
        ValueError: as `find`, for the first that is missing; or `commercial` is set and a licence does not allow it.
    """
    wanted = list(needed(cfg))
    init = cfg.train_unet_stage1.init
    if cfg.commercial:
        start = [(init, None, f"train_unet_stage1.init: {init}")] if init in entries() else []
        require_commercial([(name, key) for name, _, key in wanted + start])
    for name, chosen, key in wanted:
        find(name, chosen, key)
    if init is not None:
        find_start(init)


def require_commercial(asked: list[tuple[str, str]]) -> None:
    """Refuse parts, given as (name, what asks for it), whose licence does not allow commercial use.

    Raises:
        ValueError: one sentence on each of them.
    """
    refused = []
    for name, key in dict(asked).items():
        part = entry(name)
        if not ALLOWED[part.commercial]:
            why = "forbids it" if part.commercial == "no" else "does not say that it is allowed"
            instead = f"; choose {part.instead}" if part.instead else ""
            refused.append(f"{name} ({key}): its licence ({part.licence}) {why}{instead}.")
    if refused:
        raise ValueError("Not for commercial use: " + " ".join(refused))
