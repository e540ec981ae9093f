"""score_sync: how far picture and sound of each clip are apart, and how sure that is. Numbers only, no judgement.

Columns: sync_curve (higher is better, shifts -max_shift..max_shift), sync_confidence (its maximum), sync_offset_frames
(the place of the maximum, > 0: picture late), sync_backend. Scales:
  envelope        standard deviations of chance for one shift: unrelated sound stays below about 4, see sync/curves.py.
  syncnet_v2      median minus smallest distance, the published "Sync-C"; good clips have 3 and more. Scored on the
                  aligned crop resized to 224 px in memory: no second face detection, no JPEGs in between.
  stable_syncnet  largest mean cosine minus the median over shifts, 0 to 1, of a net that train_syncnet made (of the
                  demo's: 0.48 to 0.82 for talkers it had not seen, up to 0.32 for other words). Unlike syncnet_v2 it
                  reads the sound around the clip, so that every shift is judged by all windows.

remaining_offset_frames, remaining_confidence: the same measured again on the sound read with sync_offset_frames
applied, as training will read it. Near 0 for an offset that is real; what the picture gave is kept, not embedded anew.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from latentsync.config import VERSIONS, ScoreSync
from latentsync.ledger.files import read_ledger, run_dir
from latentsync.ledger.rows import Rejection, Row
from latentsync.ledger.shard import run_shard
from latentsync.media.audio import read_flac
from latentsync.media.read import read_clip
from latentsync.sync import curves
from latentsync.timing import SAMPLES_PER_TICK, shifted_samples_of
from latentsync.weights import registry

Heard = Callable[[int], np.ndarray]  # offset applied to the sound, frames -> the curve
Measure = Callable[[Row], Heard]


def run(cfg: ScoreSync, inputs: dict[str, list[Path]], outputs: dict[str, Path], sources: Path | None) -> None:
    """Score every clip of one shard; sound without a track is the named verdict no_audio."""
    [ledger] = inputs["align_faces"]
    rows = read_ledger(ledger)
    root = run_dir(outputs["ledger"])
    openers = {"envelope": _open_envelope, "syncnet_v2": _open_syncnet, "stable_syncnet": _open_stable_syncnet}
    measure = openers[cfg.backend](cfg, root)

    def work(row: Row, _: str) -> list[Row]:
        if row["audio_file"] is None:
            raise Rejection("no_audio", "the file has no sound track")
        heard = measure(row)
        curve = _rounded(heard(0))
        offset, confidence = curves.peak(curve)
        remaining, again = curves.peak(_rounded(heard(offset)) if offset else curve)
        return [
            row
            | {
                "sync_confidence": confidence,
                "sync_offset_frames": offset,
                "sync_curve": [float(value) for value in curve],
                "remaining_offset_frames": remaining,
                "remaining_confidence": again,
                "sync_backend": cfg.backend,
            }
        ]

    run_shard(outputs["ledger"], rows, cfg, VERSIONS["score_sync"], work)


def _rounded(curve: np.ndarray) -> np.ndarray:
    return np.round(curve.astype(np.float64), 4) + 0.0  # + 0.0: no minus zero in the ledger


def _open_envelope(cfg: ScoreSync, root: Path) -> Measure:
    def measure(row: Row) -> Heard:
        with np.load(root / row["geometry_file"]) as geometry:
            opening = geometry["mouth_opening"].astype(np.float64)

        def heard(offset: int) -> np.ndarray:
            # The sound around the clip is known too, up to the ends of the file; beyond them nothing is assumed.
            first, stop = row["start_tick"] - cfg.max_shift_frames, row["end_tick"] + cfg.max_shift_frames
            start_sample, stop_sample = shifted_samples_of(first, stop, offset)
            half = curves.ENVELOPE_WINDOW // 2
            samples = read_flac(root / row["audio_file"], start_sample - half, stop_sample + half)
            envelope = curves.speech_envelope(samples, stop - first)
            ticks = np.arange(first, stop) - offset
            envelope[(ticks < 0) | (ticks >= row["n_ticks"])] = np.nan
            return curves.envelope_curve(opening, envelope, cfg.max_shift_frames)

        return heard

    return measure


def _open_syncnet(cfg: ScoreSync, root: Path) -> Measure:
    path = registry.find("syncnet_v2", cfg.weights, "score_sync.backend: syncnet_v2")

    import cv2
    import torch

    from latentsync.audio.mfcc import mfcc
    from latentsync.models import syncnet_v2

    net = syncnet_v2.load(path).to("cuda" if torch.cuda.is_available() else "cpu")
    side = (syncnet_v2.SIDE_PX, syncnet_v2.SIDE_PX)

    def measure(row: Row) -> Heard:
        crops = read_clip(root / row["crop_file"])
        n_samples = (row["end_tick"] - row["start_tick"]) * SAMPLES_PER_TICK
        # As published, one window fewer than would be possible.
        windows = min(len(crops), n_samples // SAMPLES_PER_TICK) - syncnet_v2.FRAMES
        if windows < 1:
            return _nothing(cfg)
        frames = np.stack([cv2.resize(rgb, side)[..., ::-1] for rgb in crops])
        lips = syncnet_v2.embed_picture(net, frames, windows)

        def heard(offset: int) -> np.ndarray:
            samples = read_flac(
                root / row["audio_file"], *shifted_samples_of(row["start_tick"], row["end_tick"], offset)
            )
            sounds = syncnet_v2.embed_sound(net, mfcc(np.round(samples * 32768)), windows)
            return curves.distance_curve(lips, sounds, cfg.max_shift_frames)

        return heard

    return measure


def _open_stable_syncnet(cfg: ScoreSync, root: Path) -> Measure:
    path = registry.find("stable_syncnet", cfg.weights, "score_sync.backend: stable_syncnet")

    import torch

    from latentsync.audio.mel import syncnet_mel
    from latentsync.faces.crop import lower_halves
    from latentsync.models import syncnet

    net, shape = syncnet.load(path)
    net = net.to("cuda" if torch.cuda.is_available() else "cpu")

    def measure(row: Row) -> Heard:
        crops = read_clip(root / row["crop_file"])
        windows = len(crops) - shape.frames + 1
        if windows < 1:
            return _nothing(cfg)
        halves = torch.from_numpy(lower_halves(crops, shape.resolution)).unflatten(0, (len(crops), 3))
        lips = syncnet.embed_picture(net, halves, shape.frames).cpu().numpy()

        def heard(offset: int) -> np.ndarray:
            # One tick more: a window of mel is a little longer than its frames.
            first, stop = row["start_tick"] - cfg.max_shift_frames, row["end_tick"] + cfg.max_shift_frames + 1
            samples = read_flac(root / row["audio_file"], *shifted_samples_of(first, stop, offset))
            mel = torch.from_numpy(syncnet_mel(samples))
            sounds = syncnet.embed_sound(net, mel, windows + 2 * cfg.max_shift_frames, shape.frames)
            return curves.similarity_curve(lips, sounds.cpu().numpy(), cfg.max_shift_frames)

        return heard

    return measure


def _nothing(cfg: ScoreSync) -> Heard:
    return lambda offset: np.zeros(2 * cfg.max_shift_frames + 1)
