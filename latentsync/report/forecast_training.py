"""What training will cost: steps times the time of a step, and the size of weights and states.

The time of a step is measured where a run beside this one trained with the same section on this machine. Otherwise it
is stated for the published networks (docs/benchmarks.md), and unknown for others: it is never guessed.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from latentsync.audio.mel import N_MELS
from latentsync.config import Config, TrainSyncnet, TrainUnetStage1
from latentsync.report.forecast import in_hours, in_size
from latentsync.timing import MEL_COLUMNS_PER_S, TICKS_PER_S, WHISPER_ROWS_PER_S

KEPT_STATES = 2  # of training/state.py, which imports torch
NO_TIME = frozenset(  # keys of a section that change no step's time
    "seed steps learning_rate warmup_steps cooldown_steps weight_decay max_grad_norm log_every save_every".split()
)
# The networks of config/config.yaml and real.yaml: step -> (widths of the network, seconds of one item). From the wall
# times of the demo on two cores in docs/benchmarks.md: 306 s for 1400 steps of 8 images and 1000 of 24 windows side by
# side, 241 s for 1500 steps of 2, and 56 s for 200 steps of 1.
SMALL = {
    "train_vae": ((16, 32, 64, 96), 0.027),
    "train_syncnet": ((32, 32, 64, 128, 128, 256), 0.013),
    "train_unet_stage1": ((32, 64, 96, 96), 0.080),
    "train_unet_stage2": ((32, 64, 96, 96), 0.28),
}
_RATE = re.compile(r"([\d.]+) steps/s")


def stated(step: str, configuration: Config) -> tuple[float, str] | None:
    """(seconds of one step, what they are based on) from docs/benchmarks.md; None: the network is not listed there."""
    cfg = getattr(configuration, step)
    items, published = cfg.batch_size * cfg.accumulate, configuration.train_unet_stage1.unet == TrainUnetStage1().unet
    h100 = "stated: passes of the network on an H100"
    resolution = _seen_px(configuration.model_dump())
    widths = {
        "train_vae": configuration.train_vae.block_out_channels,
        "train_syncnet": configuration.train_syncnet.visual.block_out_channels,
    }.get(step, configuration.train_unet_stage1.unet.block_out_channels)
    if widths == SMALL[step][0]:
        return SMALL[step][1] * items, "stated: the demo on two CPU cores"
    if step == "train_syncnet" and (cfg.visual, cfg.audio) == (TrainSyncnet().visual, TrainSyncnet().audio):
        return 0.0433 / 16 * items, h100
    if step.startswith("train_unet") and published and cfg.frames == 16 and resolution in (256, 512):
        times_s = {256: (0.28, 0.368), 512: (0.368, 0.624)}[resolution]
        more = ", decoder and teachers on top" if step == "train_unet_stage2" else ""
        return times_s[cfg.gradient_checkpointing] * items, h100 + more
    return None


def measured(run: Path, step: str, configuration: Config) -> tuple[float, str] | None:
    """(seconds of one step, where it was measured) from the log of `run`, or of a run beside it; None: of none.

    Only a log whose training had the same section counts, apart from keys that change no step's time, and the same size
    of crops and of the U-Net.
    """
    whole = configuration.model_dump(mode="json")
    wanted = _decides(whole[step])
    for folder in [run, *sorted(path for path in run.parent.iterdir() if path != run)]:
        log, config = folder / "logs" / f"{step}.log", folder / "config.json"
        notes = sorted((folder / step / "state").glob("*/fits.json"), key=lambda path: path.stat().st_mtime_ns)
        if not (notes and log.is_file() and config.is_file()):
            continue
        theirs, fitted = (json.loads(path.read_text(encoding="utf-8")) for path in (config, notes[-1]))
        if _decides(fitted, wanted) == wanted and _size(theirs) == _size(whole):
            rates = [float(rate) for rate in _RATE.findall(log.read_text(encoding="utf-8", errors="replace"))]
            if rates and rates[-1] > 0:
                return 1 / rates[-1], f"measured in the run {folder.name}"
    return None


def _size(configuration: Mapping[str, Any]) -> tuple[Any, Any]:
    return _seen_px(configuration), configuration["train_unet_stage1"]["unet"]


def _seen_px(configuration: Mapping[str, Any]) -> int:
    """Side of the faces that the networks see; a run of an earlier version has no key for it."""
    return configuration["extract_features"].get("resolution") or configuration["align_faces"]["resolution"]


def _decides(section: Mapping[str, Any], only: Mapping[str, Any] | None = None) -> dict[str, Any]:
    names = section if only is None else only
    return {name: section.get(name) for name in names if name not in NO_TIME | {"torch_threads"}}


def predict(run: Path, configuration: Config, selected_h: float, sizes: Mapping[str, tuple[int, int]]) -> list[dict]:
    """A row per step from extract_features to stage 2: {step, steps, items, hours, basis, disk_gb}.

    `hours` is None where the time of a step is unknown. `sizes`: step -> (parameters of its network, how many of them
    are trained).
    """
    rows: list[dict[str, Any]] = [
        {
            "step": "extract_features",
            "steps": None,
            "items": None,
            "hours": None,
            "basis": "of the selected clips; time unknown until it runs",
            "disk_gb": _rounded(features_gb(configuration, selected_h)),
        }
    ]
    for step, (whole, trained) in sizes.items():
        cfg = getattr(configuration, step)
        found = measured(run, step, configuration) or stated(step, configuration)
        # float32: a state holds weights and the two moments of AdamW, with EMA the averages as well
        state = whole + 2 * trained + (trained if cfg.ema_decay is not None else 0)
        kept = min(KEPT_STATES, -(-cfg.steps // cfg.save_every))
        basis = found[1] if found else f"unknown until it runs; {in_hours(cfg.steps / 3600)} at 1 s a step"
        rows.append(
            {
                "step": step,
                "steps": cfg.steps,
                "items": cfg.batch_size * cfg.accumulate,
                "hours": _rounded(found[0] * cfg.steps / 3600) if found else None,
                "basis": basis,
                "disk_gb": _rounded(4e-9 * (whole + kept * state)),
            }
        )
    return rows


def features_gb(configuration: Config, selected_h: float) -> float:
    """Disk of extract_features for so many hours of clips: mel, audio features, and moments of two kinds of faces."""
    features, side = configuration.extract_features, _seen_px(configuration.model_dump())
    widths = configuration.train_vae.block_out_channels if features.vae == "embedded" else (0,) * 4
    channels = configuration.train_vae.latent_channels if features.vae == "embedded" else 4
    latent = channels * (side // 2 ** (len(widths) - 1)) ** 2
    whisper = (384, 4) if features.audio_encoder == "whisper" else (features.width, features.layers)
    per_s = 4 * N_MELS * MEL_COLUMNS_PER_S + 2 * WHISPER_ROWS_PER_S * whisper[0] * (whisper[1] + 1)
    return (per_s + TICKS_PER_S * 2 * 2 * 2 * latent) * selected_h * 3600e-9


def sizes(configuration: Config) -> dict[str, tuple[int, int]]:
    """Step -> parameters of its network and how many are trained, for the steps that train; nothing is initialised."""
    import torch

    from latentsync.models import syncnet, vae
    from latentsync.models.unet import UNet3D, UNetConfig

    own, two = configuration.extract_features.vae == "embedded", configuration.train_unet_stage2
    channels = configuration.train_vae.latent_channels if own else 4
    features = configuration.extract_features
    width = 384 if features.audio_encoder == "whisper" else features.width
    shape: dict[str, Any] = {"in_channels": 3 * channels + 1, "out_channels": channels, "cross_attention_dim": width}
    shape |= configuration.train_unet_stage1.unet.model_dump()
    with torch.device("meta"):
        nets = {"train_vae": vae.build(configuration.train_vae)} if own else {}
        nets |= {"train_syncnet": syncnet.build(configuration.train_syncnet)}
        nets |= {"train_unet_stage1": UNet3D(UNetConfig(motion="none", **shape))}
        nets |= {"train_unet_stage2": UNet3D(UNetConfig(motion=two.motion, **shape))}
    found = {}
    for step, net in nets.items():
        counts = {name: parameter.numel() for name, parameter in net.named_parameters()}
        only = two.trainable if step == "train_unet_stage2" else ("",)
        trained = sum(n for name, n in counts.items() if any(part in name for part in only))
        found[step] = (sum(counts.values()), trained)
    return found


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The prediction as plain text for a terminal."""
    lines = ["training          steps x items        time        disk        based on"]
    for row in rows:
        steps = f"{row['steps']:,} x {row['items']:,}" if row["steps"] else ""
        hours = "unknown" if row["hours"] is None else in_hours(row["hours"])
        lines.append(f"{row['step']:18}{steps:21}{hours:12}{in_size(row['disk_gb']):12}{row['basis']}".rstrip())
    known = [row["hours"] for row in rows if row["hours"] is not None]
    disk = in_size(sum(row["disk_gb"] for row in rows))
    rest = "" if len(known) == len(rows) else "and what is unknown"
    lines.append(f"{'all':18}{'':21}{in_hours(sum(known)):12}{disk:12}{rest}".rstrip())
    return "\n".join(lines)


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")
