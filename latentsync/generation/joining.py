"""Which frames the network sees together, and how the latents of neighbouring windows are joined.

Axes: b batch, f frames, c channels, h w latent cells.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

Window = tuple[int, int]


def windows(length: int, frames: int, overlap: int) -> list[tuple[int, int]]:
    """Half-open windows over a span of `length` frames.

    Without overlap, as published: full windows, and the rest in a shorter last one. With overlap the last window is
    moved back until it is full, because the network's normalisation statistics depend on the number of frames.
    """
    assert 0 <= overlap < frames, (overlap, frames)
    step = frames - overlap
    starts = list(range(0, max(length - overlap, 1), step))
    if overlap and length > frames:
        starts = [start for start in starts if start + frames <= length]
        if starts[-1] + frames < length:
            starts.append(length - frames)
    return [(start, min(start + frames, length)) for start in starts]


def crossfade(before: Tensor, after: Tensor) -> Tensor:
    """Cross-fade from one window to the next over the frames they share, both f c h w."""
    assert before.shape == after.shape, (before.shape, after.shape)
    weight = torch.arange(1, len(before) + 1, device=before.device, dtype=before.dtype) / (len(before) + 1)
    return torch.lerp(before, after, weight[:, None, None, None])


def batches(windows: list[Window], size: int) -> Iterator[list[Window]]:
    """Successive windows in batches of at most `size`; the windows of a batch have the same length."""
    batch: list[Window] = []
    for window in windows:
        if batch and (len(batch) == size or window[1] - window[0] != batch[0][1] - batch[0][0]):
            yield batch
            batch = []
        batch.append(window)
    yield batch


def joined(
    windows: list[Window], size: int, latents_of: Callable[[list[Window]], Tensor]
) -> Iterator[tuple[int, Tensor]]:
    """Run the windows in order, `size` at a time, and give each frame's latents once no later window changes them.

    latents_of: windows of one length -> their latents b f c h w.

    Yields:
        (first frame, f c h w). No more than one batch is held.
    """
    tail = None
    following = iter([start for start, _ in windows[1:]] + [windows[-1][1]])
    for batch in batches(windows, size):
        for (start, _), latents in zip(batch, latents_of(batch), strict=True):
            if tail is not None and len(tail):
                latents = torch.cat([crossfade(tail, latents[: len(tail)]), latents[len(tail) :]])
            done = next(following) - start
            yield start, latents[:done]
            tail = latents[done:]
