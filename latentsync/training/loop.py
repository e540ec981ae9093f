"""The one training loop: mixed precision, several processes, accumulation, clipping, warm-up, EMA, exact resume.

Everything random follows from (seed, sample number) or (seed, rank, step), never from earlier draws. A state
therefore holds no position in a random stream, and a resumed run ends with the same bytes as an uninterrupted one (on
one type of CPU, with one number of threads).
"""

import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from latentsync.config import Training
from latentsync.ledger.files import write_text
from latentsync.training import state as states

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # the latter is SLURM's warning of the time limit
VALIDATION = 2**31  # takes the place of the step in a seed; no training has that many


@dataclass
class Context:
    """What a loss function gets besides the model and the batch."""

    device: torch.device
    generator: torch.Generator
    """Seeded from (seed, rank, step); on the CPU, so that noise is the same on every device."""
    log: bool = False
    """A row of the curve is due: compute expensive figures only then."""
    figures: dict[str, float] = field(default_factory=dict)
    """Numbers for the row of the curve that are not losses."""


@dataclass
class Task:
    """What is trained: the only difference between the four trainings."""

    step: str
    """Name of the step and of its config section."""
    model: nn.Module
    """Parameters with requires_grad are trained. Losses call the whole model, so that processes share gradients."""
    item: Callable[[int, np.random.Generator], dict[str, np.ndarray]]
    """(sample number, generator seeded from (seed, sample number)) -> arrays of one item; stacked to a batch."""
    losses: Callable[[nn.Module, dict[str, Tensor], Context], dict[str, Tensor]]
    """Named scalar losses of a batch; a loss without an item in this batch is left out."""
    weights: Mapping[str, float]
    """Every possible loss; the total is the sum of losses times these."""
    validate: Callable[[nn.Module, Context], dict[str, float]] | None = None
    """Figures on fixed data, computed whenever a state is saved and at the end."""


class Progress:
    """Finished steps, rows of the curve, and sums since the last row."""

    def __init__(self) -> None:
        self.step, self.validated = 0, 0
        self.rows: dict[int, dict[str, float]] = {}
        self.sums: dict[str, tuple[float, int]] = {}

    def add(self, values: Mapping[str, float]) -> None:
        """Count one more step with these losses."""
        self.step += 1
        for name, value in values.items():
            total, n = self.sums.get(name, (0.0, 0))
            self.sums[name] = total + value, n + 1

    def note(self, figures: Mapping[str, float]) -> None:
        """Put figures, if there are any, into the row of this step."""
        if figures:
            self.rows.setdefault(self.step, {}).update(figures)

    def flush(self) -> None:
        """Put the mean losses since the last row into the row of this step."""
        self.note({name: total / n for name, (total, n) in self.sums.items()})
        self.sums = {}


def fit(task: Task, cfg: Training, *, folder: Path, data: Mapping[str, Any], curve: Path) -> None:
    """Train `task.model` in place (EMA: it ends with the averaged weights) and write the loss curve.

    The caller holds `state.only_writer(folder)`. `data`: what the training data and input files are, by name.

    Raises:
        ValueError: a loss is not finite, or the precision needs a GPU.
        SystemExit: SIGTERM or SIGUSR1 came, and a state is saved.
    """
    trainer = _Trainer(task, cfg, folder, data)
    progress = trainer.progress
    started, first = time.perf_counter(), progress.step
    with _stop_signals() as stop:
        for batches in trainer.batches():
            log = (progress.step + 1) % cfg.log_every == 0
            context = trainer.context(progress.step, log=log or progress.step + 1 == cfg.steps)
            values, stopped = trainer.agree(trainer.step(batches, context), stop)
            trainer.require_finite(values)
            progress.add(values)
            if log:
                progress.flush()
            progress.note(context.figures)
            if log:
                steps_per_s = (progress.step - first) / (time.perf_counter() - started)
                row = _listed(progress.rows[progress.step])
                _say(f"{task.step}: step {progress.step} of {cfg.steps}, {row}, {steps_per_s:.2f} steps/s")
            if progress.step % cfg.save_every == 0:
                trainer.validate()
            if progress.step % cfg.save_every == 0 or progress.step == cfg.steps or stopped:
                trainer.save()
            if stopped and progress.step < cfg.steps:
                _say(f"{task.step}: stopped by a signal after step {progress.step}; the same command resumes there.")
                raise SystemExit(128 + signal.SIGTERM)
    progress.flush()
    trainer.validate()
    if trainer.ema:
        trainer.ema.copy_to(trainer.trained)
    trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False).eval()
    if is_main():
        write_text(curve, curve_csv(progress.rows))


def device() -> torch.device:
    """Where this process trains."""
    return states.ranks().device  # pyright: ignore[reportReturnType]  # accelerate sets it


def is_main() -> bool:
    """True on the one process that writes files."""
    return states.ranks().is_main_process


def curve_csv(rows: Mapping[int, Mapping[str, float]]) -> str:
    """The loss curve: column `step`, then one column for every figure; blank where a row has none."""
    by_content = sorted(rows.values(), key=lambda row: "loss" not in row)  # losses first, then rarer figures
    names = list(dict.fromkeys(name for row in by_content for name in row))
    lines = [",".join(["step", *names])]
    for step, row in sorted(rows.items()):
        lines.append(",".join([str(step), *(f"{row[name]:.6g}" if name in row else "" for name in names)]))
    return "\n".join(lines) + "\n"


class _Trainer:
    """Everything that is trained and saved, and one step of it."""

    def __init__(self, task: Task, cfg: Training, folder: Path, data: Mapping[str, Any]):
        torch.set_num_threads(cfg.torch_threads)
        if cfg.mixed_precision == "fp16" and device().type == "cpu":
            raise ValueError(
                f"{task.step}.mixed_precision is fp16, which needs a GPU, and there is none; set it to no."
            )
        self.task, self.cfg, self.progress = task, cfg, Progress()
        self.accelerator = Accelerator(mixed_precision=cfg.mixed_precision, gradient_accumulation_steps=cfg.accumulate)
        self.trained = [parameter for parameter in task.model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(self.trained, lr=cfg.learning_rate, weight_decay=cfg.weight_decay)
        self.model, self.optimizer = self.accelerator.prepare(task.model, optimizer)
        self.ema = None
        if cfg.ema_decay is not None:
            from diffusers.training_utils import EMAModel  # takes seconds to import

            self.ema = EMAModel(self.trained, decay=cfg.ema_decay)
        self.folder = states.folder_of(folder, states.fits(task.step, cfg, data))
        if (content := states.latest(self.folder, cfg.steps)) is not None:
            self._restore(content)

    def _restore(self, content: dict[str, Any]) -> None:
        self.accelerator.unwrap_model(self.model).load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(content["scaler"])
        if self.ema:
            self.ema.load_state_dict(content["ema"])
            self.ema.to(self.accelerator.device)
        vars(self.progress).update(content["progress"])

    def save(self) -> None:
        """Save a resumable state, unless this step has one."""
        if not is_main() or (self.folder / states.name(self.progress.step)).exists():
            return
        scaler = self.accelerator.scaler
        content = {
            "model": self.accelerator.unwrap_model(self.model).state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else None,
            "ema": self.ema.state_dict() if self.ema else None,
            "progress": vars(self.progress),
        }
        states.save(self.folder, self.progress.step, content)

    def context(self, step: int, log: bool = False) -> Context:
        """Seed everything that draws in this step, dropout included, from (seed, rank, step)."""
        seed = np.random.SeedSequence([self.cfg.seed, self.accelerator.process_index, step]).generate_state(2)
        torch.manual_seed(int(seed[0]))
        return Context(self.accelerator.device, torch.Generator().manual_seed(int(seed[1])), log)

    def batches(self) -> Iterator[list[dict[str, Tensor]]]:
        """The micro-batches of every step still to do, on the device; threads prepare the next ones."""
        cfg, rank, world = self.cfg, self.accelerator.process_index, self.accelerator.num_processes
        threads = _spare_cores(cfg.torch_threads)
        share = -(-cfg.batch_size // threads)

        def some_items(first: int, stop: int) -> list[dict[str, np.ndarray]]:
            return [self.task.item(n, np.random.default_rng([cfg.seed, n])) for n in range(first, stop)]

        def prepare(step: int) -> list[dict[str, np.ndarray]]:
            micro_batches = []
            for micro in range(step * cfg.accumulate, (step + 1) * cfg.accumulate):
                first = (micro * world + rank) * cfg.batch_size
                stop = first + cfg.batch_size
                # Neighbours stay in one thread: they often need the same clip, which is then decoded once.
                parts = [workers.submit(some_items, n, min(n + share, stop)) for n in range(first, stop, share)]
                items = [item for part in parts for item in part.result()]
                micro_batches.append({name: np.stack([item[name] for item in items]) for name in items[0]})
            return micro_batches

        with ThreadPoolExecutor(threads) as workers, ThreadPoolExecutor(1) as ahead:
            upcoming = ahead.submit(prepare, self.progress.step) if self.progress.step < cfg.steps else None
            for step in range(self.progress.step + 1, cfg.steps + 1):
                assert upcoming is not None
                arrays = upcoming.result()
                upcoming = ahead.submit(prepare, step) if step < cfg.steps else None
                yield [
                    {name: torch.from_numpy(array).to(self.accelerator.device) for name, array in batch.items()}
                    for batch in arrays
                ]

    def step(self, batches: list[dict[str, Tensor]], context: Context) -> dict[str, list[Tensor]]:
        """One optimiser step; the detached losses of every micro-batch, with their weighted sum as `loss`."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.cfg.learning_rate * lr_factor(self.cfg, self.progress.step)
        self.model.train()
        values: dict[str, list[Tensor]] = {}
        for batch in batches:
            with self.accelerator.accumulate(self.model):
                with self.accelerator.autocast():
                    losses = self.task.losses(self.model, batch, context)
                total = sum(self.task.weights[name] * loss for name, loss in losses.items())
                self.accelerator.backward(total)
                if self.accelerator.sync_gradients:
                    self.accelerator.clip_grad_norm_(self.trained, self.cfg.max_grad_norm)
                self.optimizer.step()
                self.optimizer.zero_grad()
            for name, loss in {"loss": total, **losses}.items():
                values.setdefault(name, []).append(loss.detach().float())
        if self.ema:
            self.ema.step(self.trained)
        return values

    def agree(self, values: dict[str, list[Tensor]], stop: list[int]) -> tuple[dict[str, float], bool]:
        """Mean losses over micro-batches and processes, and whether a signal reached any process."""
        names = ["loss", *self.task.weights]
        zero = torch.zeros((), device=self.accelerator.device)
        sums = [sum(values.get(name, []), zero) for name in names]
        counts = [zero + len(values.get(name, [])) for name in names]
        totals = self.accelerator.reduce(torch.stack([*sums, *counts, zero + len(stop)]), "sum")
        numbers = cast(Tensor, totals).tolist()
        means = zip(names, numbers, numbers[len(names) :], strict=False)
        return {name: total / n for name, total, n in means if n}, numbers[-1] > 0

    def require_finite(self, values: Mapping[str, float]) -> None:
        """Raise on the first non-finite loss, before anything is saved."""
        for name, value in values.items():
            if not math.isfinite(value):
                last = states.saved(self.folder)
                raise ValueError(
                    f"{name} became {value} at step {self.progress.step + 1}; the last good state is "
                    f"{last[-1] if last else 'the start'}. Lower {self.task.step}.learning_rate or max_grad_norm, or "
                    "use mixed_precision no or bf16."
                )

    def validate(self) -> None:
        """Note figures on fixed data, with the averaged weights where there are any."""
        if not self.task.validate or self.progress.validated == self.progress.step:
            return
        self.progress.validated = self.progress.step
        model = self.accelerator.unwrap_model(self.model).eval()
        if self.ema:
            self.ema.store(self.trained)
            self.ema.copy_to(self.trained)
        with torch.no_grad(), self.accelerator.autocast():
            figures = self.task.validate(model, self.context(VALIDATION))
        self.progress.note(figures)
        _say(f"{self.task.step}: after step {self.progress.step} on held-out data: {_listed(figures)}")
        if self.ema:
            self.ema.restore(self.trained)


def _spare_cores(torch_threads: int) -> int:
    """Threads that prepare items: the cores this process may use, less those that compute, at least one."""
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # torchrun's processes on this machine
    return max(1, len(os.sched_getaffinity(0)) // beside - torch_threads)


def lr_factor(cfg: Training, step: int) -> float:
    """Factor of the learning rate, 0..1: linear warm-up, constant, linear cool-down to the end."""
    warm_up = (step + 1) / cfg.warmup_steps if cfg.warmup_steps else 1.0
    cool_down = (cfg.steps - step) / cfg.cooldown_steps if cfg.cooldown_steps else 1.0
    return min(1.0, warm_up, cool_down)


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collect stop signals instead of ending the process."""
    received: list[int] = []
    handlers = {number: signal.signal(number, lambda number, _: received.append(number)) for number in STOP_SIGNALS}
    try:
        yield received
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _listed(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in figures.items())


def _say(text: str) -> None:
    if is_main():
        print(text, file=sys.stderr, flush=True)
