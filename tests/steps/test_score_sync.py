"""The step score_sync on small ledgers: columns, named verdicts, passing through, all scorers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from latentsync.config import ScoreSync, TrainSyncnet
from latentsync.ledger.files import read_ledger, write_ledger
from latentsync.ledger.rows import Row, rejected, source_id
from latentsync.media.write import VideoWriter, write_flac
from latentsync.models import syncnet, syncnet_v2
from latentsync.steps import score_sync
from latentsync.sync import curves
from latentsync.weights.files import save
from tests.fixtures import clip
from tests.rigged_syncnet import Rigged
from tests.sync.test_curves import audio_of, mouth_of, speech

N_TICKS = 130


def clip_row(run: Path, name: str, start: int, end: int, offset: int, seed: int, **columns) -> Row:
    """A clip [start, end) of a talking source, its audio and geometry written to disk; NaN in a few ticks."""
    source = source_id(name)
    opening = speech(seed, N_TICKS / 25)
    audio, geometry = f"resample/media/{source}.flac", f"align_faces/media/{source}-{start}.npz"
    for file in (audio, geometry):
        (run / file).parent.mkdir(parents=True, exist_ok=True)
    write_flac(run / audio, audio_of(opening, seed).astype(np.float32), 16000)
    mouth = mouth_of(opening, N_TICKS, offset, 0.006, seed)[start:end].astype(np.float32)
    mouth[5:8] = np.nan
    np.savez(run / geometry, mouth_opening=mouth, found=np.isfinite(mouth))
    files = {"audio_file": audio, "geometry_file": geometry}
    return clip(name, start, end, n_ticks=N_TICKS, **files | columns)


@pytest.fixture
def run(tmp_path):
    return tmp_path / "results" / "test"


def score(run: Path, rows: list[Row], cfg: ScoreSync) -> dict[str, Row]:
    write_ledger(run / "align_faces" / "00000.jsonl", rows)
    out = run / "score_sync" / "00000.jsonl"
    score_sync.run(cfg, {"align_faces": [run / "align_faces" / "00000.jsonl"]}, {"ledger": out}, None)
    return {row["path"]: row for row in read_ledger(out)}


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
        # Read where the offset says, the audio is in sync, and the evidence for that is no weaker.
        assert abs(row["remaining_offset_frames"]) <= 1
        assert abs(row["sync_offset_frames"] + row["remaining_offset_frames"] - offset) <= 1
        assert row["remaining_confidence"] == pytest.approx(row["sync_confidence"], rel=0.05)


def test_no_audio_is_a_named_verdict_and_old_verdicts_pass_through(run):
    talking = clip_row(run, "talking.mp4", 0, N_TICKS, 0, seed=1)
    mute = clip_row(run, "mute.mp4", 0, N_TICKS, 0, seed=2, audio_file=None)
    faceless = rejected(talking | {"id": "x", "path": "wall.mp4", "kind": "segment"}, "no_face", "as before")
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
    original = curves.envelope_curve
    monkeypatch.setattr(curves, "envelope_curve", lambda *args: scored.append(1) or original(*args))
    after = score(run, rows, cfg)
    assert len(scored) == 1
    assert after["0.mp4"] == before["0.mp4"]


@pytest.fixture
def weights(golden, tmp_path):
    from tests import hashed_syncnet

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
    # 40 ticks of audio instead of 41 lose no window: min(40, 40) - 5. Chroma subsampling moves the numbers a little.
    assert scored["sync_offset_frames"] == -15
    assert scored["sync_confidence"] == pytest.approx(2.8725, abs=0.15)


def test_syncnet_embeds_the_video_once_and_the_audio_twice(run, weights, monkeypatch):
    calls = []
    for name in ("embed_frames", "embed_audio"):
        original = getattr(syncnet_v2, name)
        monkeypatch.setattr(syncnet_v2, name, lambda *args, n=name, f=original: calls.append(n) or f(*args))
    row = clip_row(run, "a.mp4", 10, 30, 0, seed=1)
    row["crop_file"] = row["geometry_file"].replace(".npz", ".mp4")
    grain(run / row["crop_file"], 20)
    scored = score(run, [row], ScoreSync(backend="syncnet_v2", weights=str(weights)))["a.mp4"]
    assert scored["sync_offset_frames"] != 0  # hashed weights: noise, but not at zero for this clip
    assert calls == ["embed_frames", "embed_audio", "embed_audio"]
    assert isinstance(scored["remaining_offset_frames"], int) and scored["remaining_confidence"] > 0


# --- own StableSyncNet -----------------------------------------------------------------------------------------------


def grain(path: Path, n: int) -> None:
    rng = np.random.default_rng(0)
    with VideoWriter(path, 25, 64, 64) as writer:
        for _ in range(n):
            writer.write(rng.integers(0, 256, (64, 64, 3), np.uint8))


def grey(path: Path, levels: np.ndarray) -> None:
    """A video whose frames are as bright as the mouth is open."""
    with VideoWriter(path, 25, 64, 64, crf=5) as writer:
        for level in levels:
            writer.write(np.full((64, 64, 3), np.clip(30 + 900 * level, 0, 255), np.uint8))


@pytest.mark.parametrize(("offset", "span"), [(7, (0, N_TICKS)), (-4, (0, N_TICKS)), (0, (20, 110)), (7, (30, 100))])
def test_stable_syncnet_finds_a_planted_offset_and_none_remains(run, monkeypatch, offset, span):
    row = clip_row(run, "a.mp4", *span, offset, seed=3)
    row["crop_file"] = row["geometry_file"].replace(".npz", ".mp4")
    grey(run / row["crop_file"], mouth_of(speech(3, N_TICKS / 25), N_TICKS, offset, 0.0, 3)[slice(*span)])
    net = Rigged()
    monkeypatch.setattr(syncnet, "load", lambda path: (net, TrainSyncnet(frames=16, resolution=32)))
    (run / "net").parent.mkdir(parents=True, exist_ok=True)
    (run / "net").touch()
    scored = score(run, [row], ScoreSync(backend="stable_syncnet", weights=str(run / "net")))["a.mp4"]
    assert abs(scored["sync_offset_frames"] - offset) <= 1 and abs(scored["remaining_offset_frames"]) <= 1
    assert scored["sync_offset_frames"] + scored["remaining_offset_frames"] == pytest.approx(offset, abs=1)
    assert 0.05 < scored["sync_confidence"] <= 1 and len(scored["sync_curve"]) == 31
    assert {shape[1:] for shape in net.shapes} == {(48, 16, 32), (1, 80, 52)}
    windows = span[1] - span[0] - 15
    video_windows = sum(shape[0] for shape in net.shapes if len(shape) == 4 and shape[1] == 48)
    audio_windows = sum(shape[0] for shape in net.shapes) - video_windows
    assert video_windows == windows  # the video once, the audio once for each reading
    assert audio_windows == (windows + 30) * (2 if scored["sync_offset_frames"] else 1)


def test_a_file_of_train_syncnet_scores_clips_of_another_resolution(run, tmp_path):
    """A real net, untrained: its file carries the resolution and the shape of it, whatever the section says."""
    cfg = TrainSyncnet(
        resolution=32,
        visual={"in_channels": 48, "block_out_channels": [8, 8, 16, 16, 16], "downsample_factors": [[1, 2], 2, 2, 2, 2],
                "attn_blocks": [False] * 5},
        audio={"in_channels": 1, "block_out_channels": [8, 8, 16, 16, 16],
               "downsample_factors": [[4, 2], 2, 2, 2, [2, 3]], "attn_blocks": [False] * 5},
    )  # fmt: skip
    torch.manual_seed(0)
    path = tmp_path / "syncnet.safetensors"
    shape = cfg.model_dump(mode="json", include={"frames", "resolution", "visual", "audio"})
    save(path, syncnet.build(cfg).state_dict(), shape)
    rows = [clip_row(run, "a.mp4", 10, 40, 0, seed=1), clip_row(run, "b.mp4", 10, 25, 0, seed=1)]
    for row in rows:
        row["crop_file"] = row["geometry_file"].replace(".npz", ".mp4")
        grain(run / row["crop_file"], row["end_tick"] - row["start_tick"])
    section = ScoreSync(backend="stable_syncnet", weights=str(path))
    scored = score(run, rows, section)
    assert 0 < scored["a.mp4"]["sync_confidence"] < 1 and scored["a.mp4"]["sync_backend"] == "stable_syncnet"
    assert np.median(scored["a.mp4"]["sync_curve"]) == pytest.approx(0, abs=1e-4)
    assert not any(scored["b.mp4"]["sync_curve"])  # 15 frames: no window
    (run / "score_sync" / "00000.jsonl").unlink()
    (run / "score_sync" / "journal" / "00000.jsonl").unlink()
    assert score(run, rows, section) == scored


def test_a_foreign_file_for_stable_syncnet_is_one_sentence(run, tmp_path):
    path = tmp_path / "foreign.safetensors"
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="foreign.safetensors has the shapes of no published StableSyncNet"):
        score(run, [], ScoreSync(backend="stable_syncnet", weights=str(path)))


def test_missing_weights_stop_the_step_before_any_clip(run):
    cfg = ScoreSync(backend="syncnet_v2", weights="nowhere/syncnet_v2.model")
    with pytest.raises(ValueError, match="nowhere/syncnet_v2.model is missing.*score_sync.backend: syncnet_v2"):
        score(run, [clip_row(run, "a.mp4", 0, 50, 0, seed=1)], cfg)
    assert not (run / "score_sync").exists()
