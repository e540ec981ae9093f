"""Read a video in the order of the result, and write the result like its source: size, format, frame times, audio."""

from collections.abc import Iterator, Mapping
from fractions import Fraction
from itertools import repeat
from pathlib import Path

import av
import numpy as np
import torch
from av.video.stream import VideoStream

from latentsync.config import CodecName, Generate
from latentsync.generation import timeline
from latentsync.generation.audio import DrivingAudio
from latentsync.generation.marking import Overlay
from latentsync.media import probe
from latentsync.media.chroma import chroma_location
from latentsync.media.codecs import colour_tags, needs_range
from latentsync.media.join import join
from latentsync.media.opening import opened
from latentsync.media.read import read_video_frames
from latentsync.media.write import FrameClock, VideoWriter

BEST_CRF, WORST_CRF = 13, 28  # of `matching_crf`; the worst keeps unchanged areas above 43 dB on all clips
THRIFT = {"hevc": 1.3, "vp9": 1.3, "av1": 1.6}  # how much more a bit of other codecs says than one of H.264
BACKWARDS_BLOCK = 32  # frames held at once while the video runs backwards


def in_order(video: Path, order: np.ndarray, deinterlace: bool = False) -> Iterator[av.VideoFrame]:
    """Decoded frames in the written order; backwards in blocks, so that no more than a block is held.

    A frame that is shown several times in a row is decoded once, and yielded as often.
    """
    edges = np.flatnonzero(np.append(True, np.diff(order) != 0))
    times = iter(np.diff(np.append(edges, len(order))).tolist())
    for leg in timeline.legs(order[edges]):
        for frame in _read(video, leg, deinterlace):
            yield from repeat(frame, next(times))


def _read(video: Path, leg: np.ndarray, deinterlace: bool) -> Iterator[av.VideoFrame]:
    if len(leg) > 1 and leg[1] < leg[0]:
        for start in range(0, len(leg), BACKWARDS_BLOCK):
            block = leg[start : start + BACKWARDS_BLOCK][::-1]
            yield from reversed([frame for _, frame in read_video_frames(video, block, deinterlace)])
    else:
        yield from (frame for _, frame in read_video_frames(video, leg, deinterlace))


def yuv(frame: av.VideoFrame, pix_fmt: str, codec: CodecName = "h264") -> av.VideoFrame:
    """The frame in the pixel format and range of the result; almost always it has both already."""
    tags = colour_tags(frame, codec)
    if frame.format.name == pix_fmt and not needs_range(frame, tags):
        return frame
    written = frame.reformat(format=pix_fmt, dst_colorspace=tags.space, dst_color_range=tags.range, threads=1)
    written.colorspace, written.color_range = tags.space, tags.range
    return written


def open_writer(
    out: Path,
    like: av.VideoFrame,
    source: Path,
    times_s: np.ndarray,
    end_s: float,
    crf: int,
    threads: int = 1,
    copy_audio_from: Path | None = None,
    codec: CodecName = "h264",
    overlay: Overlay | None = None,
    tags: Mapping[str, str] | None = None,
) -> VideoWriter:
    """A writer with the source's size, format, pixel aspect, chroma and frame times; a constant rate stays exact."""
    with opened(source) as container:
        stream = container.streams[probe.timeline(source).stream]
        assert isinstance(stream, VideoStream)
        aspect = stream.sample_aspect_ratio
    rate = constant_rate(source, times_s, end_s)
    own_times = {"frame_times": times_s, "end_s": end_s} if rate is None else {}
    return VideoWriter(
        out,
        rate or _nominal(source),
        like.width,
        like.height,
        codec=codec,
        crf=crf,
        threads=threads,
        like=like,
        sample_aspect=aspect,
        chroma_location=chroma_location(source),
        copy_audio_from=copy_audio_from,
        overlay=overlay,
        tags=tags,
        **own_times,
    )


def encoder_threads(cfg: Generate) -> int:
    """As many as keep up with a GPU, which would wait for fewer; on a CPU, where the networks need the cores, two."""
    return cfg.encoder_threads or (8 if torch.cuda.is_available() else 2)


def constant_rate(source: Path, times_s: np.ndarray, end_s: float) -> Fraction | None:
    """The frame rate of a result with these frames, exact; None: the source has none, or the result's frames differ.

    Frames of a slow source are shown as several (`timeline.held`), so the result's rate may be a multiple.
    """
    found = probe.timeline(source)
    steps = np.unique(np.append(np.diff(found.pts), found.end_pts - found.pts[-1]))
    if len(steps) > 1:
        return None
    step = int(steps[0]) * found.time_base
    n_pieces = round(float(step) * len(times_s) / end_s)
    return n_pieces / step


def _nominal(source: Path) -> Fraction:
    return Fraction(probe.timeline(source).info.fps).limit_denominator(1001)


def matching_crf(source: Path) -> int:
    """The CRF that makes a result about twice as large as its source, between BEST_CRF and WORST_CRF.

    Six steps of CRF halve a file, and the bits of a pixel fall with the fourth root of the number of pixels. Fitted to
    clips of 256 x 256 to 1080 x 1920 in H.264, HEVC and MPEG-4 (docs/decisions.md).
    """
    found = probe.timeline(source)
    with opened(source) as container:
        sizes = [packet.size for packet in container.demux(container.streams[found.stream])]
    n_pixels = found.info.width * found.info.height
    bits = 8 * sum(sizes) / (len(found.pts) * n_pixels)
    bits *= (n_pixels / 512**2) ** 0.25 / THRIFT.get(found.info.video_codec, 1.0)
    return int(np.clip(round(15 - 6 * np.log2(max(bits, 1e-6) / 0.1)), BEST_CRF, WORST_CRF))


def join_parts(
    parts: list[Path],
    out: Path,
    source: Path,
    times_s: np.ndarray,
    end_s: float,
    audio: DrivingAudio,
    tags: Mapping[str, str] | None = None,
) -> None:
    """Join parts written by `open_writer` and add the audio; `times_s` and `end_s` are those of the whole result."""
    rate = constant_rate(source, times_s, end_s)
    clock = FrameClock.of(_nominal(source), times_s, end_s) if rate is None else FrameClock.of(rate)
    join(parts, out, clock, audio.track(end_s, out.suffix), tags)
