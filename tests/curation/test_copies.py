"""Talkers and copies of them, as files, through the steps of curation: the benchmark, small."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_copies_of_talkers_are_found_and_strangers_are_not(tmp_path):
    work = ["--work", str(tmp_path), "--json", str(tmp_path / "found.json")]
    kinds = ["scaled 0.4", "24 fps", "other audio"]
    command = [sys.executable, str(ROOT / "benchmarks/copies.py"), "--talkers", "2", "--per-kind", "1", *work]
    subprocess.run([*command, "--kinds", *kinds], check=True, capture_output=True)
    result = json.loads((tmp_path / "found.json").read_text())
    assert result["kinds"].keys() == set(kinds) and result["all"]["copies"] == 3
    assert result["all"]["directly"] == 3 and result["all"]["near_duplicates"] == 3
    assert result["joined_strangers"] == {} and result["most_nats_of_others"] < 30
