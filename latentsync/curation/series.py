"""The signatures of all clips of a run, joined to series over time, and the words that a series is looked up by.

Axes: n samples of all series (every second tick of a source), s series, k moments, c channels.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from latentsync.curation import signature
from latentsync.curation.duplicates import BITS
from latentsync.ledger.rows import Row
from latentsync.timing import TICKS_PER_S

SAMPLES_PER_S = TICKS_PER_S / signature.STEP_TICKS
HALF_WINDOW = 12  # samples on each side of a moment that its word is made of: 1 s
_MARGIN = 6  # samples between a moment and the ends of its series, at least; a window may reach beyond them
_APART = 2  # a moment is the strongest within so many samples
_STRENGTH = 0.1  # its power over that of usual speech, at least: weaker ones are mostly noise
_LIMIT = 3.0  # of a value, in its usual size: a jump of the detector shall not outweigh everything else
_GAP = 2  # missing samples between two clips that still are one series
_BLOCK = 1 << 15  # moments or samples that are worked on at once


@dataclass(frozen=True)
class Kind:
    """What is compared: the column of its signature, and the usual size of each channel, in units of the signature."""

    column: str
    usual: tuple[float, ...]  # measured on real clips
    per_face: bool  # each face of a source has series of its own

    def scaled(self, values: np.ndarray) -> np.ndarray:
        """int8 [..., c] -> float32 in usual sizes, limited."""
        return (values / np.array(self.usual, np.float32)).clip(-_LIMIT, _LIMIT)


KINDS = {
    "face": Kind("face_signature", (15, 15, 7, 10, 8.5, 9, 5), True),
    "audio": Kind("audio_signature", (13, 10.5, 8, 6, 7, 8, 9, 8), False),
}


@dataclass(frozen=True)
class Series:
    """All series of one kind, one after the other in `values`."""

    kind: Kind
    values: np.ndarray  # int8 [n, c]
    edges: np.ndarray  # int64 [s + 1], where each begins in `values`
    source: np.ndarray  # int64 [s], number of its source
    track: np.ndarray  # int64 [s], number of its face track; 0 for audio
    first: np.ndarray  # int64 [s], its first sample on the clock of the source

    def part(self, number: int) -> np.ndarray:
        """One series, float32 [m, c]."""
        return self.kind.scaled(self.values[self.edges[number] : self.edges[number + 1]])


def join(rows: Iterable[Row], kind: Kind, sources: dict[str, int]) -> Series:
    """The series of clips; `sources` numbers the sources by id. Clips that follow each other make one series."""
    channels = len(kind.usual)
    clips = [row for row in rows if row.get(kind.column)]
    clips.sort(key=lambda row: (row["source_id"], kind.per_face and row["track"], row["start_tick"], row["id"]))
    values, of, stop = [], [], 0
    for row in clips:
        part = signature.from_text(row[kind.column], channels)
        begin = -(-row["start_tick"] // signature.STEP_TICKS)
        owner = (sources[row["source_id"]], row["track"] if kind.per_face else 0)
        if of and tuple(of[-1][:2]) == owner and begin <= stop + _GAP:
            part = np.concatenate([np.zeros((max(0, begin - stop), channels), np.int8), part[max(0, stop - begin) :]])
            of[-1][3] += len(part)
            stop += len(part)
        else:
            of.append([*owner, begin, len(part)])
            stop = begin + len(part)
        values.append(part)
    flat = np.concatenate([np.zeros((0, channels), np.int8), *values])
    table = np.array(of, np.int64).reshape(-1, 4)
    return Series(kind, flat, np.concatenate([[0], np.cumsum(table[:, 3])]), table[:, 0], table[:, 1], table[:, 2])


def moments(series: Series) -> tuple[np.ndarray, np.ndarray]:
    """Where most changes at once: places in `values`, float64 [k], and the number of the series of each, int64 [k].

    They are the same moments in every copy, to a small part of a sample, however its samples lie.
    """
    power = np.zeros(len(series.values) + 2, np.float32)
    for start in range(0, len(series.values), _BLOCK):
        block = series.kind.scaled(series.values[start : start + _BLOCK])
        power[start + 1 : start + 1 + len(block)] = (block**2).mean(1)
    smooth = (power[:-2] + 2 * power[1:-1] + power[2:]) / 4
    strongest = smooth >= _STRENGTH
    for lag in range(1, _APART + 1):
        strongest[:-lag] &= smooth[:-lag] >= smooth[lag:]
        strongest[lag:] &= smooth[lag:] > smooth[:-lag]
    at = np.flatnonzero(strongest)
    of = np.searchsorted(series.edges, at, side="right") - 1
    inside = (at - _MARGIN >= series.edges[of]) & (at + _MARGIN < series.edges[of + 1])
    at, of = at[inside], of[inside]
    before, here, after = smooth[at - 1], smooth[at], smooth[at + 1]
    bend = np.maximum(2 * here - before - after, 1e-6)  # of the parabola through the three
    return at + ((after - before) / (2 * bend)).clip(-0.5, 0.5), of


def windows(series: Series, at: np.ndarray, of: np.ndarray, half: int) -> np.ndarray:
    """Samples from `half` before to `half` after each place, linear between samples: float32 [k, 2 half + 1, c].

    0 beyond the ends of the series `of` [k] that the places lie in.
    """
    low = np.floor(at).astype(np.int64)
    index = low[:, None] + np.arange(-half, half + 2)
    inside = (index >= series.edges[of][:, None]) & (index < series.edges[of + 1][:, None])
    values = series.kind.scaled(series.values[index.clip(0, len(series.values) - 1)]) * inside[..., None]
    share = (at - low).astype(np.float32)[:, None, None]
    return (1 - share) * values[:, :-1] + share * values[:, 1:]


def words(series: Series, at: np.ndarray, of: np.ndarray) -> np.ndarray:
    """A word for each moment, uint64 [k]: signs of 64 random projections of what is around it.

    Windows of correlation r differ in about 64 arccos(r) / pi bits (Charikar, "Similarity estimation techniques from
    rounding algorithms", 2002).
    """
    weight = np.hanning(2 * HALF_WINDOW + 3)[1:-1].astype(np.float32)[None, :, None]
    dims = weight.size * len(series.kind.usual)
    random = np.frombuffer(hashlib.shake_256(b"footage").digest(dims * BITS // 8), np.uint8)
    signs = np.unpackbits(random).reshape(dims, BITS).astype(np.float32) * 2 - 1
    result = np.zeros(len(at), np.uint64)
    for start in range(0, len(at), _BLOCK):
        around = windows(series, at[start : start + _BLOCK], of[start : start + _BLOCK], HALF_WINDOW) * weight
        bits = around.reshape(len(around), dims) @ signs > 0
        result[start : start + len(around)] = np.packbits(bits, axis=1).view(np.uint64)[:, 0]
    return result
