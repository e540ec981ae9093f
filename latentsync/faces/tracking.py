"""Track faces through the frames of a video: assign detections to tracks, bridge short gaps, smooth the anchors.

One forward pass with a few frames of delay: a caller gets each frame as soon as its anchors are final (`on_anchors`),
and no video is ever held in memory.

Frames are numbered from 0 in order; ranges are half-open; n is the number of frames of a track, P of landmarks.
"""

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from latentsync.faces.face import Detector, Face, overlap
from latentsync.faces.smoothing import SMOOTHING_WINDOW, steady

MIN_FRAMES = 5  # a shorter track is taken for a false detection, unless there is no other
MIN_IOU = 0.2
MAX_STEP = 0.5  # a face that jumps by more than this share of its width is another face
MAX_ZOOM = 1.6
RIVAL = 0.6  # a detection is ambiguous if its second-best track scores at least this share of the best: see `_match`
MIN_BROW_PX = 0.1  # between the brows; below, there is no alignment (the demo's talkers have 24 and more)

# on_anchors(track id, frame number, frame, anchors float64 [3, 2]); once for each frame of each track, in order.
OnAnchors = Callable[[int, int, Any, np.ndarray], None]
Measure = Callable[[np.ndarray, Face], np.ndarray]  # (frame uint8 (h, w, 3), face) -> finite numbers of a fixed shape
_ANCHORS, _BOX, _CENTRE, _OPENING, _KEPT = slice(6), slice(6, 10), slice(10, 12), 12, slice(13, None)  # of a row
_TOGETHER = 4  # frames whose anchors are smoothed together: calls of numpy cost more than their work
_AT_ONCE = 256  # frames whose gaps are filled at once, in double precision


@dataclass(frozen=True)
class Track:
    """One face over frames [start, stop); where `found` is false it was not detected and is interpolated."""

    start: int
    stop: int
    track_id: int  # as given to `on_anchors`: tracks are numbered as they appear
    anchors: np.ndarray  # float32 [n, 3, 2], smoothed
    raw_anchors: np.ndarray  # float32 [n, 3, 2], as detected
    landmarks: np.ndarray  # float32 [n, P, 2], as detected; P is 0 where measures were kept instead
    boxes: np.ndarray  # float32 [n, 4]
    mouth_opening: np.ndarray  # float32 [n], NaN where not found
    found: np.ndarray  # bool [n]
    centres: np.ndarray  # float32 [n, 2], mean of the landmarks
    measures: np.ndarray  # float32 [n, ...], what `measure` returned; [n, 0] without one
    shot: tuple[int, int] | None = None  # frames [start, stop) between the cuts around it, where they are known

    @property
    def face_px(self) -> float:
        """Median width of the face where it was found, source pixels."""
        return float(np.median(self.boxes[self.found, 2] - self.boxes[self.found, 0]))


def track_faces(
    frames: Iterable[Any],
    detector: Detector,
    max_gap: int,
    on_anchors: OnAnchors | None = None,
    on_end: Callable[[int], None] | None = None,
    to_rgb: Callable[[Any], np.ndarray] = np.asarray,
    measure: Measure | None = None,
) -> list[Track]:
    """All faces of a video, the widest first.

    Args:
        frames: in order. Where their size changes, all tracks end and the detector is reset.
        detector: as opened; it is reset first.
        max_gap: longest run of frames in which a face may be missing and is interpolated; a longer one ends its track.
        on_anchors: called for each frame of each track once its anchors are final, while the frame is still in memory.
            It is also called for tracks that turn out too short, while there is no other; the result says which stay.
        on_end: called with the id of a track after its last frame, even if `on_anchors` never was.
        to_rgb: a frame as uint8 (h, w, 3) for the detector.
        measure: called for each detected face while its frame is in memory. Tracks then hold what it returns instead of
            all landmarks, which are 4 kB a frame.
    """
    tracks: list[_OpenTrack] = []
    alive: list[_OpenTrack] = []
    held: dict[int, Any] = {}  # frames whose anchors are not final yet
    detector.reset()

    lasting = False  # a track is long enough, so tracks that end too short are false detections

    def emit(track: _OpenTrack, ended: bool) -> None:
        nonlocal lasting
        long_enough = track.last + 1 - track.start >= MIN_FRAMES
        lasting = lasting or long_enough
        if on_anchors is not None and (long_enough or not lasting):
            for index, anchors in track.final_anchors(ended):
                on_anchors(track.track_id, index, held[index], anchors)
        if ended and on_end is not None:
            on_end(track.track_id)

    shape = None
    for number, frame in enumerate(frames):
        rgb = to_rgb(frame)
        if shape not in (None, rgb.shape):
            detector.reset()
            for track in alive:
                emit(track, ended=True)
            alive = []
        shape = rgb.shape
        if on_anchors is not None:
            held[number] = frame
        faces = [face for face in detector.detect(rgb) if _usable(face)]
        matched, ambiguous = _match(alive, faces)
        for track in ambiguous:
            emit(track, ended=True)
        alive = [track for track in alive if track not in ambiguous]
        for index, face in enumerate(faces):
            kept = face.landmarks if measure is None else measure(rgb, face)
            if index in matched:
                matched[index].add(number, face, kept)
            else:
                tracks.append(_OpenTrack(len(tracks), number, face, kept))
                alive.append(tracks[-1])
        for track in alive:
            emit(track, ended=number - track.last > max_gap)
        alive = [track for track in alive if number - track.last <= max_gap]
        needed = min((track.next for track in alive), default=number + 1)
        held = {index: kept for index, kept in held.items() if index >= needed}
    for track in alive:
        emit(track, ended=True)
    return _finished(tracks, measure is not None)


def _usable(face: Face) -> bool:
    """Whether the detection can be aligned at all; one that cannot counts as not found."""
    left, right, _ = face.anchors
    return bool(np.isfinite(face.landmarks).all() and np.hypot(*(right - left)) >= MIN_BROW_PX)


def _finished(open_tracks: "list[_OpenTrack]", measured: bool) -> list[Track]:
    """The tracks that are long enough, the widest first."""
    tracks = [track.finish(measured) for track in open_tracks]
    longest = max((track.stop - track.start for track in tracks), default=0)
    least = min(MIN_FRAMES, longest)
    kept = [track for track in tracks if track.stop - track.start >= least]
    if longest < MIN_FRAMES:  # no track is long enough: keep the widest
        kept = sorted(kept, key=lambda track: -track.face_px)[:1]
    mean_width = {track.track_id: float(np.mean(np.diff(track.boxes[track.found][:, ::2]))) for track in kept}
    return sorted(kept, key=lambda track: (-mean_width[track.track_id], track.track_id))


def _match(alive: "list[_OpenTrack]", faces: list[Face]) -> "tuple[dict[int, _OpenTrack], list[_OpenTrack]]":
    """Index of a detection -> its track, best overlap first, each once; and the tracks that must end.

    Where one face passes in front of another, one detection fits two tracks nearly equally well, or two detections one
    track. The identities are then unknown (neither the shape of FaceMesh's points nor a small image of the face tells
    people apart, see docs/decisions.md), so these tracks end there, and new ones start afterwards.
    """
    scores = np.array([[_likeness(track.box, face.box) for face in faces] for track in alive])
    matched: dict[int, _OpenTrack] = {}
    ambiguous: set[int] = set()
    if scores.size == 0:
        return matched, []
    for order, index in sorted(np.argwhere(scores > 0).tolist(), key=lambda pair: (-scores[*pair], pair)):
        best = scores[order, index]
        others = [other for other in range(len(alive)) if other != order and scores[other, index] >= RIVAL * best]
        elsewhere = np.delete(scores[order], index).max(initial=0.0) >= RIVAL * best
        if others or elsewhere:
            ambiguous |= {order, *others}
        elif index not in matched and alive[order] not in matched.values():
            matched[index] = alive[order]
    sure = {index: track for index, track in matched.items() if alive.index(track) not in ambiguous}
    return sure, [alive[order] for order in ambiguous]


def _likeness(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Overlap of two boxes, 0 if they cannot be one face in successive frames."""
    width_a, width_b = a[2] - a[0], b[2] - b[0]
    step = max(abs(a[0] + a[2] - b[0] - b[2]), abs(a[1] + a[3] - b[1] - b[3])) / 2
    same_size = max(width_a, width_b) <= MAX_ZOOM * min(width_a, width_b)
    near = step <= MAX_STEP * max(width_a, width_b)
    iou, _ = overlap(a, b)
    return iou if same_size and near and iou >= MIN_IOU else 0.0


class _OpenTrack:
    """A track that has not ended: the frames in which the face was detected, and which anchors are final.

    Of each face it holds a row of float32 numbers, which is all that a finished track needs.
    """

    def __init__(self, track_id: int, number: int, face: Face, kept: np.ndarray):
        self.track_id, self.start = track_id, number
        self.seen, self.rows, self.shape = array("q"), array("f"), kept.shape
        self.next = number  # first frame whose anchors are not final
        self.add(number, face, kept)

    @property
    def last(self) -> int:
        return self.seen[-1]

    def add(self, number: int, face: Face, kept: np.ndarray) -> None:
        self.box = face.box
        self.seen.append(number)
        parts = face.anchors.ravel(), face.box, face.landmarks.mean(0), [face.mouth_opening], kept.ravel()
        self.rows.frombytes(np.concatenate(parts).astype(np.float32).tobytes())

    def _table(self, skip: int = 0) -> np.ndarray:
        """A view of the rows from `skip` on; nothing can be added while it exists."""
        return np.frombuffer(self.rows, np.float32).reshape(len(self.seen), -1)[skip:]

    def _filled(self, columns: slice, first: int | None = None) -> np.ndarray:
        """Columns, float64 [n, ...], for all frames from `first` to the last, gaps interpolated."""
        first = self.start if first is None else first
        skip = max(0, bisect_right(self.seen, first) - 1)
        return _between(np.array(self.seen[skip:]), self._table(skip)[:, columns], np.arange(first, self.last + 1))

    def _kept(self) -> np.ndarray:
        """What was kept of each face, float32 [n, ...], gaps interpolated; never all of it in double precision."""
        seen, table = np.array(self.seen), self._table()[:, _KEPT]
        frames = np.arange(self.start, self.last + 1)
        result = np.empty((len(frames), table.shape[1]), np.float32)
        for start in range(0, len(frames), _AT_ONCE):
            some = frames[start : start + _AT_ONCE]
            # One seen frame earlier and one later than these frames, so that all gaps have both ends.
            low, high = max(0, np.searchsorted(seen, some[0]) - 1), np.searchsorted(seen, some[-1]) + 1
            result[start : start + _AT_ONCE] = _between(seen[low:high], table[low:high], some)
        return result.reshape(-1, *self.shape)

    def final_anchors(self, ended: bool) -> list[tuple[int, np.ndarray]]:
        """(frame, anchors) of the next frames whose anchors are final, some at a time; all if the track has ended."""
        half = SMOOTHING_WINDOW // 2
        stop = self.last + 1 if ended else self.last + 1 - half
        if stop <= self.next or (not ended and stop - self.next < _TOGETHER):
            return []
        first = max(self.start, self.next - 2 * half)  # earlier frames do not influence those that follow
        anchors = steady(self._filled(_ANCHORS, first).reshape(-1, 3, 2))
        ready = [(index, anchors[index - first]) for index in range(self.next, stop)]
        self.next = stop
        return ready

    def finish(self, measured: bool) -> Track:
        """The track; what was held for it is gone afterwards."""
        found = np.zeros(self.last + 1 - self.start, bool)
        found[np.asarray(self.seen) - self.start] = True
        opening = np.full(len(found), np.nan, np.float32)
        opening[found] = self._table()[:, _OPENING]
        raw, kept, none = self._filled(_ANCHORS).reshape(-1, 3, 2), self._kept(), np.zeros((len(found), 0), np.float32)
        track = Track(
            start=self.start,
            stop=self.last + 1,
            track_id=self.track_id,
            anchors=steady(raw).astype(np.float32),
            raw_anchors=raw.astype(np.float32),
            landmarks=none[..., None].repeat(2, -1) if measured else kept,
            boxes=self._filled(_BOX).astype(np.float32),
            mouth_opening=opening,
            found=found,
            centres=self._filled(_CENTRE).astype(np.float32),
            measures=kept if measured else none,
        )
        self.rows = array("f")
        return track


def _between(seen: np.ndarray, table: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Rows [len(seen), k] of the frames `seen`, linearly interpolated at `frames`: float64 [len(frames), k]."""
    right = np.searchsorted(seen, frames)
    left = np.maximum(right - 1, 0)
    share = (frames - seen[left]) / np.maximum(seen[right] - seen[left], 1)
    before, after = table[left].astype(np.float64), table[right].astype(np.float64)
    return before + share[:, None] * (after - before)
