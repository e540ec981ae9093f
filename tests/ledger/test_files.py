"""Ledgers are read as they were written, or not at all; locks tell who holds them."""

import subprocess
import sys
from pathlib import Path

import pytest

from latentsync.ledger import files
from latentsync.ledger.files import checksum_of, iterate_ledger, locked, read_ledger, write_ledger, write_text
from tests.fixtures import source


@pytest.fixture
def ledger(tmp_path):
    path = tmp_path / "run/score_sync/00000.jsonl"
    write_ledger(path, [source("a", score=1.25), source("b", score=2.5)])
    return path


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text.replace("1.25", "9.25"),
        lambda text: text.splitlines(keepends=True)[0],
        lambda text: text + text,
        lambda text: "",
    ],
    ids=["a flipped digit", "a removed row", "an added row", "emptied"],
)
def test_a_changed_ledger_is_refused_before_its_first_row(ledger, edit):
    ledger.write_text(edit(ledger.read_text()))
    with pytest.raises(ValueError, match=r"run/score_sync/00000\.jsonl is not as score_sync wrote it.*Delete it"):
        next(iterate_ledger(ledger))


def test_the_checksum_is_that_of_sha256sum(ledger):
    done = subprocess.run(["sha256sum", "-c", checksum_of(ledger).name], cwd=ledger.parent, check=False)
    assert done.returncode == 0 and len(read_ledger(ledger)) == 2


def test_a_ledger_without_a_checksum_is_read(ledger):
    """Of an old run, or of a job that was killed between the two."""
    checksum_of(ledger).unlink()
    ledger.write_text(ledger.read_text().replace("1.25", "9.25"))
    assert {row["score"] for row in read_ledger(ledger)} == {9.25, 2.5}


def test_a_ledger_written_otherwise_loses_its_old_checksum(ledger):
    write_text(ledger, '{"id":"c"}\n')
    assert read_ledger(ledger) == [{"id": "c"}] and not checksum_of(ledger).exists()


def test_lists_of_sources_have_no_checksum(tmp_path):
    """A run of talkers may go on with own videos, whose lists are copied over the old ones."""
    path = tmp_path / "run/sources/00000.jsonl"
    write_ledger(path, [source("a")])
    path.write_text('{"id":"c"}\n')
    assert read_ledger(path) == [{"id": "c"}] and len(list(path.parent.iterdir())) == 1


@pytest.mark.parametrize("garbage", [b"\x00\x00\x00{", b"\xff\xfe\xfa", b"{"])
def test_garbage_names_file_and_line(tmp_path, garbage):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"id":"a"}\n' + garbage + b"\n")
    with pytest.raises(ValueError, match="x.jsonl line 2 is not JSON"):
        read_ledger(path)


def test_a_lock_that_another_process_holds_is_waited_for_aloud(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(files, "WAIT_S", 0.1)
    path = tmp_path / "run/locks/select_clips.lock"
    hold = "import sys, time; from latentsync.ledger.files import locked\n"
    hold += "with locked(__import__('pathlib').Path(sys.argv[1])): print('held', flush=True); time.sleep(1.5)"
    command = [sys.executable, "-c", hold, str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
    assert process.stdout.readline() == b"held\n"
    with locked(path):
        assert process.wait() == 0
    process.stdout.close()
    said = capsys.readouterr().err
    assert said.count("waiting") == 1 and f"{path} is held by process {process.pid} (" in said and "locked" in said


def test_a_free_lock_is_taken_in_silence(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(files, "WAIT_S", 0.0)
    with locked(tmp_path / "a.lock"):
        assert capsys.readouterr().err == ""
