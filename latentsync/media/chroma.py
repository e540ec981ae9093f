"""The chroma location of 4:2:0 video, which PyAV does not expose, by FFmpeg's bitstream filters.

A filter that sets the location leaves a stream unchanged if it had that location before. Nothing is decoded.
"""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import av
import av.error
import av.stream
from av.bitstream import BitStreamFilterContext

from latentsync.media.opening import opened
from latentsync.media.probe import timeline


class _Filter(NamedTuple):
    """How the location is set in the streams of a codec."""

    chain: str
    """Filters; the last one takes the option."""
    option: str
    values: Mapping[str, int]
    """Value of the option -> the number of the location in H.264 and HEVC (E.2.1), x264 and x265."""


_VUI = {str(number): number for number in range(1, 6)}  # 0, left, is the default
_FILTERS = {
    "h264": _Filter("h264_mp4toannexb,h264_metadata", "chroma_sample_loc_type", _VUI),
    "hevc": _Filter("hevc_mp4toannexb,hevc_metadata", "chroma_sample_loc_type", _VUI),
    "av1": _Filter("av1_metadata", "chroma_sample_position", {"colocated": 2}),
}


def chroma_location(path: Path) -> int | None:
    """The location of a video's chroma: 1 centre, 2 top left, 3 top, 4 bottom left, 5 bottom.

    None: left, as usual, or not said.
    """
    stat = path.stat()
    return _location(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=8)
def _location(path: Path, size: int, mtime_ns: int) -> int | None:
    found = timeline(path)
    how = _FILTERS.get(found.info.video_codec)
    if how is None:
        return None
    with opened(path) as container:
        video = container.streams[found.stream]
        first = next((bytes(packet) for packet in container.demux(video) if packet.is_keyframe), b"")
        try:
            same = _filtered(how.chain, video, first)
            for value, number in how.values.items():
                if _filtered(f"{how.chain}={how.option}={value}", video, first) == same:
                    return number
        except av.error.InvalidDataError:  # decoders are more patient with a damaged header than filters are
            pass
    return None


def _filtered(chain: str, video: av.stream.Stream, packet: bytes) -> bytes:
    return b"".join(bytes(one) for one in BitStreamFilterContext(chain, video).filter(av.Packet(packet)))
