"""score_sync: how far video and audio of each clip are apart, and how sure that is. It measures and rejects nothing.

Columns: sync_curve (higher is better, shifts -max_shift..max_shift), sync_confidence (its maximum, on the scale of the
scorer: sync/scorers.py), sync_offset_frames (the position of the maximum, > 0: video late), sync_backend.
remaining_offset_frames, remaining_confidence: the same measured on the audio read with sync_offset_frames applied, as
training will read it. Near 0 for an offset that is real; the video is embedded once for both.
"""

from pathlib import Path

import numpy as np

from latentsync.config import VERSIONS, ScoreSync
from latentsync.ledger.files import read_ledger, run_dir
from latentsync.ledger.rows import Rejection, Row
from latentsync.ledger.shard import run_shard
from latentsync.media.audio import read_flac
from latentsync.media.read import read_clip
from latentsync.sync import curves, scorers
from latentsync.timing import samples_of


def run(cfg: ScoreSync, inputs: dict[str, list[Path]], outputs: dict[str, Path], sources: Path | None) -> None:
    """Score every clip of one shard; a clip without audio is rejected as no_audio."""
    [ledger] = inputs["align_faces"]
    rows = read_ledger(ledger)
    root = run_dir(outputs["ledger"])
    scorer = scorers.open_scorer(cfg.backend, cfg.weights, cfg.max_shift_frames, "score_sync.backend")

    def work(row: Row, _: str) -> list[Row]:
        if row["audio_file"] is None:
            raise Rejection("no_audio", "the file has no audio stream")
        curve_at = scorer(_track(row, root, scorers.SCORERS[cfg.backend].reads))
        curve = _rounded(curve_at(0))
        offset, confidence = curves.peak(curve)
        remaining_offset, remaining_confidence = curves.peak(_rounded(curve_at(offset)) if offset else curve)
        return [
            row
            | {
                "sync_confidence": confidence,
                "sync_offset_frames": offset,
                "sync_curve": [float(value) for value in curve],
                "remaining_offset_frames": remaining_offset,
                "remaining_confidence": remaining_confidence,
                "sync_backend": cfg.backend,
            }
        ]

    run_shard(outputs["ledger"], rows, cfg, VERSIONS["score_sync"], work)


def _track(row: Row, root: Path, reads: str) -> scorers.Track:
    """A clip for a scorer, with what it reads of the video and nothing else."""
    zero, _ = samples_of(row["start_tick"], row["end_tick"])
    opening = crops = None
    if reads == "crops":
        crops = read_clip(root / row["crop_file"])
    else:
        with np.load(root / row["geometry_file"]) as geometry:
            opening = geometry["mouth_opening"].astype(np.float64)
    return scorers.Track(
        n_ticks=row["end_tick"] - row["start_tick"],
        samples=lambda start, stop: read_flac(root / row["audio_file"], zero + start, zero + stop),
        recorded=(-row["start_tick"], row["n_ticks"] - row["start_tick"]),
        opening=opening,
        crops=crops,
    )


def _rounded(curve: np.ndarray) -> np.ndarray:
    return np.round(curve.astype(np.float64), 4) + 0.0  # + 0.0: no minus zero in the ledger
