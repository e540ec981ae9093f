"""Models for generation from weight files: shapes, face size and window stand in their metadata, nowhere else."""

from pathlib import Path
from typing import Any

import torch

from latentsync import registry
from latentsync.lipsync.generate import Models
from latentsync.models import audio_encoder, weights
from latentsync.models import vae as vaes
from latentsync.models.unet import UNet3D, UNetConfig

PUBLISHED = {  # what a published checkpoint does not say itself
    "frames": 16,
    "resolution": 256,
    "audio_encoder": {"backend": "whisper"},
}
UNTRAINED_SEED = 0


def load_models(
    unet: Path,
    vae: Path | None,
    *,
    trained: bool = True,
    resolution: int | None = None,
    whisper: Path | None = None,
) -> Models:
    """U-Net, VAE and audio encoder, frozen, on the GPU where there is one.

    Args:
        unet: weights of train_unet, or a published LatentSync checkpoint (.pt).
        vae: weights of train_vae or a folder in diffusers' layout; None: the published one of the weights folder.
        trained: False builds the same network with fresh, seeded weights, as a control.
        resolution: face size for a published checkpoint, 256 or 512; ours know theirs.
        whisper: file of Whisper's weights; None: from the weights folder.

    Raises:
        ValueError: a file is missing, does not fit, or is another one than the U-Net was trained with.
    """
    for path in filter(None, (unet, vae)):
        if not path.exists():
            raise ValueError(f"The weights {path} do not exist; train them first, or give another file.")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    state, facts = read_unet(unet)
    config = UNetConfig(**facts["config"])
    if trained:
        network = weights.load_strictly(UNet3D(config), state, str(unet))
    else:
        network = untrained(config)
    told, heard_by = facts["audio_encoder"], None
    vae = vae or registry.find("vae", key="generate without --vae")
    _require_same(unet, "VAE", facts.get("vae"), vae, "--vae", "extract_features.vae_weights")
    if told["backend"] == "whisper":
        heard_by = registry.find("whisper", whisper and str(whisper), "the audio encoder of the U-Net")
        _require_same(unet, "Whisper", told.get("weights"), heard_by, "--whisper", "extract_features.whisper_weights")
    sizes = {name: told[name] for name in ("width", "layers") if name in told}
    encoder = audio_encoder.build(told["backend"], path=heard_by, **sizes)
    encoder.encoder.to(device)
    return Models(
        network.eval().requires_grad_(False).to(device),
        vaes.load(vae).to(device),
        encoder,
        resolution or facts["resolution"],
        facts["frames"],
        device,
    )


def _require_same(unet: Path, what: str, trained_with: str | None, given: Path, option: str, key: str) -> None:
    """Ours say which files they were trained with; published checkpoints do not."""
    if trained_with is not None and weights.stamp(given) != trained_with:
        raise ValueError(
            f"{unet} was trained with another {what} (stamp {trained_with}) than {given} (stamp "
            f"{weights.stamp(given)}); name that one with {option}, or in a run with {key}."
        )


def read_unet(path: Path) -> tuple[weights.State, dict[str, Any]]:
    """Tensors and facts of a U-Net: ours, or a published checkpoint with or without motion modules."""
    if path.suffix == ".safetensors":
        return weights.load(path)
    state = weights.read_foreign(path)
    blocks = {key.split(".")[0] for key in state if "motion_modules" in key}
    motion = "all" if "down_blocks" in blocks else "decoder" if blocks else "none"
    return state, PUBLISHED | {"config": {"motion": motion}}


def untrained(config: UNetConfig) -> UNet3D:
    """The network as built, but for its last layer: that starts at zero, which would leave the noise as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(UNTRAINED_SEED)
        network = UNet3D(config)
        torch.nn.init.kaiming_uniform_(network.conv_out.weight, a=5**0.5)  # as PyTorch starts any convolution
    return network
