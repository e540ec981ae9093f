"""A finished run, made up: ledgers, clips, videos, curves and figures as the steps leave them for the report."""

import math
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from latentsync import config
from latentsync.curation.pairs import SUFFIXES
from latentsync.evaluation import metrics
from latentsync.evaluation.comparison import compare
from latentsync.evaluation.evidence import Evidence, measured
from latentsync.evaluation.figures import compute_all
from latentsync.evaluation.systems import SYSTEMS, table
from latentsync.ledger.files import read_ledgers, write_json, write_ledger, write_text
from latentsync.ledger.rows import Row, rejected, segment_id, source_id
from latentsync.media.write import VideoWriter, write_flac
from latentsync.report import training
from latentsync.steps import select_clips
from tests import fixtures

VERDICTS = ("too_short", "small_face", "low_quality", "low_sync", "large_offset")
SCORES = {"too_short": 9.0, "small_face": 8.0, "low_quality": 7.0, "low_sync": 1.2, "large_offset": 9.5}


def film(path: Path, width: int, height: int, n: int, tint: int, sound: bool = True) -> None:
    """One of a few small videos; each is encoded once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(filmed(width, height, n, tint % 4, sound))


@cache
def filmed(width: int, height: int, n: int, tint: int, sound: bool) -> bytes:
    """A face-like disc whose mouth opens and closes, with a tone that does the same."""
    y, x = np.mgrid[:height, :width]
    t = np.arange(n * 640) / 16_000
    audio = (0.3 * np.sin(2 * np.pi * 220 * t) * np.abs(np.sin(2 * np.pi * t))).astype(np.float32) if sound else None
    with TemporaryDirectory() as folder:
        path = Path(folder, "film.mp4")
        with VideoWriter(path, 25, width, height, crf=20, audio=audio) as writer:
            for k in range(n):
                rgb = np.full((height, width, 3), (230, 226, 214), np.uint8)
                face = (x - width / 2) ** 2 + (y - height / 2) ** 2 < (0.42 * min(width, height)) ** 2
                rgb[face] = (216, 140 + 20 * tint, 120)
                opening = 0.08 * abs(math.sin(2 * math.pi * k / 25)) * height
                rgb[((x - width / 2) / (0.16 * width)) ** 2 + ((y - 0.64 * height) / (opening + 1)) ** 2 < 1] = (
                    60,
                    18,
                    24,
                )
                for side in (0.36, 0.64):
                    rgb[(x - side * width) ** 2 + (y - 0.4 * height) ** 2 < (0.05 * width) ** 2] = (30, 34, 40)
                writer.write(rgb)
        return path.read_bytes()


def clip_rows(number: int, reason: str | None) -> list[Row]:
    """Rows of one video as score_sync leaves them; a face with `reason` will be judged so by select_clips."""
    path = f"take {number:02d}.mp4" if number % 5 else f"day 1/ä & <b>{number:02d}.mp4"
    facts = {"sha256": f"{number:064x}", "fps": 25.0, "duration_s": 2.0, "n_frames": 50}
    if reason == "unreadable":
        return [rejected(fixtures.source(path, sha256=facts["sha256"]), reason, "the file ends in a frame")]
    if reason == "no_face":
        return [rejected(fixtures.segment(path, 0, 50, **facts), reason, "no face was found in 50 frames")]
    facts |= {"segment_id": segment_id(source_id(path), 0, 50), "resolution": 64, "face_share": 1.0, "n_faces": 1}
    facts |= {"crop_file": f"align_faces/media/{number % 3}.mp4", "audio_file": "a.flac", "audio_track": 1}
    facts |= {"face_px": 40.0 if reason == "small_face" else 82.0 + number}
    clip = fixtures.clip(path, 0, 20 if reason == "too_short" else 50, **facts)
    if reason == "no_audio":
        return [rejected(clip | {"audio_file": None}, reason, "the file has no audio stream")]
    clip |= fixtures.TALKING | {
        "sync_confidence": SCORES.get(reason, 7.5 + number / 10),
        "sync_backend": "envelope",
        "quality_backend": "piqe",
    }
    clip |= {"sync_offset_frames": 14 if reason == "large_offset" else number % 9 - 4}
    return [clip | {"quality": 21.5 if reason == "low_quality" else 60.0 + number}]


def curate(root: Path, numbers: range, faults: tuple[str, ...]) -> None:
    """What curation leaves in results/<run>: made videos, and the real select_clips over made ledgers."""
    reasons = [None] * len(numbers) + list(faults)
    rows = [row for number, reason in enumerate(reasons) for row in clip_rows(number, reason)]
    for name in ("score_sync", "score_quality"):
        write_ledger(root / name / "00000.jsonl", rows)
    for row in rows:
        if row["reason"] != "unreadable":
            film(root / "videos" / row["path"], 96, 128, 50, sum(map(ord, row["path"])), row["reason"] != "no_audio")
    for number in range(3):
        film(root / "align_faces" / "media" / f"{number}.mp4", 64, 64, 50, 20 * number)
    write_flac(root / "a.flac", (0.3 * np.sin(np.arange(40_000) / 12)).astype(np.float32))
    cfg = config.SelectClips(
        min_s=1.5, min_face_px=70, min_quality=40, max_offset_frames=10, test_share=0.3, pair_shards=2
    )
    names = ("train", "val", "test")
    outputs = {name: root / "select_clips" / f"{name}.jsonl" for name in names}
    outputs |= {"pairs": [root / "select_clips" / f"pairs-{number:05d}.jsonl" for number in range(cfg.pair_shards)]}
    outputs |= {"rejected": root / "select_clips" / "rejected.csv", "summary": root / "select_clips" / "summary.json"}
    inputs = {name: [root / name / "00000.jsonl"] for name in ("score_sync", "score_quality")}
    select_clips.run(cfg, inputs, outputs, None)


def generate(root: Path, fail: str | None = None, enhanced: bool = False) -> list[Row]:
    """What generate leaves for the pairs of select_clips; the pair whose id is `fail` was rejected."""
    rows = []
    again = ("unenhanced", "untrained") if enhanced else ("untrained",)
    for pair in read_ledgers(sorted((root / "select_clips").glob("pairs-*.jsonl"))):
        for system in ("ours", *again) if pair["kind"] == "cross" else ("ours",):
            ident = pair["id"] + SUFFIXES[system]
            row = {name: value for name, value in pair.items() if name != "cross_rank"} | {
                "id": ident,
                "pair_id": pair["id"],
                "system": system,
                "status": "ok",
                "reason": None,
                "detail": "",
            }
            row |= {
                "marked": "signed by LatentSync Studio test certificate",
                "stand_ins": ["frames were encoded by a small VAE trained in this run"],
                "unet": "ab12",
                "vae": "cd34",
                "resolution": 64,
                "restorer": "ef56" if enhanced and system != "unenhanced" else None,
                "enhanced_region": "mouth" if enhanced and system != "unenhanced" else None,
            }
            if pair["id"] == fail:
                rows.append(rejected(row, "no_audio", "the sound cannot be read"))
                continue
            file = f"generate/media/{ident}.mp4"
            film(root / file, 96, 128, 50, len(ident) + 40 * len(rows))
            rows.append(row | {"video_file": file, "n_frames": 50, "n_generated": 48, "passed_through": {"no_face": 2}})
    write_ledger(root / "generate" / "00000.jsonl", rows)
    return rows


def evaluate(root: Path, rows: list[Row], known: bool) -> None:
    """metrics.json and items.jsonl as evaluate writes them; `known`: there is truth."""
    rng, times, items = np.random.default_rng(0), np.arange(50) / 25, []
    opening = np.abs(np.sin(2 * np.pi * times)) * np.clip(np.sin(2.2 * np.pi * times) + 0.6, 0, 1)

    def video(row: Row, system: str, r: float) -> dict:
        measured = 0.3 * opening + 0.1 * (1 - r) * rng.standard_normal(50)
        trace = [None if k < 3 else float(value) for k, value in enumerate(measured)]
        item = {
            name: row[name]
            for name in ("pair_id", "picture_id", "picture_path", "picture_group", "sound_id", "sound_path")
        }
        item |= {"id": f"{row['pair_id']}-{system}", "kind": "video", "system": system, "drive": row["kind"]}
        item |= {
            "mouth_r": r if known else None,
            "mouth_r_known": known,
            "mouth_r_picture": 0.07 * r if known else None,
        }
        item |= {"psnr_outside_db": None if system == "ground_truth" else 51.3 + r, "mask_share": 0.1234}
        item |= {
            "outside": {"squared_error": 4e5, "count": 10**6},
            "outside_copy": {"squared_error": 3e5, "count": 10**6},
        }
        item |= {"sync_confidence": 4 + 5 * r, "sync_offset_frames": 0}
        if row["restorer"] or system == "unenhanced":
            sharp = 9.4 if system == "ours" else 6.1
            item |= {"sharpness": sharp + 0.1 * r, "flicker": 1.9 + 0.02 * r, "source_sharpness": 11.2}
            item |= {"source_flicker": 1.7, "n_enhanced": 0, "enhance_s": None}
            if system == "ours":
                item |= {"n_enhanced": 48, "enhance_s": 4.1}
        return item | {
            "trace": {"times_s": times.tolist(), "measured": trace, "true": opening.tolist() if known else None}
        }

    for number, row in enumerate(row for row in rows if row["status"] == "ok"):
        items.append(video(row, row["system"], (0.1 if row["system"] == "untrained" else 0.82) - 0.03 * (number // 3)))
        if row["kind"] == "own":
            items.append(video(row, "ground_truth", 0.97))
        elif row["system"] == "ours":
            items.append(video(row, "copy", 0.04))
    interval = partial(metrics.bootstrap, resamples=100, seed=0)
    figures = compute_all(Evidence(interval, [item for item in items if item["psnr_outside_db"]]), known)
    made_up = {
        "syncnet_accuracy_5f": measured(0.931, 600, (0.9, 0.95), "threshold 0.512 of the cosine"),
        "syncnet_accuracy_at_0.5": measured(0.921, 600, (0.89, 0.94), "published threshold"),
        "syncnet_auc": measured(0.981, 600, note="needs no threshold"),
        "syncnet_accuracy_shuffled": measured(0.503, 600, (0.46, 0.53)),
    }
    if known:
        made_up |= {
            "offset_within_1": measured(0.977, 44, (0.93, 1.0), "missed: 1 good"),
            "faults_right_reason": measured(1, 27),
            "good_rejected": measured(2, 44, note="a.mp4: low_sync"),
        }
    figures |= {key: asdict(figure) for key, figure in made_up.items()}
    failed = [{name: row[name] for name in ("id", "reason", "detail")} for row in rows if row["status"] != "ok"]
    lost = {key: sum((row["system"], row["kind"]) == key and row["status"] != "ok" for row in rows) for key in SYSTEMS}
    result = {"figures": figures, "table": table(items, lost, interval), "passed_through": {"no_face": 14}}
    result["enhancement"] = compare(items, rows)
    result |= {
        "cut": [{"id": row["id"], "cut_s": 30.0} for row in rows[:2]],
        "failed": failed,
        "stand_ins": rows[0]["stand_ins"] if rows else [],
        "evaluators": {"syncnet": "9f00aa"},
        "sync_scorer": {"name": "envelope", "scale": "unrelated audio stays below about 4", "stand_in": "loudness"},
    }
    write_json(root / "evaluate" / "metrics.json", result)
    write_ledger(root / "evaluate" / "items.jsonl", items)


def train(root: Path, *steps: str) -> None:
    """Loss curves as training/loop.py writes them: blanks where a row has no such figure."""
    columns = {
        "train_vae": ("loss", "l1", "mse", "kl", "val_psnr_db", "val_masked_psnr_db"),
        "train_syncnet": ("loss", "sync", "val_sync", "val_accuracy", "val_best"),
        "train_unet_stage1": ("loss", "recon", "val_recon", "val_recon_other_sound"),
        "train_unet_stage2": (
            "loss",
            "recon",
            "sync",
            "lpips",
            "trepa",
            "grad_recon",
            "grad_sync",
            "grad_lpips",
            "grad_trepa",
        ),
    }
    rng = np.random.default_rng(1)
    for step in steps:
        lines = [",".join(["step", *columns[step]])]
        for k in range(10, 1001, 10):
            cells = [f"{(0.1 + math.exp(-k / 200)) * (1 + 0.1 * rng.standard_normal()):.6g}" for _ in columns[step]]
            held_out = [name.startswith("val") and k % 100 > 0 for name in columns[step]]
            if step in ("train_syncnet", "train_unet_stage1"):
                cells[0] = cells[1]
            lines.append(
                ",".join([str(k), *("" if blank else cell for cell, blank in zip(cells, held_out, strict=True))])
            )
        write_text(root / step / "curve.csv", "\n".join(lines) + "\n")


def make_run(
    root: Path, *, known: bool = True, empty: bool = False, fail_first: bool = False, enhanced: bool = False
) -> dict[str, list[Path]]:
    """A finished run in `root`; returns the inputs of report. `empty`: nothing was generated, no VAE was trained."""
    curate(root, range(12), () if empty else ("unreadable", "no_face", "no_audio", *VERDICTS, "no_face"))
    if empty:
        for path in (root / "select_clips").glob("pairs-*.jsonl"):
            write_text(path, "")
    pairs = read_ledgers(sorted((root / "select_clips").glob("pairs-*.jsonl")))
    rows = generate(root, pairs[0]["id"] if fail_first else None, enhanced)
    evaluate(root, rows, known)
    steps = [step for step in training.STEPS if not (empty and step == "train_vae")]
    train(root, *steps)
    inputs = {name: [root / "select_clips" / f"{name}.jsonl"] for name in ("train", "val", "test")}
    inputs |= {
        "summary": [root / "select_clips" / "summary.json"],
        "rejected": [root / "select_clips" / "rejected.csv"],
    }
    inputs |= {"score_sync": [root / "score_sync" / "00000.jsonl"], "generate": [root / "generate" / "00000.jsonl"]}
    write_json(root / "config.json", config.Config().model_dump(mode="json"))
    inputs |= {"config": [] if empty else [root / "config.json"]}
    inputs |= {"metrics": [root / "evaluate" / "metrics.json"], "per_item": [root / "evaluate" / "items.jsonl"]}
    return inputs | {step: [root / step / "curve.csv"] for step in steps}
