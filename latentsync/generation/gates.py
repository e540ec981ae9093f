"""Which frames are not redrawn, why, and how the result passes smoothly between them and redrawn ones.

`measure_faces` measures each face while its frame is in memory; `passed` turns the measures of whole tracks into
labels: the index of the track to redraw, or a code below 0 of REASONS. Thresholds are keys of the section `generate`;
what they take of good footage and of faults made for the purpose is in docs/benchmarks.md.

Sharpness and colour are compared with the median of the face's own track, so that soft or dim footage is not lost. A
face that is blurred or covered most of the time is therefore redrawn, and so is one that a hand covers: skin on skin
changes the colours less than a turn of the head does.

Axes: n frames of a video, m of the result, k of a track.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from latentsync.config import Generate
from latentsync.faces import alignment
from latentsync.faces.face import Face, Scheme
from latentsync.faces.measures import head_pose
from latentsync.faces.tracking import Measure, Track
from latentsync.generation import timeline
from latentsync.timing import evenly_spaced

FADE_FRAMES = 3
MIN_GAP_S = 0.1  # a shorter stretch that a gate takes is redrawn nevertheless
MIN_RUN_S = 0.2  # a shorter stretch between gates passes through
SHARPNESS_SIDE_PX = 128
_SIDE = 64  # size of the aligned face whose colours are compared
_UPPER, _LOWER = (slice(10, 35), slice(12, 40)), (slice(40, 70), slice(12, 40))  # brows to nose; mouth and chin
_CELLS = (4, 4)
_REFERENCES = 500  # frames of a track whose median is compared with

# Columns of Track.measures.
_POSE, _MARGIN, _SHARPNESS, _UPPER_RGB = slice(0, 12), 12, 13, slice(14, 17)
_LOWER_RGB, _FIVE, _OUTER_LIPS = slice(17, 65), slice(65, 75), slice(75, None)

NO_FACE, OTHER_FACE, OUTSIDE, MOUTH_OUTSIDE, TOO_SMALL, PROFILE, OCCLUDED, MOTION_BLUR, SILENCE = range(-1, -10, -1)


@dataclass(frozen=True)
class Reason:
    """Why a frame is left as it was."""

    name: str
    meaning: str
    key: str | None = None
    """The key of the section `generate` that holds its threshold."""


REASONS = {
    NO_FACE: Reason("no_face", "no face was found"),
    OTHER_FACE: Reason("other_face", "only faces that were not chosen", "face"),
    OUTSIDE: Reason("outside", "before --start or after --end"),
    MOUTH_OUTSIDE: Reason("mouth_outside", "the mouth lies at or beyond the border of the frame", "mouth_margin"),
    TOO_SMALL: Reason("too_small", "the face is too narrow", "min_face_px"),
    PROFILE: Reason("profile", "the head is turned too far to the side", "max_yaw_deg"),
    OCCLUDED: Reason("occluded", "something that is not skin covers mouth or chin", "max_occlusion"),
    MOTION_BLUR: Reason("motion_blur", "much less sharp than the same face usually is", "min_sharpness"),
    SILENCE: Reason("silence", "the audio pauses", "silence"),
}
PASSED_THROUGH = {code: reason.name for code, reason in REASONS.items()}


def measure_faces(scheme: Scheme) -> Measure:
    """A function from a frame uint8 (h, w, 3) and a face in it to what generation reads of it, float32 [75 + 2 p].

    The six points of the pose in pixels; the least distance of the outer lips, and of their place below the nose, from
    the frame's border in face widths, below 0 outside; the variance of the Laplacian of the face below the brows, its
    box brought to 128 px; mean RGB of the upper face and of 4 x 4 cells of mouth and chin, 0..255; five points and p
    of the outer lips, pixels.
    """
    pose, lips = list(scheme.pose), list(scheme.outer_lips)

    def measure(rgb: np.ndarray, face: Face) -> np.ndarray:
        height, width = rgb.shape[:2]
        x, y = np.concatenate([face.landmarks[lips], _mouth_place(face)]).T
        margin = min(x.min(), y.min(), width - 1 - x.max(), height - 1 - y.max()) / face.width_px
        upper, lower = _colours(rgb, face)
        points = scheme.five_points(face.landmarks).ravel(), face.landmarks[lips].ravel()
        parts = face.landmarks[pose].ravel(), [margin, _sharpness(rgb, face)], upper, lower, *points
        return np.concatenate(parts).astype(np.float32)

    return measure


def _mouth_place(face: Face) -> np.ndarray:
    """Where brows and nose say that the mouth is, float [2, 2]: a detector guesses landmarks that it does not see."""
    width, height = alignment.crop_size(_SIDE)
    place = np.array([[0.4, 0.6], [0.6, 0.6]]) * (width, height)
    return alignment.apply(alignment.invert(alignment.similarity(face.anchors, _SIDE)), place)


def _sharpness(rgb: np.ndarray, face: Face) -> float:
    x0, y0, x1, y1 = (max(0, int(at)) for at in face.box)
    y0 += (y1 - y0) // 4
    step = max(1, (x1 - x0) // (2 * SHARPNESS_SIDE_PX))
    green = np.ascontiguousarray(rgb[y0 : y1 + 1 : step, x0 : x1 + 1 : step, 1])  # nearly luma, at a third of the cost
    if not green.size:
        return 0.0
    small = cv2.resize(green, (SHARPNESS_SIDE_PX, SHARPNESS_SIDE_PX * 3 // 4), interpolation=cv2.INTER_AREA)
    return float(cv2.meanStdDev(cv2.Laplacian(small, cv2.CV_32F))[1][0, 0] ** 2)


def _colours(rgb: np.ndarray, face: Face) -> tuple[np.ndarray, np.ndarray]:
    matrix = alignment.similarity(face.anchors, _SIDE)
    crop = cv2.warpAffine(rgb, matrix, alignment.crop_size(_SIDE), borderMode=cv2.BORDER_REPLICATE)
    upper = cv2.mean(crop[_UPPER])[:3]
    return np.array(upper), cv2.resize(crop[_LOWER], _CELLS, interpolation=cv2.INTER_AREA).ravel()


def pose_deg(track: Track) -> np.ndarray:
    """Yaw, pitch and roll of the head, degrees, float64 [k, 3]; 0 for a track without measures."""
    if not track.measures.size:
        return np.zeros((len(track.found), 3))
    return head_pose(track.measures[:, _POSE].reshape(-1, 6, 2))


def outer_eyes(track: Track) -> np.ndarray:
    """Outer corners of the eyes, left and right, displayed pixels, float64 [k, 2, 2]."""
    return track.measures[:, _POSE].reshape(-1, 6, 2)[:, 2:4].astype(np.float64)  # in the order of measures.HEAD_CM


def five_points(track: Track) -> np.ndarray:
    """Eyes, nose tip and mouth corners, displayed pixels, float64 [k, 5, 2]."""
    return track.measures[:, _FIVE].reshape(-1, 5, 2).astype(np.float64)


def outer_lips(track: Track) -> np.ndarray:
    """The outline of the lips, displayed pixels, float64 [k, p, 2]."""
    return track.measures[:, _OUTER_LIPS].reshape(len(track.found), -1, 2).astype(np.float64)


def mouth_width(track: Track) -> np.ndarray:
    """Distance of the corners of the mouth over that of the eyes, float64 [k]; 1 for a track without measures."""
    if not track.measures.size:
        return np.ones(len(track.found))
    points = track.measures[:, _POSE].reshape(-1, 6, 2).astype(np.float64)  # in the order of measures.HEAD_CM
    return np.linalg.norm(points[:, 5] - points[:, 4], axis=1) / np.linalg.norm(points[:, 3] - points[:, 2], axis=1)


def yaw_deg(track: Track) -> np.ndarray:
    """How far the head is turned to the viewer's right, degrees, float64 [k]."""
    return pose_deg(track)[:, 0]


def sharpness(track: Track) -> np.ndarray:
    """Sharpness as a share of the track's median, float32 [k]."""
    values = track.measures[:, _SHARPNESS]
    return values / max(float(np.median(values)), 1e-6)


def occlusion(track: Track) -> np.ndarray:
    """Mean difference of the colours of mouth and chin from the track's median, grey levels of 255, float32 [k].

    Colours are first scaled by those of the upper face, so that light which changes evenly counts for little. Moving
    lips and turned heads reach 29 in the real clips, a black microphone before the mouth 48 and more.
    """
    upper, lower = track.measures[:, _UPPER_RGB], track.measures[:, _LOWER_RGB].reshape(len(track.found), -1, 3)
    some = evenly_spaced(len(upper), _REFERENCES)
    scaled = lower / np.maximum(upper, 1)[:, None] * np.median(upper[some], 0)
    return np.abs(scaled - np.median(scaled[some], 0)).mean((1, 2))


def codes(track: Track, cfg: Generate) -> np.ndarray:
    """For each frame of a track the code of the first gate that takes it, or 0: int64 [k].

    A track without measures is judged by its width alone.
    """
    small = track.boxes[:, 2] - track.boxes[:, 0] < cfg.min_face_px
    if not track.measures.size:
        return np.where(small, TOO_SMALL, 0)
    gates = {
        MOUTH_OUTSIDE: track.measures[:, _MARGIN] < cfg.mouth_margin,
        TOO_SMALL: small,
        PROFILE: np.abs(yaw_deg(track)) > cfg.max_yaw_deg,
        OCCLUDED: occlusion(track) > cfg.max_occlusion,
        MOTION_BLUR: sharpness(track) < cfg.min_sharpness,
    }
    return np.select(list(gates.values()), list(gates), 0)


def passed(
    tracks: Sequence[Track],
    labels: np.ndarray,
    times_s: np.ndarray,
    cfg: Generate,
    start_s: float = 0.0,
    end_s: float = float("inf"),
) -> np.ndarray:
    """The labels int64 [n] with codes of REASONS where frames of the chosen tracks are not to be redrawn.

    Single frames do not flicker: what a gate takes for less than MIN_GAP_S between redrawn frames is redrawn, and what
    would be redrawn for less than MIN_RUN_S beside such a stretch passes through. Every track is judged on its own, so
    nothing reaches across a cut.

    Args:
        tracks: as `speakers.track_video` returns them, with the measures of `measure_faces`.
        labels: for each frame the index of its track, or a code below 0.
        times_s: float64 [n], when each frame is shown.
        cfg: the section.
        start_s, end_s: frames outside [start_s, end_s) are left as they were.
    """
    result = np.array(labels, np.int64)
    found = {index: codes(tracks[index], cfg) for index in np.unique(result[result >= 0]).tolist()}
    step_s = float(np.median(np.diff(times_s))) if len(times_s) > 1 else 0.04
    edges_s = np.append(times_s, times_s[-1] + step_s) if len(times_s) else times_s
    for start, stop, label in timeline.spans(labels):
        if label >= 0:
            first = tracks[label].start
            gated = found[label][start - first : stop - first]
            before, after = start > 0 and result[start - 1] < 0, stop < len(labels) and labels[stop] < 0
            steadied = _steadied(gated, edges_s[start : stop + 1], bool(before), bool(after))
            result[start:stop] = np.where(steadied < 0, steadied, label)
    result[(times_s < start_s) | (times_s >= end_s)] = OUTSIDE
    return result


def _steadied(codes: np.ndarray, edges_s: np.ndarray, passed_before: bool, passed_after: bool) -> np.ndarray:
    """The codes of a span without short runs; edges_s [k + 1]; whether the frames beside the span pass through."""
    codes = codes.copy()
    for start, stop, taken in timeline.spans(codes < 0):
        beside_passed = (start == 0 and passed_before) or (stop == len(codes) and passed_after)
        if taken and not beside_passed and edges_s[stop] - edges_s[start] < MIN_GAP_S - timeline.EPSILON_S:
            codes[start:stop] = 0
    for start, stop, taken in timeline.spans(codes < 0):
        short = edges_s[stop] - edges_s[start] < MIN_RUN_S - timeline.EPSILON_S
        if not taken and short and stop - start < len(codes):
            codes[start:stop] = codes[start - 1] if start else codes[stop]
    return codes


def shots(tracks: Sequence[Track], n_frames: int) -> np.ndarray:
    """The number of the shot that each frame lies in, int64 [n]; -1 in shots without a track."""
    result = np.full(n_frames, -1)
    for track in tracks:
        if track.shot is not None:
            result[slice(*track.shot)] = track.shot[0]
    return result


def opacity(labels: np.ndarray, shots: np.ndarray | None = None, n_fade: int = FADE_FRAMES) -> np.ndarray:
    """How much of the generated mouth each written frame shows, float32 [m], 0..1.

    0 where a frame passes through; 1 where it is redrawn, except for the `n_fade` frames next to one that passes
    through in the same shot: neighbours within a shot differ by at most 1 / (n_fade + 1).

    Args:
        labels: int64 [m], as `passed` returns them, in the order of the result.
        shots: int64 [m], the shot of each frame; None: there are no cuts.
        n_fade: frames.
    """
    labels = np.asarray(labels)
    shots = np.zeros(len(labels), np.int64) if shots is None else np.asarray(shots)
    result = (labels >= 0).astype(np.float32)
    for first, end, _ in timeline.spans(shots):
        for start, stop, redrawn in timeline.spans(labels[first:end] >= 0):
            if redrawn:
                rising = np.arange(1, stop - start + 1) / (n_fade + 1)
                ones = np.ones(stop - start)
                left, right = rising if start > 0 else ones, rising[::-1] if stop < end - first else ones
                result[first + start : first + stop] = np.minimum(np.minimum(left, right), 1)
    return result


def why_nothing(labels: np.ndarray) -> str:
    """Why no frame is redrawn, in words: "no_face in 16 frames", most frequent reason first."""
    found, counts = np.unique(np.asarray(labels), return_counts=True)
    ordered = sorted(zip(counts.tolist(), found.tolist(), strict=True), key=lambda pair: (-pair[0], -pair[1]))
    return ", ".join(
        f"{PASSED_THROUGH[code]} in {count} {'frame' if count == 1 else 'frames'} ({REASONS[code].meaning})"
        for count, code in ordered
    )
