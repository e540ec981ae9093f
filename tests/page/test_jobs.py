"""The queue of the page, without Gradio and without networks."""

import errno
import json
import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from latentsync.generation.progress import Progress
from latentsync.page.folder import MARKER, NO_ROOM, Folder
from latentsync.page.jobs import RECORD, Jobs
from latentsync.page.work import Reporter


@pytest.fixture
def folder(tmp_path):
    own = Folder(tmp_path / "page")
    yield own
    own.close()


@pytest.fixture
def queue(folder):
    """`queue(work)` is a queue at work."""
    opened = []

    def new(work, keep_s=3600.0, max_queue=4):
        jobs = Jobs(folder, work, keep_s, max_queue)
        jobs.start()
        opened.append(jobs)
        return jobs

    yield new
    for jobs in opened:
        jobs.close()


def until(condition):
    start_s = time.monotonic()
    while not condition():
        assert time.monotonic() - start_s < 10
        time.sleep(0.005)


def write(folder):
    (folder / "in.mp4").write_text("video")


def steady(go):
    """Work that goes on until it is told to end, and notices when it is cancelled."""

    def work(job):
        while not go.is_set():
            job.check()
            time.sleep(0.002)
        (job.folder / "out.mp4").write_text("result")
        job.files = {"result": "out.mp4"}
        return "Made."

    return work


def test_jobs_are_done_in_order_and_say_how_many_are_before(queue):
    go = threading.Event()
    jobs = queue(steady(go))
    first, second, third = (jobs.submit(None, write) for _ in range(3))
    until(lambda: first.state == "running")
    assert [jobs.before(job) for job in (first, second, third)] == [0, 1, 2]
    assert jobs.snapshot(third)["sentence"] == "Waiting: 2 jobs before yours."
    go.set()
    until(lambda: third.state == "done")
    assert first.ended_s <= second.ended_s <= third.ended_s
    assert jobs.snapshot(third) | {"job": ""} == {
        "job": "", "state": "done", "percent": 100.0, "sentence": "Made.", "before": 0,
    }  # fmt: skip


def test_a_cancelled_job_leaves_nothing_and_the_next_one_begins(queue):
    go = threading.Event()
    jobs = queue(steady(go))
    running, waiting, last = (jobs.submit(None, write) for _ in range(3))
    until(lambda: running.state == "running")
    jobs.cancel(waiting.id, None)
    assert waiting.state == "cancelled" and jobs.before(last) == 1
    start_s = time.monotonic()
    jobs.cancel(running.id, None)
    until(lambda: last.state == "running")
    assert time.monotonic() - start_s < 0.5 and running.state == "cancelled"
    for job in (running, waiting):
        assert [path.name for path in job.folder.iterdir()] == [RECORD]
    go.set()


def test_a_full_queue_refuses_in_one_sentence_and_keeps_no_files(queue, folder):
    jobs = queue(steady(threading.Event()), max_queue=1)
    running = jobs.submit(None, write)
    until(lambda: running.state == "running")
    jobs.submit(None, write)
    with pytest.raises(ValueError, match="1 jobs are waiting already, the most that this page takes"):
        jobs.submit(None, write)
    assert len(folder.jobs()) == 2


def test_an_input_that_cannot_be_prepared_is_no_job(queue, folder):
    def prepare(path):
        raise OSError("the disk is full")

    jobs = queue(steady(threading.Event()))
    with pytest.raises(OSError, match="disk is full"):
        jobs.submit(None, prepare)
    assert not folder.jobs() and not jobs.all


def test_a_job_belongs_to_who_knows_it_and_to_its_user(queue):
    jobs = queue(steady(threading.Event()))
    job = jobs.submit("ann", write)
    assert jobs.find(job.id, "ann") is job
    for ident, user in ((job.id, "bob"), (job.id, None), (job.id[:-1] + "x", "ann"), ("", "ann"), (None, "ann")):
        with pytest.raises(ValueError, match="There is no such job"):
            jobs.cancel(ident, user)
    assert not job.stop.is_set() and len(job.id) == 32


def test_a_fault_in_one_job_is_one_sentence_and_no_end(queue, capfd):
    def work(job):
        if job.owner == "zero":
            return str(1 / 0)
        raise ValueError("The video shows no face.")

    jobs = queue(work)
    broken, wrong = jobs.submit("zero", write), jobs.submit(None, write)
    until(lambda: wrong.state == "failed")
    assert wrong.sentence == "The video shows no face."
    assert broken.sentence == f"The program has a fault; its log says more, under job {broken.id[:8]}."
    assert "ZeroDivisionError" in capfd.readouterr().err
    assert not (broken.folder / "in.mp4").exists()


def test_a_full_disk_is_one_sentence_without_paths_and_no_end(queue, folder, monkeypatch):
    def work(job):
        if job.owner == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/somewhere/secret.mp4")
        shutil.rmtree(job.folder)  # the record cannot be written any more
        raise ValueError("Its folder is gone.")

    monkeypatch.setattr(folder, "remove_older", lambda age_s: 1 / 0)
    monkeypatch.setattr("latentsync.page.jobs.SWEEP_S", 0.0)
    jobs = queue(work)
    full, gone = jobs.submit("full", write), jobs.submit(None, write)
    until(lambda: gone.state == "failed")
    last = jobs.submit("full", write)
    until(lambda: last.state == "failed")
    assert full.sentence == last.sentence == NO_ROOM and gone.sentence == "Its folder is gone."
    monkeypatch.setattr("latentsync.page.folder.LEAST_FREE", 10**18)
    with pytest.raises(ValueError, match="The disk of this page is full; try again later"):
        jobs.submit(None, write)


def test_uploads_that_go_while_they_are_looked_at_are_no_fault(folder, monkeypatch):
    (folder.path / "upload").mkdir()
    (folder.path / "upload/clip.mp4").touch()
    lstat = Path.lstat

    def gone(path):
        if path.name == "clip.mp4":
            raise FileNotFoundError(path)
        return lstat(path)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "lstat", gone)
        folder.remove_older(-10)
    assert (folder.path / "upload").is_dir()


def test_finished_jobs_survive_a_restart_and_interrupted_ones_do_not(tmp_path):
    own, go = Folder(tmp_path / "page"), threading.Event()
    go.set()
    jobs = Jobs(own, steady(go), 3600.0, 4)
    jobs.start()
    done = jobs.submit("ann", write)
    until(lambda: done.state == "done")
    jobs.close()
    stopped = own.new_job()  # as kill -9 leaves a job that is at work
    write(stopped)
    own.close()
    again = Folder(tmp_path / "page")
    found = Jobs(again, steady(go), 3600.0, 4)
    assert found.find(done.id, "ann").sentence == "Made." and found.find(done.id, "ann").share == 1.0
    assert (done.folder / "out.mp4").exists() and not stopped.exists()
    assert again.secret == own.secret
    again.close()


def test_what_is_old_is_deleted_and_nothing_else(queue, folder):
    jobs = queue(steady(go := threading.Event()), keep_s=60.0)
    go.set()
    old, new = jobs.submit(None, write), jobs.submit(None, write)
    until(lambda: new.state == "done")
    old.ended_s -= 61
    for name, age_s in (("upload-old", 61), ("upload-new", 0), ("examples", 1000)):
        file = folder.path / name / "clip.mp4"
        file.parent.mkdir()
        file.write_text("x")
        for path in (file, file.parent):
            os.utime(path, (time.time() - age_s,) * 2)
    jobs.sweep()
    assert {path.name for path in folder.path.iterdir()} == {MARKER, new.id, "upload-new", "examples"}
    with pytest.raises(ValueError, match="Jobs are kept for 1 minute after"):
        jobs.find(old.id, None)


def test_on_a_full_disk_uploads_that_no_job_took_go_sooner(folder, monkeypatch):
    for name, age_s in (("waiting", 700), ("coming", 30)):
        (folder.path / name).mkdir()
        os.utime(folder.path / name, (time.time() - age_s,) * 2)
    folder.remove_older(3600)
    assert (folder.path / "waiting").is_dir()
    monkeypatch.setattr("latentsync.page.folder.LEAST_FREE", 10**18)
    folder.remove_older(3600)
    assert not (folder.path / "waiting").exists() and (folder.path / "coming").is_dir()


def test_a_folder_of_somebody_else_is_refused(tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters/a.txt").write_text("dear")
    with pytest.raises(ValueError, match="letters holds files that are not of a page"):
        Folder(tmp_path / "letters")
    with pytest.raises(ValueError, match=r"a.txt is a file; give a folder"):
        Folder(tmp_path / "letters/a.txt")
    own = Folder(tmp_path / "page")
    with pytest.raises(ValueError, match="is used by a page that runs already"):
        Folder(tmp_path / "page")
    assert own.path.stat().st_mode & 0o077 == 0
    own.close()
    Folder(tmp_path / "page").close()


def test_progress_only_grows_and_says_how_long_it_takes(folder):
    from latentsync.page.jobs import Job

    job, clock = Job(folder.new_job(), None), iter(range(100))
    report = Reporter(job, lambda: float(next(clock)))
    shares, sentences = [], []
    stages = [("demonstration weights", 0, 0)]
    stages += [("finding faces", done, 100) for done in (0, 50, 100)]
    stages += [("redrawing mouths", done, 200) for done in (0, 100, 200)]
    for stage in stages:
        report(Progress(*stage))
        shares.append(job.share)
        sentences.append(job.sentence)
    assert shares == sorted(shares) and shares[0] == 0 and round(shares[3], 9) == 0.2 and 0.9 < shares[-1] < 1
    assert sentences[0] == "Demonstration weights."
    assert sentences[2] == "Finding faces: 50 of 100 frames, 50.0 a second, about 1 s left of this step."
    assert sentences[5] == "Redrawing mouths: 100 of 200 frames, 100.0 a second, about 1 s left."
    assert json.loads(json.dumps(job.details)) == {}
