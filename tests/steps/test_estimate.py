"""What is foretold from a few sources: exact where it can be, one sentence where nothing can, and no file changed.

The whole chain on talkers, held against a finished run: tests/workflow/test_end_to_end.py.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from latentsync import config
from latentsync.ledger import sources
from latentsync.ledger.files import read_ledger, write_json, write_ledger
from latentsync.ledger.rows import rejected
from latentsync.report import forecast
from latentsync.steps import estimate
from tests import fixtures
from tests.videos import clicks, write_video

EMBEDDED = {
    "align_faces": {"backend": "mediapipe", "resolution": 64},
    "score_sync": {"backend": "envelope"},
    "score_quality": {"backend": "piqe", "frames": 1},
    "segment": {"length_s": 1.0},
}


def call(root: Path, videos: Path, **section) -> dict:
    """List the videos, run the step, read what it wrote."""
    sources.write_sources(videos, root / "sources", 2)
    write_json(root / "config.json", config.Config(**EMBEDDED).model_dump(mode="json"))
    inputs = {"sources": sorted((root / "sources").glob("*.jsonl")), "config": [root / "config.json"]}
    output = root / "estimate/estimate.json"
    estimate.run(config.Estimate(**section), inputs, {"estimate": output}, videos)
    return json.loads(output.read_text())


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_when_nothing_drawn_can_be_read_one_sentence_says_so(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(4):
        (tmp_path / "in" / f"{number}.mp4").write_text("a letter" * number)
    with pytest.raises(
        ValueError, match=r"None of the 3 videos drawn can be read \(.\.mp4: .*estimate\.sources"
    ) as said:
        call(tmp_path / "run", tmp_path / "in", sources=3)
    assert "\n" not in str(said.value)
    assert not (tmp_path / "run/estimate/estimate.json").exists()


def test_a_step_that_fails_is_named_with_its_last_words(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    write_video(tmp_path / "in/a.mp4", 10)
    monkeypatch.setattr(estimate, "CHAIN", {"probe": "nothing"})
    with pytest.raises(ValueError, match="probe ended with status 1 on the sample: .*sources"):
        call(tmp_path / "run", tmp_path / "in")


@pytest.fixture(scope="module")
def faceless(tmp_path_factory):
    """Root, input folder and prediction of six videos without a face and one broken, all of them drawn."""
    root = tmp_path_factory.mktemp("faceless")
    (root / "in").mkdir()
    for number in range(6):
        length = 30 + 7 * number
        write_video(root / "in" / f"{number} 'é.mp4", length, audio=clicks(length / 25, [0.2], 44_100))
    (root / "in/broken.mp4").write_bytes((root / "in/0 'é.mp4").read_bytes()[:900])
    before = hashes(root / "in")
    found = call(root / "run", root / "in", sources=8)
    assert hashes(root / "in") == before
    return root, found


def test_where_everything_is_drawn_lengths_are_exact(faceless):
    _, found = faceless
    true_h = sum(30 + 7 * number for number in range(6)) / 25 / 3600
    assert found["sources"]["all"] == found["sources"]["sampled"] == 7 and found["sources"]["sampled_unreadable"] == 1
    assert found["predicted"]["footage_h"] == pytest.approx(dict.fromkeys(("value", "low", "high"), true_h), rel=1e-4)
    assert found["predicted"]["clips"]["value"] == found["predicted"]["selected_h"]["value"] == 0
    steps = {row["step"]: row for row in found["steps"]}
    assert list(steps) == list(estimate.CHAIN)
    assert all(
        row["cpu_h"]["value"] > 0 and row["peak_mb"] > 20 and row["gpu_reason"] is None for row in steps.values()
    )
    assert found["total"]["gpu_h"] == 0


def test_disk_is_what_the_sample_took(faceless):
    root, found = faceless
    folder = root / "run/estimate"
    media = sum(path.stat().st_size for step in estimate.CHAIN for path in (folder / step).glob("media/*"))
    lines = sum(2 * (folder / step / "00000.jsonl").stat().st_size for step in estimate.CHAIN)
    assert found["predicted"]["disk_gb"]["value"] * 1e9 == pytest.approx(media + lines, rel=0.01)


def test_a_second_call_works_on_nothing_again_and_remembers_what_it_cost(faceless):
    root, found = faceless
    notes = {path: path.read_bytes() for path in (root / "run/estimate/costs").rglob("*.jsonl")}
    again = call(root / "run", root / "in", sources=8)
    assert {path: path.read_bytes() for path in (root / "run/estimate/costs").rglob("*.jsonl")} == notes
    assert again["predicted"] == found["predicted"]
    for first, second in zip(found["steps"], again["steps"], strict=True):
        assert second["cpu_h"] == first["cpu_h"] and second["peak_mb"] >= first["peak_mb"]


def test_of_a_long_source_a_part_goes_on_and_counts_for_all(tmp_path):
    """100 segments of one source: 24 are aligned, and what they yield and cost is taken a hundred twenty-fourths."""
    source = fixtures.source("long.mp4", source_id="s" * 16, size=1000, n_ticks=2500)
    pieces = [fixtures.segment("long.mp4", 25 * n, 25 * n + 25, source_id="s" * 16) for n in range(100)]
    refused = rejected(pieces[0] | {"id": "z", "source_id": "z" * 16}, "no_face")
    kept = estimate.thin([*pieces, refused])
    assert len(kept) == estimate.SEGMENTS + 1 and refused in kept
    assert {row["id"] for row in kept} == {row["id"] for row in estimate.thin([refused, *reversed(pieces)])}

    kept.remove(refused)
    scores = {"sync_confidence": 9.0, "sync_offset_frames": 0, "quality": 60.0, "face_px": 300.0}
    clips = [row | scores | {"kind": "clip"} for row in kept]
    made = {"segment": pieces, "align_faces": clips, "score_sync": clips, "score_quality": clips}
    made |= dict.fromkeys(("sources", "probe", "resample", "detect_scenes"), [source])
    for step, rows in made.items():
        write_ledger(tmp_path / step / estimate.SHARD, rows)
    write_ledger(tmp_path / "sampled_segments" / estimate.SHARD, kept)
    for step in estimate.CHAIN:
        given = estimate._given(step, tmp_path)
        notes = [{"id": row["id"], "cpu_s": 2.0, "wall_s": 3.0} for row in read_ledger(given)]
        write_ledger(tmp_path / "costs" / step / estimate.SHARD, [{"id": "old", "cpu_s": 9, "wall_s": 9}, *notes])
    [row] = estimate.measured([["s" * 16]], tmp_path, config.Config(select_clips={"min_s": 1.0}))
    assert row["footage_h"] == pytest.approx(100 / 3600) and row["readable"] == 1
    assert row["clips"] == row["selected_clips"] == pytest.approx(100)
    assert row["selected_h"] == pytest.approx(100 / 3600)
    assert row["steps"]["align_faces"]["cpu_s"] == pytest.approx(200)
    assert row["steps"]["detect_scenes"]["cpu_s"] == pytest.approx(2)


def prediction(gpus: int, shards: int = 4) -> dict:
    """Two strata, two drawn of each; one step on the CPU, one that wants a GPU."""
    spent = {
        "probe": {"cpu_s": 36.0, "wall_s": 72.0, "bytes": 5e6},
        "align_faces": {"cpu_s": 720.0, "wall_s": 360.0, "bytes": 1e9},
    }
    row = {"readable": 1, "footage_h": 0.5, "clips": 10, "clip_h": 0.4, "selected_clips": 5, "selected_h": 0.2}
    drawn = [row | {"stratum": n // 2, "size": 100, "steps": spent} for n in range(4)]
    start = {"startup_cpu_s": 9.0, "startup_wall_s": 18.0}
    steps = [
        {"step": "probe", "gpu": False, "peak_mb": 80.4} | start,
        {"step": "align_faces", "gpu": True, "peak_mb": 900} | start,
    ]
    population = [{"sources": 10, "bytes": 1000}, {"sources": 5, "bytes": 3000}]
    return forecast.predict(drawn, population, steps, shards=shards, cores=8, gpus=gpus)


def test_totals_follow_the_bytes_and_every_job_starts_once():
    found = prediction(gpus=0)
    assert found["predicted"]["footage_h"] == {"value": 20.0, "low": 20.0, "high": 20.0}  # 4000 bytes, 200 an hour
    assert found["predicted"]["selected_clips"]["value"] == 200
    probe, align = found["steps"]
    assert probe["cpu_h"]["value"] == pytest.approx(40 * 36 / 3600 + 4 * 9 / 3600)
    assert probe["wall_h"]["value"] == pytest.approx((40 * 72 + 4 * 18) / 3600 / 4)  # 8 cores, but 4 shards
    assert align["disk_gb"]["value"] == pytest.approx(40)


def test_a_gpu_that_is_not_there_is_not_guessed():
    without, having = prediction(gpus=0), prediction(gpus=2)
    assert without["steps"][1]["gpu_h"] is None and without["total"]["gpu_h"] is None
    assert without["steps"][1]["gpu_reason"] == "not measured: no GPU here"
    assert "not measured" in forecast.table(without) and "no GPU here" in forecast.table(without)
    align = having["steps"][1]
    assert align["gpu_h"]["value"] == pytest.approx((40 * 360 + 4 * 18) / 3600) == having["total"]["gpu_h"]
    assert align["wall_h"]["value"] == pytest.approx(align["gpu_h"]["value"] / 2, rel=1e-4)
    assert "not measured" not in forecast.table(having)


@pytest.mark.parametrize(
    ("hours", "words"),
    [(412.3, "412 h"), (1.5, "1.5 h"), (1.49, "89 min"), (0.01, "36 s"), (0, "0 s"), (5000, "5,000 h")],
)
def test_times_are_written_in_a_fitting_unit(hours, words):
    assert forecast._time(hours) == words


def test_the_table_fits_a_terminal():
    lines = forecast.table(prediction(gpus=0)).splitlines()
    assert max(map(len, lines)) <= 120 and len(lines) < 40
    assert np.unique([line.index("GPU time") for line in lines if line.startswith("step")]).size == 1
