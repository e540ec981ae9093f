"""Weights have one type from loading on, and half precision draws what full precision draws."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from latentsync.config import Generate, TrainVae
from latentsync.generation.networks import Models
from latentsync.models import vae as vaes
from latentsync.models.unet import UNet3D, UNetConfig


class Casts(TorchDispatchMode):
    """Counts operations that copy one of some tensors to another type or place."""

    def __init__(self, weights):
        super().__init__()
        self.places, self.count = {weight.data_ptr() for weight in weights}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "_to_copy" in str(func) and args[0].data_ptr() in self.places:
            self.count += 1
        return func(*args, **(kwargs or {}))


def small_models(dtype: torch.dtype) -> Models:
    torch.manual_seed(0)
    shape = UNetConfig(block_out_channels=(16, 16), cross_attention_dim=16, attention_heads=2, norm_groups=8)
    unet, vae = UNet3D(shape).eval(), vaes.build(TrainVae(block_out_channels=(8, 8, 8, 16))).eval()
    torch.nn.init.normal_(unet.conv_out.weight, std=0.1)
    return Models(unet.to(dtype), vae.to(dtype), None, 64, 8, dtype=dtype)


def drawn(models: Models) -> torch.Tensor:
    """Faces of one window from fixed crops and audio."""
    generator = torch.Generator().manual_seed(1)
    faces = torch.randint(0, 256, (8, 64, 64, 3), generator=generator, dtype=torch.uint8).numpy()
    tokens = torch.randn(1, 8, 50, 16, generator=generator).to(models.dtype)
    latents = models.denoise(models.encode(faces)[None], tokens, Generate(steps=4))
    return models.decode(latents[0])


def test_no_weight_is_cast_in_a_forward_pass():
    models = small_models(torch.bfloat16)
    parameters = [*models.unet.parameters(), *models.vae.parameters()]
    drawn(models)
    with Casts(parameters) as casts:
        drawn(models)
    assert casts.count == 0
    with Casts(parameters) as casts, torch.autocast("cpu", torch.float16):  # the way it was done before is counted
        drawn(models)
    assert casts.count > 50


def test_half_precision_draws_what_full_precision_draws():
    full, half = drawn(small_models(torch.float32)), drawn(small_models(torch.float16))
    assert full.dtype == half.dtype == torch.float32
    away = (full - half).abs()
    assert away.mean() < 0.25 and away.max() < 3  # grey levels
