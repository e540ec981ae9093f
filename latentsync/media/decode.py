"""Decode an audio stream packet by packet: what cannot be decoded is a piece without samples, not the end."""

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import cast

import av
import av.container
import av.error
import numpy as np

AVERAGED = {"rematrix_maxval": "1.0"}  # of a resampler: without it stereo becomes 1.4 times as loud in mono, and clips


@dataclass(frozen=True)
class Piece:
    """What one packet gave."""

    packet: int
    """Number of the packet among those of its stream that are displayed."""
    at: Fraction | None
    """Presentation time in the file, seconds; None: unknown."""
    rate_hz: int
    samples: np.ndarray | None
    """float32 [c, n], finite; None: damaged."""
    n_bad: int
    """Samples of a damaged piece, or those that were not finite and are 0 now."""
    kind: str
    """Format and channels, which may change on the way."""


def decoded(container: av.container.InputContainer, index: int, layout: str = "mono") -> Iterator[Piece]:
    """The pieces of a stream, mixed to a layout at their own rate; channels are averaged, never summed."""
    stream = cast(av.AudioStream, container.streams[index])
    key, mixer, kind, number, rate_hz = None, None, "", -1, stream.codec_context.sample_rate or 1
    for packet in container.demux(stream):
        number += bool(packet.size) and not packet.is_discard
        at = None if packet.pts is None or packet.time_base is None else packet.pts * packet.time_base
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            length_s = (packet.duration or 0) * (packet.time_base or 0)
            yield Piece(max(number, 0), at, rate_hz, None, round(length_s * rate_hz), kind)
            continue
        for frame in frames:
            keep_layout(frame.layout)
            rate_hz = frame.sample_rate
            if mixer is None or key != (frame.format.name, frame.layout.name, rate_hz):
                key = frame.format.name, frame.layout.name, rate_hz
                kind = f"{rate_hz} Hz, {frame.layout.name}"
                mixer = av.AudioResampler("fltp", layout, rate_hz, options=AVERAGED)
            at = None if frame.pts is None or frame.time_base is None else frame.pts * frame.time_base
            # No change of the rate, so the mixer holds nothing back.
            samples = np.concatenate([part.to_ndarray() for part in mixer.resample(frame)], axis=1)
            finite = np.isfinite(samples)
            n_bad = 0 if finite.all() else int((~finite.all(0)).sum())
            yield Piece(max(number, 0), at, rate_hz, np.where(finite, samples, 0) if n_bad else samples, n_bad, kind)


def keep_layout(layout: av.AudioLayout) -> None:
    """Keep a channel layout for ever if its order is not one of FFmpeg's own.

    PyAV 17.1 to 18.1 free the channel map of such a layout twice, which ends the process: layout objects share the map
    of their frame, and both free it. An object that is never freed leaks some 100 bytes instead.
    """
    if " channels (" in layout.name or layout.name.startswith("ambisonic"):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(layout))
