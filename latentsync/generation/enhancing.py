"""Enhancement of a video: frames come by in order, and leave with their generated faces restored (restore.py).

    two threads align -> the restorer, in batches -> two threads smooth over time and add the detail

A frame waits for the two that follow it, because detail is smoothed over five frames.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import av
import cv2
import numpy as np

from latentsync.generation.restore import (
    SMALL,
    Change,
    Enhancer,
    Places,
    add_detail,
    aligned_face,
    detail,
    lip_mask,
    still,
    weighted,
)
from latentsync.generation.stopwatch import Stopwatch
from latentsync.media.ahead import mapped
from latentsync.media.frames import colour_of

BATCH = 8  # frames
TAPS = np.array([1, 4, 6, 4, 1], np.float32) / 16  # over frames: what alternates from frame to frame cancels
REACH = len(TAPS) // 2


@dataclass
class Face:
    """An aligned face on its way."""

    rgb: np.ndarray | None
    """uint8 (S, S, 3), until it is restored."""
    small: np.ndarray
    """Grey levels of the window, float32 (SMALL, SMALL)."""
    change: Change | None = None
    """What the restorer adds."""


@dataclass
class Held:
    """A frame on its way; without a face it passes through."""

    index: int
    frame: av.VideoFrame
    face: Face | None


class Enhancing:
    """Restores the faces of one voice.

    Args:
        places: from `restore.find_places`.
        enhancer: the restorer, and how it is used.
        resolution: side of the generated face, pixels.
        watch: counts the restorer as "restore" and the rest as "enhance".
    """

    def __init__(self, places: Places, enhancer: Enhancer, resolution: int, watch: Stopwatch):
        self.places, self.resolution, self.watch = places, resolution, watch
        self.restore, self.cfg, self.size = enhancer.restore, enhancer.cfg, enhancer.size

    def needed_from(self, first: int) -> int:
        """The first frame that must come by so that frames from `first` on are those of a whole run."""
        return max(0, first - REACH) // BATCH * BATCH

    def restored(self, frames: Iterable[av.VideoFrame], begin: int) -> Iterator[av.VideoFrame]:
        """The frames from number `begin` on, a multiple of BATCH; those with a generated face are changed in place.

        Batches always begin at multiples of BATCH, because faces that are restored together differ in the last bits
        from those restored alone.
        """
        aligned = mapped(self._aligned, enumerate(frames, begin))
        yield from mapped(self._finished, self._with_neighbours(self._in_batches(aligned)))

    def _aligned(self, numbered: tuple[int, av.VideoFrame]) -> Held:
        index, frame = numbered
        if not self.places.restored[index]:
            return Held(index, frame, None)
        with self.watch("enhance"):
            rgb = aligned_face(frame, self.places.matrices[index], self.size)
            small = cv2.resize(self._within(rgb), (SMALL, SMALL), interpolation=cv2.INTER_AREA)
            return Held(index, frame, Face(rgb, small.mean(-1, dtype=np.float32)))

    def _within(self, image: np.ndarray) -> np.ndarray:
        """The window of an image of any side that lies over the aligned face."""
        x0, y0, x1, y1 = (edge * len(image) // self.size for edge in self.places.window)
        return image[y0:y1, x0:x1]

    def _in_batches(self, items: Iterable[Held]) -> Iterator[Held]:
        batch: list[Held] = []
        for item in items:
            batch.append(item)
            if (item.index + 1) % BATCH == 0:
                yield from self._with_changes(batch)
                batch = []
        yield from self._with_changes(batch)

    def _with_changes(self, batch: list[Held]) -> list[Held]:
        found = [(item.frame, item.face, item.face.rgb) for item in batch if item.face and item.face.rgb is not None]
        if found:
            with self.watch("restore"):
                restored = self.restore(np.stack([rgb for *_, rgb in found]).astype(np.float32))
            if not np.isfinite(restored).all():
                raise ValueError(
                    "The restorer returned numbers that are not finite, so nothing is enhanced; choose other weights "
                    "(--enhance-weights) or leave out --enhance."
                )
            with self.watch("enhance"):
                for (frame, face, rgb), new in zip(found, restored, strict=True):
                    face.change, face.rgb = detail(rgb, new, self.places.window, colour_of(frame)), None
        return batch

    def _with_neighbours(self, items: Iterable[Held]) -> Iterator[tuple[Held, list[Held]]]:
        """Each frame, and those of its span that it is smoothed with, itself among them."""
        near, coming = deque[Held](), deque[Held]()

        def completed() -> tuple[Held, list[Held]]:
            one = coming.popleft()
            while near[0].index < one.index - REACH:
                near.popleft()
            span, spans = self.places.spans[one.index], self.places.spans
            return one, [item for item in near if item.index <= one.index + REACH and spans[item.index] == span]

        for item in items:
            near.append(item)
            coming.append(item)
            if coming[0].index + REACH == item.index:
                yield completed()
        while coming:
            yield completed()

    def _finished(self, given: tuple[Held, list[Held]]) -> av.VideoFrame:
        (index, frame, face), neighbours = (given[0].index, given[0].frame, given[0].face), given[1]
        if face is None:
            return frame
        with self.watch("enhance"):
            places, cfg = self.places, self.cfg
            faces = [(TAPS[item.index - index + REACH], item.face) for item in neighbours if item.face is not None]
            changes = [one.change for _, one in faces if one.change is not None]
            change = weighted(changes, [tap * still(face.small, one.small) for tap, one in faces])
            lips = self._within(lip_mask(places.lips[index], self.size))
            kept = cfg.strength * places.opacity[index] * (1 - cfg.lip_protection * lips)
            for plane in change:
                plane *= cv2.resize(kept, plane.shape[1::-1], interpolation=cv2.INTER_LINEAR)
            add_detail(frame, change, index, places, self.resolution, cfg.region)
        return frame
