"""Face tracks of the videos of a session: the last ones are kept, and those of the next video are found in advance."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from latentsync.generation.progress import Progress, Report, silent
from latentsync.media.ahead import cores

if TYPE_CHECKING:
    from latentsync.faces.tracking import Track

Wanted = tuple[Path, str, int, float | None, bool]
"""Video, face detector, most faces, seconds that are needed, whether frames are deinterlaced."""


class _Stopped(Exception):
    """The tracks are no longer needed."""


class FaceTracks:
    """Finds the tracks of each video once.

    All videos share one detector, so two are never tracked at the same time. A caller that needs the detector itself
    must not start `meanwhile`.
    """

    def __init__(self, find: "Callable[[Path, str, int, float | None, bool, Report], list[Track]]"):
        self.find = find
        self.last: tuple[Wanted | None, list[Track]] = None, []
        self.coming: tuple[Wanted, Future[list[Track]]] | None = None
        self.worker: ThreadPoolExecutor | None = None
        self.stopping = False

    def of(self, wanted: Wanted, progress: Report = silent) -> "list[Track]":
        """The tracks of a video; `progress` is called for each frame, unless they are found in advance."""
        if self.last[0] == wanted:
            return self.last[1]
        if self.coming is not None and self.coming[0] == wanted:
            found = self.coming[1].result()  # if this is interrupted, `close` still has to stop it
            self.coming = None
        else:
            self._stop()
            found = self.find(*wanted, progress)
        self.last = wanted, found
        return found

    def meanwhile(self, wanted: Wanted) -> None:
        """Find the tracks of the next video in a thread; errors are raised by `of`."""
        if cores() == 1 or wanted == self.last[0]:
            return
        self._stop()
        self.worker = self.worker or ThreadPoolExecutor(1)
        self.coming = wanted, self.worker.submit(self.find, *wanted, self._unless_stopped)

    def close(self) -> None:
        """Stop at the next frame."""
        self._stop()
        if self.worker is not None:
            self.worker.shutdown()

    def _unless_stopped(self, _: Progress) -> None:
        if self.stopping:
            raise _Stopped

    def _stop(self) -> None:
        if self.coming is not None:
            self.stopping = True
            self.coming[1].exception()  # waits until the thread has noticed
            self.coming, self.stopping = None, False
