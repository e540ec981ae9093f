"""The real graph on a small scale: run to its end, run again, with a changed threshold, and killed on the way."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from latentsync import config
from latentsync.ledger.columns import KINDS, REASONS, Pair, Video
from latentsync.ledger.files import read_ledger, read_ledgers
from tests.fixtures import faults

ROOT = Path(__file__).parent.parent.parent
TINY = ROOT / "tests/workflow/tiny.yaml"
RUN = Path("results/tiny")


def command(folder: Path, *args: str, configfile: Path = TINY) -> list[str]:
    parts = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--directory", folder]
    parts += ["--configfile", configfile, "--profile", ROOT / "profiles/default", "--cores", "2", *args]
    return [str(part) for part in parts]


def snakemake(folder: Path, *args: str, **options) -> str:
    """The output of the call, which must succeed."""
    done = subprocess.run(command(folder, *args, **options), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


def planned(text: str) -> dict[str, int]:
    if "Job stats:" not in text:
        return {}
    return {
        name: int(count)
        for name, count in re.findall(r"^(\w+) +(\d+)$", text[text.rindex("Job stats:") :], re.MULTILINE)
    }


def declared(folder: Path) -> dict[str, bytes]:
    """Contents of all files that rules declare, and of the crops, by path."""
    run = folder / RUN
    kept = [path for step in config.VERSIONS for pattern in PATTERNS for path in (run / step).glob(pattern)]
    return {str(path.relative_to(run)): path.read_bytes() for path in kept if path.name != "costs.html"}


PATTERNS = ["*.jsonl", "*.json", "*.csv", "*.safetensors", "*.html", "media/*"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A folder in which the tiny graph has run to its end."""
    folder = tmp_path_factory.mktemp("whole")
    snakemake(folder)
    return folder


def test_the_whole_graph_writes_videos_metrics_and_the_page(whole):
    run = whole / RUN
    summary = json.loads((run / "report/summary.json").read_text())
    names = "syncnet_accuracy_5f syncnet_accuracy_shuffled offset_within_1 faults_right_reason good_rejected"
    for name in [*names.split(), "mouth_r", "mouth_r_shuffled", "psnr_outside_db"]:
        assert name in summary, name
    assert summary["stand_ins"] and (run / "report/index.html").stat().st_size > 20_000
    assert json.loads((run / "describe_clips/card.json").read_text())["counts"]["clips"] > 8
    generated = read_ledgers((run / "generate").glob("*.jsonl"))
    assert generated and all(
        (run / row["video_file"]).stat().st_size > 1000 for row in generated if row["status"] == "ok"
    )
    assert json.loads((run / "run.json").read_text())["sessions"][-1]["outcome"] == "finished"


def test_every_column_of_every_ledger_is_described_with_its_type(whole):
    curated = (
        "sources probe resample detect_scenes segment align_faces score_sync score_quality extract_features".split()
    )
    files = [path for step in curated for path in (whole / RUN / step).glob("*.jsonl")]
    files += [whole / RUN / f"select_clips/{split}.jsonl" for split in ("train", "val", "test")]
    kinds = {path: None for path in files}
    kinds |= dict.fromkeys((whole / RUN / "select_clips").glob("pairs*.jsonl"), Pair)
    kinds |= dict.fromkeys((whole / RUN / "generate").glob("*.jsonl"), Video)
    wrong = set()
    for path, kind in kinds.items():
        for row in read_ledger(path):
            wrong |= {f"{path.parent.name}: {fault}" for fault in faults(row, kind or KINDS[row["kind"]])}
    assert len(kinds) > 20 and not wrong


def test_faults_are_found_and_good_clips_are_kept_with_another_seed_than_the_demo(whole):
    """The thresholds were tuned on the talkers of the demo; these have other faces, words, offsets and faults."""
    summary = json.loads((whole / RUN / "report/summary.json").read_text())
    assert (summary["faults_right_reason"], summary["n"]["faults_right_reason"]) == (1, 11), summary["figures"]
    assert summary["good_rejected"] == 0 and summary["n"]["good_rejected"] >= 9, summary["figures"]
    assert summary["offset_within_1"] >= 0.95 and summary["n"]["offset_within_1"] >= 10


def test_every_source_keeps_a_row_with_a_reason_to_the_end(whole):
    run = whole / RUN
    sources = {row["id"] for row in read_ledgers((run / "sources").glob("*.jsonl"))}
    scored = read_ledgers((run / "score_sync").glob("[0-9]*.jsonl"))
    assert {row["source_id"] for row in scored} == sources
    assert all(row["reason"] in REASONS and row["detail"] for row in scored if row["status"] != "ok")


def test_declared_outputs_contain_no_path_and_no_host_name(whole):
    for name, content in declared(whole).items():
        if not name.endswith((".mp4", ".flac", ".npy", ".npz", ".safetensors")):
            assert str(whole).encode() not in content and f'"{os.uname().nodename}"'.encode() not in content, name


def test_the_estimate_predicts_what_the_run_finds(whole):
    """From 8 of 18 talkers, in a run of its own that has curated nothing: length of all within 25 %, length of selected
    clips and CPU time within 50 %. The finished run is its own sample, and nothing of it is left to do.
    """
    run = whole / RUN
    videos = {path: path.read_bytes() for path in (run / "make_talkers/videos").rglob("*.mp4")}
    shutil.copytree(run / "make_talkers/videos", whole / "talkers", dirs_exist_ok=True)  # results may not be a source
    printed = snakemake(whole, "estimate", "--config", "input_dir=talkers", "run=foretold")
    assert "footage" in printed and "CPU time" in printed and "results/foretold/estimate/estimate.json" in printed
    assert {path: path.read_bytes() for path in (run / "make_talkers/videos").rglob("*.mp4")} == videos
    assert "still to do" in snakemake(whole, "estimate")
    known = json.loads((run / "estimate/estimate.json").read_text())
    assert known["done"]["sources"] == known["sources"]["sampled"] == len(videos)
    assert known["left"] == {"cpu_h": 0, "wall_h": 0} and not (run / "estimate/measured").exists()
    basis = {row["step"]: row["basis"] for row in known["training"]}
    assert basis["train_syncnet"] == basis["train_unet_stage1"] == "measured in the run tiny"
    found = json.loads((whole / "results/foretold/estimate/estimate.json").read_text())
    assert (found["sources"]["sampled"], found["sources"]["all"]) == (8, len(videos))
    resampled = [row for row in read_ledgers((run / "resample").glob("0*.jsonl")) if row["status"] == "ok"]
    footage_h = sum(row["n_ticks"] for row in resampled) / 25 / 3600
    assert found["predicted"]["footage_h"]["value"] == pytest.approx(footage_h, rel=0.25)
    card = json.loads((run / "describe_clips/card.json").read_text())
    assert found["predicted"]["selected_h"]["value"] == pytest.approx(card["counts"]["hours"], rel=0.5)
    [align] = [row for row in found["steps"] if row["step"] == "align_faces"]
    took = [json.loads(line) for path in (run / "costs/align_faces").glob("*.jsonl") for line in open(path)]
    assert align["cpu_h"]["value"] * 3600 == pytest.approx(sum(row["cpu_s"] for row in took), rel=0.5)


def test_a_second_call_has_nothing_to_do(whole):
    assert "Nothing to be done" in snakemake(whole)


def test_a_changed_threshold_reruns_only_selection_and_the_steps_after_it(whole):
    plan = planned(snakemake(whole, "-n", "--config", "select_clips={min_face_px: 71}"))
    assert plan["select_clips"] == 1 and "report" in plan
    before = [
        "make_talkers",
        "probe",
        "resample",
        "detect_scenes",
        "segment",
        "align_faces",
        "score_sync",
        "score_quality",
    ]
    assert not set(before) & set(plan)


def kill_when(folder: Path, target: str, ready, group: bool) -> None:
    """Start the graph, wait until `ready()`, then kill -9 Snakemake alone or with its whole process group."""
    job = subprocess.Popen(
        command(folder, target), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 600
    while not ready():
        assert job.poll() is None, f"{target} ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(job.pid, signal.SIGKILL) if group else job.kill()
    job.wait()


@pytest.mark.slow
def test_kill_9_while_training_then_the_same_command_gives_the_same_results(whole, tmp_path):
    """Snakemake alone, whose jobs outlive it, then all processes at once; test_kills.py does that to a curation."""
    run = tmp_path / RUN
    for step in BEFORE_STAGE_1:
        if (whole / RUN / step).exists():
            shutil.copytree(whole / RUN / step, run / step)  # times included, so nothing before is made again
    states = run / "train_unet_stage1/state"
    for group in (False, True):
        known = set(states.glob("*/step-*.pt"))
        kill_when(tmp_path, "train", lambda known=known: bool(set(states.glob("*/step-*.pt")) - known), group)
        assert not (run / "train_unet_stage1/unet.safetensors").exists()
    made = snakemake(tmp_path, "train", "describe_clips")
    assert not set(planned(made)) & {"align_faces", "train_syncnet"} and "train_unet_stage1" in planned(made)
    assert "Resuming at" in (run / "logs/train_unet_stage1.log").read_text()
    undisturbed, resumed = declared(whole), declared(tmp_path)
    compared = {name for name in undisturbed if name.split("/")[0] in (*BEFORE_STAGE_1, *STAGES)}
    assert compared <= set(resumed)
    assert [name for name in sorted(compared) if undisturbed[name] != resumed[name]] == []
    assert not [path for path in run.rglob("*.part*")], "a temporary file was left behind"


STAGES = ["train_unet_stage1", "train_unet_stage2"]
BEFORE_STAGE_1 = ["sources", *list(config.VERSIONS)[: list(config.VERSIONS).index(STAGES[0])]]
