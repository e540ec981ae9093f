"""A folder like results/<run> with small, untrained networks, as training leaves them."""

from dataclasses import asdict
from pathlib import Path


def small_run(folder: Path) -> Path:
    """Write a U-Net and a VAE of 64 px into a folder; returns it."""
    import torch

    from latentsync.config import TrainVae
    from latentsync.models import vae as vaes
    from latentsync.models.unet import UNet3D, UNetConfig
    from latentsync.weights import files as weight_files

    torch.manual_seed(0)
    vaes.save(folder / "train_vae/vae.safetensors", vaes.build(TrainVae(block_out_channels=(8, 8, 8, 16))), 1.0)
    shape = UNetConfig(block_out_channels=(16, 16), cross_attention_dim=16, attention_heads=2, norm_groups=8)
    metadata = {"frames": 8, "resolution": 64, "audio_encoder": {"backend": "embedded", "width": 16, "layers": 1}}
    unet = folder / "train_unet_stage2/unet.safetensors"
    weight_files.save(unet, UNet3D(shape).state_dict(), asdict(shape), **metadata)
    return folder
