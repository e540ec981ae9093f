"""Pictures by index in presentation order and sound from time zero, on the clock of ops/timing.py.

Frames are recognised by their presentation time, so a seek cannot shift them (counted only where there are no times).
A packet that shows no picture of its own (a hidden reference, a skipped frame) shows the picture before it, as players
do; longer holes than _HOLD_S and every decoding error are Rejection("unreadable").
"""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np

from latentsync.media.picture import Picture, to_rgb
from latentsync.media.probe import Timeline, opened, timeline
from latentsync.ops.timing import SAMPLE_RATE_HZ
from latentsync.records import Rejection

_HOLD_S = 0.5
_PREROLL_S = 5  # decoded before a place that is sought
_FORWARD_S = 10  # going on is cheaper than seeking, with its pre-roll and the way from a key frame
AVERAGED = {"rematrix_maxval": "1.0"}  # of a resampler: without it stereo becomes 1.4 times as loud in mono, and clips
# Packets of sound lie a little beside where the ones before them ended: clocks round, and some recorders stamp roughly.
# Up to _JITTER_S their mean over _SETTLE_S is followed, by making a packet a few samples longer or shorter once it is
# _STEP_S off; so a sound card that runs 100 ppm fast stays in step for hours. What is further off is a gap.
_JITTER_S, _SETTLE_S, _STEP_S = 0.01, 2.0, 0.0003


def frame_times(path: Path) -> tuple[np.ndarray, float]:
    """Presentation times of all frames relative to time zero, float64 [n], and the end of the last frame, seconds."""
    found = timeline(path)
    times = (found.pts - found.pts[0]) * float(found.time_base)
    return times, float((found.end_pts - int(found.pts[0])) * found.time_base)


def read_frames(path: Path, indices: np.ndarray | None = None, threads: int = 1) -> Iterator[tuple[int, np.ndarray]]:
    """RGB pictures as displayed (rotation applied).

    Args:
        path: the video.
        indices: wanted frames in presentation order, sorted; a repeated index is yielded once. None: all.
        threads: threads of the decoder; they do not change the pictures.

    Yields:
        (index, uint8 [h, w, 3]). Where a stream changes its size (calls, broadcasts), the pictures do, too.
    """
    for index, frame in read_video_frames(path, indices, threads):
        yield index, to_rgb(frame)


def read_video_frames(
    path: Path, indices: np.ndarray | None = None, threads: int = 1
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Like `read_frames`, but frames as decoded: native pixel format and size, rotation not applied.

    `display_matrix(frame)` and `orientation` in media/probe.py tell how a frame is to be turned.
    """
    return Reader(path, threads).frames(indices)


class Reader:
    """Frames of one video over several calls that go forward: each is decoded once, however far key frames lie apart.

    Only a call that starts further back, or much further on, seeks. Where it does, it begins some seconds early:
    streams that renew themselves bit by bit have no whole picture at once. A frame is the same however it was reached.
    """

    def __init__(self, path: Path, threads: int = 1):
        self.path, self.threads = path, threads
        self.timeline = timeline(path)
        self.decoder: Iterator[tuple[int, av.VideoFrame]] | None = None
        self.held: av.VideoFrame | None = None
        self.shown = -1  # index of `held`, the last frame that was decoded
        self.ahead: tuple[int, av.VideoFrame] | None = None  # decoded already, to be shown later

    def pictures(self, indices: np.ndarray | None = None) -> Iterator[tuple[int, Picture]]:
        """Like `frames`, each as a Picture, turned as the file asks."""
        turns, mirrored = self.timeline.info.rotation_deg // 90, self.timeline.mirrored
        for index, frame in self.frames(indices):
            yield index, Picture(frame, turns, mirrored)

    def frames(self, indices: np.ndarray | None = None) -> Iterator[tuple[int, av.VideoFrame]]:
        """(index, frame) of the wanted indices, sorted, each once; None: all. To be read to its end before the next."""
        n_frames = len(self.timeline.pts)
        wanted = np.arange(n_frames) if indices is None else np.unique(np.asarray(indices))
        if len(wanted) == 0:
            return
        if wanted[0] < 0 or wanted[-1] >= n_frames:
            raise ValueError(f"frames {wanted[0]} to {wanted[-1]} asked of {self.path}, which has {n_frames}")
        self._go_to(int(wanted[0]))
        position = 0
        while position < len(wanted):
            if wanted[position] == self.shown:
                yield self.shown, self.held
                position += 1
                continue
            following = self._following()
            if following is None:  # no picture of its own up to the end
                break
            index, frame = following
            if wanted[position] < index and self.held is not None:
                _check_hole(self.timeline, self.shown, index)
            while position < len(wanted) and wanted[position] < index:
                yield int(wanted[position]), frame if self.held is None else self.held
                position += 1
            if position == len(wanted):
                self.ahead = following
                return
            self.shown, self.held = index, frame
        if position < len(wanted):
            if self.held is None:
                raise Rejection("unreadable", f"no picture can be decoded from frame {wanted[0]} of {n_frames} on")
            _check_hole(self.timeline, self.shown, n_frames)
            for index in wanted[position:]:
                yield int(index), self.held

    def _go_to(self, first: int) -> None:
        reach = round(_FORWARD_S * self.timeline.info.fps) + 1
        if self.decoder is None or not self.shown <= first <= self.shown + reach:
            early = self.timeline.pts[first] - int(_PREROLL_S / self.timeline.time_base)
            start = int(np.searchsorted(self.timeline.pts, early))
            self.decoder = _decoded(self.path, self.timeline, start, self.threads)
            self.held, self.shown, self.ahead = None, -1, None

    def _following(self) -> tuple[int, av.VideoFrame] | None:
        if self.ahead is not None:
            following, self.ahead = self.ahead, None
            return following
        return next(self.decoder, None)


def _check_hole(found: Timeline, shown: int, index: int) -> None:
    """Frames shown + 1 to index - 1 have no picture: refuse if that lasts too long."""
    if index - shown < 2:
        return
    start_s, stop_s = (
        float((int(p) - int(found.pts[0])) * found.time_base)
        for p in (found.pts[shown + 1], found.pts[index] if index < len(found.pts) else found.end_pts)
    )
    if stop_s - start_s > _HOLD_S:
        raise Rejection("unreadable", f"no picture can be decoded between {start_s:.2f} and {stop_s:.2f} s")


def _decoded(path: Path, found: Timeline, first: int, threads: int) -> Iterator[tuple[int, av.VideoFrame]]:
    """Frames from a key frame at or before `first` on, each with its index in presentation order."""
    with opened(path) as container:
        video = container.streams[found.stream]
        video.codec_context.thread_count = threads
        video.codec_context.thread_type = "AUTO"
        if found.counted:
            first = 0
        if first > 0:
            container.seek(int(found.pts[first]), stream=video)
        packets = container.demux(video)
        head = next(packets)
        leads = head.is_keyframe and head.pts is not None and head.pts <= found.pts[first]
        if first == 0 or leads:
            yield from _numbered(chain([head], packets), found)
            return
    yield from _decoded(path, found, 0, threads)  # seeking led nowhere useful: decode from the start


def _numbered(packets: Iterable[av.Packet], found: Timeline) -> Iterator[tuple[int, av.VideoFrame]]:
    last = -1
    for packet in packets:
        for frame in _decode(packet, found):
            if found.counted:
                index = last + 1
            else:
                index = -1 if frame.pts is None else int(np.searchsorted(found.pts, frame.pts, side="right")) - 1
            if index > last:
                yield index, frame
                last = index


def _decode(packet: av.Packet, found: Timeline) -> list[av.VideoFrame]:
    try:
        return packet.decode()
    except av.error.FFmpegError as error:
        at_s = float(packet.pts * packet.time_base - found.zero_s) if packet.pts is not None else float("nan")
        raise Rejection("unreadable", f"decoding fails at {at_s:.2f} s: {error.strerror}") from error


def read_clip(path: Path, start: int = 0, stop: int | None = None) -> np.ndarray:
    """Frames [start, stop) of a constant-rate file of ours (a crop): uint8 [f, h, w, 3]. None: to the end."""
    with opened(path) as container:
        video = container.streams.video[0]
        rate, zero = video.average_rate, video.start_time or 0
        stop = video.frames if stop is None else stop
        if not 0 <= start <= stop <= video.frames:
            raise ValueError(f"frames [{start}, {stop}) asked of {path}, which has {video.frames}")
        if start > 0:
            container.seek(zero + round(start / rate / video.time_base), stream=video)
        frames: list[np.ndarray] = []
        if start == stop:
            return np.empty((0, video.height, video.width, 3), np.uint8)
        for frame in container.decode(video):
            index = round((frame.pts - zero) * video.time_base * rate)
            if index >= start:
                assert index == start + len(frames), (path, index, start, len(frames))
                frames.append(to_rgb(frame))
            if index == stop - 1:
                return np.stack(frames)
    raise ValueError(f"{path} ends before frame {stop}; delete it and run again")


def read_audio(path: Path, sample_rate_hz: int = SAMPLE_RATE_HZ) -> np.ndarray:
    """The sound as float32 [n], mono, in [-1, 1], sample n at n / sample_rate_hz from time zero.

    Earlier sound is cut, gaps are silence, encoder priming is skipped as the container says. Length 0 without sound.
    """
    return read_channels(path, sample_rate_hz, "mono")[0]


def read_channels(path: Path, sample_rate_hz: int, layout: str, max_s: float | None = None) -> np.ndarray:
    """As `read_audio`, but float32 [c, n] in mono or stereo (`layout`), and of `max_s` seconds at most."""
    longest = None if max_s is None else round(max_s * sample_rate_hz)
    parts, n = [np.zeros((av.AudioLayout(layout).nb_channels, 0), np.float32)], 0
    for part in audio_pieces(path, sample_rate_hz, layout):
        parts.append(part)
        n += part.shape[1]
        if longest is not None and n >= longest:
            break
    return np.concatenate(parts, axis=1)[:, :longest]


def audio_pieces(path: Path, sample_rate_hz: int = SAMPLE_RATE_HZ, layout: str = "mono") -> Iterator[np.ndarray]:
    """What `read_channels` reads, piece by piece as it is decoded: an hour of sound needs no memory."""
    found = timeline(path)
    if found.audio_stream is not None:
        for part in _resampled(_placed(_mixed(path, found, layout), found.zero_s), sample_rate_hz, layout):
            yield part.clip(-1, 1)


def _mixed(path: Path, found: Timeline, layout: str) -> Iterator[tuple[Fraction, int, np.ndarray]]:
    """Decoded sound as (time on the container's clock, rate, float32 [c, n]); channels are averaged, never summed."""
    with opened(path) as container:
        stream = container.streams[found.audio_stream]
        key, mixer, next_s = None, None, Fraction(0)
        for frame in container.decode(stream):
            start_s = frame.pts * frame.time_base if frame.pts is not None else next_s
            next_s = start_s + Fraction(frame.samples, frame.sample_rate)
            if key != (frame.format.name, frame.layout.name, frame.sample_rate):
                key = (frame.format.name, frame.layout.name, frame.sample_rate)
                mixer = av.AudioResampler("fltp", layout, frame.sample_rate, options=AVERAGED)
            mixed = [part.to_ndarray() for part in mixer.resample(frame)]  # no rate change, so nothing is held back
            yield start_s, frame.sample_rate, np.concatenate(mixed, axis=1)


def _placed(sound: Iterator[tuple[Fraction, int, np.ndarray]], zero_s: Fraction) -> Iterator[tuple[int, np.ndarray]]:
    """Lay sound on the clock that starts at `zero_s`: (rate, float32 [c, n]) in one unbroken row, silence in gaps."""
    filled, rate, late = None, 0, 0.0
    for start_s, new_rate, samples in sound:
        if filled is not None and new_rate != rate:
            raise Rejection("unreadable", f"the sound changes from {rate} to {new_rate} Hz")
        rate = new_rate
        missing = round((start_s - zero_s) * rate) - (filled or 0)
        if filled is not None and abs(missing) <= _JITTER_S * rate:
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
    """Samples [start, stop) of a FLAC file of ours, float32 [n] in [-1, 1]; outside the file lies silence."""
    with opened(path) as container:
        stream = container.streams.audio[0]
        if start_sample > 0:
            container.seek(int(start_sample), stream=stream)
        parts, first = [], None
        for frame in container.decode(stream):
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
