"""score_sync: how far picture and sound of each clip are apart, and how sure that is. Numbers only, no judgement.

Columns: sync_curve (higher is better, shifts -max_shift..max_shift), sync_confidence (its maximum), sync_offset_frames
(the place of the maximum, > 0: picture late), sync_backend. Scales:
  envelope    standard deviations of chance for one shift: unrelated sound stays below about 4, see ops/sync.py.
  syncnet_v2  median minus smallest distance, the published "Sync-C"; good clips have 3 and more. Scored on the aligned
              crop resized to 224 px in memory: no second face detection, no JPEGs in between.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from latentsync import records, registry
from latentsync.config import VERSIONS, ScoreSync
from latentsync.media.read import read_clip, read_flac
from latentsync.ops import sync
from latentsync.ops.timing import SAMPLES_PER_TICK, samples_of

Measure = Callable[[records.Row], np.ndarray]


def run(cfg: ScoreSync, inputs: dict[str, list[Path]], outputs: dict[str, Path], sources: Path | None) -> None:
    """Score every clip of one shard; sound without a track is the named verdict no_audio."""
    [ledger] = inputs["align_faces"]
    rows = records.read_ledger(ledger)
    root = records.run_dir(outputs["ledger"])
    open_measure = {"envelope": _open_envelope, "syncnet_v2": _open_syncnet}[cfg.backend]
    measure = open_measure(cfg, root)

    def work(row: records.Row, _: str) -> list[records.Row]:
        if row["audio_file"] is None:
            raise records.Rejection("no_audio", "the file has no sound track")
        curve = np.round(measure(row), 4) + 0.0  # + 0.0: no minus zero in the ledger
        offset, confidence = sync.peak(curve)
        return [
            row
            | {
                "sync_confidence": confidence,
                "sync_offset_frames": offset,
                "sync_curve": [float(value) for value in curve],
                "sync_backend": cfg.backend,
            }
        ]

    records.run_shard(outputs["ledger"], rows, cfg, VERSIONS["score_sync"], work)


def _open_envelope(cfg: ScoreSync, root: Path) -> Measure:
    def measure(row: records.Row) -> np.ndarray:
        with np.load(root / row["geometry_file"]) as geometry:
            opening = geometry["mouth_opening"].astype(np.float64)
        # The sound around the clip is known too, up to the ends of the file; beyond them nothing is assumed.
        first, stop = row["start_tick"] - cfg.max_shift_frames, row["end_tick"] + cfg.max_shift_frames
        start_sample, stop_sample = samples_of(first, stop)
        half = sync.ENVELOPE_WINDOW // 2
        samples = read_flac(root / row["audio_file"], start_sample - half, stop_sample + half)
        envelope = sync.speech_envelope(samples, stop - first)
        ticks = np.arange(first, stop)
        envelope[(ticks < 0) | (ticks >= row["n_ticks"])] = np.nan
        return sync.envelope_curve(opening, envelope, cfg.max_shift_frames)

    return measure


def _open_syncnet(cfg: ScoreSync, root: Path) -> Measure:
    path = registry.find("syncnet_v2", cfg.weights, "score_sync.backend: syncnet_v2")

    import cv2
    import torch

    from latentsync.models import syncnet_v2
    from latentsync.ops.mfcc import mfcc

    net = syncnet_v2.load(path).to("cuda" if torch.cuda.is_available() else "cpu")
    side = (syncnet_v2.SIDE_PX, syncnet_v2.SIDE_PX)

    def measure(row: records.Row) -> np.ndarray:
        crops = read_clip(root / row["crop_file"])
        frames = np.stack([cv2.resize(rgb, side)[..., ::-1] for rgb in crops])
        samples = read_flac(root / row["audio_file"], *samples_of(row["start_tick"], row["end_tick"]))
        # As published, one window fewer than would be possible.
        windows = min(len(frames), len(samples) // SAMPLES_PER_TICK) - syncnet_v2.FRAMES
        if windows < 1:
            return np.zeros(2 * cfg.max_shift_frames + 1)
        int16 = np.round(samples * 32768)
        return sync.distance_curve(*syncnet_v2.embed(net, frames, mfcc(int16), windows), cfg.max_shift_frames)

    return measure
