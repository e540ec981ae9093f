"""Measurements on written files: how the mouth moves, what a sync scorer sees of it, its look, what changed outside it.

A render is what generate stores about one video: `order` int64 [m] (source frame of each written frame), `times_s`
float64 [m], `end_s`, `deinterlaced`, and `matrices` float64 [m, 2, 3] (pixels of the file -> crop pixels; NaN where the
frame passed through).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import cv2
import numpy as np

from latentsync.evaluation import metrics
from latentsync.faces import alignment
from latentsync.faces.crop import align_face
from latentsync.faces.face import Detector, Face
from latentsync.generation.paste import Region, opacity, paste_region, to_displayed
from latentsync.generation.video import in_order, open_writer, yuv
from latentsync.media.frames import SQUARE, DisplayedFrame, planes, to_rgb
from latentsync.media.read import read_video_frames
from latentsync.sync.scorers import Track
from latentsync.timing import SAMPLES_PER_TICK, ticks_to_frames

Render = Mapping[str, np.ndarray]
FLICKER_SIDE = 512  # of the aligned face in which flicker is measured, pixels: restorers work at this size
SPREAD_OF_SECOND_DIFFERENCE = 6**0.5  # standard deviation of a - 2 b + c, where those of a, b and c are 1


class Mouth:
    """The face in the crop box of each frame of a render, in the order in which frames are shown to `see`.

    Of several faces it is the one in the middle of its frame's crop box. Frames that passed through are not measured.
    """

    def __init__(
        self, render: Render, detector: Detector, resolution: int, with_crops: bool, aspect: Fraction = SQUARE
    ):
        """`with_crops`: align the faces, too, for sync scorers that read them. `aspect`: as of DisplayedFrame."""
        self.aspect = aspect
        self.render, self.detector, self.resolution = render, detector, resolution
        self.shown = ticks_to_frames(render["times_s"], float(render["end_s"]))  # frame of each tick
        self.opening = np.full(len(render["matrices"]), np.nan)
        """float64 [m], inner-lip gap over inter-ocular distance; NaN where the face is not found."""
        size = (len(self.shown), resolution, resolution, 3)
        self.crops = np.full(size, alignment.FILL, np.uint8) if with_crops else None
        self.has_face = np.zeros(len(self.shown), bool)
        self.n_seen, self.to_displayed = 0, None

    def see(self, frame: av.VideoFrame) -> None:
        """Measure the next decoded frame."""
        if self.to_displayed is None:
            self.to_displayed = to_displayed(frame, self.aspect)
            self.detector.reset()
        index, faces = self.n_seen, self.detector.detect(to_rgb(frame, aspect=self.aspect))
        self.n_seen += 1
        matrix = self.render["matrices"][index]
        if not np.isfinite(matrix).all():
            return
        width, height = alignment.crop_size(self.resolution)
        displayed = matrix @ np.linalg.inv(self.to_displayed)
        face = _nearest(faces, alignment.apply(alignment.invert(displayed), np.array([width / 2, height / 2])))
        if face is not None:
            self.opening[index] = face.mouth_opening
            matrix = alignment.similarity(face.anchors, self.resolution) @ self.to_displayed
        ticks = self.shown == index
        if self.crops is not None and ticks.any():  # a face that is not found is where generate found it
            self.crops[ticks] = align_face(DisplayedFrame(frame, 0, False), matrix, self.resolution)
            self.has_face[ticks] = True

    def track(self, samples: np.ndarray) -> Track:
        """The frames seen, for a sync scorer, with audio float32 [n] at 16 kHz from time zero."""

        def cut(start: int, stop: int) -> np.ndarray:
            result = np.zeros(stop - start, np.float32)
            part = samples[max(start, 0) : max(stop, 0)]
            first = max(-start, 0)
            result[first : first + len(part)] = part
            return result

        recorded = (0, -(-len(samples) // SAMPLES_PER_TICK))
        return Track(len(self.shown), cut, recorded, self.opening[self.shown], self.crops, self.has_face)


def _nearest(faces: list[Face], point: np.ndarray) -> Face | None:
    """The face whose mean landmark is nearest to the point, if it is within half the width of the face."""
    away = [float(np.hypot(*(face.landmarks.mean(0) - point))) for face in faces]
    best = int(np.argmin(away)) if away else 0
    return faces[best] if away and away[best] < faces[best].width_px / 2 else None


class Look:
    """Sharpness and flicker of the redrawn part of the face, in grey levels of 8 bits.

    Sharpness is the standard deviation of the Laplacian, at the frame's own pixels. Flicker is the second difference
    over time of the aligned face, root mean square, divided so that noise which is independent from frame to frame
    gives its own standard deviation. A mouth that moves gives some flicker, too, so values are compared with those of
    the same movement.
    """

    def __init__(self, resolution: int):
        self.resolution = resolution
        self.inside = opacity(FLICKER_SIDE) > 0.5
        self.laplacians: list[float] = []
        self.differences: list[float] = []
        self.before: list[np.ndarray] = []  # the aligned faces of the last two frames

    def see(self, luma: np.ndarray, matrix: np.ndarray, region: Region, alpha: np.ndarray) -> None:
        """Measure the next frame; luma (h, w) on the scale of 8 bits, region and alpha as in `paste_region`."""
        x0, y0, x1, y1 = region
        redrawn = alpha > 0.5
        luma = luma.astype(np.float32)
        if redrawn.any():
            self.laplacians.append(float(cv2.Laplacian(luma[y0:y1, x0:x1], cv2.CV_32F)[redrawn].std()))
        sides = alignment.crop_size(self.resolution), alignment.crop_size(FLICKER_SIDE)
        crop = alignment.crop((luma,), alignment.resized(matrix, *sides), FLICKER_SIDE)
        face = alignment.stretch(crop, FLICKER_SIDE)[self.inside]
        if len(self.before) == 2:
            difference = self.before[0] - 2 * self.before[1] + face
            self.differences.append(float(np.sqrt(np.mean(difference**2))) / SPREAD_OF_SECOND_DIFFERENCE)
        self.before = [*self.before[-1:], face]

    def skip(self) -> None:
        """The next frame passed through: flicker is not measured across it."""
        self.before = []

    @property
    def sharpness(self) -> float:
        """Mean over frames; NaN where none was redrawn."""
        return float(np.mean(self.laplacians)) if self.laplacians else float("nan")

    @property
    def flicker(self) -> float:
        """Mean over frames; NaN where no three in a row were redrawn."""
        return float(np.mean(self.differences)) if self.differences else float("nan")


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
        """Share of all pixels that are inside the mask."""
        return self.masked / self.pixels


def outside(
    video: Path,
    source: Path,
    render: Render,
    resolution: int,
    mouth: Mouth | None = None,
    looks: Sequence[Look] = (),
) -> Outside:
    """Compare a written file with the source frames it shows, on luma, everywhere the feathered mask is 0.

    Deeper pixels count on the scale of 8 bits. The mask is the one that pasting used: wherever alpha is above 0.
    `mouth` sees the written frames; the first of `looks` sees those, the second (if any) the source's. So files are
    decoded once for all.
    """
    total = Outside()
    originals = in_order(source, render["order"], bool(render["deinterlaced"]))
    for (_, frame), original, matrix in zip(read_video_frames(video), originals, render["matrices"], strict=True):
        if mouth is not None:
            mouth.see(frame)
        luma = [_luma(yuv(one, frame.format.name)) for one in (frame, original)]
        free = np.ones(luma[0].shape, bool)
        if np.isfinite(matrix).all():
            region, alpha = paste_region(free.shape, matrix, resolution)
            x0, y0, x1, y1 = region
            free[y0:y1, x0:x1] = alpha == 0
            for look, shown in zip(looks, luma, strict=False):
                look.see(shown, matrix, region, alpha)
        else:
            for look in looks:
                look.skip()
        error, count = metrics.squared_error(luma[0], luma[1], free)
        total.squared_error += error
        total.count += count
        total.masked += free.size - count
        total.pixels += free.size
    return total


def _luma(frame: av.VideoFrame) -> np.ndarray:
    return planes(frame)[0] / 2 ** (frame.format.components[0].bits - 8)


def reencoded(out: Path, source: Path, render: Render, crf: int, mouth: Mouth | None = None) -> None:
    """Write an untouched copy of the frames that a render shows, with the same settings; `mouth` sees the frames."""
    frames = in_order(source, render["order"], bool(render["deinterlaced"]))
    first = next(frames)
    clock = render["times_s"], float(render["end_s"])
    with open_writer(out, first, source, *clock, crf) as writer:
        for frame in chain([first], frames):
            if mouth is not None:
                mouth.see(frame)  # before the writer changes it
            writer.write_frame(frame)
