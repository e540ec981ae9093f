"""Seconds per stage of a pipeline whose stages work side by side."""

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


class Stopwatch:
    """Adds up how long each stage worked, in any thread. Stages overlap, so the sum may exceed the time passed."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.lock = threading.Lock()
        self.on_gpu: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Count the block towards a stage."""
        start_s = time.perf_counter()
        try:
            yield
        finally:
            with self.lock:
                self.seconds[stage] += time.perf_counter() - start_s

    @contextmanager
    def on(self, device: "torch.device", stage: str) -> Iterator[None]:
        """Count what the block asks of a device towards a stage; a GPU works on it later, and its own time counts."""
        if device.type != "cuda":
            with self(stage):
                yield
            return
        import torch

        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        try:
            yield
        finally:
            end.record()
            self.on_gpu.append((stage, start, end))

    def settle(self) -> None:
        """Wait for the GPU, and add what it took."""
        for stage, start, end in self.on_gpu:
            end.synchronize()
            self.seconds[stage] += start.elapsed_time(end) / 1000
        self.on_gpu.clear()

    def over(self, stage: str, items: Iterator[T]) -> Iterator[T]:
        """The items; the time until each one comes counts towards a stage."""
        while True:
            with self(stage):
                item = next(items, None)
            if item is None:
                return
            yield item

    def rounded(self) -> dict[str, float]:
        """Seconds of each stage, in the order in which stages first ended."""
        return {stage: round(seconds, 3) for stage, seconds in self.seconds.items()}
