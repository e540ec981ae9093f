"""kill -9 at random moments of a curation, resumed by the same command each time.

Every second kill hits Snakemake alone: its jobs live on, and the next call must wait for them. The others hit all
processes at once. `make bench-kills` kills twenty times; a run that finishes between two kills is compared and started
again from scratch.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import time

import pytest

from tests.workflow.short import ROOT, command, curate, heads

KILLS, SEED = (int(os.environ.get(name, default)) for name, default in (("KILLS", 3), ("SEED", 1)))
SHARDS = 2
SOURCES = [f"{number}.mp4" for number in range(6)]


def results(run):
    """Bytes of all ledgers, tables and media of the steps, by path."""
    patterns = ["*/*.jsonl", "*/*.json", "*/*.csv", "*/media/*"]
    paths = [path for pattern in patterns for path in run.glob(pattern) if path.parent.name != "costs"]
    return {str(path.relative_to(run)): path.read_bytes() for path in paths}


def leftovers(run):
    """Paths of temporary files; the checksums of ledgers are hidden, too, and stay."""
    hidden = [path for path in run.rglob("*") if ".part" in path.name or path.name.startswith(".")]
    return [str(path) for path in hidden if path.suffix != ".sha256"]


@pytest.mark.slow
def test_a_run_killed_repeatedly_ends_with_the_same_files(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    heads(whole / "in", *SOURCES)
    (whole / "in/broken.mp4").write_text("no video")
    shutil.copytree(whole / "in", killed / "in")  # times included, which the lists of sources hold
    start_s = time.perf_counter()
    undisturbed = results(curate(whole, SHARDS))
    whole_s = time.perf_counter() - start_s

    moments, kills, finished = random.Random(SEED), [], 0
    while len(kills) < KILLS:
        job = subprocess.Popen(
            command(killed, SHARDS),
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        delay_s = moments.uniform(1.5, max(3.0, 0.5 * whole_s))
        try:
            assert job.wait(timeout=delay_s) == 0, "a resumed run failed"
            finished += 1
            compare(undisturbed, killed / "results/short")
            shutil.rmtree(killed / "results")  # start from scratch until there were enough kills
        except subprocess.TimeoutExpired:
            alone = len(kills) % 2 == 0
            job.kill() if alone else os.killpg(job.pid, signal.SIGKILL)
            job.wait()
            ledgers = len(list((killed / "results/short").glob("*/*.jsonl")))
            kills.append({"after_s": round(delay_s, 1), "alone": alone, "ledgers": ledgers})
    compare(undisturbed, curate(killed, SHARDS))
    print(json.dumps({"kills": kills, "undisturbed_s": round(whole_s, 1), "finished_between_kills": finished}))


def compare(undisturbed, run):
    resumed = results(run)
    assert {path for path in undisturbed if resumed.get(path) != undisturbed[path]} == set()
    assert set(resumed) == set(undisturbed), "a file that the undisturbed run does not have"
    assert leftovers(run) == []
