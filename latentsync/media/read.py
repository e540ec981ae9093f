"""Frames by index in presentation order, on the clock of timing.py. Audio: media/audio.py.

Frames are recognised by their presentation time, so a seek cannot shift them (counted only where there are no times).
A packet without a frame of its own (a hidden reference, a skipped frame) shows the frame before it, as players
do; longer holes than _HOLD_S and every decoding error are Rejection("unreadable").
"""

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import av
import av.error
import numpy as np
from av.video.reformatter import VideoReformatter

from latentsync.ledger.rows import Rejection
from latentsync.media.deinterlace import deinterlaced
from latentsync.media.frames import DisplayedFrame, to_rgb
from latentsync.media.opening import opened
from latentsync.media.probe import Timeline, timeline

_HOLD_S = 0.5
_PREROLL_S = 5  # decoded before a place that is sought
_FORWARD_S = 10  # going on is cheaper than seeking, with its pre-roll and the way from a key frame


def frame_times(path: Path) -> tuple[np.ndarray, float]:
    """Presentation times of all frames relative to time zero, float64 [n], and the end of the last frame, seconds."""
    found = timeline(path)
    times = (found.pts - found.pts[0]) * float(found.time_base)
    return times, float((found.end_pts - int(found.pts[0])) * found.time_base)


def read_frames(path: Path, indices: np.ndarray | None = None) -> Iterator[tuple[int, np.ndarray]]:
    """RGB frames as displayed: rotation applied, pixels square.

    Args:
        path: the video.
        indices: wanted frames in presentation order, sorted; a repeated index is yielded once. None: all.

    Yields:
        (index, uint8 [h, w, 3]). If a stream changes its size (calls, broadcasts), so do the frames.
    """
    aspect = timeline(path).pixel_aspect
    for index, frame in read_video_frames(path, indices):
        yield index, to_rgb(frame, aspect=aspect)


def read_video_frames(
    path: Path, indices: np.ndarray | None = None, deinterlace: bool = False
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Like `read_frames`, but frames as decoded: native pixel format and size, rotation not applied.

    `display_matrix(frame)` and `orientation` in media/display.py tell how a frame is to be turned.
    """
    return Reader(path, deinterlace).frames(indices)


class Reader:
    """Frames of one video over several calls that go forward: each is decoded once, however far apart key frames are.

    Only a call that starts further back, or much further on, seeks. Where it does, it begins some seconds early:
    streams that refresh gradually have no complete key frame. A frame is the same however it was reached.

    `deinterlace`: frames that are flagged as interlaced are made progressive, see deinterlace.py.
    """

    def __init__(self, path: Path, deinterlace: bool = False):
        self.path, self.deinterlace = path, deinterlace
        self.timeline = timeline(path)
        self.decoder: Iterator[tuple[int, av.VideoFrame]] | None = None
        self.held: av.VideoFrame | None = None
        self.shown = -1  # index of `held`, the last frame that was decoded
        self.ahead: tuple[int, av.VideoFrame] | None = None  # decoded already, to be shown later
        self.damaged = False  # something was wrong with what the decoder has read

    def displayed_frames(self, indices: np.ndarray | None = None) -> Iterator[tuple[int, DisplayedFrame]]:
        """Like `frames`, each as a DisplayedFrame, turned as the file asks."""
        found, turns, converter = self.timeline, self.timeline.info.rotation_deg // 90, VideoReformatter()
        for index, frame in self.frames(indices):
            yield index, DisplayedFrame(frame, turns, found.mirrored, found.pixel_aspect, converter)

    def frames(self, indices: np.ndarray | None = None) -> Iterator[tuple[int, av.VideoFrame]]:
        """(index, frame) of the wanted indices, sorted, each once; None: all.

        Raises:
            Rejection: a wanted frame is broken; broken frames before them are skipped.
        """
        n_frames = len(self.timeline.pts)
        wanted = np.arange(n_frames) if indices is None else np.unique(np.asarray(indices))
        if len(wanted) == 0:
            return
        if wanted[0] < 0 or wanted[-1] >= n_frames:
            raise ValueError(f"frames {wanted[0]} to {wanted[-1]} asked of {self.path}, which has {n_frames}")
        self._go_to(int(wanted[0]))
        whole = False
        try:
            yield from self._wanted(wanted, n_frames)
            whole = True
        finally:
            # Given up in the middle, or damaged on the way: the next call seeks, as it would in another process.
            if self.damaged or not whole:
                self.decoder, self.damaged = None, False

    def _wanted(self, wanted: np.ndarray, n_frames: int) -> Iterator[tuple[int, av.VideoFrame]]:
        position, sought = 0, False
        while position < len(wanted):
            if self.held is not None and wanted[position] == self.shown:
                yield self.shown, self.held
                position += 1
                continue
            try:
                following = self._following()
            except Rejection:
                self.damaged = True
                if self.shown >= wanted[0] or sought:
                    raise
                sought = True
                self._seek(int(wanted[0]))
                continue
            if following is None:  # no frame of its own up to the end
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
                raise Rejection("unreadable", f"no frame can be decoded from frame {wanted[0]} of {n_frames} on")
            _check_hole(self.timeline, self.shown, n_frames)
            for index in wanted[position:]:
                yield int(index), self.held

    def _go_to(self, first: int) -> None:
        reach = round(_FORWARD_S * self.timeline.info.fps) + 1
        if self.decoder is None or not self.shown <= first <= self.shown + reach:
            early = self.timeline.pts[first] - int(_PREROLL_S / self.timeline.time_base)
            index = int(np.searchsorted(self.timeline.pts, early))
            # The frame before belongs to what a deinterlaced frame is made of, however long it is shown.
            self._seek(min(index, max(0, first - 1)) if self.deinterlace else index)

    def _seek(self, index: int) -> None:
        frames = _decoded(self.path, self.timeline, index)
        self.decoder = deinterlaced(frames) if self.deinterlace else frames
        self.held, self.shown, self.ahead = None, -1, None

    def _following(self) -> tuple[int, av.VideoFrame] | None:
        if self.ahead is not None:
            following, self.ahead = self.ahead, None
            return following
        assert self.decoder is not None
        following = next(self.decoder, None)
        self.damaged |= following is not None and following[1].is_corrupt
        return following


def _check_hole(found: Timeline, shown: int, index: int) -> None:
    """Frames shown + 1 to index - 1 have no frame: reject the source if that lasts too long."""
    if index - shown < 2:
        return
    start_s, stop_s = (
        float((int(p) - int(found.pts[0])) * found.time_base)
        for p in (found.pts[shown + 1], found.pts[index] if index < len(found.pts) else found.end_pts)
    )
    if stop_s - start_s > _HOLD_S:
        raise Rejection("unreadable", f"no frame can be decoded between {start_s:.2f} and {stop_s:.2f} s")


def _decoded(path: Path, found: Timeline, first: int) -> Iterator[tuple[int, av.VideoFrame]]:
    """Frames from a key frame at or before `first` on, each with its index in presentation order."""
    with opened(path) as container:
        video = container.streams[found.stream]
        video.codec_context.thread_count = 1
        video.codec_context.thread_type = "AUTO"
        if found.counted or len(found.parts) > 1:  # the same time may come several times
            first = 0
        raw = found.raw(first)
        if first > 0:
            container.seek(raw, stream=video)
        packets = container.demux(video)
        head = next(packets)
        leads = head.is_keyframe and head.pts is not None and head.pts <= raw
        if first == 0 or leads:
            yield from _numbered(chain([head], packets), found)
            return
    yield from _decoded(path, found, 0)  # seeking led nowhere useful: decode from the start


def _numbered(packets: Iterable[av.Packet], found: Timeline) -> Iterator[tuple[int, av.VideoFrame]]:
    last, part = -1, 0
    for packet in packets:
        for frame in _decode(packet, found):
            if found.counted:
                index = last + 1
            else:
                index, part = found.number(frame.pts, part, last)
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
        assert rate is not None and video.time_base is not None
        if start > 0:
            container.seek(zero + round(start / rate / video.time_base), stream=video)
        frames: list[np.ndarray] = []
        if start == stop:
            return np.empty((0, video.height, video.width, 3), np.uint8)
        for frame in container.decode(video):
            assert frame.pts is not None
            index = round((frame.pts - zero) * video.time_base * rate)
            if index >= start:
                assert index == start + len(frames), (path, index, start, len(frames))
                frames.append(to_rgb(frame))
            if index == stop - 1:
                return np.stack(frames)
    raise ValueError(f"{path} ends before frame {stop}; delete it and run again")
