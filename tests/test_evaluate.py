"""Figures rest on what they say: outcomes against the truth, measurements on written files, and the whole step."""

import json
import math
import multiprocessing
import os
import shutil
import signal
from collections import Counter
from dataclasses import asdict

import numpy as np
import pytest
import torch
from skimage import data

from latentsync import config, records
from latentsync.data import pairs as drawn
from latentsync.data.clips import ClipStore
from latentsync.lipsync import measure
from latentsync.media.probe import probe_media
from latentsync.media.read import read_audio, read_frames, read_video_frames
from latentsync.media.write import write_flac
from latentsync.models import syncnet, weights
from latentsync.models import vae as vaes
from latentsync.models.faces import Face, open_detector
from latentsync.models.unet import UNet3D, UNetConfig
from latentsync.ops import geometry, planted, scores
from latentsync.ops.selection import pair
from latentsync.steps import align_faces, evaluate, generate
from tests import toys
from tests.videos import write_video

RESOLUTION = 64
INTERVAL = scores.Bootstrap(100, 0)


# --- outcomes against the truth -------------------------------------------------------------------------------------


def video(name: str, *expected: dict, offset: int = 0) -> dict:
    return {"id": name, "path": f"{name}.mp4", "offset_frames": offset, "expected": list(expected)}


def stretch(start_s: float, end_s: float, reason: str | None = None, **more) -> dict:
    return {"start_s": start_s, "end_s": end_s, "reason": reason, "track": "speaker"} | more


def clip(source: str, name: str, start: int, end: int, offset: int = 0, confidence: float | None = 9.0) -> dict:
    row = {"id": name, "source_id": source, "kind": "clip", "start_tick": start, "end_tick": end}
    return row | {"sync_offset_frames": offset, "sync_confidence": confidence}


def judged(truth, rows, selected=(), reasons=None, centre_x=None):
    found = planted.outcomes(truth, rows, set(selected), reasons or {}, centre_x or {}, min_confidence=3.0)
    return {outcome["id"]: outcome for outcome in found}


def test_good_and_bad_stretches_are_told_apart():
    truth = [
        video("good", stretch(0, 4), offset=3),
        video("lost", stretch(0, 4)),
        video("fault", stretch(0, 4, "low_quality")),
        video("wrong", stretch(0, 4, "low_quality")),
        video("slipped", stretch(0, 4, "small_face")),
        video("gone", stretch(0, 4, "no_face")),
        video("broken", stretch(0, 4, "unreadable")),
    ]
    rows = [clip(name, name, 0, 100) for name in ("good", "lost", "fault", "wrong", "slipped")]
    rows += [clip("good", "stray", 10, 16)]  # a find of six frames in a good video is no clip of it
    rows += [{"id": "broken", "source_id": "broken", "kind": "source"}]
    reasons = {"lost": "low_sync", "fault": "low_quality", "wrong": "too_short", "stray": "too_short"}
    found = judged(truth, rows, ["good", "slipped"], reasons | {"broken": "unreadable"})
    right = {name: outcome["right"] for name, outcome in found.items()}
    assert right == {
        "good-0": True, "lost-0": False, "fault-0": True, "wrong-0": False, "slipped-0": False, "gone-0": False,
        "broken-0": True,
    }  # fmt: skip
    assert found["gone-0"]["found"] == ["missing"] and found["slipped-0"]["found"] == ["selected"]
    figures = scores.curation_figures(list(found.values()), INTERVAL)
    assert figures["good_rejected"]["value"] == 1 and figures["good_rejected"]["n"] == 2
    assert figures["faults_right_reason"]["value"] == pytest.approx(2 / 5) and "slipped.mp4" in str(figures)


def test_every_row_of_a_fault_must_carry_its_reason():
    truth = [video("noise", stretch(0, 4, "low_quality"))]
    rows = [clip("noise", "a", 0, 60), clip("noise", "b", 60, 100)]
    assert not judged(truth, rows, [], {"a": "low_quality", "b": "low_sync"})["noise-0"]["right"]
    assert judged(truth, rows, [], {"a": "low_quality", "b": "low_quality"})["noise-0"]["right"]


@pytest.mark.parametrize(("reason", "kept"), [(None, "face"), ("low_sync", None)])
def test_a_face_seen_in_hair_says_nothing_of_the_planted_one_unless_it_is_selected(reason, kept):
    truth = [video("v", stretch(0, 4, reason)) | {"face_px": [128.0]}]
    rows = [clip("v", "face", 0, 100) | {"face_px": 130.8}, clip("v", "hair", 23, 100) | {"face_px": 47.0}]
    verdicts = {"face": reason, "hair": "small_face"}
    assert judged(truth, rows, [kept], verdicts)["v-0"]["right"]
    spoiled = judged(truth, rows, [kept, "hair"], verdicts)["v-0"]
    assert not spoiled["right"] and "a stray find was selected" in spoiled["found"]
    assert not judged(truth, rows[1:], [], verdicts)["v-0"]["right"]  # hair alone is no face


def test_two_shots_and_two_faces_are_matched_in_time_and_side():
    two = [stretch(0, 4, side="left"), stretch(0, 4, "low_sync", side="right", track="silent")]
    truth = [video("shots", stretch(0, 2), stretch(2, 4, "low_quality")), video("faces", *two)]
    rows = [
        clip("shots", "s0", 0, 51),
        clip("shots", "s1", 51, 100),
        clip("faces", "l", 0, 100),
        clip("faces", "r", 0, 100),
    ]
    found = judged(truth, rows, ["s0", "l"], {"s1": "low_quality", "r": "low_sync"}, {"l": 0.3, "r": 0.7})
    assert all(outcome["right"] for outcome in found.values())
    swapped = judged(truth, rows, ["s0", "l"], {"s1": "low_quality", "r": "low_sync"}, {"l": 0.7, "r": 0.3})
    assert not swapped["faces-0"]["right"] and "offset_within_1" not in swapped["faces-1"]


@pytest.mark.parametrize(
    ("measured", "confidence", "found"), [(4, 9.0, True), (7, 9.0, False), (5, 2.9, False), (5, None, False)]
)
def test_offsets_count_within_one_frame_and_abstentions_are_misses(measured, confidence, found):
    truth = [video("v", stretch(0, 4), offset=5), video("mute", stretch(0, 4, "no_audio"))]
    outcome = judged(truth, [clip("v", "v", 0, 100, measured, confidence)], ["v"])
    assert outcome["v-0"]["offset_within_1"] == found and "offset_within_1" not in outcome["mute-0"]
    assert scores.curation_figures(list(outcome.values()), INTERVAL)["offset_within_1"]["n"] == 1


# --- figures --------------------------------------------------------------------------------------------------------


def item(system: str, drive: str, r: float | None, r_picture: float = 0.1, error: float = 1.0) -> dict:
    sums = {"squared_error": error, "count": 1000}
    return {
        "system": system, "drive": drive, "mouth_r": r, "mouth_r_picture": r_picture, "mouth_r_known": True,
        "picture_group": "a", "psnr_outside_db": 40.0, "outside": sums, "outside_copy": sums, "mask_share": 0.1,
        "sync_confidence": 5.0, "sync_offset_frames": 0,
    }  # fmt: skip


def test_only_foreign_sound_counts_for_the_mouth_and_what_was_not_measured_counts_as_zero():
    videos = [
        item("ours", "cross", 0.9),
        item("ours", "cross", None),
        item("ours", "own", 1.0),
        item("copy", "cross", 0.2),
    ]
    figures = scores.mouth_figures(videos, INTERVAL)
    assert figures["mouth_r"]["value"] == pytest.approx(0.45) and figures["mouth_r"]["n"] == 2
    assert figures["mouth_r_shuffled"]["value"] == pytest.approx(0.1)
    assert scores.mouth_figures(videos[2:], INTERVAL)["mouth_r"]["reason"]


def test_psnr_is_pooled_over_all_pixels():
    figures = scores.outside_figures([item("ours", "own", 1, error=0), item("ours", "cross", 1, error=2000)], INTERVAL)
    assert figures["psnr_outside_db"]["value"] == pytest.approx(10 * math.log10(255**2))
    none_differs = scores.outside_figures([item("ours", "own", 1, error=0)], INTERVAL)["psnr_outside_db"]
    assert none_differs["value"] == scores.TOP_DB and none_differs["low"] is None


def test_the_table_has_a_row_for_every_system_that_ran_or_failed():
    rows = scores.table(
        [item("ours", "cross", 0.5), item("copy", "cross", 0.0)], Counter({("untrained", "cross"): 2}), INTERVAL
    )
    assert [(row["system"], row["n"], row["failed"]) for row in rows] == [
        ("copy", 1, 0),
        ("untrained", 0, 2),
        ("ours", 1, 0),
    ]


def test_syncnet_figures_use_the_threshold_of_the_validation_clips():
    cosines, in_sync = np.array([0.3, 0.2, 0.35, 0.1]), np.array([True, False, True, False])
    none = np.zeros(0), np.zeros(0, bool), []
    figures = scores.syncnet_figures(cosines, in_sync, [0, 0, 1, 1], none, 0.25, INTERVAL)
    assert figures["syncnet_accuracy_5f"]["value"] == 1 and figures["syncnet_accuracy_at_0.5"]["value"] == 0.5
    assert figures["syncnet_accuracy_shuffled"]["value"] is None and figures["syncnet_accuracy_shuffled"]["reason"]


def test_pairs_are_balanced_near_and_foreign(tmp_path):
    rows = [toys.clip(tmp_path, number, number // 2, n_frames=40) for number in range(4)]
    clips, groups = ClipStore(rows, tmp_path), [row["group"] for row in rows]
    pairs, shuffled = drawn.draw(clips, groups, 16, 60, 5, 15, seed=0)
    assert len(pairs) == len(shuffled) == 60 and sum(p.in_sync for p in pairs) == 30
    assert all(p.clip == p.sound_clip for p in pairs)
    assert all((p.picture == p.sound) if p.in_sync else 5 <= abs(p.picture - p.sound) <= 15 for p in pairs)
    assert all(groups[p.clip] != groups[p.sound_clip] for p in shuffled)
    assert [(p.clip, p.picture, p.in_sync) for p in shuffled] == [(p.clip, p.picture, p.in_sync) for p in pairs]
    visual, mel = next(drawn.batches(clips, pairs, 16, 64))
    assert visual.shape == (32, 48, 32, 64) and mel.shape == (32, 1, 80, 52)
    face = clips.frames(pairs[0].clip, pairs[0].picture, pairs[0].picture + 1)[0, 32:].astype(np.float32) / 127.5 - 1
    np.testing.assert_allclose(visual[0, :3], face.transpose(2, 0, 1), atol=1e-6)
    assert drawn.draw(clips, groups, 38, 60, 5, 15, seed=0) == ([], [])
    assert drawn.draw(clips, ["one"] * 4, 16, 4, 5, 15, seed=0)[1] == []


# --- measurements on files ------------------------------------------------------------------------------------------


def head(index: int, width: int = 208, height: int = 176) -> np.ndarray:
    left = 120 - index // 2
    return np.ascontiguousarray(data.astronaut()[20 : 20 + height, left : left + width])


def render_of(path, n: int, detector) -> dict:
    matrices = []
    for _, rgb in read_frames(path):
        [face] = detector.detect(rgb)
        matrices.append(geometry.similarity(face.anchors, RESOLUTION))
    return {"order": np.arange(n), "times_s": np.arange(n) / 25, "end_s": n / 25, "matrices": np.array(matrices)}


@pytest.fixture(scope="module")
def detector():
    with open_detector("mediapipe", 2) as detector:
        yield detector


def test_outside_sees_every_change_but_those_inside_the_mask(tmp_path, detector):
    lossless = {"codec_options": {"crf": "0"}}
    source = write_video(tmp_path / "a.mp4", 6, pictures=head, size=(208, 176), **lossless)
    render = render_of(source, 6, detector)
    same = measure.outside(source, source, render, RESOLUTION)
    assert same.squared_error == 0 and 0.1 < same.mask_share < 0.4
    with open_detector("mediapipe", 1) as single:
        mouth = np.mean(
            [single.detect(rgb)[0].landmarks[[13, 14]].mean(0) for _, rgb in read_frames(source)], 0
        ).astype(int)

    def spoiled(x: int, y: int):
        def pictures(index, width, height):
            picture = head(index, width, height)
            picture[y - 4 : y + 4, x - 4 : x + 4] = 128
            return picture

        return write_video(tmp_path / f"{x}.mp4", 6, pictures=pictures, size=(208, 176), **lossless)

    # The test's own way from RGB to the file spreads chroma alone, so luma differs nowhere but at the spot.
    assert measure.outside(spoiled(*mouth), source, render, RESOLUTION).squared_error == 0
    assert measure.outside(spoiled(20, 20), source, render, RESOLUTION).squared_error > 1000


def test_a_copy_written_with_the_same_settings_is_the_yardstick(tmp_path, detector):
    source = write_video(tmp_path / "a.mp4", 6, pictures=head, size=(208, 176))
    render = render_of(source, 6, detector)
    psnr = {}
    for crf in (8, 30):
        measure.reencoded(tmp_path / f"{crf}.mp4", source, render, crf)
        psnr[crf] = measure.outside(tmp_path / f"{crf}.mp4", source, render, RESOLUTION).psnr_db
    assert psnr[30] < 45 < psnr[8]


class TwoFaces:
    """A detector that always sees the same two faces."""

    def __init__(self):
        self.faces = []
        for left, opening in ((20, 0.1), (140, 0.5)):
            anchors = np.float32([[left + 15, 40], [left + 45, 40], [left + 30, 65]])
            landmarks = np.float32([[left, 30], [left + 60, 30], [left + 30, 100]])
            self.faces.append(Face((left, 30, left + 60, 100), landmarks, anchors, opening))

    def detect(self, rgb):
        return self.faces

    def reset(self):
        pass


def test_the_mouth_of_the_face_in_the_crop_box_is_measured(tmp_path):
    """Two faces: the matrices say which of them is meant, and whether anything is."""
    source, detector = write_video(tmp_path / "two.mp4", 3, size=(220, 120)), TwoFaces()
    nothing, elsewhere = (
        np.full((2, 3), np.nan),
        geometry.similarity(np.float32([[90, 5], [95, 5], [92, 9]]), RESOLUTION),
    )
    for face in detector.faces:
        matrices = np.array([geometry.similarity(face.anchors, RESOLUTION), nothing, elsewhere])
        opening = measure.mouth_opening(read_video_frames(source), matrices, detector, RESOLUTION)
        assert opening[0] == face.mouth_opening and np.isnan(opening[1:]).all()


@pytest.mark.parametrize("offset", [-6, 0, 4])
def test_sync_of_finds_how_late_a_mouth_is(offset):
    rng = np.random.default_rng(1)
    tune = toys.opening_tune(120, rng)
    sound = toys.speech(tune, rng)
    times_s = np.arange(144) / 30  # a picture at 30 frames a second
    opening = np.interp(times_s - offset / 25, np.arange(120) / 25, tune)
    found, confidence = measure.sync_of(opening, times_s, 4.8, sound)
    assert abs(found - offset) <= 1 and confidence > 5
    _, chance = measure.sync_of(opening, times_s, 4.8, toys.speech(toys.opening_tune(120, rng), rng))
    assert chance < confidence


# --- generate and evaluate as steps ---------------------------------------------------------------------------------

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
    """Two videos of 32 frames with sound: rows as score_quality leaves them, and their truth."""
    cuts = {"first": lambda picture: picture, "second": lambda picture: np.ascontiguousarray(picture[:, ::-1])}
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
            pictures=lambda *at, turn=turn: turn(head(*at)),
            size=(208, 176),
            sound=sound,
            sound_rate_hz=16_000,
        )
        source = records.source_id(path.name)
        (root / "resample/media").mkdir(parents=True, exist_ok=True)
        write_flac(root / f"resample/media/{source}.flac", sound)
        np.save(root / f"resample/media/{source}.npy", np.arange(32, dtype=np.int32))
        files = {"audio_file": f"resample/media/{source}.flac", "ticks_file": f"resample/media/{source}.npy"}
        row = {"id": records.segment_id(source, 0, 32), "kind": "segment", "source_id": source, "path": path.name}
        row |= {
            "status": "ok",
            "reason": None,
            "detail": "",
            "start_tick": 0,
            "end_tick": 32,
            "n_ticks": 32,
            "width": 208,
        }
        segments.append(row | files)
        opening = [round(float(value), 4) for value in tune]
        truth.append(video(source, stretch(0, 1.28)) | {"sound_opening": opening, "identity": name})
    return segments, truth


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run folder up to training: two people, small untrained networks; returns folder, inputs of the two steps."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("results") / "tiny"
    segments, truth = _two_people(root)
    records.write_ledger(root / "segment/00000.jsonl", segments)
    cfg = config.AlignFaces(backend="mediapipe", resolution=RESOLUTION)
    ledger = root / "align_faces/00000.jsonl"
    align_faces.run(cfg, {"segment": [root / "segment/00000.jsonl"]}, {"ledger": ledger}, root / "videos")
    scored = {"sync_confidence": 9.0, "sync_offset_frames": 0, "sync_backend": "envelope", "quality_backend": "piqe"}
    rows = [row | scored | {"offset_frames": 0} for row in records.read_ledger(ledger)]
    assert [row["status"] for row in rows] == ["ok", "ok"]
    rows = [row | {"group": f"person {number}"} for number, row in enumerate(rows)]
    records.write_ledger(root / "score_sync/00000.jsonl", rows)
    select = root / "select_clips"
    records.write_ledger(select / "test.jsonl", rows)
    records.write_ledger(select / "pairs.jsonl", pair(rows, 5))
    for name in ("train", "val"):
        records.write_ledger(select / f"{name}.jsonl", [])
    records.write_text(select / "rejected.csv", "id,reason\n")
    records.write_json(select / "summary.json", {"thresholds": {"min_offset_confidence": 3.0}})
    records.write_ledger(root / "make_talkers/truth.jsonl", truth)
    torch.manual_seed(0)
    vaes.save(root / "train_vae/vae.safetensors", vaes.build(config.TrainVae(block_out_channels=(8, 8, 8, 16))), 1.0)
    shape = UNetConfig(block_out_channels=(16, 16), cross_attention_dim=16, attention_heads=2, norm_groups=8)
    facts = {"frames": 8, "resolution": 64, "audio_encoder": {"backend": "embedded", "width": 16, "layers": 1}}
    weights.save(root / "train_unet_stage2/unet.safetensors", UNet3D(shape).state_dict(), asdict(shape), **facts)
    net = syncnet.build(SYNCNET)
    weights.save(
        root / "train_syncnet/syncnet.safetensors", net.state_dict(), SYNCNET.model_dump(mode="json"), threshold=0.4
    )
    return root


def run_generate(root, workers: int = 1, **changed):
    settings = {"steps": 1, "guidance": 1.0, "length": "video", "crf": 8, "controls": 1, "torch_threads": 1}
    cfg = config.Generate(**settings | changed, workers=workers)
    inputs = {
        "pairs": [root / "select_clips/pairs.jsonl"],
        "test": [root / "select_clips/test.jsonl"],
        "unet": [root / "train_unet_stage2/unet.safetensors"],
        "vae": [root / "train_vae/vae.safetensors"],
    }
    generate.run(cfg, inputs, {"ledger": root / "generate/generated.jsonl"}, root / "videos")
    return records.read_ledger(root / "generate/generated.jsonl")


def run_evaluate(root, out: str, truth: bool):
    select = root / "select_clips"
    inputs = {name: [select / f"{name}.jsonl"] for name in ("train", "val", "test")}
    inputs |= {"rejected": [select / "rejected.csv"], "summary": [select / "summary.json"]}
    inputs |= {"generate": [root / "generate/generated.jsonl"], "score_sync": [root / "score_sync/00000.jsonl"]}
    inputs |= {"syncnet": [root / "train_syncnet/syncnet.safetensors"]}
    inputs |= {"truth": [root / "make_talkers/truth.jsonl"] if truth else []}
    outputs = {"metrics": root / out / "metrics.json", "per_item": root / out / "items.jsonl"}
    evaluate.run(config.Evaluate(syncnet_pairs=20, bootstrap=50, torch_threads=1), inputs, outputs, root / "videos")
    return json.loads(outputs["metrics"].read_text()), records.read_ledger(outputs["per_item"])


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
    before = (finished / "generate/generated.jsonl").read_bytes()
    again = run_generate(finished)
    assert {row["id"]: (finished / row["video_file"]).stat().st_mtime_ns for row in again} == written
    assert (finished / "generate/generated.jsonl").read_bytes() == before


def test_two_workers_make_the_same_videos(finished, tmp_path):
    run_generate(finished)
    alone = (finished / "generate/generated.jsonl").read_bytes()
    root = tmp_path / "tiny"
    shutil.copytree(finished, root, ignore=shutil.ignore_patterns("generate"))
    rows = run_generate(root, workers=2)
    assert (root / "generate/generated.jsonl").read_bytes() == alone
    for row in rows:
        assert (root / row["video_file"]).read_bytes() == (finished / row["video_file"]).read_bytes()


def test_another_number_of_workers_repeats_nothing(finished, tmp_path):
    run_generate(finished)
    root = tmp_path / "tiny"
    shutil.copytree(finished, root)
    media, journal = root / "generate/media", root / "generate/journal"
    lines = (journal / "generated.jsonl").read_text().splitlines(keepends=True)
    (root / "generate/generated.jsonl").unlink()
    (journal / "generated.jsonl").unlink()
    for number, half in enumerate((lines[:2], lines[2:])):  # what two workers leave behind when one is killed
        (journal / f"part-{number}.jsonl").write_text("".join(half))
    before = {path.name: path.stat().st_mtime_ns for path in media.iterdir()}
    for workers in (1, 2):
        run_generate(root, workers)
        assert {path.name: path.stat().st_mtime_ns for path in media.iterdir()} == before
        assert (root / "generate/generated.jsonl").read_bytes() == (finished / "generate/generated.jsonl").read_bytes()
        assert [path.name for path in journal.iterdir()] == ["generated.jsonl"]
        assert not list((root / "generate").glob("part-*"))


@pytest.mark.parametrize("length", ["video", "audio"])
def test_a_long_picture_is_generated_up_to_the_limit_and_says_so(finished, tmp_path, length):
    root = tmp_path / "tiny"
    shutil.copytree(finished, root, ignore=shutil.ignore_patterns("generate"))
    rows = run_generate(root, max_s=0.8, length=length)
    assert {(row["status"], row["n_frames"], row["n_generated"]) for row in rows} == {("ok", 20, 20)}
    assert {row["cut_s"] for row in rows} == {0.48}
    for row in rows:
        assert probe_media(root / row["video_file"]).duration_s == 0.8
        assert len(read_audio(root / row["video_file"])) == pytest.approx(12_800, abs=1100)
    metrics, _ = run_evaluate(root, "evaluate", truth=True)
    assert len(metrics["cut"]) == len(rows) and {cut["cut_s"] for cut in metrics["cut"]} == {0.48}


def test_a_killed_worker_is_named_and_no_ledger_written(finished, tmp_path, monkeypatch):
    root = tmp_path / "tiny"
    shutil.copytree(finished, root, ignore=shutil.ignore_patterns("generate"))
    monkeypatch.setattr(generate, "get_context", lambda method: multiprocessing.get_context("fork"))
    monkeypatch.setattr(generate, "make", lambda *args: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(ValueError, match=r"killed by signal 9.*generate\.workers \(2\)"):
        run_generate(root, workers=2)
    assert not (root / "generate/generated.jsonl").exists()


def test_evaluate_gives_every_figure_beside_its_controls(finished):
    run_generate(finished)
    metrics, items = run_evaluate(finished, "evaluate", truth=True)
    figures = metrics["figures"]
    assert {name for name, found in figures.items() if found["value"] is None} == {
        "faults_right_reason"
    }  # none planted
    assert figures["syncnet_accuracy_5f"]["n"] == 20 and figures["syncnet_accuracy_shuffled"]["n"] == 60
    assert figures["offset_within_1"]["value"] == 1 and figures["good_rejected"] | {"note": ""} == scores.figure(0, 2)
    assert figures["mouth_r"]["n"] == 2 and figures["psnr_outside_db"]["value"] > 45
    systems = {(row["system"], row["driven_by"]): row for row in metrics["table"]}
    assert list(systems) == list(scores.SYSTEMS) and systems["copy", "cross"]["psnr_outside_db"] is None
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


def test_without_truth_its_figures_are_null_with_a_reason(finished):
    run_generate(finished)
    metrics, items = run_evaluate(finished, "evaluate_real", truth=False)
    for name in ("offset_within_1", "faults_right_reason", "good_rejected", "mouth_r", "mouth_r_shuffled"):
        assert metrics["figures"][name]["value"] is None and "nobody wrote down" in metrics["figures"][name]["reason"]
    assert (
        metrics["figures"]["psnr_outside_db"]["value"] > 45 and metrics["figures"]["syncnet_auc"]["value"] is not None
    )
    assert all(row["mouth_r"] is None and row["sync_confidence"] is not None for row in metrics["table"])
    assert all(each["trace"]["true"] is None for each in items)


def test_a_failed_video_is_counted_with_its_reason(finished):
    rows = run_generate(finished)
    folder = finished / "generate"
    lost = records.rejected(rows[0], "unreadable", "decoding fails at 0.40 s")
    lost = {name: value for name, value in lost.items() if name not in ("video_file", "render_file", "passed_through")}
    kept = (folder / "generated.jsonl").read_bytes()
    records.write_ledger(folder / "generated.jsonl", [lost, *rows[1:]])
    metrics, _ = run_evaluate(finished, "evaluate_failed", truth=True)
    (folder / "generated.jsonl").write_bytes(kept)
    assert metrics["failed"] == [{"id": rows[0]["id"], "reason": "unreadable", "detail": "decoding fails at 0.40 s"}]
    assert sum(row["failed"] for row in metrics["table"]) == 1
