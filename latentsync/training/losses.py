"""The losses of LatentSync's second stage (arXiv 2412.09262, Sec. 3.2 to 3.4); stage 1 uses the first alone.

Each takes tensors and returns a scalar. Pixels are in [-1, 1].
Axes: b batch, c channels, f frames, h w, d embedding.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Num
from torch import Tensor

Clip = Float[Tensor, "b c f h w"]
Scalar = Float[Tensor, ""]


def recon(predicted: Float[Tensor, " *shape"], noise: Float[Tensor, " *shape"]) -> Scalar:
    """Mean squared error of the noise prediction, E |eps - eps_theta(x_t)|^2 (DDPM, arXiv 2006.11239, Eq. 14)."""
    return F.mse_loss(predicted.float(), noise.float())


def cosine(visual: Float[Tensor, "b d"], audio: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
    """Cosine of rows of unit vectors, float32, clamped to [1e-6, 1 - 1e-6]: (b, d), (b, d) -> (b,).

    Rounding gives 1.0000004 for equal vectors, which binary cross entropy rejects; at 0 and 1 its gradient is 1e12.
    """
    return F.cosine_similarity(visual.float(), audio.float(), dim=1).clamp(1e-6, 1 - 1e-6)


def sync(visual: Float[Tensor, "b d"], audio: Float[Tensor, "b d"], y: Tensor) -> Scalar:
    """-y log cos(v, a) - (1 - y) log(1 - cos(v, a)): y (b,) or (b, 1), 1 for pairs in sync, 0 for the others.

    Training SyncNet uses both (SyncNet's contrastive pairs with Wav2Lip's loss, arXiv 2008.10010, Eq. 2); training the
    U-Net uses 1 throughout. A clamped cosine has no gradient.
    """
    with torch.autocast(visual.device.type, enabled=False):  # CUDA's autocast rejects this loss for every type
        return F.binary_cross_entropy(cosine(visual, audio), y.float().reshape(-1))


def lower_half(pixels: Num[Tensor, "*n h w"]) -> Num[Tensor, "*n h2 w"]:
    """Rows h/2 .. h of the last but one axis."""
    return pixels[..., pixels.shape[-2] // 2 :, :]


def frames_on_channels(pixels: Num[Tensor, "b c f h w"]) -> Num[Tensor, "b fc h w"]:
    """b c f h w -> b (f c) h w, frame first: what StableSyncNet takes."""
    return pixels.transpose(1, 2).flatten(1, 2)


def frames_on_batch(pixels: Num[Tensor, "b c f h w"]) -> Num[Tensor, "bf c h w"]:
    """b c f h w -> (b f) c h w."""
    return pixels.transpose(1, 2).flatten(0, 1)


def resize_bicubic(pixels: Float[Tensor, "n c h w"], size: int) -> Float[Tensor, "n c {size} {size}"]:
    """Bicubic without antialias, as published, before SyncNet and TREPA: n c h w -> n c size size."""
    if pixels.shape[-2:] == (size, size):
        return pixels
    return F.interpolate(pixels, size=(size, size), mode="bicubic", align_corners=False)


def lpips(distance: Callable[[Tensor, Tensor], Tensor], fake: Clip, real: Clip) -> Scalar:
    """Perceptual distance (arXiv 1801.03924) of the lower halves, mean over frames: b c f h w each."""
    return distance(frames_on_batch(lower_half(fake)), frames_on_batch(lower_half(real))).mean()


def trepa(features_fake: Float[Tensor, "b d"], features_real: Float[Tensor, "b d"]) -> Scalar:
    """Temporal representation alignment, MSE of T(fake) and T(real): (b, d) features of clips, normalised here.

    The mean is over elements too, so this is the squared distance divided by d; hence the weight of 10.
    """
    return F.mse_loss(F.normalize(features_fake.float(), dim=1), F.normalize(features_real.float(), dim=1))
