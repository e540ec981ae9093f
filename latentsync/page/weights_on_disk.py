"""Which weights the page offers: the releases and the runs that are on this machine, each complete."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from latentsync.weights import registry
from latentsync.weights.find import RUN_FILES, find_weights

RESULTS = Path("results")
HOW_TO_GET = (
    "There are no weights on this machine: whoever runs this page gets the published ones with "
    "`latentsync weights fetch --for inference` (5.5 GB), or trains small ones with `make demo`, and starts it again."
)


@dataclass(frozen=True)
class Weights:
    """Weights that a job may choose."""

    name: str
    """A release of the registry, or the path of a run, a folder or a file."""
    title: str
    purpose: str
    licence: str
    size_bytes: int

    @property
    def sentence(self) -> str:
        """What they are for, their licence and size."""
        return f"{self.purpose} Licence: {self.licence}. {size(self.size_bytes)}."


def on_disk(given: Iterable[str] = (), results: Path = RESULTS) -> list[Weights]:
    """The weights that are complete: those that were named, or all releases and then all finished runs.

    Raises:
        ValueError: weights that were named are not there.
    """
    if named := list(given):
        return [_described(name) for name in named]
    releases = [name for name, entry in registry.entries().items() if entry.resolution and _is_here(entry)]
    releases = releases if all(_is_here(registry.entry(name)) for name in ("vae", "whisper")) else []
    runs = sorted(results.glob(f"*/{RUN_FILES['unet']}")) if results.is_dir() else []
    return [_described(name) for name in [*releases, *(str(unet.parent.parent) for unet in runs)]]


def _is_here(entry: registry.Entry) -> bool:
    return all(file.path.is_file() for file in entry.files)


def _described(name: str) -> Weights:
    unet, vae = find_weights(Path(name))
    known = registry.entries().get(name) if not Path(name).exists() else None
    parts = [unet, *([vae] if vae else [])]
    size_bytes = sum(one.stat().st_size for part in parts for one in ([part] if part.is_file() else part.rglob("*")))
    if known is not None:
        purpose = f"For real people; redraws {known.resolution} px of a face."
        return Weights(name, known.name.replace("latentsync", "LatentSync").replace("-", " "), purpose,
                       known.licence, size_bytes)  # fmt: skip
    return Weights(name, Path(name).name, _purpose_of_run(Path(name)), "as your training videos allow", size_bytes)


def _purpose_of_run(run: Path) -> str:
    """What a run's weights are for, from its configuration."""
    try:
        cfg = json.loads((run / "config.json").read_text(encoding="utf-8"))
        resolution = cfg["align_faces"]["resolution"]
    except (OSError, ValueError, LookupError, TypeError):
        return "Trained by yourself."
    if (run / "make_talkers").is_dir():
        return (
            f"A demonstration: {resolution} px of synthetic faces. On real people it only shows that everything runs."
        )
    return f"Trained by yourself; redraws {resolution} px of a face."


def size(size_bytes: float) -> str:
    """A size on disk, in words."""
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.1f} MB"
