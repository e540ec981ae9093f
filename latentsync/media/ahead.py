"""Work side by side within one job: FFmpeg and the detectors do most of theirs without Python's lock.

Order stays what it is, so results are the same as one after the other. A job that may use one core only starts no
thread: it would cost and gain nothing.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

S = TypeVar("S")
T = TypeVar("T")
DEPTH = 8  # frames that wait between two threads: 25 MB at 1080 x 1920
_END: Any = object()


def cores() -> int:
    """How many cores this process may use: one for a worker that is pinned to one, on a machine of any size."""
    return len(os.sched_getaffinity(0))


def ahead(items: Iterator[T], depth: int = DEPTH) -> Iterator[T]:
    """The items, up to `depth` of them made while earlier ones are being used. Their errors rise where they would."""
    if cores() == 1:
        yield from items
        return
    maker = ThreadPoolExecutor(1)
    try:
        coming = deque(maker.submit(next, items, _END) for _ in range(depth))
        while (item := coming.popleft().result()) is not _END:
            coming.append(maker.submit(next, items, _END))
            yield item
    finally:
        maker.shutdown(cancel_futures=True)  # a caller that stops early does not wait for items that it will not take


def mapped(function: Callable[[S], T], items: Iterable[S], threads: int = 2, depth: int = DEPTH) -> Iterator[T]:
    """function(item) of every item, in order, computed by some threads while up to `depth` results wait."""
    if cores() == 1:
        yield from map(function, items)
        return
    pool, waiting = ThreadPoolExecutor(threads), deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


class Behind:
    """Calls carried out in order, at most `depth` behind the caller. An error rises at a later call or at `wait`."""

    def __init__(self, depth: int = DEPTH) -> None:
        self.worker = ThreadPoolExecutor(1) if cores() > 1 else None
        self.pending: deque[Future] = deque()
        self.depth = depth

    def call(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Carry out a call, now or soon."""
        if self.worker is None:
            function(*arguments)
            return
        self.pending.append(self.worker.submit(function, *arguments))
        while len(self.pending) > self.depth or (self.pending and self.pending[0].done()):
            self.pending.popleft().result()

    def wait(self) -> None:
        """Return once everything that was asked for is done."""
        while self.pending:
            self.pending.popleft().result()

    def stop(self) -> None:
        """End the thread once the call that it is at is done; what else was asked for is dropped."""
        if self.worker is not None:
            self.worker.shutdown(cancel_futures=True)
