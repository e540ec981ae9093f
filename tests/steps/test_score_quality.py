"""The step score_quality on small ledgers: blur shows in the source's pixels, the right frames are read."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from latentsync.config import ScoreQuality
from latentsync.faces.alignment import crop, similarity, stretch
from latentsync.faces.stills import face_region
from latentsync.ledger.files import read_ledger, write_ledger
from latentsync.ledger.rows import Row, rejected, source_id
from latentsync.media.write import VideoWriter, write_flac
from latentsync.steps import score_quality
from latentsync.synthetic.voice import speak
from tests.fixtures import clip


@pytest.fixture(scope="module")
def image():
    """A photograph of a face in a frame of 256 x 224."""
    from skimage import data

    return np.ascontiguousarray(data.astronaut()[10:234, 90:346])


@pytest.fixture(scope="module")
def face(image, detector):
    detector.reset()
    [face] = detector.detect(image)
    return face


def cut_out(rgb: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The aligned face uint8 (64, 64, 3) of a image."""
    return np.rint(stretch(crop(rgb, matrix, 64), 64).clip(0, 255)).astype(np.uint8)


def clip_row(
    run: Path, name: str, face, found: np.ndarray, ticks: np.ndarray, start: int, image=None, opening=None
) -> Row:
    """A clip of one face that never moves, its crop cut from `image`; its mouth says `opening`."""
    source = source_id(name)
    geometry_file, table = f"align_faces/media/{source}.npz", f"resample/media/{source}.npy"
    for file in (geometry_file, table):
        (run / file).parent.mkdir(parents=True, exist_ok=True)
    n, matrix = len(found), similarity(face.anchors, 64)
    opening = np.abs(np.sin(np.arange(n))) if opening is None else opening
    np.savez(
        run / geometry_file,
        found=found,
        landmarks=np.repeat(face.landmarks[None], n, axis=0),
        matrices=np.repeat(matrix[None], n, axis=0),
        mouth_opening=np.where(found, opening, np.nan),
    )
    np.save(run / table, ticks.astype(np.int32))
    cut = np.zeros((64, 64, 3), np.uint8) if image is None else cut_out(image, matrix)
    crop_file = f"align_faces/media/{source}.mp4"
    with VideoWriter(run / crop_file, 25, 64, 64, crf=5) as writer:
        for _ in range(n):
            writer.write(cut)
    stills_file = f"align_faces/media/{source}.stills.npz"
    still = np.zeros((96, 96, 3), np.uint8) if image is None else face_region(image, face.landmarks)
    np.savez(run / stills_file, **{"000": still})
    columns = {
        "faces": "mediapipe",
        "resolution": 64,
        "width": 256,
        "height": 224,
        "stills_file": stills_file,
        "geometry_file": geometry_file,
        "ticks_file": table,
        "crop_file": crop_file,
        "audio_file": None,
    }
    return clip(name, start, start + n, **columns)


def score(run: Path, rows: list[Row], sources: Path) -> dict[str, Row]:
    write_ledger(run / "align_faces" / "00000.jsonl", rows)
    out = run / "score_quality" / "00000.jsonl"
    inputs = {"align_faces": [run / "align_faces" / "00000.jsonl"]}
    score_quality.run(ScoreQuality(backend="piqe"), inputs, {"ledger": out}, sources)
    return {row["path"]: row for row in read_ledger(out)}


def test_a_blurred_video_scores_far_below_a_sharp_one(tmp_path, image, face):
    run, sources = tmp_path / "results" / "test", tmp_path / "in"
    rows = []
    for name, sigma in (("sharp.mp4", 0), ("blurred.mp4", 4)):
        frame = cv2.GaussianBlur(image, (0, 0), sigma) if sigma else image
        with VideoWriter(sources / name, 25, 256, 224, crf=18) as writer:
            for _ in range(12):
                writer.write(frame)
        rows.append(clip_row(run, name, face, np.ones(10, bool), np.arange(12), 2, frame))
    rows.append(rejected(rows[0] | {"id": "x", "path": "wall.mp4", "kind": "segment"}, "no_face"))
    scored = score(run, rows, sources)
    assert scored["sharp.mp4"]["quality"] > scored["blurred.mp4"]["quality"] + 25
    assert scored["sharp.mp4"]["sharpness"] > 2 * scored["blurred.mp4"]["sharpness"]
    assert scored["sharp.mp4"]["quality_backend"] == "piqe"
    assert scored["wall.mp4"] == rows[2]
    assert "quality" not in scored["wall.mp4"]


def test_chosen_ticks():
    assert list(score_quality.chosen_ticks(np.ones(11, bool), 3)) == [0, 5, 10]
    assert list(score_quality.chosen_ticks(np.array([0, 1, 1, 0], bool), 3)) == [1, 2]
    assert list(score_quality.chosen_ticks(np.ones(5, bool), 1)) == [0]


def test_every_measure_is_a_column_with_a_sensible_value(tmp_path, image, face):
    run, sources = tmp_path / "results" / "test", tmp_path / "in"
    dark = np.uint8(image * 0.2)
    voice = speak(np.random.default_rng(56), 4.0, 130, 0.85).audio[:32_000]
    rows = []
    for name, frame in (("talking.mp4", image), ("dark.mp4", dark), ("still.mp4", image)):
        with VideoWriter(sources / name, 25, 256, 224, crf=18) as writer:
            for _ in range(50):
                writer.write(frame)
        opening = np.full(50, 0.05) if name == "still.mp4" else None
        rows.append(clip_row(run, name, face, np.ones(50, bool), np.arange(50), 0, frame, opening))
    rows[0]["audio_file"], rows[2]["audio_file"] = "voice.flac", "silence.flac"
    write_flac(run / "voice.flac", voice)
    write_flac(run / "silence.flac", np.zeros(32_000, np.float32))
    scored = score(run, rows, sources)
    talking, darker, still = (scored[row["path"]] for row in rows)
    assert talking["aligned_share"] == 1 and 0.4 < talking["exposure"] < 0.75 and talking["clipped_share"] < 0.05
    assert darker["exposure"] == pytest.approx(0.2 * talking["exposure"], abs=0.02)
    assert max(abs(talking[name]) for name in ("yaw_deg", "pitch_deg", "roll_deg")) < 35
    assert talking["speech_share"] > 0.5 and still["speech_share"] == 0 and darker["speech_share"] is None
    assert talking["picture_hash"] == still["picture_hash"] and len(talking["picture_hash"]) == 16
    assert talking["motion_hash"] == darker["motion_hash"] and still["motion_hash"] is None


def test_a_second_detector_distinguishes_aligned_crops(image, face, detector):
    """Moved by a third of its width, twice as near, lying on its side, or no face: none of these is an aligned crop."""

    def looks_aligned(anchors: np.ndarray, rgb: np.ndarray = image) -> bool:
        return score_quality.is_aligned(cut_out(rgb, similarity(anchors, 64)), detector)

    anchors = face.anchors.astype(np.float64)
    middle, width = anchors.mean(0), face.width_px
    assert looks_aligned(anchors) and looks_aligned(anchors + 0.04 * width)
    assert not looks_aligned(anchors + np.array([width / 3, 0]))
    assert not looks_aligned(anchors + np.array([0, width / 3]))
    assert not looks_aligned(middle + (anchors - middle) / 2)
    assert not looks_aligned(middle + (anchors - middle) @ np.array([[0.0, 1], [-1, 0]]))
    assert not looks_aligned(anchors, np.full_like(image, 90))


def test_missing_weights_stop_the_step_before_any_clip(tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTSYNC_WEIGHTS", str(tmp_path))
    run = tmp_path / "results" / "test"
    write_ledger(run / "align_faces" / "00000.jsonl", [])
    inputs = {"align_faces": [run / "align_faces" / "00000.jsonl"]}
    with pytest.raises(ValueError, match="koniq_pretrained.pkl is missing"):
        score_quality.run(ScoreQuality(), inputs, {"ledger": run / "score_quality" / "00000.jsonl"}, tmp_path)
    assert not (run / "score_quality").exists()
