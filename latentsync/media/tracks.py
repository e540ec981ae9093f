"""Which of a file's audio tracks is heard: the one flagged as default, unless it is silent or cannot be decoded.

Recorders write a track for each input, and the first is often an empty one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition

from latentsync.media.clock import Parts
from latentsync.media.decode import decoded
from latentsync.media.opening import opened

SILENT = 1e-4  # of full scale; a track that never exceeds it is silent


@dataclass(frozen=True)
class AudioTrack:
    """An audio stream that has a decoder and packets."""

    stream: int
    """Index in the container."""
    number: int
    """Among the audio tracks of the file, from 1."""
    default: bool
    """Whether the file flags it as the one to play."""
    rate_hz: int
    codec: str
    """FFmpeg's canonical name."""
    time_base: Fraction
    parts: Parts
    """How its clock is repaired (clock.py)."""

    @classmethod
    def of(cls, stream: av.AudioStream, number: int, parts: Parts) -> "AudioTrack":
        """A stream of an open container."""
        codec = stream.codec_context
        default = bool(stream.disposition & Disposition.default)
        base = Fraction(stream.time_base or 1)
        return cls(stream.index, number, default, codec.sample_rate, codec.codec.canonical_name, base, parts)


def preferred(path: Path, tracks: Sequence[AudioTrack]) -> AudioTrack | None:
    """The track that is heard: flagged ones first, then by number, the first that is not silent; None without one."""
    ordered = sorted(tracks, key=lambda track: (not track.default, track.number))
    if len(ordered) < 2:
        return ordered[0] if ordered else None
    return next((track for track in ordered if _loud(path, track.stream)), ordered[0])


def _loud(path: Path, index: int) -> bool:
    """Whether a stream can be decoded and is not silent; decoding ends at the first loud sample."""
    with opened(path) as container:
        for piece in decoded(container, index):
            if piece.samples is not None and np.abs(piece.samples).max(initial=0) > SILENT:
                return True
    return False
