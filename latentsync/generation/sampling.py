"""From faces and audio to latents of new mouths: the denoising loop of a batch of windows.

All frames of a video share one noise (as published), so neighbouring windows give nearly the same latents and can be
cross-faded. The noise depends on the seed alone, not on the order of calls.

Axes: b batch, f frames, c channels, h w latent cells, s audio tokens, d their width.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from latentsync.training import diffusion

Unet = Callable[[Tensor, Tensor, Tensor], Tensor]  # (sample b 13 f h w, timesteps b, audio b f s d) -> noise b 4 f h w


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
    audio: b f s d, in the type of the network.
    steps: of DDIM, eta 0. guidance: against zero tokens; at 1 the unconditioned half is not computed.
    """
    assert masked.shape == reference.shape and audio.shape[:2] == masked.shape[:2], (masked.shape, audio.shape)
    masked, reference = masked.transpose(1, 2), reference.transpose(1, 2)
    latents = noise.to(masked).expand_as(masked)
    for t, following in diffusion.ddim_steps(steps):
        sample = diffusion.unet_input(latents, mask, masked, reference).to(audio.dtype)
        time = torch.full((len(sample),), t, device=sample.device)
        if guidance == 1:
            eps = unet(sample, time, audio)
        else:  # null first, as published
            both = torch.cat([torch.zeros_like(audio), audio])
            null, conditioned = unet(torch.cat([sample, sample]), torch.cat([time, time]), both).chunk(2)
            eps = null + guidance * (conditioned - null)
        latents = diffusion.ddim_step(latents, eps.float(), t, following)
    return latents.transpose(1, 2)
