"""Parsing writes nothing, a dry run is true all the same, and mistakes on the command line are one sentence."""

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from snakemake.api import SnakemakeApi
from snakemake.settings.types import ConfigSettings, OutputSettings, Quietness, ResourceSettings

from latentsync.command_line import requested
from latentsync.ledger.files import read_ledger, read_ledgers
from latentsync.ledger.rows import shard_of, source_id
from tests.workflow.short import command
from tests.workflow.test_graph import ROOT, jobs

AFTER_PROBE = ["resample", "detect_scenes", "segment", "align_faces", "score_sync", "score_quality"]


def call(folder: Path, *args: str | Path) -> subprocess.CompletedProcess:
    """Snakemake on the videos of `folder`, as a user calls it; `command` names the target that is left out here."""
    parts = [*command(folder, 2)[:-1], *map(str, args)]
    return subprocess.run(parts, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def all_of(folder: Path, calls: list[list[str]]) -> list[subprocess.CompletedProcess]:
    """The finished calls; two at once, since each waits for the disk half of the time."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda args: call(folder, *args), calls))


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Time and content of everything below results/."""
    paths = sorted((folder / "results").rglob("*"))
    return {str(p): (p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else b"") for p in paths}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A folder in which curation has run, as far as Snakemake knows: all outputs exist, but none was worked for."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "in").mkdir()
    for name in ("a.mp4", "b.mp4", "notes.txt", ".hidden"):
        (folder / "in" / name).write_bytes(b"x")
    made = call(folder, "--", "results/short/config.json")
    assert made.returncode == 0, made.stderr
    for line in call(folder, "--summary", "--", "curate").stdout.splitlines()[1:]:
        path = folder / line.split("\t")[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_text("made")
    touched = call(folder, "--touch", "--forceall", "--", "curate")
    assert touched.returncode == 0, touched.stderr
    return folder


READ_ONLY = [["-n"], ["--dag"], ["--rulegraph"], ["--summary"]]


def test_looking_at_the_graph_changes_nothing_and_prints_nothing_of_ours(finished, tmp_path):
    before = contents(finished)
    (tmp_path / "other").mkdir()
    for name in ("z.mp4", "notes.txt"):
        (tmp_path / "other" / name).write_bytes(b"y")
    changed = ["--config", f"input_dir={tmp_path / 'other'}", "select_clips={min_face_px: 60}", "--", "curate"]
    done = dict(zip(("-n", "--dag", "--rulegraph", "--summary"),
                    all_of(finished, [[*args, *changed] for args in READ_ONLY]), strict=True))  # fmt: skip
    assert all(one.returncode == 0 for one in done.values()), [one.stderr for one in done.values()]
    assert all("1 files passed over by their names" in one.stderr for one in done.values())
    assert not any("notes.txt" in one.stdout for one in done.values())
    for graph in ("--dag", "--rulegraph"):
        assert done[graph].stdout.startswith("digraph") and done[graph].stdout.rstrip().endswith("}")
    assert done["--summary"].stdout.startswith("output_file\t")
    assert contents(finished) == before and len(before) > 30


def test_a_dry_run_says_what_would_run(finished):
    """Nothing while nothing changed; the shard of a new video; only selection after another threshold."""
    plain, threshold = all_of(
        finished, [["-n", "--", "curate"], ["-n", "--config", "select_clips={min_face_px: 60}", "--", "curate"]]
    )
    assert "Nothing to be done" in plain.stdout + plain.stderr
    counts = jobs(threshold.stdout)
    assert counts.keys() == {"record_inputs", "select_clips", "describe_clips", "curate", "total"}
    (finished / "in/c.mp4").write_bytes(b"new")
    try:
        counts = jobs(call(finished, "-n", "--", "curate").stdout)
    finally:
        (finished / "in/c.mp4").unlink()
    assert {step: counts[step] for step in ["record_inputs", "probe", *AFTER_PROBE, "select_clips"]} == dict.fromkeys(
        ["record_inputs", "probe", *AFTER_PROBE, "select_clips"], 1
    )


def test_a_lost_output_is_made_again_with_all_that_follows_from_it(finished):
    """Snakemake deletes the outputs of a job that fails; what was made of the old ones must not count as up to date."""
    lost = finished / "results/short/resample/00001.jsonl"
    content, when = lost.read_text(), lost.stat()
    lost.unlink()
    try:
        plan = jobs(call(finished, "-n", "--", "curate").stdout)
    finally:
        lost.write_text(content)
        os.utime(lost, ns=(when.st_atime_ns, when.st_mtime_ns))
    assert dict.fromkeys([*AFTER_PROBE, "select_clips", "describe_clips"], 1).items() <= plan.items()
    assert "probe" not in plan


def test_a_first_dry_run_makes_no_results(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.mp4").write_bytes(b"x")
    plan = call(tmp_path, "-n", "--", "curate")
    assert jobs(plan.stdout)["record_inputs"] == 1 and jobs(plan.stdout)["probe"] == 2, plan.stderr
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_a_changed_folder_is_written_down_when_its_shard_runs_and_cluster_jobs_do_not_look(tmp_path):
    """The second call through cluster-generic, whose jobs parse the Snakefile again, in other processes."""
    (tmp_path / "in").mkdir()
    (tmp_path / "profiles").symlink_to(ROOT / "profiles")
    (tmp_path / "in/a.mp4").write_bytes(b"x")
    targets = ["--", *(f"results/short/probe/0000{number}.jsonl" for number in (0, 1))]
    first = call(tmp_path, *targets)
    assert first.returncode == 0, first.stderr
    shard = shard_of(source_id("b.mp4"), 2)
    lists = tmp_path / "results/short/sources"
    before = {path.stem: path.stat().st_mtime_ns for path in lists.iterdir()}
    for name in ("b.mp4", "notes.txt"):
        (tmp_path / "in" / name).write_bytes(b"x")
    second = call(tmp_path, "--workflow-profile", "profiles/ci", *targets)
    said = second.stdout + second.stderr
    assert second.returncode == 0, said
    assert {path.stem for path in lists.iterdir() if path.stat().st_mtime_ns != before[path.stem]} == {shard}
    rows = {row["path"]: row for row in read_ledger(tmp_path / f"results/short/probe/{shard}.jsonl")}
    assert "sha256" in rows["b.mp4"] and rows["notes.txt"]["reason"] == "not_video"
    assert said.count("passed over by their names") == 1, "a job listed the folder, too"


def test_braces_in_paths_are_no_wildcards(tmp_path):
    folder = tmp_path / "{x} {shard}"
    folder.mkdir()
    (folder / "{y}.mp4").write_bytes(b"x")
    (folder / "consent.csv").write_text("path,scope,until,document\n{y}.mp4,training generation,,\n")
    given = [f"input_dir={folder}", f"consent={folder / 'consent.csv'}"]
    (tmp_path / "in").mkdir()
    ran = call(tmp_path, "--config", *given, "--", *(f"results/short/probe/0000{n}.jsonl" for n in (0, 1)))
    assert ran.returncode == 0, ran.stderr
    rows = {row["path"]: row for row in read_ledgers((tmp_path / "results/short/probe").glob("*.jsonl"))}
    assert "sha256" in rows["{y}.mp4"] and rows["consent.csv"]["reason"] == "not_video"
    planned = call(tmp_path, "-n", "--config", *given, "--", "curate")
    assert planned.returncode == 0, planned.stderr


@pytest.mark.parametrize(
    "args, words",
    [
        (["--config", "run=y", "curate"], "put -- before it: --config run=y -- curate"),
        (["--config", "select_clips.min_face_px=50"], "write --config 'select_clips={min_face_px: 50}'"),
        (["--config", "input_dir=", "--", "curate"], "input_dir is not set, so run short has no videos"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_sentence(tmp_path, args, words):
    refused = call(tmp_path, "-n", *args)
    said = refused.stdout + refused.stderr
    assert refused.returncode == 1 and words in said
    assert "Traceback" not in said and len(said.splitlines()) < 8


def test_null_can_be_given_on_the_command_line(finished):
    """Snakemake reads the scalars of a mapping as text; this is what the file says already, so nothing runs."""
    plan = call(finished, "-n", "--config", "select_clips={min_face_px: null, min_s: ~}", "--", "curate")
    assert "Nothing to be done" in plan.stdout + plan.stderr, plan.stderr


def test_weights_are_asked_for_by_the_steps_that_a_target_needs(tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTSYNC_WEIGHTS", str(tmp_path / "weights"))
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.mp4").write_bytes(b"x")
    (tmp_path / "short.yaml").write_text(yaml.safe_dump({"run": "short", "input_dir": str(tmp_path / "in")}))
    refused = call(tmp_path, "-n", "--", "curate")
    assert "Run `latentsync weights fetch s3fd 2dfan4 syncnet_v2 hyperiqa`, copy" in refused.stdout + refused.stderr
    assert refused.returncode == 1 and not (tmp_path / "results").exists()


CURATION = {"record_inputs", "make_talkers", "probe", *AFTER_PROBE, "select_clips", "describe_clips"}
FEATURES = CURATION - {"describe_clips"} | {"train_vae", "extract_features"}
ALL = FEATURES | {"describe_clips", "train_syncnet", "train_unet_stage1", "train_unet_stage2", "generate", "evaluate"}


@pytest.mark.parametrize(
    "targets, steps",
    [
        ("-n -- curate", CURATION | {"curate"}),
        ("--config run=demo shards=2 --cores 2 -- results/demo/probe/00001.jsonl", {"make_talkers", "probe"}),
        ("-- estimate", {"record_inputs", "make_talkers", "estimate"}),
        ("extract_features curate", FEATURES | CURATION | {"curate"}),
        ("", ALL | {"report", "all"}),
        ("--lint", ALL | {"report", "all"}),
        ("curate --forcerun report", ALL | {"report", "curate"}),
        ("-- results/demo/select_clips/train.jsonl", CURATION - {"describe_clips", "record_inputs"}),
        ("-- nowhere.txt", None),
    ],
)
def test_the_steps_of_a_command_line(demo_rules, targets, steps):
    assert requested(demo_rules, ["/usr/bin/snakemake", *targets.split()]) == steps
    assert requested(demo_rules, ["/usr/bin/pytest", *targets.split()]) is None


@pytest.mark.parametrize("target", ["all", "curate", "export", "train"])
def test_a_target_names_every_file_on_the_way_to_it(demo_rules, target):
    by_name = {rule.name: rule for rule in demo_rules}
    named = {str(path) for path in by_name[target].input}
    needed = requested(demo_rules, ["snakemake", target])
    assert needed is not None
    made = {str(path) for name in needed - {"record_inputs"} for path in by_name[name].output}
    assert len(made) > 12
    assert {path.replace(r"{shard,\d{5}}", "00000") for path in made} <= named


@pytest.fixture(scope="module")
def demo_rules(tmp_path_factory):
    here = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("demo"))
    try:
        with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
            settings = ConfigSettings(configfiles=[ROOT / "config/config.yaml"])
            graph = api.workflow(ResourceSettings(cores=1), settings, snakefile=ROOT / "Snakefile")
            yield list(graph._workflow.rules)
    finally:
        os.chdir(here)
