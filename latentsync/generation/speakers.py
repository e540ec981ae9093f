"""The face tracks of a whole video, scene by scene, and which of them speaks in which frame."""

import ctypes
import dataclasses
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from latentsync.config import DetectScenes, Tracking
from latentsync.faces.face import Detector
from latentsync.faces.tracking import Measure, Track, track_faces
from latentsync.generation.gates import NO_FACE, OTHER_FACE, PASSED_THROUGH
from latentsync.generation.progress import Progress, Report, silent
from latentsync.media.ahead import ahead
from latentsync.media.audio import read_audio
from latentsync.media.frames import DisplayedFrame
from latentsync.media.read import Reader, frame_times
from latentsync.media.repairs import Repairs, added
from latentsync.media.scenes import DELAY_FRAMES, CutFinder
from latentsync.sync import curves
from latentsync.timing import SAMPLES_PER_TICK, TICKS_PER_S

__all__ = ["NO_FACE", "OTHER_FACE", "PASSED_THROUGH", "Choice", "audio_agreement", "choose", "people", "track_video"]

PUBLISHED = Tracking()
AGREEMENT_FRAMES = 5  # of 1/25 s; how far a video's own audio may be off
_TICKS_AT_ONCE = 500


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
    measure: Measure | None = None,
    deinterlace: bool = False,
    damage: Repairs | None = None,
) -> list[Track]:
    """The face tracks of all displayed frames, in frame numbers of the video; no track crosses a cut. One decode.

    Frames from `max_s` seconds on are left out. `progress` is called with the number of frames seen. `measure`: as
    `track_faces` takes it; without it, landmarks are kept. `damage` counts frames that are damaged.
    """
    times_s, end_s = frame_times(video)
    max_gap = round(cfg.max_gap_ticks / TICKS_PER_S * len(times_s) / end_s)
    if max_s is not None:
        times_s = times_s[times_s < max_s]
    reader = Reader(video, deinterlace=deinterlace)
    frames = (frame for _, frame in reader.displayed_frames(np.arange(len(times_s))))
    images = ahead((number, frame.quick()) for number, frame in scenes(frames, cfg.scenes))
    tracks, start = [], 0
    for _, scene in groupby(images, key=lambda pair: pair[0]):
        counted = _Counted(_reported((image for _, image in scene), start, len(times_s), progress))
        found = track_faces(counted, detector, max_gap, measure=measure)
        shot = start, start + counted.n
        for track in found:
            tracks.append(dataclasses.replace(track, start=track.start + start, stop=track.stop + start, shot=shot))
        start += counted.n
    assert start == len(times_s), (start, len(times_s))
    if damage is not None:
        damage |= added({"lost_frames": len(reader.lost), "concealed_frames": reader.n_concealed})
    _return_freed_memory()
    return tracks


def _return_freed_memory() -> None:
    """Give the system what tracking has freed: in ten minutes of video 45 MB, which glibc would keep for later."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries have no such function
    if trim:
        trim(0)


def _reported(images: Iterable[np.ndarray], start: int, total: int, progress: Report) -> Iterator[np.ndarray]:
    for number, image in enumerate(images, start):
        progress(Progress("finding faces", number, total))
        yield image


class _Counted:
    def __init__(self, items: Iterable[np.ndarray]):
        self.items, self.n = items, 0

    def __iter__(self) -> Iterator[np.ndarray]:
        for item in self.items:
            self.n += 1
            yield item


def people(tracks: Sequence[Track]) -> list[list[int]]:
    """The tracks of each person, the widest first: person `number` of `latentsync faces` is people(tracks)[number - 1].

    Nothing tells people apart across a gap or a cut, so tracks that are never seen at the same time count as one
    person: of those that are left the widest, then each that fits in, by width.
    """
    left, found = sorted(range(len(tracks)), key=lambda i: (-tracks[i].face_px, i)), []
    while left:
        taken = _fitting(tracks, left)
        found.append(sorted(taken, key=lambda i: tracks[i].start))
        left = [index for index in left if index not in taken]
    return found


def _fitting(tracks: Sequence[Track], ordered: Iterable[int]) -> list[int]:
    """The indices of tracks that share no frame with an earlier one of these."""
    stop = max((track.stop for track in tracks), default=0)
    taken, free = [], np.ones(stop, bool)
    for index in ordered:
        span = free[tracks[index].start : tracks[index].stop]
        if span.all():
            span[...] = False
            taken.append(index)
    return taken


def labelled(tracks: Sequence[Track], n_frames: int, redrawn: Iterable[int]) -> np.ndarray:
    """For each frame the one of these tracks that covers it, OTHER_FACE where only others do, or NO_FACE: int64 [n]."""
    labels = np.full(n_frames, NO_FACE)
    for track in tracks:
        labels[track.start : track.stop] = OTHER_FACE
    for index in redrawn:
        labels[tracks[index].start : tracks[index].stop] = index
    return labels


def speaking(
    tracks: Sequence[Track], n_frames: int, chosen: Iterable[int] = (), worth: Sequence[float] | None = None
) -> np.ndarray:
    """Which track speaks at each frame, int64 [n]; NO_FACE where no face was found, OTHER_FACE where none speaks.

    Chosen tracks come first, then tracks by `worth`, the largest first, by default the face width. A track that shares
    any frame with one already taken is another person, so speech does not move to a second person when the first one
    turns away.
    """
    chosen, widths = set(chosen), [track.face_px for track in tracks]
    worth = widths if worth is None else worth
    ordered = sorted(range(len(tracks)), key=lambda i: (i not in chosen, -worth[i], -widths[i], i))
    return labelled(tracks, n_frames, _fitting(tracks, ordered))


@dataclass(frozen=True)
class Choice:
    """Which faces are redrawn."""

    labels: np.ndarray
    """int64 [n], for each frame the index of the track to redraw, NO_FACE or OTHER_FACE."""
    taken: tuple[int, ...]
    """Numbers of the people redrawn, as `latentsync faces` lists them."""
    n_left_alone: int
    """How many other people were seen."""

    def __str__(self) -> str:
        who = " and ".join(f"face {number}" for number in self.taken) or "no face"
        return f"{who} of {len(self.taken) + self.n_left_alone}"


def choose(
    tracks: Sequence[Track],
    n_frames: int,
    face: str = "largest",
    chosen: Iterable[int] = (),
    agreement: Callable[[Track], float] | None = None,
) -> Choice:
    """The face that `generate.face` names.

    largest, speaking, left and right are decided shot by shot: where several tracks cover a frame, the one that is
    widest, agrees best with the audio, or lies farthest to a side wins. A number or a point names one person.

    Args:
        tracks: as `track_video` returns them.
        n_frames: of the video.
        face: the value of the key: largest, speaking, left, right, a number from 1, or x,y in pixels as displayed.
        chosen: indices of tracks known to speak; they come first.
        agreement: how well the mouth of a track moves with the audio, higher is better; for "speaking".

    Raises:
        ValueError: there is no such face.
    """
    chosen, persons = set(chosen), people(tracks)
    by_side = [float(np.median(track.centres[:, 0])) for track in tracks]
    if face == "speaking":
        assert agreement is not None
        labels = speaking(tracks, n_frames, chosen, [agreement(track) for track in tracks])
    elif face in ("left", "right"):
        labels = speaking(tracks, n_frames, chosen, [-x if face == "left" else x for x in by_side])
    elif face == "largest":
        labels = speaking(tracks, n_frames, chosen)
    else:
        index = _person_at(tracks, persons, face) if "," in face else int(face) - 1
        if persons and not 0 <= index < len(persons):
            has = f"{len(persons)} face" + "s" * (len(persons) > 1)
            raise ValueError(f"--face {face} is not there: the video has {has}, which `latentsync faces` lists.")
        first = persons[index] if persons else []
        labels = labelled(tracks, n_frames, _fitting(tracks, [*sorted(chosen), *first]))
    return chosen_of(tracks, [labels])


def chosen_of(tracks: Sequence[Track], labels: Sequence[np.ndarray]) -> Choice:
    """Which people the labels of one or several voices redraw; the Choice's labels are those of the first."""
    redrawn = {index for one in labels for index in one[one >= 0].tolist()}
    persons = people(tracks)
    taken = tuple(number for number, own in enumerate(persons, 1) if redrawn & set(own))
    return Choice(labels[0], taken, len(persons) - len(taken))


def choose_in(
    video: Path, tracks: Sequence[Track], times_s: np.ndarray, face: str = "largest", chosen: Iterable[int] = ()
) -> Choice:
    """As `choose`; for "speaking" the video's own audio is read.

    Raises:
        ValueError: as `choose`, or "speaking" of a video without audio.
    """
    agreement = None
    if face == "speaking":
        samples = read_audio(video)
        if not samples.any():
            raise ValueError(f"--face speaking needs the video's own audio, and {video} has none; choose another face.")
        agreement = audio_agreement(times_s, samples)
    return choose(tracks, len(times_s), face, chosen, agreement)


def _person_at(tracks: Sequence[Track], persons: Sequence[Sequence[int]], face: str) -> int:
    """The person whose box holds the point x,y in most frames."""
    x_y = np.array([float(part) for part in face.split(",")])
    inside = [
        sum(int(((x_y >= t.boxes[:, :2]) & (x_y <= t.boxes[:, 2:])).all(1).sum()) for t in (tracks[i] for i in own))
        for own in persons
    ]
    if persons and not any(inside):
        raise ValueError(f"--face {face} lies in no face; `latentsync faces` lists where they are.")
    return int(np.argmax(inside)) if persons else 0


def audio_agreement(times_s: np.ndarray, samples: np.ndarray) -> Callable[[Track], float]:
    """How well the mouth of a track moves with the video's own audio, float32 [m] at 16 kHz: larger is better.

    The largest value of `curves.envelope_curve` within AGREEMENT_FRAMES of synchrony: the correlation of opening and
    loudness, in standard deviations of chance. It tells a speaker from someone who is silent; between two people who
    both move their mouths it is little better than chance on real speech (docs/decisions.md).
    """

    def agreement(track: Track) -> float:
        shown = np.arange(math.ceil(times_s[track.start] * TICKS_PER_S), int(times_s[track.stop - 1] * TICKS_PER_S) + 1)
        if not len(shown):
            return 0.0
        frames = np.clip(np.searchsorted(times_s, shown / TICKS_PER_S + 1e-6) - 1, track.start, track.stop - 1)
        opening = track.mouth_opening[frames - track.start].astype(np.float64)
        ticks = np.arange(shown[0] - AGREEMENT_FRAMES, shown[-1] + 1 + AGREEMENT_FRAMES)
        parts = [_envelope(samples, some) for some in np.array_split(ticks, -(-len(ticks) // _TICKS_AT_ONCE))]
        return float(curves.envelope_curve(opening, np.concatenate(parts), AGREEMENT_FRAMES).max())

    return agreement


def _envelope(samples: np.ndarray, ticks: np.ndarray) -> np.ndarray:
    """Loudness at consecutive ticks, NaN outside the audio."""
    half = curves.ENVELOPE_WINDOW // 2
    start, stop = ticks[0] * SAMPLES_PER_TICK - half, (ticks[-1] + 1) * SAMPLES_PER_TICK + half
    inside = samples[max(start, 0) : max(stop, 0)]
    before = min(max(-start, 0), stop - start)
    padded = np.pad(inside, (before, stop - start - before - len(inside)))
    loudness = curves.speech_envelope(padded, len(ticks))
    loudness[(ticks < 0) | (ticks * SAMPLES_PER_TICK >= len(samples))] = np.nan
    return loudness


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
        own = track.centres[frames[inside] - track.start]
        distance = np.hypot(*(own - landmarks[inside].mean(1)).T)
        agreeing = int((distance < track.face_px / 4).sum())
        if agreeing > most:
            best, most = index, agreeing
    return best
