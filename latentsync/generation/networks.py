"""The networks behind one generation, on one device, and the two ends that touch pixels: encode and decode.

Axes: f frames, c channels, h w latent cells, R side of the face in pixels.
"""

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentsync.audio.whisper import WhisperFeatures
from latentsync.faces.mask import keep_mask
from latentsync.generation import sampling
from latentsync.models import vae as vaes


@dataclass(frozen=True)
class Models:
    """The networks behind one generation, on one device."""

    unet: sampling.Unet
    vae: Any
    encoder: WhisperFeatures
    resolution: int
    """Side of the face, pixels."""
    frames: int
    """Frames per window, as in training."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    preview: Any = None
    """A tiny decoder in place of the VAE's: rough frames, quickly."""

    def autocast(self):
        """fp16 on a GPU, as published; float32 on a CPU."""
        return torch.autocast("cuda", torch.float16) if self.device.type == "cuda" else nullcontext()


@torch.inference_mode()
def encode(models: Models, faces: np.ndarray) -> Tensor:
    """Latents f 2c h w of faces uint8 (f, R, R, 3): with the mouth region blanked (mid grey), then as they are.

    The mode of the VAE's distribution. Sampling it for every frame, as published, adds noise that flickers.
    """
    pixels = torch.from_numpy(faces).to(models.device).permute(0, 3, 1, 2).float() / 127.5 - 1
    keep = torch.from_numpy(keep_mask(models.resolution).copy()).to(models.device)
    with models.autocast():
        moments = vaes.encode_moments(models.vae, torch.cat([pixels * keep, pixels])).float()
    return torch.cat(vaes.mode(models.vae, moments).chunk(2), dim=1)


@torch.inference_mode()
def decode(models: Models, latents: Tensor) -> np.ndarray:
    """Faces float32 (f, R, R, 3), RGB 0..255, of latents f c h w."""
    with models.autocast():
        pixels = vaes.decode(models.preview or models.vae, latents).float()
    return ((pixels.clamp(-1, 1) + 1) * 127.5).permute(0, 2, 3, 1).cpu().numpy()
