"""Diffusion as LatentSync does it: the schedule, the noise of a clip, one-step x0, and DDIM.

Axes: b batch, c channels, f frames, h w; t is diffusion time, 0 .. 999. abar_t is the share of signal power left at t:
x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps (DDPM, arXiv 2006.11239, Eq. 4).
"""

from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

Clip = Float[Tensor, "b c f h w"]

TRAIN_TIMESTEPS = 1000

BETA_START, BETA_END = 0.00085, 0.012


@lru_cache
def alphas_cumprod() -> Float[Tensor, " 1000"]:
    """abar_t for t = 0 .. 999, float32: betas are squares of a line ("scaled linear", Stable Diffusion)."""
    betas = torch.linspace(BETA_START**0.5, BETA_END**0.5, TRAIN_TIMESTEPS) ** 2
    return (1 - betas).cumprod(0)


def _abar(t: Tensor, like: Tensor) -> Tensor:
    """abar_t for every item of a batch, float32, shaped to multiply it."""
    return alphas_cumprod().to(like.device)[t.to(like.device)].reshape(-1, *[1] * (like.dim() - 1))


def add_noise(
    x0: Float[Tensor, " b *shape"], eps: Float[Tensor, " b *shape"], t: Int[Tensor, " b"]
) -> Float[Tensor, " b *shape"]:
    """x_t from x_0 and noise; t (b,) (DDPM Eq. 4)."""
    abar = _abar(t, x0)
    return (abar.sqrt() * x0 + (1 - abar).sqrt() * eps).to(x0.dtype)


def x0_from_eps(
    x_t: Float[Tensor, " b *shape"], eps: Float[Tensor, " b *shape"], t: Int[Tensor, " b"]
) -> Float[Tensor, " b *shape"]:
    """The one-step estimate of x_0 from predicted noise; t (b,) (DDPM Eq. 4 solved for x_0), on which stage 2 works.

    Always in float32: upstream rounds abar to the prediction's type, which in fp16 costs up to 0.04 at t = 951.
    """
    abar = _abar(t, x_t)
    return (x_t.float() - (1 - abar).sqrt() * eps.float()) / abar.sqrt()


def mixed_noise(
    shape: tuple[int, int, int, int, int], alpha: float = 1.0, generator: torch.Generator | None = None
) -> Clip:
    """Noise for training, b c f h w: a part shared by all frames and a part per frame (PYoCo, arXiv 2305.10474).

    eps_f = sqrt(a^2 / (1 + a^2)) shared + sqrt(1 / (1 + a^2)) own_f, the paper's mixed noise model. Variance 1;
    the covariance between frames is alpha^2 / (1 + alpha^2), one half for the published alpha of 1.
    """
    b, c, f, h, w = shape
    shared = torch.randn(b, c, 1, h, w, generator=generator)
    own = torch.randn(b, c, f, h, w, generator=generator)
    return (alpha * shared + own) / (1 + alpha**2) ** 0.5


def shared_noise(shape: tuple[int, int, int, int, int], generator: torch.Generator | None = None) -> Clip:
    """Noise for inference, b c f h w: one draw, the same for every frame, as published."""
    b, c, f, h, w = shape
    return torch.randn(b, c, 1, h, w, generator=generator).expand(shape).clone()


def unet_input(noisy: Clip, mask: Float[Tensor, "..."], masked: Clip, reference: Clip) -> Float[Tensor, "b 13 f h w"]:
    """The U-Net's 13 channels in their order, b 13 f h w; the mask (1 = keep) may lack batch or frames."""
    return torch.cat([noisy, mask.to(noisy).expand_as(noisy[:, :1]), masked, reference], dim=1)


def ddim_steps(steps: int) -> list[tuple[int, int]]:
    """The pairs (t, next lower t) that DDIM visits, "leading" spacing with an offset of 1: 951, 901, .. 51, 1 for 20.

    steps: 1 to 999. Above 500 the stride is 1 and the schedule starts at t = steps, as in diffusers. The last pair ends
    below 0, where abar_0 = 0.99915 is used and not 1 (set_alpha_to_one is false).
    """
    stride = TRAIN_TIMESTEPS // steps
    return [(step * stride + 1, step * stride + 1 - stride) for step in reversed(range(steps))]


def ddim_step(
    x_t: Float[Tensor, " *shape"], eps: Float[Tensor, " *shape"], t: int, following: int
) -> Float[Tensor, " *shape"]:
    """One step from t down to `following` without new noise (DDIM, arXiv 2010.02502, Eq. 12 with sigma = 0).

    Gives the same numbers as diffusers' DDIMScheduler with LatentSync's settings; a test compares them.
    """
    abar, abar_next = (float(alphas_cumprod()[max(time, 0)]) for time in (t, following))
    x0 = (x_t - (1 - abar) ** 0.5 * eps) / abar**0.5
    return abar_next**0.5 * x0 + (1 - abar_next) ** 0.5 * eps
