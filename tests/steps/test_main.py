"""`python -m latentsync.steps`: what a step is given, and what its errors look like."""

import importlib
import types
from pathlib import Path

import pytest

from latentsync.steps import __main__ as steps


@pytest.fixture
def given(monkeypatch):
    """What the step probe is called with; what it raises is `given.error`."""
    seen = types.SimpleNamespace(error=None)

    def run(cfg, inputs, outputs, sources):
        seen.inputs, seen.outputs, seen.sources = inputs, outputs, sources
        if seen.error:
            raise seen.error

    monkeypatch.setattr(importlib, "import_module", lambda name: types.SimpleNamespace(run=run))
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "1")  # restored after the test
    return seen


def call(tmp_path, *args):
    return steps.main(["probe", "--config", "{}", "--output", "ledger", str(tmp_path / "run/probe/00000.jsonl"), *args])


def test_inputs_are_lists_and_an_output_is_one_path_unless_it_is_given_as_a_list(given, tmp_path):
    assert call(tmp_path, *"--input pairs a b --input vae v --input none --outputs lists l --sources in".split()) == 0
    assert given.inputs == {"pairs": [Path("a"), Path("b")], "vae": [Path("v")], "none": []}
    assert given.outputs == {"ledger": tmp_path / "run/probe/00000.jsonl", "lists": [Path("l")]}
    assert given.sources == Path("in")


def test_a_user_error_is_one_sentence_and_exit_status_1(given, tmp_path, capsys):
    given.error = ValueError("length_s is 0; give more.")
    given.error.add_note("In a.mp4.")
    assert call(tmp_path) == 1
    assert capsys.readouterr().err == "probe: length_s is 0; give more. In a.mp4.\n"


def test_outputs_are_locked_while_a_step_runs(given, tmp_path):
    assert call(tmp_path) == 0
    assert (tmp_path / "run/locks/probe.00000.jsonl").exists()
