"""The step score_quality on small ledgers: blur shows in the source's pixels, the right frames are read."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from videos import number_of, write_video

from latentsync import records
from latentsync.config import ScoreQuality
from latentsync.media.write import VideoWriter
from latentsync.steps import score_quality

FACE = (60.0, 30.0, 190.0, 190.0)  # x0, y0, x1, y1 of the landmarks in source pixels


@pytest.fixture(scope="module")
def picture():
    """A photograph of a face in a frame of 256 x 224."""
    from skimage import data

    return np.ascontiguousarray(data.astronaut()[10:234, 90:346])


def clip_row(run: Path, name: str, found: np.ndarray, ticks: np.ndarray, start: int) -> records.Row:
    source = records.source_id(name)
    geometry, table = f"align_faces/media/{source}.npz", f"resample/media/{source}.npy"
    for file in (geometry, table):
        (run / file).parent.mkdir(parents=True, exist_ok=True)
    x0, y0, x1, y1 = FACE
    corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float32)
    np.savez(run / geometry, found=found, landmarks=np.repeat(corners[None], len(found), axis=0))
    np.save(run / table, ticks.astype(np.int32))
    row = {
        "id": records.clip_id(source, start, start + len(found), 0),
        "kind": "clip",
        "source_id": source,
        "path": name,
    }
    row |= {"status": "ok", "reason": None, "detail": "", "start_tick": start, "end_tick": start + len(found)}
    return row | {"resolution": 64, "geometry_file": geometry, "ticks_file": table}


def score(run: Path, rows: list[records.Row], sources: Path) -> dict[str, records.Row]:
    records.write_ledger(run / "align_faces" / "00000.jsonl", rows)
    out = run / "score_quality" / "00000.jsonl"
    inputs = {"align_faces": [run / "align_faces" / "00000.jsonl"]}
    score_quality.run(ScoreQuality(backend="piqe"), inputs, {"ledger": out}, sources)
    return {row["path"]: row for row in records.read_ledger(out)}


def test_a_blurred_video_scores_far_below_a_sharp_one(tmp_path, picture):
    run, sources = tmp_path / "results" / "test", tmp_path / "in"
    rows = []
    for name, sigma in (("sharp.mp4", 0), ("blurred.mp4", 4)):
        frame = cv2.GaussianBlur(picture, (0, 0), sigma) if sigma else picture
        with VideoWriter(sources / name, 25, 256, 224, crf=18) as writer:
            for _ in range(12):
                writer.write(frame)
        rows.append(clip_row(run, name, np.ones(10, bool), np.arange(12), 2))
    rows.append(records.rejected(rows[0] | {"id": "x", "path": "wall.mp4", "kind": "segment"}, "no_face"))
    scored = score(run, rows, sources)
    assert scored["sharp.mp4"]["quality"] > scored["blurred.mp4"]["quality"] + 25
    assert scored["sharp.mp4"]["quality_backend"] == "piqe"
    assert scored["wall.mp4"] == rows[2]
    assert "quality" not in scored["wall.mp4"]


def test_first_middle_and_last_source_frame_are_read(tmp_path, monkeypatch):
    """Ticks are translated to source frames by the table, from the clip's start, and only where the face was found."""
    run = tmp_path / "results" / "test"
    write_video(tmp_path / "in.mp4", 60, 30, size=(320, 240))
    ticks = np.arange(50) * 30 // 25
    found = np.ones(20, bool)
    found[[0, 19]] = False
    seen = []
    monkeypatch.setattr(score_quality, "face_region", lambda rgb, points, limit: seen.append(number_of(rgb)) or rgb)
    monkeypatch.setattr(score_quality, "open_scorer", lambda backend: lambda rgb: 50.0)
    scored = score(run, [clip_row(run, "in.mp4", found, ticks, 10)], tmp_path)
    assert seen == [int(ticks[10 + tick]) for tick in (1, 9, 18)]
    assert scored["in.mp4"]["quality"] == 50


def test_chosen_ticks():
    assert list(score_quality.chosen_ticks(np.ones(11, bool), 3)) == [0, 5, 10]
    assert list(score_quality.chosen_ticks(np.array([0, 1, 1, 0], bool), 3)) == [1, 2]
    assert list(score_quality.chosen_ticks(np.ones(5, bool), 1)) == [0]


def test_the_region_lies_in_the_picture_and_is_large_enough_and_not_too_large():
    picture = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)

    def shape(x0, y0, x1, y1, limit=256):
        return score_quality.face_region(picture, np.array([[x0, y0], [x1, y1]], float), limit).shape[:2]

    assert shape(100, 100, 200, 220) == (144, 120)
    assert shape(100, 100, 120, 125) == (96, 96)
    assert shape(-40, -30, 60, 70) == (120, 120)
    assert shape(0, 0, 400, 300) == (192, 256)
    assert score_quality.face_region(picture[:50, :70], np.array([[10.0, 10], [40, 40]]), 256).shape[:2] == (50, 70)


def test_missing_weights_stop_the_step_before_any_clip(tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTSYNC_WEIGHTS", str(tmp_path))
    run = tmp_path / "results" / "test"
    records.write_ledger(run / "align_faces" / "00000.jsonl", [])
    inputs = {"align_faces": [run / "align_faces" / "00000.jsonl"]}
    with pytest.raises(ValueError, match="koniq_pretrained.pkl is missing"):
        score_quality.run(ScoreQuality(), inputs, {"ledger": run / "score_quality" / "00000.jsonl"}, tmp_path)
    assert not (run / "score_quality").exists()
