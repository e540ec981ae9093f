"""Follow faces through the frames of a video: which find belongs to which face, short gaps, steady anchors.

Everything runs forward in one pass with a few frames of delay, so a caller can use the pixels of each frame as soon as
the anchors in it are final (`settled`) and no video is ever held in memory.

Frames are numbered from 0 as they come; ranges are half-open; n is the number of frames of a track, P of landmarks.
"""

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from latentsync.faces.detection import Detector, Face, overlap
from latentsync.faces.smoothing import SMOOTHING_WINDOW, steady

MIN_FRAMES = 5  # a shorter track is an accident, unless there is no other
MIN_IOU = 0.2
MAX_STEP = 0.5  # a face that jumps by more than this share of its width is another face
MAX_ZOOM = 1.6
RIVAL = 0.6  # a second claim to a find that is so nearly as good makes it nobody's: see `_match`
MIN_BROW_PX = 0.1  # between the brows; below, there is no alignment (the demo's talkers have 24 and more)

# settled(birth, frame number, picture, anchors float64 [3, 2]); once for each frame of each track, in order.
Settled = Callable[[int, int, Any, np.ndarray], None]


@dataclass(frozen=True)
class Track:
    """One face over frames [start, stop); where `found` is false it was not seen and its place is interpolated."""

    start: int
    stop: int
    birth: int  # by what number `settled` knew it, the order in which faces came up
    anchors: np.ndarray  # float32 [n, 3, 2], steadied
    raw_anchors: np.ndarray  # float32 [n, 3, 2], as measured
    landmarks: np.ndarray  # float32 [n, P, 2], as measured
    boxes: np.ndarray  # float32 [n, 4]
    mouth_opening: np.ndarray  # float32 [n], NaN where not found
    found: np.ndarray  # bool [n]

    @property
    def face_px(self) -> float:
        """Median width of the face where it was seen, source pixels."""
        return float(np.median(self.boxes[self.found, 2] - self.boxes[self.found, 0]))


def track_faces(
    frames: Iterable[Any],
    detector: Detector,
    max_gap: int,
    settled: Settled | None = None,
    cuts: Collection[int] = (),
    ended: Callable[[int], None] | None = None,
    look: Callable[[Any], np.ndarray] = np.asarray,
) -> list[Track]:
    """All faces of a video, the widest first.

    Args:
        frames: pictures, in order. Where their size changes, coordinates begin anew, as at a cut.
        detector: as opened; it is reset first, and at every cut.
        max_gap: longest run of frames in which a face may be missing and is interpolated; a longer one ends its track.
        settled: told each frame of each track once its anchors are final, while the picture is still at hand. Tracks
            that turn out too short are told as well while there is no other; the result says which birth numbers stay.
        cuts: frames at which a new scene begins; no track crosses one.
        ended: told the birth number of a track after the last of its frames, and of those never settled.
        look: a picture as uint8 (h, w, 3) for the detector.
    """
    cuts = set(cuts)
    births: list[_Growing] = []
    alive: list[_Growing] = []
    pictures: dict[int, Any] = {}
    detector.reset()

    lasting = False  # a track is long enough, so those that end too short are accidents

    def settle(track: _Growing, last: bool) -> None:
        nonlocal lasting
        long_enough = track.last + 1 - track.start >= MIN_FRAMES
        lasting = lasting or long_enough
        if settled is not None and (long_enough or not lasting):
            for index, anchors in track.settle(last):
                settled(track.birth, index, pictures[index], anchors)
        if last and ended is not None:
            ended(track.birth)

    shape = None
    for number, picture in enumerate(frames):
        rgb = look(picture)
        if number in cuts or shape not in (None, rgb.shape):
            detector.reset()
            for track in alive:
                settle(track, last=True)
            alive = []
        shape = rgb.shape
        if settled is not None:
            pictures[number] = picture
        faces = [face for face in detector.detect(rgb) if _usable(face)]
        taken, lost = _match(alive, faces)
        for track in lost:
            settle(track, last=True)
        alive = [track for track in alive if track not in lost]
        for index, face in enumerate(faces):
            if index in taken:
                taken[index].see(number, face)
            else:
                births.append(_Growing(len(births), number, face))
                alive.append(births[-1])
        for track in alive:
            settle(track, last=number - track.last > max_gap)
        alive = [track for track in alive if number - track.last <= max_gap]
        needed = min((track.next for track in alive), default=number + 1)
        pictures = {index: kept for index, kept in pictures.items() if index >= needed}
    for track in alive:
        settle(track, last=True)
    return _finished(births)


def _usable(face: Face) -> bool:
    """Whether the find can be aligned at all; a detector's slip counts as not found."""
    left, right, _ = face.anchors
    return bool(np.isfinite(face.landmarks).all() and np.hypot(*(right - left)) >= MIN_BROW_PX)


def _finished(births: "list[_Growing]") -> list[Track]:
    tracks = [track.finish() for track in births]
    longest = max((track.stop - track.start for track in tracks), default=0)
    least = min(MIN_FRAMES, longest)
    kept = [track for track in tracks if track.stop - track.start >= least]
    if longest < MIN_FRAMES:  # nothing but accidents: the widest stands for all
        kept = sorted(kept, key=lambda track: -track.face_px)[:1]
    mean_width = {track.birth: float(np.mean(np.diff(track.boxes[track.found][:, ::2]))) for track in kept}
    return sorted(kept, key=lambda track: (-mean_width[track.birth], track.birth))


def _match(alive: "list[_Growing]", faces: list[Face]) -> "tuple[dict[int, _Growing], list[_Growing]]":
    """Index of a find -> its track, best overlap first, each once; and the tracks that are to end.

    Where faces pass in front of one another, one find fits two tracks nearly as well, or two finds one track. Then
    nobody can say who is who (neither the shape of FaceMesh's points nor a small picture of the face tells people
    apart, see docs/decisions.md), so the tracks end there, and what comes after the meeting begins anew.
    """
    claims = np.array([[_likeness(track.faces[-1].box, face.box) for face in faces] for track in alive])
    taken: dict[int, _Growing] = {}
    lost: set[int] = set()
    if claims.size == 0:
        return taken, []
    for order, index in sorted(np.argwhere(claims > 0).tolist(), key=lambda pair: (-claims[*pair], pair)):
        best = claims[order, index]
        others = [other for other in range(len(alive)) if other != order and claims[other, index] >= RIVAL * best]
        elsewhere = np.delete(claims[order], index).max(initial=0.0) >= RIVAL * best
        if others or elsewhere:
            lost |= {order, *others}
        elif index not in taken and alive[order] not in taken.values():
            taken[index] = alive[order]
    return {index: track for index, track in taken.items() if alive.index(track) not in lost}, [alive[i] for i in lost]


def _likeness(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Overlap of two boxes, 0 if they cannot be one face in successive frames."""
    width_a, width_b = a[2] - a[0], b[2] - b[0]
    step = max(abs(a[0] + a[2] - b[0] - b[2]), abs(a[1] + a[3] - b[1] - b[3])) / 2
    same_size = max(width_a, width_b) <= MAX_ZOOM * min(width_a, width_b)
    near = step <= MAX_STEP * max(width_a, width_b)
    iou, _ = overlap(a, b)
    return iou if same_size and near and iou >= MIN_IOU else 0.0


def _anchors(face: Face) -> np.ndarray:
    return face.anchors


class _Growing:
    """A track under way: the frames in which the face was seen, and what has been settled."""

    def __init__(self, birth: int, number: int, face: Face):
        self.birth, self.start = birth, number
        self.seen, self.faces = [number], [face]
        self.next = number  # first frame not settled yet

    @property
    def last(self) -> int:
        return self.seen[-1]

    def see(self, number: int, face: Face) -> None:
        self.seen.append(number)
        self.faces.append(face)

    def _filled(self, part: Callable[[Face], object], first: int | None = None) -> np.ndarray:
        """A part of the seen faces -> float64 [n, ...] for all frames from `first` to the last seen, linear between."""
        first = self.start if first is None else first
        skip = max(0, bisect_right(self.seen, first) - 1)
        seen = np.array(self.seen[skip:])
        table = np.array([part(face) for face in self.faces[skip:]], np.float64)
        frames = np.arange(first, self.last + 1)
        right = np.searchsorted(seen, frames)
        left = np.maximum(right - 1, 0)
        share = (frames - seen[left]) / np.maximum(seen[right] - seen[left], 1)
        return table[left] + share.reshape(-1, *[1] * (table.ndim - 1)) * (table[right] - table[left])

    def settle(self, ended: bool) -> list[tuple[int, np.ndarray]]:
        """(frame, anchors) of all frames that have become final since the last call."""
        half = SMOOTHING_WINDOW // 2
        stop = self.last + 1 if ended else self.last + 1 - half
        if stop <= self.next or (not ended and self.last - self.start < 2 * half):
            return []
        first = max(self.start, self.next - 2 * half)  # what lies before has no part in the frames to come
        anchors = steady(self._filled(_anchors, first))
        ready = [(index, anchors[index - first]) for index in range(self.next, stop)]
        self.next = stop
        return ready

    def finish(self) -> Track:
        found = np.zeros(self.last + 1 - self.start, bool)
        found[np.asarray(self.seen) - self.start] = True
        opening = np.full(len(found), np.nan, np.float32)
        opening[found] = [face.mouth_opening for face in self.faces]
        return Track(
            self.start,
            self.last + 1,
            self.birth,
            steady(self._filled(_anchors)).astype(np.float32),
            self._filled(_anchors).astype(np.float32),
            self._filled(lambda face: face.landmarks).astype(np.float32),
            self._filled(lambda face: face.box).astype(np.float32),
            opening,
            found,
        )
