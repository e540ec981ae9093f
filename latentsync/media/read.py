"""Frames by index in presentation order, on the clock of timing.py. Audio: media/audio.py.

Frames are recognised by their presentation time, so a seek cannot shift them (counted only where there are no times).
A packet without a frame of its own (a hidden reference, a skipped frame) and one that cannot be decoded show the
frame before, as players do; what touches a longer hole (damage.py) is Rejection("unreadable").
"""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import av
import av.error
import numpy as np
from av.video.reformatter import VideoReformatter

from latentsync.ledger.rows import Rejection
from latentsync.media.damage import FRAME_EACH, Decoder, Numbered, Spoiled, is_long, span_s
from latentsync.media.deinterlace import deinterlaced
from latentsync.media.frames import DisplayedFrame, to_rgb
from latentsync.media.opening import opened
from latentsync.media.probe import Timeline, timeline

REORDERED = 16  # frames that a decoder may hold back
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
    return Reader(path, deinterlace=deinterlace).frames(indices)


class Reader:
    """Frames of one video over several calls that go forward: each is decoded once, however far apart key frames are.

    Only a call that starts further back, or much further on, seeks. Where it does, it begins some seconds early:
    streams that refresh gradually have no complete key frame. A frame is the same however it was reached.

    Args:
        path: the video.
        strict: frames that damage spoils are lost (damage.py); else they are shown as decoded, as players do.
        deinterlace: frames that are flagged as interlaced are made progressive (deinterlace.py).
    """

    def __init__(self, path: Path, strict: bool = False, deinterlace: bool = False):
        self.path, self.strict, self.deinterlace = path, strict, deinterlace
        self.timeline = timeline(path)
        self.decoder: Decoder | None = None
        self.held: av.VideoFrame | None = None
        self.shown = -1  # index of `held`, the last frame that was decoded; before there is one, where decoding begins
        self.ahead: Numbered | None = None  # decoded already, to be shown later
        self.damaged = False  # something was wrong with what the decoder has read
        self.lost: set[int] = set()  # frames of the last call, between its first and last, that damage costs
        self.n_concealed = 0  # frames of the last call that are shown although parts of them are missing

    def displayed_frames(self, indices: np.ndarray | None = None) -> Iterator[tuple[int, DisplayedFrame]]:
        """Like `frames`, each as a DisplayedFrame, turned as the file asks."""
        found, turns, converter = self.timeline, self.timeline.info.rotation_deg // 90, VideoReformatter()
        for index, frame in self.frames(indices):
            yield index, DisplayedFrame(frame, turns, found.mirrored, found.pixel_aspect, converter)

    def frames(
        self, indices: np.ndarray | None = None, holes: list[range] | None = None
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        """(index, frame) of the wanted indices, sorted, each once; None: all.

        Args:
            indices: wanted frames.
            holes: long holes are added to it, and wanted frames in them left out.

        Raises:
            Rejection: a wanted frame lies in a long hole, and `holes` is None.
        """
        n_frames = len(self.timeline.pts)
        wanted = np.arange(n_frames) if indices is None else np.unique(np.asarray(indices))
        self.lost, self.n_concealed = set(), 0
        if len(wanted) == 0:
            return
        if wanted[0] < 0 or wanted[-1] >= n_frames:
            raise ValueError(f"frames {wanted[0]} to {wanted[-1]} asked of {self.path}, which has {n_frames}")
        whole = False
        try:
            yield from self._wanted(wanted, holes)
            whole = True
        finally:
            self.lost = {index for index in self.lost if wanted[0] <= index <= wanted[-1]}
            # Given up in the middle, or damaged on the way: the next call seeks, as it would in another process.
            if self.damaged or not whole:
                self.decoder, self.damaged = None, False

    def _wanted(self, wanted: np.ndarray, holes: list[range] | None) -> Iterator[tuple[int, av.VideoFrame]]:
        position, goes_on, end, drained = 0, self._go_to(int(wanted[0])), len(self.timeline.pts), False
        while position < len(wanted):
            if self.held is not None and wanted[position] == self.shown:
                yield self.shown, self.held
                position += 1
                continue
            following = self._following()
            index, frame = following or (end, None)
            if following is not None and frame is None:
                if goes_on and position == 0:  # another process would begin nearer
                    self._seek_before(int(wanted[0]))
                    goes_on = False
                    continue
                self.lost.add(index)
                if index > wanted[-1] + REORDERED and not drained:
                    # Nothing that is wanted is still to come but what the decoder holds back. Reading on up to the next
                    # whole frame would take the time of the whole file for every call within a long hole.
                    end, drained = index, True
                    self.ahead = self._drained()
                continue
            self.lost.discard(index)
            upto = int(np.searchsorted(wanted, index))
            if upto > position:
                yield from self._in_hole(wanted[position:upto], range(self.shown + 1, index), frame, holes)
                position = upto
            if frame is None:
                return
            if position == len(wanted):
                self.ahead = following
                return
            self.n_concealed += bool(index >= wanted[0] and frame.is_corrupt)
            self.shown, self.held = index, frame

    def _in_hole(
        self, wanted: np.ndarray, hole: range, frame: av.VideoFrame | None, holes: list[range] | None
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        """The frame before, or at the beginning the next one, for each wanted frame in a hole that is short."""
        if is_long(self.timeline, hole):
            if holes is not None:
                holes.append(hole)
                return
            start_s, stop_s = span_s(self.timeline, hole)
            raise Rejection("unreadable", f"no frame can be decoded between {start_s:.2f} and {stop_s:.2f} s")
        shown = frame if self.held is None else self.held
        if shown is None:
            raise Rejection("unreadable", f"no frame can be decoded from frame {wanted[0]} of {hole.stop} on")
        for index in wanted:
            yield int(index), shown

    def _go_to(self, first: int) -> bool:
        """Be where frame `first` is reached by decoding on; True if the decoder of the last call goes on."""
        reach = round(_FORWARD_S * self.timeline.info.fps) + 1
        if self.decoder is not None and self.shown <= first <= self.shown + reach:
            return True
        self._seek_before(first)
        return False

    def _seek_before(self, first: int) -> None:
        early = self.timeline.pts[first] - int(_PREROLL_S / self.timeline.time_base)
        begin = int(np.searchsorted(self.timeline.pts, early))
        if self.deinterlace:  # the frame before belongs to what a frame is made of, however long it is shown
            begin = min(begin, max(0, first - 1))
        decoded = _decoded(self.path, self.timeline, begin, self.strict)
        self.decoder = deinterlaced(decoded) if self.deinterlace else decoded
        self.held, self.shown, self.ahead = None, begin - 1, None

    def _following(self) -> Numbered | None:
        if self.ahead is not None:
            following, self.ahead = self.ahead, None
            return following
        assert self.decoder is not None
        following = next(self.decoder, None)
        self.damaged |= following is not None and (following[1] is None or following[1].is_corrupt)
        return following

    def _drained(self) -> Numbered | None:
        assert self.decoder is not None
        try:
            return self.decoder.send(True)
        except StopIteration:
            return None


def _decoded(path: Path, found: Timeline, first: int, strict: bool, back_s: float = _FORWARD_S) -> Decoder:
    """Frames from a key frame at or before `first` on, each with its index in presentation order; None: it is lost.

    A lost frame is reported as soon as its packet fails, which may be some frames early. Answered with True, the
    decoder only gives the frames that it holds back. `back_s`: how much earlier to try next if no key frame is found.
    """
    if found.counted or len(found.parts) > 1:  # the same time may come several times
        first = 0
    with opened(path) as container:
        video = container.streams[found.stream]
        assert isinstance(video, av.VideoStream)
        video.codec_context.thread_count = 1
        video.codec_context.thread_type = "AUTO"
        video.codec_context.copy_opaque = found.counted
        raw = found.raw(first)
        if first > 0:
            container.seek(raw, stream=video)
        packets = container.demux(video)
        head = next(packets)
        leads = head.is_keyframe and head.pts is not None and head.pts <= raw
        if first == 0 or leads:
            yield from _numbered(chain([head], packets), found, strict)
            return
    # No key frame is marked there, or it is broken: further back, and at last from the start.
    earlier = found.pts[first] - int(back_s / found.time_base)
    yield from _decoded(path, found, int(np.searchsorted(found.pts, earlier)), strict, 2 * back_s)


def _numbered(packets: Iterator[av.Packet], found: Timeline, strict: bool) -> Decoder:
    last, part, spoiled, damaged, ending = -1, 0, Spoiled(found, strict), False, False
    for number, packet in enumerate(packets):
        if found.counted:
            packet.opaque = number
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            if not packet.size:
                continue
            index = last + 1 if found.counted else found.number(packet.pts, part, last)[0]
            last, damaged = (index, True) if found.counted else (last, damaged)
            if index < 0:
                continue
            spoiled.lost(index, packet.is_keyframe)
            ending = bool((yield index, None))
            if not ending:
                continue
            frames = packet.stream.codec_context.decode(None)
        for frame in frames:
            if found.counted:
                # One packet, one frame. How many frames a decoder dropped after an error shows at the next key frame.
                at = frame.opaque if damaged and frame.key_frame else None
                index = max(last + 1, at) if isinstance(at, int) else last + 1
            else:
                index, part = found.number(frame.pts, part, last)
            if index <= last:
                continue
            if last >= 0 and found.info.video_codec in FRAME_EACH:
                for gone in range(last + 1, index):
                    spoiled.lost(gone, False)
                    yield gone, None
            yield index, None if spoiled.spoils(index, frame) else frame
            last = index
        if ending:
            return


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
