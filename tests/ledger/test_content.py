"""Errors that a file's content provokes: a row each; faults of the machine and of the step stop the job."""

import errno

import av
import pytest

from latentsync.config import Probe
from latentsync.ledger.content import CONSECUTIVE, is_of_machine
from latentsync.ledger.files import read_ledger
from latentsync.ledger.shard import run_shard
from tests.fixtures import source


def work_with(errors: dict[str, Exception]):
    calls: list[str] = []

    def work(row, key):
        calls.append(row["path"])
        if row["path"] in errors:
            raise errors[row["path"]]
        return [row | {"size": 1}]

    return work, calls


def run(folder, names: str, errors: dict[str, Exception]) -> tuple[dict[str, dict], list[str]]:
    ledger = folder / "results/run/probe/00000.jsonl"
    work, calls = work_with(errors)
    run_shard(ledger, [source(name) for name in names.split()], Probe(), 1, work)
    return {row["path"]: row for row in read_ledger(ledger)}, calls


def decoding_fails(folder) -> Exception:
    try:
        av.error.err_check(-1094995529, str(folder / "in/b.mp4"))
    except av.error.FFmpegError as error:
        return error
    raise AssertionError


@pytest.mark.parametrize("kind", [ValueError, MemoryError, AttributeError, AssertionError, "ffmpeg"])
def test_an_error_at_one_file_is_its_row_with_the_text_and_the_place(tmp_path, kind):
    error = decoding_fails(tmp_path) if kind == "ffmpeg" else kind(f"{tmp_path}/in/b.mp4 is odd")
    rows, _ = run(tmp_path, "a.mp4 b.mp4 c.mp4", {"b.mp4": error})
    assert [rows[name]["status"] for name in ("a.mp4", "b.mp4", "c.mp4")] == ["ok", "error", "ok"]
    assert rows["b.mp4"]["reason"] == "failed"
    detail = rows["b.mp4"]["detail"]
    assert detail.startswith(f"{type(error).__name__}: ") and ", line " in detail
    assert kind == "ffmpeg" or "(test_content.py, line" in detail
    assert str(tmp_path) not in detail  # no path of this machine


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        PermissionError(errno.EACCES, "denied"),
        ImportError("no torch"),
    ],
)
def test_a_fault_of_the_machine_stops_the_job_and_notes_nothing(tmp_path, error):
    with pytest.raises(type(error)):
        run(tmp_path, "a.mp4 b.mp4", {"b.mp4": error})
    rows, calls = run(tmp_path, "a.mp4 b.mp4", {})
    assert calls == ["b.mp4"] and rows["b.mp4"]["status"] == "ok"


def test_a_column_that_an_older_ledger_lacks_is_no_fault_of_the_file(tmp_path):
    assert is_of_machine(KeyError("n_ticks"), tmp_path) and not is_of_machine(KeyError("colour"), tmp_path)


def test_the_same_error_at_three_rows_in_a_row_stops_the_step_and_a_second_call_goes_on(tmp_path):
    names = "a.mp4 b.mp4 c.mp4 d.mp4 e.mp4"
    errors: dict[str, Exception] = {name: ValueError("no way") for name in names.split()[:CONSECUTIVE]}
    with pytest.raises(ValueError, match=r"3 rows in a row fail .* the last one at c.mp4: ValueError: no way .* probe"):
        run(tmp_path, names, errors)
    rows, calls = run(tmp_path, names, errors)
    assert calls == names.split()  # those that failed are tried once more
    assert [rows[name]["status"] for name in names.split()] == ["error"] * 3 + ["ok"] * 2
    assert all(rows[name]["detail"].endswith(", twice") for name in names.split()[:3])
    assert run(tmp_path, names, errors)[1] == []


def test_errors_with_good_rows_between_them_stop_nothing(tmp_path):
    errors: dict[str, Exception] = {f"{n}.mp4": ValueError("no way") for n in (0, 2, 4, 6)}
    rows, _ = run(tmp_path, " ".join(f"{n}.mp4" for n in range(8)), errors)
    assert sum(row["reason"] == "failed" for row in rows.values()) == 4


def test_a_file_that_works_the_second_time_is_used(tmp_path):
    run(tmp_path, "a.mp4", {"a.mp4": MemoryError("too much")})
    assert run(tmp_path, "a.mp4", {})[0]["a.mp4"]["status"] == "ok"
