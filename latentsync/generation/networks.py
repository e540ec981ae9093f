"""The networks behind one generation, on one device: audio encoder, VAE and U-Net, and the loop that denoises.

Weights have one type from the moment they are loaded: fp16 on a GPU, as published, float32 on a CPU. Whatever enters a
network is converted to that type; latents between denoising steps, and pixels, are float32.

Axes: b batch, f frames, c channels, h w latent cells, s audio tokens, d their width, R side of the face in pixels.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from latentsync.audio.whisper import WhisperFeatures, tokens_at
from latentsync.config import Compile, Generate
from latentsync.faces.mask import keep_mask, latent_mask
from latentsync.generation import sampling
from latentsync.generation.graphs import Replayed
from latentsync.models import vae as vaes
from latentsync.models.unet import UNet3D

VAE_PIXELS = 2**19  # per call: 8 faces of 256 px, 2 of 512; they take about 2 GB


@dataclass(frozen=True)
class Models:
    """The networks of one release or run; a `drawing.Generator`."""

    unet: sampling.Unet
    vae: Any
    encoder: WhisperFeatures
    resolution: int
    """Side of the face, pixels."""
    frames: int
    """Frames per window, as in training."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    """Of the weights of U-Net and VAE."""
    preview: Any = None
    """A tiny decoder in place of the VAE's: rough frames, quickly."""
    weights: Mapping[str, str] = field(default_factory=dict)
    """Content hashes of the files, by network."""
    checks: list[Callable[[], None]] = field(default_factory=list)
    """Called before every denoising step; see `stoppable`."""

    @contextmanager
    def stoppable(self, check: Callable[[], None], *others: object) -> Iterator[None]:
        """Call `check` before every denoising step and, on a CPU, every layer; what it raises ends the generation.

        `others`: further networks, such as a restorer's. On a GPU a step takes a tenth of a second, and its layers are
        not called one by one (graphs.py).
        """
        networks = [self.unet, self.vae, self.preview, self.encoder.encoder, *others]
        if self.device.type != "cpu":
            networks = []
        layers = (layer for network in networks if isinstance(network, nn.Module) for layer in network.modules())
        handles = [layer.register_forward_pre_hook(lambda *_: check()) for layer in layers]
        self.checks.append(check)
        try:
            yield
        finally:
            self.checks.remove(check)
            for handle in handles:
                handle.remove()

    def _check(self) -> None:
        for check in self.checks:
            check()

    @cached_property
    def keep(self) -> Tensor:
        """The mouth mask over pixels, R R; 1 keeps a pixel."""
        return torch.from_numpy(keep_mask(self.resolution).copy()).to(self.device)

    @cached_property
    def latent_keep(self) -> Tensor:
        """The mouth mask over latent cells, h w."""
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        return torch.from_numpy(latent_mask(self.resolution, factor)).to(self.device)

    def listen(self, samples: np.ndarray) -> Callable[[np.ndarray], Tensor]:
        """Samples float32 [n], 16 kHz mono -> a function from feature rows int64 [f] to audio tokens f s d."""
        features = self.encoder.rows(samples)
        return lambda rows: cast(Tensor, tokens_at(features, rows)).to(self.device, self.dtype)

    @torch.inference_mode()
    def encode(self, faces: np.ndarray) -> Tensor:
        """Latents f 2c h w of faces uint8 (f, R, R, 3): with the mouth region blanked (mid grey), then as they are.

        The mode of the VAE's distribution. Sampling it for every frame, as published, adds noise that flickers.
        """
        given = torch.from_numpy(faces)
        if self.device.type == "cuda":  # from there it is copied while the GPU works on what came before
            given = given.pin_memory()
        return torch.cat([self._encode(part) for part in given.split(self._at_once)])

    def _encode(self, faces: Tensor) -> Tensor:
        pixels = faces.to(self.device, non_blocking=True).permute(0, 3, 1, 2).float() / 127.5 - 1
        moments = vaes.encode_moments(self.vae, torch.cat([pixels * self.keep, pixels]).to(self.dtype)).float()
        return torch.cat(vaes.mode(self.vae, moments).chunk(2), dim=1)

    @property
    def _at_once(self) -> int:
        """Faces per call of the VAE, whose memory must not grow with the number of windows."""
        return max(1, VAE_PIXELS // self.resolution**2)

    @torch.inference_mode()
    def denoise(self, conditioning: Tensor, tokens: Tensor, cfg: Generate) -> Tensor:
        """Latents b f c h w of windows, from their conditioning b f 2c h w and audio tokens b f s d."""
        n, mask = len(conditioning), self.latent_keep
        missing = (cfg.batch_size or n) - n
        if cfg.compile == "compile" and missing > 0:  # less work than to compile for another batch size
            last = [-1] * missing
            conditioning, tokens = (torch.cat([given, given[last]]) for given in (conditioning, tokens))
        height, width = mask.shape
        noise = sampling.shared_noise(cfg.seed, height, width, self.vae.config.latent_channels).to(self.device)
        masked, reference = conditioning.chunk(2, dim=2)
        guided = cfg.guided_from, cfg.guided_to
        given = noise, mask, masked, reference, tokens, cfg.steps, cfg.guidance, cfg.solver, guided, cfg.reuse
        return sampling.denoise(self.network(cfg.compile), *given, before_step=self._check)[:n]

    def network(self, mode: Compile) -> sampling.Unet:
        """The U-Net, called as the configuration's `compile` says."""
        if mode not in self._prepared:
            assert mode != "none" and isinstance(self.unet, UNet3D)
            self._prepared[mode] = Replayed(self.unet, self.frames, mode)
        return self._prepared[mode]

    @cached_property
    def _prepared(self) -> dict[str, sampling.Unet]:
        return {"none": self.unet}

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Faces float32 f 3 R R, RGB 0..255, of latents f c h w."""
        decoder = self.preview or self.vae
        return torch.cat([self._decode(decoder, part) for part in latents.split(self._at_once)])

    def _decode(self, decoder: Any, latents: Tensor) -> Tensor:
        pixels = vaes.decode(decoder, latents.to(self.dtype)).float()
        return (pixels.clamp(-1, 1) + 1) * 127.5
