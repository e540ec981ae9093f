"""How far a generation is, for people: a bar on a terminal, otherwise a line every half minute."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO

from tqdm import tqdm

EVERY_S = 30.0


@dataclass(frozen=True)
class Progress:
    """A stage, and how many of its frames are done."""

    stage: str
    """What is being done, e.g. "redrawing mouths"."""
    done: int = 0
    total: int = 0
    """Frames; 0: a sentence of its own, without a count."""


Report = Callable[[Progress], None]


def silent(_: Progress) -> None:
    """Report nothing."""


class Pace:
    """How fast a stage goes, and how long it still takes at that pace."""

    def __init__(self) -> None:
        self.stage, self.start_s, self.first = "", 0.0, 0

    def of(self, progress: Progress, now_s: float) -> tuple[float, float] | None:
        """(frames a second, seconds left), None before the first frame and after the last one of a stage."""
        if progress.stage != self.stage:
            self.stage, self.start_s, self.first = progress.stage, now_s, progress.done
        n, elapsed_s = progress.done - self.first, now_s - self.start_s
        if n <= 0 or elapsed_s <= 0 or progress.done >= progress.total:
            return None
        return n / elapsed_s, elapsed_s / n * (progress.total - progress.done)


class Printed:
    """Prints progress to a stream: a bar with the time that is left on a terminal, otherwise a line every 30 s."""

    def __init__(self, name: str = "latentsync", stream: TextIO | None = None):
        self.name, self.stream = name, stream or sys.stderr
        self.bar: tqdm | None = None
        self.stage, self.last_s, self.pace = "", 0.0, Pace()

    def __call__(self, progress: Progress) -> None:
        """Show progress; the first report of a stage starts its clock."""
        now_s = time.monotonic()
        new = progress.stage != self.stage
        if new:
            self.close()
            self.stage, self.last_s = progress.stage, now_s
        pace = self.pace.of(progress, now_s)
        if not progress.total:
            self._line(progress.stage)
        elif self.stream.isatty():
            self._bar(progress)
        elif new or now_s - self.last_s >= EVERY_S or progress.done == progress.total:
            self.last_s = now_s
            left = f", {pace[0]:.1f} a second, about {tqdm.format_interval(pace[1])} left" if pace else ""
            self._line(f"{progress.stage}: {progress.done} of {progress.total} frames{left}")

    def _line(self, text: str) -> None:
        print(f"{self.name}: {text}", file=self.stream, flush=True)

    def _bar(self, progress: Progress) -> None:
        if self.bar is None:
            self.bar = tqdm(
                desc=progress.stage, total=progress.total, initial=progress.done, unit="frame", file=self.stream
            )
        self.bar.update(progress.done - self.bar.n)

    def close(self) -> None:
        """End a bar, so that what is printed next has a line of its own."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None
