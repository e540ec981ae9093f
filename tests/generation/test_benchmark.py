"""The benchmark for a GPU runs through anywhere, at a small size, and its figures are those of what it names."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_rehearsal_measures_every_stage(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks/generate_gpu.py"), "--small", "--work", str(tmp_path)]
    command += ["--only", "256 px . (exact|fast) . graph . 10 s", "--json", str(tmp_path / "figures.json")]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "GLOG_minloglevel": "2"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures == json.loads((tmp_path / "figures.json").read_text())
    exact, fast = figures["rows"]
    assert (exact["preset"], fast["preset"], exact["frames"]) == ("exact", "fast", 50)
    for row in (exact, fast):
        assert row["fps"] > row["fps_tracked"] > 0 and row["peak_mb"] is None  # there is no GPU to measure
        assert row["ms"].keys() == {"track", "decode", "crop", "networks", "paste", "encode", "join"}
    assert len(figures["steps"]) == 4 and all(step["ms"] > 0 for step in figures["steps"])
    assert [paste["resolution"] for paste in figures["paste"]] == [256, 512]
    assert max(paste["grey_levels"] for paste in figures["paste"]) < 0.5
