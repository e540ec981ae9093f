"""Pauses of the driving audio, and the closed mouth that a face shows in them: `generate.silence`.

keep: frames in pauses pass through (make_plan gives them gates.SILENCE). close: a closed mouth of the same face shows
through the generated one: that of the frame itself where its mouth is closed, otherwise the lips of the reference
nearest in pose. References are a few frames of the same track with closed mouths, known before anything is decoded.

Closed means that the inner lips touch and the mouth is about as wide as usual, so pursed lips are none. Of a reference
only a soft ellipse around the lips is pasted, over the generated mouth, whose jaw and cheeks fit the pose of the head.

Axes: n samples, m frames of the result, k frames of a track, c references, R side of the face in pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from latentsync.audio.vad import voiced
from latentsync.config import Generate
from latentsync.faces.mask import keep_mask
from latentsync.faces.tracking import Track
from latentsync.generation import gates, paste, timeline
from latentsync.timing import SAMPLE_RATE_HZ

HOP_SAMPLES = SAMPLE_RATE_HZ // 100
MIN_PAUSE_S = 0.25  # closures of plosives last up to 0.15 s
FADE_S = 0.12  # three frames at 25 a second
LEAD_S = 0.04  # lips part before the audio begins
LEAST_WIDTH = 0.9  # of a closed mouth, as a share of the track's median: narrower lips are pursed
LIPS = (0.5, 0.62), (0.32, 0.2)  # middle and half axes of the ellipse that is pasted, as shares of the aligned face
CLOSED = 0.04  # gap between the lips over the distance of the eyes; a video above it shows no closed mouth
TOLERANCE = 0.01  # of the gap, above the least one of the track
MAX_REFERENCES = 8  # of a track
LEAST_SIDE_PX = 256
MIN_APART_DEG = 3.0  # between the poses of two references
OWN_DEG = 1.0  # added to the pose of references, so that the frame's own closed mouth is preferred
SWITCH_DEG_S = 2.0  # another reference is worth it that is nearer by 5 degrees for 0.4 s
# Levels in dB: of full scale, or below that of loud speech.
_LEAST_LOUD, _SPEECH_RANGE, _QUIET, _NO_SPEECH, _LEAST_QUIET, _ABOVE_NOISE, _DIGITAL = -35, 40, 35, 25, 20, 4, -90
_SMALL = 32  # size at which the light of two faces is compared


def pauses(samples: np.ndarray) -> np.ndarray:
    """Start and end of each pause of speech, seconds, float64 [p, 2], of samples float32 [n] at 16 kHz.

    A hop is quiet if it is 35 dB below loud speech (or little above the noise between words, if that is at least 20 dB
    below), or 25 dB below where WebRTC's detector finds no speech; quiet for MIN_PAUSE_S is a pause. Loud noise
    without a break is taken for speech. A pause at an end of the audio reaches to infinity.
    """
    n_hops = len(samples) // HOP_SAMPLES
    if n_hops < 3:
        return np.zeros((0, 2))
    level = _level_db(samples[: n_hops * HOP_SAMPLES])
    heard = level[level > _DIGITAL]
    loud, noise = _LEAST_LOUD, _DIGITAL
    if len(heard):
        loud = max(loud, float(np.percentile(heard[heard > heard.max() - _SPEECH_RANGE], 90)))
        noise = float(np.percentile(heard, 5))
    quiet = level < np.clip(noise + _ABOVE_NOISE, loud - _QUIET, loud - _LEAST_QUIET)
    # WebRTC's detector, and not the network that measures the share of speech (audio/speech.py): to that a hummed or
    # sung vowel is no speech, although the mouth is open. Here taking noise for a voice is the lesser error.
    quiet |= (level < loud - _NO_SPEECH) & ~voiced(samples, HOP_SAMPLES)[:n_hops]
    least = round(MIN_PAUSE_S * SAMPLE_RATE_HZ / HOP_SAMPLES)
    found = [(start, stop) for start, stop, is_quiet in timeline.spans(quiet) if is_quiet and stop - start >= least]
    spans_s = np.array(found, np.float64).reshape(-1, 2) * HOP_SAMPLES / SAMPLE_RATE_HZ
    spans_s[spans_s == 0] = -np.inf
    spans_s[spans_s == n_hops * HOP_SAMPLES / SAMPLE_RATE_HZ] = np.inf
    return spans_s


def _level_db(samples: np.ndarray) -> np.ndarray:
    """Level of each hop with its neighbours, dB of full scale, float64 [n / HOP_SAMPLES]."""
    hops = samples.reshape(-1, HOP_SAMPLES)
    power = np.einsum("ij,ij->i", hops, hops, dtype=np.float64) / HOP_SAMPLES  # squares are never held
    power = np.convolve(np.pad(power, 1, mode="edge"), np.ones(3) / 3, "valid")
    return 10 * np.log10(power + 1e-12)


def closed_share(pauses_s: np.ndarray, times_s: np.ndarray) -> np.ndarray:
    """How closed the mouth is at times float64 [m], float32 [m]: 0 in speech, 1 in pauses, ramps of FADE_S in them.

    It is 0 again LEAD_S before the end of a pause, so two times that lie d seconds apart differ by d / FADE_S at most.
    """
    share = np.zeros(len(times_s), np.float32)
    for start_s, end_s in pauses_s:
        rising, falling = (times_s - start_s) / FADE_S, (end_s - LEAD_S - times_s) / FADE_S
        share = np.maximum(share, np.clip(np.minimum(rising, falling), 0, 1).astype(np.float32))
    return share


def is_closed(track: Track, cfg: Generate) -> np.ndarray:
    """Whether each frame of a track shows a closed mouth at rest that may be copied, bool [k]: no gate takes it."""
    usable = track.found & (gates.codes(track, cfg) == 0)
    width = gates.mouth_width(track)
    usable &= width >= LEAST_WIDTH * np.median(width[usable]) if usable.any() else usable
    opening = np.where(usable, track.mouth_opening, np.inf)
    least = float(opening.min())
    return opening <= least + TOLERANCE if least <= CLOSED else np.zeros(len(opening), bool)


def references(closed: np.ndarray, pose_deg: np.ndarray) -> np.ndarray:
    """At most MAX_REFERENCES of the closed frames, of poses as different as they come: int64 [c].

    Closures of a single frame are left out if there are longer ones: a mouth that is about to open is not at rest.

    Args:
        closed: bool [k], from `is_closed`.
        pose_deg: yaw and pitch, float64 [k, 2].
    """
    resting = closed & np.append(closed[1:], False) & np.append(False, closed[:-1])
    pool = np.flatnonzero(resting if resting.any() else closed)
    if not len(pool):
        return pool
    chosen = [int(pool[np.argmin(_apart(pose_deg[pool], np.median(pose_deg[pool], 0)))])]
    nearest = _apart(pose_deg[pool], pose_deg[chosen[0]])
    while len(chosen) < MAX_REFERENCES and nearest.max() >= MIN_APART_DEG:
        chosen.append(int(pool[np.argmax(nearest)]))
        nearest = np.minimum(nearest, _apart(pose_deg[pool], pose_deg[chosen[-1]]))
    return np.array(chosen, np.int64)


def _apart(poses_deg: np.ndarray, pose_deg: np.ndarray) -> np.ndarray:
    return np.hypot(*(poses_deg - pose_deg).T)


@dataclass(frozen=True)
class Closing:
    """Which closed mouths the frames of a result show."""

    frames: np.ndarray
    """int64 [c], source frames with the closed mouths: the references."""
    tracks: np.ndarray
    """int64 [c], the track of each."""
    shares: np.ndarray
    """float32 [m, c + 1], how much of each reference a frame shows; last, of its own mouth. The rest is generated."""
    n_open: int = 0
    """Frames in pauses whose mouth stays as generated, since their track never shows a closed one."""

    def opacities(self, opacity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """With which opacities faces are pasted one after the other: float32 [m], [m, c].

        First the generated face, then the lips of the references over it, as one face with the sum of their opacities.
        Where the frame's own mouth is closed, nothing is.

        Args:
            opacity: float32 [m], of a mouth that does not close, from `gates.opacity`.
        """
        return opacity * (1 - self.shares[:, -1]), opacity[:, None] * self.shares[:, :-1]


def no_closing(n_frames: int) -> Closing:
    """Every mouth stays as generated."""
    none = np.zeros(0, np.int64)
    return Closing(none, none, np.zeros((n_frames, 1), np.float32))


@lru_cache
def lips(resolution: int) -> np.ndarray:
    """How much of a pixel of a reference is pasted, float32 (R, R) in 0..1: a soft ellipse within the mouth mask."""
    (x, y), (half_x, half_y) = LIPS
    at = (np.arange(resolution) + 0.5) / resolution
    away = np.hypot((at - x) / half_x, (at[:, None] - y) / half_y)
    ramp = np.clip(2 * (1 - away), 0, 1)  # whole up to half the axes
    return (paste.opacity(resolution) * ramp**2 * (3 - 2 * ramp)).astype(np.float32)


def side(resolution: int) -> int:
    """Side of the references, pixels: closed lips blur into open ones on the 64 pixels of demonstration weights."""
    return max(resolution, LEAST_SIDE_PX)


def plan_closing(
    tracks: Sequence[Track],
    labels: np.ndarray,
    order: np.ndarray,
    times_s: np.ndarray,
    share: np.ndarray,
    cfg: Generate,
) -> Closing:
    """Which closed mouth each frame shows.

    Within a pause the mouth changes from one reference to another, or to the frame's own, only where that is worth it,
    and then over FADE_S.

    Args:
        tracks: as `speakers.track_video` returns them, with the measures of `gates.measure_faces`.
        labels: int64 [m], the track of each frame of the result; below 0: it passes through.
        order: int64 [m], its source frame.
        times_s: float64 [m], when it is shown.
        share: float32 [m], from `closed_share`.
        cfg: the section; what its gates take is no reference.
    """
    step_s = float(np.median(np.diff(times_s))) if len(times_s) > 1 else FADE_S
    wanted = np.where((labels >= 0) & (share > 0), labels, -1)
    closed = {index: is_closed(tracks[index], cfg) for index in np.unique(wanted[wanted >= 0]).tolist()}
    poses = {index: gates.pose_deg(tracks[index])[:, :2] for index in closed}
    found = {index: references(closed[index], poses[index]) for index in closed}
    none = np.zeros(0, np.int64)
    firsts = dict(zip(found, np.cumsum([0, *map(len, found.values())]).tolist(), strict=False))  # column of each track
    frames = np.concatenate([none, *(found[index] + tracks[index].start for index in found)])
    shares = np.zeros((len(order), len(frames) + 1), np.float32)
    n_open = 0
    for start, stop, index in timeline.spans(wanted):
        if index < 0:
            continue
        if not len(found[index]):
            n_open += stop - start
            continue
        at = order[start:stop] - tracks[index].start
        away = np.stack([_apart(poses[index][at], poses[index][frame]) + OWN_DEG for frame in found[index]], 1)
        own = np.where(closed[index][at], 0, 1e6)
        chosen = _cheapest(np.concatenate([away, own[:, None]], 1), SWITCH_DEG_S / step_s)
        columns = np.append(firsts[index] + np.arange(len(found[index])), len(frames))
        weights = _smooth(np.eye(len(columns), dtype=np.float32)[chosen], round(FADE_S / step_s))
        shares[start:stop, columns] = weights * share[start:stop, None]
    of_track = np.repeat(np.array(list(found), np.int64), [len(one) for one in found.values()])
    used = shares[:, :-1].any(0)
    return Closing(frames[used], of_track[used], shares[:, np.append(used, True)], n_open)


def why_open(n_open: int) -> str:
    """What is said where mouths stay open."""
    return (
        f"--silence close leaves the mouth as generated in {n_open} frames: the face never closes its mouth in its shot"
    )


def _cheapest(cost: np.ndarray, switch: float) -> np.ndarray:
    """The column for each row of costs [f, c] with the least sum, where every change costs `switch`: int64 [f]."""
    total, came = cost[0].copy(), np.zeros(cost.shape, np.int64)
    for row in range(1, len(cost)):
        best = int(total.argmin())
        changes = total > total[best] + switch
        came[row] = np.where(changes, best, np.arange(len(total)))
        total = np.where(changes, total[best] + switch, total) + cost[row]
    path = [int(total.argmin())]
    for row in range(len(cost) - 1, 0, -1):
        path.append(int(came[row, path[-1]]))
    return np.array(path[::-1])


def _smooth(weights: np.ndarray, n_frames: int) -> np.ndarray:
    """Mean over `n_frames` neighbouring rows of weights float32 [f, c], the ends repeated.

    An even number counts as the odd one above it.
    """
    half = n_frames // 2
    padded = np.pad(weights, ((half, half), (0, 0)), mode="edge")
    return np.mean([padded[at : at + len(weights)] for at in range(2 * half + 1)], 0)


def closed_face(opacities: np.ndarray, faces: np.ndarray, own: np.ndarray) -> np.ndarray:
    """The mean of references for one frame, in its light: an aligned face float32 (S, S, 3), about 0..255.

    Args:
        opacities: float32 [c], not all 0: their weights.
        faces: uint8 (c, S, S, 3), the references.
        own: uint8 (R, R, 3), the aligned face of the frame.
    """
    weights = opacities / opacities.sum()
    lit = [weights[index] * in_light_of(own, faces[index]) for index in np.flatnonzero(weights)]
    return np.sum(lit, axis=0)


def in_light_of(own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """`other`, uint8 (S, S, 3), with the light of `own`, uint8 (R, R, 3), both aligned: float32 (S, S, 3).

    What differs outside of the mouth mask is spread smoothly into it, so that no edge shows where the mask ends.
    """
    size, whole = (_SMALL, _SMALL), (len(other), len(other))
    keep = cv2.resize(keep_mask(len(other)), size, interpolation=cv2.INTER_AREA)
    small = [cv2.resize(face, size, interpolation=cv2.INTER_AREA).astype(np.float32) for face in (own, other)]
    spread = cv2.GaussianBlur((small[0] - small[1]) * keep[..., None], (0, 0), _SMALL / 8)
    weight = cv2.GaussianBlur(keep, (0, 0), _SMALL / 8)
    return other + cv2.resize(spread / np.maximum(weight, 1e-3)[..., None], whole)
