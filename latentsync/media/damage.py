"""What of a damaged video can be used: the limits, and which frames damage spoils.

A packet that cannot be decoded costs its own frame, and spoils those that are predicted from it: they are drawn on top
of a frame that is not the right one. The next key frame ends that.

Limits
    HOLD_S          Up to so long the frame before is shown where frames are lost; a longer hole is left out.
    HEAL_S          Streams without key frames refresh bit by bit; after so long their frames count as whole.
    MAX_LOST_SHARE  Of the frames of a source; if more are lost, the source is rejected.
"""

import heapq
from collections.abc import Generator, Sequence

import av

from latentsync.ledger.rows import Rejection
from latentsync.media.probe import Timeline

Numbered = tuple[int, av.VideoFrame | None]
"""Index in presentation order, and the frame; None: it is lost."""
Decoder = Generator[Numbered, bool | None, None]
"""Frames in order; a lost one may come some frames early. Answered with True, it gives only what it holds back."""
HOLD_S = 0.5
HEAL_S = 10.0
MAX_LOST_SHARE = 0.8
# Every packet of these has a frame, so a frame that does not come is lost, although nothing says so: decoders of H.265
# drop what refers to a lost frame. Elsewhere a packet may be a hidden reference.
FRAME_EACH = frozenset({"h264", "hevc"})


class Spoiled:
    """Follows the frames as a decoder gives them, and says which of them are spoiled.

    `strict`: every damage spoils what follows. Else only a lost key frame does, from which decoders go on differently
    depending on where they began; other damage is shown as it is decoded, as players do.
    """

    def __init__(self, found: Timeline, strict: bool):
        self.pts, self.strict = found.pts, strict
        self.heals_after = HEAL_S / float(found.time_base)
        self.causes: list[int] = []  # a heap of the frames that were lost or are damaged, and are not healed yet

    def lost(self, index: int, key: bool) -> None:
        """A frame, or one of which others depend wholly (`key`), cannot be decoded."""
        if self.strict or key:
            heapq.heappush(self.causes, index)

    def spoils(self, index: int, frame: av.VideoFrame) -> bool:
        """Whether this frame is spoiled; they come in order."""
        if self.strict and frame.is_corrupt:
            heapq.heappush(self.causes, index)
        whole = frame.key_frame and not frame.is_corrupt
        while self.causes and self.causes[0] < index and (whole or self._is_long_ago(self.causes[0], index)):
            heapq.heappop(self.causes)
        return bool(self.causes) and self.causes[0] <= index

    def _is_long_ago(self, cause: int, index: int) -> bool:
        last = len(self.pts) - 1
        return self.pts[min(index, last)] - self.pts[min(cause, last)] > self.heals_after


def span_s(found: Timeline, frames: range) -> tuple[float, float]:
    """When frames that follow one another begin and end, seconds from time zero."""
    begin = found.pts[max(0, frames.start)]
    end = found.pts[frames.stop] if frames.stop < len(found.pts) else found.end_pts
    start_s, stop_s = (float((int(one) - int(found.pts[0])) * found.time_base) for one in (begin, end))
    return start_s, stop_s


def is_long(found: Timeline, frames: range) -> bool:
    """Whether frames that are lost last longer than the frame before is held."""
    if len(frames) == 0:
        return False
    start_s, stop_s = span_s(found, frames)
    return stop_s - start_s > HOLD_S


def require_little(n_lost: int, n_frames: int, holes: Sequence[range]) -> None:
    """Refuse a source of which too much is lost.

    Raises:
        Rejection: unreadable.
    """
    if n_lost > MAX_LOST_SHARE * n_frames:
        longest = max((len(hole) for hole in holes), default=0)
        raise Rejection(
            "unreadable",
            f"{n_lost} of {n_frames} frames are damaged, up to {longest} in a row; more than {MAX_LOST_SHARE:.0%}",
        )
