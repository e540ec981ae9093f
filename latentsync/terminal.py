"""What Snakemake shows: one line for each job, and the end of the log of each job that fails.

Snakemake's own lines take eight lines for a job, and its setting `quiet: rules`, which shortens them, also hides why a
job failed. So the Snakefile gives Snakemake's handler for the terminal another formatter; a logger plugin would have
to be installed before a profile may name it. The complete record in .snakemake/log stays as it is.
"""

import errno
import logging
import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from latentsync.ledger import faults

TAIL_LINES = 15
REASON_CHARS = 100
TAIL_BYTES = 1 << 16
FULL_BYTES = 1 << 16  # with less space than this, a log may have stayed empty
_HANDLER = "DefaultStreamHandler"
_SCHEDULING = re.compile(
    "Select jobs to execute|Building DAG of jobs|Using shell: |Conda environments: ignored|Singularity containers: "
    "ignored|Shutting down, this might|Removing output files of failed job"
)
_STOPPED = re.compile("Terminating processes on user request|Will exit after finishing currently running jobs")
# What common.smk raises on purpose: a sentence, which Snakemake sets between two places in the code.
_REFUSED = re.compile(r"WorkflowError in file \S*common\.smk\S*, line \d+:\n(.*?)(?:\n  File .*)?$", re.DOTALL)
_FULL = re.compile(r"\[Errno 28\]|No space left on device")
# How a command ended without a word of its own, and what mostly caused it.
_CAUSES = (
    (re.compile(r"status 137|SIGKILL"), " (by a user, or by the system because memory ran out)"),
    (re.compile(r"status 134|SIGABRT"), " (a library gave up, mostly because memory ran out; see `ulimit -v`)"),
)
_STATUS = re.compile(r"returned non-zero exit status \d+|died with <Signals\.\w+: \d+>")


def shorten(name: str = "snakemake.logging") -> None:
    """Give Snakemake's handler for the terminal the short formatter; do nothing where a plugin has replaced it."""
    for handler in logging.getLogger(name).handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handleError = _unless_full  # else a full disk gives a traceback for every record
        if handler.name == _HANDLER and handler.formatter and not isinstance(handler.formatter, JobLines):
            plans = any(getattr(filter_, "dryrun", False) for filter_ in handler.filters)
            lines = JobLines(handler.formatter, plans)
            handler.setFormatter(lines)
            handler.addFilter(lines.filter)


def told(error: Exception) -> str:
    """What to say about an error before any job starts: one sentence."""
    return faults.sentence(error, Path.cwd()) or str(error)


class JobLines(logging.Formatter):
    """Filters and formats the records of Snakemake; what it does not know is left to Snakemake's formatter."""

    def __init__(self, other: logging.Formatter, plans: bool = False):
        """`plans`: this is a dry run, so a job is shown with the reason why it would run."""
        super().__init__()
        self.other, self.plans = other, plans
        self.done, self.total = 0, 0
        self.jobs: dict[int, str] = {}  # job id -> what the rule's `message` says
        self.failed: dict[int, str] = {}  # job id -> rule and shard; a retry may succeed
        self.ended: list[tuple[str, str]] = []  # (a command that failed, and how it ended)
        self.stopped = False

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is shown. The handler sets off the job that follows a shown record by an empty line."""
        text = record.__dict__["short"] = self._text(record)
        return text != ""

    def format(self, record: logging.LogRecord) -> str:
        """The text of a record that `filter` let pass."""
        return getattr(record, "short", "")

    def _text(self, record: logging.LogRecord) -> str:
        event = getattr(getattr(record, "event", None), "value", None)
        formats: dict[Any, Callable[[Any], str]] = {
            None: self._message,
            "job_info": self._begun,
            "job_error": self._failed,
            "job_finished": self._finished,
            "job_started": lambda _: "",
            "resources_info": lambda _: "",
            "workflow_started": lambda _: "",
            "run_info": self._planned,
            "progress": self._progress,
            "error": self._error,
        }
        return formats.get(event, self.other.format)(record)

    def _planned(self, record: Any) -> str:
        self.total = record.stats.get("total", 0)
        return self.other.format(record)

    def _begun(self, record: Any) -> str:
        message = " ".join((record.rule_msg or record.rule_name).split())
        self.jobs[record.jobid] = message
        if not (record.rule_msg or record.shellcmd):
            return ""  # a target: it only collects
        if self.plans:
            reason = " ".join(str(record.reason).split())
            return f"{message} ({reason[:REASON_CHARS]}{'...' if len(reason) > REASON_CHARS else ''})"
        return f"{_clock()} [{self.done}/{self.total} done] {message}"

    def _finished(self, record: Any) -> str:
        self.failed.pop(record.job_id, None)
        return ""

    def _progress(self, record: Any) -> str:
        self.done, self.total = record.done, record.total
        return self.other.format(record) if record.done == record.total else ""

    def _failed(self, record: Any) -> str:
        message = self.jobs.get(record.jobid) or str(record.rule_name)
        status = next((how for command, how in self.ended if record.shellcmd and record.shellcmd in command), "")
        if self.stopped:
            return ""
        self.failed[record.jobid] = message.partition(":")[0]
        lines = [f"{_clock()} FAILED {message}"]
        if record.rule_msg:  # from a cluster: how its job ended
            lines.append(str(record.rule_msg))
        for log in record.log:
            lines += [*_end_of(Path(log), status), f"(log: {log})"]
        if not record.log:
            lines += [status, *(f"{name}: {value}" for name, value in record.aux.items())]
        return "\n  ".join(line for line in lines if line)

    def _error(self, record: Any) -> str:
        text = record.getMessage()
        if "CalledProcessError" in text and (ended := _STATUS.search(text)):
            # A job ended with an error: its log says why, and `_failed` shows it.
            cause = next((cause for signs, cause in _CAUSES if signs.search(ended[0])), "")
            self.ended.append((text, f"The command {ended[0]}{cause}."))
            return ""
        if self.stopped and "At least one job did not complete" in text:
            return ""
        if refused := _REFUSED.match(text):
            return refused[1]
        if _FULL.search(text):
            return f"{text}\n{told(OSError(errno.ENOSPC, text))}"
        return self.other.format(record)

    def _message(self, record: Any) -> str:
        text = record.getMessage()
        if _STOPPED.match(text):
            self.stopped = True
            return f"{_clock()} Stopping; the same command carries on."
        if text.startswith("Exiting because a job execution failed"):
            names = ", ".join([*self.failed.values()][:5]) + (" ..." if len(self.failed) > 5 else "")
            return f"{len(self.failed)} failed: {names}. The same command carries on once the cause is removed."
        if record.levelno == logging.INFO and _SCHEDULING.match(text):
            return ""
        return self.other.format(record)


def _end_of(log: Path, status: str) -> list[str]:
    """The last lines of a log, or why there are none."""
    try:
        with open(log, "rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL_BYTES))
            lines = file.read().decode("utf-8", "backslashreplace").rstrip().splitlines()
    except OSError as error:
        return [f"{status} Its log cannot be read: {error.strerror}.".strip()]
    if not lines:
        try:
            free = shutil.disk_usage(log.parent).free
        except OSError:
            free = FULL_BYTES
        if free < FULL_BYTES:
            return [f"The disk of {log.parent} is full: {free} bytes are free, and not even the log could be written."]
        return [f"{status} Its log is empty.".strip()]
    left_out = [f"... the last {TAIL_LINES} lines of the log:"] if len(lines) > TAIL_LINES else []
    return left_out + lines[-TAIL_LINES:]


def _unless_full(record: logging.LogRecord) -> None:
    """Print the traceback of an error while a record was written, as logging does, except for errors of the disk."""
    if not isinstance(sys.exc_info()[1], OSError):
        logging.Handler.handleError(logging.NullHandler(), record)


def _clock() -> str:
    return time.strftime("%H:%M:%S")
