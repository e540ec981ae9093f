"""What a video file says about itself: properties of its streams, presentation times and time zero, from its packets.

Only the first frame is decoded (its presentation time is time zero, and it proves that the file can be decoded).
Every way a file can be broken ends in Rejection("unreadable", <one sentence>), and in "not_video" where it is no video.
What is wrong with the machine or the network is an OSError instead: a verdict would be remembered for ever, a job that
fails tries the file again.
"""

import functools
from array import array
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import cast

import av
import av.container
import av.error
import av.stream
import numpy as np

from latentsync.ledger.rows import Rejection
from latentsync.media import clock
from latentsync.media.boxes import refuse_absurd_index
from latentsync.media.display import display_matrix, displayed_size, orientation, pixel_aspect
from latentsync.media.opening import opened, verdict
from latentsync.media.repairs import Repairs
from latentsync.media.tracks import AudioTrack, preferred

# A container may declare a little more than it holds (rounded durations, audio that ends later); more is a cut file.
_MISSING_S = 1.0
_SEARCHED_PX = 2e9  # 40 s of 1080p; decoding so many takes some 5 s
_OUT_OF_ORDER = 16  # frames that a damaged stream may give too late; one that is further back begins the next part


@dataclass(frozen=True)
class MediaInfo:
    """The columns that `probe` adds to a row; ledger/columns.py describes them."""

    width: int
    height: int
    rotation_deg: int
    pixel_aspect: float
    fps: float
    n_frames: int
    duration_s: float
    video_codec: str
    pix_fmt: str
    interlaced: bool
    has_audio: bool
    audio_rate_hz: int | None
    audio_track: int | None
    n_audio_tracks: int
    repairs: Repairs


@dataclass(frozen=True)
class Part:
    """Frames whose times go on without a break: which frame a decoded one is."""

    raw: np.ndarray
    """int64 [m], sorted: presentation times in the file."""
    index: np.ndarray
    """int64 [m]: number of the displayed frame, -1 for one that is not displayed."""


@dataclass(frozen=True)
class Timeline:
    """A video stream as it is displayed. Times are integers in `time_base`, on the clock of clock.py."""

    stream: int  # index of the video stream in the container
    tracks: tuple[AudioTrack, ...]  # audio that can be decoded, the preferred one first
    pts: np.ndarray  # int64 [n], strictly increasing presentation times of the displayed frames; pts[0] is time zero
    end_pts: int  # end of the last frame
    time_base: Fraction
    parts: tuple[Part, ...]
    counted: (
        bool  # no usable times (AVI of Xvid or H.264): frame i is the i-th frame that a decoder gives from the start
    )
    mirrored: bool  # left-right, before it is turned by info.rotation_deg
    size: tuple[int, int]  # (width, height) of the stored frames
    pixel_aspect: Fraction  # width of a stored pixel over its height
    complaint: str  # empty, or a sentence that says what is missing from the file
    info: MediaInfo

    @property
    def zero_s(self) -> Fraction:
        """Time zero on the container's clock, exact."""
        return int(self.pts[0]) * self.time_base

    def raw(self, index: int) -> int:
        """The presentation time in the file of a displayed frame of the first part."""
        if not self.parts:
            return 0
        part = self.parts[0]
        return int(part.raw[np.argmax(part.index == index)])

    def number(self, raw: int | None, part: int, last: int) -> tuple[int, int]:
        """Which displayed frame was decoded: (index, part), the index -1 for a frame that is not displayed.

        Where there is one part, times between two frames are those of the earlier.

        Args:
            raw: its presentation time in the file.
            part: the part of the frame before.
            last: the index of the frame before.
        """
        if raw is None:
            return -1, part
        for later in range(part, len(self.parts)):
            times, index = self.parts[later].raw, self.parts[later].index
            place = int(np.searchsorted(times, raw, side="right")) - 1
            if place < 0 or (len(self.parts) > 1 and times[place] != raw):
                continue
            if len(self.parts) == 1 or int(index[: place + 1].max()) > last - _OUT_OF_ORDER:
                return int(index[place]), later
        return -1, part

    @property
    def audio(self) -> AudioTrack | None:
        """The preferred audio track."""
        return self.tracks[0] if self.tracks else None


def probe_media(path: Path) -> MediaInfo:
    """Facts of a video file.

    Raises:
        Rejection: "not_video" the file holds none; "unreadable" no frame of it can be decoded, or it is cut off.
    """
    found = timeline(path)
    if found.complaint:
        raise Rejection("unreadable", found.complaint)
    return found.info


def timeline(path: Path) -> Timeline:
    """The presentation times of a file, read once per process while the file stays the same."""
    path = Path(path).absolute()
    try:
        stat = path.stat()
    except OSError as error:
        raise verdict(path, error) from error
    if not (S_ISREG(stat.st_mode) or S_ISDIR(stat.st_mode)):  # opening a pipe would wait for ever
        raise Rejection("unreadable", "this is no ordinary file but a pipe, a socket or a device")
    return _timeline(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _timeline(path: Path, size: int, mtime_ns: int) -> Timeline:
    try:
        refuse_absurd_index(path)
    except OSError as error:
        raise verdict(path, error) from error
    with opened(path) as container:
        video = _video_stream(container)
        index, (first, damaged) = video.index, _first_picture(container, video)
    with opened(path) as container:
        return _demux(path, container, cast(av.VideoStream, container.streams[index]), first, damaged)


def _video_stream(container: av.container.InputContainer) -> av.VideoStream:
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not streams:
        raise Rejection("not_video", "there is no video stream in it")
    if container.format.name.endswith("_pipe") or container.format.name == "image2":
        raise Rejection("not_video", "this is a still image")
    if container.format.name == "tty":  # FFmpeg draws any text
        raise Rejection("not_video", "this is a text")
    if streams[0].codec_context is None:
        raise Rejection("unreadable", "there is no decoder for its video stream")
    return streams[0]


def _first_picture(container: av.container.InputContainer, video: av.VideoStream) -> tuple[av.VideoFrame, bool]:
    """The first frame that can be decoded, and whether there is damage before it.

    After damage a key frame is looked for, since what comes before it is spoiled, in _SEARCHED_PX pixels of video.
    """
    video.codec_context.thread_count = 1
    first, damaged, n_pixels = None, False, 0
    for packet in container.demux(video):
        n_pixels += video.codec_context.width * video.codec_context.height
        try:
            frames = packet.decode()
        except av.error.FFmpegError:  # of this packet: the container could be read
            damaged |= first is None
            continue
        for frame in frames:
            if not damaged or (frame.key_frame and not frame.is_corrupt):
                return frame, damaged
            first = first or (None if frame.is_corrupt else frame)
        if n_pixels > _SEARCHED_PX:
            break
    if first is None:
        where = "near its beginning" if n_pixels > _SEARCHED_PX else "of it"
        raise Rejection("unreadable", f"no frame {where} can be decoded")
    return first, damaged


def _demux(
    path: Path, container: av.container.InputContainer, video: av.VideoStream, first: av.VideoFrame, damaged: bool
) -> Timeline:
    decodable = [s for s in container.streams.audio if s.codec_context is not None]
    found, hidden, cut, end_s = packets_of(container, [video, *decodable])
    sounding = [s for s in decodable if s.index in found]
    if video.index not in found:
        raise Rejection("unreadable", "no frame of it has a time")
    packets = found[video.index]
    # AVI keeps the order of decoding alone; what the demuxer calls pts there is wrong where there may be B-frames.
    assert video.time_base is not None
    avi = container.format.name == "avi"
    counted = (avi and video.codec_context.codec.reorder) or bool((packets.pts == clock.UNKNOWN).any())
    step = round(1 / (video.time_base * (video.guessed_rate or 25))) or 1
    beside = found[sounding[0].index] if sounding else None
    n_held = 0
    if avi and (packets.dts != clock.UNKNOWN).all():
        # Empty packets: the frame before is shown again.
        n_held = int(packets.dts.max()) + clock.usual_step(packets) - len(packets.dts)
    if counted:
        known = avi and (packets.dts != clock.UNKNOWN).all() and len(np.unique(packets.dts)) == len(packets.dts)
        counts = np.arange(len(packets.dts), dtype=np.int64) * step
        pts, n_closed = clock.closed(np.sort(packets.dts), packets.time_base, step) if known else (counts, 0)
        divided, parts = clock.Parts(np.zeros(len(pts), np.int64), np.zeros(1, np.int64)), ()
        close, last_duration, n_leading = np.zeros(0, bool), step, 0
    else:
        divided, n_closed = clock.video_parts(packets, beside), 0
        pts, parts, close, last_duration, n_leading = _displayed(packets, divided, first.pts)
    tracks = {}
    for number, stream in enumerate(container.streams.audio, 1):
        if stream in sounding:
            own = clock.audio_parts(found[stream.index], packets, divided, int(pts[0]))
            tracks[stream.index] = AudioTrack.of(stream, number, own)
    track = preferred(path, list(tracks.values()))
    ordered = sorted(tracks.values(), key=lambda one: one is not track)
    n_here = len(packets.pts) + hidden[video.index] + n_held
    complaint = _missing(container, video, n_here, end_s if divided.n_breaks == 0 else None, cut)
    turns, mirrored = orientation(display_matrix(first))
    aspect = pixel_aspect(video, first)
    size = displayed_size(first.width, first.height, aspect)
    span_s = float((pts[-1] - pts[0]) * video.time_base)
    end_pts = _end(pts, last_duration, video, edited=divided.n_breaks == 0)
    repairs = {
        "clock_breaks": n_closed + divided.n_breaks + (track.parts.n_moved if track else 0),
        "stray_times": int((divided.of < 0).sum()),
        "close_frames": int(close.sum()),
        "empty_packets": max(0, n_held) if not n_closed else 0,
        "lost_frames": n_leading if damaged else 0,
    }
    info = MediaInfo(
        width=size[turns % 2],
        height=size[1 - turns % 2],
        rotation_deg=90 * turns,
        pixel_aspect=round(float(aspect), 6),
        fps=_rate(video, (len(pts) - 1) / span_s if span_s else None),
        n_frames=len(pts),
        duration_s=round(float((end_pts - pts[0]) * video.time_base), 6),
        video_codec=video.codec_context.codec.canonical_name,
        pix_fmt=first.format.name,
        interlaced=first.interlaced_frame,
        has_audio=track is not None,
        audio_rate_hz=track.rate_hz if track else None,
        audio_track=track.number if track else None,
        n_audio_tracks=len(container.streams.audio),
        repairs={kind: n for kind, n in repairs.items() if n},
    )
    return Timeline(
        stream=video.index,
        tracks=tuple(ordered),
        pts=pts,
        end_pts=end_pts,
        time_base=Fraction(video.time_base),
        parts=parts,
        counted=counted,
        mirrored=mirrored,
        size=(first.width, first.height),
        pixel_aspect=aspect,
        complaint=complaint,
        info=info,
    )


def packets_of(
    container: av.container.InputContainer, wanted: Sequence[av.stream.Stream]
) -> tuple[Mapping[int, clock.Packets], Mapping[int, int], bool, float]:
    """The displayed packets of each wanted stream that has any, the number of hidden ones, whether the last one of
    a stream is not whole, and the end of the last, seconds.

    All streams are read, since a subtitle may be what lasts longest.
    """
    columns: defaultdict[int, array] = defaultdict(partial(array, "q"))
    indices = {stream.index for stream in wanted}
    hidden: defaultdict[int, int] = defaultdict(int)
    torn, end_s = {}, Fraction(0)
    for place, packet in enumerate(container.demux()):
        if not packet.size:  # the empty packet that ends each stream
            continue
        torn[packet.stream.index] = packet.is_corrupt
        duration = packet.duration or 0
        if packet.pts is not None and packet.time_base is not None:
            end_s = max(end_s, (packet.pts + duration) * packet.time_base)
        if packet.is_discard:  # hidden by an edit list
            hidden[packet.stream.index] += 1
        elif packet.stream.index in indices:
            times = (clock.UNKNOWN if time is None else time for time in (packet.pts, packet.dts))
            columns[packet.stream.index].extend((*times, duration, place))
    found = {}
    for stream in wanted:
        if stream.index in columns:
            table = np.frombuffer(columns[stream.index], np.int64).reshape(-1, 4)
            found[stream.index] = clock.Packets(Fraction(stream.time_base or 1), *table.T.copy())
    return found, hidden, any(torn.values()), float(end_s)


def _displayed(
    packets: clock.Packets, divided: clock.Parts, first_pts: int | None
) -> tuple[np.ndarray, tuple[Part, ...], np.ndarray, int, int]:
    """Times of the displayed frames, the parts that they come from, which frames are too close, the last duration, and
    how many frames come before the first.

    Frames before the first one that decodes (the leading frames of an open GOP) are never shown.
    """
    leading = (divided.of == 0) & (packets.pts < (first_pts or 0))
    kept = np.flatnonzero((divided.of >= 0) & ~leading)
    if not len(kept):
        raise Rejection("unreadable", "no frame of it has a time")
    moved = packets.pts[kept] + divided.shift[divided.of[kept]]
    order = np.argsort(moved, kind="stable")
    kept, moved = kept[order], moved[order]
    repeated = np.diff(moved, prepend=moved[0] - 1) == 0
    close = np.zeros(len(moved), bool)
    close[~repeated] = clock.too_close(moved[~repeated], packets.time_base)
    shown = ~repeated & ~close
    index = np.where(shown, np.cumsum(shown) - 1, -1)
    parts = []
    for number in range(len(divided.shift)):
        inside = np.flatnonzero((divided.of[kept] == number) & ~repeated)
        parts.append(Part(packets.pts[kept[inside]], index[inside]))
    return moved[shown], tuple(parts), close, int(packets.duration[kept[shown][-1]]), int(leading.sum())


def _end(pts: np.ndarray, last_duration: int, video: av.VideoStream, edited: bool) -> int:
    """End of the last frame: its own duration, or the usual distance; never beyond the end that an edit list sets."""
    assert video.time_base is not None
    usual = int(np.median(np.diff(pts))) if len(pts) > 1 else 0
    fallback = round(1 / (video.time_base * (video.guessed_rate or 25)))
    end = int(pts[-1]) + (last_duration or usual or fallback or 1)
    if edited and video.duration and video.start_time is not None and video.start_time + video.duration > pts[-1]:
        end = min(end, video.start_time + video.duration)
    return end


def _rate(video: av.VideoStream, mean: float | None) -> float:
    """The nominal rate; the mean where the guess is far from it (some containers only know their clock)."""
    guess = float(video.guessed_rate or video.average_rate or 0)
    if mean is not None and not mean / 2 <= guess <= 2 * mean:
        guess = mean
    return round(guess, 6)


def _missing(
    container: av.container.InputContainer, video: av.VideoStream, n_packets: int, end_s: float | None, cut: bool
) -> str:
    """A sentence on what the container declares and the file does not hold; empty if all is there.

    `end_s`: when the last packet ends; None: the clock breaks, so that it says nothing.
    """
    # An mp4's count of frames includes those that an edit list trims away; its index, as FFmpeg keeps it, does not.
    declared = len(video.index_entries) if "mp4" in container.format.name else video.frames
    if n_packets < declared:
        return f"cut off: {n_packets} of {declared} frames"
    if container.duration and end_s is not None:
        begins = 0 if "matroska" in container.format.name else container.start_time or 0  # Matroska counts from 0
        declared_s = (container.duration + begins) / av.time_base
        if end_s < declared_s - max(_MISSING_S, 0.02 * declared_s):
            return f"cut off: {end_s:.1f} of {declared_s:.1f} s"
    return "cut off: the last packet is not whole" if cut else ""
