"""Interlaced frames: made progressive by FFmpeg's bwdif, one frame for each at its own time, or written as they are.

Files flag frame by frame whether it consists of two fields, and only flagged frames change; a progressive file costs
the look at a flag. A frame follows from itself and its two neighbours alone, so it is the same however it was reached:
that is why each run of flagged frames has a filter of its own, which is given the frame before it first (what bwdif
makes of its first frame differs from what it makes of the same frame later).
"""

from fractions import Fraction
from typing import Literal

import av
import av.filter

from latentsync.media.damage import Decoder

FieldOrder = Literal["tff", "bff"]
"""Which field is shown first, top or bottom; FFmpeg's names."""
_ANY_CLOCK = Fraction(1, 1000)  # no filter here looks at times


def deinterlaced(frames: Decoder) -> Decoder:
    """The frames, flagged ones without their flag; colours, times and side data stay.

    Frames whose numbers do not follow one another, because one between them is lost, are no neighbours.
    """
    run, before, last, answer = None, None, -1, None
    while True:
        try:
            index, frame = frames.send(answer)
        except StopIteration:
            break
        answer = None
        if frame is None:
            answer = yield index, None
            continue
        if before is not None and (index != last + 1 or _kind(frame) != _kind(before)):
            if run is not None:
                yield run.last()
            run, before = None, None
        if run is not None:
            yield run.following(index, frame)
            run = run if frame.interlaced_frame else None
        elif frame.interlaced_frame:
            run = _Run(before, index, frame)
        if not frame.interlaced_frame:
            yield index, frame
        before, last = frame, index
    if run is not None:
        yield run.last()


def _kind(frame: av.VideoFrame) -> tuple[str, int, int]:
    return frame.format.name, frame.width, frame.height


class _Run:
    """Flagged frames that follow one another; the last one waits for the frame after it."""

    def __init__(self, before: av.VideoFrame | None, index: int, frame: av.VideoFrame):
        # where bwdif takes another format, there and back
        back = "format", f"pix_fmts={frame.format.name}"
        self.graph = _graph(frame, ("bwdif", "mode=send_frame:parity=auto:deint=all"), back)
        self.waiting = index, frame
        if before is not None:
            self.graph.vpush(before)
        self.graph.vpush(frame)
        if before is not None:
            self.graph.vpull()

    def following(self, index: int, frame: av.VideoFrame) -> tuple[int, av.VideoFrame]:
        """The frame that waited, now that the one after it is known; that one waits from here on."""
        self.graph.vpush(frame)
        shown = self._pull()
        self.waiting = index, frame
        return shown

    def last(self) -> tuple[int, av.VideoFrame]:
        """The frame that waited; no other follows."""
        self.graph.vpush(None)
        return self._pull()

    def _pull(self) -> tuple[int, av.VideoFrame]:
        index, source = self.waiting
        frame = self.graph.vpull()
        frame.pts, frame.time_base = source.pts, source.time_base
        return index, frame


def field_order(frame: av.VideoFrame) -> FieldOrder:
    """Which field of an interlaced frame is shown first: PyAV does not tell, but lets FFmpeg choose frames by it."""
    graph = _graph(frame, ("select", "eq(interlace_type,TOPFIRST)"))
    graph.vpush(frame)
    try:
        graph.vpull()
    except BlockingIOError:  # not chosen
        return "bff"
    return "tff"


class Flagged:
    """Frames of one size and format flagged as interlaced, which copies of frames no longer are."""

    def __init__(self, frame: av.VideoFrame, order: FieldOrder):
        self.graph = _graph(frame, ("setfield", f"mode={order}"))

    def __call__(self, frame: av.VideoFrame) -> av.VideoFrame:
        """The frame, flagged."""
        self.graph.vpush(frame)
        return self.graph.vpull()


def _graph(frame: av.VideoFrame, *filters: tuple[str, str]) -> av.filter.Graph:
    """Filters in a row, for frames like this one; one thread."""
    graph = av.filter.Graph()
    graph.threads = 1
    first = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=_ANY_CLOCK)
    graph.link_nodes(first, *(graph.add(*one) for one in filters), graph.add("buffersink")).configure()
    return graph
