"""Train StableSyncNet: binary cross entropy of the cosine between a mouth and a sound, in sync or not.

Samples come in twos, one in sync and one not, with the same sound. The picture that is out of sync comes from the same
clip, between min_negative_frames and max_negative_frames away. Loss 0.693 = ln 2 is a coin flip: a net that stays there
has learned nothing.

Axes: b batch, f frames, c channels, h w, t mel columns.
"""

from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from latentsync import records
from latentsync.config import TrainSyncnet
from latentsync.data.clips import ClipStore, require_frames, to_pixels
from latentsync.data.sampler import EpochSampler
from latentsync.models import syncnet, weights
from latentsync.ops import losses as ops
from latentsync.ops.timing import mel_start, mel_width
from latentsync.training import loop, state

VALIDATION_PAIRS = 256
PUBLISHED_THRESHOLD = 0.5
PAIRS_AT_ONCE = 32
MEL_PER_DB = 8 / 100  # ops/mel.py maps 100 dB to -4 .. 4


def run(cfg: TrainSyncnet, inputs: dict[str, list[Path]], outputs: dict[str, Path], sources: Path | None) -> None:
    """Clips of train and val -> weights (with the best threshold of the cosine on val) and the loss curve."""
    root = records.run_dir(outputs["weights"])
    train, val = (records.read_ledgers(inputs[name]) for name in ("train", "val"))
    needed = cfg.frames + cfg.min_negative_frames
    way_out = (
        "lower train_syncnet.frames or min_negative_frames, add videos, or select longer clips (select_clips.min_s, "
        "segment.length_s)"
    )
    clips = ClipStore(require_frames(train, needed, at_least=1, what="train_syncnet", way_out=way_out), root)
    held_out = ClipStore(require_frames(val, needed, at_least=0, what="train_syncnet", way_out=way_out), root)
    torch.manual_seed(cfg.seed)
    net = syncnet.build(cfg)
    if cfg.gradient_checkpointing:
        for block in [*net.visual_encoder.down_blocks, *net.audio_encoder.down_blocks]:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    with state.only_writer(outputs["weights"].parent / "state") as folder:
        facts = {"train": clips.facts(), "val": held_out.facts()}
        loop.fit(_task(cfg, net, clips, held_out), cfg, folder=folder, facts=facts, curve=outputs["curve"])
        if loop.is_main():
            judged = held_out if len(held_out) else clips
            cosines, y = cosines_of(net.to(loop.device()), cfg, judged)
            threshold, accuracy = best_threshold(cosines, y)
            weights.save(
                outputs["weights"], net.state_dict(), cfg.model_dump(mode="json", include=set(NETWORK_KEYS)),
                threshold=threshold, threshold_from="val" if len(held_out) else "train", threshold_accuracy=accuracy,
            )  # fmt: skip


NETWORK_KEYS = ("frames", "resolution", "visual", "audio")


def _task(cfg: TrainSyncnet, net: nn.Module, clips: ClipStore, held_out: ClipStore) -> loop.Task:
    pick = EpochSampler(len(clips), cfg.seed)

    def item(number: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        twin = np.random.default_rng([cfg.seed, number // 2, 1])  # shared by the sample in sync and the one that is not
        pair = draw_pair(cfg, clips, pick(number // 2), twin, in_sync=number % 2 == 0)
        gain = np.float32(rng.uniform(-cfg.gain_db, cfg.gain_db) * MEL_PER_DB)
        pair["mel"] = (pair["mel"] + gain).clip(-4, 4)
        pair["visual"] = _jitter(pair["visual"], rng, cfg)
        return pair

    def losses(model: nn.Module, batch: dict[str, Tensor], context: loop.Context) -> dict[str, Tensor]:
        return {"sync": ops.sync(*model(batch["visual"], batch["mel"]), batch["y"])}

    def validate(model: nn.Module, context: loop.Context) -> dict[str, float]:
        cosines, y = cosines_of(model, cfg, held_out)
        loss = np.where(y == 1, -np.log(cosines.clip(1e-7)), -np.log((1 - cosines).clip(1e-7))).mean()
        accuracy = ((cosines > PUBLISHED_THRESHOLD) == y).mean()
        return {"val_sync": float(loss), "val_accuracy": float(accuracy), "val_best": best_threshold(cosines, y)[1]}

    return loop.Task("train_syncnet", net, item, losses, {"sync": 1.0}, validate if len(held_out) else None)


def draw_pair(
    cfg: TrainSyncnet, clips: ClipStore, index: int, rng: np.random.Generator, in_sync: bool
) -> dict[str, np.ndarray]:
    """A window of sound and one of pictures: visual (f c) h/2 w in [-1, 1], mel 1 80 t, y 1 or 0."""
    starts = clips.n_frames(index) - cfg.frames + 1
    sound = int(rng.integers(starts))
    away = negative_starts(sound, starts, cfg.min_negative_frames, cfg.max_negative_frames)
    while not len(away):  # from the middle of a short clip nothing is far enough; from its first frame something is
        sound = int(rng.integers(sound)) if sound else 0
        away = negative_starts(sound, starts, cfg.min_negative_frames, cfg.max_negative_frames)
    other = int(away[rng.integers(len(away))])
    picture = sound if in_sync else other
    visual = lower_halves(clips.frames(index, picture, picture + cfg.frames), cfg.resolution)
    mel = clips.mel(index)[None, :, mel_start(sound) : mel_start(sound) + mel_width(cfg.frames)]
    return {"visual": visual, "mel": mel, "y": np.float32(in_sync)}


def lower_halves(frames: np.ndarray, resolution: int) -> np.ndarray:
    """Frames uint8 (f, h, w, 3) -> their lower halves as pixels, stacked on channels: (f 3) resolution/2 resolution."""
    if frames.shape[1] != resolution:
        size = (resolution, resolution)
        frames = np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames])
    half = to_pixels(frames[:, resolution // 2 :])
    return half.transpose(1, 0, 2, 3).reshape(-1, *half.shape[2:])


def negative_starts(start: int, starts: int, nearest: int, furthest: int | None) -> np.ndarray:
    """The window starts of 0 .. starts - 1 that lie between nearest and furthest away from this one."""
    distance = np.abs(np.arange(starts) - start)
    return np.flatnonzero((distance >= nearest) & (distance <= (starts if furthest is None else furthest)))


def _jitter(visual: np.ndarray, rng: np.random.Generator, cfg: TrainSyncnet) -> np.ndarray:
    """Change brightness, contrast and colours of a whole window, and move it by a few pixels."""
    by_channel = rng.uniform(-cfg.colour_jitter, cfg.colour_jitter, (2, 3)) + rng.uniform(
        -cfg.colour_jitter, cfg.colour_jitter, (2, 1)
    )
    gain, bias = np.tile(by_channel.astype(np.float32), len(visual) // 3)[..., None, None]
    right, down = rng.integers(-cfg.shift_px, cfg.shift_px + 1, 2)
    pad = cfg.shift_px
    h, w = visual.shape[1:]
    padded = np.pad(visual, ((0, 0), (pad, pad), (pad, pad)), mode="edge")
    moved = padded[:, pad + down : pad + down + h, pad + right : pad + right + w]
    return (moved * (1 + gain) + bias).clip(-1, 1)


@torch.inference_mode()
def cosines_of(net: nn.Module, cfg: TrainSyncnet, clips: ClipStore) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and truth of a fixed list of pairs, half of them in sync: float64 (n,), bool (n,)."""
    device = next(net.parameters()).device
    pick, cosines, y = EpochSampler(len(clips), seed=0), [], []
    for first in range(0, VALIDATION_PAIRS, PAIRS_AT_ONCE):
        pairs = [
            draw_pair(cfg, clips, pick(n // 2), np.random.default_rng([0, n // 2]), in_sync=n % 2 == 0)
            for n in range(first, first + PAIRS_AT_ONCE)
        ]
        visual, mel = (torch.from_numpy(np.stack([pair[name] for pair in pairs])) for name in ("visual", "mel"))
        cosines.append(ops.cosine(*net(visual.to(device), mel.to(device))).double().cpu().numpy())
        y.append([pair["y"] == 1 for pair in pairs])
    return np.concatenate(cosines), np.concatenate(y)


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
