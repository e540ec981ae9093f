"""Read a video in the order of the result, and write the result like its source: size, format, frame times, audio."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.stream import VideoStream

from latentsync.generation import timeline
from latentsync.generation.audio import DrivingAudio
from latentsync.media import probe
from latentsync.media.read import read_video_frames
from latentsync.media.write import VideoWriter

BACKWARDS_BLOCK = 32  # frames held at once while the video runs backwards


def in_order(video: Path, order: np.ndarray) -> Iterator[av.VideoFrame]:
    """Decoded frames in the written order; backwards in blocks, so that no more than a block is held."""
    for leg in timeline.legs(order):
        if len(leg) > 1 and leg[1] < leg[0]:
            for start in range(0, len(leg), BACKWARDS_BLOCK):
                block = leg[start : start + BACKWARDS_BLOCK][::-1]
                yield from reversed([frame for _, frame in read_video_frames(video, block)])
        else:
            yield from (frame for _, frame in read_video_frames(video, leg))


def yuv(frame: av.VideoFrame, pix_fmt: str) -> av.VideoFrame:
    """The frame in the pixel format of the result; almost always it has that format already."""
    if frame.format.name == pix_fmt:
        return frame
    return frame.reformat(format=pix_fmt, dst_colorspace=frame.colorspace, dst_color_range=frame.color_range, threads=1)


def open_writer(
    out: Path,
    like: av.VideoFrame,
    source: Path,
    times_s: np.ndarray,
    end_s: float,
    crf: int,
    audio: DrivingAudio | None = None,
) -> VideoWriter:
    """A writer with the source's size, format, pixel aspect and frame times; a constant rate stays exact.

    Audio that is not copied is cut or padded with silence to the length of the video, to the sample.
    """
    found = probe.timeline(source)
    with probe.opened(source) as container:
        stream = container.streams[found.stream]
        assert isinstance(stream, VideoStream)
        aspect = stream.sample_aspect_ratio
    steps = np.unique(np.append(np.diff(found.pts), found.end_pts - found.pts[-1]))
    constant = len(steps) == 1
    rate = 1 / (int(steps[0]) * found.time_base) if constant else Fraction(found.info.fps).limit_denominator(1001)
    options = {} if constant else {"frame_times": times_s, "end_s": end_s}
    if audio is not None and audio.copied_from is not None:
        options["copy_audio_from"] = audio.copied_from
    elif audio is not None and audio.written is not None:
        samples = round(end_s * audio.rate_hz)
        written = audio.written[:, :samples]
        written = np.pad(written, ((0, 0), (0, samples - written.shape[1])))
        options |= {"audio": written, "audio_rate_hz": audio.rate_hz}
    return VideoWriter(out, rate, like.width, like.height, crf=crf, like=like, sample_aspect=aspect, **options)
