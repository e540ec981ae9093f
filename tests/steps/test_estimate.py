"""What is foretold from a few sources: exact where it can be, one sentence where nothing can, and no file changed.

The whole chain on talkers, held against a finished run: tests/workflow/test_end_to_end.py.
"""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from latentsync import config
from latentsync.curation import curated, selection
from latentsync.ledger import sources
from latentsync.ledger.files import read_ledger, write_json, write_ledger, write_text
from latentsync.ledger.rows import rejected
from latentsync.report import forecast, forecast_training
from latentsync.steps import estimate
from tests import fixtures
from tests.videos import clicks, write_video

EMBEDDED = {
    "align_faces": {"backend": "mediapipe", "resolution": 64},
    "score_sync": {"backend": "envelope"},
    "score_quality": {"backend": "piqe", "frames": 1},
    "segment": {"length_s": 1.0},
}


def call(root: Path, videos: Path, shards: int = 2, **section) -> dict:
    """List the videos, run the step, read what it wrote."""
    sources.write_sources(videos, root / "sources", shards)
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


def test_what_the_run_has_curated_is_the_sample_and_done(faceless):
    """A run that is finished is the sample: nothing is measured, nothing is left. A new video is left."""
    root, first = faceless
    shutil.copytree(root / "run/estimate", root / "curated", ignore=shutil.ignore_patterns("sampled_segments"))
    shutil.copytree(root / "in", root / "more")
    found = call(root / "curated", root / "more", shards=1, sources=2)
    assert found["sources"]["sampled"] == found["sources"]["all"] == found["done"]["sources"] == 7
    assert found["left"] == {"cpu_h": 0, "wall_h": 0} and not (root / "curated/estimate/measured").exists()
    assert found["predicted"] == first["predicted"] | {"disk_gb": found["predicted"]["disk_gb"]}
    assert found["predicted"]["disk_gb"]["value"] == pytest.approx(first["predicted"]["disk_gb"]["value"], rel=0.01)
    write_video(root / "more/new.mp4", 40, audio=clicks(1.6, [0.2], 44_100))
    found = call(root / "curated", root / "more", shards=1, sources=8)
    assert (found["sources"]["all"], found["sources"]["sampled"], found["done"]["sources"]) == (8, 8, 7)
    assert [row["path"] for row in read_ledger(root / "curated/estimate/sources/00000.jsonl")] == ["new.mp4"]
    assert 0 < found["left"]["cpu_h"] < found["total"]["cpu_h"]
    assert "still to do" in forecast.table(found) and "7 of all videos are curated already" in forecast.table(found)


def test_a_run_of_another_configuration_is_not_done(faceless):
    root, _ = faceless
    now = config.Config(**EMBEDDED)
    folder = root / "run/estimate"
    assert len(curated.finished(folder, "00000.jsonl", estimate.CHAIN, now)) == 7
    assert curated.finished(folder, "00001.jsonl", estimate.CHAIN, now) == set()
    changed = config.Config(**EMBEDDED | {"segment": {"length_s": 2.0}})
    broken = {row["id"] for row in read_ledger(folder / "probe/00000.jsonl") if row["status"] == "error"}
    assert curated.finished(folder, "00000.jsonl", estimate.CHAIN, changed) == broken  # it never came that far


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
    off = {limit.key: None for limit in selection.LIMITS if limit.column not in scores}  # what these rows do not have
    [row] = estimate.measured({"s" * 16: 0}, tmp_path, config.Config(select_clips=off | {"min_s": 1.0}))
    assert row["footage_h"] == pytest.approx(100 / 3600) and row["readable"] == 1
    assert row["clips"] == row["selected_clips"] == pytest.approx(100)
    assert row["selected_h"] == pytest.approx(100 / 3600)
    assert row["steps"]["align_faces"]["cpu_s"] == pytest.approx(200)
    assert row["steps"]["detect_scenes"]["cpu_s"] == pytest.approx(2)


def prediction(gpus: int, shards: int = 4, done: int = 0) -> dict:
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
    population = [{"sources": 10, "bytes": 1000, "done": 0, "done_bytes": 0}]
    population += [{"sources": 5, "bytes": 3000, "done": done, "done_bytes": 600 * done}]
    return forecast.predict(drawn, population, steps, shards=shards, cores=8, gpus=gpus)


def test_totals_follow_the_bytes_and_every_job_starts_once():
    found = prediction(gpus=0)
    assert found["predicted"]["footage_h"] == {"value": 20.0, "low": 20.0, "high": 20.0}  # 4000 bytes, 200 an hour
    assert found["predicted"]["selected_clips"]["value"] == 200
    probe, align = found["steps"]
    assert probe["cpu_h"]["value"] == pytest.approx(40 * 36 / 3600 + 4 * 9 / 3600)
    assert probe["wall_h"]["value"] == pytest.approx((40 * 72 + 4 * 18) / 3600 / 4)  # 8 cores, but 4 shards
    assert align["disk_gb"]["value"] == pytest.approx(40)


def test_what_is_done_is_not_left():
    left = prediction(gpus=0, done=2)["left"]  # 1000 bytes, and 1800 of 3000, at 7.56 s of CPU a byte
    assert left["cpu_h"] == pytest.approx((28 * (36 + 720) + 2 * 4 * 9) / 3600, rel=1e-4)
    assert left["wall_h"] == pytest.approx((28 * (72 + 360) + 2 * 4 * 18) / 3600 / 4, rel=1e-4)
    assert prediction(gpus=0)["done"]["sources"] == 0 and "still to do" not in forecast.table(prediction(gpus=0))


SMALL = {
    "align_faces": {"resolution": 64},
    "extract_features": {"audio_encoder": "embedded", "width": 16, "layers": 1, "vae": "embedded"},
    "train_syncnet": {"steps": 1000, "batch_size": 24, "save_every": 300},
    "train_unet_stage1": {"steps": 900, "unet": {"block_out_channels": (16, 32), "norm_groups": 8}},
}


def test_training_is_timed_by_a_run_with_the_same_section_alone(tmp_path):
    """Or by a stated rate for the published networks; else the time is unknown, and said to be."""
    cfg = config.Config(**SMALL)
    sizes = {"train_syncnet": (1_000_000, 1_000_000), "train_unet_stage1": (2_000_000, 500_000)}
    run, other = tmp_path / "mine", tmp_path / "other"
    (run / "logs").mkdir(parents=True)

    def rows() -> dict:
        return {row["step"]: row for row in forecast_training.predict(run, cfg, 2.0, sizes)}

    def other_trained(**changes) -> None:
        section = cfg.train_syncnet.model_dump(mode="json") | {"steps": 50, "seed": 3} | changes
        write_json(other / "train_syncnet/state/ab/fits.json", section)
        write_json(other / "config.json", cfg.model_dump(mode="json"))
        write_text(other / "logs/train_syncnet.log", "step 10, 9.00 steps/s\nstep 20, 0.50 steps/s\nheld out\n")

    unet = rows()["train_unet_stage1"]
    demo = config.Config(train_unet_stage1={"batch_size": 2, "unet": {"block_out_channels": (32, 64, 96, 96)}})
    assert forecast_training.stated("train_unet_stage1", demo) == (0.16, "stated: the demo on two CPU cores")
    assert unet["hours"] is None and unet["basis"] == "unknown until it runs; 15.0 min at 1 s a step".replace(".0", "")
    other_trained(batch_size=48)
    stated = rows()["train_syncnet"]
    assert stated["hours"] == pytest.approx(1000 * 24 * 0.0433 / 16 / 3600, rel=1e-4) and "H100" in stated["basis"]
    other_trained()
    timed = rows()["train_syncnet"]
    assert timed["hours"] == pytest.approx(1000 / 0.5 / 3600, rel=1e-4)
    assert timed["basis"] == "measured in the run other" and timed["items"] == 24
    # weights, and two states of weights and two moments of what is trained, float32
    assert timed["disk_gb"] == pytest.approx(4e-9 * (1e6 + 2 * 3e6)) and unet["disk_gb"] == pytest.approx(4e-9 * 5e6)
    lines = forecast_training.table(list(rows().values())).splitlines()
    assert max(map(len, lines)) <= 120 and "and what is unknown" in lines[-1]


def test_features_are_those_of_the_faces_that_networks_see():
    """An hour: mel, whisper and moments of two kinds; of crops of 256 px that are shrunk to 64 a sixteenth of them."""
    shrunk = {"align_faces": {"resolution": 256}, "train_vae": {"resolution": 64}}
    shrunk |= {"extract_features": SMALL["extract_features"] | {"resolution": 64}}
    small, large = config.Config(**SMALL), config.Config(**SMALL | {"align_faces": {"resolution": 256}})
    audio = (4 * 80 * 80 + 2 * 50 * 16 * 2) * 3600e-9
    moments = [forecast_training.features_gb(cfg, 1.0) - audio for cfg in (small, config.Config(**shrunk), large)]
    assert moments[0] == pytest.approx(25 * 2 * 2 * 2 * 4 * 64 * 3600e-9)
    assert moments == pytest.approx([moments[0], moments[0], 16 * moments[0]])


def test_sizes_are_those_of_the_networks():
    sizes = forecast_training.sizes(config.Config())
    assert sizes["train_unet_stage2"][0] == pytest.approx(1267e6, rel=0.001) and "train_vae" not in sizes
    whole, trained = sizes["train_unet_stage2"]
    assert sizes["train_unet_stage1"][0] == sizes["train_unet_stage1"][1] < whole > trained > 0


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
    assert forecast.in_hours(hours) == words


def test_the_table_fits_a_terminal():
    lines = forecast.table(prediction(gpus=0)).splitlines()
    assert max(map(len, lines)) <= 120 and len(lines) < 40
    assert np.unique([line.index("GPU time") for line in lines if line.startswith("step")]).size == 1
