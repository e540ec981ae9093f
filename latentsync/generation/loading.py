"""The networks of one generation from files of weights; shapes, face size and window length are in their metadata."""

from pathlib import Path
from typing import Any

import torch

from latentsync.audio import whisper as audio_encoder
from latentsync.generation.networks import Models
from latentsync.models import vae as vaes
from latentsync.models.unet import UNet3D, UNetConfig
from latentsync.weights import files as weight_files
from latentsync.weights import layouts, registry

PUBLISHED = {"frames": 16, "audio_encoder": {"backend": "whisper"}}  # published files have no metadata
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
        vae: weights of train_vae or a folder in diffusers' layout; None: the published VAE of the weights folder.
        trained: False initialises the same network from a fixed seed, as a control.
        resolution: side of the face in pixels, 256 or 512; None: the one that the network was trained on.
        whisper: weights of Whisper; None: those of the weights folder.
        preview: folder of a tiny decoder for rough frames, quickly; None: the VAE decodes.

    Raises:
        ValueError: a file is missing, does not fit, or is not the one the U-Net was trained with.
    """
    for path in filter(None, (unet, vae)):
        if not path.exists():
            raise ValueError(f"The weights {path} do not exist; train them first, or give another file.")
    device, dtype = torch.device("cpu"), torch.float32
    if torch.cuda.is_available():
        device, dtype = torch.device("cuda"), torch.float16
    state, metadata = read_unet(unet)
    resolution = _resolution(unet, metadata, resolution)
    try:
        config = UNetConfig(**metadata["config"])
    except TypeError as error:
        raise ValueError(f"{unet} was not written by train_unet ({error}).") from error
    if trained:
        network = weight_files.build_with(lambda: UNet3D(config), state, str(unet))
    else:
        network = untrained(config)
    encoding, whisper_file = metadata["audio_encoder"], None
    vae = vae or registry.find("vae", key="generate without --vae")
    _require_same(unet, "VAE", metadata.get("vae"), vae, "--vae", "extract_features.vae_weights")
    if encoding["backend"] == "whisper":
        whisper_file = registry.find("whisper", whisper and str(whisper), "generate --weights")
        trained_with = encoding.get("weights")
        _require_same(unet, "Whisper", trained_with, whisper_file, "--whisper", "extract_features.whisper_weights")
    sizes = {name: encoding[name] for name in ("width", "layers") if name in encoding}
    encoder = audio_encoder.build(encoding["backend"], path=whisper_file, **sizes)
    if encoder.width != config.cross_attention_dim:
        raise ValueError(
            f"{unet} takes audio features of width {config.cross_attention_dim}, but {whisper_file or 'its encoder'} "
            f"gives {encoder.width}; Whisper tiny gives 384, small 768: name the right one with --whisper."
        )
    encoder.encoder.to(device)  # pyright: ignore[reportArgumentType]  # typed as the unbound Module.to
    moved: dict[str, Any] = {"device": device, "dtype": dtype}  # channels-last weights would cost copies in GroupNorm
    return Models(
        network.eval().requires_grad_(False).to(device, dtype),
        torch.nn.Module.to(vaes.load(vae), **moved),  # diffusers' own `to` warns of modules that do not exist
        encoder,
        resolution,
        metadata["frames"],
        device,
        dtype,
        torch.nn.Module.to(vaes.load_preview(preview), **moved) if preview else None,
        {
            name: weight_files.content_hash(path)
            for name, path in (("unet", unet), ("vae", vae), ("whisper", whisper_file), ("preview", preview))
            if path is not None
        }
        | ({} if trained else {"untrained": str(UNTRAINED_SEED)}),
    )


def _resolution(unet: Path, metadata: dict[str, Any], wanted: int | None) -> int:
    """The face size that the weights were trained on; any other gives grey patches instead of mouths (#271)."""
    trained_on = metadata.get("resolution")
    if trained_on is None and wanted is None:
        raise ValueError(
            f"{unet} is a LatentSync U-Net that does not say which faces it was trained on, and those of 256 px (1.0, "
            "1.5) and of 512 px (1.6) have the same shapes; add --resolution 256 or 512."
        )
    if None not in (trained_on, wanted) and trained_on != wanted:
        release = metadata.get("release", "these weights")
        fits = {256: "latentsync-1.5 (config/latentsync-256.yaml)", 512: "latentsync-1.6 (config/latentsync-512.yaml)"}
        raise ValueError(
            f"{unet} is {release}, trained on faces of {trained_on} px, not {wanted}; leave out --resolution, or give "
            f"weights for {wanted} px" + (f", such as {fits[wanted]}." if wanted in fits else ".")
        )
    resolution = trained_on or wanted
    assert resolution is not None
    return resolution


def _require_same(unet: Path, what: str, trained_with: str | None, given: Path, option: str, key: str) -> None:
    """Our files record which files they were trained with; published ones do not."""
    if trained_with is not None and weight_files.content_hash(given) != trained_with:
        raise ValueError(
            f"{unet} was trained with another {what} (content hash {trained_with}) than {given} (content hash "
            f"{weight_files.content_hash(given)}); name that one with {option}, or in a run with {key}."
        )


def read_unet(path: Path) -> tuple[weight_files.State, dict[str, Any]]:
    """Tensors and metadata of a U-Net: ours, or a published file, whose release determines the face size.

    Raises:
        ValueError: the file is damaged, or is not a U-Net of this kind.
    """
    if weight_files.is_ours(path):
        state, metadata = weight_files.load(path)
        missing = [name for name in ("frames", "resolution", "audio_encoder") if name not in metadata]
        if missing:
            recognised = layouts.recognise(state) or "It is another network."
            raise ValueError(f"{path} was not written by train_unet: it lacks {', '.join(missing)}. {recognised}")
        return state, metadata
    release = registry.known_as(path)
    state = weight_files.read_foreign(path, intact=release is not None and release.files[0].sha256 is not None)
    shape = layouts.unet_shape(state)
    if shape is None:
        recognised = layouts.recognise(state) or "Its kind is not known."
        raise ValueError(f"{path} holds no LatentSync U-Net. {recognised}")
    metadata = PUBLISHED | {"config": shape}
    if release is not None and release.resolution is not None:
        metadata |= {"resolution": release.resolution, "release": release.what}
    return state, metadata


def untrained(config: UNetConfig) -> UNet3D:
    """The network as initialised, except its last layer, whose zeros would return the noise unchanged."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(UNTRAINED_SEED)
        network = UNet3D(config)
        torch.nn.init.kaiming_uniform_(network.conv_out.weight, a=5**0.5)  # as PyTorch starts any convolution
    return network
