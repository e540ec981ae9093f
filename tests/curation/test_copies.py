"""Talkers and copies of them, as files, through the steps of curation: the benchmark, small."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_copies_of_talkers_are_found_and_strangers_are_not(tmp_path):
    arguments = ["--talkers", "3", "--per-kind", "1", "--work", str(tmp_path), "--json", str(tmp_path / "found.json")]
    subprocess.run([sys.executable, str(ROOT / "benchmarks/copies.py"), *arguments], check=True, capture_output=True)
    result = json.loads((tmp_path / "found.json").read_text())
    assert result["all"]["copies"] == 15 and result["pairs_of_strangers"] == 3
    assert result["all"]["directly"] >= 14 and result["all"]["near_duplicates"] >= 10
    assert result["joined_strangers"] == {} and result["most_nats_of_others"] < 30
