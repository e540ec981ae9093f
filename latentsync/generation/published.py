"""What the published pipeline computes, from top to bottom: `latentsync generate --as-published`.

    video -> 25 fps -> RGB -> the largest face -> crop, truncated -> its latents, drawn -> DDIM in windows of 16
          -> pixels, pasted by a hard mask -> the whole box, pasted back and truncated -> 25 fps, audio 16 kHz mono

Restated from a description of LatentSync a229c39. docs/models.md lists where the defaults of this project differ, and
why. Three things are not copied:

- Upstream encodes the video before it reads it and encodes the result twice. Here frames are read as they are and
  encoded once; everything below holds for the frames in between.
- Upstream computes crops and pastes in fp16, which places samples up to half a pixel off; here they are float32.
- Only windows, not whole videos, are in memory. No number depends on that.

A GPU draws other numbers from the same seed than a CPU, here as there.

Axes: f frames, c channels, h w latent cells, s audio tokens, d their width, R side of the face in pixels.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor

from latentsync.audio.whisper import WhisperFeatures
from latentsync.config import Generate
from latentsync.faces import alignment
from latentsync.faces.crop import to_pixels
from latentsync.faces.face import Detector, Face
from latentsync.generation import paste, sampling
from latentsync.generation.audio import DrivingAudio
from latentsync.generation.marking import UNMARKED, Marking
from latentsync.generation.networks import Models
from latentsync.generation.progress import Progress, Report, silent
from latentsync.generation.stopwatch import Stopwatch
from latentsync.generation.video import encoder_threads, in_order
from latentsync.media.frames import turned
from latentsync.media.probe import timeline
from latentsync.media.read import frame_times
from latentsync.media.write import VideoWriter
from latentsync.models import vae as vaes
from latentsync.timing import SAMPLE_RATE_HZ, TICKS_PER_S, WHISPER_ROW_SAMPLES

PUBLISHED_CRF = 13
FILL = 127.0  # beyond the crop, in the units of the network, where 1 is white


def redraw(
    video: Path,
    audio: DrivingAudio,
    out: Path,
    models: Models,
    cfg: Generate,
    detector: Detector,
    progress: Report = silent,
    mark: Marking = UNMARKED,
) -> dict[str, Any]:
    """Write `out` as the published pipeline would: arguments and result as of `pipeline.redraw`.

    Of the section count steps, guidance, seed, max_s, crf and encoder_threads. Matrices are from displayed pixels,
    which are those of the written file, to crop pixels.

    Raises:
        ValueError: a frame shows no face.
    """
    at_25 = retimed(*frame_times(video))
    n_spoken = n_frames(len(audio.for_model) // WHISPER_ROW_SAMPLES)
    n = n_spoken if cfg.max_s is None else min(n_spoken, max(1, int(cfg.max_s * TICKS_PER_S)))
    n_aligned = min(n, len(at_25))
    watch = Stopwatch()
    with watch("faces"):
        seen = rgb_frames(video, at_25[:n_aligned])
        matrices = align(video, seen, n_aligned, detector, models.resolution, progress)
    order = there_and_back(n_aligned, n)
    samples = audio.for_model[: int(n / TICKS_PER_S * SAMPLE_RATE_HZ)]
    drawing = Drawing(models, cfg, audio.for_model)
    frames = watch.over("decode", rgb_frames(video, at_25[order]))
    first = next(frames)
    height, width = first.shape[:2]
    untagged = av.VideoFrame(width, height, "yuv420p")  # converted back by the matrix that it was converted with
    crf = PUBLISHED_CRF if cfg.crf is None else cfg.crf
    quality: dict[str, Any] = {"crf": crf, "threads": encoder_threads(cfg)}
    quality |= {"overlay": mark.overlay, "tags": mark.tags}
    with VideoWriter(out, TICKS_PER_S, width, height, **quality, audio=samples, like=untagged) as writer:
        frames = _with(first, frames)
        for start in range(0, n, models.frames):
            window = list(islice(frames, models.frames))
            places = matrices[order[start : start + len(window)]]
            with watch("crop"):
                faces = np.stack([crop(*one, models.resolution) for one in zip(window, places, strict=True)])
            with watch("networks"):
                pixels = drawing.window(faces, start)
            for number, (frame, face, matrix) in enumerate(zip(window, pixels, places, strict=True), start + 1):
                with watch("paste"):
                    result = pasted_back(frame, face, matrix, models.resolution)
                with watch("encode"):
                    writer.write(result)
                progress(Progress("redrawing mouths", number, n))
    return {
        "n_frames": n,
        "n_generated": n,
        "passed_through": {},
        "n_closed": 0,
        "n_enhanced": 0,
        "n_coarse": 0,
        "crf": crf,
        "cut_s": round((n_spoken - n) / TICKS_PER_S, 3),
        "order": at_25[order],
        "times_s": np.arange(n) / TICKS_PER_S,
        "end_s": np.float64(n / TICKS_PER_S),
        "deinterlaced": np.bool_(False),
        "matrices": matrices[order],
        "seconds": watch.rounded(),
        "waited_s": 0.0,
    }


def _with(first: np.ndarray, others: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    yield first
    yield from others


def retimed(times_s: np.ndarray, end_s: float) -> np.ndarray:
    """Which source frame each frame at 25 fps shows, int64 [m]: as `ffmpeg -r 25` keeps, drops and repeats frames.

    It drops a frame only where the frame after it, too, would come more than 1.1 ticks late, so the first frames are
    all kept, and faster videos run 60 ms behind from then on. A test holds what ffmpeg 9.0 made of constant rates.

    Args:
        times_s: float64 [n], presentation times from zero.
        end_s: end of the last frame.
    """
    shown: list[int] = []
    ticks = np.append(times_s, end_s) * TICKS_PER_S
    for index, (begin, end) in enumerate(zip(ticks[:-1].tolist(), ticks[1:].tolist(), strict=True)):
        early, left = begin - len(shown), end - len(shown)
        if left < -1.1:
            continue
        count = round(left) if left > 1.1 else 1
        of_previous = min(count, round(early - 0.6)) if early > 1.1 else 0
        shown += [max(0, index - 1)] * of_previous + [index] * (count - of_previous)
    return np.array(shown or [0], np.int64)


def n_frames(n_rows: int) -> int:
    """Frames for so many Whisper rows (50 a second): 0, 1, ... until 2 i > T, which is one or two beyond the audio."""
    return n_rows // 2 + 2


def there_and_back(n: int, wanted: int) -> np.ndarray:
    """Which of n frames each wanted frame shows: 0 .. n-1, n-1 .. 0, 0 .. n-1 and so on, int64 [wanted]."""
    return np.resize(np.concatenate([np.arange(n), np.arange(n)[::-1]]), wanted)


def rgb_frames(video: Path, order: np.ndarray) -> Iterator[np.ndarray]:
    """Displayed frames uint8 (h, w, 3) in this order, as OpenCV reads them: always BT.601, in swscale's quick way."""
    found = timeline(video)
    turn = found.info.rotation_deg // 90, found.mirrored
    for frame in in_order(video, order):
        full = "JPEG" if frame.format.name.startswith("yuvj") else "MPEG"
        rgb = frame.reformat(format="rgb24", src_colorspace="ITU601", src_color_range=full, threads=1).to_ndarray()
        yield turned(rgb, *turn)


def align(
    video: Path, frames: Iterable[np.ndarray], n: int, detector: Detector, resolution: int, progress: Report
) -> np.ndarray:
    """Matrices float64 [n, 2, 3] of the largest face of each frame: landmarks and anchors are rounded to pixels, and
    a sub-pixel bias moves from frame to frame.

    Raises:
        ValueError: a frame shows no face.
    """
    detector.reset()
    found, bias = [], None
    for number, rgb in enumerate(frames):
        progress(Progress("finding faces", number, n))
        faces = detector.detect(rgb)
        if not faces:
            raise ValueError(
                f"--video {video} shows no face in frame {number} at 25 fps ({number / TICKS_PER_S:.2f} s), where the "
                "published pipeline stops; without --as-published such frames stay as they are."
            )
        landmarks = np.rint(max(faces, key=_area).landmarks)
        matrix, bias = alignment.published_similarity(detector.scheme.face(landmarks).anchors, resolution, bias)
        found.append(matrix)
    return np.stack(found)


def _area(face: Face) -> float:
    x0, y0, x1, y1 = face.box
    return (x1 - x0) * (y1 - y0)


def crop(rgb: np.ndarray, matrix: np.ndarray, resolution: int) -> np.ndarray:
    """The face uint8 (R, R, 3): one bilinear sample per pixel of the 3:4 box, truncated, then stretched by Lanczos."""
    box = alignment.warp(rgb, alignment.invert(matrix), alignment.crop_size(resolution), alignment.FILL)
    return alignment.stretch(box.astype(np.uint8), resolution)


class Drawing:
    """The networks' part. Windows must be drawn in order, because all their random numbers come from one generator:
    the noise, then for each window those of the masked and of the reference latents.

    Args:
        models: U-Net, VAE, Whisper.
        cfg: steps, guidance and seed count.
        samples: the whole audio, float32 [n], 16 kHz mono, heard through 16 bits and in pieces of 30 s.
    """

    def __init__(self, models: Models, cfg: Generate, samples: np.ndarray):
        self.models, self.cfg = models, cfg
        whisper = WhisperFeatures(models.encoder.encoder, "published")
        as_heard = (np.rint(samples * 32768).clip(-32768, 32767) / 32768).astype(np.float32)
        self.tokens = dataclasses.replace(models, encoder=whisper).listen(as_heard)
        self.generator = torch.Generator(models.device).manual_seed(cfg.seed)
        shape = 1, models.vae.config.latent_channels, 1, *models.latent_keep.shape
        self.noise = torch.randn(shape, generator=self.generator, device=models.device, dtype=models.dtype)

    def window(self, faces: np.ndarray, start: int) -> np.ndarray:
        """Faces uint8 (f, R, R, 3) from frame `start` on -> pixels float32 (f, R, R, 3), about [-1, 1], redrawn where
        the mask is 0 and as they were elsewhere.
        """
        keep = self.models.keep
        given = torch.from_numpy(to_pixels(faces)).transpose(0, 1).to(self.models.device)
        with torch.inference_mode():
            drawn = vaes.decode(self.models.vae, self.latents(given, start).to(self.models.dtype)).float()
            if not drawn.isfinite().all():
                raise ValueError("The networks returned numbers that are not finite; their weights do not fit.")
            return (drawn * (1 - keep) + given * keep).permute(0, 2, 3, 1).cpu().numpy()

    def latents(self, given: Tensor, start: int) -> Tensor:
        """Pixels f 3 R R of faces from frame `start` on -> latents f c h w of new ones."""
        models = self.models
        masked, reference = self._drawn(given * models.keep), self._drawn(given)
        tokens = self.tokens(2 * np.arange(start, start + len(given)))
        context = self.noise, models.latent_keep, masked[None], reference[None], tokens[None]
        return sampling.denoise(models.unet, *context, self.cfg.steps, self.cfg.guidance)[0]

    @torch.inference_mode()
    def _drawn(self, pixels: Tensor) -> Tensor:
        """Latents f c h w drawn from the distribution that the VAE gives."""
        moments = vaes.encode_moments(self.models.vae, pixels.to(self.models.dtype))
        return vaes.sample(self.models.vae, moments, self.generator).float()


def pasted_back(frame: np.ndarray, face: np.ndarray, matrix: np.ndarray, resolution: int) -> np.ndarray:
    """A copy of a frame uint8 (h, w, 3) with the whole box of the face float32 (R, R, 3), about [-1, 1], pasted in:
    resized by antialiased cubics, warped, blended by the eroded and blurred box, truncated.

    Computed on the region of the box only; elsewhere the published mask is 0.
    """
    result = frame.copy()
    region = paste.face_region(frame.shape, matrix, resolution)
    x0, y0, x1, y1 = region
    if x1 == 0:
        return result
    box = alignment.resize_cubic(face, alignment.crop_size(resolution))
    patch = alignment.warp(box, paste.from_region(matrix, region), (x1 - x0, y1 - y0), FILL)
    patch = (patch / 2 + 0.5).clip(0, 1) * 255
    alpha = paste.soft_box(matrix, resolution, region)[..., None]
    part = result[y0:y1, x0:x1]
    part[...] = alpha * patch + (1 - alpha) * part
    return result
