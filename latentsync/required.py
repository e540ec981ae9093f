"""Pretrained files that a configuration needs: present and allowed, before any job starts.

This module does not import torch, because the Snakefile imports it.
"""

from collections.abc import Container

from latentsync.config import Config
from latentsync.faces.backends import BACKENDS
from latentsync.sync.scorers import SCORERS
from latentsync.weights import registry

Part = tuple[str, str | None, str]  # its name, the path chosen for it, and the key that asks for it


def by_step(cfg: Config) -> dict[str, list[Part]]:
    """Step -> every pretrained part that it reads with this configuration."""

    def part(read: bool, name: str | None, chosen: str | None, key: str) -> list[Part]:
        return [(str(name), chosen, key)] if read else []

    features, stage2, enhance = cfg.extract_features, cfg.train_unet_stage2, cfg.enhance
    init = cfg.train_unet_stage1.init
    tracked = _faces("align_faces.backend", cfg.align_faces.backend)
    scored = _scorer("score_sync.backend", cfg.score_sync.backend, cfg.score_sync.weights)
    backend = cfg.score_quality.backend
    quality = part(backend == "hyperiqa", backend, None, f"score_quality.backend: {backend}")
    whisper_key = "extract_features.audio_encoder: whisper"
    whisper = part(features.audio_encoder == "whisper", "whisper", features.whisper_weights, whisper_key)
    vae = part(features.vae == "published", "vae", features.vae_weights, "extract_features.vae: published")
    start = part(init in registry.starts(), init, None, f"train_unet_stage1.init: {init}")
    published, teachers_key = stage2.teachers == "published", "train_unet_stage2.teachers: published"
    lpips = part(published and stage2.losses.lpips > 0, "vgg16", None, teachers_key)
    trepa = part(published and stage2.losses.trepa > 0, f"videomae_{stage2.video_teacher}", None, teachers_key)
    restorer = part(enhance.method is not None, enhance.method, enhance.weights, f"enhance.method: {enhance.method}")
    return {
        "align_faces": tracked,
        "score_sync": scored,
        "score_quality": quality,
        "estimate": [*tracked, *scored, *quality],
        "extract_features": [*whisper, *vae],
        "train_unet_stage1": [*vae, *start],
        "train_unet_stage2": [*vae, *lpips, *trepa],
        "generate": [*tracked, *whisper, *vae, *restorer],
        "evaluate": [
            *_faces("evaluate.faces", cfg.evaluate.faces),
            *_scorer("evaluate.sync_backend", cfg.evaluate.sync_backend, cfg.evaluate.sync_weights),
        ],
    }


def _faces(key: str, backend: str) -> list[Part]:
    return [(name, None, f"{key}: {backend}") for name in BACKENDS[backend].weights]


def _scorer(key: str, scorer: str, chosen: str | None) -> list[Part]:
    weights = SCORERS[scorer].weights
    return [] if weights is None else [(weights, chosen, f"{key}: {scorer}")]


def check(cfg: Config, steps: Container[str] | None = None) -> None:
    """Find every pretrained file that these steps read, or without `steps` any step, before any job starts.

    Raises:
        ValueError: files are missing, all of them named; or `commercial` is set and a licence does not allow it.
    """
    asked = (part for step, parts in by_step(cfg).items() if steps is None or step in steps for part in parts)
    wanted = list(dict.fromkeys(asked))
    if cfg.commercial:
        require_commercial([(name, key) for name, _, key in wanted])
    init = cfg.train_unet_stage1.init
    if init is not None and init not in registry.starts() and (steps is None or "train_unet_stage1" in steps):
        registry.find_start(init)  # a path
    missing = {}
    for name, chosen, key in wanted:
        try:
            registry.find(name, chosen, key)
        except ValueError as error:
            missing.setdefault((name, chosen), (key, error))
    if len(missing) == 1:
        raise missing.popitem()[1][-1]
    if missing:
        raise ValueError(_all_missing(missing))


def _all_missing(missing: dict[tuple[str, str | None], tuple[str, ValueError]]) -> str:
    """One line on each part; a single part has `find`'s sentence."""
    by_name = [name for name, chosen in missing if not chosen]
    lines = [f"{len(missing)} pretrained parts are missing from {registry.weights_folder()}:"]
    for (name, chosen), (key, error) in missing.items():
        part = registry.entry(name)
        fix = registry.fix_for(part, key)
        instead = f", or {fix}" if fix else ""
        lines.append(f"  {error}" if chosen else f"  {part.files[0].place}: {name}, for {key}{instead}")
    if by_name:
        lines.append(
            f"Run `latentsync weights fetch {' '.join(by_name)}`, copy them there, or set LATENTSYNC_WEIGHTS to the "
            "folder that contains them."
        )
    return "\n".join(lines)


def require_commercial(asked: list[tuple[str, str]]) -> None:
    """Refuse parts, given as (name, what asks for it), whose licence does not allow commercial use.

    Raises:
        ValueError: one sentence on each of them.
    """
    refused = []
    for name, key in dict.fromkeys(asked):
        part = registry.entry(name)
        if not registry.ALLOWED[part.commercial]:
            why = "forbids it" if part.commercial == "no" else "does not say that it is allowed"
            fix = registry.fix_for(part, key)
            refused.append(f"{name} ({key}): its licence ({part.licence}) {why}{fix and '; ' + fix}.")
    if refused:
        raise ValueError("Not for commercial use: " + " ".join(refused))
