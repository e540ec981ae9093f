"""Footage that two sources share, cut elsewhere, at another frame rate or size: search over all signatures.

Moments of a series (curation/series.py) whose words agree in a piece and differ in few bits are candidates, with the
time between both sources. What is around them is compared, and what agrees is followed in both directions: how long
two sources agree, in which channels and how closely, is worth so many nats of evidence. The face and the audio are
searched by themselves: either may be missing, or replaced, in a copy.

Axes: as in series.py, and p pairs.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from latentsync.curation.duplicates import BITS, distance
from latentsync.curation.series import KINDS, SAMPLES_PER_S, Series, join, moments, windows, words
from latentsync.curation.signature import STEP_TICKS
from latentsync.ledger.rows import Row
from latentsync.timing import TICKS_PER_S

TABLES = 16  # choices of bits that words are looked up by
# Bits of a choice beyond what numbers all moments: 19 for a thousand, 32 for eight million. The more there are, the
# nearer words must be, so that strangers among the candidates grow in number only as fast as the moments.
_MORE_BITS, _FEWEST_BITS, _MOST_BITS = 9, 16, 32
LONGEST_RUN = 32  # words of one key that each is compared with: a jingle in every video must not cost its square
_AROUND = 19  # samples on each side of a moment that are compared first, 1.5 s
_ALIKE = 0.6  # least correlation there
_FOLLOWED = 0.4  # ... and over _SPAN samples on each side, as far as a match is followed
_SPAN = 12
_SHIFTS = (-0.5, -0.25, 0.0, 0.25, 0.5)  # samples, tried around the time between two moments
INDEPENDENT_PER_S = 5.0  # independent samples of a channel; 6.6 for white noise behind the slope's Gaussian
JOINS_NATS = 40.0  # evidence from which two sources are in one group; few strangers have it (docs/decisions.md)
MARKS_NATS = 60.0  # ... from which clips are near duplicates
COMMON = 20  # sources that share a passage of audio only: beyond, it is a jingle or a song, and joins none
_PASSAGE_TICKS = 5 * TICKS_PER_S
_BLOCK = 1 << 14
_CACHED = 256  # series in use: an hour is 1.5 MB
COLUMNS = tuple(kind.column for kind in KINDS.values())


@dataclass(frozen=True)
class Match:
    """The same footage in two sources, a < b by id: tick t of b shows what tick t + lag_ticks of a shows."""

    a: str
    b: str
    kind: str  # of series.KINDS
    tracks: tuple[int, int]  # face tracks in a and b; 0 for audio
    lag_ticks: int
    start_tick: int  # of the passage in a
    end_tick: int
    nats: float


def find(rows: Iterable[Row], least_nats: float = JOINS_NATS) -> list[Match]:
    """All matches between sources, of faces and of audio, that are worth so much, sorted."""
    rows = list(rows)
    names = sorted({row["source_id"] for row in rows})
    numbers = {name: number for number, name in enumerate(names)}
    found = []
    for name, kind in KINDS.items():
        series = join(rows, kind, numbers)
        for first, second, lag, start, stop, nats in matches(series):
            if nats >= least_nats:
                a, b = (names[series.source[number]] for number in (first, second))
                tracks = (int(series.track[first]), int(series.track[second]))
                lag_ticks = round(STEP_TICKS * (lag + series.first[first] - series.first[second]))
                begin, end = (STEP_TICKS * int(place + series.first[first]) for place in (start, stop))
                found.append(Match(a, b, name, tracks, lag_ticks, begin, end, round(nats, 1)))
    return sorted(found, key=lambda match: (match.a, match.b, match.kind, match.start_tick, match.lag_ticks))


def sharing(found: Sequence[Match]) -> list[tuple[str, str]]:
    """Pairs of sources that must not be in two splits, sorted.

    All that share a face's movement, and those that share audio, unless more than COMMON sources share that passage
    only by ear: a jingle or a song.
    """
    seen = {(match.a, match.b) for match in found if match.kind == "face"}
    heard = [match for match in found if match.kind == "audio" and (match.a, match.b) not in seen]
    partners = defaultdict(set)
    for match in heard:
        for passage, other in zip(_passages(match), (match.b, match.a), strict=True):
            partners[passage].add(other)
    for match in heard:
        if all(len(partners[passage]) <= COMMON for passage in _passages(match)):
            seen.add((match.a, match.b))
    return sorted(seen)


def _passages(match: Match) -> list[tuple[str, int]]:
    """(source, number of its five seconds) of the middle of a match, in both sources."""
    middle = (match.start_tick + match.end_tick) // 2
    return [(match.a, middle // _PASSAGE_TICKS), (match.b, (middle - match.lag_ticks) // _PASSAGE_TICKS)]


def overlaps(rows: Iterable[Row], found: Sequence[Match]) -> list[tuple[str, str, int, int, int]]:
    """(clip of a, clip of b, start, end, lag): ids, and the ticks of a in which both show one face, if clearly so."""
    clips: dict[tuple[str, int], list[Row]] = defaultdict(list)
    for row in rows:
        clips[row["source_id"], row["track"]].append(row)
    result = []
    for match in found:
        if match.kind != "face" or match.nats < MARKS_NATS:
            continue
        for x in clips[match.a, match.tracks[0]]:
            for y in clips[match.b, match.tracks[1]]:
                start = max(match.start_tick, x["start_tick"], y["start_tick"] + match.lag_ticks)
                end = min(match.end_tick, x["end_tick"], y["end_tick"] + match.lag_ticks)
                if start < end:
                    result.append((x["id"], y["id"], start, end, match.lag_ticks))
    return result


def matches(series: Series) -> list[tuple[int, int, float, int, int, float]]:
    """(a, b, lag, start, stop, nats) of series of different sources: sample i of a is i - lag of b, a before b.

    start and stop, in samples of a, are the ends of what agrees.
    """
    at, of = moments(series)
    pairs = confirmed(series, at, of, candidates(words(series, at, of), series.source[of]))
    lags = (at[pairs[:, 0]] - series.edges[of[pairs[:, 0]]]) - (at[pairs[:, 1]] - series.edges[of[pairs[:, 1]]])
    part = lru_cache(_CACHED)(series.part)
    seen: dict[tuple[int, int], list[tuple[float, int, int]]] = defaultdict(list)
    result = []
    for (i, j), lag in zip(pairs.tolist(), lags.tolist(), strict=True):
        a, b = int(of[i]), int(of[j])
        place = int(at[i] - series.edges[a])
        if any(abs(lag - known) < 2 and start <= place < stop for known, start, stop in seen[a, b]):
            continue
        nats, lag, start, stop = follow(part(a), part(b), lag, place)
        seen[a, b].append((lag, start, stop))
        result.append((a, b, lag, start, stop, nats))
    return result


def candidates(word: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Pairs i < j of moments of different sources with near words, int64 [p, 2], sorted."""
    bits = min(max(int(np.ceil(np.log2(len(word) + 1))) + _MORE_BITS, _FEWEST_BITS), _MOST_BITS)
    max_distance = 21 - bits // 2
    found = [np.zeros((0, 2), np.int64)]
    for mask in _masks(bits):
        key = word & mask
        order = np.argsort(key, kind="stable")
        ranked, place = key[order], np.arange(len(key))
        for lag in range(1, LONGEST_RUN):
            place = place[place + lag < len(key)]
            place = place[ranked[place] == ranked[place + lag]]
            if not len(place):
                break
            i, j = order[place], order[place + lag]
            near = (source[i] != source[j]) & (distance(word[i], word[j]) <= max_distance)
            found.append(np.stack([i[near], j[near]], 1))  # order is stable, so i < j
    return np.unique(np.concatenate(found), axis=0)


def _masks(bits: int) -> list[np.uint64]:
    """TABLES random choices of so many bits."""
    result = []
    for table in range(TABLES):
        random = np.frombuffer(hashlib.shake_256(f"table {table}".encode()).digest(4 * BITS), np.uint32)
        result.append(np.uint64(sum(1 << int(bit) for bit in np.argsort(random, kind="stable")[:bits])))
    return result


def confirmed(series: Series, at: np.ndarray, of: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """The pairs whose surroundings correlate, int64 [p, 2]."""
    kept = [np.zeros((0, 2), np.int64)]
    for start in range(0, len(pairs), _BLOCK):
        block = pairs[start : start + _BLOCK]
        a, b = (windows(series, at[side], of[side], _AROUND) for side in block.T)
        ab, aa, bb = ((u * v).sum((1, 2)) for u, v in ((a, b), (a, a), (b, b)))
        kept.append(block[ab >= _ALIKE * np.sqrt(aa * bb)])
    return np.concatenate(kept)


def follow(a: np.ndarray, b: np.ndarray, lag: float, place: int) -> tuple[float, float, int, int]:
    """(nats, lag, start, stop): how far two series [m, c] agree around sample `place` of a, and what it is worth.

    The evidence is the logarithm of the likelihood ratio of correlated and independent normal samples, summed over
    channels: -n/2 ln(1 - r^2) with n independent samples.
    """
    lag = max((_correlation(a, b, lag + shift, place), -abs(shift), lag + shift) for shift in _SHIFTS)[2]
    start, stop = max(0, int(np.ceil(lag))), min(len(a), int(len(b) - 1 + lag) + 1)
    x, y = a[start:stop], _between(b, start - lag, stop - start)
    xy, xx, yy = (_around((u * v).sum(1)) for u, v in ((x, y), (x, x), (y, y)))
    apart = np.flatnonzero(xy < _FOLLOWED * np.sqrt(xx * yy))
    low, high = np.searchsorted(apart, [place - start, place - start])
    first = apart[low - 1] + 1 if low else 0
    last = apart[high] if high < len(apart) else len(x)
    x, y = x[first:last], y[first:last]
    r = (x * y).sum(0) / (np.sqrt((x * x).sum(0) * (y * y).sum(0)) + 1e-9)
    independent = len(x) / SAMPLES_PER_S * INDEPENDENT_PER_S
    nats = -0.5 * independent * np.log(1 - r.clip(0, 0.98) ** 2).sum()
    return float(nats), lag, start + int(first), start + int(last)


def _correlation(a: np.ndarray, b: np.ndarray, lag: float, place: int) -> float:
    """Of what is around sample `place` of a with b at this lag."""
    first, stop = max(0, place - 2 * _SPAN, int(np.ceil(lag))), min(len(a), place + 2 * _SPAN, int(len(b) - 1 + lag))
    x, y = a[first:stop], _between(b, first - lag, stop - first)
    return float((x * y).sum() / (np.sqrt((x * x).sum() * (y * y).sum()) + 1e-9))


def _between(values: np.ndarray, first: float, count: int) -> np.ndarray:
    """`count` values [count, c] from the fractional place `first` on, by cubics through four samples of [m, c]."""
    low = int(np.floor(first))
    t = np.float32(first - low)
    known = values[np.arange(low - 1, low + count + 2).clip(0, len(values) - 1)]
    weights = np.array(
        [
            -t * (t - 1) * (t - 2) / 6,
            (t + 1) * (t - 1) * (t - 2) / 2,
            -(t + 1) * t * (t - 2) / 2,
            (t + 1) * t * (t - 1) / 6,
        ]
    )
    return np.einsum("k,kmc->mc", weights, np.stack([known[step : step + count] for step in range(len(weights))]))


def _around(values: np.ndarray) -> np.ndarray:
    """Sums of [m] over _SPAN samples on each side."""
    total = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    at = np.arange(len(values))
    return total[np.minimum(at + _SPAN + 1, len(values))] - total[np.maximum(at - _SPAN, 0)]
