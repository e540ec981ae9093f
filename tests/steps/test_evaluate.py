"""The steps generate and evaluate: every pair with its controls, nothing twice, every figure beside its bar."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import asdict

import numpy as np
import pytest
import torch

from latentsync import config
from latentsync.curation.pairs import by_shard, pair
from latentsync.evaluation.evidence import measured
from latentsync.evaluation.systems import SYSTEMS
from latentsync.faces.alignment import similarity
from latentsync.faces.backends import open_detector
from latentsync.generation import speakers
from latentsync.ledger.files import read_ledger, read_ledgers, write_json, write_ledger, write_text
from latentsync.ledger.rows import rejected, source_id
from latentsync.media.audio import read_audio
from latentsync.media.probe import probe_media
from latentsync.media.read import read_frames
from latentsync.media.write import write_flac
from latentsync.models import syncnet
from latentsync.models import vae as vaes
from latentsync.models.unet import UNet3D, UNetConfig
from latentsync.steps import align_faces, evaluate, generate
from latentsync.weights import files as weight_files
from tests import toys
from tests.fixtures import segment
from tests.onnx_files import onnx_file
from tests.rigged_syncnet import Rigged
from tests.videos import head, write_video

RESOLUTION = 64


SYNCNET = config.TrainSyncnet.model_validate(
    {
        "frames": 8,
        "resolution": 64,
        "visual": {
            "in_channels": 24,
            "block_out_channels": [32] * 6,
            "downsample_factors": [[1, 2], 2, 2, 2, 2, 2],
            "attn_blocks": [False] * 6,
        },
        "audio": {
            "in_channels": 1,
            "block_out_channels": [32] * 6,
            "downsample_factors": [[2, 1], 2, 2, 2, 2, [2, 1]],
            "attn_blocks": [False] * 6,
        },
    }
)


def _two_people(root) -> tuple[list[dict], list[dict]]:
    """Two videos of 32 frames with audio: rows as score_quality leaves them, and their truth."""
    cuts = {"first": lambda image: image, "second": lambda image: np.ascontiguousarray(image[:, ::-1])}
    segments, truth = [], []
    for number, (name, turn) in enumerate(cuts.items()):
        rng = np.random.default_rng(number)
        tune = toys.opening_tune(32, rng)
        sound = toys.speech(tune, rng)
        path = root / "videos" / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(
            path,
            32,
            images=lambda *at, turn=turn: turn(head(*at)),
            size=(208, 176),
            audio=sound,
            audio_rate_hz=16_000,
        )
        source = source_id(path.name)
        (root / "resample/media").mkdir(parents=True, exist_ok=True)
        write_flac(root / f"resample/media/{source}.flac", sound)
        np.save(root / f"resample/media/{source}.npy", np.arange(32, dtype=np.int32))
        files = {"audio_file": f"resample/media/{source}.flac", "ticks_file": f"resample/media/{source}.npy"}
        files["audio_track"] = 1
        segments.append(segment(path.name, 0, 32, n_ticks=32, width=208, **files))
        opening = [round(float(value), 4) for value in tune]
        good = {"start_s": 0, "end_s": 1.28, "reason": None, "track": "speaker"}
        row = {"id": source, "path": f"{source}.mp4", "offset_frames": 0, "expected": [good]}
        truth.append(row | {"sound_opening": opening, "identity": name})
    return segments, truth


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run folder up to training: two people, small untrained networks; returns folder, inputs of the two steps."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("results") / "tiny"
    segments, truth = _two_people(root)
    write_ledger(root / "segment/00000.jsonl", segments)
    cfg = config.AlignFaces(backend="mediapipe", resolution=RESOLUTION)
    ledger = root / "align_faces/00000.jsonl"
    align_faces.run(cfg, {"segment": [root / "segment/00000.jsonl"]}, {"ledger": ledger}, root / "videos")
    scored = {"sync_confidence": 9.0, "sync_offset_frames": 0, "sync_backend": "envelope", "quality_backend": "piqe"}
    rows = [row | scored | {"offset_frames": 0} for row in read_ledger(ledger)]
    assert [row["status"] for row in rows] == ["ok", "ok"]
    rows = [row | {"group": f"person {number}"} for number, row in enumerate(rows)]
    write_ledger(root / "score_sync/00000.jsonl", rows)
    select = root / "select_clips"
    write_ledger(select / "test.jsonl", rows)
    write_pairs(root, pair(rows, 5), 1)
    for name in ("train", "val"):
        write_ledger(select / f"{name}.jsonl", [])
    write_text(select / "rejected.csv", "id,reason\n")
    write_json(select / "summary.json", {"thresholds": {"min_offset_confidence": 3.0}})
    write_ledger(root / "make_talkers/truth.jsonl", truth)
    torch.manual_seed(0)
    vaes.save(root / "train_vae/vae.safetensors", vaes.build(config.TrainVae(block_out_channels=(8, 8, 8, 16))), 1.0)
    shape = UNetConfig(block_out_channels=(16, 16), cross_attention_dim=16, attention_heads=2, norm_groups=8)
    facts = {"frames": 8, "resolution": 64, "audio_encoder": {"backend": "embedded", "width": 16, "layers": 1}}
    weight_files.save(root / "train_unet_stage2/unet.safetensors", UNet3D(shape).state_dict(), asdict(shape), **facts)
    net = syncnet.build(SYNCNET)
    weight_files.save(
        root / "train_syncnet/syncnet.safetensors", net.state_dict(), SYNCNET.model_dump(mode="json"), threshold=0.4
    )
    return root


def write_pairs(root, pairs, shards: int):
    for number, rows in enumerate(by_shard(pairs, shards)):
        write_ledger(root / f"select_clips/pairs-{number:05d}.jsonl", rows)


def run_generate(root, shards: int = 1, **changed):
    settings = {"steps": 1, "guidance": 1.0, "length": "video", "crf": 8, "controls": 1, "torch_threads": 1}
    cfg = config.GenerateInRun(**settings | changed)
    ledgers = [root / f"generate/{number:05d}.jsonl" for number in range(shards)]
    for ledger in ledgers:
        inputs = {
            "pairs": [root / f"select_clips/pairs-{ledger.name}"],
            "test": [root / "select_clips/test.jsonl"],
            "unet": [root / "train_unet_stage2/unet.safetensors"],
            "vae": [root / "train_vae/vae.safetensors"],
        }
        generate.run(cfg, inputs, {"ledger": ledger}, root / "videos")
    return read_ledgers(ledgers)


def run_evaluate(root, out: str, truth: bool, sync_backend: str = "envelope", sync_weights=None):
    select = root / "select_clips"
    inputs = {name: [select / f"{name}.jsonl"] for name in ("train", "val", "test")}
    inputs |= {"rejected": [select / "rejected.csv"], "summary": [select / "summary.json"]}
    inputs |= {"generate": [root / "generate/00000.jsonl"], "score_sync": [root / "score_sync/00000.jsonl"]}
    inputs |= {"syncnet": [root / "train_syncnet/syncnet.safetensors"]}
    inputs |= {"truth": [root / "make_talkers/truth.jsonl"] if truth else []}
    outputs = {"metrics": root / out / "metrics.json", "per_item": root / out / "items.jsonl"}
    scorer = {"sync_backend": sync_backend, "sync_weights": sync_weights and str(sync_weights)}
    cfg = config.Evaluate(**scorer, syncnet_pairs=20, bootstrap=50, torch_threads=1)
    evaluate.run(cfg, inputs, outputs, root / "videos")
    return json.loads(outputs["metrics"].read_text()), read_ledger(outputs["per_item"])


def test_generate_makes_every_pair_and_a_control_and_repeats_nothing(finished):
    rows = run_generate(finished)
    assert Counter((row["system"], row["kind"]) for row in rows) == {
        ("ours", "own"): 2,
        ("ours", "cross"): 2,
        ("untrained", "cross"): 1,
    }
    for row in rows:
        assert row["status"] == "ok" and row["n_frames"] == row["n_generated"] == 32 and row["cut_s"] == 0
        assert sum(1 for _ in read_frames(finished / row["video_file"])) == 32
        with np.load(finished / row["render_file"]) as render:
            assert render["matrices"].shape == (32, 2, 3) and np.isfinite(render["matrices"]).all()
    written = {row["id"]: (finished / row["video_file"]).stat().st_mtime_ns for row in rows}
    before = (finished / "generate/00000.jsonl").read_bytes()
    again = run_generate(finished)
    assert {row["id"]: (finished / row["video_file"]).stat().st_mtime_ns for row in again} == written
    assert (finished / "generate/00000.jsonl").read_bytes() == before


def times_of(root) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (root / "generate/media").iterdir()}


def test_two_shards_make_the_same_videos_as_one(finished, tmp_path):
    alone = run_generate(finished)
    root = tmp_path / "tiny"
    shutil.copytree(finished, root, ignore=shutil.ignore_patterns("generate"))
    write_pairs(root, read_ledger(finished / "select_clips/pairs-00000.jsonl"), 3)
    assert run_generate(root, shards=3) == alone
    shards = [read_ledger(root / f"generate/{number:05d}.jsonl") for number in range(3)]
    assert sorted(len(rows) for rows in shards) == [0, 2, 3]
    for row in alone:
        assert (root / row["video_file"]).read_bytes() == (finished / row["video_file"]).read_bytes()


def test_a_lost_pair_and_a_new_one_repeat_no_other(finished, tmp_path):
    """What a kill takes away is made again, a pair that joins is made, and nothing else is touched."""
    run_generate(finished)
    root = tmp_path / "tiny"
    shutil.copytree(finished, root)
    journal = root / "generate/journal/00000.jsonl"
    (root / "generate/00000.jsonl").unlink()
    before = times_of(root)
    lines = journal.read_text().splitlines(keepends=True)
    lost = json.loads(lines[-1])["rows"][0]
    journal.write_text("".join(lines[:-1]) + lines[-1][:40])  # a torn last line is what a kill leaves
    rows = run_generate(root)
    after = times_of(root)
    own = {name.split("/")[-1] for name in (lost["video_file"], lost["render_file"])}
    assert {name for name in before if after[name] != before[name]} == own and after.keys() == before.keys()
    assert (root / "generate/00000.jsonl").read_bytes() == (finished / "generate/00000.jsonl").read_bytes()

    pairs = read_ledger(root / "select_clips/pairs-00000.jsonl")
    new = next(row for row in pairs if row["kind"] == "own")
    new = new | {"id": "0000" + new["id"][4:], "kind": "cross", "cross_rank": 0}  # sorts first: all other ranks move
    for row in pairs:
        row["cross_rank"] = None if row["cross_rank"] is None else row["cross_rank"] + 1
    write_ledger(root / "select_clips/pairs-00000.jsonl", [*pairs, new])
    more = run_generate(root, controls=1)
    assert {row["id"] for row in more} > {row["id"] for row in rows if row["system"] == "ours"}
    assert {name: times_of(root)[name] for name in after} == after


def test_a_shard_without_pairs_ends_without_torch(tmp_path):
    write_ledger(tmp_path / "tiny/select_clips/pairs-00000.jsonl", [])
    ledger = tmp_path / "tiny/generate/00000.jsonl"
    code = (
        "import sys; from pathlib import Path; from latentsync.config import GenerateInRun;"
        "from latentsync.steps import generate; run = Path(sys.argv[1]);"
        "pairs, made = run / 'select_clips/pairs-00000.jsonl', run / 'generate/00000.jsonl';"
        "generate.run(GenerateInRun(), {'pairs': [pairs]}, {'ledger': made}, run);"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, ledger.parents[1]], check=False).returncode == 0
    assert read_ledger(ledger) == []


def test_cuts_and_gaps_are_those_of_the_run(finished, tmp_path, monkeypatch):
    """detect_scenes and align_faces.max_gap_ticks reach the face tracks of generation, and the key of the videos."""
    root = tmp_path / "tiny"
    shutil.copytree(finished, root, ignore=shutil.ignore_patterns("generate"))
    cfg = config.validate({"detect_scenes": {"threshold": 7.5}, "align_faces": {"max_gap_ticks": 3}})
    section = json.loads(config.section_json(cfg, "generate"))["tracking"]
    assert section == {"scenes": {"threshold": 7.5, "min_scene_ticks": 15}, "max_gap_ticks": 3}
    used, track_video = [], speakers.track_video

    def recorded(video, detector, max_s, tracking, *rest):
        used.append(tracking)
        return track_video(video, detector, max_s, tracking, *rest)

    monkeypatch.setattr(speakers, "track_video", recorded)
    rows = run_generate(root, tracking=section)
    assert {(each.scenes.threshold, each.max_gap_ticks) for each in used} == {(7.5, 3)}
    assert not {row["video_file"] for row in rows} & {row["video_file"] for row in run_generate(finished)}


@pytest.mark.parametrize("length", ["video", "audio"])
def test_a_long_video_is_generated_up_to_the_limit_and_says_so(finished, tmp_path, length):
    root = tmp_path / "tiny"
    shutil.copytree(finished, root, ignore=shutil.ignore_patterns("generate"))
    rows = run_generate(root, max_s=0.8, length=length)
    assert {(row["status"], row["n_frames"], row["n_generated"]) for row in rows} == {("ok", 20, 20)}
    assert {row["cut_s"] for row in rows} == {0.48}
    for row in rows:
        assert probe_media(root / row["video_file"]).duration_s == 0.8
        assert len(read_audio(root / row["video_file"])) == pytest.approx(12_800, abs=1100)
    metrics, _ = run_evaluate(root, "evaluate", truth=True)
    assert len(metrics["cut"]) == sum(row["system"] == "ours" for row in rows) and {
        cut["cut_s"] for cut in metrics["cut"]
    } == {0.48}


def test_evaluate_gives_every_figure_beside_its_controls(finished):
    run_generate(finished)
    metrics, items = run_evaluate(finished, "evaluate", truth=True)
    figures = metrics["figures"]
    assert {name for name, found in figures.items() if found["value"] is None} == {
        "faults_right_reason"
    }  # none planted
    assert figures["syncnet_accuracy_5f"]["n"] == 20 and figures["syncnet_accuracy_shuffled"]["n"] == 60
    assert figures["offset_within_1"]["value"] == 1 and figures["good_rejected"] | {"note": ""} == asdict(
        measured(0, 2)
    )
    assert figures["mouth_r"]["n"] == 2 and figures["psnr_outside_db"]["value"] > 45
    systems = {(row["system"], row["driven_by"]): row for row in metrics["table"]}
    assert list(systems) == [key for key in SYSTEMS if key[0] != "unenhanced"] and metrics["enhancement"] is None
    assert systems["copy", "cross"]["psnr_outside_db"] is None
    videos = [item for item in items if item["kind"] == "video"]
    assert len(videos) == 4 + 1 + 4  # ours, one control, and the untouched source beside each of ours
    for each in videos:
        assert len(each["trace"]["times_s"]) == len(each["trace"]["measured"]) == len(each["trace"]["true"]) == 32
    assert any("untrained encoder" in sentence for sentence in metrics["stand_ins"])
    first = (finished / "evaluate/metrics.json").read_bytes(), (finished / "evaluate/items.jsonl").read_bytes()
    run_evaluate(finished, "evaluate", truth=True)
    assert first == (
        (finished / "evaluate/metrics.json").read_bytes(),
        (finished / "evaluate/items.jsonl").read_bytes(),
    )


def test_the_same_videos_with_and_without_enhancement_are_compared(finished, tmp_path):
    """The restorer is a stand-in that returns only black and white, so it must raise the sharpness."""
    root = tmp_path / "tiny"
    shutil.copytree(finished, root, ignore=shutil.ignore_patterns("generate"))
    weights = onnx_file(tmp_path / "posters.onnx", "Sign", (1, 3, 128, 128))
    enhance = {"method": "gpen", "weights": str(weights), "force": True, "lip_protection": 0}
    rows = run_generate(root, controls=0, enhance=enhance)
    assert Counter((row["system"], row["kind"]) for row in rows) == {
        ("ours", "own"): 2,
        ("ours", "cross"): 2,
        ("unenhanced", "cross"): 2,
    }
    metrics, items = run_evaluate(root, "evaluate", truth=True)
    found = metrics["enhancement"]
    assert len(found["pairs"]) == found["groups"] == 2 and found["unchanged"] == 0
    assert found["verdict"] == "unknown" and "there are only 2 pairs of 2 speakers or videos" in found["words"]
    lines = {line["key"]: line for line in found["measures"]}
    assert lines["sharpness"]["share"] > 0.05 and lines["sharpness"]["source"] > 0
    assert lines["enhance_s"]["with"] > 0 and lines["identity"]["change"] is None
    assert all(lines[key]["n"] == 2 for key in ("sync_confidence", "amplitude", "sharpness", "flicker"))
    assert {row["enhanced_region"] for row in rows} == {"mouth", None}
    # Own videos have no counterpart, so their look is not measured; no figure counts a video twice.
    assert {item["drive"] for item in items if "sharpness" in item} == {"cross"}
    systems = [(row["system"], row["driven_by"]) for row in metrics["table"]]
    assert systems == [key for key in SYSTEMS if key[0] != "untrained"]
    assert metrics["figures"]["mouth_r"]["n"] == 2


def test_without_truth_its_figures_are_null_with_a_reason(finished):
    run_generate(finished)
    metrics, items = run_evaluate(finished, "evaluate_real", truth=False)
    for name in ("offset_within_1", "faults_right_reason", "good_rejected", "mouth_r", "mouth_r_shuffled"):
        assert metrics["figures"][name]["value"] is None and "no ground truth" in metrics["figures"][name]["reason"]
    assert (
        metrics["figures"]["psnr_outside_db"]["value"] > 45 and metrics["figures"]["syncnet_auc"]["value"] is not None
    )
    assert all(row["mouth_r"] is None and row["sync_confidence"] is not None for row in metrics["table"])
    assert all(each["trace"]["true"] is None for each in items)


def test_a_failed_video_is_counted_with_its_reason(finished):
    rows = run_generate(finished)
    folder = finished / "generate"
    lost = rejected(rows[0], "unreadable", "decoding fails at 0.40 s")
    lost = {name: value for name, value in lost.items() if name not in ("video_file", "render_file", "passed_through")}
    kept = (folder / "00000.jsonl").read_bytes()
    write_ledger(folder / "00000.jsonl", [lost, *rows[1:]])
    metrics, _ = run_evaluate(finished, "evaluate_failed", truth=True)
    (folder / "00000.jsonl").write_bytes(kept)
    assert metrics["failed"] == [{"id": rows[0]["id"], "reason": "unreadable", "detail": "decoding fails at 0.40 s"}]
    assert sum(row["failed"] for row in metrics["table"]) == 1


# --- the sync of written videos --------------------------------------------------------------------------------------


def test_another_scorer_changes_only_the_sync_columns(finished):
    """A real StableSyncNet of train_syncnet's making, untrained: it scores what it is given, whatever it is worth."""
    run_generate(finished)
    (before, items), (after, scored) = (
        run_evaluate(finished, f"evaluate_{name}", True, name, weights)
        for name, weights in (("envelope", None), ("stable_syncnet", finished / "train_syncnet/syncnet.safetensors"))
    )
    columns = {"sync_confidence", "sync_offset_frames", "sync_backend"}
    for old, new in zip(items, scored, strict=True):
        assert old.keys() == new.keys() and (old["kind"] != "video" or columns <= old.keys())
        assert {name for name in old if old[name] != new[name]} <= columns
    videos = [row for row in scored if row["kind"] == "video"]
    assert {row["sync_backend"] for row in videos} == {"stable_syncnet"}
    assert all(0 < row["sync_confidence"] < 1 for row in videos)
    for old, new in zip(before["table"], after["table"], strict=True):
        assert {name for name in old if old[name] != new[name]} <= columns | {"sync_within_1"}
        assert new["sync_backend"] == "stable_syncnet"
    assert {name for name in before if before[name] != after[name]} == {"table", "sync_scorer", "stand_ins"}
    assert after["sync_scorer"]["stand_in"] is None and "cosine" in after["sync_scorer"]["scale"]
    written = "the sync of written videos was scored by the correlation of mouth opening and loudness, not by SyncNet"
    assert [sentence for sentence in before["stand_ins"] if sentence not in after["stand_ins"]] == [written]


@pytest.mark.parametrize("offset", [-4, 5])
def test_stable_syncnet_finds_a_planted_offset_in_a_written_video(finished, tmp_path, monkeypatch, offset):
    """A head as bright as its mouth is open: the written video is `offset` frames late, its source is not."""
    n, rng = 70, np.random.default_rng(4)
    tune = toys.opening_tune(n + 20, rng)
    audio = toys.speech(tune, rng)[10 * 640 : (10 + n) * 640]

    def film(path, late: int):
        def lit(index, width, height):
            return (0.6 * head(index, width, height) + 90 * tune[10 + index - late]).astype(np.uint8)

        return write_video(path, n, images=lit, size=(208, 176), audio=audio, audio_rate_hz=16_000)

    run_generate(finished)
    root = tmp_path / "tiny"
    shutil.copytree(finished, root)
    source = film(root / "videos/lit.mp4", 0)
    film(root / "generate/media/late.mp4", offset)
    write_flac(root / "resample/media/lit.flac", audio)
    with open_detector("mediapipe", 1) as detector:
        anchors = [detector.detect(rgb)[0].anchors for _, rgb in read_frames(source)]
    matrices = np.array([similarity(points, RESOLUTION) for points in anchors])
    clock = {"order": np.arange(n), "times_s": np.arange(n) / 25, "end_s": n / 25, "deinterlaced": False}
    np.savez(root / "generate/media/lit.npz", matrices=matrices, **clock)
    row = next(row for row in read_ledger(root / "generate/00000.jsonl") if row["system"] == "ours")
    row |= {"kind": "own", "picture_path": "lit.mp4", "audio_file": "resample/media/lit.flac", "n_frames": n}
    row |= {"video_file": "generate/media/late.mp4", "render_file": "generate/media/lit.npz"}
    write_ledger(root / "generate/00000.jsonl", [row])
    (root / "rigged").touch()
    shape, original = config.TrainSyncnet(frames=16, resolution=32), syncnet.load
    monkeypatch.setattr(syncnet, "load", lambda path: (Rigged(), shape) if path.name == "rigged" else original(path))
    metrics, items = run_evaluate(root, "evaluate", False, "stable_syncnet", root / "rigged")
    found = {item["system"]: item for item in items if item["kind"] == "video"}
    assert found["ours"]["sync_offset_frames"] == offset and found["ground_truth"]["sync_offset_frames"] == 0
    assert min(item["sync_confidence"] for item in found.values()) > 0.05
    assert [row["sync_within_1"] for row in metrics["table"]] == [1, 0]
