"""The networks' part of a generation: frames come by in order, and leave with the mouths that are to be pasted.

Axes: f frames, c channels, h w pixels or latent cells, s audio tokens, d their width, R side of the face in pixels.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, Protocol, runtime_checkable

import av
import cv2
import numpy as np
import torch
from torch import Tensor

from latentsync.config import Generate
from latentsync.generation import joining, paste, paste_gpu, sampling, silence, timeline
from latentsync.generation.plan import Plan
from latentsync.generation.stopwatch import Stopwatch
from latentsync.timing import whisper_rows


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


def _device(models: Generator) -> torch.device:
    return getattr(models, "device", torch.device("cpu"))


def batch_size(models: Generator, cfg: Generate) -> int:
    """Windows per call of the U-Net: as configured, or as many as fit the free memory of the GPU."""
    return cfg.batch_size or sampling.windows_at_once(models.frames, models.resolution, _device(models))


def _finite(faces: Tensor) -> Tensor:
    """Whether all values of some faces are finite, a bool on the CPU; on a GPU it is copied there without waiting."""
    found = faces.isfinite().all()
    return found if found.device.type == "cpu" else torch.empty((), dtype=torch.bool).pin_memory().copy_(found, True)


def _checked(layers: Callable[[], paste.Layers], finite: Tensor) -> paste.Layers:
    """The layers, if the faces that they come from are finite; by the time they are here, so is `finite`."""
    made = layers()
    if not finite:
        raise ValueError(
            "The networks returned numbers that are not finite, so nothing is pasted; their weights do not fit one "
            "another, or half precision is too small for them."
        )
    return made


def waiting(plan: Plan, models: Generator, cfg: Generate) -> int:
    """Frames that may wait between two threads: as many as a batch of windows draws at once."""
    assert cfg.batch_size is not None, "redraw has set it"
    return models.frames * max(cfg.batch_size, joining.stride_of(plan.times_s))


def pasted_ahead(plan: Plan, models: Generator, cfg: Generate) -> int:
    """Pasted frames that may wait: beside a GPU those of one batch of windows, so that it gets its next ones meanwhile.

    On a CPU few: frames that leave the caches before they are encoded cost a twentieth of the time.
    """
    return 2 if _device(models).type == "cpu" else waiting(plan, models, cfg)


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
        assert cfg.batch_size is not None, "redraw has set it"
        self.batch_size = max(1, cfg.batch_size // self.stride)
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
                faces = self.models.decode(latents)
                finite = _finite(faces)
                drawn = [(held.popleft(), face) for face in faces]
                for item, face in drawn:
                    opacity, closed = self.voice.opacity[item.index], self.voice.closed[item.index]
                    if opacity:
                        item.pastes.append((partial(_checked, self._layers(item, face), finite), float(opacity)))
                    if closed.any():
                        item.pastes.append((partial(self._closed_layers, item), float(closed.sum())))
            yield from (item for item, _ in drawn)

    def _layers(self, item: Item, face: Tensor) -> Callable[[], paste.Layers]:
        """What to paste: on a CPU the threads that paste compute it, on a GPU it is begun here, where the face is."""
        given: Any = (self.voice.matrices[item.index], self.models.resolution)
        if face.device.type == "cpu":
            return partial(paste.layers, item.frame, cv2.merge(list(face.numpy())), *given)
        return paste_gpu.layers(item.frame, face, *given)

    def _closed_layers(self, item: Item) -> paste.Layers:
        """What to paste of closed mouths."""
        crop, finer = item.crops[self.number], self.closed.shape[1]
        assert crop is not None
        face = silence.closed_face(self.voice.closed[item.index], self.closed, crop).astype(np.float32)
        matrix = self.voice.matrices[item.index] * (finer / self.models.resolution)
        return paste.layers(item.frame, face, matrix, finer, silence.lips(finer))
