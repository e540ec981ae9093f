"""The codecs that videos are written with, the pixel formats they take, and the HDR10 light that they carry along."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, get_args

import av
import numpy as np

from latentsync.config import CodecName
from latentsync.media.deinterlace import FieldOrder
from latentsync.media.frames import colour_of, has_alpha

# x264's macroblock tree reads memory that it never wrote (in its assembly; found by filling the heap through
# MALLOC_PERTURB_), so the same frames now and then gave other bytes. Without it, 22 files were equal under 12 fillings.
_X264 = "mbtree=0"
_FIELDS: dict[FieldOrder, str] = {"tff": "tt", "bff": "bb"}  # as containers call them
_X265 = "log-level=none:open-gop=0"  # parts of a video are joined at key frames, and nothing may refer across one


@dataclass(frozen=True)
class Codec:
    """One row of the table of codecs."""

    encoder: str
    """FFmpeg's name."""
    suffix: str
    """Of the file, which also says the container."""
    tag: str | None
    """FourCC in the container; None: the usual one."""
    depths: Sequence[str]
    """Ends of the pixel formats it takes: "" for 8 bits, "10le" for 10."""
    chroma: Sequence[str]
    """Chroma it takes, the preferred one first."""
    full_range: bool
    """Whether it takes yuvj420p and the like."""
    limited: bool
    """Whether its files cannot say that the range is full, so that they are written in limited range."""
    alpha: bool
    """Whether it keeps transparency."""
    interlaced: bool
    """Whether it is written with fields where the source has them."""
    meaning: str


_8_10, _ALL = ("", "10le"), ("420", "422", "444")
# fmt: off
CODECS: dict[CodecName, Codec] = {
    "h264": Codec(
        "libx264", ".mp4", None, _8_10, _ALL, full_range=True, limited=False, alpha=False, interlaced=True,
        meaning="plays everywhere, in its own depth",
    ),
    "hevc10": Codec(
        "libx265", ".mp4", "hvc1", ("10le",), _ALL, full_range=False, limited=False, alpha=False, interlaced=False,
        meaning="10 bits, HDR10",
    ),
    "prores": Codec(
        "prores_ks", ".mov", None, ("10le",), _ALL[1:], full_range=False, limited=True, alpha=True, interlaced=True,
        meaning="ProRes 422 HQ or 4444",
    ),
    "lossless": Codec(
        "libx264", ".mp4", None, _8_10, _ALL, full_range=True, limited=False, alpha=False, interlaced=True,
        meaning="H.264 without loss; large",
    ),
}
# fmt: on
assert tuple(CODECS) == get_args(CodecName)


def output_format(width: int, height: int, wanted: str, codec: CodecName = "h264") -> str:
    """The pixel format of a written video: `wanted` where the codec can write it at this size.

    Otherwise the one with its chroma (4:2:0 where that is unknown), depth (10 bits for more than 8) and transparency,
    as far as the codec takes them. 4:2:0 and 4:2:2 need even sides, so odd ones become 4:4:4, as do transparent ones.
    """
    takes, like = CODECS[codec], av.VideoFormat(wanted)
    full = wanted.startswith("yuvj")
    chroma = {(16, 16): "444", (8, 16): "422"}.get((like.chroma_width(16), like.chroma_height(16)), "420")
    first, *others = like.components
    if like.is_rgb or len(others) < 2:
        chroma = "420"
    chroma = chroma if chroma in takes.chroma else takes.chroma[0]
    if (width % 2 and chroma != "444") or (height % 2 and chroma == "420"):
        chroma = "444"
    alpha = takes.alpha and has_alpha(like)
    chroma = "444" if alpha else chroma
    depth = "10le" if first.bits > 8 else ""
    depth = depth if depth in takes.depths else takes.depths[-1]
    return f"yuv{'a' if alpha else ''}{'j' if full and takes.full_range else ''}{chroma}p{depth}"


def options(
    codec: CodecName,
    crf: int,
    preset: str,
    threads: int,
    pix_fmt: str,
    light: str,
    fields: FieldOrder | None = None,
    chroma: int | None = None,
) -> dict[str, str]:
    """Options of the encoder; `light`: what `hdr_light` says; `fields`: of interlaced video; `chroma`: of chroma.py."""
    said = light + (f":chromaloc={chroma}" if chroma is not None and "420" in pix_fmt else "")
    interlaced = {"flags": "+ildct+ilme", "field_order": _FIELDS[fields]} if fields else {}
    if codec == "prores":
        return interlaced | {"profile": "4" if "444" in pix_fmt else "3", "vendor": "apl0"}
    if codec == "hevc10":
        quality = {"crf": str(crf)} if crf else {}
        lossless = "" if crf else ":lossless=1"
        return quality | {"preset": preset, "x265-params": f"{_X265}:pools={threads}{lossless}{said}"}
    # crf 0 loses a little of ten bits, qp 0 nothing
    quality = {"crf": str(crf)} if crf and codec == "h264" else {"qp": "0"}
    said += f":{fields}=1" if fields else ""
    return quality | interlaced | {"preset": preset, "x264-params": _X264 + _of_x264(said)}


def _of_x264(said: str) -> str:
    return said.replace(":master-display", ":mastering-display").replace(":max-cll", ":cll")


class ColourTags(NamedTuple):
    """What a file says about its colours: values of AVColorSpace, AVColorRange, AVColorPrimaries and so on."""

    space: int
    range: int
    primaries: int
    transfer: int


BT709 = ColourTags(1, 1, 1, 1)  # limited range
_UNKNOWN = 2  # of primaries and transfer


def colour_tags(like: av.VideoFrame | None, codec: CodecName = "h264") -> ColourTags:
    """The tags of a file whose frames come from ones like this: its own, BT.709 in limited range for RGB or None."""
    found = _tags(like)
    return found._replace(range=BT709.range) if CODECS[codec].limited else found


def _tags(like: av.VideoFrame | None) -> ColourTags:
    if like is None:
        return BT709
    primaries, transfer = int(like.color_primaries), int(like.color_trc)
    if like.format.is_rgb:  # written as YUV, which has no matrix of its own yet
        primaries = BT709.primaries if primaries == _UNKNOWN else primaries
        transfer = BT709.transfer if transfer == _UNKNOWN else transfer
        return ColourTags(BT709.space, BT709.range, primaries, transfer)
    return ColourTags(int(like.colorspace), int(like.color_range), primaries, transfer)


def needs_range(frame: av.VideoFrame, tags: ColourTags) -> bool:
    """Whether a frame is in full range and the file with these tags is not."""
    return colour_of(frame)[1] and tags.range == BT709.range


def hdr_light(frame: av.VideoFrame) -> str:
    """HDR10's mastering display and content light of a decoded frame, as x265's parameters; empty without them.

    PyAV cannot write them into the container, so they go into the stream, where players read them too.

    Chromaticities are in units of 0.00002 and luminances in 0.0001 cd/m2, as SEI messages hold them (HEVC, D.3.28).
    """
    said, display = "", frame.side_data.get("MASTERING_DISPLAY_METADATA")
    if display is not None:
        numbers = np.frombuffer(bytes(display), np.int32)
        # AVMasteringDisplayMetadata: fractions (x, y of red, green, blue, white; luminance from, to), then two flags
        values = numbers[:20:2] / np.maximum(numbers[1:20:2], 1)
        if numbers[20:22].all():
            xy = [f"({x},{y})" for x, y in np.rint(values[:8] * 50_000).astype(int).reshape(4, 2).tolist()]
            low, high = np.rint(values[8:] * 10_000).astype(int).tolist()
            said += f":master-display=G{xy[1]}B{xy[2]}R{xy[0]}WP{xy[3]}L({high},{low})"
    light = frame.side_data.get("CONTENT_LIGHT_LEVEL")
    if light is not None:
        most, mean = np.frombuffer(bytes(light), np.uint32)[:2].tolist()
        said += f":max-cll={most},{mean}"
    return said
