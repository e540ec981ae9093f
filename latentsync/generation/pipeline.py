"""Redraw the mouths of one video: every native frame is kept, its mouth drawn from the audio at its own time.

The video is read twice: the first pass tracks faces (speakers.py), the second one redraws and writes. No more than a
batch of windows of frames is held. What grows with the length, per second: 0.4 MB of Whisper features, 0.1 MB of
landmarks (25 frames of 478 points), and up to 0.3 MB of audio.
Frames without a face, or with another face than the speaker's, pass through unchanged and are counted by reason.

Axes: f frames, c channels, h w pixels or latent cells, s audio tokens, d their width.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import torch
from torch import Tensor

from latentsync.audio.whisper import tokens_at
from latentsync.config import Generate
from latentsync.faces import alignment
from latentsync.faces.crop import align_face
from latentsync.faces.mask import latent_mask
from latentsync.faces.tracking import Track
from latentsync.generation import joining, paste, sampling, timeline
from latentsync.generation.audio import DrivingAudio
from latentsync.generation.networks import Models, decode, encode
from latentsync.generation.speakers import PASSED_THROUGH, speaking
from latentsync.generation.video import in_order, open_writer, yuv
from latentsync.media.frames import DisplayedFrame
from latentsync.media.read import frame_times
from latentsync.timing import SAMPLE_RATE_HZ, whisper_rows


@dataclass(frozen=True)
class Plan:
    """What each written frame shows."""

    order: np.ndarray
    """int64 [m], source frame."""
    times_s: np.ndarray
    """float64 [m]."""
    end_s: float
    labels: np.ndarray
    """int64 [m], index of the track that speaks, or a key of PASSED_THROUGH."""
    matrices: np.ndarray
    """float64 [m, 2, 3], displayed source pixels -> crop pixels; NaN where nothing is generated."""


def redraw(
    video: Path,
    audio: DrivingAudio,
    out: Path,
    models: Models,
    cfg: Generate,
    tracks: Sequence[Track],
    chosen: Sequence[int] = (),
) -> dict[str, Any]:
    """Write `out`: the video with the mouth of the speaking face redrawn to the audio.

    Args:
        video: the source; never changed.
        audio: drives the mouth and is written into the result.
        out: an mp4 in the source's resolution, pixel format and frame times.
        models: the networks.
        cfg: steps, guidance, seed, length, max_s, crf, overlap, batch_size.
        tracks: faces of the video, from `speakers.track_video`.
        chosen: indices of tracks known to speak; elsewhere the largest face speaks.

    Returns:
        n_frames, n_generated, passed_through {reason: frames}, cut_s (seconds left out because of cfg.max_s), and per
        written frame: `order` int64 [m] (source frame), `times_s` float64 [m], `matrices` float64 [m, 2, 3] from pixels
        of the file to crop pixels, NaN where the frame passed through; `end_s`, the end of the last frame.
    """
    clock = frame_times(video)
    whole_s = audio.length_s if cfg.length == "audio" else clock[1]
    wanted_s = whole_s if cfg.max_s is None else min(whole_s, cfg.max_s)
    plan = make_plan(*clock, tracks, chosen, wanted_s, models.resolution)
    # After the end of the audio comes silence; repeating its last features would keep the mouth at the last vowel.
    n_samples = round(plan.end_s * SAMPLE_RATE_HZ)
    samples = audio.for_model[:n_samples]
    samples = np.pad(samples, (0, n_samples - len(samples)))
    features = models.encoder.features(samples)
    features = torch.from_numpy(features).to(models.device)
    frames = in_order(video, plan.order)
    first = next(frames)
    matrices = plan.matrices @ paste.to_displayed(first)
    with open_writer(out, first, video, plan.times_s, plan.end_s, cfg.crf, audio) as writer:
        frames = chain([first], frames)
        for start, stop, label in timeline.spans(plan.labels):
            if label < 0:
                for _ in range(start, stop):
                    writer.write_frame(next(frames))
                continue
            span = Span(matrices[start:stop], whisper_rows(plan.times_s[start:stop]))
            for frame in _redrawn(frames, span, features, models, cfg, writer.pix_fmt):
                writer.write_frame(frame)
    passed = Counter(PASSED_THROUGH[label] for label in plan.labels.tolist() if label < 0)
    return {
        "n_frames": len(plan.order),
        "n_generated": int((plan.labels >= 0).sum()),
        "passed_through": dict(sorted(passed.items())),
        "cut_s": round(whole_s - wanted_s, 3),
        "order": plan.order,
        "times_s": plan.times_s,
        "end_s": np.float64(plan.end_s),
        "matrices": matrices,
    }


def make_plan(
    times_s: np.ndarray, end_s: float, tracks: Sequence[Track], chosen: Sequence[int], wanted_s: float, resolution: int
) -> Plan:
    """Order, times, speaking tracks and matrices of all written frames; `times_s` and `end_s` are the source's."""
    n_frames = len(times_s)
    order, starts_s, stop_s = timeline.lay_out(times_s, end_s, wanted_s)
    labels = speaking(tracks, n_frames, chosen)
    matrices = np.full((n_frames, 2, 3), np.nan)
    for index, track in enumerate(tracks):
        for frame in range(track.start, track.stop):
            if labels[frame] == index:
                matrices[frame] = alignment.similarity(track.anchors[frame - track.start], resolution)
    return Plan(order, starts_s, stop_s, labels[order], matrices[order])


@dataclass(frozen=True)
class Span:
    """A stretch of written frames that follow one face."""

    matrices: np.ndarray
    """float64 [n, 2, 3], pixels of the file -> crop pixels."""
    centres: np.ndarray
    """int64 [n], rows of audio features."""


def _redrawn(
    frames: Iterator[av.VideoFrame], span: Span, features: Tensor, models: Models, cfg: Generate, pix_fmt: str
) -> Iterator[av.VideoFrame]:
    """The frames of a span with new mouths, in order. `features` t s d of the whole audio."""
    vae = models.vae.config
    mask = latent_mask(models.resolution, 2 ** (len(vae.block_out_channels) - 1))
    height, width = mask.shape
    noise = sampling.shared_noise(cfg.seed, height, width, vae.latent_channels).to(models.device)
    mask = torch.from_numpy(mask).to(models.device)
    held: list[av.VideoFrame] = []  # read but not yet written
    conditioning = torch.zeros(0)  # f 2c h w, of the last frames read
    n_read = 0

    def latents_of(batch: list[joining.Window]) -> Tensor:
        nonlocal conditioning, n_read
        first, stop = batch[0][0], batch[-1][1]
        new = [yuv(next(frames), pix_fmt) for _ in range(n_read, stop)]
        faces = [
            align_face(DisplayedFrame(frame, 0, False), matrix, models.resolution)
            for frame, matrix in zip(new, span.matrices[n_read:stop], strict=True)
        ]
        held.extend(new)
        n_read = stop
        encoded = encode(models, np.stack(faces))
        conditioning = torch.cat([conditioning, encoded])[first - stop :] if len(conditioning) else encoded
        windows = torch.stack([conditioning[start - first : end - first] for start, end in batch])
        audio = torch.stack([cast(Tensor, tokens_at(features, span.centres[start:end])) for start, end in batch])
        with models.autocast():
            masked, reference = windows.chunk(2, dim=2)
            return sampling.denoise(models.unet, noise, mask, masked, reference, audio, cfg.steps, cfg.guidance).float()

    windows_of_span = joining.windows(len(span.matrices), models.frames, min(cfg.overlap, models.frames - 1))
    for start, latents in joining.joined(windows_of_span, cfg.batch_size, latents_of):
        for index, face in enumerate(decode(models, latents)):
            yield paste.paste_face(held[index], face, span.matrices[start + index], models.resolution)
        del held[: len(latents)]
