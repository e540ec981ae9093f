"""Faults of the machine in one sentence, wherever they show; /dev/full and a limit of memory are the machine."""

import errno
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from latentsync.config import Probe
from latentsync.ledger import faults
from latentsync.ledger.files import replacing, write_json, write_ledger, write_text
from latentsync.ledger.shard import Journal, run_shard
from latentsync.media.write import VideoWriter, write_flac
from tests.fixtures import source


def write_video(path):
    with VideoWriter(path, 25, 64, 64, audio=np.zeros(16_000, np.float32)) as writer:
        for _ in range(25):
            writer.write(np.zeros((64, 64, 3), np.uint8))


def write_arrays(path):
    with replacing(path) as temporary:
        np.save(temporary, np.zeros(100_000))


def write_weights(path):
    """safetensors brings its own temporary file, so its error is raised here."""
    import torch
    from safetensors import SafetensorError

    from latentsync.weights import files

    def save_file(*_, **__):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "save_file", save_file)
        files.save(path, {"a": torch.zeros(1)}, {})


def write_state(path):
    import torch

    from latentsync.training import state

    state.save(path.parent, state.step_of(path), {"a": torch.zeros(100_000)})


@pytest.mark.parametrize(
    "name, write",
    [
        ("a.txt", lambda path: write_text(path, "text")),
        ("a.json", lambda path: write_json(path, {"a": 1})),
        ("00000.jsonl", lambda path: write_ledger(path, [source("a")])),
        ("a.flac", lambda path: write_flac(path, np.zeros(160_000, np.float32))),
        ("a.mp4", write_video),
        ("a.npy", write_arrays),
        ("a.safetensors", write_weights),
        ("step-00000007.pt", write_state),
    ],
)
def test_a_full_disk_is_one_sentence_whatever_writes(tmp_path, monkeypatch, name, write):
    path = tmp_path / "run/step" / name
    path.parent.mkdir(parents=True)
    (path.parent / f".{path.stem}.part{path.suffix}").symlink_to("/dev/full")
    monkeypatch.setattr(faults, "_free", lambda _: 1200)  # torch names no reason; then the space decides
    with pytest.raises(OSError) as fault:
        write(path)
    said = faults.sentence(fault.value, tmp_path)
    assert f"run/step/{name} could not be written: the disk is full;" in said and "0.0 MB are free there" in said
    assert said.endswith("Free some space; the same command carries on.")
    assert list(path.parent.iterdir()) == []


def test_it_says_how_much_was_needed_at_least(tmp_path):
    def write():
        with replacing(tmp_path / "a.bin") as temporary:
            temporary.write_bytes(bytes(2_500_000))
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError) as fault:
        write()
    assert "it needs more than 2.5 MB" in faults.sentence(fault.value, tmp_path)


def test_a_journal_on_a_full_disk_is_named(tmp_path):
    path = tmp_path / "run/step/journal/00000.jsonl"
    with pytest.raises(OSError) as fault, Journal(path) as journal:
        journal.file = open("/dev/full", "wb", buffering=0)
        journal.append("k", [source("a")])
    assert str(path) in faults.sentence(fault.value, tmp_path)


def test_the_file_of_another_error_keeps_its_name(tmp_path):
    with pytest.raises(FileNotFoundError) as fault, replacing(tmp_path / "a.txt"):
        (tmp_path / "missing.txt").read_text()
    assert fault.value.filename == str(tmp_path / "missing.txt") and faults.sentence(fault.value, tmp_path) is None


@pytest.mark.parametrize("number, words", [(errno.EIO, "The drive of"), (errno.EACCES, "There is no permission for")])
def test_an_error_without_a_name_may_be_of_a_file_that_is_read(tmp_path, number, words):
    """Libraries leave the name out, so only a full or read-only disk is surely that of the file being written."""
    with pytest.raises(OSError) as fault, replacing(tmp_path / "a.txt"):
        raise OSError(number, "reading a video failed")
    assert f"{words} {tmp_path}/a.txt or a file that is read for it" in faults.sentence(fault.value, tmp_path)
    with pytest.raises(OSError) as fault, replacing(tmp_path / "a.txt") as temporary:
        raise OSError(number, "writing failed", str(temporary))
    said = faults.sentence(fault.value, tmp_path)
    assert f"{words} {tmp_path}/a.txt" in said and "is read" not in said


@pytest.mark.parametrize(
    "error, words",
    [
        (OSError(errno.EROFS, "Read-only file system", "x/a.txt"), ["x/a.txt", "read-only"]),
        (PermissionError(errno.EACCES, "Permission denied", "x/a.txt"), ["permission for x/a.txt", "owner"]),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), ["quota", "results/demo"]),
        (OSError(errno.EMFILE, "Too many open files"), ["Too many files", "ulimit -n"]),
        (OSError(errno.EIO, "Input/output error", "x/a.txt"), ["drive of x/a.txt fails"]),
        (MemoryError("Unable to allocate 7.45 GiB for an array"), ["Memory ran out (7.45 GiB more", "--cores 1"]),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096 bytes."), ["4096 bytes"]),
        (RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB."), ["memory of the GPU", "20.00 GiB"]),
        (ImportError("libx.so: failed to map segment from shared object"), ["Memory ran out"]),
        (RuntimeError("can't start new thread"), ["Memory ran out"]),
    ],
)
def test_other_faults_of_the_machine(error, words):
    for raised in (error, _caused_by(error)):
        said = faults.sentence(raised, Path("results/demo"))
        assert all(word in said for word in words), said


def _caused_by(error):
    try:
        raise RuntimeError("while reading") from error
    except RuntimeError as outer:
        return outer


@pytest.mark.parametrize(
    "error",
    [ValueError("out of memory"), KeyError("a"), RuntimeError("shape mismatch"), FileNotFoundError(2, "No such file")],
)
def test_other_errors_are_not_the_machine(error):
    assert faults.sentence(error, Path("results/demo")) is None


def test_a_step_with_too_little_memory_ends_with_the_limit(tmp_path):
    run_shard(tmp_path / "run/segment/00000.jsonl", [source("a")], Probe(), 1, lambda row, key: [row])
    steps = f'{sys.executable} -m latentsync.steps align_faces --config \'{{"backend":"mediapipe"}}\''
    steps += " --input segment run/segment/00000.jsonl --output ledger run/align_faces/00000.jsonl --sources ."
    done = subprocess.run(
        ["bash", "-c", f"ulimit -v 400000; {steps}"],
        cwd=tmp_path, env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "align_faces: Memory ran out" in done.stderr and "may use 410 MB (`ulimit -v`)" in done.stderr
