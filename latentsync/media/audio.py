"""Audio of a video from its time zero, mono or stereo at any rate, and FLAC files of this project.

Audio is placed by its time stamps, as clock.py repairs them: what comes before the first frame is cut, gaps and what
cannot be decoded are silence, and a clock that runs a little fast or slow is followed. The audio of a file without
video begins with its first sample.
"""

import functools
import mmap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition

from latentsync.ledger.rows import Rejection
from latentsync.media import clock
from latentsync.media.decode import Piece, decoded
from latentsync.media.opening import opened
from latentsync.media.probe import packets_of, timeline
from latentsync.media.repairs import Repairs
from latentsync.media.tracks import AudioTrack, preferred
from latentsync.timing import SAMPLE_RATE_HZ

# Audio packets start slightly off the end of the previous one: clocks round, and some recorders write rough times.
# Up to _JITTER_S their mean over _SETTLE_S is followed, by making a packet a few samples longer or shorter once it is
# _STEP_S off; so a sound card that runs 100 ppm fast stays in step for hours. What is further off is a gap.
_JITTER_S, _SETTLE_S, _STEP_S = 0.01, 2.0, 0.0003
MAX_DAMAGED_SHARE = 0.2  # of the audio; more damage than this is too much to be taken for silence


@dataclass
class Damage:
    """What was found wrong with audio while it was read."""

    repairs: Repairs = field(default_factory=dict)
    bad_s: float = 0.0
    total_s: float = 0.0

    def count(self, kind: str, n: int = 1) -> None:
        """Note a repair."""
        self.repairs[kind] = self.repairs.get(kind, 0) + n

    def require_little(self, path: Path, limit: float = MAX_DAMAGED_SHARE, key: str = "") -> None:
        """Refuse audio of which too much is damaged; `key` is where the limit is set.

        Raises:
            Rejection: unreadable.
        """
        if self.bad_s > limit * self.total_s:
            share = self.bad_s / self.total_s
            fix = f"; {key} allows {limit:g}" if key else f", more than {limit:g}"
            raise Rejection("unreadable", f"a share of {share:.2f} of the audio of {path.name} is damaged{fix}")


def read_audio(path: Path, sample_rate_hz: int = SAMPLE_RATE_HZ) -> np.ndarray:
    """The audio as float32 [n], mono, in [-1, 1], sample n at n / sample_rate_hz from time zero.

    Earlier audio is cut, gaps are silence, encoder priming is skipped as the container says. Length 0 without audio.
    """
    return read_channels(path, sample_rate_hz, "mono")[0]


def read_channels(
    path: Path,
    sample_rate_hz: int,
    layout: str,
    max_s: float | None = None,
    track: int | None = None,
    damage: Damage | None = None,
) -> np.ndarray:
    """As `read_audio`, but float32 [c, n] in mono or stereo (`layout`), and of `max_s` seconds at most."""
    longest = None if max_s is None else round(max_s * sample_rate_hz)
    pieces = audio_pieces(path, sample_rate_hz, layout, track, damage)
    return joined(pieces, av.AudioLayout(layout).nb_channels, longest)


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


def audio_pieces(
    path: Path,
    sample_rate_hz: int = SAMPLE_RATE_HZ,
    layout: str = "mono",
    track: int | None = None,
    damage: Damage | None = None,
) -> Iterator[np.ndarray]:
    """What `read_channels` reads, piece by piece as it is decoded: an hour of audio needs no memory.

    Args:
        path: a video or audio file.
        sample_rate_hz: of the result.
        layout: of the result.
        track: number of the audio track, from 1; None: the preferred one (tracks.py).
        damage: counts what is repaired.

    Raises:
        Rejection: no_audio, the file has no such track.
    """
    tracks, zero_s = heard(path)
    if track is None and not tracks:
        return
    chosen = tracks[0] if track is None else chosen_track(path, track)
    damage = Damage() if damage is None else damage
    for part in _resampled(_placed(_timed(path, chosen, layout, damage), zero_s, damage), sample_rate_hz, layout):
        yield part.clip(-1, 1)


def heard(path: Path) -> tuple[tuple[AudioTrack, ...], Fraction | None]:
    """The audio tracks of a file that can be decoded, the preferred one first, and time zero on its clock, seconds.

    None: the file has no video, and time zero is its first sample.
    """
    stat = path.stat()
    return _heard(path.absolute(), stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _heard(path: Path, size: int, mtime_ns: int) -> tuple[tuple[AudioTrack, ...], Fraction | None]:
    with opened(path) as container:
        if any(not video.disposition & Disposition.attached_pic for video in container.streams.video):
            found = timeline(path)
            return found.tracks, found.zero_s
        decodable = [stream for stream in container.streams.audio if stream.codec_context is not None]
        packets, *_ = packets_of(container, decodable)
        numbers = {stream.index: number for number, stream in enumerate(container.streams.audio, 1)}
        tracks = []
        for stream in decodable:
            if stream.index in packets:
                parts = clock.lone_parts(packets[stream.index])
                tracks.append(AudioTrack.of(stream, numbers[stream.index], parts))
    track = preferred(path, tracks)
    return tuple(sorted(tracks, key=lambda one: one is not track)), None


def chosen_track(path: Path, number: int) -> AudioTrack:
    """An audio track of a file by its number, from 1.

    Raises:
        Rejection: no_audio, there is no such track.
    """
    tracks, _ = heard(path)
    found = next((track for track in tracks if track.number == number), None)
    if found is None:
        known = ", ".join(str(track.number) for track in sorted(tracks, key=lambda track: track.number))
        which = f"tracks that can be decoded: {known}" if known else "no track of it can be decoded"
        raise Rejection("no_audio", f"{path.name} has no audio track {number} that can be decoded; {which}")
    return found


_Sound = Iterator[tuple[Fraction, Piece]]


def _timed(path: Path, track: AudioTrack, layout: str, damage: Damage) -> _Sound:
    """The pieces of a track with their times on the repaired clock, seconds."""
    of, next_s, kind = track.parts.of, Fraction(0), None
    with opened(path) as container:
        for piece in decoded(container, track.stream, layout):
            part = int(of[min(piece.packet, len(of) - 1)])
            start_s = next_s
            if piece.at is not None and part >= 0:
                start_s = piece.at + int(track.parts.shift[part]) * track.time_base
            length = piece.n_bad if piece.samples is None else piece.samples.shape[1]
            next_s = start_s + Fraction(length, piece.rate_hz)
            damage.total_s += length / piece.rate_hz
            damage.bad_s += piece.n_bad / piece.rate_hz
            if piece.n_bad or piece.samples is None:
                damage.count("bad_audio")
            if piece.kind != kind and piece.samples is not None:
                if kind is not None:
                    damage.count("rate_changes")
                kind = piece.kind
            yield start_s, piece


def _placed(sound: _Sound, zero_s: Fraction | None, damage: Damage) -> Iterator[tuple[int, np.ndarray]]:
    """Place audio on the clock that starts at `zero_s`: (rate, float32 [c, n]) in one unbroken row, silence in gaps."""
    filled, rate, late, channels = 0, 0, 0.0, 1
    for start_s, piece in sound:
        zero_s = start_s if zero_s is None else zero_s
        if piece.samples is None:
            continue  # the next piece finds a gap
        samples, channels = piece.samples, len(piece.samples)
        if piece.rate_hz != rate:
            filled, rate, late = round(filled * piece.rate_hz / rate) if rate else 0, piece.rate_hz, 0.0
        missing = round((start_s - zero_s) * rate) - filled
        if filled and abs(missing) <= _JITTER_S * rate:  # what straddles time zero is cut there, not followed
            late += (missing - late) * min(1.0, samples.shape[1] / (_SETTLE_S * rate))
            if abs(late) > _STEP_S * rate:
                samples = _stretched(samples, samples.shape[1] + round(late))
                late = 0.0
            missing = 0
        if missing > clock.LONGEST_GAP_S * rate:
            damage.count("long_silences")
        while missing > 0:  # in pieces: a gap may last for hours
            silence = np.zeros((channels, min(missing, rate)), np.float32)
            yield rate, silence
            filled += silence.shape[1]
            missing -= silence.shape[1]
        samples = samples[:, max(0, -missing) :]
        filled += samples.shape[1]
        if samples.shape[1]:
            yield rate, samples


def _stretched(samples: np.ndarray, length: int) -> np.ndarray:
    """Samples [c, n] made a little longer or shorter: [c, length], linear between."""
    at = np.linspace(0, samples.shape[1] - 1, max(length, 1))
    return np.stack([np.interp(at, np.arange(samples.shape[1]), channel) for channel in samples]).astype(np.float32)


def _resampled(sound: Iterator[tuple[int, np.ndarray]], rate_hz: int, layout: str) -> Iterator[np.ndarray]:
    """The same at one rate; where the rate changes, a new resampler goes on."""
    resampler, before = None, 0
    for rate, samples in sound:
        if resampler is None or rate != before:
            yield from _rest(resampler)
            resampler, before = av.AudioResampler("fltp", layout, rate_hz), rate
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), "fltp", layout)
        frame.sample_rate = rate
        for part in resampler.resample(frame):
            yield part.to_ndarray().copy()
    yield from _rest(resampler)


def _rest(resampler: av.AudioResampler | None) -> Iterator[np.ndarray]:
    if resampler is not None:
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
