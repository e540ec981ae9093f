"""Models for generation from weight files: shapes, face size and window stand in their metadata, nowhere else."""

from pathlib import Path
from typing import Any

import torch

from latentsync.audio import whisper as audio_encoder
from latentsync.generation.pipeline import Models
from latentsync.models import vae as vaes
from latentsync.models.unet import UNet3D, UNetConfig
from latentsync.weights import files as weight_files
from latentsync.weights import layouts, registry

PUBLISHED = {"frames": 16, "audio_encoder": {"backend": "whisper"}}  # what a published checkpoint does not say itself
UNTRAINED_SEED = 0


def load_models(
    unet: Path,
    vae: Path | None,
    *,
    trained: bool = True,
    resolution: int | None = None,
    whisper: Path | None = None,
    preview: Path | None = None,
) -> Models:
    """U-Net, VAE and audio encoder, frozen, on the GPU where there is one.

    Args:
        unet: weights of train_unet, or a published LatentSync checkpoint (.pt).
        vae: weights of train_vae or a folder in diffusers' layout; None: the published one of the weights folder.
        trained: False builds the same network with fresh, seeded weights, as a control.
        resolution: face size that is wanted, 256 or 512; None: the one that the network was trained on.
        whisper: file of Whisper's weights; None: from the weights folder.
        preview: folder of a tiny decoder for rough, quick pictures; None: the VAE decodes.

    Raises:
        ValueError: a file is missing, does not fit, or is another one than the U-Net was trained with.
    """
    for path in filter(None, (unet, vae)):
        if not path.exists():
            raise ValueError(f"The weights {path} do not exist; train them first, or give another file.")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    state, facts = read_unet(unet)
    resolution = _resolution(unet, facts, resolution)
    try:
        config = UNetConfig(**facts["config"])
    except TypeError as error:
        raise ValueError(f"{unet} was not written by train_unet ({error}).") from error
    if trained:
        network = weight_files.build_with(lambda: UNet3D(config), state, str(unet))
    else:
        network = untrained(config)
    told, heard_by = facts["audio_encoder"], None
    vae = vae or registry.find("vae", key="generate without --vae")
    _require_same(unet, "VAE", facts.get("vae"), vae, "--vae", "extract_features.vae_weights")
    if told["backend"] == "whisper":
        heard_by = registry.find("whisper", whisper and str(whisper), "generate --weights")
        _require_same(unet, "Whisper", told.get("weights"), heard_by, "--whisper", "extract_features.whisper_weights")
    sizes = {name: told[name] for name in ("width", "layers") if name in told}
    encoder = audio_encoder.build(told["backend"], path=heard_by, **sizes)
    if encoder.width != config.cross_attention_dim:
        raise ValueError(
            f"{unet} hears audio features {config.cross_attention_dim} wide, but {heard_by or 'its encoder'} gives "
            f"{encoder.width}; Whisper tiny gives 384, small 768: name the right one with --whisper."
        )
    encoder.encoder.to(device)
    return Models(
        network.eval().requires_grad_(False).to(device),
        vaes.load(vae).to(device),
        encoder,
        resolution,
        facts["frames"],
        device,
        vaes.load_preview(preview).to(device) if preview else None,
    )


def _resolution(unet: Path, facts: dict[str, Any], wanted: int | None) -> int:
    """The face size that the weights were trained on; another one gives grey patches instead of mouths (#271)."""
    trained_on = facts.get("resolution")
    if trained_on is None and wanted is None:
        raise ValueError(
            f"{unet} is a LatentSync U-Net that does not say which faces it was trained on, and those of 256 px (1.0, "
            "1.5) and of 512 px (1.6) have the same shapes; say --resolution 256 or 512."
        )
    if None not in (trained_on, wanted) and trained_on != wanted:
        release = facts.get("release", "these weights")
        fits = {256: "latentsync-1.5 (config/latentsync-256.yaml)", 512: "latentsync-1.6 (config/latentsync-512.yaml)"}
        raise ValueError(
            f"{unet} is {release}, trained on faces of {trained_on} px, not {wanted}; leave --resolution away, or give "
            f"weights for {wanted} px" + (f", such as {fits[wanted]}." if wanted in fits else ".")
        )
    return trained_on or wanted


def _require_same(unet: Path, what: str, trained_with: str | None, given: Path, option: str, key: str) -> None:
    """Ours say which files they were trained with; published checkpoints do not."""
    if trained_with is not None and weight_files.content_hash(given) != trained_with:
        raise ValueError(
            f"{unet} was trained with another {what} (stamp {trained_with}) than {given} (stamp "
            f"{weight_files.content_hash(given)}); name that one with {option}, or in a run with {key}."
        )


def read_unet(path: Path) -> tuple[weight_files.State, dict[str, Any]]:
    """Tensors and facts of a U-Net: ours, or a published checkpoint, whose release tells the face size.

    Raises:
        ValueError: the file is damaged, or carries what no network for faces carries.
    """
    if weight_files.is_ours(path):
        state, facts = weight_files.load(path)
        missing = [name for name in ("frames", "resolution", "audio_encoder") if name not in facts]
        if missing:
            looks = layouts.recognise(state) or "It is another network."
            raise ValueError(f"{path} was not written by train_unet: it lacks {', '.join(missing)}. {looks}")
        return state, facts
    release = registry.known_as(path)
    state = weight_files.read_foreign(path, intact=release is not None and release.files[0].sha256 is not None)
    shape = layouts.unet_shape(state)
    if shape is None:
        looks = layouts.recognise(state) or "It looks like nothing that this project knows."
        raise ValueError(f"{path} holds no LatentSync U-Net. {looks}")
    facts = PUBLISHED | {"config": shape}
    if release is not None and release.resolution is not None:
        facts |= {"resolution": release.resolution, "release": release.what}
    return state, facts


def untrained(config: UNetConfig) -> UNet3D:
    """The network as built, but for its last layer: that starts at zero, which would leave the noise as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(UNTRAINED_SEED)
        network = UNet3D(config)
        torch.nn.init.kaiming_uniform_(network.conv_out.weight, a=5**0.5)  # as PyTorch starts any convolution
    return network
