"""Faces of a whole video, scene by scene, and which of them speaks where."""

import dataclasses
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from latentsync.config import DetectScenes
from latentsync.faces.face import Detector
from latentsync.faces.tracking import Track, track_faces
from latentsync.media.ahead import ahead
from latentsync.media.picture import Picture
from latentsync.media.read import Reader, frame_times
from latentsync.media.scenes import LATE, CutFinder

NO_FACE, OTHER_FACE = -1, -2
PASSED_THROUGH = {NO_FACE: "no_face", OTHER_FACE: "other_face"}  # why a frame was left as it is
MAX_GAP_S = 0.2  # longest time without the face that is interpolated, as align_faces.max_gap_ticks is by default


def scenes(pictures: Iterable[Picture]) -> Iterator[tuple[int, Picture]]:
    """(number of the scene, picture) for every frame, a few frames late."""
    finder = CutFinder(DetectScenes())  # one video on the command line has no section, and a run shall not differ
    waiting: deque[tuple[int, Picture]] = deque()
    cuts: set[int] = set()
    scene = 0
    for number, picture in enumerate(pictures):
        cuts.update(finder.see(number, picture.frame))
        waiting.append((number, picture))
        if len(waiting) > LATE:
            oldest, ripe = waiting.popleft()
            scene += oldest in cuts
            yield scene, ripe
    for oldest, ripe in waiting:
        scene += oldest in cuts
        yield scene, ripe


def track_video(video: Path, detector: Detector, max_s: float | None = None) -> list[Track]:
    """The faces of all displayed frames, numbered through the video; no track crosses a cut. One decode.

    Frames from `max_s` seconds on are not looked at.
    """
    times_s, end_s = frame_times(video)
    max_gap = round(MAX_GAP_S * len(times_s) / end_s)
    if max_s is not None:
        times_s = times_s[times_s < max_s]
    pictures = ahead(picture for _, picture in Reader(video).pictures(np.arange(len(times_s))))
    tracks, start = [], 0
    for _, scene in groupby(scenes(pictures), key=lambda pair: pair[0]):
        counted = _Counted(picture for _, picture in scene)
        for track in track_faces(counted, detector, max_gap, to_rgb=Picture.quick):
            tracks.append(dataclasses.replace(track, start=track.start + start, stop=track.stop + start))
        start += counted.n
    assert start == len(times_s), (start, len(times_s))
    return tracks


class _Counted:
    def __init__(self, items: Iterable[Picture]):
        self.items, self.n = items, 0

    def __iter__(self) -> Iterator[Picture]:
        for item in self.items:
            self.n += 1
            yield item


def speaking(tracks: Sequence[Track], n_frames: int, chosen: Iterable[int] = ()) -> np.ndarray:
    """Which track speaks at each frame, int64 [n]; NO_FACE where there is none, OTHER_FACE where it is not the speaker.

    Chosen tracks first, then the widest faces; a track that shares any frame with one already taken is somebody else,
    so that speech never hops to a second person when the first turns away.
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


def same_face(
    tracks: Sequence[Track], times_s: np.ndarray, landmarks: np.ndarray, start_tick: int, ticks_per_s: int = 25
) -> int | None:
    """The track that is the face with these landmarks [n, P, 2], one row per tick from start_tick; None: none of them.

    At each tick the nearest frame's landmarks must lie, on average, within a quarter of the face's width.
    """
    ticks_s = (start_tick + np.arange(len(landmarks))) / ticks_per_s
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
