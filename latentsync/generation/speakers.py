"""The face tracks of a whole video, scene by scene, and which of them speaks in which frame."""

import dataclasses
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from latentsync.config import DetectScenes, Tracking
from latentsync.faces.face import Detector
from latentsync.faces.tracking import Track, track_faces
from latentsync.generation.progress import Progress, Report, silent
from latentsync.media.ahead import ahead
from latentsync.media.frames import DisplayedFrame
from latentsync.media.read import Reader, frame_times
from latentsync.media.scenes import DELAY_FRAMES, CutFinder
from latentsync.timing import TICKS_PER_S

NO_FACE, OTHER_FACE = -1, -2
PASSED_THROUGH = {NO_FACE: "no_face", OTHER_FACE: "other_face"}  # why a frame was left as it is
PUBLISHED = Tracking()


def scenes(
    frames: Iterable[DisplayedFrame], cfg: DetectScenes = PUBLISHED.scenes
) -> Iterator[tuple[int, DisplayedFrame]]:
    """(number of the scene, frame) for every frame, each after a delay of DELAY_FRAMES."""
    finder = CutFinder(cfg)
    waiting: deque[tuple[int, DisplayedFrame]] = deque()
    cuts: set[int] = set()
    scene = 0
    for number, frame in enumerate(frames):
        cuts.update(finder.see(number, frame.stored))
        waiting.append((number, frame))
        if len(waiting) > DELAY_FRAMES:
            number, frame = waiting.popleft()
            scene += number in cuts
            yield scene, frame
    for number, frame in waiting:
        scene += number in cuts
        yield scene, frame


def track_video(
    video: Path,
    detector: Detector,
    max_s: float | None = None,
    cfg: Tracking = PUBLISHED,
    progress: Report = silent,
) -> list[Track]:
    """The face tracks of all displayed frames, in frame numbers of the video; no track crosses a cut. One decode.

    Frames from `max_s` seconds on are left out. `progress` is called with the number of frames seen.
    """
    times_s, end_s = frame_times(video)
    max_gap = round(cfg.max_gap_ticks / TICKS_PER_S * len(times_s) / end_s)
    if max_s is not None:
        times_s = times_s[times_s < max_s]
    frames = ahead(frame for _, frame in Reader(video).displayed_frames(np.arange(len(times_s))))
    tracks, start = [], 0
    for _, scene in groupby(scenes(frames, cfg.scenes), key=lambda pair: pair[0]):
        counted = _Counted(_reported((frame for _, frame in scene), start, len(times_s), progress))
        for track in track_faces(counted, detector, max_gap, to_rgb=DisplayedFrame.quick):
            tracks.append(dataclasses.replace(track, start=track.start + start, stop=track.stop + start))
        start += counted.n
    assert start == len(times_s), (start, len(times_s))
    return tracks


def _reported(frames: Iterable[DisplayedFrame], start: int, total: int, progress: Report) -> Iterator[DisplayedFrame]:
    for number, frame in enumerate(frames, start):
        progress(Progress("finding faces", number, total))
        yield frame


class _Counted:
    def __init__(self, items: Iterable[DisplayedFrame]):
        self.items, self.n = items, 0

    def __iter__(self) -> Iterator[DisplayedFrame]:
        for item in self.items:
            self.n += 1
            yield item


def speaking(tracks: Sequence[Track], n_frames: int, chosen: Iterable[int] = ()) -> np.ndarray:
    """Which track speaks at each frame, int64 [n]; NO_FACE where no face was found, OTHER_FACE where none speaks.

    Chosen tracks come first, then tracks by face width. A track that shares any frame with one already taken is another
    person, so speech does not move to a second person when the first one turns away.
    """
    chosen = set(chosen)
    labels = np.full(n_frames, NO_FACE)
    for track in tracks:
        labels[track.start : track.stop] = OTHER_FACE
    for index in sorted(range(len(tracks)), key=lambda i: (i not in chosen, -tracks[i].face_px, i)):
        span = labels[tracks[index].start : tracks[index].stop]
        if (span < 0).all():
            span[...] = index
    return labels


def same_face(tracks: Sequence[Track], times_s: np.ndarray, landmarks: np.ndarray, start_tick: int) -> int | None:
    """The index of the track that follows the face with these landmarks [n, P, 2], one row per tick from start_tick.

    At a tick they agree if the means of their landmarks lie within a quarter of the face's width. The track that agrees
    at most ticks is returned; None if no track agrees at any.
    """
    ticks_s = (start_tick + np.arange(len(landmarks))) / TICKS_PER_S
    middles = (times_s[1:] + times_s[:-1]) / 2
    frames = np.searchsorted(middles, ticks_s - 1e-6)  # nearest frame, ties to the earlier
    best, most = None, 0
    for index, track in enumerate(tracks):
        inside = (frames >= track.start) & (frames < track.stop)
        if not inside.any():
            continue
        own = track.landmarks[frames[inside] - track.start].mean(1)
        distance = np.hypot(*(own - landmarks[inside].mean(1)).T)
        agreeing = int((distance < track.face_px / 4).sum())
        if agreeing > most:
            best, most = index, agreeing
    return best
