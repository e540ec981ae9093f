"""Work side by side within one job: FFmpeg and the detectors do most of theirs without Python's lock.

Order stays what it is, so results are the same as one after the other. A job that may use one core only starts no
thread: it would cost and gain nothing.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
DEPTH = 8  # frames that wait between two threads: 25 MB at 1080 x 1920
_END: Any = object()


def cores() -> int:
    """How many cores this process may use: one for a worker that is pinned to one, on a machine of any size."""
    return len(os.sched_getaffinity(0))


def ahead(items: Iterator[T]) -> Iterator[T]:
    """The items, up to DEPTH of them made while earlier ones are being used. Their errors rise where they would."""
    if cores() == 1:
        yield from items
        return
    with ThreadPoolExecutor(1) as maker:
        coming = deque(maker.submit(next, items, _END) for _ in range(DEPTH))
        while (item := coming.popleft().result()) is not _END:
            coming.append(maker.submit(next, items, _END))
            yield item


class Behind:
    """Calls carried out in order, at most DEPTH behind the caller. An error rises at a later call or at `wait`."""

    def __init__(self) -> None:
        self.worker = ThreadPoolExecutor(1) if cores() > 1 else None
        self.pending: deque[Future] = deque()

    def call(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Carry out a call, now or soon."""
        if self.worker is None:
            function(*arguments)
            return
        self.pending.append(self.worker.submit(function, *arguments))
        while len(self.pending) > DEPTH or (self.pending and self.pending[0].done()):
            self.pending.popleft().result()

    def wait(self) -> None:
        """Return once everything that was asked for is done."""
        while self.pending:
            self.pending.popleft().result()

    def stop(self) -> None:
        """End the thread once the call that it is at is done; what else was asked for is dropped."""
        if self.worker is not None:
            self.worker.shutdown(cancel_futures=True)
