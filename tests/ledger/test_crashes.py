"""A row at which the process crashes: retried, then rejected, and all other rows finished."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from latentsync.ledger import crashes
from latentsync.ledger.files import read_ledger

# A step of its own on rows named after what happens to them; every attempt at a row is written to `attempts`.
STEP = """
import ctypes, os, signal, sys, time
from pathlib import Path
from latentsync.config import Probe
from latentsync.ledger import crashes
from latentsync.ledger.files import replacing
from latentsync.ledger.shard import run_shard

ledger, attempts, names = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]

def work(row, key):
    with open(attempts, "a") as file:
        file.write(row["path"] + "\\n")
    tries = attempts.read_text().split().count(row["path"])
    media = ledger.parent / "media"
    media.mkdir(exist_ok=True)
    with replacing(media / f"{row['id']}.{key}.txt") as temporary:
        temporary.write_text("half")
        if row["path"].startswith("abort") or row["path"] == "once" and tries == 1:
            os.abort()
        if row["path"] == "segfault":
            ctypes.string_at(0)
        if row["path"] == "killed" and tries == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if row["path"] == "sleep" and tries == 1:
            time.sleep(60)
    return [row | {"text_file": f"step/media/{row['id']}.{key}.txt"}]

if os.environ.get("RESTART"):
    crashes.restart_on_crash(crashes.path_of(ledger))
rows = [dict(id=f"{n}", kind="source", source_id=f"{n}", path=name, status="ok", reason=None, detail="")
        for n, name in enumerate(names)]
run_shard(ledger, rows, Probe(), 1, work)
"""


def start(tmp_path: Path, *names: str, restart: bool = True) -> subprocess.Popen:
    ledger = tmp_path / "run" / "step" / "00000.jsonl"
    ledger.parent.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-c", STEP, str(ledger), str(tmp_path / "attempts"), *names],
        env={name: value for name, value in os.environ.items() if name != "PYTHONFAULTHANDLER"}
        | {"RESTART": "1" if restart else "", "PYTHONPATH": str(Path(__file__).parents[2])},
        stderr=subprocess.PIPE,
        text=True,
    )


def run(tmp_path: Path, *names: str, restart: bool = True) -> tuple[int, str]:
    process = start(tmp_path, *names, restart=restart)
    said = process.communicate(timeout=60)[1]
    return process.returncode, said


def rows(tmp_path: Path) -> dict[str, dict]:
    return {row["path"]: row for row in read_ledger(tmp_path / "run" / "step" / "00000.jsonl")}


def attempts(tmp_path: Path) -> list[str]:
    return (tmp_path / "attempts").read_text().split()


def hidden(tmp_path: Path) -> list[Path]:
    """What should be gone: temporary files and crash files. The checksums of ledgers stay."""
    found = [*(tmp_path / "run").rglob(".*"), *(tmp_path / "run").rglob("*.crash")]
    return [path for path in found if path.suffix != ".sha256"]


def test_one_call_rejects_rows_that_crash_twice_and_finishes_the_others(tmp_path):
    status, said = run(tmp_path, "a", "abort", "b", "segfault", "c")
    assert status == 0, said
    found = rows(tmp_path)
    assert [found[name]["status"] for name in ("a", "b", "c")] == ["ok"] * 3
    assert [found[name]["reason"] for name in ("abort", "segfault")] == ["crashed"] * 2
    assert found["abort"]["status"] == "error"
    assert found["abort"]["detail"].startswith("Aborted in work (<string>, line")
    assert "Segmentation fault in string_at (__init__.py" in found["segfault"]["detail"]
    assert attempts(tmp_path) == ["a", "abort", "abort", "b", "segfault", "segfault", "c"]
    assert said.count("Restarting") == 4 and hidden(tmp_path) == []


def test_a_row_that_crashes_once_is_not_rejected(tmp_path):
    status, said = run(tmp_path, "a", "once", "b")
    assert status == 0 and {row["status"] for row in rows(tmp_path).values()} == {"ok"}, said
    assert attempts(tmp_path) == ["a", "once", "once", "b"] and hidden(tmp_path) == []


def test_sigkill_is_not_a_crash(tmp_path):
    for _ in range(3):
        (tmp_path / "attempts").write_text("")  # so that it is killed each time
        status, said = run(tmp_path, "killed")
        assert status == 128 + signal.SIGKILL and "memory ran out" in said and "Restarting" not in said
    status, _ = run(tmp_path, "killed")
    assert status == 0 and rows(tmp_path)["killed"]["status"] == "ok" and hidden(tmp_path) == []


def test_the_step_stops_where_every_row_crashes(tmp_path):
    names = [f"abort{n}" for n in range(9)]
    status, said = run(tmp_path, "a", *names)
    assert status == 128 + signal.SIGABRT and "3 consecutive rows crashed" in said
    assert attempts(tmp_path) == ["a", *sorted(names[:3] * 2)]
    assert not (tmp_path / "run" / "step" / "00000.jsonl").exists()


def test_without_restarts_the_next_call_knows_of_the_crash(tmp_path):
    for _ in range(2):
        assert run(tmp_path, "abort", "b", restart=False)[0] == -signal.SIGABRT
    assert run(tmp_path, "abort", "b", restart=False)[0] == 0
    assert (rows(tmp_path)["abort"]["reason"], rows(tmp_path)["b"]["status"]) == ("crashed", "ok")


def test_an_exception_ends_the_step_at_once_and_leaves_no_crash_file(tmp_path):
    path = crashes.path_of(tmp_path / "step" / "00000.jsonl")
    path.parent.mkdir(parents=True)
    with pytest.raises(RuntimeError), crashes.recording(path) as begin:
        begin("k", 0)
        assert crashes.last_crash(path) is None and path.read_text() == "k 0\n"
        raise RuntimeError
    assert not path.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_child_ends_with_its_parent(tmp_path, number):
    process = start(tmp_path, "sleep")
    while not (tmp_path / "attempts").exists():
        time.sleep(0.05)
    [child] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(number)
    assert process.wait(timeout=20) == (-number if number == signal.SIGKILL else 128 + number)
    process.stderr.close()
    until = time.monotonic() + 20
    while Path(f"/proc/{child}").exists() and "Z" not in Path(f"/proc/{child}/stat").read_text().split()[2]:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert run(tmp_path, "sleep")[0] == 0 and rows(tmp_path)["sleep"]["status"] == "ok"
