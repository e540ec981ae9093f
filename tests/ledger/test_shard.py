"""Ledgers and journals: ids, verdicts, atomic writing, and what survives a kill."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentsync.config import Probe, Segment
from latentsync.ledger.columns import REASONS
from latentsync.ledger.files import locked, media_file, read_ledger, replacing, write_ledger, write_text
from latentsync.ledger.rows import ERRORS, Rejection, clip_id, rejected, shard_of, source_id
from latentsync.ledger.shard import Journal, run_shard
from tests.fixtures import source


def test_ids_ignore_how_an_accent_is_encoded():
    assert source_id("caf\u00e9.mp4") == source_id("cafe\u0301.mp4")
    assert source_id("a.mp4") != source_id("b/a.mp4")
    assert clip_id("f" * 16, 25, 150, 1) == "f" * 16 + "-000025-000150-t1"


@given(st.lists(st.text(min_size=1), unique=True), st.integers(1, 50))
def test_a_shard_depends_on_the_source_alone(names, shards):
    alone = [shard_of(source_id(name), shards) for name in names]
    assert all(0 <= int(shard) < shards and len(shard) == 5 for shard in alone)


def test_every_reason_is_a_sentence_and_errors_are_reasons():
    assert all(len(text) > 15 for text in REASONS.values())
    assert ERRORS <= set(REASONS)
    assert rejected(source("a"), "unreadable")["status"] == "error"
    assert rejected(source("a"), "no_face")["status"] == "rejected"
    with pytest.raises(AssertionError):
        rejected(source("a"), "ugly")


def test_replacing_leaves_the_old_file_and_no_litter_when_writing_fails(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), replacing(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_a_damaged_ledger_names_file_and_line(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"id": "a"}\n{"id": ')
    with pytest.raises(ValueError, match="x.jsonl line 2"):
        read_ledger(path)


def test_nan_is_refused(tmp_path):
    with pytest.raises(ValueError):
        write_ledger(tmp_path / "x.jsonl", [source("a", score=float("nan"))])


def run(tmp_path, rows, work, cfg=None, version=1):
    ledger = tmp_path / "run" / "step" / "00000.jsonl"
    run_shard(ledger, rows, cfg or Probe(), version, work)
    return read_ledger(ledger)


def test_finished_rows_are_never_done_again(tmp_path):
    calls = []

    def work(row, key):
        calls.append(row["path"])
        return [row | {"length": len(row["path"])}]

    first = run(tmp_path, [source("a"), source("bb")], work)
    assert run(tmp_path, [source("bb"), source("a")], work) == first  # order of the input does not matter
    assert sorted(calls) == ["a", "bb"]
    run(tmp_path, [source("a"), source("bb"), source("ccc")], work)  # a new neighbour
    assert sorted(calls) == ["a", "bb", "ccc"]
    run(tmp_path, [source("a", extra=1)], work)  # another input row
    run(tmp_path, [source("a")], work, cfg=Segment())  # another section
    run(tmp_path, [source("a")], work, version=2)  # another version
    assert len(calls) == 6


def test_a_verdict_keeps_the_row_and_later_steps_pass_it_through(tmp_path):
    def work(row, key):
        raise Rejection("no_face", "0 of 100 ticks")

    [row] = run(tmp_path, [source("a")], work)
    assert (row["status"], row["reason"], row["detail"]) == ("rejected", "no_face", "0 of 100 ticks")
    assert run(tmp_path, [row], lambda row, key: pytest.fail("a rejected row must not be worked on")) == [row]


def test_work_is_done_again_when_its_file_is_gone(tmp_path):
    calls = []

    def work(row, key):
        calls.append(row["id"])
        path = tmp_path / "run" / "step" / "media" / "a.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
        return [row | {"text_file": "step/media/a.txt", "other_file": None}]

    run(tmp_path, [source("a")], work)
    run(tmp_path, [source("a")], work)
    (tmp_path / "run" / "step" / "media" / "a.txt").unlink()
    run(tmp_path, [source("a")], work)
    assert len(calls) == 2


def test_going_back_to_an_earlier_section_gives_its_files_not_the_later_ones(tmp_path):
    """The name of a file says what is in it; with names of the id alone, section A's rows would name B's content."""

    def work_of(content):
        def work(row, key):
            file = media_file("step", row["id"], key, ".txt")
            write_text(tmp_path / "run" / file, content)
            return [row | {"text_file": file}]

        return work

    [first] = run(tmp_path, [source("a")], work_of("as Probe says"), cfg=Probe())
    [second] = run(tmp_path, [source("a")], work_of("as Segment says"), cfg=Segment())
    assert first["text_file"] != second["text_file"]
    [back] = run(tmp_path, [source("a")], lambda row, key: pytest.fail("it was done before"), cfg=Probe())
    assert back == first and (tmp_path / "run" / back["text_file"]).read_text() == "as Probe says"


def test_a_fault_of_ours_names_the_video_and_is_tried_again(tmp_path):
    calls = []

    def work(row, key):
        calls.append(row["path"])
        raise OSError(5, "Input/output error")

    for _ in range(2):
        with pytest.raises(OSError) as fault:
            run(tmp_path, [source("my video.mp4")], work)
        assert "my video.mp4" in fault.value.__notes__[0]
    assert len(calls) == 2 and not (tmp_path / "run/step/00000.jsonl").exists()


def test_a_torn_last_line_is_dropped(tmp_path):
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.append("k1", [source("a")])
    with open(path, "a") as file:
        file.write('{"key": "k2", "ro')
    with Journal(path) as journal:
        assert set(journal.rows) == {"k1"}
        journal.append("k3", [])
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == ["k1", "k3"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: line.replace(b'"length":1', b'"length":7'),  # still JSON
        lambda line: line[:40] + line[41:],
        lambda line: b"\x00\x00\x00{" + line[4:],  # json.loads takes this for utf-32
        lambda line: bytes(range(128, 256)),
        lambda line: line[:20] + b"\n" + line[20:],
        lambda line: b'"text"',
        lambda line: b"",
    ],
    ids=["a digit", "a missing byte", "zeros", "bytes", "torn in two", "other JSON", "empty"],
)
def test_a_damaged_line_of_a_journal_is_skipped_counted_and_done_again(tmp_path, capsys, damage):
    calls = []

    def work(row, key):
        calls.append(row["path"])
        return [row | {"length": len(row["path"])}]

    rows = [source("a"), source("bb"), source("ccc")]
    first = run(tmp_path, rows, work)
    journal = tmp_path / "run/step/journal/00000.jsonl"
    lines = journal.read_bytes().splitlines()
    [number] = [number for number, line in enumerate(lines) if b'"length":1' in line]
    lines[number] = damage(lines[number])
    journal.write_bytes(b"\n".join(lines) + b"\n")
    capsys.readouterr()
    assert run(tmp_path, rows, work) == first
    assert sorted(calls) == ["a", "a", "bb", "ccc"]
    assert "journal/00000.jsonl: " in (said := capsys.readouterr().err) and "damaged lines are skipped" in said


def test_lines_of_older_versions_count(tmp_path, capsys):
    """They have neither a checksum nor sizes."""
    path = tmp_path / "run/step/journal/00000.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"key": "k1", "rows": [source("a", text_file="step/media/a.txt")]}) + "\n")
    with Journal(path) as journal:
        assert journal.rows.keys() == {"k1"} and journal.finished("k1") is None
        write_text(tmp_path / "run/step/media/a.txt", "x")
        assert journal.finished("k1") == journal.rows["k1"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("content", ["", "half"])
def test_work_is_done_again_when_its_file_has_another_size(tmp_path, content):
    """After a power cut, files may be empty although they had their names."""
    path = tmp_path / "run/step/media/a.txt"

    def work(row, key):
        write_text(path, "all of it")
        return [row | {"text_file": "step/media/a.txt"}]

    run(tmp_path, [source("a")], work)
    path.write_text(content)
    run(tmp_path, [source("a")], work)
    assert path.read_text() == "all of it"
    run(tmp_path, [source("a")], lambda row, key: pytest.fail("it is whole"))


def test_an_empty_file_of_an_earlier_step_is_no_fault_of_the_video(tmp_path):
    (tmp_path / "run/align_faces").mkdir(parents=True)
    (tmp_path / "run/align_faces/a.mp4").touch()
    with pytest.raises(ValueError, match=r"align_faces/a.mp4 is missing or empty.*--forcerun align_faces;"):
        run(tmp_path, [source("a", crop_file="align_faces/a.mp4")], lambda row, key: pytest.fail("not reached"))


def _slow_job(folder, started):
    def work(row, key):
        started.value += 1
        time.sleep(0.15)
        return [row | {"seen": True}]

    run(folder, [source(f"{number}.mp4") for number in range(20)], work)


def test_kill_then_resume_gives_the_same_ledger_and_repeats_at_most_one_row(tmp_path):
    context = multiprocessing.get_context("fork")
    started = context.Value("i", 0)
    job = context.Process(target=_slow_job, args=(tmp_path / "killed", started))
    job.start()
    while started.value < 5:
        time.sleep(0.01)
    os.kill(job.pid, signal.SIGKILL)
    job.join()
    before = started.value
    _slow_job(tmp_path / "killed", started)
    assert started.value - before <= 20 - before + 1
    _slow_job(tmp_path / "whole", context.Value("i", 0))
    name = "run/step/00000.jsonl"
    assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_two_writers_wait_for_each_other(tmp_path):
    """After kill -9 of the workflow its child may live on; the newcomer waits, then finds every row done."""
    context = multiprocessing.get_context("fork")
    started = context.Value("i", 0)
    jobs = [context.Process(target=_slow_job, args=(tmp_path, started)) for _ in range(2)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert started.value == 20


def test_a_step_without_a_journal_waits_for_its_orphan_too(tmp_path):
    """select_clips of a killed workflow may live on; two of them would rename each other's temporary files."""
    ledger, output = (tmp_path / f"run/{step}/00000.jsonl" for step in ("detect_scenes", "segment"))
    write_ledger(ledger, [])
    command = [sys.executable, "-m", "latentsync.steps", "segment", "--config", "{}"]
    command += ["--input", "detect_scenes", str(ledger), "--output", "ledger", str(output)]
    with locked(tmp_path / "run/locks/segment.00000.jsonl"):
        newcomer = subprocess.Popen(command)
        with pytest.raises(subprocess.TimeoutExpired):
            newcomer.wait(2)
        assert not output.exists()
    assert newcomer.wait(30) == 0 and output.exists()
