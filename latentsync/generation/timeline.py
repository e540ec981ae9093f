"""Which source frame each written frame shows, and when. Integers, no pixels.

Written frame k shows source frame `order[k]` from `times_s[k]` on. A span is a range of written frames that follow one
face without a break. Windows of the network (joining.py) never cross its ends, so
frames before and after a cut are never mixed.
"""

import math

import numpy as np

EPSILON_S = 1e-6  # presentation times are rationals turned into floats


def lay_out(times_s: np.ndarray, end_s: float, wanted_s: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Order and times of the written frames: the source plays forwards and backwards, and is cut at `wanted_s`.

    0 .. n-1, n-1 .. 0, 0 .. n-1 and so on; the frame at a turn is shown twice, as published. If `wanted_s` equals
    `end_s`, the result is the source's own order and times, to the bit.

    Args:
        times_s: float64 [n], when each source frame is shown, from time zero.
        end_s: when the last source frame ends.
        wanted_s: length of the result; no frame but the first starts at or after it.

    Returns:
        order int64 [m], times float64 [m], end of the last written frame in seconds.
    """
    until_s = np.append(times_s[1:], end_s)
    assert len(times_s) and (until_s > times_s).all(), "presentation times must increase"
    there, back = np.arange(len(times_s)), np.arange(len(times_s))[::-1]
    n_passes = max(1, math.ceil((wanted_s - EPSILON_S) / end_s))
    order = np.concatenate([back if number % 2 else there for number in range(n_passes)])
    passes_s = [end_s - until_s[back] if number % 2 else times_s for number in range(n_passes)]
    starts_s = [number * end_s + one for number, one in enumerate(passes_s)]
    starts_s = np.concatenate([*starts_s, [n_passes * end_s]])
    m = max(1, int(np.searchsorted(starts_s[:-1], wanted_s - EPSILON_S)))
    return order[:m], starts_s[:m], float(starts_s[m])


def spans(labels: np.ndarray) -> list[tuple[int, int, int]]:
    """(start, stop, label) of the longest spans of one label, half-open, in order."""
    labels = np.asarray(labels)
    edges = [0, *(np.flatnonzero(np.diff(labels)) + 1).tolist(), len(labels)]
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
