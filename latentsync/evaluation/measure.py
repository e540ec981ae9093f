"""Measurements on written files: how the mouth moves, what changed outside it, whether it moves with the sound.

A render is what generate remembers of one video: `order` int64 [m] (source frame of each written frame), `times_s`
float64 [m], `matrices` float64 [m, 2, 3] (pixels of the file -> crop pixels; NaN where the frame passed through).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import av
import numpy as np

from latentsync.evaluation import metrics
from latentsync.faces import alignment
from latentsync.faces.detection import Detector, Face
from latentsync.generation import planes
from latentsync.generation.paste import paste_region
from latentsync.generation.video import in_order, open_writer, yuv
from latentsync.media.picture import to_rgb
from latentsync.media.read import read_video_frames
from latentsync.sync import curves
from latentsync.timing import SAMPLES_PER_TICK, ticks_to_frames

Render = Mapping[str, np.ndarray]


def mouth_opening(
    frames: Iterable[tuple[int, av.VideoFrame]], matrices: np.ndarray, detector: Detector, resolution: int
) -> np.ndarray:
    """Inner-lip gap over inter-ocular distance in each decoded frame, float64 [m]; NaN where the face is not found.

    Of several faces it is the one in the middle of its frame's crop box. Frames that passed through are not measured.
    """
    width, height = alignment.crop_size(resolution)
    middle = np.array([width / 2, height / 2])
    opening = np.full(len(matrices), np.nan)
    detector.reset()
    to_file = None
    for (_, frame), (index, matrix) in zip(frames, enumerate(matrices), strict=True):
        to_file = np.linalg.inv(planes.to_displayed(frame)) if to_file is None else to_file
        faces = detector.detect(to_rgb(frame))
        if np.isfinite(matrix).all():
            shown = matrix @ to_file
            face = _nearest(faces, alignment.apply(alignment.invert(shown), middle))
            if face is not None:
                opening[index] = face.mouth_opening
    return opening


def _nearest(faces: list[Face], point: np.ndarray) -> Face | None:
    """The face whose landmarks' middle lies nearest to the point, if that is within half its width."""
    away = [float(np.hypot(*(face.landmarks.mean(0) - point))) for face in faces]
    best = int(np.argmin(away)) if away else 0
    return faces[best] if away and away[best] < faces[best].width_px / 2 else None


@dataclass
class Outside:
    """Luma outside the mask, summed over frames."""

    squared_error: float = 0.0
    count: int = 0
    masked: int = 0
    pixels: int = 0

    @property
    def psnr_db(self) -> float:
        """Peak signal-to-noise ratio; infinite where nothing differs."""
        return metrics.psnr_db(self.squared_error, self.count)

    @property
    def mask_share(self) -> float:
        """Share of all pixels that lie inside the mask."""
        return self.masked / self.pixels


def outside(video: Path, source: Path, render: Render, resolution: int) -> Outside:
    """Compare a written file with the source frames it shows, on luma, everywhere the feathered mask is 0.

    Deeper pixels count on the scale of 8 bits. The mask is the one that pasting used: wherever alpha is above 0.
    """
    total = Outside()
    originals = in_order(source, render["order"])
    for (_, frame), original, matrix in zip(read_video_frames(video), originals, render["matrices"], strict=True):
        pictures = [_luma(yuv(one, frame.format.name)) for one in (frame, original)]
        free = np.ones(pictures[0].shape, bool)
        if np.isfinite(matrix).all():
            (x0, y0, x1, y1), alpha = paste_region(free.shape, matrix, resolution)
            free[y0:y1, x0:x1] = alpha == 0
        error, count = metrics.squared_error(*pictures, free)
        total.squared_error += error
        total.count += count
        total.masked += free.size - count
        total.pixels += free.size
    return total


def _luma(frame: av.VideoFrame) -> np.ndarray:
    return planes.planes(frame)[0] / 2 ** (frame.format.components[0].bits - 8)


def reencoded(out: Path, source: Path, render: Render, crf: int) -> None:
    """Write an untouched copy of the frames that a render shows, with the same settings."""
    frames = in_order(source, render["order"])
    first = next(frames)
    clock = render["times_s"], float(render["end_s"])
    with open_writer(out, first, source, *clock, crf) as writer:
        for frame in chain([first], frames):
            writer.write_frame(frame)


def sync_of(
    opening: np.ndarray, times_s: np.ndarray, end_s: float, samples: np.ndarray, max_shift: int = 15
) -> tuple[int, float]:
    """(offset in frames at 25 per second, confidence) of a mouth and a sound, by the envelope scorer of score_sync.

    opening: float64 [m], shown at times_s [m] until end_s. samples: float32 [n], 16 kHz, from time zero.
    """
    at_ticks = opening[ticks_to_frames(times_s, end_s)]
    ticks = np.arange(-max_shift, len(at_ticks) + max_shift)
    heard = np.zeros(len(ticks) * SAMPLES_PER_TICK + curves.ENVELOPE_WINDOW, np.float32)
    first = max_shift * SAMPLES_PER_TICK + curves.ENVELOPE_WINDOW // 2
    part = samples[: len(heard) - first]
    heard[first : first + len(part)] = part
    envelope = curves.speech_envelope(heard, len(ticks))
    envelope[(ticks < 0) | (ticks * SAMPLES_PER_TICK >= len(samples))] = np.nan
    return curves.peak(curves.envelope_curve(at_ticks, envelope, max_shift))
