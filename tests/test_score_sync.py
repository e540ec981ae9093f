"""The step score_sync on small ledgers: columns, named verdicts, passing through, both backends."""

from pathlib import Path

import numpy as np
import pytest
import torch
from test_sync import mouth_of, sound_of, speech

from latentsync import records
from latentsync.config import ScoreSync
from latentsync.media.write import VideoWriter, write_flac
from latentsync.ops import sync
from latentsync.steps import score_sync

N_TICKS = 130


def clip_row(run: Path, name: str, start: int, end: int, offset: int, seed: int, **columns) -> records.Row:
    """A clip [start, end) of a talking source, its sound and geometry written to disk; NaN in a few ticks."""
    source = records.source_id(name)
    opening = speech(seed, N_TICKS / 25)
    audio, geometry = f"resample/media/{source}.flac", f"align_faces/media/{source}-{start}.npz"
    for file in (audio, geometry):
        (run / file).parent.mkdir(parents=True, exist_ok=True)
    write_flac(run / audio, sound_of(opening, seed).astype(np.float32), 16000)
    mouth = mouth_of(opening, N_TICKS, offset, 0.006, seed)[start:end].astype(np.float32)
    mouth[5:8] = np.nan
    np.savez(run / geometry, mouth_opening=mouth, found=np.isfinite(mouth))
    row = {"id": records.clip_id(source, start, end, 0), "kind": "clip", "source_id": source, "path": name}
    row |= {"status": "ok", "reason": None, "detail": "", "start_tick": start, "end_tick": end, "n_ticks": N_TICKS}
    return row | {"audio_file": audio, "geometry_file": geometry} | columns


@pytest.fixture
def run(tmp_path):
    return tmp_path / "results" / "test"


def score(run: Path, rows: list[records.Row], cfg: ScoreSync) -> dict[str, records.Row]:
    records.write_ledger(run / "align_faces" / "00000.jsonl", rows)
    out = run / "score_sync" / "00000.jsonl"
    score_sync.run(cfg, {"align_faces": [run / "align_faces" / "00000.jsonl"]}, {"ledger": out}, None)
    return {row["path"]: row for row in records.read_ledger(out)}


def test_planted_offsets_come_out_with_their_sign(run):
    planted = {f"{k}.mp4": offset for k, offset in enumerate((-10, -3, 0, 4, 10))}
    # A clip that starts inside its source and one that is all of it.
    spans = [(0, N_TICKS), (20, 110), (50, N_TICKS), (0, 80), (25, 105)]
    rows = [
        clip_row(run, name, *spans[k], offset, seed=k)
        for k, (name, offset) in enumerate(planted.items())
    ]  # fmt: skip
    scored = score(run, rows, ScoreSync(backend="envelope"))
    for name, offset in planted.items():
        row = scored[name]
        assert abs(row["sync_offset_frames"] - offset) <= 1, (name, row)
        assert row["sync_confidence"] > 5
        assert row["sync_confidence"] == max(row["sync_curve"])
        assert row["sync_curve"].index(row["sync_confidence"]) == row["sync_offset_frames"] + 15
        assert len(row["sync_curve"]) == 31
        assert row["sync_backend"] == "envelope"


def test_no_sound_is_a_named_verdict_and_old_verdicts_pass_through(run):
    talking = clip_row(run, "talking.mp4", 0, N_TICKS, 0, seed=1)
    mute = clip_row(run, "mute.mp4", 0, N_TICKS, 0, seed=2, audio_file=None)
    faceless = records.rejected(talking | {"id": "x", "path": "wall.mp4", "kind": "segment"}, "no_face", "as before")
    scored = score(run, [talking, mute, faceless], ScoreSync(backend="envelope"))
    assert scored["talking.mp4"]["status"] == "ok"
    assert (scored["mute.mp4"]["status"], scored["mute.mp4"]["reason"]) == ("rejected", "no_audio")
    assert "sync_confidence" not in scored["mute.mp4"]
    assert scored["wall.mp4"] == faceless


def test_a_finished_clip_is_not_scored_again(run, monkeypatch):
    rows = [clip_row(run, f"{k}.mp4", 0, N_TICKS, 0, seed=k) for k in range(2)]
    cfg = ScoreSync(backend="envelope")
    before = score(run, rows[:1], cfg)
    scored = []
    original = sync.envelope_curve
    monkeypatch.setattr(sync, "envelope_curve", lambda *args: scored.append(1) or original(*args))
    after = score(run, rows, cfg)
    assert len(scored) == 1
    assert after["0.mp4"] == before["0.mp4"]


@pytest.fixture
def weights(golden, tmp_path):
    import hashed_syncnet

    path = tmp_path / "syncnet_v2.model"
    torch.save(hashed_syncnet.state_dict(golden("syncnet_v2")), path)
    return path


def test_syncnet_scores_the_crops(run, weights):
    row = clip_row(run, "a.mp4", 10, 30, 0, seed=1)
    short = clip_row(run, "b.mp4", 10, 15, 0, seed=1)  # five frames: no window as published
    rng = np.random.default_rng(0)
    for each in (row, short):
        each["crop_file"] = each["geometry_file"].replace(".npz", ".mp4")
        with VideoWriter(run / each["crop_file"], 25, 64, 64) as writer:
            for _ in range(each["end_tick"] - each["start_tick"]):
                writer.write(rng.integers(0, 256, (64, 64, 3), np.uint8))
    scored = score(run, [row, short], ScoreSync(backend="syncnet_v2", weights=str(weights)))
    assert scored["a.mp4"]["sync_backend"] == "syncnet_v2"
    assert scored["a.mp4"]["sync_confidence"] == max(scored["a.mp4"]["sync_curve"]) > 0.01
    assert not any(scored["b.mp4"]["sync_curve"])


def test_syncnet_gets_what_the_original_would(run, weights, golden):
    """Golden clip through the step, losslessly replaced crops apart: same offset, near the same confidence."""
    import wave

    import cv2

    folder = golden("syncnet_v2")
    frames = np.stack([cv2.imread(str(path))[..., ::-1] for path in sorted((folder / "frames").glob("*.png"))])
    with wave.open(str(folder / "audio_16k.wav")) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), np.int16)
    row = clip_row(run, "golden.mp4", 0, 40, 0, seed=1, crop_file="align_faces/media/golden.mp4")
    write_flac(run / row["audio_file"], samples.astype(np.float32) / 32768, 16000)
    with VideoWriter(run / row["crop_file"], 25, 224, 224, crf=0) as writer:
        for frame in frames:
            writer.write(np.ascontiguousarray(frame))
    scored = score(run, [row], ScoreSync(backend="syncnet_v2", weights=str(weights)))["golden.mp4"]
    # 40 ticks of sound instead of 41 lose no window: min(40, 40) - 5. Chroma subsampling moves the numbers a little.
    assert scored["sync_offset_frames"] == -15
    assert scored["sync_confidence"] == pytest.approx(2.8725, abs=0.15)


def test_missing_weights_stop_the_step_before_any_clip(run):
    cfg = ScoreSync(backend="syncnet_v2", weights="nowhere/syncnet_v2.model")
    with pytest.raises(ValueError, match="nowhere/syncnet_v2.model is missing.*score_sync.backend: syncnet_v2"):
        score(run, [clip_row(run, "a.mp4", 0, 50, 0, seed=1)], cfg)
    assert not (run / "score_sync").exists()
