"""The VAE between pixels and latents: diffusers' AutoencoderKL, published (sd-vae-ft-mse) or small and trained here.

Pixels are n 3 h w in [-1, 1]; moments are n 2c h/8 w/8, mean then log variance; latents are n c h/8 w/8, scaled to a
standard deviation of about 1 for the diffusion model. Caches store moments; latents are drawn when they are used.
"""

import json
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from jaxtyping import Float
from torch import Tensor

from latentsync.config import TrainVae
from latentsync.weights import files as weight_files
from latentsync.weights import layouts

Kind = TypeVar("Kind", AutoencoderKL, AutoencoderTiny)


def build(cfg: TrainVae) -> AutoencoderKL:
    """The small VAE of train_vae, untrained; its scaling factor is known only after training."""
    widths = list(cfg.block_out_channels)
    levels: dict[str, Any] = {  # annotated as tuples of one element
        "block_out_channels": widths,
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
    }
    return AutoencoderKL(
        **levels,
        layers_per_block=1,
        latent_channels=cfg.latent_channels,
        norm_num_groups=_groups(widths),
        scaling_factor=1.0,
    )


def _groups(widths: list[int]) -> int:
    """The most groups (32 at most) that divide every width and leave four channels each, as the published VAE has.

    Fewer channels per group come close to instance norm, which loses the brightness of a frame.
    """
    fitting = [n for n in range(1, 33) if all(w % n == 0 for w in widths) and min(widths) >= 4 * n]
    return max(fitting, default=1)


def save(path: Path, vae: AutoencoderKL, scaling_factor: float, **metadata: object) -> None:
    """Write the VAE with its configuration; `scaling_factor` is 1 / standard deviation of the training latents."""
    config = {key: value for key, value in vae.config.items() if not key.startswith("_")}
    weight_files.save(path, vae.state_dict(), config | {"scaling_factor": scaling_factor}, **metadata)


def load(path: Path) -> AutoencoderKL:
    """A frozen VAE from our file, or from a folder in diffusers' layout such as the published one.

    Raises:
        ValueError: a file is missing, damaged, or does not fit; diffusers would initialise missing tensors at random.
    """
    if Path(path).is_dir():
        vae = _from_folder(AutoencoderKL, Path(path))
    elif not weight_files.is_ours(path):
        raise ValueError(f"{path} is a VAE without its configuration; give the folder that holds it and config.json.")
    else:
        state, metadata = weight_files.load(path)
        try:
            vae = AutoencoderKL(**metadata["config"])
        except TypeError as error:
            raise ValueError(f"{path} was not written by train_vae ({error}).") from error
        weight_files.load_strictly(vae, state, str(path))
    return vae.eval().requires_grad_(False)


def load_preview(path: Path) -> AutoencoderTiny:
    """A frozen tiny decoder (TAESD) from a folder in diffusers' layout: approximate frames, many times faster.

    Raises:
        ValueError: as `load`.
    """
    return _from_folder(AutoencoderTiny, Path(path)).eval().requires_grad_(False)


def _from_folder(kind: type[Kind], folder: Path) -> Kind:
    config, names = folder / "config.json", weight_files.FOLDER_WEIGHTS[:2]
    files = [folder / name for name in names if (folder / name).is_file()]
    if not config.is_file() or not files:
        raise ValueError(
            f"{folder} lacks config.json or {names[0]}, so it is not a folder of diffusers' {kind.__name__}."
        )
    try:
        described = json.loads(config.read_text(encoding="utf-8"))
        if not isinstance(described, dict) or described.get("_class_name") != kind.__name__:
            raise ValueError(
                f"it describes {described.get('_class_name') if isinstance(described, dict) else described!r}"
            )
        network = cast(Kind, kind.from_config(described))  # a tuple only if it is asked for
    except (ValueError, TypeError, KeyError, IndexError, RuntimeError) as error:
        raise ValueError(f"{config} does not describe diffusers' {kind.__name__} ({str(error)[:100]}).") from error
    state = weight_files.read_foreign(files[0])
    return weight_files.load_strictly(network, layouts.diffusers_vae_state(state), str(files[0]), state)


def encode_moments(vae: AutoencoderKL, pixels: Float[Tensor, "n 3 h8 w8"]) -> Float[Tensor, "n c2 h w"]:
    """Pixels -> moments (mean, log variance), unscaled."""
    return vae.encode(pixels).latent_dist.parameters  # pyright: ignore[reportAttributeAccessIssue]  # a tuple only if asked for


def mode(vae: AutoencoderKL, moments: Float[Tensor, "n c2 h w"]) -> Float[Tensor, "n c h w"]:
    """The most likely latents of the moments, scaled: used by inference here (published inference draws them)."""
    return moments.chunk(2, dim=1)[0] * vae.config["scaling_factor"]


def sample(
    vae: AutoencoderKL, moments: Float[Tensor, "n c2 h w"], generator: torch.Generator | None = None
) -> Float[Tensor, "n c h w"]:
    """Latents drawn from the moments, scaled: what training and published inference use."""
    mean, log_variance = moments.chunk(2, dim=1)
    device = None if generator is None else generator.device
    noise = torch.randn(mean.shape, generator=generator, device=device, dtype=mean.dtype).to(mean.device)
    return (mean + (0.5 * log_variance.clamp(-30, 20)).exp() * noise) * vae.config["scaling_factor"]


def decode(vae: AutoencoderKL | AutoencoderTiny, latents: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 h8 w8"]:
    """Scaled latents -> pixels, about [-1, 1], not clamped; gradients pass to the latents.

    A preview decoder takes scaled latents; its own scaling factor is 1.
    """
    decoded = vae.decode(latents / vae.config["scaling_factor"])
    return decoded.sample  # pyright: ignore[reportAttributeAccessIssue]  # a tuple only if asked for
