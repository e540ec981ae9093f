"""One clean clock for the packets of a file whose time stamps jump, restart, repeat or lie too close together.

Pure functions on arrays: media/probe.py reads the packets, media/read.py and media/audio.py follow the result. A *part*
is a run of packets of one stream whose times go on without a break; files joined by `cat`, a recorder that was paused
and a clock that was set give several. Every part is moved to where the part before it ended, so nothing of it is lost
and no gap is invented. A file without faults is one part that is not moved.

Limits
    LONGEST_GAP_S   A longer gap between two packets of a stream is a break, unless the other stream went on meanwhile
                    (a microphone that was off) or the frame before it says that it is shown so long (slides).
    RESTART_S       A step back of more than this is a break; shorter ones are out of order, not wrong.
    CLOSEST_S       A frame that follows another one sooner is not shown: no screen shows it.
    SAME_BREAK_S    A part of the audio whose break is as long as one of the video, within this, moves with it, which
                    keeps them in sync.
"""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

LONGEST_GAP_S = 10.0
LONGEST_SLIDE_S = 600.0
RESTART_S = 0.5
CLOSEST_S = 0.0005
SAME_BREAK_S = 1.0
_REORDERED = 8  # frames by which time stamps may run backwards where only presentation times are known
_STRAY = 3  # so many packets may bear a wrong time before the clock goes on as it was


@dataclass(frozen=True)
class Packets:
    """The packets of a stream in the order of the file, n of them; times are integers in `time_base`."""

    time_base: Fraction
    pts: np.ndarray  # int64 [n], presentation times; UNKNOWN where there is none
    dts: np.ndarray  # int64 [n], decoding times; UNKNOWN where there is none
    duration: np.ndarray  # int64 [n], 0 where unknown
    place: np.ndarray  # int64 [n], number of the packet among those of all streams

    def seconds(self, ticks: float) -> float:
        """A difference of times in seconds."""
        return float(ticks * self.time_base)

    def ticks(self, seconds: float) -> int:
        """Seconds as a difference of times."""
        return int(seconds / self.time_base)


UNKNOWN = np.iinfo(np.int64).min


@dataclass(frozen=True)
class Parts:
    """How the packets of a stream divide into parts, n packets and p parts."""

    of: np.ndarray  # int64 [n], the part of each packet; -1: its time is wrong, and it is not shown
    shift: np.ndarray  # int64 [p], what is added to the times of a part, in the stream's time base

    @property
    def n_breaks(self) -> int:
        """Breaks between parts."""
        return len(self.shift) - 1

    @property
    def n_moved(self) -> int:
        """Parts whose break was closed, the first one included if it was moved."""
        return self.n_breaks + bool(self.shift[0])


def usual_step(packets: Packets) -> int:
    """The distance of two packets that is most usual, at least 1; a break is none."""
    steps = np.diff(np.sort(_keys(packets)))
    steps = steps[(steps > 0) & (steps <= packets.ticks(LONGEST_GAP_S))]
    lasting = packets.duration[(packets.duration > 0) & (packets.duration <= packets.ticks(LONGEST_GAP_S))]
    return max(1, int(np.median(next((some for some in (steps, lasting) if len(some)), [packets.ticks(0.04)]))))


def divided(packets: Packets, other: Packets | None) -> np.ndarray:
    """The part of each packet, int64 [n]; -1 for stray packets whose time is wrong while the clock goes on."""
    part = _by_keys(packets, other)
    ahead = packets.ticks(LONGEST_GAP_S)
    for number in range(int(part.max(initial=0)) + 1):  # frames whose time the clock of decoding does not reach
        inside = np.flatnonzero((part == number) & (packets.pts != UNKNOWN))
        order = inside[np.argsort(packets.pts[inside], kind="stable")]
        steps = np.diff(packets.pts[order])
        for at in np.flatnonzero(steps > ahead):
            few = len(steps) - at <= _REORDERED
            advance = _advance(other) if few and other is not None else None
            if few and not _believed(packets, int(order[at]), int(order[at + 1]), int(steps[at]), other, advance):
                part[order[at + 1 :]] = -1
                break
    return part


def _by_keys(packets: Packets, other: Packets | None) -> np.ndarray:
    keys = _keys(packets)
    part = np.zeros(len(keys), np.int64)
    if len(keys) < 2:
        return part
    back = max(packets.ticks(RESTART_S), _REORDERED * usual_step(packets))
    ahead = packets.ticks(LONGEST_GAP_S)
    highest = np.maximum.accumulate(keys)
    if (keys[1:] >= highest[:-1] - back).all() and (keys[1:] <= highest[:-1] + ahead).all():
        return part
    went_on = _advance(other) if other is not None else None
    number, high, i = 0, int(keys[0]), 1
    while i < len(keys):
        if high - back <= keys[i] <= high + ahead or (
            keys[i] > high and _believed(packets, i - 1, i, int(keys[i]) - high, other, went_on)
        ):
            part[i], high = number, max(high, int(keys[i]))
            i += 1
            continue
        soon = keys[i + 1 : i + 1 + _STRAY]
        goes_on = np.flatnonzero((soon >= high - back) & (soon <= high + ahead))
        if len(goes_on):
            part[i : i + 1 + int(goes_on[0])] = -1
            i += 1 + int(goes_on[0])
            continue
        number += 1
        part[i] = number
        # Where demuxers derive decoding times, the first frames after a jump bear those from before it.
        for late in range(max(0, i - _REORDERED), i):
            time = packets.pts[late]
            if time != UNKNOWN and part[late] == number - 1 and abs(time - keys[i]) < abs(time - high):
                part[late] = number
        high, i = int(keys[i]), i + 1
    return part


def video_parts(packets: Packets, audio: Packets | None) -> Parts:
    """The parts of a video stream, each moved to the end of the one before."""
    part, step = divided(packets, audio), usual_step(packets)
    return Parts(part, _closed_up(packets, part, step))


def audio_parts(packets: Packets, video: Packets, parts: Parts, zero: int) -> Parts:
    """The parts of an audio stream, moved with the video where they break together.

    `zero`: when the video begins, in its time base. Audio that begins long before or after it, although nothing lies
    between them in the file, is moved to it as a whole.
    """
    part = divided(packets, video)
    first = _apart(packets, video, zero)
    own = _closed_up(packets, part, 0, first)
    together = [packets.ticks(float(shift * video.time_base)) for shift in parts.shift[1:]]
    near = packets.ticks(SAME_BREAK_S)
    shifts = own.tolist()
    for number, shift in enumerate(shifts[1:], 1):
        nearest = min(together, key=lambda one, shift=shift: abs(one - shift), default=shift)
        shifts[number] = nearest if abs(nearest - shift) <= near else shift
    return Parts(part, np.array(shifts, np.int64))


def lone_parts(packets: Packets) -> Parts:
    """The parts of an audio stream without a video beside it."""
    part = divided(packets, None)
    return Parts(part, _closed_up(packets, part, 0))


def closed(times: np.ndarray, time_base: Fraction, step: int) -> tuple[np.ndarray, int]:
    """Sorted times int64 [n] with gaps longer than LONGEST_GAP_S closed to a step, and how many there were."""
    steps = np.diff(times)
    long = steps > LONGEST_GAP_S / time_base
    steps[long] = step
    return np.concatenate([times[:1], times[:1] + np.cumsum(steps)]).astype(np.int64), int(long.sum())


def too_close(times: np.ndarray, time_base: Fraction) -> np.ndarray:
    """Which of sorted times int64 [n] follow the last one that is shown by less than CLOSEST_S: bool [n]."""
    least = max(1, -int(-CLOSEST_S // time_base))
    found = np.zeros(len(times), bool)
    if (np.diff(times) >= least).all():
        return found
    shown = int(times[0])
    for i in range(1, len(times)):
        found[i] = times[i] - shown < least
        shown = shown if found[i] else int(times[i])
    return found


def _keys(packets: Packets) -> np.ndarray:
    """The time by which packets are in order: of decoding where known, else of presentation, else that before it."""
    keys = np.where(packets.dts == UNKNOWN, packets.pts, packets.dts)
    if len(keys) and (packets.dts == UNKNOWN).mean() > 0.1:  # mixing the two would make steps of its own
        keys = np.where(packets.pts == UNKNOWN, packets.dts, packets.pts)
    known = keys != UNKNOWN
    if known.all() or not known.any():
        return keys if known.all() else np.arange(len(keys))
    last = np.maximum.accumulate(np.where(known, np.arange(len(keys)), 0))
    return keys[np.where(known[last], last, int(np.argmax(known)))]


def _advance(packets: Packets) -> tuple[np.ndarray, np.ndarray]:
    """Places in the file, and how far the stream has come until there without breaks, seconds."""
    steps = np.diff(_keys(packets), prepend=_keys(packets)[:1]) * float(packets.time_base)
    return packets.place, np.cumsum(np.where((steps > 0) & (steps <= LONGEST_GAP_S), steps, 0.0))


def _believed(
    packets: Packets, last: int, i: int, gap: int, other: Packets | None, went_on: tuple[np.ndarray, np.ndarray] | None
) -> bool:
    """Whether a long gap between two packets is one: see LONGEST_GAP_S."""
    gap_s = packets.seconds(gap)
    if other is not None and went_on is not None and len(went_on[0]):
        place, come = went_on
        before, now = np.searchsorted(place, [packets.place[last], packets.place[i]], side="right") - 1
        if come[max(now, 0)] - (come[before] if before >= 0 else 0.0) >= gap_s / 2:
            return True
        if place[-1] > packets.place[last]:
            return False
    return gap_s <= LONGEST_SLIDE_S and packets.seconds(int(packets.duration[last])) >= 0.9 * gap_s


def _closed_up(packets: Packets, part: np.ndarray, step: int, first: int = 0) -> np.ndarray:
    """Shifts that put each part where the one before it ends; `step` is how long a packet lasts that does not say."""
    times = np.where(packets.pts == UNKNOWN, packets.dts, packets.pts)
    shifts, end = [], None
    for number in range(int(part.max(initial=0)) + 1):
        inside = (part == number) & (times != UNKNOWN)
        shift = first if end is None else end - int(times[inside].min()) if inside.any() else shifts[-1]
        shifts.append(shift)
        if inside.any():
            last = int(np.flatnonzero(inside)[np.argmax(times[inside])])
            usual = step or int(packets.duration[last])
            end = int(times[last]) + (min(int(packets.duration[last]), 4 * usual) or usual or 1) + shift
    return np.array(shifts, np.int64)


def _apart(packets: Packets, video: Packets, zero: int) -> int:
    """The shift of audio that begins far from the video, although it lies beside it in the file; else 0."""
    keys = _keys(packets)
    if not len(keys):
        return 0
    distance_s = packets.seconds(int(keys[0])) - float(zero * video.time_base)
    if abs(distance_s) <= LONGEST_GAP_S:
        return 0
    earlier, later = (packets, video) if distance_s < 0 else (video, packets)
    place, come = _advance(earlier)
    until = np.searchsorted(place, later.place[0]) - 1
    if until >= 0 and come[until] >= abs(distance_s) / 2:
        return 0
    return -packets.ticks(distance_s)
