"""Join the finished parts of a video, and give it audio: packets are copied, no frame is decoded or encoded.

Audio is a stream as well: it is read, and encoded where it must be, while video packets are written, so an hour of it
needs no memory.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import av.container
import numpy as np

from latentsync.ledger.files import replacing
from latentsync.media.audio import chosen_track, heard
from latentsync.media.opening import opened
from latentsync.media.write import PREROLL_S, FrameClock, output

AAC_FRAME = 1024  # samples
AAC_LAYOUTS = ("mono", "stereo", "3.0", "4.0", "5.0", "5.1")  # that the AAC encoder takes, and PyAV gives frames of
AAC_BITS = 128_000  # bits per second of a channel: as good as the original to nearly all ears
Packets = Iterator[tuple[Fraction, av.Packet]]  # with their times in seconds, in order
AddAudio = Callable[[av.container.OutputContainer], Callable[[], Packets]]
"""Adds an audio stream to a container that is not started; what it returns gives the packets."""


def join(
    parts: Sequence[Path],
    out: Path,
    clock: FrameClock,
    add_audio: AddAudio | None = None,
    tags: Mapping[str, str] | None = None,
) -> None:
    """Write `out` from parts that VideoWriter wrote one after another, each from time zero.

    Args:
        parts: files without audio and with the same settings.
        out: the mp4 or mov; it appears whole or not at all.
        clock: when all frames are shown.
        add_audio: `copied_audio` or `encoded_audio`; None: no audio.
        tags: metadata of the file.
    """
    with (
        replacing(out) as temporary,
        output(temporary, out.suffix, tags) as container,
    ):
        with opened(parts[0]) as first:
            of_parts = first.streams.video[0]
            copy = container.add_stream_from_template(of_parts)
            # PyAV drops it, and then all ProRes is called HQ, and HEVC is named so that Apple's players refuse it
            copy.codec_context.codec_tag = of_parts.codec_context.codec_tag
        copy.time_base = clock.time_base
        audio = iter(()) if add_audio is None else add_audio(container)()
        waiting = next(audio, None)
        n_before = 0
        for part in parts:
            n_frames = 0
            for at, decoded_at, packet in _video_packets(part, clock):
                packet.stream, packet.time_base = copy, clock.time_base
                packet.pts, packet.dts = clock.at(n_before + at), clock.at(n_before + decoded_at)
                packet.duration = clock.duration(n_before + at)
                while waiting is not None and waiting[0] <= packet.pts * clock.time_base:
                    container.mux(waiting[1])
                    waiting = next(audio, None)
                container.mux(packet)
                n_frames += 1
            n_before += n_frames
        assert clock.pts is None or n_before == len(clock.pts), (n_before, len(clock.pts))
        while waiting is not None:
            container.mux(waiting[1])
            waiting = next(audio, None)


def _video_packets(part: Path, clock: FrameClock) -> Iterator[tuple[int, int, av.Packet]]:
    """(place in order of display, place in order of decoding, packet) of one part; the latter starts below 0."""
    with opened(part) as container:
        stream = container.streams.video[0]
        for number, packet in enumerate(packet for packet in container.demux(stream) if packet.size):
            if clock.pts is not None:  # written without B-frames: both orders are one
                yield number, number, packet
            else:
                assert packet.pts is not None and packet.dts is not None and packet.time_base is not None
                ticks = packet.time_base / clock.time_base
                yield round(packet.pts * ticks), round(packet.dts * ticks), packet


def copied_audio(path: Path, end_s: float, later_s: float = 0.0, track: int | None = None) -> AddAudio:
    """The packets of a file's audio, on the time zero of its video or, without one, of its first sample, up to `end_s`.

    They are heard `later_s` later than in the file. `track`: as of `audio_pieces`. The decoder's warm-up before time
    zero is kept; players skip it, as the mp4 says.
    """

    def add(container: av.container.OutputContainer) -> Callable[[], Packets]:
        index, zero_s = _audio_stream(path, track)
        zero_s -= Fraction(later_s)
        with opened(path) as source:
            copy = container.add_stream_from_template(source.streams[index])

        def packets() -> Packets:
            with opened(path) as source:
                stream = source.streams[index]
                for packet in source.demux(stream):
                    if not packet.size or packet.pts is None or packet.time_base is None:
                        continue
                    at_s = packet.pts * packet.time_base - zero_s
                    if at_s < -PREROLL_S or at_s >= end_s:
                        continue
                    packet.pts -= round(zero_s / packet.time_base)
                    packet.dts = packet.pts
                    packet.stream = copy
                    yield at_s, packet

        return packets

    return add


def _audio_stream(path: Path, track: int | None) -> tuple[int, Fraction]:
    """Index of the audio stream, and time zero on its clock, seconds."""
    tracks, zero_s = heard(path)
    chosen = tracks[0] if track is None else chosen_track(path, track)
    if zero_s is None:
        with opened(path) as source:
            stream = source.streams[chosen.stream]
            # An mp3 counts its encoder's delay into the start; an m4a has it before zero.
            zero_s = max(Fraction(0), (stream.start_time or 0) * Fraction(stream.time_base or 1))
    return chosen.stream, zero_s


def encoded_audio(
    pieces: Iterator[np.ndarray], rate_hz: int, layout: str, end_s: float, channel_bits: int = AAC_BITS
) -> AddAudio:
    """Audio as AAC, cut or padded with silence to `end_s`, to the sample.

    Args:
        pieces: float32 [c, n], one after another from time zero.
        rate_hz: one that AAC knows.
        layout: one of AAC_LAYOUTS.
        end_s: end of the video.
        channel_bits: bits per second for each channel, as far as AAC allows.
    """

    def add(container: av.container.OutputContainer) -> Callable[[], Packets]:
        stream = container.add_stream("aac", rate=rate_hz, layout=layout)
        channels = av.AudioLayout(layout).nb_channels
        # AAC's limit is 6144 bits for 1024 samples of a channel.
        stream.codec_context.bit_rate = min(channel_bits, 6 * rate_hz) * channels

        def packets() -> Packets:
            start = 0
            for part in _blocks(pieces, channels, round(end_s * rate_hz)):
                frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(part, np.float32), "fltp", layout)
                frame.sample_rate, frame.time_base, frame.pts = rate_hz, Fraction(1, rate_hz), start
                start += part.shape[1]
                yield from _timed(stream.encode(frame))
            yield from _timed(stream.encode(None))

        return packets

    return add


def _timed(packets: list[av.Packet]) -> Packets:
    for packet in packets:
        assert packet.pts is not None and packet.time_base is not None
        yield packet.pts * packet.time_base, packet


def _blocks(pieces: Iterator[np.ndarray], channels: int, n_samples: int) -> Iterator[np.ndarray]:
    """`n_samples` samples [c, n] in blocks of AAC_FRAME, the last one shorter; silence once the pieces are used up."""
    held, left = np.zeros((channels, 0), np.float32), n_samples
    while left > 0:
        while held.shape[1] < min(AAC_FRAME, left):
            piece = next(pieces, None)
            held = np.concatenate([held, np.zeros((channels, AAC_FRAME), np.float32) if piece is None else piece], 1)
        n = min(AAC_FRAME, left)
        yield held[:, :n]
        held, left = held[:, n:], left - n
