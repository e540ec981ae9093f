"""What the page's buttons and its programs' calls do; Gradio calls these functions."""

import asyncio
import math
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentsync import config
from latentsync.config import FaceBackend
from latentsync.generation.arguments import marked_as, sections
from latentsync.page import inputs, options, weights_on_disk
from latentsync.page.folder import Folder, in_words_of_disk, remove
from latentsync.page.jobs import ENDED, Job, Jobs
from latentsync.page.weights_on_disk import Weights
from latentsync.page.words import NEEDS_CONSENT, in_words_of_the_page
from latentsync.page.work import Order, Worker
from latentsync.weights import registry

PREVIEW_S = 5.0
LOOK_S = 0.2  # how often a page that watches a job looks at it


@dataclass(frozen=True)
class Limits:
    """What one user may ask of the page."""

    max_s: float = 300.0
    max_mb: int = 500
    max_queue: int = 8
    keep_hours: float = 24.0


class Page:
    """Everything behind the page, apart from Gradio."""

    def __init__(self, folder: Folder, weights: list[Weights], limits: Limits):
        self.folder, self.weights, self.limits, self.worker = folder, weights, limits, Worker()
        self.jobs = Jobs(folder, self.worker, limits.keep_hours * 3600, limits.max_queue)

    def start_working(self) -> None:
        """Begin to do jobs; the networks that are chosen first are loaded meanwhile."""
        self.jobs.start(self._load_first)

    def _load_first(self) -> None:
        if self.weights:
            print(f"latentsync: {self.worker.load(self.weights[0].name)}", flush=True)

    def submit(self, values: Mapping[str, Any], owner: str | None) -> Job:
        """Check what a user gave, and add the job to the queue.

        Raises:
            ValueError: one sentence on what is wrong.
        """
        if not self.weights:
            raise ValueError(weights_on_disk.HOW_TO_GET)
        if values.get("consent") is not True:
            raise ValueError(NEEDS_CONSENT)
        video = inputs.require_video(values.get("video"), self.limits.max_s)
        audio = inputs.require_speech(values.get("audio"), self.limits.max_s)
        order = self._order(values)

        def prepare(folder: Path) -> Order:
            files = inputs.placed(video, folder / "video"), inputs.placed(audio, folder / "audio")
            return Order(*files, out=f"{video.stem}-lipsync", **order)

        try:
            return self.jobs.submit(owner, prepare)
        except OSError as error:
            raise ValueError(in_words_of_disk(error)) from error

    def _order(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The part of an order that is no file."""
        name = values.get("weights") or self.weights[0].name
        if name not in {one.name for one in self.weights}:
            known = ", ".join(one.name for one in self.weights)
            raise ValueError(f"There are no weights {name} here; choose one of: {known}.")
        generate, enhance, mark = options.settings(values)
        start_s = options.number("From second", values.get("start_s") or 0)
        end_s = options.number("Up to second", end) if (end := values.get("end_s")) not in (None, "") else None
        # A header may claim any length, so the limit is one of the pipeline, too. It counts from the video's beginning.
        generate["max_s"] = start_s + PREVIEW_S if values.get("preview") else self.limits.max_s
        faces: FaceBackend = values.get("faces") or "mediapipe"
        try:
            found = *sections(values.get("preset") or "exact", generate, enhance, faces, None), marked_as(mark)
        except ValueError as error:
            raise ValueError(in_words_of_the_page(str(error), {})) from None
        if (method := found[1].method) is not None:
            _require_restorer(method)
        if not 0 <= start_s < (math.inf if end_s is None else end_s):
            raise ValueError(f"From second {start_s:g} is not before Up to second {end_s}; both are of the video.")
        return {"weights": name, "faces": faces, "settings": found, "start_s": start_s, "end_s": end_s}

    async def watch(self, job: Job) -> AsyncIterator[Mapping[str, Any]]:
        """How far a job is, whenever that changes, until its end."""
        last: Mapping[str, Any] | None = None
        while True:
            ended = job.state in ENDED
            now = self.jobs.snapshot(job)
            if now != last:
                last = now
                yield now
            if ended:
                return
            await asyncio.sleep(LOOK_S)

    def result(self, job: Job) -> tuple[Path, Path, Path]:
        """Source, result and report of a finished job.

        Raises:
            ValueError: the job is not finished, or was not successful.
        """
        if job.state != "done":
            why = job.sentence if job.state in ENDED else "It is not finished."
            raise ValueError(f"The job has no result. {why}")
        return job.folder / job.files["source"], job.folder / job.files["result"], job.folder / job.files["report"]

    def find_faces(self, video: str | None, faces: FaceBackend) -> tuple[list[tuple[str, str]], list[str]]:
        """Thumbnails (file, caption) and a number for each face of a video.

        Raises:
            ValueError: there is no video, or no face in it.
        """
        from latentsync.generation.api import list_faces

        file = inputs.require_video(video, self.limits.max_s)
        config.require_choice("Face detector", faces, FaceBackend)
        self.folder.require_room()
        folder = self.folder.new_upload()
        try:
            found = list_faces(file, folder, faces)
        except ValueError as error:
            remove(folder)
            raise ValueError(in_words_of_the_page(str(error), {file: file.name})) from None
        captions = [line.partition("; ")[0].capitalize() for line in found]
        numbers = [str(number) for number in range(1, len(found) + 1)]
        return [
            (str(folder / f"face-{number}.png"), text) for number, text in zip(numbers, captions, strict=True)
        ], numbers

    def close(self) -> None:
        """Stop working; results stay for their time."""
        self.jobs.close()
        self.worker.close()
        self.folder.close()


def _require_restorer(method: str) -> None:
    """Refuse a restorer whose weights are not here, before the job waits."""
    try:
        registry.find(method)
    except ValueError:
        entry = registry.entry(method)
        raise ValueError(
            f"{entry.what} is not on this machine: choose none, or ask whoever runs this page for "
            f"`latentsync weights fetch {method}` (licence: {entry.licence})."
        ) from None
