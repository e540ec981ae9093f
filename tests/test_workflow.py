"""What the Snakefile calls: the checked configuration, the arguments of steps, the record of a run, GPUs."""

import errno
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from latentsync import gpu_lease, workflow
from latentsync.config import VERSIONS, Config, validate
from latentsync.ledger import files
from latentsync.ledger.files import write_text
from latentsync.ledger.rows import shard_of, source_id
from latentsync.workflow import prepare


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


@pytest.mark.parametrize("folder", [".", "results", "results/demo/align_faces/media", "results/../results/x"])
def test_an_input_folder_around_or_inside_the_results_is_refused(tmp_path, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path / "results", "demo/align_faces/media/x.mp4", "x/y.mp4")
    touch(tmp_path, "results-of-others/a.mp4")
    with pytest.raises(ValueError, match="is inside them; give a folder that contains only your videos"):
        prepare({"input_dir": folder}, main_process=True)
    assert prepare({"input_dir": "results-of-others"}, main_process=True)


def test_what_is_not_taken_for_a_video_is_told_on_stderr(tmp_path, monkeypatch, capsys):
    """Even if a name is not UTF-8; on stdout it would spoil the graph that `snakemake --dag` prints there."""
    monkeypatch.chdir(tmp_path)
    touch(tmp_path / "in", "a.mp4", ".hidden.mp4", os.fsdecode(b"b\xff.txt"))
    prepare({"input_dir": "in"}, main_process=True)
    told = capsys.readouterr()
    assert told.out == "" and told.err == (
        "in: 1 videos; 1 files passed over by their names, which have rows that say so (b\\udcff.txt); "
        "1 hidden files and folders skipped\n"
    )


def test_the_speakers_file_must_exist():
    with pytest.raises(ValueError, match=r"select_clips\.speakers is 'nowhere\.csv', which is not a file"):
        prepare({"input_dir": "in", "select_clips": {"speakers": "nowhere.csv"}}, main_process=False)
    assert validate({"select_clips": {"speakers": None}})


def test_a_run_without_videos_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"input_dir is not set, so run mine has no videos; give .*synthetic_talkers"):
        prepare({"run": "mine"}, main_process=False)
    assert prepare({"input_dir": "synthetic_talkers"}, main_process=False)
    (tmp_path / "synthetic_talkers").mkdir()
    with pytest.raises(ValueError, match=r"stands for talkers .* write \./synthetic_talkers"):
        prepare({"input_dir": "synthetic_talkers"}, main_process=False)
    assert not prepare({"input_dir": "./synthetic_talkers"}, main_process=False)[0].synthetic


def test_braces_in_the_names_of_input_files_are_refused():
    """Those of folders and other values are fine: test_braces_in_paths_are_no_wildcards."""
    with pytest.raises(ValueError, match=r"select_clips\.speakers is '\{x\}\.csv'; Snakemake takes braces"):
        prepare({"input_dir": "in", "select_clips": {"speakers": "{x}.csv"}}, main_process=False)
    assert workflow.given(["{x}"])({}) == ["{x}"]


def recorded(values) -> dict[str, str]:
    """What one call finds to be new or changed; written where the rule record_inputs writes it."""
    cfg, names, staging = prepare(values, main_process=True)
    contents = {name: (staging / name).read_text() for name in names}
    for name, text in contents.items():
        write_text(Path("results", cfg.run, name), text)
    return contents


def test_only_what_changed_is_recorded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path / "in", "a.mp4", "notes.txt")
    values = {"input_dir": "in", "shards": 3}
    assert prepare(values, main_process=False)[1] == []
    assert not prepare(values, main_process=True)[0].synthetic and not (tmp_path / "results").exists()
    assert recorded(values).keys() == {"config.json", *(f"sources/0000{shard}.jsonl" for shard in range(3))}
    assert recorded(values) == {}
    touch(tmp_path / "in", "b.mp4")
    [(name, text)] = recorded(values).items()
    assert name == f"sources/{shard_of(source_id('b.mp4'), 3)}.jsonl" and '"path":"b.mp4"' in text
    assert recorded(values | {"segment": {"length_s": 4.0}}).keys() == {"config.json"}


def test_a_key_that_a_run_would_ignore_is_refused_with_the_one_to_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path / "in", "a.mp4")
    with pytest.raises(ValueError, match=r"generate.audio_track is 2, .* set resample.audio_track instead"):
        prepare({"input_dir": "in", "generate": {"audio_track": 2}}, main_process=True)


def test_a_codec_that_the_report_cannot_play_is_refused_before_any_job(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path / "in", "a.mp4")
    with pytest.raises(ValueError, match=r"^generate.codec is prores, .* set h264, hevc10 or lossless\.$"):
        prepare({"input_dir": "in", "generate": {"codec": "prores"}}, main_process=True)
    prepare({"input_dir": "in", "generate": {"codec": "lossless"}}, main_process=True)


def test_a_change_is_newer_than_a_file_that_a_server_dated_a_little_ahead(tmp_path, monkeypatch):
    """Snakemake compares times: the list of an added video must not look older than the list without it."""
    monkeypatch.chdir(tmp_path)
    touch(tmp_path / "in", "a.mp4")
    values = {"input_dir": "in", "shards": 1}
    recorded(values)
    ahead_s = time.time() + 0.3
    os.utime("results/demo/sources/00000.jsonl", (ahead_s, ahead_s))
    touch(tmp_path / "in", "b.mp4")
    _, [name], staging = prepare(values, main_process=True)
    assert (staging / name).stat().st_mtime > ahead_s


def test_outputs_of_the_future_are_refused_and_the_command_of_the_message_mends_them(tmp_path, monkeypatch):
    """After the clock was set back, nothing that changes is newer than they are."""
    monkeypatch.chdir(tmp_path)
    touch(tmp_path / "in", "a.mp4")
    values = {"input_dir": "in", "shards": 1}
    recorded(values)
    later_s = time.time() + 86_400
    os.utime("results/demo/sources/00000.jsonl", (later_s, later_s))
    with pytest.raises(ValueError, match=r"sources/00000\.jsonl and 0 other files are dated in the future") as error:
        prepare(values, main_process=True)
    assert prepare(values, main_process=False), "jobs on other machines do not compare times"
    subprocess.run(str(error.value).split("date them to now: ")[1], shell=True, check=True)
    assert recorded(values) == {}


def consents(folder, *rows):
    (folder / "consent.csv").write_text("path,scope,until,document\n" + "".join(f"{row}\n" for row in rows))
    return {"input_dir": "in", "consent": "consent.csv"}


def test_what_the_table_of_consents_says_today_is_recorded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path / "in", "a.mp4", "b.mp4")
    values = consents(tmp_path, "in/a.mp4,training,2999-01-01,", "in/b.mp4,training generation,2020-01-01,")
    written = recorded(values)
    assert json.loads(written["consent/training.json"]) == {"a.mp4": None, "b.mp4": "2020-01-01"}
    assert json.loads(written["consent/generation.json"]) == {"b.mp4": "2020-01-01"}
    assert "consent.csv" not in written["config.json"]
    renewed = recorded(consents(tmp_path, "in/a.mp4,training,,", "in/b.mp4,training generation,2020-01-01,"))
    assert renewed.keys() == {"consent/grants.json"}  # nothing to select again
    assert json.loads(renewed["consent/grants.json"])["a.mp4"]["training"]["until"] is None


@pytest.mark.parametrize("row", ["in/a.mp4,training,2020-01-01,", "in/a.mp4,generation,,", "in/c.mp4,training,,"])
def test_a_table_that_covers_nothing_stops_before_any_job(tmp_path, monkeypatch, row):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path / "in", "a.mp4")
    with pytest.raises(ValueError, match=r"consent consent.csv covers no video of in for training on \d{4}-\d\d-\d\d"):
        prepare(consents(tmp_path, row), main_process=True)


def test_the_run_record_adds_up_sessions(tmp_path):
    workflow.record_run(tmp_path, time.time() - 5, "failed")
    workflow.record_run(tmp_path, time.time() - 7, "finished")
    record = json.loads((tmp_path / "run.json").read_text())
    assert 12 <= record["wall_s"] < 13 and [s["outcome"] for s in record["sessions"]] == ["failed", "finished"]


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_damaged_run_record_is_one_sentence_and_kept(tmp_path, capsys, content):
    (tmp_path / "run.json").write_text(content)
    workflow.record_run(tmp_path, time.time(), "finished")
    assert re.fullmatch(r"The time of this call was not recorded: .*run\.json is damaged.*\n", capsys.readouterr().err)
    assert (tmp_path / "run.json").read_text() == content


def test_a_run_record_on_a_full_disk_is_one_sentence(tmp_path, capsys, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "run.json"))

    monkeypatch.setattr(workflow, "write_json", full)
    workflow.record_run(tmp_path, time.time(), "failed")
    shown = capsys.readouterr().err
    assert shown.startswith("The time of this call was not recorded: ")
    assert "run.json could not be written: the disk is full" in shown
    assert shown.count("\n") == 1


def test_a_key_changes_the_arguments_of_its_own_step_only():
    before = workflow.arguments(Config())
    after = workflow.arguments(validate({"segment": {"length_s": 4.0}}))
    assert before.keys() == VERSIONS.keys()
    assert [step for step in before if before[step] != after[step]] == ["segment"]
    name, _, section, _, version = after["segment"]
    assert (name, json.loads(section), version) == ("segment", {"length_s": 4.0}, str(VERSIONS["segment"]))


def test_files_are_named_as_the_rule_names_them():
    inputs = {"pairs": ["a 0", "a 1"], "vae": "v", "whisper": []}
    named = workflow.files({}, inputs, {"ledger": "l", "sources": ["s 0"]})
    expected = ["--input", "pairs", "a 0", "a 1", "--input", "vae", "v", "--input", "whisper"]
    assert named == [*expected, "--output", "ledger", "l", "--outputs", "sources", "s 0"]


PUBLISHED = validate({"align_faces": {"backend": "face_alignment"}, "score_sync": {"backend": "syncnet_v2"}})
EMBEDDED = validate(
    {
        "align_faces": {"backend": "mediapipe"},
        "score_sync": {"backend": "envelope"},
        "evaluate": {"sync_backend": "envelope"},
    }
)


def test_the_backend_decides_whether_a_step_uses_a_gpu():
    for step in ("align_faces", "score_sync"):
        assert gpu_lease.wanted(step, getattr(PUBLISHED, step)) and not gpu_lease.wanted(step, getattr(EMBEDDED, step))
    assert not gpu_lease.wanted("score_quality", PUBLISHED.score_quality)
    assert gpu_lease.wanted("train_vae", PUBLISHED.train_vae)


def test_jobs_need_a_gpu_only_on_a_machine_that_has_one(monkeypatch):
    monkeypatch.setattr(gpu_lease, "count", lambda: 4)
    assert {step for step, gpus in workflow.gpus(EMBEDDED).items() if gpus == 1} == {
        *("train_vae", "extract_features", "train_syncnet", "train_unet_stage1", "train_unet_stage2"),
        "generate",
    }
    published = workflow.gpus(PUBLISHED)
    for step in ("align_faces", "score_sync", "evaluate", "estimate"):
        assert published[step] == 1
    monkeypatch.setattr(gpu_lease, "count", lambda: 0)
    assert set(workflow.gpus(PUBLISHED).values()) == {0}


def test_each_job_leases_another_gpu(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_lease.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    first = gpu_lease.lease(devices=2)
    assert os.environ.pop("CUDA_VISIBLE_DEVICES") == "0"
    second = gpu_lease.lease(devices=2)
    assert os.environ.pop("CUDA_VISIBLE_DEVICES") == "1"
    first.close()
    third = gpu_lease.lease(devices=2)
    assert os.environ.pop("CUDA_VISIBLE_DEVICES") == "0"
    second.close(), third.close()
    assert gpu_lease.lease(devices=0) is None and "CUDA_VISIBLE_DEVICES" not in os.environ


def test_a_lease_that_another_process_holds_is_waited_for_aloud(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gpu_lease.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(files, "WAIT_S", 0.5)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    lock = tmp_path / "latentsync-gpu-0.lock"
    hold = "import fcntl, sys, time; file = open(sys.argv[1], 'w'); fcntl.flock(file, fcntl.LOCK_EX)\n"
    process = subprocess.Popen([sys.executable, "-c", hold + "print(flush=True); time.sleep(2)", lock], stdout=-1)
    process.stdout.readline()
    gpu_lease.lease(devices=1).close()
    assert process.wait() == 0
    process.stdout.close()
    assert f"No GPU is free: 0 is held by process {process.pid} (" in (said := capsys.readouterr().err)
    assert said.count("waiting") == 1
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")


def test_all_users_can_open_a_lock_whatever_the_umask(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_lease.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    old = os.umask(0o077)
    try:
        gpu_lease.lease(devices=1).close()
    finally:
        os.umask(old)
    [lock] = tmp_path.iterdir()
    assert lock.stat().st_mode & 0o777 == 0o444  # flock needs no more than read access
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    gpu_lease.lease(devices=1).close()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")

    def denied(*_):
        raise PermissionError

    monkeypatch.setattr(gpu_lease, "_shared", denied)
    with pytest.raises(ValueError, match="latentsync-gpu-0.lock belongs to another user"):
        gpu_lease.lease(devices=1)
