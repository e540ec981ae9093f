"""Train StableSyncNet: binary cross entropy of the cosine between a mouth and audio, in sync or not.

Windows come in groups from one clip. The audio of each window is compared with its own frames and, out of sync, with
those of its group that are between min_negative_frames and max_negative_frames away; both kinds weigh the same.
Groups of two are the published balance of pairs; larger ones give more pairs for the same work. Loss 0.693 = ln 2 is a
coin flip: a net that stays there has learned nothing.

Axes: b batch of windows, f frames, c channels, h w, t mel columns, d embedding.
"""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from latentsync.config import TrainSyncnet
from latentsync.faces.crop import lower_halves
from latentsync.ledger.files import read_ledgers, run_dir
from latentsync.models import syncnet
from latentsync.training import data, loop, state
from latentsync.training import losses as ops
from latentsync.training.clips import ClipStore, require_frames
from latentsync.weights import files as weight_files

VALIDATION_PAIRS = 256
PUBLISHED_THRESHOLD = 0.5
MEL_PER_DB = 8 / 100  # audio/mel.py maps 100 dB to -4 .. 4
NETWORK_KEYS = {"frames", "resolution", "visual", "audio"}


def run(cfg: TrainSyncnet, inputs: dict[str, list[Path]], outputs: dict[str, Path], sources: Path | None) -> None:
    """Clips of train and val -> weights (with the best threshold of the cosine on val) and the loss curve."""
    root = run_dir(outputs["weights"])
    train, val = (read_ledgers(inputs[name]) for name in ("train", "val"))
    needed = cfg.frames + cfg.min_negative_frames
    fix = (
        "lower train_syncnet.frames or min_negative_frames, add videos, or select longer clips (select_clips.min_s, "
        "segment.length_s)"
    )
    clips = ClipStore(require_frames(train, needed, at_least=1, what="train_syncnet", fix=fix), root)
    held_out = ClipStore(require_frames(val, needed, at_least=0, what="train_syncnet", fix=fix), root)
    torch.manual_seed(cfg.seed)
    net = syncnet.build(cfg)
    if cfg.gradient_checkpointing:
        for block in [*net.visual_encoder.down_blocks, *net.audio_encoder.down_blocks]:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    with state.only_writer(outputs["weights"].parent / "state") as folder:
        parts = {"train": clips.fingerprint_parts(), "val": held_out.fingerprint_parts()}
        loop.fit(task(cfg, net, clips, held_out), cfg, folder=folder, data=parts, curve=outputs["curve"])
        if loop.is_main():
            cosines, y = cosines_of(net.to(loop.device()), cfg, held_out if len(held_out) else clips)
            threshold, accuracy = best_threshold(cosines, y)
            weight_files.save(
                outputs["weights"], net.state_dict(), cfg.model_dump(mode="json", include=NETWORK_KEYS),
                threshold=threshold, threshold_from="val" if len(held_out) else "train", threshold_accuracy=accuracy,
            )  # fmt: skip


def task(cfg: TrainSyncnet, net: nn.Module, clips: ClipStore, held_out: ClipStore) -> loop.Task:
    """What the loop trains: item `number` is one window of group `number // windows_per_clip`."""
    pick = data.EpochSampler(len(clips), cfg.seed)

    def item(number: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        group, member = divmod(number, cfg.windows_per_clip)
        index = pick(group)
        shared = np.random.default_rng([cfg.seed, group, cfg.windows_per_clip])
        start = draw_starts(cfg, clips.n_frames(index) - cfg.frames + 1, shared)[member]
        visual = lower_halves(clips.frames(index, start, start + cfg.frames), cfg.resolution)
        mel = data.mel_window(clips.mel(index), start, cfg.frames)
        gain = np.float32(rng.uniform(-cfg.gain_db, cfg.gain_db) * MEL_PER_DB)
        return {
            "visual": jittered(visual, rng, cfg),
            "mel": (mel + gain).clip(-4, 4),
            "group": np.asarray(group, np.int64),
            "start": np.asarray(start, np.int64),
        }

    def losses(model: nn.Module, batch: dict[str, Tensor], context: loop.Context) -> dict[str, Tensor]:
        visual, audio = model(batch["visual"], batch["mel"])
        away = batch["start"][:, None] - batch["start"]
        audio_at, video_at = torch.nonzero((batch["group"][:, None] == batch["group"]) & ring(cfg, away), as_tuple=True)
        fits = ops.sync(visual, audio, visual.new_ones(len(visual)))
        fails = ops.sync(visual[video_at], audio[audio_at], visual.new_zeros(len(video_at)))
        return {"sync": (fits + fails) / 2}

    def validate(model: nn.Module, context: loop.Context) -> dict[str, float]:
        cosines, y = cosines_of(model, cfg, held_out)
        loss = np.where(y, -np.log(cosines.clip(1e-7)), -np.log((1 - cosines).clip(1e-7))).mean()
        accuracy = ((cosines > PUBLISHED_THRESHOLD) == y).mean()
        return {"val_sync": float(loss), "val_accuracy": float(accuracy), "val_best": best_threshold(cosines, y)[1]}

    return loop.Task("train_syncnet", net, item, losses, {"sync": 1.0}, validate if len(held_out) else None)


def ring(cfg: TrainSyncnet, away: np.ndarray | Tensor) -> np.ndarray | Tensor:
    """Which distances in frames make a negative."""
    furthest = cfg.max_negative_frames or np.inf
    return (abs(away) >= cfg.min_negative_frames) & (abs(away) <= furthest)


def draw_starts(cfg: TrainSyncnet, n_starts: int, rng: np.random.Generator) -> list[int]:
    """Starts of the windows of a group, out of 0 .. n_starts - 1: each a negative of as many before it as can be.

    The first has at least one negative in the clip, so every group has.
    """
    starts = np.arange(n_starts)
    has_negative = ring(cfg, starts[:, None] - starts).any(1)
    chosen = [int(rng.choice(starts[has_negative]))]
    while len(chosen) < cfg.windows_per_clip:
        negatives = ring(cfg, starts[:, None] - np.array(chosen)).sum(1)
        chosen.append(int(rng.choice(starts[negatives == negatives.max()])))
    return chosen


def jittered(visual: np.ndarray, rng: np.random.Generator, cfg: TrainSyncnet) -> np.ndarray:
    """Change the colours of a whole window, and move it by a few pixels: (f 3) h w."""
    colours = visual.reshape(-1, 3, *visual.shape[1:]).swapaxes(0, 1)
    changed = data.move(data.recolour(colours, cfg.colour_jitter, rng), cfg.shift_px, rng)
    return np.ascontiguousarray(changed.swapaxes(0, 1)).reshape(visual.shape)


@torch.inference_mode()
def cosines_of(net: nn.Module, cfg: TrainSyncnet, clips: ClipStore) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and truth of a fixed list of pairs, half of them in sync: float64 (n,), bool (n,)."""
    device = next(net.parameters()).device
    furthest = cfg.max_negative_frames or 10**9
    pairs, _ = data.draw_pairs(
        clips, [""] * len(clips), cfg.frames, VALIDATION_PAIRS, cfg.min_negative_frames, furthest, seed=0
    )
    cosines = [
        ops.cosine(*net(torch.from_numpy(visual).to(device), torch.from_numpy(mel).to(device))).double().cpu().numpy()
        for visual, mel in data.pair_batches(clips, pairs, cfg.frames, cfg.resolution)
    ]
    return np.concatenate(cosines), np.array([pair.in_sync for pair in pairs])


def best_threshold(cosines: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """The threshold of the cosine with the highest accuracy, in the middle of its gap, and that accuracy."""
    order = np.argsort(cosines, kind="stable")
    ordered, in_sync = cosines[order], y[order]
    below = np.concatenate([[0], np.cumsum(~in_sync)])  # negatives that a threshold after so many cosines refuses
    above = in_sync.sum() - np.concatenate([[0], np.cumsum(in_sync)])
    edges = np.concatenate([[0.0], (ordered[1:] + ordered[:-1]) / 2, [1.0]])
    right = (below + above) / len(y)
    best = np.flatnonzero(right == right.max())
    return float(edges[best[len(best) // 2]]), float(right.max())
