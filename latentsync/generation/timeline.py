"""Which source frame each written frame shows, and when. Integers, no pixels.

Written frame k shows source frame `order[k]` from `times_s[k]` on. A span is a range of written frames that follow one
face without a break. Windows of the network (joining.py) never cross its ends, so
frames before and after a cut are never mixed.
"""

import math

import numpy as np

from latentsync.config import Loop

EPSILON_S = 1e-6  # presentation times are rationals turned into floats
SPEECH_FPS = 25  # frames per second that the published networks were trained on
SLOW_FPS = SPEECH_FPS / 2  # slower videos are shown at SPEECH_FPS or a little more
LONGEST_S = 0.1  # frames of faster videos that last longer are shown as several; phones leave out a frame or two


def lay_out(
    times_s: np.ndarray, end_s: float, wanted_s: float, loop: Loop = "bounce"
) -> tuple[np.ndarray, np.ndarray, float]:
    """Order and times of the written frames: the source, cut at `wanted_s` or continued as `loop` says.

    If `wanted_s` equals `end_s`, the result is the source's own order and times, to the bit, unless it has frames that
    last too long for speech: those are shown as several frames (`held`).

    Args:
        times_s: float64 [n], when each source frame is shown, from time zero.
        end_s: when the last source frame ends.
        wanted_s: length of the result; no frame but the first starts at or after it.
        loop: bounce: 0 .. n-1, n-1 .. 0, 0 .. n-1 and so on, the frame at a turn shown twice, as published;
            repeat: 0 .. n-1, 0 .. n-1; hold: the last frame again and again, at the pace of the source; cut: nothing.

    Returns:
        order int64 [m], times float64 [m], end of the last written frame in seconds.
    """
    until_s = np.append(times_s[1:], end_s)
    assert len(times_s) and (until_s > times_s).all(), "presentation times must increase"
    source, times_s = held(times_s, until_s)
    until_s = np.append(times_s[1:], end_s)
    n_passes = 1 if loop in ("hold", "cut") else max(1, math.ceil((wanted_s - EPSILON_S) / end_s))
    back = source[::-1], end_s - until_s[::-1]
    passes = [back if loop == "bounce" and number % 2 else (source, times_s) for number in range(n_passes)]
    order = np.concatenate([frames for frames, _ in passes])
    starts_s = np.concatenate([number * end_s + starts_s for number, (_, starts_s) in enumerate(passes)])
    if loop == "hold" and wanted_s > end_s:
        step_s = float(np.median(until_s - times_s))
        more_s = end_s + step_s * np.arange(math.ceil((wanted_s - end_s) / step_s))
        order, starts_s = np.append(order, np.full(len(more_s), source[-1])), np.append(starts_s, more_s)
        end_s += step_s * len(more_s)
    starts_s = np.append(starts_s, n_passes * end_s)
    m = max(1, int(np.searchsorted(starts_s[:-1], wanted_s - EPSILON_S)))
    return order[:m], starts_s[:m], float(starts_s[m])


def held(times_s: np.ndarray, until_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Show frames that last too long for speech as several frames of one image, so that the mouth moves meanwhile.

    That is every frame longer than LONGEST_S, and in a video of fewer than SLOW_FPS frames a second every frame longer
    than 1 / SPEECH_FPS; each gives the fewest equal frames that are no longer than 1 / SPEECH_FPS.

    Args:
        times_s: float64 [n], when each source frame is shown.
        until_s: float64 [n], until when.

    Returns:
        order int64 [m], times float64 [m]; without such frames, times_s itself.
    """
    lasts_s = until_s - times_s
    slow = lasts_s.mean() > 1 / SLOW_FPS + EPSILON_S
    too_long = lasts_s > (1 / SPEECH_FPS if slow else LONGEST_S) + EPSILON_S
    n_pieces = np.where(too_long, np.ceil(lasts_s * SPEECH_FPS - EPSILON_S), 1).astype(np.int64)
    source = np.repeat(np.arange(len(times_s)), n_pieces)
    piece = np.arange(len(source)) - np.repeat(np.cumsum(n_pieces) - n_pieces, n_pieces)
    return source, times_s[source] + piece * (lasts_s / n_pieces)[source]


def spans(labels: np.ndarray, order: np.ndarray | None = None) -> list[tuple[int, int, int]]:
    """(start, stop, label) of the longest spans of one label, half-open, in order.

    With the order of the source frames a span also ends where it jumps, as where a repeated video starts again.
    """
    labels = np.asarray(labels)
    breaks = np.diff(labels) != 0
    if order is not None:
        breaks |= np.abs(np.diff(order)) > 1
    edges = [0, *(np.flatnonzero(breaks) + 1).tolist(), len(labels)]
    return [(start, stop, int(labels[start])) for start, stop in zip(edges, edges[1:], strict=False) if stop > start]


def legs(order: np.ndarray) -> list[np.ndarray]:
    """Split the order where it turns: each leg strictly rises or falls (a single frame is a leg of its own)."""
    order = np.asarray(order)
    cuts, direction = [0], 0
    for at in range(1, len(order)):
        step = int(np.sign(order[at] - order[at - 1]))
        if step == 0 or (direction and step != direction):
            cuts.append(at)
            direction = 0
        else:
            direction = step
    return [order[start:stop] for start, stop in zip(cuts, [*cuts[1:], len(order)], strict=True)]
