"""The sampling loop equals the published one; the seed alone decides the noise."""

import json

import pytest
import torch
from safetensors.torch import load_file

from latentsync.generation import sampling
from latentsync.models.unet import UNet3D, UNetConfig
from latentsync.training import diffusion
from latentsync.weights.files import load_strictly


class Simple:
    """A U-Net from a function of sample, timesteps and audio; clips before those with audio have the null condition."""

    def __init__(self, function, listen=lambda audio: audio):
        self.function, self.listen = function, listen

    def predict(self, sample, timesteps, heard, deep):
        return self.function(sample, timesteps, heard), sample


@pytest.fixture(scope="module")
def tiny(golden):
    folder = golden("unet_tiny")
    tiny = json.loads((folder / "info.json").read_text())["tiny_config"]
    config = UNetConfig(
        block_out_channels=tiny["block_out_channels"],
        layers_per_block=tiny["layers_per_block"],
        cross_attention_dim=tiny["cross_attention_dim"],
        attention_heads=tiny["attention_head_dim"],
        norm_groups=tiny["norm_num_groups"],
        motion_max_frames=tiny["motion_module_kwargs"]["temporal_position_encoding_max_len"],
    )
    state = {name: value.float() for name, value in load_file(folder / "weights.safetensors").items()}
    return load_strictly(UNet3D(config), state, "the golden U-Net").eval()


@pytest.mark.parametrize(("name", "guidance"), [("cfg1.5", 1.5), ("nocfg", 1.0)])
def test_the_loop_is_the_published_one(golden, tiny, name, guidance):
    folder = golden("diffusion")
    given, expected = load_file(folder / "loop_inputs.safetensors"), load_file(folder / "outputs.safetensors")
    before = []  # the latents that enter each step

    def unet(sample, timesteps, heard):
        before.append(sample[:1, :4])
        return tiny(sample, timesteps, heard)

    final = sampling.denoise(
        Simple(unet, tiny.listen),
        given["init_latent_one_frame"],
        given["mask"].reshape(-1, *given["mask"].shape[-2:])[0],
        given["masked_latents"].transpose(1, 2),
        given["ref_latents"].transpose(1, 2),
        given["audio"][None],
        steps=20,
        guidance=guidance,
    )
    assert len(before) == 20
    torch.testing.assert_close(before[1], expected[f"loop_{name}_step1"], atol=1e-5, rtol=0)
    for ours, step in ((before[10], "step10"), (final.transpose(1, 2), "final")):
        wanted = expected[f"loop_{name}_{step}"]
        assert (ours - wanted).abs().max() < 1e-3 * wanted.abs().max()
    other = expected[f"loop_{'nocfg' if guidance != 1 else 'cfg1.5'}_final"].transpose(1, 2)
    assert (final - other).abs().max() > 1e-2 * other.abs().max()


def test_guidance_changes_the_result_only_when_it_is_not_one():
    def noise_of(sample, timesteps, heard):
        audio = torch.cat([torch.zeros_like(heard)] * (len(sample) // len(heard) - 1) + [heard])
        return audio.mean((2, 3))[:, None, :, None, None].expand(-1, 4, -1, *sample.shape[-2:])

    unet = Simple(noise_of)
    faces, audio = torch.zeros(2, 3, 4, 2, 2), torch.ones(2, 3, 5, 6)
    noise, mask = sampling.shared_noise(0, 2, 2), torch.ones(2, 2)
    plain, strong = (
        sampling.denoise(unet, noise, mask, faces, faces, audio, steps=3, guidance=guidance) for guidance in (1.0, 2.0)
    )
    doubled = sampling.denoise(unet, noise, mask, faces, faces, 2 * audio, steps=3, guidance=1.0)
    assert torch.allclose(strong, doubled, atol=1e-5) and not torch.allclose(strong, plain)


def test_noise_is_the_published_draw(golden):
    expected = load_file(golden("pipeline_bookkeeping") / "outputs.safetensors")
    expected = expected["prepared_latents_seed1247_64px_4frames"]
    assert torch.equal(sampling.shared_noise(1247, 8, 8).expand(1, 4, 4, 8, 8), expected)


def test_noise_is_shared_by_the_frames_and_follows_the_seed():
    noise = sampling.shared_noise(7, 8, 8)
    assert noise.shape == (1, 4, 1, 8, 8)
    assert torch.equal(noise, sampling.shared_noise(7, 8, 8)) and not torch.equal(noise, sampling.shared_noise(8, 8, 8))


def test_windows_of_a_batch_do_not_see_each_other(tiny_net):
    generator = torch.Generator().manual_seed(0)
    masked, reference = (torch.randn(3, 4, 4, 8, 8, generator=generator) for _ in range(2))
    audio, noise, mask = torch.randn(3, 4, 5, 16, generator=generator), sampling.shared_noise(1, 8, 8), torch.ones(8, 8)
    together = sampling.denoise(tiny_net, noise, mask, masked, reference, audio, steps=3, guidance=1.5)
    for index in range(3):
        parts = (values[index : index + 1] for values in (masked, reference, audio))
        alone = sampling.denoise(tiny_net, noise, mask, *parts, steps=3, guidance=1.5)
        torch.testing.assert_close(together[index : index + 1], alone, rtol=1e-4, atol=1e-4)


@pytest.fixture
def tiny_net():
    torch.manual_seed(0)
    shape = UNetConfig(block_out_channels=(16, 16), cross_attention_dim=16, attention_heads=2, norm_groups=8)
    net = UNet3D(shape).eval()
    torch.nn.init.normal_(net.conv_out.weight, std=0.1)
    return net


@pytest.mark.parametrize("solver", ["dpmpp", "unipc"])
def test_solvers_reach_what_ddim_reaches_in_fewer_steps(solver):
    """On latents of a standard normal distribution, whose noise prediction is known."""
    faces, audio = torch.zeros(1, 4, 4, 8, 8), torch.zeros(1, 4, 5, 16)
    rest = 1 - diffusion.alphas_cumprod()
    unet = Simple(lambda sample, timesteps, heard: rest[timesteps[0]].sqrt() * sample[:, :4])
    given = unet, sampling.shared_noise(1, 8, 8), torch.ones(8, 8), faces, faces, audio
    exact = sampling.denoise(*given, steps=999, guidance=1)
    assert 0.9 < exact.std() < 1.1

    def away(solver, steps):
        return (sampling.denoise(*given, steps=steps, guidance=1, solver=solver) - exact).abs().max().item()

    assert away(solver, 10) < away("ddim", 10) / 2 and away(solver, 100) < 0.01
    assert away(solver, 10) == away(solver, 10)  # nothing is remembered from one batch to the next


@pytest.mark.parametrize(("guided", "doubled"), [((0.0, 1.0), 10), ((0.2, 0.6), 4), ((1.0, 1.0), 0)])
def test_the_null_half_is_computed_only_where_guidance_acts(guided, doubled):
    sizes = []

    def noise_of(sample, timesteps, heard):
        sizes.append(len(sample))
        return sample[:, :4] * 0.1

    faces, audio = torch.zeros(2, 3, 4, 2, 2), torch.ones(2, 3, 5, 6)
    noise, mask = sampling.shared_noise(0, 2, 2), torch.ones(2, 2)
    sampling.denoise(Simple(noise_of), noise, mask, faces, faces, audio, steps=10, guidance=2.0, guided=guided)
    assert sizes.count(4) == doubled and sizes.count(2) == 10 - doubled


@pytest.mark.parametrize("positions", [False, True])
def test_keys_and_values_of_the_audio_are_those_of_every_step(tiny, positions):
    """Bit for bit what the whole forward pass computes, and the null half what zero tokens give."""
    tiny = tiny if not positions else net_with_positions()
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(1, 13, 4, 8, 8, generator=generator)
    audio = torch.randn(1, 4, 50, 48, generator=generator)
    time = torch.tensor([500, 500])
    with torch.inference_mode():
        both = tiny(torch.cat([sample, sample]), time, torch.cat([torch.zeros_like(audio), audio]))
        heard = tiny.listen(audio)
        torch.testing.assert_close(tiny(torch.cat([sample, sample]), time, heard), both, atol=2e-6, rtol=1e-5)
        assert torch.equal(tiny(sample, time[:1], heard), tiny(sample, time[:1], audio))


def net_with_positions():
    torch.manual_seed(0)
    shape = UNetConfig(
        block_out_channels=(16, 16), cross_attention_dim=48, attention_heads=2, norm_groups=8, audio_positions=True
    )
    net = UNet3D(shape).eval()
    torch.nn.init.normal_(net.conv_out.weight, std=0.1)
    return net


@pytest.mark.parametrize(
    ("reuse", "guided", "deep"), [(1, (0.0, 1.0), 6), (2, (0.0, 1.0), 3), (3, (0.0, 0.5), 2), (4, (0.5, 1.0), 3)]
)
def test_deep_levels_are_computed_every_few_steps(tiny_net, reuse, guided, deep):
    """And in the first step with guidance, for the null half is new."""
    computed = []
    hook = tiny_net.mid_block.register_forward_hook(lambda *call: computed.append(len(call[1][0])))
    given = torch.randn(1, 4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    audio, noise, mask = torch.ones(1, 4, 5, 16), sampling.shared_noise(1, 8, 8), torch.ones(8, 8)
    with_reuse, without = (
        sampling.denoise(tiny_net, noise, mask, given, given, audio, 6, 1.5, guided=guided, reuse=n) for n in (reuse, 1)
    )
    hook.remove()
    assert len(computed) == deep + 6
    assert torch.equal(with_reuse, without) == (reuse == 1)
    assert (with_reuse - without).abs().max() < 0.2 * without.std()


def test_what_a_step_reuses_is_what_it_computed(tiny):
    generator = torch.Generator().manual_seed(0)
    sample, audio = torch.randn(2, 13, 4, 8, 8, generator=generator), torch.randn(2, 4, 50, 48, generator=generator)
    time = torch.tensor([500, 500])
    with torch.inference_mode():
        noise, deep = tiny.predict(sample, time, audio)
        again, same = tiny.predict(sample, time, audio, deep)
    assert torch.equal(noise, again) and same is deep and torch.equal(noise, tiny(sample, time, audio))


@pytest.mark.parametrize(
    ("side", "free_gb", "windows"), [(256, 80, 2), (256, 4, 2), (256, 2, 1), (256, 0.1, 1), (512, 80, 2), (512, 8, 1)]
)
def test_as_many_windows_as_fit_the_free_memory(monkeypatch, side, free_gb, windows):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free_gb * 1e9, 80e9))
    assert sampling.windows_at_once(16, side, torch.device("cuda")) == windows
    assert sampling.windows_at_once(16, side, torch.device("cpu")) == 1
