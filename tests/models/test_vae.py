"""The small VAE: its shapes, its file, and how latents come out of moments."""

import math

import pytest
import torch

from latentsync.config import TrainVae
from latentsync.models import vae as vaes

SMALL = TrainVae(block_out_channels=(8, 16), latent_channels=3)


@pytest.fixture
def vae():
    torch.manual_seed(0)
    return vaes.build(SMALL).eval()


@pytest.fixture
def pixels():
    return torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1


@torch.no_grad()
def test_shapes(vae, pixels):
    moments = vaes.encode_moments(vae, pixels)
    assert moments.shape == (2, 6, 8, 12)  # one level less than widths: half the size
    assert vaes.sample(vae, moments).shape == (2, 3, 8, 12)
    assert vaes.decode(vae, vaes.mode(vae, moments)).shape == pixels.shape


@torch.no_grad()
def test_a_saved_vae_is_the_same_vae_with_its_scale(vae, pixels, tmp_path):
    vaes.save(tmp_path / "vae.safetensors", vae, 0.7, trained_steps=3)
    loaded = vaes.load(tmp_path / "vae.safetensors")
    assert loaded.config.scaling_factor == 0.7 and not loaded.training
    assert all(not parameter.requires_grad for parameter in loaded.parameters())
    moments = vaes.encode_moments(vae, pixels)
    assert torch.equal(vaes.encode_moments(loaded, pixels), moments)
    torch.testing.assert_close(vaes.mode(loaded, moments), 0.7 * moments[:, :3])
    torch.testing.assert_close(vaes.decode(loaded, 0.7 * moments[:, :3]), vaes.decode(vae, moments[:, :3]))


@torch.no_grad()
def test_a_folder_of_diffusers_loads(vae, pixels, tmp_path):
    vae.register_to_config(scaling_factor=0.18215)
    vae.save_pretrained(tmp_path / "sd-vae-ft-mse")
    loaded = vaes.load(tmp_path / "sd-vae-ft-mse")
    assert loaded.config.scaling_factor == 0.18215
    assert torch.equal(vaes.encode_moments(loaded, pixels), vaes.encode_moments(vae, pixels))


def test_another_file_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ValueError, match="give the folder that holds it"):
        vaes.load(tmp_path / "foreign.safetensors")


def test_sampled_latents_have_the_moments_statistics(vae):
    mean, log_variance = torch.full((1, 3, 100, 100), 2.0), torch.full((1, 3, 100, 100), -2.0)
    vae.register_to_config(scaling_factor=0.5)
    moments = torch.cat([mean, log_variance], dim=1)
    latents = vaes.sample(vae, moments, torch.Generator().manual_seed(0))
    assert latents.mean() == pytest.approx(1.0, abs=0.01)
    assert latents.std() == pytest.approx(0.5 * math.exp(-1), abs=0.01)
    assert torch.equal(latents, vaes.sample(vae, moments, torch.Generator().manual_seed(0)))
    assert torch.equal(vaes.mode(vae, moments), torch.ones(1, 3, 100, 100))


def test_sampling_is_diffusers_sampling(vae, pixels):
    distribution = vae.encode(pixels).latent_dist
    theirs = distribution.sample(torch.Generator().manual_seed(4))
    torch.testing.assert_close(vaes.sample(vae, distribution.parameters, torch.Generator().manual_seed(4)), theirs)


def test_gradients_pass_to_latents_of_a_frozen_vae(vae):
    vae.requires_grad_(False)
    latents = torch.randn(1, 3, 8, 8, requires_grad=True)
    vaes.decode(vae, latents).square().mean().backward()
    assert latents.grad.norm() > 0


@pytest.mark.parametrize(
    "widths, groups", [((128, 256, 512, 512), 32), ((16, 32, 48, 64), 4), ((8, 16), 2), ((6, 9), 1), ((3, 5), 1)]
)
def test_groups_keep_four_channels_together(widths, groups):
    vae = vaes.build(TrainVae(block_out_channels=widths))
    assert vae.config.norm_num_groups == groups


def published_names(state):
    """As sd-vae-ft-mse was published in 2022."""
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    result = {}
    for key, value in state.items():
        for new, name in old.items():
            key = key.replace(new, name) if "mid_block.attentions" in key else key
        result[key] = value.contiguous()
    return result


@torch.no_grad()
@pytest.mark.parametrize("name", ["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"])
def test_the_published_folder_of_2022_loads(vae, pixels, tmp_path, name):
    from safetensors.torch import save_file

    vae.save_config(tmp_path)
    state = published_names(vae.state_dict())
    assert "encoder.mid_block.attentions.0.proj_attn.bias" in state
    save_file(state, tmp_path / name) if name.endswith("safetensors") else torch.save(state, tmp_path / name)
    loaded = vaes.load(tmp_path)
    assert torch.equal(vaes.encode_moments(loaded, pixels), vaes.encode_moments(vae, pixels))


def test_a_folder_that_lacks_a_tensor_is_refused(vae, tmp_path):
    """Diffusers starts it anew, with a line in the log."""
    from safetensors.torch import save_file

    vae.save_config(tmp_path)
    state = {key: value.contiguous() for key, value in vae.state_dict().items()}
    del state["decoder.conv_out.bias"]
    save_file(state, tmp_path / "diffusion_pytorch_model.safetensors")
    with pytest.raises(ValueError, match=r"1 missing \(decoder\.conv_out\.bias\).*It looks like a VAE"):
        vaes.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="does not describe diffusers' AutoencoderKL"):
        vaes.load(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match="lacks config.json or diffusion_pytorch_model.safetensors"):
        vaes.load(tmp_path)


def test_the_full_size_is_the_published_one():
    """sd-vae-ft-mse: 83.65 M parameters, latents of 1/8 the size, scaled by 0.18215 (diffusers' defaults otherwise)."""
    from diffusers import AutoencoderKL

    published = {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "latent_channels": 4}
    published |= {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    with torch.device("meta"):
        net = AutoencoderKL(**published)
    assert sum(value.numel() for value in net.parameters()) == 83_653_863 and net.config.scaling_factor == 0.18215


@torch.no_grad()
def test_a_preview_decoder_takes_the_same_latents(tmp_path):
    from diffusers import AutoencoderTiny

    torch.manual_seed(0)
    widths = {"encoder_block_out_channels": (8, 8, 8, 8), "decoder_block_out_channels": (8, 8, 8, 8)}
    tiny = AutoencoderTiny(**widths).eval()
    tiny.save_pretrained(tmp_path)
    loaded, latents = vaes.load_preview(tmp_path), torch.randn(2, 4, 6, 8)
    pixels = vaes.decode(loaded, latents)
    assert pixels.shape == (2, 3, 48, 64)
    torch.testing.assert_close(pixels, tiny.decode(latents).sample)
    with pytest.raises(ValueError, match="does not describe diffusers' AutoencoderKL"):
        vaes.load(tmp_path)
