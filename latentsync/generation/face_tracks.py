"""The face tracks of the videos of a session: those of the last one are kept, those of the next are found meanwhile."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from latentsync.generation.progress import Progress, Report, silent
from latentsync.media.ahead import cores

if TYPE_CHECKING:
    from latentsync.faces.tracking import Track

Wanted = tuple[Path, str, int]  # video, face detector, most faces


class _Stopped(Exception):
    """Nobody waits for the tracks any more."""


class FaceTracks:
    """Finds the tracks of a video once, for all that ask for it in a row.

    One detector follows all videos, so no two are followed at the same time, and whoever uses it otherwise asks for no
    video `meanwhile`.
    """

    def __init__(self, find: "Callable[[Path, str, int, Report], list[Track]]"):
        self.find = find
        self.last: tuple[Wanted | None, list[Track]] = None, []
        self.coming: tuple[Wanted, Future[list[Track]]] | None = None
        self.worker: ThreadPoolExecutor | None = None
        self.stopping = False

    def of(self, wanted: Wanted, progress: Report = silent) -> "list[Track]":
        """The tracks of a video; `progress` is called while they are found here and now."""
        if self.last[0] == wanted:
            return self.last[1]
        coming, self.coming = self.coming, None
        if coming is not None and coming[0] == wanted:
            found = coming[1].result()
        else:
            self._stop(coming)
            found = self.find(*wanted, progress)
        self.last = wanted, found
        return found

    def meanwhile(self, wanted: Wanted) -> None:
        """Find the tracks of the next video while the caller goes on; its errors rise when they are asked for."""
        if cores() == 1 or wanted == self.last[0]:
            return
        self._stop(self.coming)  # whose turn never came
        self.worker = self.worker or ThreadPoolExecutor(1)
        self.coming = wanted, self.worker.submit(self.find, *wanted, self._unless_stopped)

    def close(self) -> None:
        """Stop at the next frame."""
        self._stop(self.coming)
        if self.worker is not None:
            self.worker.shutdown()

    def _unless_stopped(self, _: Progress) -> None:
        if self.stopping:
            raise _Stopped

    def _stop(self, coming: "tuple[Wanted, Future[list[Track]]] | None") -> None:
        self.stopping = True
        if coming is not None:
            coming[1].exception()  # waits
        self.stopping = False
