"""From faces and audio to latents of new mouths, window by window, cross-faded where windows overlap.

All frames of a video share one noise (as published), so neighbouring windows give nearly the same latents and can be
cross-faded. The noise depends on the seed alone, not on the order of calls.

Axes: b batch, f frames, c channels, h w latent cells, s audio tokens, d their width.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from latentsync.training import diffusion

Unet = Callable[[Tensor, Tensor, Tensor], Tensor]  # (sample b 13 f h w, timesteps b, audio b f s d) -> noise b 4 f h w
Window = tuple[int, int]


def shared_noise(seed: int, height: int, width: int, channels: int = 4) -> Tensor:
    """One draw, 1 c 1 h w, on the CPU, so that a seed means the same on every device."""
    return diffusion.shared_noise((1, channels, 1, height, width), torch.Generator().manual_seed(seed))


@torch.inference_mode()
def denoise(
    unet: Unet,
    noise: Tensor,
    mask: Tensor,
    masked: Tensor,
    reference: Tensor,
    audio: Tensor,
    steps: int,
    guidance: float,
) -> Tensor:
    """Denoised latents b f c h w of windows.

    noise: 1 c 1 h w. mask: h w, 1 = keep. masked, reference: b f c h w, the faces without and with their mouths.
    audio: b f s d. steps: of DDIM, eta 0. guidance: against zero tokens; at 1 the unconditioned half is not computed.
    """
    assert masked.shape == reference.shape and audio.shape[:2] == masked.shape[:2], (masked.shape, audio.shape)
    masked, reference = masked.transpose(1, 2), reference.transpose(1, 2)
    latents = noise.to(masked).expand_as(masked)
    for t, following in diffusion.ddim_steps(steps):
        sample = diffusion.unet_input(latents, mask, masked, reference)
        time = torch.full((len(sample),), t, device=sample.device)
        if guidance == 1:
            eps = unet(sample, time, audio)
        else:  # null first, as published
            both = torch.cat([torch.zeros_like(audio), audio])
            null, conditioned = unet(torch.cat([sample, sample]), torch.cat([time, time]), both).chunk(2)
            eps = null + guidance * (conditioned - null)
        latents = diffusion.ddim_step(latents, eps, t, following)
    return latents.transpose(1, 2)


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
