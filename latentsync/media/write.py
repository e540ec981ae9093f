"""Write frames and audio: mp4 or mov (same frames and threads, same bytes), 16-bit FLAC.

Files appear whole or not at all (temporary name, then rename).
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import cast

import av
import av.container
import numpy as np
from av.video.reformatter import Interpolation

from latentsync.config import CodecName
from latentsync.ledger.files import replacing
from latentsync.ledger.rows import Rejection
from latentsync.media.codecs import CODECS, colour_tags, hdr_light, needs_range, options, output_format
from latentsync.media.deinterlace import FieldOrder, Flagged, field_order
from latentsync.media.display import display_matrix, orientation
from latentsync.media.frames import planes
from latentsync.media.opening import opened
from latentsync.media.probe import timeline

_FINE = Fraction(1, 90_000)  # time base of files with frame times of their own
PREROLL_S = Fraction(1, 10)  # copied audio before time zero: decoders need a packet or two to warm up
_AAC_FRAME = 1024
_FLAC_FRAME = 4096
MP4 = {"movflags": "+faststart", "fflags": "+bitexact"}  # bitexact: no version of the muxer in the file
_EXACT = Interpolation.BICUBIC | Interpolation.ACCURATE_RND


@dataclass(frozen=True)
class FrameClock:
    """When the frames of a video are shown, in units of `time_base`."""

    time_base: Fraction
    pts: list[int] | None
    """Times of the frames; None: frame i at i."""
    end: int = 0
    """End of the last frame, where `pts` is given."""

    @classmethod
    def of(
        cls, fps: Fraction, frame_times: Sequence[float] | np.ndarray | None = None, end_s: float | None = None
    ) -> "FrameClock":
        """A constant rate, or times of their own.

        Raises:
            ValueError: the times do not increase.
        """
        if frame_times is None:
            return cls(1 / fps, None)
        pts = [round(float(time) / _FINE) for time in frame_times]
        if not pts or any(b <= a for a, b in zip(pts, pts[1:], strict=False)):
            raise ValueError(f"frame_times must increase by at least {float(_FINE):.6f} s")
        last = pts[-1] - pts[-2] if len(pts) > 1 else round(1 / fps / _FINE)
        end = pts[-1] + last if end_s is None else round(end_s / _FINE)
        if end <= pts[-1]:
            raise ValueError(f"end_s is {end_s}, before the last frame")
        return cls(_FINE, pts, end)

    def at(self, number: int) -> int:
        """Time of a frame."""
        return number if self.pts is None else self.pts[number]

    def duration(self, number: int) -> int:
        """Time that a frame is shown."""
        if self.pts is None:
            return 1
        return (self.pts[number + 1] if number + 1 < len(self.pts) else self.end) - self.pts[number]


def output(path: Path, suffix: str = ".mp4", tags: Mapping[str, str] | None = None) -> av.container.OutputContainer:
    """An mp4, or a mov if the suffix says so, whose bytes depend on nothing but what is written into it."""
    container = av.open(str(path.absolute()), "w", format="mov" if suffix == ".mov" else "mp4", options=MP4)
    container.metadata.update(tags or {})
    return container


class VideoWriter:
    """A video being written, an H.264 mp4 unless `codec` says otherwise; a context manager.

    Args:
        path: the file, which appears when the block ends well.
        fps: constant frame rate, exact; with `frame_times` only a hint to the rate control.
        width, height: of the frames given. 4:2:0 needs even sides, so odd ones are written as yuv444p, never cropped.
        codec: one of `codecs.CODECS`; the suffix of `path` must be its own.
        crf: quality of x264 and x265, 0 without loss. `preset`: theirs. `keyint`: longest distance of key frames.
        threads: of the encoder. The same frames with as many threads give the same bytes.
        audio: float32 [n], mono, or [c, n], mono or stereo, from time zero, written as AAC of `audio_bitrate` bits per
            second.
        copy_audio_from: a video whose audio is copied packet by packet, on the same time zero; instead of `audio`.
        frame_times: seconds [n] of every frame from time zero, for variable rates; the times must increase.
        end_s: end of the last frame where `frame_times` is given; default: as long as the frame before.
        like: a decoded frame; pixel format, colour tags, display matrix, field order and the light of HDR10 are taken
            from it. Without it: yuv420p, BT.709, limited range, progressive.
        sample_aspect: width of a stored pixel over its height; None: square. A frame of PyAV does not tell.
        chroma_location: of the source of the frames, see chroma.py; a frame of PyAV does not tell.
        overlay: gives each frame, in the written format, a label; None: none.
        tags: metadata of the file.
    """

    def __init__(
        self,
        path: Path,
        fps: Fraction | int,
        width: int,
        height: int,
        codec: CodecName = "h264",
        crf: int = 13,
        preset: str = "medium",
        keyint: int = 25,
        threads: int = 1,
        audio: np.ndarray | None = None,
        audio_rate_hz: int = 16_000,
        audio_bitrate: int = 128_000,
        copy_audio_from: Path | None = None,
        frame_times: Sequence[float] | np.ndarray | None = None,
        end_s: float | None = None,
        like: av.VideoFrame | None = None,
        sample_aspect: Fraction | None = None,
        chroma_location: int | None = None,
        overlay: Callable[[av.VideoFrame], av.VideoFrame] | None = None,
        tags: Mapping[str, str] | None = None,
    ):
        if audio is not None and copy_audio_from is not None:
            raise ValueError("give audio or copy_audio_from, not both")
        self.path, self.fps, self.width, self.height = Path(path), Fraction(fps), width, height
        self.codec: CodecName = codec
        self.crf, self.preset = crf, preset
        self.keyint, self.threads, self.like, self.sample_aspect = keyint, threads, like, sample_aspect
        self.chroma_location = chroma_location
        self.audio, self.audio_rate_hz, self.audio_bitrate = audio, audio_rate_hz, audio_bitrate
        self.copy_audio_from = copy_audio_from
        self.overlay, self.tags = overlay, tags
        self.clock = FrameClock.of(self.fps, frame_times, end_s)
        self.n_written = 0

    def __enter__(self) -> "VideoWriter":
        with ExitStack() as stack:
            temporary = stack.enter_context(replacing(self.path))
            self.container = stack.enter_context(output(temporary, self.path.suffix, self.tags))
            self.video = self._add_video()
            self.sound = self._add_sound()
            self.stack = stack.pop_all()
        return self

    def _add_video(self) -> av.VideoStream:
        like, codec = self.like, CODECS[self.codec]
        self.pix_fmt = output_format(self.width, self.height, like.format.name if like else "yuv420p", self.codec)
        light = hdr_light(like) if like else ""
        self.fields: FieldOrder | None = None
        if like is not None and like.interlaced_frame and codec.interlaced:
            self.fields = field_order(like)
        self.flagged: Flagged | None = None
        of_frames = self.pix_fmt, light, self.fields, self.chroma_location
        asked = options(self.codec, self.crf, self.preset, self.threads, *of_frames)
        video = cast(av.VideoStream, self.container.add_stream(codec.encoder, rate=self.fps, options=asked))
        context = video.codec_context
        if codec.tag:
            context.codec_tag = codec.tag
        context.width, context.height, context.gop_size = self.width, self.height, self.keyint
        context.thread_count = self.threads  # other numbers of threads give other bytes
        context.time_base = self.clock.time_base
        if self.clock.pts is not None:
            context.max_b_frames = 0  # mp4 stores the durations of frames in order of decoding
        context.pix_fmt = self.pix_fmt
        self.colours = tags = colour_tags(like, self.codec)
        context.colorspace, context.color_range = tags.space, tags.range
        context.color_primaries, context.color_trc = tags.primaries, tags.transfer
        if self.sample_aspect:
            context.sample_aspect_ratio = self.sample_aspect
        if like is not None and display_matrix(like) is not None:
            video.set_display_matrix(display_matrix(like))
        return video

    def _add_sound(self) -> list[av.Packet]:
        """All packets of the audio, in order; they are muxed as the frames come."""
        if self.copy_audio_from is not None:
            return self._copied_sound(self.copy_audio_from)
        if self.audio is None:
            return []
        return _encoded_sound(self.container, self.audio, self.audio_rate_hz, self.audio_bitrate)

    def _copied_sound(self, path: Path) -> list[av.Packet]:
        found = timeline(path)
        if found.audio is None:
            return []
        packets = []
        with opened(path) as source:
            stream = source.streams[found.audio.stream]
            codec = stream.codec_context.codec.canonical_name
            if codec not in self.container.supported_codecs:
                raise ValueError(f"audio of codec {codec} cannot be stored in an mp4; convert {path}")
            copy = self.container.add_stream_from_template(stream)
            for packet in source.demux(stream):
                if not packet.size or packet.pts is None:
                    continue
                if packet.pts * packet.time_base < found.zero_s - PREROLL_S:
                    continue
                shift = round(found.zero_s / packet.time_base)
                packet.pts -= shift
                packet.dts = packet.pts
                packet.stream = copy
                packets.append(packet)
        return packets

    def write(self, rgb: np.ndarray) -> None:
        """The next frame, uint8 [h, w, 3], as displayed."""
        assert rgb.dtype == np.uint8, rgb.dtype
        assert self.like is None or orientation(display_matrix(self.like)) == (0, False), "use write_frame"
        self.write_frame(av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24"))

    def write_frame(self, frame: av.VideoFrame) -> None:
        """The next frame as it is: no conversion if its pixel format is `self.pix_fmt`. Its time is overwritten."""
        if (frame.width, frame.height) != (self.width, self.height):
            sizes = f"{self.width} x {self.height} to {frame.width} x {frame.height}"
            raise Rejection("unreadable", f"the frames change their size from {sizes}; convert it to one size first")
        if frame.format.name != self.pix_fmt or needs_range(frame, self.colours):
            frame = frame.reformat(
                format=self.pix_fmt,
                dst_colorspace=self.colours.space,
                dst_color_range=self.colours.range,
                interpolation=_EXACT,
                threads=1,
            )
        if self.overlay is not None:
            frame = self.overlay(frame)
        if self.pix_fmt.endswith("10le"):
            _clip_ten_bits(frame)
        if self.fields:
            self.flagged = self.flagged or Flagged(frame, self.fields)
            frame = self.flagged(frame)
        frame.pict_type = 0  # a decoded frame carries its old type, and x264 would obey it
        frame.time_base = self.clock.time_base
        frame.pts = self.clock.at(self.n_written)
        self._mux_sound(before_s=frame.pts * self.clock.time_base)
        self.n_written += 1
        self._mux(self.video.encode(frame))

    def _mux(self, packets: list[av.Packet]) -> None:
        for packet in packets:
            assert packet.pts is not None
            packet.duration = (
                1 if self.clock.pts is None else self.clock.duration(bisect_left(self.clock.pts, packet.pts))
            )
            self.container.mux(packet)

    def _mux_sound(self, before_s: Fraction | None) -> None:
        while self.sound and (before_s is None or _time(self.sound[0].pts, self.sound[0].time_base) <= before_s):
            self.container.mux(self.sound.pop(0))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.stack.__exit__(kind, error, trace)  # closes and deletes the temporary file
            return
        with self.stack:
            assert self.n_written == len(self.clock.pts or range(max(1, self.n_written))), self.n_written
            rest = self.video.encode(None)
            if self.n_written == 1:  # x265 leaves the time of decoding of a lone frame unset
                for packet in rest:
                    packet.dts = packet.pts
            self._mux(rest)
            self._mux_sound(before_s=None)


def _time(at: int | None, time_base: Fraction) -> Fraction:
    assert at is not None, "a packet that holds something has its time"
    return at * time_base


def _clip_ten_bits(frame: av.VideoFrame) -> None:
    """Raw video may hold more than 1023 in its 16 bits; x264 ends the whole process there, by an assertion."""
    for plane in planes(frame):
        if plane.max() > 1023:
            np.minimum(plane, 1023, out=plane)


def _encoded_sound(
    container: av.container.OutputContainer, samples: np.ndarray, rate_hz: int, bitrate: int
) -> list[av.Packet]:
    """A new AAC stream and all its packets; streams must not be added to the container after this."""
    samples = np.atleast_2d(samples)
    layout = ("mono", "stereo")[len(samples) - 1]
    stream = container.add_stream("aac", rate=rate_hz, layout=layout)
    # AAC's limit is 6144 bits for 1024 samples of a channel
    stream.codec_context.bit_rate = min(bitrate, 6 * rate_hz * len(samples))
    container.start_encoding()
    packets = []
    for start in range(0, samples.shape[1], _AAC_FRAME):
        part = np.ascontiguousarray(samples[:, start : start + _AAC_FRAME], np.float32)
        frame = av.AudioFrame.from_ndarray(part, "fltp", layout)
        frame.sample_rate, frame.time_base, frame.pts = rate_hz, Fraction(1, rate_hz), start
        packets += stream.encode(frame)
    return packets + stream.encode(None)


def mux_clip(
    path: Path, video: Path, audio: np.ndarray | None, audio_rate_hz: int = 16_000, audio_bitrate: int = 128_000
) -> None:
    """Mux the copied video packets of one of our files with audio (float32 [n], from time zero) as AAC in an mp4."""
    with (
        replacing(path) as temporary,
        output(temporary) as container,
    ):
        packets = []
        with opened(video) as source:  # closed before anything is written: a full disk is no fault of `video`
            stream = source.streams.video[0]
            copy = container.add_stream_from_template(stream)
            for packet in source.demux(stream):
                if packet.size:
                    packet.stream = copy
                    packets.append(packet)
        if audio is not None:
            packets += _encoded_sound(container, audio, audio_rate_hz, audio_bitrate)
        container.mux(sorted(packets, key=lambda packet: _time(packet.dts, packet.time_base)))


def write_flac(path: Path, samples: np.ndarray | Iterable[np.ndarray], sample_rate_hz: int = 16_000) -> None:
    """Mono 16-bit FLAC from float32 [n] in [-1, 1], whole or in pieces of any lengths."""
    pieces = [samples] if isinstance(samples, np.ndarray) else samples
    with (
        replacing(path) as temporary,
        av.open(str(temporary.absolute()), "w", format="flac", options={"fflags": "+bitexact"}) as container,
    ):
        stream = container.add_stream("flac", rate=sample_rate_hz, layout="mono", format="s16")
        start = 0
        for piece in _of_length(pieces, _FLAC_FRAME):
            pcm = np.rint(piece * 32768).clip(-32768, 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(pcm[None], "s16", "mono")
            frame.sample_rate, frame.time_base, frame.pts = sample_rate_hz, Fraction(1, sample_rate_hz), start
            container.mux(stream.encode(frame))
            start += len(piece)
        container.mux(stream.encode(None))


def _of_length(pieces: Iterable[np.ndarray], length: int) -> Iterator[np.ndarray]:
    """The same samples in pieces of one length; the last may be shorter."""
    held = np.zeros(0, np.float32)
    for piece in pieces:
        held = np.concatenate([held, piece])
        whole = len(held) // length * length
        yield from held[:whole].reshape(-1, length)
        held = held[whole:]
    if len(held):
        yield held
