"""The graph without running it: format, lint, dry runs of all targets and profiles, errors before any job starts."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from snakemake.api import SnakemakeApi
from snakemake.settings.types import ConfigSettings, OutputSettings, Quietness, ResourceSettings

from latentsync import config, gpu_lease, workflow

ROOT = Path(__file__).parent.parent.parent
STEPS = [step for step in config.VERSIONS if step != "estimate" and not step.startswith("export_")]


def jobs(text: str) -> dict[str, int]:
    """The job table that a dry run prints last."""
    table = text[text.rindex("Job stats:") :]
    return {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)}


def run(*command: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)


def test_lint_and_format():
    lint = run("snakemake", "--lint")
    assert lint.returncode == 0, lint.stdout + lint.stderr
    assert run("snakefmt", "--check", "Snakefile", "workflow").returncode == 0


def test_a_rule_has_the_name_of_its_step_in_all_its_files_and_the_gpus_of_the_table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gpu_lease, "count", lambda: 1)
    demo = ROOT / "config/config.yaml"
    gpus = workflow.gpus(config.validate(yaml.safe_load(demo.read_text())))
    with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
        graph = api.workflow(
            ResourceSettings(cores=1), ConfigSettings(configfiles=[demo]), snakefile=ROOT / "Snakefile"
        )
        rules = {rule.name: rule for rule in graph._workflow.rules if rule.shellcmd}
    recorder = rules.pop("record_inputs")  # copies what the parse found: no step, no ledger of rows
    assert list(recorder.output) == ["results/demo/config.json"] and graph._workflow.is_local(recorder)
    assert rules.keys() == config.VERSIONS.keys()
    for name, rule in rules.items():
        shard = r"/{shard,\d{5}}" if rule.wildcard_names else ""
        assert list(rule.log) == [f"results/demo/logs/{name}{shard}.log"]
        assert rule.benchmark == f"results/demo/benchmarks/{name}{shard}.tsv"
        folders = {Path(path).parts[2] for path in rule.output}
        assert folders - {"sources"} == {name} and ("sources" in folders) == (name == "make_talkers")
        assert rule.params.step({})[0] == name
        gpu = rule.resources.get("gpu")
        assert (gpu and gpu.value or 0) == gpus[name], name


def test_the_demo_runs_every_step_once_per_shard(snakemake):
    plan = snakemake("-n")
    assert plan.returncode == 0, plan.stdout + plan.stderr
    counts = jobs(plan.stdout)
    assert set(STEPS) <= set(counts)
    assert counts["align_faces"] == counts["extract_features"] == 2 and counts["select_clips"] == counts["report"] == 1
    assert not list(Path(plan.args[plan.args.index("--directory") + 1]).glob("results/*/*/*.mp4"))


@pytest.mark.parametrize(
    "target, last",
    [
        ("curate", "describe_clips"),
        ("train", "train_unet_stage2"),
        ("export_clips", "export_clips"),
        ("export", "export_webdataset"),
        ("estimate", "estimate"),
    ],
)
def test_target_rules(snakemake, target, last):
    plan = snakemake("-n", target)
    assert plan.returncode == 0, plan.stderr
    assert last in jobs(plan.stdout) and "report" not in jobs(plan.stdout)


def test_the_estimate_runs_only_if_it_is_requested(snakemake):
    """It needs only the list of sources: no other step is planned for it, and no other target needs it."""
    assert set(jobs(snakemake("-n", "estimate").stdout)) == {"record_inputs", "make_talkers", "estimate", "total"}
    assert "estimate" not in jobs(snakemake("-n").stdout)


def test_a_single_output(snakemake):
    plan = snakemake("-n", "--", "results/demo/probe/00001.jsonl")
    assert jobs(plan.stdout) == {"make_talkers": 1, "probe": 1, "total": 2}


def test_the_default_profile_is_used():
    """Without options in the project folder, as users call it."""
    plan = run("snakemake", "-n", "--cores", "1")
    assert "profiles/default" in plan.stderr + plan.stdout
    profile = (ROOT / "profiles/default/profile.yaml").read_text()
    assert "nolock: true" in profile and "rerun-incomplete: true" in profile and "gpu=1" in profile


@pytest.mark.parametrize("profile", ["slurm", "ci"])
def test_cluster_profiles_plan(snakemake, profile):
    plan = snakemake("-n", "--workflow-profile", str(ROOT / "profiles" / profile))
    assert plan.returncode == 0, plan.stdout + plan.stderr
    assert f"profiles/{profile}" in plan.stderr and "profiles/default" not in plan.stderr  # which allows one GPU job
    assert "report" in jobs(plan.stdout)


def test_real_footage_has_no_talkers_and_no_demo_values(snakemake, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.mp4").write_bytes(b"x")
    plan = snakemake("-n", "--config", f"input_dir={tmp_path / 'in'}", configfile=ROOT / "config/real.yaml")
    assert plan.returncode == 0, plan.stdout + plan.stderr
    assert "make_talkers" not in jobs(plan.stdout)
    assert jobs(plan.stdout)["record_inputs"] == 1 and not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    "values, words",
    [
        ("input_dir=nowhere", ["'nowhere'", "does not exist"]),
        ("input_dir=empty", ["'empty'", "contains no video"]),
        ("colour=red", ["Unknown configuration key colour"]),
        ("align_faces={backnd: x}", ["align_faces.backnd", "backend"]),
        ("generate={steps: 0}", ["generate.steps", "0"]),
        ("generate={steps: 1000}", ["generate.steps", "999"]),
        ("score_sync={backend: magic}", ["score_sync.backend", "'magic'", "envelope"]),
        ("score_sync={backend: syncnet_v2}", ["syncnet_v2.model", "is missing", "score_sync.backend"]),
        ("train_unet_stage1={init: typo.pt}", ["typo.pt", "is neither a file nor one of", "train_unet_stage1.init"]),
        ("enhance={method: gfpgan}", ["GFPGANv1.4.pth", "is missing", "enhance.method"]),
        ("shards=0", ["shards", "0"]),
    ],
)
def test_a_user_error_is_one_sentence_before_any_job(snakemake, tmp_path, monkeypatch, values, words):
    monkeypatch.setenv("LATENTSYNC_WEIGHTS", str(tmp_path / "weights"))
    (tmp_path / "empty").mkdir()
    refused = snakemake("--config", values)
    printed = refused.stderr + refused.stdout
    assert refused.returncode != 0
    assert all(word in printed for word in words), printed
    assert "Traceback" not in printed and "rule " not in printed
    assert not (tmp_path / "results").exists()


def test_the_lock_names_no_index_and_one_opencv():
    lock = (ROOT / "requirements.lock").read_text()
    assert "--index-url" not in lock and "://" not in lock
    assert set(re.findall(r"^(opencv[a-z-]*)==", lock, re.MULTILINE)) == {"opencv-python-headless"}
