"""The training loop on a toy net: what resumes, what stops, and that the bytes do not depend on interruptions."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from latentsync.config import Training
from latentsync.training import loop, state

CFG = Training(
    steps=12, batch_size=3, learning_rate=0.05, warmup_steps=3, cooldown_steps=4, mixed_precision="no", log_every=5,
    save_every=4, torch_threads=1, ema_decay=0.9, accumulate=2,
)  # fmt: skip

QUICK = CFG.model_copy(update={"ema_decay": None})  # EMA takes eight seconds to import


class Toy(nn.Module):
    """Dropout, so that a resumed run shows whether the random numbers are the same."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 1))

    def forward(self, x):
        return self.layers(x)


def toy_task(event=lambda number: None, spoil_from=None):
    """`event(number)` happens while a sample is prepared; from sample `spoil_from` on the target is NaN."""

    def item(number, rng):
        event(number)
        x = rng.normal(size=4).astype(np.float32)
        target = np.float32(np.nan) if spoil_from is not None and number >= spoil_from else x.sum()
        return {"x": x, "y": np.array([target], dtype=np.float32)}

    def losses(model, batch, context):
        noise = torch.randn(batch["y"].shape, generator=context.generator)
        error = model(batch["x"]) - batch["y"] - 0.1 * noise
        if context.log:
            context.figures["grad"] = 1.0
        return {"square": error.square().mean(), "absolute": error.abs().mean()}

    def validate(model, context):
        x = torch.randn(64, 4, generator=context.generator)
        return {"val_square": (model(x)[:, 0] - x.sum(1)).square().mean().item()}

    return loop.Task("train_vae", Toy(), item, losses, {"square": 1.0, "absolute": 0.5}, validate)


def train(folder: Path, cfg=CFG, data="clips", **kwargs) -> None:
    """Train the toy and write what a step would."""
    task = toy_task(**kwargs)
    with state.only_writer(folder / "state"):
        loop.fit(task, cfg, folder=folder / "state", data={"train": data}, curve=folder / "curve.csv")
        save_file(task.model.state_dict(), folder / "weights.safetensors")


def outcome(folder: Path) -> tuple[bytes, bytes]:
    return (folder / "weights.safetensors").read_bytes(), (folder / "curve.csv").read_bytes()


def states(folder: Path) -> list[int]:
    return sorted(state.step_of(path) for path in (folder / "state").glob("*/step-*.pt"))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    train(folder)
    return folder


class Stop(BaseException):
    pass


def at(number, action):
    def event(n):
        if n == number:
            action()

    return event


def raise_stop():
    raise Stop


def test_it_learns_and_writes_a_curve(tmp_path, uninterrupted):
    lines = (uninterrupted / "curve.csv").read_text().splitlines()
    assert lines[0] == "step,loss,square,absolute,grad,val_square"
    rows = [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]]
    assert [int(row["step"]) for row in rows] == [4, 5, 8, 10, 12]
    assert rows[0]["loss"] == "" and rows[0]["val_square"] != ""
    assert float(rows[1]["loss"]) == pytest.approx(
        float(rows[1]["square"]) + 0.5 * float(rows[1]["absolute"]), rel=1e-4
    )
    long = CFG.model_copy(update={"steps": 300, "save_every": 1000})
    train(tmp_path, long)
    figures = (tmp_path / "curve.csv").read_text().splitlines()
    column = figures[0].split(",").index("val_square")
    assert float(figures[-1].split(",")[column]) < 0.5 < float(rows[0]["val_square"])


def test_a_run_interrupted_anywhere_ends_with_the_same_bytes(tmp_path, uninterrupted):
    for number in (6 * 4 + 1, 6 * 9):  # six samples a step: in the fifth and in the tenth step
        with pytest.raises(Stop):
            train(tmp_path, event=at(number, raise_stop))
    assert states(tmp_path) == [4, 8]
    prepared = []
    train(tmp_path, event=prepared.append)
    assert min(prepared) == 6 * 8, "it must carry on after step 8, not start again"
    assert outcome(tmp_path) == outcome(uninterrupted)
    assert states(tmp_path) == [8, 12], "the newest two are kept"
    train(tmp_path, event=lambda _: pytest.fail("a finished training has nothing to prepare"))
    assert outcome(tmp_path) == outcome(uninterrupted)


def test_kill_9_of_the_process_and_the_same_command_again(tmp_path):
    command = [sys.executable, __file__, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    uninterrupted = tmp_path / "uninterrupted"
    train(uninterrupted, QUICK)
    killed = subprocess.run(command, env=environment | {"KILL_AT": str(6 * 6)}, timeout=200)
    assert killed.returncode == -signal.SIGKILL and states(tmp_path) == [4]
    assert not (tmp_path / "weights.safetensors").exists()
    subprocess.run(command, env=environment, check=True, timeout=200)
    assert outcome(tmp_path) == outcome(uninterrupted)


def test_sigterm_saves_a_state_and_exits_non_zero(tmp_path, uninterrupted):
    before = signal.getsignal(signal.SIGTERM)  # the command line, called by another test, leaves its own
    with pytest.raises(SystemExit) as stopped:
        train(tmp_path, event=at(6 * 5, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    assert stopped.value.code == 128 + signal.SIGTERM
    assert states(tmp_path)[-1] in (5, 6)  # the sample was prepared one step ahead
    assert signal.getsignal(signal.SIGTERM) == before
    train(tmp_path)
    assert outcome(tmp_path) == outcome(uninterrupted)


def test_another_fingerprint_never_resumes_and_says_so(tmp_path, capfd):
    train(tmp_path)
    slower = CFG.model_copy(update={"learning_rate": 0.04})
    for change, named in (
        ({"data": "other clips"}, "other train (data)"),
        ({"data": "other clips", "cfg": slower}, "other learning_rate"),
    ):
        prepared = []
        train(tmp_path, event=prepared.append, **change)
        assert min(prepared) == 0
        assert (
            f"step-00000012.pt does not fit ({named}), so training starts from scratch; it is kept.\n"
            in capfd.readouterr().err
        )
    assert len(list((tmp_path / "state").glob("*/"))) == 3, "the others' states are left alone"
    for note in (tmp_path / "state").glob("*/fits.json"):
        note.unlink()
    train(tmp_path, data="third clips")
    assert (
        "does not fit (it does not say what it fits), so training starts from scratch; it is kept.\n"
        in capfd.readouterr().err
    )


def test_how_often_rows_and_states_are_written_is_no_reason_to_start_anew(tmp_path, uninterrupted):
    with pytest.raises(Stop):
        train(tmp_path, event=at(6 * 9, raise_stop))
    prepared = []
    train(tmp_path, CFG.model_copy(update={"log_every": 2, "save_every": 6}), event=prepared.append)
    assert min(prepared) == 6 * 8
    assert outcome(tmp_path)[0] == outcome(uninterrupted)[0]
    rows = [int(line.split(",")[0]) for line in outcome(tmp_path)[1].decode().splitlines()[1:]]
    assert rows == [4, 5, 8, 10, 12], "the rows there were, then the new ones"


def test_a_training_carries_on_on_another_sort_of_gpu(monkeypatch):
    a = state.fits("train_vae", CFG, {})
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "another")
    assert state.fits("train_vae", CFG, {}) != a
    gpu = SimpleNamespace(device=torch.device("cuda", 1), num_processes=1)
    monkeypatch.setattr(state, "ranks", lambda: gpu)
    assert state.fits("train_vae", CFG, {})["processor"] == "cuda"


def test_threads_that_prepare_items_change_no_byte(tmp_path, uninterrupted, monkeypatch):
    used = set()
    monkeypatch.setattr(loop, "_spare_cores", lambda torch_threads: 2)

    def event(number):
        used.add(threading.get_ident())
        time.sleep(0.002 * (number % 3 == 0))  # the first of three is ready last

    train(tmp_path, event=event)
    assert len(used) == 2 and outcome(tmp_path) == outcome(uninterrupted)


def test_items_get_the_cores_that_do_not_compute(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(32)))
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert loop._spare_cores(2) == 30 and loop._spare_cores(40) == 1
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert loop._spare_cores(2) == 2


def test_a_longer_training_continues_a_shorter_one(tmp_path):
    constant = CFG.model_copy(update={"cooldown_steps": 0})
    train(tmp_path / "once", constant.model_copy(update={"steps": 20}))
    train(tmp_path / "twice", constant)
    prepared = []
    train(tmp_path / "twice", constant.model_copy(update={"steps": 20}), event=prepared.append)
    assert min(prepared) == 6 * 12
    weights = [load_file(tmp_path / name / "weights.safetensors") for name in ("once", "twice")]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_a_loss_that_is_no_number_stops_with_a_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"loss became nan at step 7; .*step-00000004\.pt.*train_vae\.learning_rate"):
        train(tmp_path, spoil_from=6 * 6)
    assert states(tmp_path) == [4] and not (tmp_path / "curve.csv").exists()


def test_fp16_without_a_gpu_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "device", lambda: torch.device("cpu"))
    with pytest.raises(ValueError, match=r"train_vae\.mixed_precision is fp16, which needs a GPU"):
        train(tmp_path, CFG.model_copy(update={"mixed_precision": "fp16"}))


def test_the_newcomer_waits_for_the_survivor(tmp_path):
    (tmp_path / "state").mkdir()
    with open(tmp_path / "state" / "lock", "w") as survivor:
        fcntl.flock(survivor, fcntl.LOCK_EX)
        entered = threading.Event()

        def newcomer():
            with state.only_writer(tmp_path / "state"):
                entered.set()

        thread = threading.Thread(target=newcomer)
        thread.start()
        assert not entered.wait(0.5)
        fcntl.flock(survivor, fcntl.LOCK_UN)
        assert entered.wait(10)
        thread.join()


if __name__ == "__main__":
    kill_at = int(os.environ.get("KILL_AT", -1))
    train(Path(sys.argv[1]), QUICK, event=at(kill_at, lambda: os.kill(os.getpid(), signal.SIGKILL)))
