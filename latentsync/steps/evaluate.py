"""evaluate: figures on held-out people, each beside its controls. The only step that reads the truth of the talkers.

Inputs: generate (its ledgers), train, val, test, rejected (csv) and summary of select_clips,
score_sync (all shards), syncnet (weights), truth (none for real footage: what needs it is null, with the reason).

metrics.json
  figures     key -> {value, low, high, n, reason, note}, one for each row of evaluation/figures.py
  table       one row per system {system, driven_by, title, n, failed, mouth_r, mouth_r_low, mouth_r_high,
              psnr_outside_db, sync_confidence (median), sync_within_1, sync_backend}
  sync_scorer {name, scale, stand_in (null, or completes "sync was scored by ...")}: how written videos were scored
  enhancement {pairs [pair_id], groups, unchanged, failed, verdict (yes, no, unknown), words, measures [{key, title,
              unit, digits, better, n, groups, source, without, with, change, low, high, share, reason}]}: the same
              videos with and without face enhancement, see evaluation/comparison.py; null where it is off
  passed_through {reason: frames} of ours, cut [{id, cut_s}] (of ours that generate.max_s made shorter), failed [{id,
              reason, detail}], stand_ins [sentences], evaluators {name: content hash}
items.jsonl, sorted by id, kinds:
  video       system (ground_truth, copy, untrained, unenhanced, ours), drive (own, cross), pair_id, picture_*, sound_*,
              video_file (null for sources: picture_path names them), n_frames, n_generated,
              mouth_r (against the driving audio), mouth_r_picture (against the opening in the original video),
              mouth_lag_frames (native), psnr_outside_db,
              outside, outside_copy {squared_error, count}, mask_share, enhanced_region (mouth, face or null),
              sync_confidence and sync_offset_frames (at 25 per second, > 0: video late) by the scorer sync_backend, see
              sync/scorers.py,
              trace {times_s, measured, true} (lists; true is null without truth)
              where a video exists with and without enhancement: sharpness, flicker (grey levels, see measure.Look),
              n_enhanced, enhance_s; of ours source_sharpness and source_flicker, too
  outcome     what became of a planned stretch of a source, see evaluation/planted.py
"""

import csv
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from latentsync.config import Evaluate
from latentsync.curation.funnel import STAND_INS
from latentsync.evaluation import comparison, figures, metrics, planted, systems, written
from latentsync.evaluation.evidence import NO_PAIRS, Evidence, Pairs
from latentsync.faces.backends import BACKENDS
from latentsync.ledger.files import read_ledger, read_ledgers, run_dir, write_json, write_ledger
from latentsync.ledger.rows import Row
from latentsync.sync import scorers
from latentsync.weights import files as weight_files

NEGATIVES = 5, 15  # frames between video and audio of a pair that is out of sync
SHUFFLES = 3  # pairs with foreign audio for each pair, so that chance moves the control less


def run(cfg: Evaluate, inputs: dict[str, list[Path]], outputs: dict[str, Path], sources: Path) -> None:
    """Measure everything and write metrics.json and items.jsonl."""
    root = run_dir(outputs["metrics"])
    rows = read_ledgers(inputs["generate"])
    test = read_ledgers(inputs["test"])
    truth = {row["id"]: row for path in inputs.get("truth", []) for row in read_ledger(path)}
    interval = partial(metrics.bootstrap, resamples=cfg.bootstrap, seed=cfg.seed)
    outcomes = _outcomes(inputs, list(truth.values()), root)
    scorer = written.open_scorer(cfg)
    with ThreadPoolExecutor(1) as executor:  # the trained SyncNet in one thread, written videos in the other
        judged = executor.submit(_syncnet, cfg, inputs["syncnet"][0], test, root)
        videos = written.measure_all(cfg, scorer, rows, truth, root, sources)
        syncnet = judged.result()
    collected = Evidence(interval, videos, outcomes, **syncnet)
    failed = [row for row in rows if row["status"] != "ok"]
    table = systems.table(videos, Counter((row["system"], row["kind"]) for row in failed), interval)
    entry = scorers.SCORERS[cfg.sync_backend]
    ours, passed = [row for row in rows if row["system"] == "ours"], Counter()
    for row in ours:
        passed.update(row.get("passed_through", {}))
    result = {
        "figures": figures.compute_all(collected, truth=bool(truth)),
        "table": [row | {"sync_backend": cfg.sync_backend} for row in table],
        "sync_scorer": {"name": cfg.sync_backend, "scale": entry.scale, "stand_in": entry.stand_in},
        "enhancement": comparison.compare(videos, rows),
        "passed_through": dict(sorted(passed.items())),
        "cut": [{"id": row["id"], "cut_s": row["cut_s"]} for row in ours if row.get("cut_s")],
        "failed": [{name: row[name] for name in ("id", "reason", "detail")} for row in failed],
        "stand_ins": _stand_ins(cfg, rows, test),
        "evaluators": {"syncnet": weight_files.content_hash(inputs["syncnet"][0])},
    }
    write_json(outputs["metrics"], result)
    items = [item | {"kind": "video"} for item in videos] + [item | {"kind": "outcome"} for item in outcomes]
    write_ledger(outputs["per_item"], items)


# --- SyncNet --------------------------------------------------------------------------------------------------------


def _syncnet(cfg: Evaluate, path: Path, test: list[Row], root: Path) -> dict[str, Any]:
    """What Evidence holds about the trained SyncNet: its threshold, and its cosines for pairs of the test clips."""
    import torch

    from latentsync.models import syncnet
    from latentsync.training import data
    from latentsync.training.clips import ClipStore
    from latentsync.training.losses import cosine

    torch.set_num_threads(cfg.torch_threads)
    net, shape = syncnet.load(path)
    clips, groups = ClipStore(test, root), [row["group"] for row in test]

    def judged(pairs: list[data.Pair]) -> Pairs:
        if not pairs:
            return NO_PAIRS
        with torch.inference_mode():
            cosines = [
                cosine(*net(torch.from_numpy(visual), torch.from_numpy(mel))).double().numpy()
                for visual, mel in data.pair_batches(clips, pairs, shape.frames, shape.resolution)
            ]
        in_sync = np.array([pair.in_sync for pair in pairs], bool)
        return Pairs(np.concatenate(cosines), in_sync, [pair.clip for pair in pairs])

    drawn = [
        data.draw_pairs(clips, groups, shape.frames, cfg.syncnet_pairs, *NEGATIVES, cfg.seed + n)
        for n in range(SHUFFLES)
    ]
    return {
        "pairs": judged(drawn[0][0]),
        "shuffled": judged([pair for _, foreign in drawn for pair in foreign]),
        "threshold": weight_files.metadata(path).get("threshold", 0.5),
        "no_pairs": f"no test clip has the {shape.frames + NEGATIVES[0]} frames that a pair needs",
    }


# --- curation against the truth -------------------------------------------------------------------------------------


def _outcomes(inputs: dict[str, list[Path]], truth: list[Row], root: Path) -> list[Row]:
    if not truth:
        return []
    rows = read_ledgers(inputs["score_sync"])
    selected = {row["id"] for split in ("train", "val", "test") for row in read_ledgers(inputs[split])}
    with open(inputs["rejected"][0], newline="", encoding="utf-8") as file:
        reasons = {row["id"]: row["reason"] for row in csv.DictReader(file)}
    least = json.loads(inputs["summary"][0].read_text(encoding="utf-8"))["thresholds"]["min_offset_confidence"]
    shared = {video["id"] for video in truth if any("side" in stretch for stretch in video["expected"])}
    centre_x = {}
    for row in rows:
        if row["kind"] == "clip" and row["source_id"] in shared:
            with np.load(root / row["geometry_file"]) as geometry:
                centre_x[row["id"]] = float(geometry["landmarks"][..., 0].mean()) / row["width"]
    return planted.outcomes(truth, rows, selected, reasons, centre_x, least)


# --- stand-ins ------------------------------------------------------------------------------------------------------


def _stand_ins(cfg: Evaluate, rows: list[Row], test: list[Row]) -> list[str]:
    """Sentences on every part that ran in place of the published one, each once."""
    backends = {row[name] for row in test for name in ("sync_backend", "quality_backend")}
    sentences = [sentence for row in rows for sentence in row["stand_ins"]]
    sentences += [STAND_INS[name] for name in sorted(backends) if name in STAND_INS]
    detectors = (BACKENDS[name] for name in sorted({row["faces"] for row in rows if "faces" in row}))
    sentences += [backend.stand_in for backend in detectors if backend.stand_in]
    if scorers.SCORERS[cfg.sync_backend].stand_in:
        sentences.append(f"the sync of written videos was scored by {scorers.SCORERS[cfg.sync_backend].stand_in}")
    return list(dict.fromkeys(sentences))
