"""What is done so that a result says that it is generated: manifest, metadata tags, visible label.

The manifest says with C2PA's words: the source was opened, other audio was placed, and the video was edited by trained
networks. Names are those of the files, without folders. Everything in it follows from the inputs, so the same job gives
the same manifest.
"""

import hashlib
import os
import tomllib
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentsync.config import Mark
from latentsync.ledger.files import dumps, replacing
from latentsync.weights.registry import sha256_of

if TYPE_CHECKING:
    import av

SOFTWARE = "LatentSync Studio"
COMPOSITE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
ASSERTION = "org.latentsync.studio.generation"
NOT_MARKED = "not marked, as asked"
Overlay = Callable[["av.VideoFrame"], "av.VideoFrame"]
"""Gives a frame in the format of the result a label; the frame itself stays."""


@dataclass(frozen=True)
class Marking:
    """How one result is marked."""

    said: str = NOT_MARKED
    """By whom, for people."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Metadata of the container."""
    overlay: Overlay | None = None
    label: str | None = None
    """What `overlay` writes."""
    finish: Callable[[Path, Path], object] = Path.replace
    """Moves a finished file to its place, signed; it appears there whole or not at all."""

    @contextmanager
    def written(self, out: Path) -> Iterator[Path]:
        """Where to write a result before it is signed; the block ends with `out` in its place."""
        unmarked = out.with_name(f".{out.stem}.unmarked{out.suffix}")
        try:
            yield unmarked
            self.finish(unmarked, out)
        finally:
            unmarked.unlink(missing_ok=True)


UNMARKED = Marking()


@cache
def version() -> str:
    """Of this software: as installed, or of the source folder where it only lies on PYTHONPATH."""
    try:
        return metadata.version("latentsync-studio")
    except metadata.PackageNotFoundError:
        project = Path(__file__).parents[2] / "pyproject.toml"
        return tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"]


def tags() -> dict[str, str]:
    """Metadata of a marked file, in the keys that mp4 and mov hold."""
    said = f"AI-generated: mouth redrawn to other audio; {SOFTWARE} {version()}"
    return {"comment": said, "description": said}


def marking(
    cfg: Mark,
    video: Path,
    audio: Sequence[Path],
    made_with: Mapping[str, Any],
    overlay: Overlay | None = None,
) -> Marking:
    """How a result is marked as the section asks.

    Args:
        cfg: the section.
        video: the source.
        audio: the files that drive the mouths.
        made_with: weights and settings, as JSON.
        overlay: of `label.overlay`, if there is a label.

    Raises:
        ValueError: the certificate or its key cannot be used.
    """
    if not cfg.manifest:
        return Marking(overlay=overlay, label=cfg.label)
    from latentsync.media import certificate, manifest

    identity = certificate.identity(cfg)

    def finish(unmarked: Path, out: Path) -> None:
        parent = video if manifest.has_manifest(video) else None
        with replacing(out) as temporary:
            manifest.sign(unmarked, temporary, definition(video, audio, made_with), identity, parent)
        unmarked.unlink()

    return Marking(f"signed by {identity.name}", tags(), overlay, cfg.label, finish)


def definition(video: Path, audio: Sequence[Path], made_with: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest as c2pa takes it; its label follows from everything else in it."""
    agent = {"name": SOFTWARE, "version": version()}
    sources = [_ingredient("source", "parentOf", video)]
    sources += [_ingredient(f"audio {number}", "componentOf", path) for number, path in enumerate(audio, 1)]
    actions: list[dict[str, Any]] = [
        {"action": "c2pa.opened", "parameters": {"ingredientIds": ["source"]}},
        *({"action": "c2pa.placed", "parameters": {"ingredientIds": [one["label"]]}} for one in sources[1:]),
        {
            "action": "c2pa.edited",
            "description": "mouth redrawn to the audio" + (", faces enhanced" if "enhance" in made_with else ""),
            "digitalSourceType": COMPOSITE,
            "softwareAgent": agent,
        },
    ]
    manifest = {
        "claim_generator_info": [agent],
        "ingredients": sources,
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": actions}},
            {"label": ASSERTION, "data": dict(made_with)},
        ],
    }
    digest = hashlib.sha256(dumps(manifest).encode("utf-8", "surrogateescape")).digest()
    ident = uuid.UUID(bytes=digest[:16], version=4)
    return manifest | {"label": f"urn:c2pa:{ident}", "instance_id": f"xmp:iid:{ident}"}


def _ingredient(label: str, relationship: str, path: Path) -> dict[str, Any]:
    digest = sha256_of(path)
    title = os.fsencode(path.name).decode("utf-8", "replace")
    return {
        "label": label,
        "title": title,
        "relationship": relationship,
        "instance_id": f"urn:sha256:{digest}",
        "description": f"sha256 {digest}",
    }
