"""Reading a video in the order of a result, and writing the result like its source: size, format, clock, sound."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from latentsync.generation import timeline
from latentsync.media import probe
from latentsync.media.read import read_video_frames
from latentsync.media.write import VideoWriter
from latentsync.timing import SAMPLE_RATE_HZ

BACKWARDS_BLOCK = 32  # frames held at once while the picture runs backwards


@dataclass(frozen=True)
class Sound:
    """What drives the mouth and what is heard."""

    heard_by_model: np.ndarray
    """float32 [n], 16 kHz mono, from time zero."""
    written: np.ndarray | None = None
    """float32 [c, n], mono or stereo at `rate_hz`, written as AAC; None: `copied_from`'s packets."""
    rate_hz: int = SAMPLE_RATE_HZ
    copied_from: Path | None = None

    @property
    def length_s(self) -> float:
        """Seconds of driving sound."""
        return len(self.heard_by_model) / SAMPLE_RATE_HZ


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
    """The frame in the pixel format that will be written; almost always it has it already."""
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
    sound: Sound | None = None,
) -> VideoWriter:
    """A writer with the source's size, format, pixel aspect and clock; a constant rate stays exact.

    Sound that is not copied becomes as long as the picture, to the sample, with silence behind its end.
    """
    found = probe.timeline(source)
    with probe.opened(source) as container:
        aspect = container.streams[found.stream].sample_aspect_ratio
    steps = np.unique(np.append(np.diff(found.pts), found.end_pts - found.pts[-1]))
    constant = len(steps) == 1
    rate = 1 / (int(steps[0]) * found.time_base) if constant else Fraction(found.info.fps).limit_denominator(1001)
    clock = {} if constant else {"frame_times": times_s, "end_s": end_s}
    if sound is not None and sound.copied_from is not None:
        clock["copy_audio_from"] = sound.copied_from
    elif sound is not None and sound.written is not None:
        samples = round(end_s * sound.rate_hz)
        written = sound.written[:, :samples]
        written = np.pad(written, ((0, 0), (0, samples - written.shape[1])))
        clock |= {"audio": written, "audio_rate_hz": sound.rate_hz}
    return VideoWriter(out, rate, like.width, like.height, crf=crf, like=like, sample_aspect=aspect, **clock)
