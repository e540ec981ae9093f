"""What a video file says about itself: properties of its streams, presentation times and time zero, from its packets.

Only the first frame is decoded (its presentation time is time zero, and it proves that the file can be decoded).
Every way a file can be broken ends in Rejection("unreadable", <one sentence>). What is wrong with the machine or the
network is an OSError instead: a verdict would be remembered for ever, a job that fails tries the file again.
"""

import errno
import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import cast

import av
import av.container
import av.error
import av.stream
import numpy as np

from latentsync.ledger.rows import Rejection
from latentsync.media.boxes import refuse_absurd_index

# A container may declare a little more than it holds (rounded durations, audio that ends later); more is a cut file.
_MISSING_S = 1.0
# FFmpeg says these of broken contents too (measured on 1,300 damaged files: Matroska, ASF and mov, in this order).
_ALSO_CONTENT = {errno.EIO, errno.EPERM, errno.ENOMEM}
_PIECE = 1 << 24


@dataclass(frozen=True)
class MediaInfo:
    """The columns that `probe` adds to a row; ledger/columns.py describes them."""

    width: int
    height: int
    rotation_deg: int
    fps: float
    n_frames: int
    duration_s: float
    video_codec: str
    pix_fmt: str
    interlaced: bool
    has_audio: bool
    audio_rate_hz: int | None


@dataclass(frozen=True)
class Timeline:
    """A video stream as it is displayed. Times are integers in `time_base`."""

    stream: int  # index of the video stream in the container
    audio_stream: int | None  # index of its audio stream
    pts: np.ndarray  # int64 [n], strictly increasing presentation times of the displayed frames; pts[0] is time zero
    end_pts: int  # end of the last frame
    time_base: Fraction
    counted: (
        bool  # no usable times (AVI of Xvid or H.264): frame i is the i-th frame that a decoder gives from the start
    )
    mirrored: bool  # left-right, before it is turned by info.rotation_deg
    complaint: str  # empty, or a sentence that says what is missing from the file
    info: MediaInfo

    @property
    def zero_s(self) -> Fraction:
        """Time zero on the container's clock, exact."""
        return int(self.pts[0]) * self.time_base


PLAYLISTS = frozenset("concat dash hls imf".split())  # FFmpeg's names


@contextmanager
def opened(path: Path) -> Iterator[av.container.InputContainer]:
    """An input container; whatever FFmpeg finds wrong with it becomes Rejection("unreadable"), see `verdict`.

    The absolute path keeps a colon in a name from being read as a protocol, and the whitelist keeps a playlist that
    calls itself .mp4 from opening anything but local files. Playlists are refused: FFmpeg would read the files that
    they name, and the user who supplied one may not be allowed to. Titles that are not UTF-8 are no fault.
    """
    path = Path(path).absolute()
    try:
        with av.open(str(path), options={"protocol_whitelist": "file"}, metadata_errors="replace") as container:
            if container.format.name in PLAYLISTS:
                raise Rejection("unreadable", "this is a playlist, not a video or audio")
            yield container
    except av.error.FFmpegError as error:
        raise verdict(path, error) from error


def verdict(path: Path, error: OSError | av.error.FFmpegError) -> Rejection:
    """The Rejection for a file that cannot be opened or read.

    No permission is a verdict, so that one such file does not hold up all the others; a touched file is a new one.

    Raises:
        OSError: the machine or the network is at fault, and the file may be whole.
    """
    if isinstance(error, FileNotFoundError | NotADirectoryError) and _has_neighbours(path):
        return Rejection("unreadable", f"the file cannot be opened: {error.strerror}")
    if error.errno == errno.ELOOP:
        return Rejection("unreadable", "this is a link that leads back to itself")
    if error.errno == errno.EACCES and os.path.isdir(path):
        return Rejection(
            "unreadable", "this folder may not be entered, so its content is not known; change its permissions"
        )
    if error.errno == errno.EACCES:
        return Rejection("unreadable", "there is no permission to read it; grant it and touch the file")
    if isinstance(error, av.error.FFmpegError) and error.errno in _ALSO_CONTENT:
        _read_through(path)
    elif isinstance(error, OSError) and not path.is_dir():
        raise _machine_fault(path, error) from error
    return Rejection("unreadable", _sentence(path, error))


def _has_neighbours(path: Path) -> bool:
    """Whether its folder holds anything: an empty or missing one looks like a drive that dropped out."""
    try:
        return any(path.parent.iterdir())
    except OSError:
        return False


def _read_through(path: Path) -> None:
    """Read a file to its end: what FFmpeg calls an error of input and the system reads is broken content."""
    try:
        with open(path, "rb") as file:
            while file.read(_PIECE):
                pass
    except OSError as error:
        raise _machine_fault(path, error) from error


def _machine_fault(path: Path, error: OSError) -> OSError:
    message = f"{error.strerror}: a fault of the machine or the network, not noted against the file; run again"
    return OSError(error.errno, message, str(path))


def _sentence(path: Path, error: OSError | av.error.FFmpegError) -> str:
    if path.is_dir():
        return "this is a folder, not a file"
    if path.is_file() and path.stat().st_size == 0:
        return "the file is empty"
    if isinstance(error, av.error.InvalidDataError) and path.is_file():
        with open(path, "rb") as file:
            if file.read(8)[4:] == b"ftyp":
                return "it begins as an mp4, but its index is missing or broken, as in a file that is cut off"
    return f"FFmpeg cannot read it: {error.strerror}"


def probe_media(path: Path) -> MediaInfo:
    """Facts of a video file.

    Raises:
        Rejection: "unreadable" the file is not a video, has no frame that can be decoded, or is cut off.
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
        index, first = video.index, _first_picture(container, video)
    with opened(path) as container:
        return _demux(container, cast(av.VideoStream, container.streams[index]), first)


def _video_stream(container: av.container.InputContainer) -> av.VideoStream:
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not streams:
        raise Rejection("unreadable", "there is no video stream")
    if container.format.name.endswith("_pipe") or container.format.name == "image2":
        raise Rejection("unreadable", "this is a still image, not a video")
    if streams[0].codec_context is None:
        raise Rejection("unreadable", "there is no decoder for its video stream")
    return streams[0]


def _first_picture(container: av.container.InputContainer, video: av.VideoStream) -> av.VideoFrame:
    video.codec_context.thread_count = 1
    try:
        for frame in container.decode(video):
            return frame
    except av.error.InvalidDataError:  # the container could be read, so it is not its index that is broken
        pass
    raise Rejection("unreadable", "no frame of it can be decoded")


def _demux(container: av.container.InputContainer, video: av.VideoStream, first: av.VideoFrame) -> Timeline:
    audio = [s for s in container.streams.audio if s.codec_context is not None]
    shown, n_packets, cut = [], 0, False
    end_s, with_sound = Fraction(0), set()
    for packet in container.demux([video, *audio]):
        if not packet.size:  # the empty packet that ends each stream
            continue
        if packet.stream is video:
            n_packets += 1
            if not packet.is_discard:  # an edit list hides the others
                shown.append((packet.pts, packet.duration or 0))
        else:
            with_sound.add(packet.stream.index)
        cut |= packet.is_corrupt
        if packet.pts is not None:
            end_s = max(end_s, (packet.pts + (packet.duration or 0)) * packet.time_base)
    # AVI keeps the order of decoding alone; what the demuxer calls pts there is wrong where there may be B-frames.
    assert video.time_base is not None
    reorders = video.codec_context.codec.reorder
    counted = (container.format.name == "avi" and reorders) or any(pts is None for pts, _ in shown)
    if counted:
        step = round(1 / (video.time_base * (video.guessed_rate or 25))) or 1
        shown = [(index * step, step) for index in range(len(shown))]
    else:
        # Frames before the first one that decodes (the leading frames of an open GOP) are never shown.
        shown = sorted({pts: duration for pts, duration in shown if pts >= first.pts}.items())
    if not shown:
        raise Rejection("unreadable", "no frame of it has a time")
    pts = np.array([pts for pts, _ in shown], np.int64)
    end_pts = _end(pts, shown[-1][1], video)
    complaint = _missing(container, video, n_packets, float(end_s), cut)
    turns, mirrored = orientation(display_matrix(first))
    span_s = float((pts[-1] - pts[0]) * video.time_base)
    sound = next((s for s in audio if s.index in with_sound), None)
    info = MediaInfo(
        width=first.height if turns % 2 else first.width,
        height=first.width if turns % 2 else first.height,
        rotation_deg=90 * turns,
        fps=_rate(video, (len(pts) - 1) / span_s if span_s else None),
        n_frames=len(pts),
        duration_s=round(float((end_pts - pts[0]) * video.time_base), 6),
        video_codec=video.codec_context.codec.canonical_name,
        pix_fmt=first.format.name,
        interlaced=first.interlaced_frame,
        has_audio=sound is not None,
        audio_rate_hz=sound.codec_context.sample_rate if sound else None,
    )
    return Timeline(
        stream=video.index,
        audio_stream=sound.index if sound else None,
        pts=pts,
        end_pts=end_pts,
        time_base=Fraction(video.time_base),
        counted=counted,
        mirrored=mirrored,
        complaint=complaint,
        info=info,
    )


def _end(pts: np.ndarray, last_duration: int, video: av.VideoStream) -> int:
    """End of the last frame: its own duration, or the usual distance; never beyond the end that an edit list sets."""
    assert video.time_base is not None
    usual = int(np.median(np.diff(pts))) if len(pts) > 1 else 0
    fallback = round(1 / (video.time_base * (video.guessed_rate or 25)))
    end = int(pts[-1]) + (last_duration or usual or fallback or 1)
    if video.duration and video.start_time is not None and video.start_time + video.duration > pts[-1]:
        end = min(end, video.start_time + video.duration)
    return end


def _rate(video: av.VideoStream, mean: float | None) -> float:
    """The nominal rate; the mean where the guess is far from it (some containers only know their clock)."""
    guess = float(video.guessed_rate or video.average_rate or 0)
    if mean is not None and not mean / 2 <= guess <= 2 * mean:
        guess = mean
    return round(guess, 6)


def _missing(
    container: av.container.InputContainer, video: av.VideoStream, n_packets: int, end_s: float, cut: bool
) -> str:
    """A sentence on what the container declares and the file does not hold; empty if all is there."""
    # An mp4's count of frames includes those that an edit list trims away; its index, as FFmpeg keeps it, does not.
    declared = len(video.index_entries) if "mp4" in container.format.name else video.frames
    if n_packets < declared:
        return f"cut off: {n_packets} of {declared} frames"
    if container.duration:
        declared_s = (container.duration + (container.start_time or 0)) / av.time_base
        if end_s < declared_s - max(_MISSING_S, 0.02 * declared_s):
            return f"cut off: {end_s:.1f} of {declared_s:.1f} s"
    return "cut off: the last packet is not whole" if cut else ""


def display_matrix(frame: av.VideoFrame) -> tuple[int, ...] | None:
    """The nine numbers of a frame's display matrix in FFmpeg's layout, None if it has none."""
    data = frame.side_data.get("DISPLAYMATRIX")
    return tuple(int(v) for v in np.frombuffer(bytes(data), np.int32)) if data is not None else None


def orientation(matrix: tuple[int, ...] | None) -> tuple[int, bool]:
    """A display matrix as (quarter turns counter-clockwise, mirrored left-right before turning).

    Angles that are no quarter turn go to the nearest one, as players do.
    """
    if matrix is None:
        return 0, False
    a, b, _, c, d = matrix[:5]
    mirrored = a * d - b * c < 0
    if mirrored:
        a, b = -a, -b
    angle = np.degrees(np.arctan2(-b, a))  # rows of the matrix are images of the axes, y points down
    return int(np.rint(angle / 90)) % 4, bool(mirrored)
