"""Redraw the mouths of one video: every native frame is kept, its mouth drawn from the audio at its own time.

The video is read twice: the first pass tracks faces (speakers.py), the second one redraws and writes, in four places
that work side by side and hand frames on in order:

    a thread decodes and crops -> the networks -> two threads paste -> a thread encodes

Between two places as many frames may wait as one batch of windows draws at once, so the networks go on while those
are written. Frames without a face, or with another
face than the speaker's, pass through unchanged and are counted by reason.

Axes: f frames, c channels, h w pixels or latent cells, s audio tokens, d their width.
"""

import hashlib
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Generator as PythonGenerator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import av
import numpy as np
import torch
from torch import Tensor

from latentsync.config import CodecName, Generate
from latentsync.faces import alignment
from latentsync.faces.crop import align_face
from latentsync.faces.tracking import Track
from latentsync.generation import gates, joining, paste, paste_gpu, sampling, silence, timeline
from latentsync.generation.audio import DrivingAudio
from latentsync.generation.parts import Parts
from latentsync.generation.progress import Progress, Report, silent
from latentsync.generation.speakers import speaking
from latentsync.generation.stopwatch import Stopwatch
from latentsync.generation.video import encoder_threads, in_order, join_parts, matching_crf, open_writer, yuv
from latentsync.ledger.rows import Rejection
from latentsync.media.ahead import Behind, ahead, mapped
from latentsync.media.codecs import output_format
from latentsync.media.frames import DisplayedFrame
from latentsync.media.read import frame_times, read_video_frames
from latentsync.media.write import VideoWriter
from latentsync.timing import SAMPLE_RATE_HZ, whisper_rows

WHOLE_S = (0.0, float("inf"))


@runtime_checkable
class Generator(Protocol):
    """The networks, as the pipeline sees them: `networks.Models`, or a stand-in in tests and benchmarks."""

    resolution: int
    frames: int
    weights: Mapping[str, str]

    def listen(self, samples: np.ndarray) -> Callable[[np.ndarray], Any]:
        """Samples float32 [n], 16 kHz mono -> a function from feature rows int64 [f] to audio tokens f s d."""
        ...

    def encode(self, faces: np.ndarray) -> Tensor:
        """Faces uint8 (f, R, R, 3) -> what conditions their generation, f c h w."""
        ...

    def denoise(self, conditioning: Tensor, tokens: Tensor, cfg: Generate) -> Tensor:
        """Conditioning b f c h w and audio tokens b f s d of windows -> latents b f c h w."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Latents f c h w -> faces float32 (f, 3, R, R), RGB 0..255."""
        ...


@dataclass(frozen=True)
class Voice:
    """One face, and what it is to say."""

    labels: np.ndarray
    """int64 [n], for each source frame the index of the track to redraw, or a key of gates.REASONS."""
    samples: np.ndarray
    """float32 [m], 16 kHz mono, from the result's time zero."""


@dataclass(frozen=True)
class VoicePlan:
    """What a voice does in each written frame."""

    labels: np.ndarray
    """int64 [m], as Voice.labels."""
    matrices: np.ndarray
    """float64 [m, 2, 3], pixels of the file -> crop pixels; NaN where nothing is generated."""
    opacity: np.ndarray
    """float32 [m], 0..1: how much of the generated mouth is pasted."""
    closed: np.ndarray
    """float32 [m, c], 0..1: how much of each is pasted, over the generated mouth."""
    samples: np.ndarray
    """float32 [m], 16 kHz mono, as long as the result."""
    closed_frames: np.ndarray
    """int64 [c], source frames whose closed mouths are shown in pauses."""
    closed_matrices: np.ndarray
    """float64 [c, 2, 3], pixels of the file -> crop pixels at silence.side(resolution)."""
    n_open: int
    """silence.Closing.n_open."""


@dataclass(frozen=True)
class Plan:
    """What each written frame shows."""

    order: np.ndarray
    """int64 [m], source frame."""
    times_s: np.ndarray
    """float64 [m]."""
    end_s: float
    voices: Sequence[VoicePlan]


@dataclass
class Item:
    """A frame on its way through the pipeline."""

    index: int
    """Number of the written frame."""
    frame: av.VideoFrame
    crops: list[np.ndarray | None]
    """uint8 (R, R, 3) for each voice that redraws it."""
    pastes: list[tuple[Callable[[], paste.Layers], float]] = field(default_factory=list)
    """What is pasted, and its opacity."""


def redraw(
    video: Path,
    audio: DrivingAudio,
    out: Path,
    models: Generator,
    cfg: Generate,
    tracks: Sequence[Track],
    voices: Sequence[tuple[np.ndarray, DrivingAudio]] | None = None,
    progress: Report = silent,
    part_s: tuple[float, float] = WHOLE_S,
) -> dict[str, Any]:
    """Write `out`: the video with the mouth of the speaking face redrawn to the audio.

    Args:
        video: the source; never changed.
        audio: drives the mouth and is written into the result.
        out: an mp4 in the source's resolution, pixel format and frame times.
        models: the networks.
        cfg: the section.
        tracks: faces of the video, from `speakers.track_video`.
        voices: (labels int64 [n], audio) of each voice: which track moves its mouth to which audio in each source
            frame, from `speakers.choose` or `voices.voices`. None: the largest face says `audio`.
        progress: called with the number of written frames.
        part_s: start and end of what is redrawn, seconds of the source; the rest passes through.

    Returns:
        n_frames, n_generated, passed_through {reason: frames}, cut_s (seconds left out because of cfg.max_s), the `crf`
        used, and per written frame: `order` int64 [m] (source frame), `times_s` float64 [m], `matrices` float64
        [m, 2, 3] from pixels of the file to crop pixels, NaN where the frame passed through; `end_s`, the end of the
        last frame; `n_closed`, frames that show the lips of another frame (silence.py); `seconds` {stage: s} and
        `waited_s`, how long the networks had nothing to do.

    Raises:
        Rejection: not_redrawn; nothing was written.
    """
    quality = matching_crf(video) if cfg.crf is None else cfg.crf
    found = {"crf": quality, "batch_size": _batch_size(models, cfg), "encoder_threads": encoder_threads(cfg)}
    cfg = cfg.model_copy(update=found)  # all that the bytes follow
    clock = frame_times(video)
    whole_s = audio.length_s if cfg.length == "audio" else clock[1]
    if cfg.loop == "cut":
        whole_s = min(whole_s, clock[1])
    wanted_s = whole_s if cfg.max_s is None else min(whole_s, cfg.max_s)
    first = next(in_order(video, np.zeros(1, np.int64)))
    voices = voices or [(speaking(tracks, len(clock[0])), audio)]
    says = [Voice(gates.passed(tracks, labels, clock[0], cfg, *part_s), own.for_model) for labels, own in voices]
    plan = make_plan(*clock, tracks, says, wanted_s, models.resolution, paste.to_displayed(first), cfg)
    n_open = sum(voice.n_open for voice in plan.voices)
    if n_open:
        progress(Progress(silence.why_open(n_open)))
    generated = np.any([voice.labels >= 0 for voice in plan.voices], axis=0)
    if not generated.any():
        shown_first = np.unique(plan.order, return_index=True)[1]
        raise Rejection("not_redrawn", gates.why_nothing(plan.voices[0].labels[shown_first]))
    watch = Stopwatch()
    parts = Parts(out, _key(video, plan, models, cfg), len(plan.order))
    start_s = time.perf_counter()
    _write_parts(video, first, plan, models, cfg, parts, watch, progress)
    passed_s = time.perf_counter() - start_s
    watch.settle()
    with watch("join"):
        join_parts(parts.files, parts.joined, video, plan.times_s, plan.end_s, audio)
        parts.joined.replace(out)
    parts.remove()
    main = plan.voices[0]
    passed = Counter(gates.PASSED_THROUGH[label] for label in main.labels[~generated].tolist())
    return {
        "n_frames": len(plan.order),
        "n_generated": int(generated.sum()),
        "passed_through": dict(sorted(passed.items())),
        "cut_s": round(whole_s - wanted_s, 3),
        "crf": cfg.crf,
        "order": plan.order,
        "times_s": plan.times_s,
        "end_s": np.float64(plan.end_s),
        "matrices": main.matrices,
        "n_closed": int(np.any([voice.closed.any(1) for voice in plan.voices], axis=0).sum()),
        "seconds": watch.rounded(),
        "waited_s": round(passed_s - watch.seconds["networks"], 3),
    }


def make_plan(
    times_s: np.ndarray,
    end_s: float,
    tracks: Sequence[Track],
    voices: Sequence[Voice],
    wanted_s: float,
    resolution: int,
    to_displayed: np.ndarray,
    cfg: Generate,
) -> Plan:
    """What all written frames show; `times_s` and `end_s` are the source's, `to_displayed` its file -> display map."""
    order, starts_s, stop_s = timeline.lay_out(times_s, end_s, wanted_s, cfg.loop)
    n_samples = round(stop_s * SAMPLE_RATE_HZ)
    shots = gates.shots(tracks, len(times_s))[order]
    plans = []

    def matrix(index: int, frame: int, side: int = resolution) -> np.ndarray:
        return alignment.similarity(tracks[index].anchors[frame - tracks[index].start], side) @ to_displayed

    for voice in voices:
        matrices = np.full((len(times_s), 2, 3), np.nan)
        for index, track in enumerate(tracks):
            for frame in (np.flatnonzero(voice.labels[track.start : track.stop] == index) + track.start).tolist():
                matrices[frame] = matrix(index, frame)
        # After the end of the audio comes silence; repeating its last features would keep the mouth at the last vowel.
        samples = voice.samples[:n_samples]
        if len(samples) < n_samples:
            samples = np.pad(samples, (0, n_samples - len(samples)))
        labels = voice.labels[order]
        closing = silence.no_closing(len(order))
        if cfg.silence is not None:
            share = silence.closed_share(silence.pauses(samples), starts_s)
            if cfg.silence == "close":
                closing = silence.plan_closing(tracks, labels, order, starts_s, share, cfg)
            else:
                labels = np.where((labels >= 0) & (share == 1), gates.SILENCE, labels)
        shown = np.where((labels >= 0)[:, None, None], matrices[order], np.nan)
        closed = [
            matrix(*pair, silence.side(resolution))
            for pair in zip(closing.tracks.tolist(), closing.frames.tolist(), strict=True)
        ]
        plans.append(
            VoicePlan(
                labels,
                shown,
                *closing.opacities(gates.opacity(labels, shots)),
                samples,
                closing.frames,
                np.array(closed).reshape(-1, 2, 3),
                closing.n_open,
            )
        )
    return Plan(order, starts_s, stop_s, plans)


def _device(models: Generator) -> torch.device:
    return getattr(models, "device", torch.device("cpu"))


def _batch_size(models: Generator, cfg: Generate) -> int:
    return cfg.batch_size or sampling.windows_at_once(models.frames, models.resolution, _device(models))


def _waiting(plan: Plan, models: Generator, cfg: Generate) -> int:
    """Frames that may wait between two threads: as many as a batch of windows draws at once."""
    return models.frames * max(_batch_size(models, cfg), joining.stride_of(plan.times_s))


def _key(video: Path, plan: Plan, models: Generator, cfg: Generate) -> str:
    """16 hex digits over everything that decides the written frames."""
    stat = video.stat()
    described = f"{stat.st_size} {stat.st_mtime_ns} {cfg.model_dump_json()} {dict(models.weights)}"
    digest = hashlib.sha256(described.encode())
    for array in (plan.order, plan.times_s, *(part for voice in plan.voices for part in vars(voice).values())):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def _write_parts(
    video: Path,
    like: av.VideoFrame,
    plan: Plan,
    models: Generator,
    cfg: Generate,
    parts: Parts,
    watch: Stopwatch,
    progress: Report,
) -> None:
    """Write the parts that are not finished."""
    missing = parts.missing()
    if not missing:
        return
    first = missing[0][1]
    report = partial(Progress, "redrawing mouths", total=len(plan.order))
    progress(report(first))
    frames = _written(video, plan, models, cfg, first, watch)
    writing, finishing, opened = Behind(_waiting(plan, models, cfg)), Behind(), list[ExitStack]()

    def write(writer: VideoWriter, frame: av.VideoFrame) -> None:
        with watch("encode"):
            writer.write_frame(frame)

    try:
        for file, start, stop in missing:
            opened.append(ExitStack())
            end_s = float(plan.times_s[stop]) if stop < len(plan.times_s) else plan.end_s
            clock = plan.times_s[start:stop] - plan.times_s[start], end_s - float(plan.times_s[start])
            writing_as: dict[str, Any] = {"crf": cfg.crf, "threads": encoder_threads(cfg), "codec": cfg.codec}
            writer = opened[-1].enter_context(open_writer(file, like, video, *clock, **writing_as))
            for number, frame in enumerate(islice(frames, stop - start), start + 1):
                writing.call(write, writer, frame)
                progress(report(number))
            # The part appears once its last frame is encoded, which another thread does while the next part begins.
            writing.call(finishing.call, opened[-1].close)
        writing.wait()
        finishing.wait()
    finally:
        writing.stop()
        finishing.stop()
        frames.close()
        for part in opened:
            part.__exit__(*sys.exc_info())  # of a part that is finished: nothing


def _written(
    video: Path, plan: Plan, models: Generator, cfg: Generate, first: int, watch: Stopwatch
) -> PythonGenerator[av.VideoFrame, None, None]:
    """The frames of the result from `first` on, bit for bit those of a whole run."""
    closed = [_closed(video, voice, models.resolution, cfg.codec) for voice in plan.voices]
    drawings = [Drawing(number, plan, models, cfg, watch, faces) for number, faces in enumerate(closed)]
    begin = min(drawing.needed_from(first) for drawing in drawings)
    items: Iterator[Item] = ahead(
        _read(video, plan, models.resolution, cfg.codec, begin, watch), _waiting(plan, models, cfg)
    )
    for drawing in drawings:
        items = drawing.drawn(items, begin, first)
    wanted = (item for item in items if item.index >= first)

    def pasted(item: Item) -> av.VideoFrame:
        with watch("paste"):
            if not item.pastes:
                return item.frame
            result = paste.copied(item.frame)  # the decoder still predicts later frames from it
            for layers, strength in item.pastes:
                paste.blend(result, layers(), strength)
            return result

    yield from mapped(pasted, wanted, depth=_waiting(plan, models, cfg))


def _closed(video: Path, voice: VoicePlan, resolution: int, codec: CodecName) -> np.ndarray:
    """The faces with the closed mouths of a voice, uint8 (c, S, S, 3), S = silence.side(resolution)."""
    side = silence.side(resolution)
    matrices = dict(zip(voice.closed_frames.tolist(), voice.closed_matrices, strict=True))
    faces = {}
    for index, frame in read_video_frames(video, np.sort(voice.closed_frames)):
        shown = yuv(frame, output_format(frame.width, frame.height, frame.format.name, codec))
        faces[index] = align_face(DisplayedFrame(shown, 0, False), matrices[index], side)
    return np.array([faces[index] for index in matrices], np.uint8).reshape(-1, side, side, 3)


def _read(video: Path, plan: Plan, resolution: int, codec: CodecName, begin: int, watch: Stopwatch) -> Iterator[Item]:
    """Decoded frames from `begin` on, and the crops that the voices need."""
    frames = watch.over("decode", in_order(video, plan.order[begin:]))
    pix_fmt = None
    for index, frame in enumerate(frames, begin):
        with watch("crop"):
            pix_fmt = pix_fmt or output_format(frame.width, frame.height, frame.format.name, codec)
            frame = yuv(frame, pix_fmt)
            shown = DisplayedFrame(frame, 0, False)
            crops = [
                align_face(shown, voice.matrices[index], resolution) if voice.labels[index] >= 0 else None
                for voice in plan.voices
            ]
        yield Item(index, frame, crops)


class Drawing:
    """The networks' part: draws one voice's mouth into the items that come by, in order."""

    def __init__(self, number: int, plan: Plan, models: Generator, cfg: Generate, watch: Stopwatch, closed: np.ndarray):
        self.closed = closed  # from `_closed`
        self.number, self.voice, self.models, self.cfg, self.watch = number, plan.voices[number], models, cfg, watch
        self.rows = whisper_rows(plan.times_s)
        self.device = _device(models)
        with self._networks():
            self.tokens = models.listen(self.voice.samples)
        self.stride = joining.stride_of(plan.times_s)
        self.batch_size = max(1, _batch_size(models, cfg) // self.stride)
        self.overlap = self.stride * min(cfg.overlap, (models.frames - 1) // 2)
        frames = self.stride * models.frames
        self.spans = [
            (start, stop, joining.windows(stop - start, frames, self.overlap) if label >= 0 else [])
            for start, stop, label in timeline.spans(self.voice.labels, plan.order)
        ]

    def _networks(self) -> AbstractContextManager[None]:
        return self.watch.on(self.device, "networks")

    def needed_from(self, first: int) -> int:
        """The first frame that must be read so that frames from `first` on are those of a whole run."""
        start, _, windows = next(span for span in self.spans if span[1] > first)
        return start + joining.needed_from(windows, self.batch_size, first - start) if windows else first

    def drawn(self, items: Iterator[Item], begin: int, first: int) -> Iterator[Item]:
        """The items from frame `begin` on; those from frame `first` on with their mouths."""
        for start, stop, windows in self.spans:
            if stop <= begin:
                continue
            if not windows or stop <= first:
                yield from islice(items, stop - max(start, begin))
                continue
            own = start + joining.needed_from(windows, self.batch_size, max(0, first - start))
            yield from islice(items, own - max(start, begin))
            yield from self._span(items, start, own, windows, max(0, first - start))

    def _span(
        self, items: Iterator[Item], start: int, position: int, windows: list[joining.Window], first: int
    ) -> Iterator[Item]:
        """The items of a span that starts at frame `start`; the next item is frame `position`."""
        held: deque[Item] = deque()  # read but not yet drawn
        conditioning: dict[int, Tensor] = {}  # c h w, by frame of the span

        def latents_of(batch: list[joining.Window]) -> Tensor:
            nonlocal position
            stop = start + 1 + max(int(window.max()) for window in batch)
            read = list(islice(items, stop - position))
            position = stop
            held.extend(read)
            with self._networks():
                if read:
                    crops = [item.crops[self.number] for item in read]
                    encoded = self.models.encode(np.stack(crops))  # pyright: ignore[reportArgumentType, reportCallIssue]  # none is None
                    conditioning.update(zip((item.index - start for item in read), encoded, strict=True))
                for frame in range(min(conditioning), min(int(window.min()) for window in batch)):
                    del conditioning[frame]
                strided = [one for window in batch for one in joining.strided(window, self.stride, self.models.frames)]
                seen = torch.stack([torch.stack([conditioning[frame] for frame in w.tolist()]) for w in strided])
                tokens = torch.stack([self.tokens(self.rows[start + window]) for window in strided])
                latents = self.models.denoise(seen, tokens, self.cfg)
                return joining.interleaved(latents, len(batch), len(batch[0]))

        for at, latents in joining.joined(windows, self.batch_size, self.overlap, latents_of, first):
            while held[0].index < start + at:
                yield held.popleft()
            with self._networks():
                drawn = [(held.popleft(), face) for face in self.models.decode(latents)]
                for item, face in drawn:
                    opacity, closed = self.voice.opacity[item.index], self.voice.closed[item.index]
                    if opacity:
                        item.pastes.append((self._layers(item, face), float(opacity)))
                    if closed.any():
                        item.pastes.append((partial(self._closed_layers, item), float(closed.sum())))
            yield from (item for item, _ in drawn)

    def _layers(self, item: Item, face: Tensor) -> Callable[[], paste.Layers]:
        """What to paste: on a CPU the threads that paste compute it, on a GPU it is begun here, where the face is."""
        given: Any = (self.voice.matrices[item.index], self.models.resolution)
        if face.device.type == "cpu":
            return partial(paste.layers, item.frame, face.permute(1, 2, 0).numpy(), *given)
        return paste_gpu.layers(item.frame, face, *given)

    def _closed_layers(self, item: Item) -> paste.Layers:
        """What to paste of closed mouths."""
        crop, finer = item.crops[self.number], self.closed.shape[1]
        assert crop is not None
        face = silence.closed_face(self.voice.closed[item.index], self.closed, crop).astype(np.float32)
        matrix = self.voice.matrices[item.index] * (finer / self.models.resolution)
        return paste.layers(item.frame, face, matrix, finer, silence.lips(finer))
