"""Items of the written videos and of the untouched sources: each is decoded once, and everything measured meanwhile."""

import math
import tempfile
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from latentsync.config import Evaluate
from latentsync.evaluation import measure, metrics
from latentsync.evaluation.evidence import TOP_DB
from latentsync.faces.backends import open_detector
from latentsync.ledger.rows import Row
from latentsync.media.audio import read_audio, read_flac
from latentsync.media.probe import timeline
from latentsync.media.read import frame_times
from latentsync.sync import curves, scorers
from latentsync.timing import TICKS_PER_S

Item = dict[str, Any]
MAX_LAG = 6  # native frames
MAX_SHIFT_FRAMES = 15  # of sync scorers
# Prefixes of the columns of a video's look: of the written frames, and of the source's, which both systems share.
LOOKS = {"ours": ("", "source_"), "unenhanced": ("",)}


def open_scorer(cfg: Evaluate) -> scorers.Scorer:
    """The sync scorer of written videos; one with a network uses `cfg.torch_threads` in this thread."""
    scorer = scorers.open_scorer(cfg.sync_backend, cfg.sync_weights, MAX_SHIFT_FRAMES, "evaluate.sync_backend")
    if scorers.SCORERS[cfg.sync_backend].weights is not None:
        import torch

        torch.set_num_threads(cfg.torch_threads)  # of this thread; the other one sets its own
    return scorer


def measure_all(
    cfg: Evaluate, scorer: scorers.Scorer, rows: list[Row], truth: dict[str, Row], root: Path, sources: Path
) -> list[Item]:
    """Items of kind `video`, see steps/evaluate.py, of all videos that were written, and of the untouched sources."""

    def item(row: Row, system: str, mouth: measure.Mouth, audio: np.ndarray) -> Item:
        offset, confidence = curves.peak(scorer(mouth.track(audio))(0))
        sync = {"sync_offset_frames": offset, "sync_confidence": round(confidence, 4), "sync_backend": cfg.sync_backend}
        return _item(row, system, mouth, sync, truth, sources / row["picture_path"])

    with_crops = scorers.SCORERS[cfg.sync_backend].reads == "crops"
    made = [row for row in rows if row["status"] == "ok"]
    compared = {row["pair_id"] for row in made if row["system"] == "unenhanced"}
    items, same = [], None
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        detectors = cache(lambda faces: stack.enter_context(open_detector(cfg.faces, faces)))
        for row in sorted(made, key=lambda row: (row["picture_id"], row["id"])):
            source, video, resolution = sources / row["picture_path"], root / row["video_file"], row["resolution"]
            with np.load(root / row["render_file"]) as file:
                render = dict(file)
            seen = render, detectors(row["n_faces"]), resolution, with_crops, timeline(source).pixel_aspect
            shown = row["picture_id"], render["order"].tobytes(), render["matrices"].tobytes(), row["crf"]
            if shown != same:  # own and foreign audio mostly show the same frames of a source
                same, copy = shown, Path(folder, "copy.mp4")
                untouched = measure.Mouth(*seen)
                measure.reencoded(copy, source, render, row["crf"], untouched)
                of_copy = measure.outside(copy, source, render, resolution)
            mouth = measure.Mouth(*seen)
            looks = {}
            if row["pair_id"] in compared and row["system"] in LOOKS:
                looks = {of: measure.Look(resolution) for of in LOOKS[row["system"]]}
            changed = measure.outside(video, source, render, resolution, mouth, list(looks.values()))
            items.append(
                item(row, row["system"], mouth, read_audio(video))
                | {
                    "psnr_outside_db": round(min(TOP_DB, changed.psnr_db), 4),
                    "outside": {"squared_error": changed.squared_error, "count": changed.count},
                    "outside_copy": {"squared_error": of_copy.squared_error, "count": of_copy.count},
                    "mask_share": round(changed.mask_share, 6),
                    "enhanced_region": row.get("enhanced_region"),
                }
                | (_look(row, looks) if looks else {})
            )
            if row["system"] == "ours":
                system = "ground_truth" if row["kind"] == "own" else "copy"
                items.append(item(row, system, untouched, read_flac(root / row["audio_file"])))
    return items


def _item(row: Row, system: str, mouth: measure.Mouth, sync: Item, truth: dict[str, Row], source: Path) -> Item:
    """The row of one video: its measured mouth against the truth, and its sync as scored, at its planted offset."""
    opening, render, times_s = mouth.opening, mouth.render, mouth.render["times_s"]
    of_video, of_audio = truth.get(row["picture_id"]), truth.get(row["sound_id"])
    nothing = np.full(len(opening), np.nan)
    driving = original = nothing
    if of_audio:
        driving = metrics.sample_at(times_s, np.array(of_audio["sound_opening"]), TICKS_PER_S)
    if of_video:
        at_s = frame_times(source)[0][render["order"]] - of_video["offset_frames"] / TICKS_PER_S
        original = metrics.sample_at(at_s, np.array(of_video["sound_opening"]), TICKS_PER_S)
    planted_offset = 0
    if system == "ground_truth" and of_video:  # its audio has the planted offset; its mouth is judged where it is
        driving, planted_offset = original, of_video["offset_frames"]
    names = "pair_id picture_id picture_path picture_group sound_id sound_path sound_group n_frames n_generated".split()
    return {name: row[name] for name in names} | {
        "id": f"{row['pair_id']}-{system}",
        "system": system,
        "drive": row["kind"],
        "video_file": row["video_file"] if system in ("ours", "unenhanced", "untrained") else None,
        "mouth_r_known": bool(np.isfinite(driving).any()),
        "mouth_r": _or_none(metrics.correlation(opening, driving)),
        "mouth_r_picture": _or_none(metrics.correlation(opening, original)),
        "mouth_lag_frames": metrics.best_lag(opening, driving, MAX_LAG)[1],
        **sync,
        "sync_offset_frames": sync["sync_offset_frames"] - planted_offset,
        "psnr_outside_db": None,
        "trace": {
            "times_s": [round(float(time), 4) for time in times_s],
            "measured": [_or_none(value) for value in opening],
            "true": [_or_none(value) for value in driving] if of_audio else None,
        },
    }


def _look(row: Row, looks: dict[str, measure.Look]) -> Item:
    """The columns that comparison.py reads of a video with and without enhancement."""
    found = {of + "sharpness": _or_none(look.sharpness) for of, look in looks.items()}
    found |= {of + "flicker": _or_none(look.flicker) for of, look in looks.items()}
    return found | {name: row[name] for name in ("n_enhanced", "enhance_s")}


def _or_none(value: float) -> float | None:
    return round(float(value), 5) if math.isfinite(value) else None
