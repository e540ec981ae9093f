"""Seconds per stage of a pipeline whose stages work side by side."""

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


class Stopwatch:
    """Adds up how long each stage worked, in any thread. Stages overlap, so the sum may exceed the time passed."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.lock = threading.Lock()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Count the block towards a stage."""
        start_s = time.perf_counter()
        try:
            yield
        finally:
            with self.lock:
                self.seconds[stage] += time.perf_counter() - start_s

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
