"""`python -m latentsync.steps`: what a step is given, and what its errors look like."""

import importlib
import types
from pathlib import Path

import pytest

from latentsync.ledger.files import write_ledger
from latentsync.steps import __main__ as steps
from tests.fixtures import source


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


def test_a_fault_of_the_machine_is_one_sentence_and_exit_status_1(given, tmp_path, capsys):
    given.error = OSError(28, "No space left on device", "x/a.mp4")
    given.error.add_note("(While working on a.mp4.)")
    assert call(tmp_path) == 1
    said = capsys.readouterr().err
    assert said.startswith("probe: x/a.mp4 could not be written: the disk is full; ") and said.count("\n") == 1
    assert said.endswith("the same command carries on. (While working on a.mp4.)\n")


def test_a_log_on_the_full_disk_does_not_matter(given, tmp_path, monkeypatch):
    given.error = OSError(28, "No space left on device")

    class Full:
        def write(self, _):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(steps.sys, "stderr", Full())
    assert call(tmp_path) == 1


def test_being_stopped_is_one_sentence_and_exit_status_130(given, tmp_path, capsys):
    given.error = KeyboardInterrupt()
    assert call(tmp_path) == 130
    assert capsys.readouterr().err == "probe: stopped; the same command carries on.\n"


def test_a_column_that_an_older_version_did_not_write_names_ledger_and_fix(given, tmp_path, capsys):
    ledger = tmp_path / "run/detect_scenes/00000.jsonl"
    write_ledger(ledger, [source("a"), source("b") | {"status": "rejected"}])
    given.error = KeyError("n_ticks")
    assert call(tmp_path, "--input", "detect_scenes", str(ledger)) == 1
    said = capsys.readouterr().err
    assert f"probe: {ledger} has rows without n_ticks, as an older version" in said and "--forcerun resample;" in said


@pytest.mark.parametrize("key, step", [("n_ticks", "probe"), ("colour", "resample"), (("a", 1), "resample")])
def test_any_other_missing_key_is_a_bug(given, tmp_path, key, step):
    ledger = tmp_path / "run" / step / "00000.jsonl"
    write_ledger(ledger, [source("a")])
    given.error = KeyError(key)
    with pytest.raises(KeyError):
        call(tmp_path, "--input", step, str(ledger))


def test_outputs_are_locked_while_a_step_runs(given, tmp_path):
    assert call(tmp_path) == 0
    assert (tmp_path / "run/locks/probe.00000.jsonl").exists()
