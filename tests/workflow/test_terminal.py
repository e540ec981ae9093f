"""What the terminal shows: a line for each job, and of a job that fails the end of its log, never a wall of text."""

import logging
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from snakemake.logging import LogEvent

from latentsync import terminal

ROOT = Path(__file__).parent.parent.parent
SNAKEFILE = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from latentsync.terminal import shorten
shorten()

rule all:
    input:
        "good", "sentence", "long", "silent", "latin", "aborted"

rule make:
    output:
        "{{name}}"
    log:
        "logs/{{name}}.log"
    message:
        "make {{wildcards.name}}: work on it"
    shell:
        "bash work.sh {{wildcards.name}} {{output}} > {{log}} 2>&1"
"""
WORK = r"""
case $1 in
good) touch $2 ;;
sentence) echo 'make: a/b.jsonl was edited. Delete it.'; exit 1 ;;
long) for n in $(seq 500); do echo line $n; done; exit 1 ;;
silent) exit 3 ;;
aborted) exit 134 ;;
latin) printf 'caf\351\n'; kill -9 $$ ;;
slow) : > begun; exec sleep 60 ;; # a signal while bash waits for `touch` would not end bash
esac
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    (tmp_path / "work.sh").write_text(WORK)
    return tmp_path


def start(folder: Path, *args: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "snakemake", "--cores", "6", "--profile", str(ROOT / "profiles/default"), *args]
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def test_every_failing_job_shows_why_also_of_several_at_once(folder):
    process = start(folder, "--keep-going")
    shown = process.communicate(timeout=60)[0]
    assert process.returncode == 1
    blocks = {block.split("\n")[0].split()[0]: block for block in re.split(r"\d\d:\d\d:\d\d FAILED make ", shown)[1:]}
    assert {name.strip(":") for name in blocks} == {"sentence", "long", "silent", "latin", "aborted"}
    assert blocks["sentence:"].startswith(
        "sentence: work on it\n  make: a/b.jsonl was edited. Delete it.\n  (log: logs/sentence.log)\n"
    )
    assert "line 500" in blocks["long:"] and "line 400\n" not in blocks["long:"] and "(log: logs/long.log)" in shown
    assert "returned non-zero exit status 3. Its log is empty." in blocks["silent:"]
    assert "status 134 (a library gave up, mostly because memory ran out; see `ulimit -v`)." in blocks["aborted:"]
    assert r"caf\xe9" in blocks["latin:"]
    assert "5 failed: " in shown and "The same command carries on" in shown
    assert re.search(r"\d\d:\d\d:\d\d \[0/7 done\] make good: work on it\n", shown)
    for noise in ("CalledProcessError", "jobid", "Select jobs", "Execute", "Traceback", "set -euo"):
        assert noise not in shown
    complete = "".join(path.read_text() for path in (folder / ".snakemake/log").iterdir())
    assert "jobid" in complete and "CalledProcessError" in complete  # the record keeps what the terminal omits


def test_a_job_takes_one_line(folder):
    process = start(folder, "--", "good")
    shown = process.communicate(timeout=60)[0]
    assert process.returncode == 0
    lines = shown[shown.index("total") :].splitlines()[1:]
    assert [line for line in lines if "good" in line and "done]" in line] and len([x for x in lines if x.strip()]) <= 4


def test_a_dry_run_says_why_a_job_would_run(folder):
    shown = start(folder, "-n", "--", "good").communicate(timeout=60)[0]
    assert "\nmake good: work on it (Missing output files: good)\n" in shown and "done]" not in shown


def test_ctrl_c_gives_one_line(folder):
    process = start(folder, "--", "slow")
    while not (folder / "begun").exists():
        time.sleep(0.05)
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    shown = process.communicate(timeout=60)[0]
    assert process.returncode != 0
    after = shown[shown.index("Stopping; the same command carries on.") :]
    assert "Exception" not in after and "Error" not in after and "FAILED" not in after, after
    assert len(after.splitlines()) <= 4


def lines() -> terminal.JobLines:
    return terminal.JobLines(logging.Formatter())


def record(event=None, text="", **values) -> logging.LogRecord:
    made = logging.LogRecord("snakemake.logging", logging.ERROR, "", 0, text, (), None)
    made.__dict__.update(values, event=event)
    return made


def error(log: Path) -> logging.LogRecord:
    job = {"jobid": 1, "rule_name": "probe", "rule_msg": None, "log": [str(log)], "shellcmd": "x", "aux": {}}
    return record(LogEvent.JOB_ERROR, **job)


def shown(formatter: terminal.JobLines, made: logging.LogRecord) -> str:
    return formatter.format(made) if formatter.filter(made) else ""


def test_a_full_disk_that_kept_even_the_log_empty_is_told(tmp_path, monkeypatch):
    log = tmp_path / "probe.log"
    log.touch()
    monkeypatch.setattr(terminal.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 512}))
    assert f"The disk of {tmp_path} is full: 512 bytes are free" in shown(lines(), error(log))


def test_a_log_that_cannot_be_read_is_told(tmp_path):
    assert "Its log cannot be read: No such file" in shown(lines(), error(tmp_path / "none.log"))
    assert "Its log cannot be read: Is a directory" in shown(lines(), error(tmp_path))


def test_a_job_that_a_retry_finishes_has_not_failed(tmp_path):
    formatter = lines()
    last = record(None, "Exiting because a job execution failed. Look above for error messages")
    shown(formatter, error(tmp_path / "none.log"))
    assert shown(formatter, last).startswith("1 failed: probe.")
    assert shown(formatter, record(LogEvent.JOB_FINISHED, job_id=1)) == ""
    assert shown(formatter, last).startswith("0 failed")


def test_a_sentence_of_common_smk_stands_alone():
    text = 'WorkflowError in file "/x/workflow/rules/common.smk", line 18:\nshards is 0; give more.\n'
    text += '  File "/x/workflow/rules/common.smk", line 18, in <module>'
    assert shown(lines(), record(LogEvent.ERROR, text)) == "shards is 0; give more."
    other = "MissingOutputException: Job 3 completed, but a.txt is missing"
    assert shown(lines(), record(LogEvent.ERROR, other)) == other


def test_a_full_disk_of_snakemake_itself_is_told():
    text = "WorkflowError:\nError recording metadata for finished job ([Errno 28] No space left on device)."
    told = shown(lines(), record(LogEvent.ERROR, text))
    assert told.startswith(text) and "the disk is full" in told and "the same command carries on" in told


def test_a_logger_plugin_keeps_its_own_format():
    handler = logging.StreamHandler()
    logger = logging.getLogger("a logger with a plugin")
    logger.addHandler(handler)
    terminal.shorten(logger.name)
    assert handler.formatter is None and handler.filters == []
