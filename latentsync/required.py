"""Pretrained files that a configuration needs: present and allowed, before any job starts.

This module does not import torch, because the Snakefile imports it.
"""

from collections.abc import Iterator

from latentsync.config import Config
from latentsync.faces.backends import BACKENDS
from latentsync.sync.scorers import SCORERS
from latentsync.weights import registry


def needed(cfg: Config) -> Iterator[tuple[str, str | None, str]]:
    """Every pretrained part that a configuration asks for: its name, the path chosen for it, and the key that asks."""
    features, stage2 = cfg.extract_features, cfg.train_unet_stage2
    for key, faces in (("align_faces.backend", cfg.align_faces.backend), ("evaluate.faces", cfg.evaluate.faces)):
        for name in BACKENDS[faces].weights:
            yield name, None, f"{key}: {faces}"
    for key, scorer, chosen in (
        ("score_sync.backend", cfg.score_sync.backend, cfg.score_sync.weights),
        ("evaluate.sync_backend", cfg.evaluate.sync_backend, cfg.evaluate.sync_weights),
    ):
        if (weights := SCORERS[scorer].weights) is not None:
            yield weights, chosen, f"{key}: {scorer}"
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
        ValueError: files are missing, all of them named; or `commercial` is set and a licence does not allow it.
    """
    wanted = list(needed(cfg))
    init = cfg.train_unet_stage1.init
    if init in registry.starts():
        wanted.append((init, None, f"train_unet_stage1.init: {init}"))
    if cfg.commercial:
        require_commercial([(name, key) for name, _, key in wanted])
    if init is not None and init not in registry.starts():
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
