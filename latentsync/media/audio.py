"""Audio of a video from its time zero, mono or stereo at any rate, and FLAC files of this project.

Audio is placed by its time stamps: what comes before the first frame is cut, gaps are silence, and a clock that
runs a little fast or slow is followed.
"""

import mmap
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np

from latentsync.ledger.rows import Rejection
from latentsync.media.probe import Timeline, opened, timeline
from latentsync.timing import SAMPLE_RATE_HZ

AVERAGED = {"rematrix_maxval": "1.0"}  # of a resampler: without it stereo becomes 1.4 times as loud in mono, and clips
# Audio packets start slightly off the end of the previous one: clocks round, and some recorders write rough times.
# Up to _JITTER_S their mean over _SETTLE_S is followed, by making a packet a few samples longer or shorter once it is
# _STEP_S off; so a sound card that runs 100 ppm fast stays in step for hours. What is further off is a gap.
_JITTER_S, _SETTLE_S, _STEP_S = 0.01, 2.0, 0.0003


def read_audio(path: Path, sample_rate_hz: int = SAMPLE_RATE_HZ) -> np.ndarray:
    """The audio as float32 [n], mono, in [-1, 1], sample n at n / sample_rate_hz from time zero.

    Earlier audio is cut, gaps are silence, encoder priming is skipped as the container says. Length 0 without audio.
    """
    return read_channels(path, sample_rate_hz, "mono")[0]


def read_channels(path: Path, sample_rate_hz: int, layout: str, max_s: float | None = None) -> np.ndarray:
    """As `read_audio`, but float32 [c, n] in mono or stereo (`layout`), and of `max_s` seconds at most."""
    longest = None if max_s is None else round(max_s * sample_rate_hz)
    return joined(audio_pieces(path, sample_rate_hz, layout), av.AudioLayout(layout).nb_channels, longest)


_PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # a shared mapping has no memory behind what it grew by


def joined(pieces: Iterable[np.ndarray], n_channels: int, longest: int | None = None) -> np.ndarray:
    """Pieces float32 [c, k] as one array [c, n], of `longest` samples at most.

    Each channel has a mapping of its own, which grows without being copied and leaves no holes in the heap.
    """
    channels = [mmap.mmap(-1, mmap.PAGESIZE, flags=_PRIVATE) for _ in range(n_channels)]
    for piece in pieces:
        for channel, samples in zip(channels, piece, strict=True):
            if len(channel) < channel.tell() + samples.nbytes:
                channel.resize(2 * (channel.tell() + samples.nbytes))
            channel.write(samples.tobytes())
        if longest is not None and channels[0].tell() >= longest * piece.itemsize:
            break
    rows = [np.frombuffer(channel, np.float32)[: channel.tell() // 4][:longest] for channel in channels]
    return rows[0][None] if n_channels == 1 else np.stack(rows)


def audio_pieces(path: Path, sample_rate_hz: int = SAMPLE_RATE_HZ, layout: str = "mono") -> Iterator[np.ndarray]:
    """What `read_channels` reads, piece by piece as it is decoded: an hour of audio needs no memory."""
    found = timeline(path)
    if found.audio_stream is not None:
        for part in _resampled(_placed(_mixed(path, found, layout), found.zero_s), sample_rate_hz, layout):
            yield in_range(part, path)


def in_range(samples: np.ndarray, path: Path) -> np.ndarray:
    """A clipped copy of samples, in [-1, 1].

    Raises:
        Rejection: some are not finite, which no network could take.
    """
    if not np.isfinite(samples).all():
        raise Rejection("unreadable", f"{path.name} holds samples that are not finite numbers; export its audio again")
    return samples.clip(-1, 1)


def _mixed(path: Path, found: Timeline, layout: str) -> Iterator[tuple[Fraction, int, np.ndarray]]:
    """Decoded audio as (time on the container's clock, rate, float32 [c, n]); channels are averaged, never summed."""
    assert found.audio_stream is not None
    with opened(path) as container:
        stream = cast(av.AudioStream, container.streams[found.audio_stream])
        key, mixer, next_s = None, None, Fraction(0)
        for frame in container.decode(stream):
            start_s = frame.pts * frame.time_base if frame.pts is not None and frame.time_base is not None else next_s
            next_s = start_s + Fraction(frame.samples, frame.sample_rate)
            if mixer is None or key != (frame.format.name, frame.layout.name, frame.sample_rate):
                key = (frame.format.name, frame.layout.name, frame.sample_rate)
                mixer = av.AudioResampler("fltp", layout, frame.sample_rate, options=AVERAGED)
            mixed = [part.to_ndarray() for part in mixer.resample(frame)]  # no rate change, so nothing is held back
            yield start_s, frame.sample_rate, np.concatenate(mixed, axis=1)


def _placed(sound: Iterator[tuple[Fraction, int, np.ndarray]], zero_s: Fraction) -> Iterator[tuple[int, np.ndarray]]:
    """Place audio on the clock that starts at `zero_s`: (rate, float32 [c, n]) in one unbroken row, silence in gaps."""
    filled, rate, late = None, 0, 0.0
    for start_s, new_rate, samples in sound:
        if filled is not None and new_rate != rate:
            raise Rejection("unreadable", f"the audio changes from {rate} to {new_rate} Hz")
        rate = new_rate
        missing = round((start_s - zero_s) * rate) - (filled or 0)
        if filled and abs(missing) <= _JITTER_S * rate:  # what straddles time zero is cut there, not followed
            late += (missing - late) * min(1.0, samples.shape[1] / (_SETTLE_S * rate))
            if abs(late) > _STEP_S * rate:
                samples = _stretched(samples, samples.shape[1] + round(late))
                late = 0.0
            missing = 0
        filled = filled or 0
        if missing > 0:
            yield rate, np.zeros((len(samples), missing), np.float32)
            filled += missing
        samples = samples[:, max(0, -missing) :]
        filled += samples.shape[1]
        if samples.shape[1]:
            yield rate, samples


def _stretched(samples: np.ndarray, length: int) -> np.ndarray:
    """Samples [c, n] made a little longer or shorter: [c, length], linear between."""
    at = np.linspace(0, samples.shape[1] - 1, max(length, 1))
    return np.stack([np.interp(at, np.arange(samples.shape[1]), channel) for channel in samples]).astype(np.float32)


def _resampled(sound: Iterator[tuple[int, np.ndarray]], rate_hz: int, layout: str) -> Iterator[np.ndarray]:
    resampler = av.AudioResampler("fltp", layout, rate_hz)
    for rate, samples in sound:
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), "fltp", layout)
        frame.sample_rate = rate
        for part in resampler.resample(frame):
            yield part.to_ndarray().copy()
    for part in resampler.resample(None):
        if part is not None:
            yield part.to_ndarray().copy()


def read_flac(path: Path, start_sample: int = 0, stop_sample: int | None = None) -> np.ndarray:
    """Samples [start, stop) of a FLAC file of ours, float32 [n] in [-1, 1]; silence outside the file."""
    with opened(path) as container:
        stream = container.streams.audio[0]
        if start_sample > 0:
            container.seek(int(start_sample), stream=stream)
        parts, first = [], None
        for frame in container.decode(stream):
            assert frame.pts is not None and frame.time_base is not None
            begin = round(frame.pts * frame.time_base * frame.sample_rate)
            first = begin if first is None else first
            if stop_sample is not None and begin >= stop_sample:
                break
            parts.append(frame.to_ndarray()[0])
    sound = np.concatenate(parts or [np.zeros(0, np.int16)]).astype(np.float32) / 32768
    first = first or 0
    assert first <= max(0, start_sample) or not len(sound), (path, first, start_sample)
    stop_sample = first + len(sound) if stop_sample is None else stop_sample
    result = np.zeros(max(0, stop_sample - start_sample), np.float32)
    lower, upper = max(start_sample, first), min(stop_sample, first + len(sound))
    if lower < upper:
        result[lower - start_sample : upper - start_sample] = sound[lower - first : upper - first]
    return result
