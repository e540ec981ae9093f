"""Weights have one type from loading on, and half precision draws what full precision draws."""

from contextlib import ExitStack

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from latentsync.audio import whisper
from latentsync.config import Generate, TrainVae
from latentsync.generation.networks import Models
from latentsync.models import vae as vaes
from latentsync.models.unet import UNet3D, UNetConfig


class Casts(TorchDispatchMode):
    """Counts operations that convert one of some tensors to another type."""

    def __init__(self, weights):
        super().__init__()
        self.places, self.count = {weight.data_ptr() for weight in weights}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = args[0] if args else None
        if isinstance(given, torch.Tensor) and str(func).startswith(("aten.to.", "aten._to_copy.")):
            self.count += given.data_ptr() in self.places and result.dtype != given.dtype
        return result


def small_models(dtype: torch.dtype) -> Models:
    torch.manual_seed(0)
    shape = UNetConfig(block_out_channels=(16, 16), cross_attention_dim=16, attention_heads=2, norm_groups=8)
    unet, vae = UNet3D(shape).eval(), vaes.build(TrainVae(block_out_channels=(8, 8, 8, 16))).eval()
    torch.nn.init.normal_(unet.conv_out.weight, std=0.1)
    encoder = whisper.build("embedded", width=16, layers=1)
    return Models(unet.to(dtype), torch.nn.Module.to(vae, dtype), encoder, 64, 8, dtype=dtype)


def drawn(models: Models) -> torch.Tensor:
    """Faces of one window from fixed crops and audio."""
    generator = torch.Generator().manual_seed(1)
    faces = torch.randint(0, 256, (8, 64, 64, 3), generator=generator, dtype=torch.uint8).numpy()
    tokens = torch.randn(1, 8, 50, 16, generator=generator).to(models.dtype)
    latents = models.denoise(models.encode(faces)[None], tokens, Generate(steps=4))
    return models.decode(latents[0])


def n_casts(models: Models, *modes) -> int:
    """Casts of weights in the second of two passes."""
    drawn(models)
    with Casts([*models.unet.parameters(), *models.vae.parameters()]) as casts, ExitStack() as stack:
        for mode in modes:
            stack.enter_context(mode)
        drawn(models)
    return casts.count


def test_no_weight_is_cast_in_a_forward_pass():
    assert n_casts(small_models(torch.bfloat16)) == 0
    # Weights of float32 under autocast, as it was done before, are counted.
    assert n_casts(small_models(torch.float32), torch.autocast("cpu", torch.bfloat16)) > 50


def test_half_precision_draws_what_full_precision_draws():
    full, half = drawn(small_models(torch.float32)), drawn(small_models(torch.float16))
    assert full.dtype == half.dtype == torch.float32
    away = (full - half).abs()
    assert away.mean() < 0.25 and away.max() < 3  # grey levels


def test_a_generation_stops_at_the_next_layer():
    class Stopped(Exception):
        pass

    models, calls = small_models(torch.float32), []

    def check():
        calls.append(1)
        if len(calls) == stop_at:
            raise Stopped

    stop_at = None
    with models.stoppable(check):
        expected = drawn(models)
    every = len(calls)
    assert every > 200  # layers of the U-Net in each of four steps, and those of the VAE
    for stop_at in (1, every // 2, every):
        calls.clear()
        with pytest.raises(Stopped), models.stoppable(check):
            drawn(models)
        assert len(calls) == stop_at
    calls.clear()
    torch.testing.assert_close(drawn(models), expected, rtol=0, atol=0)  # it works on as before, and asks nobody
    assert not calls and not models.checks
