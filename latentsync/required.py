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
    features, stage2, enhance = cfg.extract_features, cfg.train_unet_stage2, cfg.enhance
    tracked = _faces("align_faces.backend", cfg.align_faces.backend)
    scored = _scorer("score_sync", cfg.score_sync.backend, cfg.score_sync.weights)
    quality = [("hyperiqa", None, "score_quality.backend: hyperiqa")] if cfg.score_quality.backend == "hyperiqa" else []
    whisper, vae = [], []
    if features.audio_encoder == "whisper":
        whisper = [("whisper", features.whisper_weights, "extract_features.audio_encoder: whisper")]
    if features.vae == "published":
        vae = [("vae", features.vae_weights, "extract_features.vae: published")]
    init, teachers, restorer = cfg.train_unet_stage1.init, [], []
    start = [] if init is None else [(init, None, f"train_unet_stage1.init: {init}")]
    if stage2.teachers == "published":
        names = ["vgg16"] * bool(stage2.losses.lpips) + [f"videomae_{stage2.video_teacher}"] * bool(stage2.losses.trepa)
        teachers = [(name, None, "train_unet_stage2.teachers: published") for name in names]
    if enhance.method is not None:
        restorer = [(enhance.method, enhance.weights, f"enhance.method: {enhance.method}")]
    return {
        "align_faces": tracked,
        "score_sync": scored,
        "score_quality": quality,
        "estimate": [*tracked, *scored, *quality],
        "extract_features": [*whisper, *vae],
        "train_unet_stage1": [*vae, *start],
        "train_unet_stage2": [*vae, *teachers],
        "generate": [*tracked, *whisper, *vae, *restorer],
        "evaluate": [
            *_faces("evaluate.faces", cfg.evaluate.faces),
            *_scorer("evaluate", cfg.evaluate.sync_backend, cfg.evaluate.sync_weights, "sync_backend"),
        ],
    }


def _faces(key: str, backend: str) -> list[Part]:
    return [(name, None, f"{key}: {backend}") for name in BACKENDS[backend].weights]


def _scorer(section: str, scorer: str, chosen: str | None, key: str = "backend") -> list[Part]:
    weights = SCORERS[scorer].weights
    return [] if weights is None else [(weights, chosen, f"{section}.{key}: {scorer}")]


def check(cfg: Config, steps: Container[str] | None = None) -> None:
    """Find every pretrained file that these steps read, or without `steps` any step, before any job starts.

    Raises:
        ValueError: files are missing, all of them named; or `commercial` is set and a licence does not allow it.
    """
    asked = [part for step, parts in by_step(cfg).items() if steps is None or step in steps for part in parts]
    inits = [init for init, _, key in asked if key.startswith("train_unet_stage1.init") and init not in registry.starts()]
    for path in inits:
        registry.find_start(path)
    wanted = [part for part in dict.fromkeys(asked) if part[0] not in inits]
    if cfg.commercial:
        require_commercial([(name, key) for name, _, key in wanted])
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
