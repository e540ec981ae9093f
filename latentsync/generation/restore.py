"""Face restoration of a generated video: FFHQ alignment, restore, blend back into the planes of the frame.

Restorers are trained on faces in FFHQ alignment at 512 pixels, not on LatentSync's stretched crop, so the face of every
frame is aligned by five points, in one warp from the frame. The lips can be protected: restorers sharpen them towards a
resting mouth.
"""

from collections.abc import Callable, Sequence
from itertools import chain, islice
from pathlib import Path

import av
import cv2
import numpy as np

from latentsync.config import CodecName, Enhance, Tracking
from latentsync.faces import alignment
from latentsync.faces.face import Detector, Scheme
from latentsync.faces.smoothing import smooth
from latentsync.faces.tracking import Track
from latentsync.generation import speakers
from latentsync.generation.paste import Region, blended, from_region, paste_region, to_displayed
from latentsync.generation.video import open_writer, yuv
from latentsync.media.frames import native_rgb
from latentsync.media.read import frame_times, read_video_frames

# Eyes, nose tip, mouth corners of FFHQ-aligned faces at 512 pixels (x, y), as facexlib and GFPGAN use them.
_X = (192.98138, 318.90277, 256.63416, 201.26117, 313.08905)
_Y = (239.94708, 240.1936, 314.01935, 371.41043, 371.15118)
FFHQ = np.stack([_X, _Y], axis=1)
BATCH = 8
Restore = Callable[[np.ndarray], np.ndarray]
Item = tuple[av.VideoFrame, np.ndarray, np.ndarray | None]  # frame, its matrix, landmarks in pixels of the file


def ffhq_matrix(points: np.ndarray, size: int) -> np.ndarray:
    """Matrix [2, 3] from source pixels to FFHQ-aligned pixels of side `size`, the similarity that fits five points."""
    x, y = np.asarray(points, np.float64).T
    zero, one = np.zeros(5), np.ones(5)
    rows = np.concatenate([np.stack([x, -y, one, zero], 1), np.stack([y, x, zero, one], 1)])
    targets = FFHQ * (size / 512) + (size / 512 - 1) / 2  # pixel centres
    (a, b, right, down), *_ = np.linalg.lstsq(rows, targets.T.ravel(), rcond=None)
    return np.array([[a, -b, right], [b, a, down]])


def lip_mask(lips: np.ndarray, region: Region, eye_distance: float) -> np.ndarray:
    """The lips and a soft rim of a tenth of the eye distance on a region, float32 (h, w) in 0..1. lips: (n, 2)."""
    x0, y0, x1, y1 = region
    inside = np.zeros((y1 - y0, x1 - x0), np.float32)
    cv2.fillPoly(inside, [np.rint((lips - [x0, y0]) * 16).astype(np.int32)], (1.0,), shift=4)
    rim = max(1, round(0.1 * eye_distance))
    inside = cv2.dilate(inside, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * rim + 1, 2 * rim + 1)))
    return cv2.GaussianBlur(inside, (2 * rim + 1, 2 * rim + 1), 0)


def soft_square(matrix: np.ndarray, size: int, shape: tuple[int, int]) -> tuple[Region, np.ndarray]:
    """The FFHQ square on the frame with a soft rim of an eighth of its side: region and float32 (h, w) in 0..1."""
    back = alignment.invert(matrix)
    corners = alignment.apply(back, np.array([[0, 0], [size, 0], [0, size], [size, size]], float))
    x0, y0 = (max(0, int(np.floor(value))) // 2 * 2 for value in corners.min(0))
    ends = zip(corners.max(0), shape[::-1], strict=True)
    x1, y1 = (min(end, -(-int(np.ceil(value)) // 2) * 2) for value, end in ends)
    if x0 >= x1 or y0 >= y1:
        return (0, 0, 0, 0), np.zeros((0, 0), np.float32)
    ramp = np.clip(np.minimum(np.arange(size) + 0.5, size - np.arange(size) - 0.5) / (size / 8), 0, 1)
    square = np.minimum.outer(ramp, ramp).astype(np.float32)[..., None]
    region = x0, y0, x1, y1
    return region, alignment.warp(square, from_region(matrix, region), (x1 - x0, y1 - y0), 0)[..., 0]


def enhance_video(
    video: Path,
    out: Path,
    matrices: np.ndarray,
    resolution: int,
    restore: Restore,
    cfg: Enhance,
    detector: Detector,
    tracking: Tracking = speakers.PUBLISHED,
    *,
    crf: int,
    codec: CodecName = "h264",
    threads: int = 1,
) -> int:
    """Write `video` with its generated frames restored; returns their number.

    Args:
        video: what generate wrote.
        out: the new mp4, with the same size, format, frame times and audio.
        matrices: float64 [m, 2, 3] of the render; NaN marks frames that are copied.
        resolution: of the generated faces.
        restore: faces float32 (n, S, S, 3), 0..255, FFHQ-aligned -> the same, restored; `restore.size` is S.
        cfg: strength, region, lip protection.
        detector: finds the faces in the written frames; its scheme says which landmarks align them.
        tracking: how cuts are found, and how long a face may be lost.
        crf, codec, threads: as VideoWriter takes them.
    """
    times_s, end_s = frame_times(video)
    frames = (frame for _, frame in read_video_frames(video))
    first = next(frames)
    to_file = np.linalg.inv(to_displayed(first))
    shown = _landmarks(speakers.track_video(video, detector, cfg=tracking), matrices @ to_file, resolution)
    landmarks = [None if points is None else alignment.apply(to_file[:2], points) for points in shown]
    n_enhanced = 0
    with open_writer(out, first, video, times_s, end_s, crf, threads, copy_audio_from=video, codec=codec) as writer:
        items = zip(chain([first], frames), matrices, landmarks, strict=True)
        while batch := list(islice(items, BATCH)):
            batch = [(yuv(frame, writer.pix_fmt), matrix, points) for frame, matrix, points in batch]
            for frame in _enhanced(batch, resolution, restore, cfg, detector.scheme):
                writer.write_frame(frame)
            n_enhanced += sum(points is not None for _, _, points in batch)
    return n_enhanced


def _landmarks(tracks: Sequence[Track], matrices: np.ndarray, resolution: int) -> list[np.ndarray | None]:
    """Smoothed landmarks [P, 2] of the generated face in every frame; None where nothing was generated.

    matrices: displayed pixels -> crop pixels. The face is the track nearest to the middle of the crop box.
    """
    middle = np.array(alignment.crop_size(resolution)) / 2
    smoothed = [smooth(track.landmarks) for track in tracks]
    chosen: list[np.ndarray | None] = []
    for index, matrix in enumerate(matrices):
        here = [(t, s) for t, s in zip(tracks, smoothed, strict=True) if t.start <= index < t.stop]
        if not here or not np.isfinite(matrix).all():
            chosen.append(None)
            continue
        centre = alignment.apply(alignment.invert(matrix), middle)
        landmarks = [points[index - track.start] for track, points in here]
        away = [np.hypot(*(points.mean(0) - centre)) for points in landmarks]
        best = int(np.argmin(away))
        chosen.append(landmarks[best] if away[best] < here[best][0].face_px / 2 else None)
    return chosen


def _enhanced(
    batch: Sequence[Item], resolution: int, restore: Restore, cfg: Enhance, scheme: Scheme
) -> list[av.VideoFrame]:
    """The frames of a batch, restored where landmarks are given."""
    size = restore.size
    aligned = {
        index: ffhq_matrix(scheme.five_points(landmarks), size)
        for index, (_, _, landmarks) in enumerate(batch)
        if landmarks is not None
    }
    if not aligned:
        return [frame for frame, _, _ in batch]
    faces = [
        alignment.warp(native_rgb(batch[index][0]), alignment.invert(matrix), (size, size))
        for index, matrix in aligned.items()
    ]
    restored = dict(zip(aligned, restore(np.stack(faces).astype(np.float32)), strict=True))
    result = []
    for index, (frame, matrix, landmarks) in enumerate(batch):
        if landmarks is None:
            result.append(frame)
            continue
        shape = frame.height, frame.width
        if cfg.region == "mouth":
            region, alpha = paste_region(shape, matrix, resolution)
        else:
            region, alpha = soft_square(aligned[index], size, shape)
        if not alpha.size:
            result.append(frame)
            continue
        left_eye, right_eye, *_ = scheme.five_points(landmarks)
        lips = lip_mask(landmarks[list(scheme.outer_lips)], region, float(np.hypot(*(right_eye - left_eye))))
        weight = cfg.strength * alpha * (1 - cfg.lip_protection * lips)
        x0, y0, x1, y1 = region
        patch = alignment.warp(restored[index], from_region(aligned[index], region), (x1 - x0, y1 - y0))
        result.append(blended(frame, region, weight, patch))
    return result
