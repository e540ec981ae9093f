"""What a job does: lip-sync one video with networks that stay loaded, as `latentsync generate` would."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from latentsync.config import Enhance, FaceBackend, Generate, Mark
from latentsync.generation.progress import Pace, Progress
from latentsync.ledger.files import write_json
from latentsync.page.jobs import Job
from latentsync.page.words import in_words_of_the_page, time_left
from latentsync.weights.find import find_weights

if TYPE_CHECKING:
    from latentsync.generation.session import LipSync

# Where a stage begins and ends in the whole, shares of the time. The last 2 percent are joining and writing the report.
STAGES = {"finding faces": (0.02, 0.2), "redrawing mouths": (0.2, 0.98)}


@dataclass(frozen=True)
class Order:
    """What a user wants."""

    video: Path
    audio: Path
    weights: str
    """A name of `weights_on_disk`."""
    out: str
    """Name of the file to write, without its suffix."""
    faces: FaceBackend = "mediapipe"
    settings: tuple[Generate, Enhance, Mark] = field(default_factory=lambda: (Generate(), Enhance(), Mark()))
    start_s: float = 0.0
    end_s: float | None = None


class Worker:
    """Does jobs one after the other; a `LipSync` for each of the weights that were ever chosen stays loaded."""

    def __init__(self) -> None:
        self.sessions: dict[str, LipSync] = {}

    def session(self, weights: str) -> "LipSync":
        """The session of these weights; its networks are loaded when they are first used."""
        from latentsync.generation.session import LipSync

        if weights not in self.sessions:
            self.sessions[weights] = LipSync(*find_weights(Path(weights)))
        return self.sessions[weights]

    def load(self, weights: str) -> str:
        """Load networks, if they are not; says how long it took."""
        start_s = time.perf_counter()
        self.session(weights).models(True)
        seconds = time.perf_counter() - start_s
        return f"networks of {weights} loaded in {seconds:.1f} s" if seconds > 0.1 else f"networks of {weights} loaded"

    def __call__(self, job: Job) -> str:
        """Do a job; its files are named in `job.files`. Raises as `latentsync.lip_sync`, and Cancelled."""
        order: Order = job.order
        cfg, enhancement, mark = order.settings
        names = {path: path.name for path in (order.video, order.audio)}
        try:
            job.report(0.0, "Loading the networks.")
            print(f"latentsync: job {job.id[:8]}: {self.load(order.weights)}", flush=True)
            session = self.session(order.weights).with_settings(cfg, enhancement, mark)
            out = job.folder / f"{order.out}.{'mov' if cfg.codec == 'prores' else 'mp4'}"
            report = job.folder / f"{order.out}.json"
            stop_s = float("inf") if order.end_s is None else order.end_s
            enhancer = session.enhancer()
            restorer = None if enhancer is None else getattr(enhancer.restore, "network", None)
            with session.models(True).stoppable(job.check, restorer):
                part_s = order.start_s, stop_s
                result = session(order.video, order.audio, out, order.faces, Reporter(job), part_s=part_s)
        except ValueError as error:
            raise ValueError(in_words_of_the_page(str(error), names)) from None
        sections = {"generate": cfg, "enhance": enhancement, "mark": mark}
        settings = {name: section.model_dump() for name, section in sections.items()} | {"faces": order.faces}
        given = {"weights_name": order.weights, "start_s": order.start_s, "end_s": order.end_s}
        write_json(report, given | asdict(result) | {"settings": settings})
        files = {"source": order.video, "result": out, "report": report}
        job.files = {name: str(path.relative_to(job.folder)) for name, path in files.items()}
        job.details = {"n_frames": result.n_frames, "n_generated": result.n_generated}
        return result.sentence[:1].upper() + result.sentence[1:] + "."

    def close(self) -> None:
        """Let go of networks and detectors."""
        for session in self.sessions.values():
            session.__exit__()


class Reporter:
    """From the progress of the pipeline to a job: one share that only grows, and a sentence with the time left."""

    def __init__(self, job: Job, now_s: Callable[[], float] = time.monotonic):
        self.job, self.now_s, self.pace = job, now_s, Pace()

    def __call__(self, progress: Progress) -> None:
        """Note progress; raises Cancelled."""
        if not progress.total:
            self.job.report(self.job.share, f"{progress.stage[:1].upper()}{progress.stage[1:]}.")
            return
        start, end = STAGES.get(progress.stage, (self.job.share, self.job.share))
        pace = self.pace.of(progress, self.now_s())
        sentence = f"{progress.stage[:1].upper()}{progress.stage[1:]}: {progress.done} of {progress.total} frames"
        if pace is not None:
            rest = " of this step" if progress.stage == "finding faces" else ""
            sentence += f", {pace[0]:.1f} a second, {time_left(pace[1])}{rest}"
        self.job.report(start + (end - start) * progress.done / progress.total, f"{sentence}.")
