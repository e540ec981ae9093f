"""The VAE between pixels and latents: diffusers' AutoencoderKL, published (sd-vae-ft-mse) or small and trained here.

Pixels are n 3 h w in [-1, 1]; moments are n 2c h/8 w/8, mean then log variance; latents are n c h/8 w/8, scaled to a
standard deviation of about 1 for the diffusion model. What stands in caches is moments: latents are drawn when used.
"""

from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

from latentsync.config import TrainVae
from latentsync.models import weights


def build(cfg: TrainVae) -> AutoencoderKL:
    """The small VAE of train_vae, untrained; its scaling factor is not known before training ends."""
    widths = list(cfg.block_out_channels)
    return AutoencoderKL(
        block_out_channels=widths,
        down_block_types=["DownEncoderBlock2D"] * len(widths),
        up_block_types=["UpDecoderBlock2D"] * len(widths),
        layers_per_block=1,
        latent_channels=cfg.latent_channels,
        norm_num_groups=_groups(widths),
        scaling_factor=1.0,
    )


def _groups(widths: list[int]) -> int:
    """The most groups (32 at most) that divide every width and leave four channels each, as the published VAE has.

    Fewer channels a group come close to instance norm, which loses how bright a picture is.
    """
    fitting = [n for n in range(1, 33) if all(w % n == 0 for w in widths) and min(widths) >= 4 * n]
    return max(fitting, default=1)


def save(path: Path, vae: AutoencoderKL, scaling_factor: float, **metadata: object) -> None:
    """Write the VAE with its configuration; `scaling_factor` is 1 / standard deviation of the training latents."""
    config = {key: value for key, value in vae.config.items() if not key.startswith("_")}
    weights.save(path, vae.state_dict(), config | {"scaling_factor": scaling_factor}, **metadata)


def load(path: Path) -> AutoencoderKL:
    """A frozen VAE from our file, or from a folder in diffusers' layout such as the published one."""
    if Path(path).is_dir():
        vae = AutoencoderKL.from_pretrained(path, local_files_only=True)
    else:
        state, metadata = weights.load(path)
        vae = weights.load_strictly(AutoencoderKL(**metadata["config"]), state, str(path))
    return vae.eval().requires_grad_(False)


def encode_moments(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    """Pixels -> moments (mean, log variance), unscaled."""
    return vae.encode(pixels).latent_dist.parameters


def mode(vae: AutoencoderKL, moments: Tensor) -> Tensor:
    """The most likely latents of the moments, scaled."""
    return moments.chunk(2, dim=1)[0] * vae.config.scaling_factor


def sample(vae: AutoencoderKL, moments: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Latents drawn from the moments, scaled: what training and published inference use."""
    mean, log_variance = moments.chunk(2, dim=1)
    noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype).to(mean.device)
    return (mean + (0.5 * log_variance.clamp(-30, 20)).exp() * noise) * vae.config.scaling_factor


def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Scaled latents -> pixels, about [-1, 1], not clamped; gradients pass to the latents."""
    return vae.decode(latents / vae.config.scaling_factor).sample
