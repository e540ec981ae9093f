"""The jobs of the page: a queue, one thread that works, progress, cancelling, and results that are kept for some time.

A job belongs to whoever knows its id, 128 random bits, and with --auth to one user. It has a folder with its inputs
and results. Finished jobs are found again after a restart of the page, by job.json in their folder.
"""

import json
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from latentsync.ledger.files import write_json
from latentsync.page.folder import Folder, in_words_of_disk, remove

State = Literal["waiting", "running", "done", "failed", "cancelled"]
ENDED = ("done", "failed", "cancelled")
RECORD = "job.json"
SWEEP_S = 60.0
_RECORDED = ("owner", "state", "sentence", "files", "details", "ended_s")


class Cancelled(Exception):
    """The user has cancelled the job."""


@dataclass
class Job:
    """One job, and how far it is."""

    folder: Path
    owner: str | None
    """The user's name, None without --auth."""
    order: Any = None
    """What is to be done: `work.Order`."""
    state: State = "waiting"
    share: float = 0.0
    """How much is done, 0 to 1; never falls."""
    sentence: str = ""
    """What is being done, or what came of it."""
    files: dict[str, str] = field(default_factory=dict)
    """Names of files in the folder: source, result, report."""
    details: dict[str, Any] = field(default_factory=dict)
    ended_s: float | None = None
    """Seconds since 1970."""
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def id(self) -> str:
        """What the job is found by."""
        return self.folder.name

    def check(self) -> None:
        """Called often by whoever works.

        Raises:
            Cancelled: the user does not want it any more.
        """
        if self.stop.is_set():
            raise Cancelled

    def report(self, share: float, sentence: str) -> None:
        """Note how far the work is; raises as `check`."""
        self.check()
        self.share, self.sentence = max(self.share, min(share, 1.0)), sentence


class Jobs:
    """All jobs of a page.

    Args:
        folder: where their files are.
        work: does a job and returns what came of it, as a sentence. A ValueError is a sentence for the user.
        keep_s: how long a job is kept after its end, seconds.
        max_queue: most jobs that wait.
    """

    def __init__(self, folder: Folder, work: Callable[[Job], str], keep_s: float, max_queue: int):
        self.folder, self.work, self.keep_s, self.max_queue = folder, work, keep_s, max_queue
        self.lock = threading.Condition()
        self.waiting: deque[Job] = deque()
        self.running: Job | None = None
        self.all: dict[str, Job] = {}
        self.closing = False
        self.first: Callable[[], None] = lambda: None
        for path in folder.jobs():
            if (job := _recorded(path)) is None:
                remove(path)  # was being worked on when the page ended
            else:
                self.all[job.id] = job
        self.worker = threading.Thread(target=self._work, name="jobs", daemon=True)

    def start(self, first: Callable[[], None] = lambda: None) -> None:
        """Start the thread; `first` is what it does before the first job."""
        self.first = first
        self.worker.start()

    def submit(self, owner: str | None, prepare: Callable[[Path], Any]) -> Job:
        """Add a job to the queue; `prepare` puts its inputs into its folder and returns its order.

        Raises:
            ValueError: the queue is full, or what `prepare` raises; then nothing is left of the job.
        """
        self.folder.require_room()
        with self.lock:
            self._require_room()
        job = Job(self.folder.new_job(), owner)
        try:
            job.order = prepare(job.folder)
            with self.lock:
                self._require_room()
                self.all[job.id] = job
                self.waiting.append(job)
                self.lock.notify()
        except BaseException:
            remove(job.folder)
            raise
        return job

    def _require_room(self) -> None:
        if len(self.waiting) >= self.max_queue:
            raise ValueError(
                f"{self.max_queue} jobs are waiting already, the most that this page takes; try again in a while."
            )

    def find(self, ident: str | None, owner: str | None) -> Job:
        """The job with this id.

        Raises:
            ValueError: there is none, or it belongs to another user: the same sentence, so that nothing is learnt.
        """
        job = self.all.get(ident or "")
        if job is None or job.owner != owner:
            raise ValueError(f"There is no such job. Jobs are kept for {hours(self.keep_s)} after their end.")
        return job

    def before(self, job: Job) -> int:
        """How many jobs are done before this one, the running one included."""
        with self.lock:
            place = self.waiting.index(job) if job in self.waiting else 0
            return place + (self.running is not None and self.running is not job)

    def cancel(self, ident: str | None, owner: str | None) -> Job:
        """Stop a job: a waiting one at once, a running one at its next check; its files are deleted."""
        job = self.find(ident, owner)
        with self.lock:
            job.stop.set()
            if job in self.waiting:
                self.waiting.remove(job)
                self._end(job, "cancelled", "Cancelled before it began.")
        return job

    def snapshot(self, job: Job) -> Mapping[str, Any]:
        """What a page or a program is told about a job, as plain values."""
        before = self.before(job) if job.state == "waiting" else 0
        sentence = job.sentence
        if job.state == "waiting":
            sentence = f"Waiting: {before} {'job' if before == 1 else 'jobs'} before yours." if before else "Starting."
        return {
            "job": job.id,
            "state": job.state,
            "percent": round(100 * job.share, 1),
            "sentence": sentence,
            "before": before,
            **job.details,
        }

    def _work(self) -> None:
        swept_s = 0.0
        try:
            self.first()
        except Exception:  # it fails again, with its sentence, in the job that needs it
            traceback.print_exc()
        while True:
            with self.lock:
                if not self.waiting and not self.closing:
                    self.lock.wait(SWEEP_S)
                if self.closing:
                    return
                job = self.waiting.popleft() if self.waiting else None
                self.running = job
                if job is not None:
                    job.state = "running"
            try:
                if job is not None:
                    self._do(job)
                if time.monotonic() - swept_s > SWEEP_S / 2:
                    swept_s = time.monotonic()
                    self.sweep()
            except Exception:  # of the disk, say: this thread must live, or every later job waits for ever
                traceback.print_exc()

    def _do(self, job: Job) -> None:
        start_s = time.perf_counter()
        try:
            state, sentence = "done", self.work(job)
        except Cancelled:
            state, sentence = "cancelled", "Cancelled."
        except ValueError as error:
            state, sentence = "failed", str(error)
        except OSError as error:
            traceback.print_exc()
            state, sentence = "failed", in_words_of_disk(error)
        except BaseException:  # whatever is wrong with one job, the next one is done
            traceback.print_exc()
            state, sentence = "failed", f"The program has a fault; its log says more, under job {job.id[:8]}."
        with self.lock:
            self.running = None
            self._end(job, state, sentence)
        seconds = time.perf_counter() - start_s
        print(f"latentsync: job {job.id[:8]} {state} after {seconds:.1f} s", flush=True)

    def _end(self, job: Job, state: State, sentence: str) -> None:
        job.sentence, job.ended_s, job.order = sentence, time.time(), None
        if state == "done":
            job.share = 1.0
        else:
            job.files = {}
        record = {name: getattr(job, name) for name in _RECORDED} | {"state": state}
        try:
            if state != "done":  # nothing half-made stays, and nobody needs the inputs any more
                for path in job.folder.glob("*"):
                    remove(path)
            write_json(job.folder / RECORD, record)
        except OSError:  # then the job is not found again after a restart
            traceback.print_exc()
        job.state = state  # last: who sees the end finds all of it

    def sweep(self) -> None:
        """Delete jobs that ended longer ago than they are kept, and uploads of that age."""
        for job in list(self.all.values()):
            if job.ended_s is not None and job.ended_s < time.time() - self.keep_s:
                del self.all[job.id]
                remove(job.folder)
        self.folder.remove_older(self.keep_s)

    def close(self) -> None:
        """Stop the running job and end the thread."""
        with self.lock:
            self.closing = True
            for job in (*self.waiting, *([self.running] if self.running else [])):
                job.stop.set()
            self.lock.notify()
        if self.worker.is_alive():
            self.worker.join()


def _recorded(folder: Path) -> Job | None:
    """A job that ended before the page was started; None if it had not ended."""
    try:
        values = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return Job(folder, **values, share=float(values["state"] == "done"))
    except (OSError, ValueError, TypeError):
        return None


def hours(seconds: float) -> str:
    """A time to keep things, in words."""
    value, unit = (seconds / 3600, "hour") if seconds >= 3600 else (seconds / 60, "minute")
    return f"{value:.3g} {unit}{'' if value == 1 else 's'}"
