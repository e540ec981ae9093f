"""Which frames the network sees together, and how the latents of neighbouring windows are joined.

Neighbouring windows share `overlap` frames. They differ there by a nearly constant offset, since the network's position
table and its normalisation depend on a frame's place in the window. At the joint the later window is shifted by that
offset, and the shift fades out over the frames that follow: a still face drifts instead of jumping, and a moving mouth
keeps its whole motion, which cross-fading two windows would average away.

Axes: b batch, f frames, c channels, h w latent cells.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from latentsync.generation.timeline import SPEECH_FPS

Window = np.ndarray
"""int64 [f], frames of the span that the network sees together, increasing."""


def windows(length: int, frames: int, overlap: int) -> list[Window]:
    """Windows over a span of `length` frames.

    Without overlap, as published: full windows, and the rest in a shorter last one. With overlap the last window is
    moved back until it is full, because the network's normalisation statistics depend on the number of frames.
    """
    assert 0 <= overlap <= max(0, frames - 1) // 2, (overlap, frames)  # else the shift cannot fade out in time
    step = frames - overlap
    starts = list(range(0, max(length - overlap, 1), step))
    if overlap and length > frames:
        starts = [start for start in starts if start + frames <= length]
        if starts[-1] + frames < length:
            starts.append(length - frames)
    return [np.arange(start, min(start + frames, length)) for start in starts]


def stride_of(times_s: np.ndarray) -> int:
    """How many frames of a video lie in the time of one that the networks were trained with: 2 at 50 or 60 a second.

    A window then takes every second frame, and another one those between, so that both span the trained time.
    """
    step_s = float(np.median(np.diff(times_s))) if len(times_s) > 1 else 1.0
    return max(1, round(1 / (SPEECH_FPS * step_s)))


def strided(window: Window, stride: int, frames: int) -> list[Window]:
    """What the network sees of a window of up to stride x frames: one window for each phase, all of one length.

    Where the phases differ in length the last frame is repeated. A window that the network takes whole is not split.
    """
    if len(window) <= frames:
        return [window]
    padded = np.pad(window, (0, -len(window) % stride), mode="edge")
    return list(padded.reshape(-1, stride).T)


def interleaved(latents: Tensor, n: int, length: int) -> Tensor:
    """Latents (n p) f c h w of n windows that `strided` split into p phases -> n `length` c h w."""
    return latents.unflatten(0, (n, -1)).transpose(1, 2).flatten(1, 2)[:, :length]


def batches(windows: list[Window], size: int) -> list[list[Window]]:
    """Successive windows in batches of at most `size`; the windows of a batch have the same length."""
    found: list[list[Window]] = []
    for window in windows:
        if not found or len(found[-1]) == size or len(window) != len(found[-1][0]):
            found.append([])
        found[-1].append(window)
    return found


def batches_for(windows: list[Window], size: int, first: int) -> list[list[Window]]:
    """The batches that decide the frames from `first` on.

    A joined frame depends on its window and the two before it (the last window of a span may lie anywhere in the one
    before it). Batches are always cut at the same places, because windows that are denoised together differ in the last
    bits from those denoised alone.
    """
    found = batches(windows, size)
    reached = next(index for index, batch in enumerate(found) if batch[-1][-1] >= first)
    return found[max(0, reached - 2) :]


def needed_from(windows: list[Window], size: int, first: int) -> int:
    """The first frame that must be read for the frames from `first` on."""
    return int(batches_for(windows, size, first)[0][0][0])


def fade(length: int, device: torch.device | None = None) -> Tensor:
    """Weights float32 [length] from nearly 1 to exactly 0, smooth at both ends."""
    at = torch.arange(1, length + 1, device=device) / max(1, length)
    return (1 + torch.cos(torch.pi * at.double())).float() / 2


def continued(before: Tensor, latents: Tensor, overlap: int) -> Tensor:
    """The latents of a window f c h w, shifted so that they go on from `before`, the window before in shared frames.

    The shift is the mean difference in the first `overlap` frames. It is gone before the last ones, which the next
    window shares: so a frame depends on no more than two windows.
    """
    offset = (before[:overlap] - latents[:overlap]).mean(0)
    length = min(len(latents) - overlap, max(1, len(latents) - 2 * overlap))
    weight = torch.zeros_like(latents[:, :1, :1, :1])  # made where the latents are: a copy would wait for the GPU
    weight[:overlap] = 1
    weight[overlap : overlap + length, 0, 0, 0] = fade(length, latents.device)
    return latents + weight * offset


def joined(
    windows: list[Window], size: int, overlap: int, latents_of: Callable[[list[Window]], Tensor], first: int = 0
) -> Iterator[tuple[int, Tensor]]:
    """Run the windows in order, `size` at a time, and give each frame's latents once no later window changes them.

    Args:
        windows: of one span, as `windows` gives them.
        size: windows in a batch.
        overlap: frames that neighbouring windows share; the last two may share more.
        latents_of: windows of one length -> their latents b f c h w.
        first: frames before it are not wanted. Those from it on are, bit for bit, those of a whole run.

    Yields:
        (first frame, f c h w), beginning at or before `first`. No more than one batch is held.
    """
    held, start, done = None, 0, 0  # a window's latents, its first frame, and the first frame not yet given
    for batch in batches_for(windows, size, first):
        for window, latents in zip(batch, latents_of(batch), strict=True):
            begin = int(window[0])
            if held is None:
                done = begin
            else:
                if overlap:
                    latents = continued(held[begin - start :], latents, overlap)
                joint = begin + overlap // 2  # half of the shared frames are the earlier window's
                yield done, held[done - start : joint - start]
                done = joint
            held, start = latents, begin
    assert held is not None
    yield done, held[done - start :]
