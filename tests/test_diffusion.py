"""Schedule, noise and DDIM against golden/diffusion, and against diffusers' scheduler."""

import json

import pytest
import torch
from safetensors.torch import load_file

from latentsync.models.unet import UNet3D, UNetConfig
from latentsync.ops import diffusion


class Golden:
    def __init__(self, folder):
        self.inputs = load_file(folder / "inputs.safetensors")
        self.loop = load_file(folder / "loop_inputs.safetensors")
        self.outputs = load_file(folder / "outputs.safetensors")
        self.info = json.loads((folder / "info.json").read_text())


@pytest.fixture(scope="module")
def published(golden):
    return Golden(golden("diffusion"))


def test_schedule(published):
    torch.testing.assert_close(diffusion.alphas_cumprod(), published.outputs["alphas_cumprod"], atol=1e-7, rtol=0)
    assert float(diffusion.alphas_cumprod()[0]) == pytest.approx(published.info["final_alpha_cumprod"], abs=1e-7)


def test_timesteps(published):
    for steps, expected in published.info["timesteps"].items():
        pairs = diffusion.ddim_steps(int(steps))
        assert [t for t, _ in pairs] == expected
        assert all(lower == t for (_, lower), (t, _) in zip(pairs, pairs[1:], strict=False))
        assert pairs[-1][1] < 0


@pytest.mark.parametrize("steps", [8, 20])
def test_trajectory(published, steps):
    """With eps = 0.1 x + 0.01 t / 1000, as golden/diffusion says."""
    expected = published.outputs[f"trajectory_{steps}"]
    x = expected[0]
    for number, (t, following) in enumerate(diffusion.ddim_steps(steps), 1):
        x = diffusion.ddim_step(x, 0.1 * x + 0.01 * t / 1000, t, following)
        torch.testing.assert_close(x, expected[number], atol=1e-5, rtol=0)


def test_step_equals_diffusers():
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    generator = torch.Generator().manual_seed(0)
    for steps in (7, 20):
        scheduler.set_timesteps(steps)
        x = torch.randn(2, 4, 3, 4, 4, generator=generator)
        assert scheduler.timesteps.tolist() == [t for t, _ in diffusion.ddim_steps(steps)]
        for t, following in diffusion.ddim_steps(steps):
            eps = torch.randn(x.shape, generator=generator)
            theirs = scheduler.step(eps, t, x).prev_sample
            x = diffusion.ddim_step(x, eps, t, following)
            torch.testing.assert_close(x, theirs, atol=1e-5, rtol=1e-5)


def test_noising_and_back(published):
    inputs, outputs = published.inputs, published.outputs
    noisy = diffusion.add_noise(inputs["x0"], inputs["eps"], inputs["t"])
    torch.testing.assert_close(noisy, outputs["noisy"], atol=1e-6, rtol=0)
    x0 = diffusion.x0_from_eps(inputs["x_t"], inputs["eps"], inputs["t"])
    torch.testing.assert_close(x0, outputs["x0_from_eps"], atol=1e-5, rtol=1e-5)
    back = diffusion.x0_from_eps(noisy, inputs["eps"], inputs["t"])
    torch.testing.assert_close(back, inputs["x0"], atol=1e-4, rtol=0)


def test_one_step_x0_does_not_lose_the_small_shares_in_half_precision(published):
    """Upstream rounds abar to fp16 first: up to 0.04 off at t = 951. Ours is as good as its inputs."""
    inputs = published.inputs
    half = diffusion.x0_from_eps(inputs["x_t"].half(), inputs["eps"].half(), inputs["t"])
    exact = diffusion.x0_from_eps(inputs["x_t"].half().double(), inputs["eps"].half().double(), inputs["t"])
    torch.testing.assert_close(half, exact.float(), atol=1e-4, rtol=1e-5)
    upstream = published.outputs["x0_from_eps_fp16"].float()
    reference = published.outputs["x0_from_eps"]
    assert (half - reference).abs().mean() < (upstream - reference).abs().mean()


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_mixed_noise_covariance(published, alpha):
    noise = diffusion.mixed_noise((4, 4, 8, 64, 64), alpha, torch.Generator().manual_seed(0))
    frames = noise.transpose(0, 2).flatten(1)
    covariance = frames @ frames.T / frames.shape[1]
    expected = published.info["mixed_noise"][f"{alpha:.0f}"]
    diagonal = covariance.diagonal()
    others = covariance[~torch.eye(8, dtype=torch.bool)]
    assert diagonal.mean() == pytest.approx(expected["expected_var"], abs=0.02)
    assert others.mean() == pytest.approx(expected["expected_offdiag"], abs=0.02)


def test_noise_follows_its_generator():
    shape = (1, 4, 3, 8, 8)
    one, two = (diffusion.mixed_noise(shape, generator=torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(one, two) and not torch.equal(one[:, :, 0], one[:, :, 1])


@torch.no_grad()
@pytest.mark.parametrize("name, guidance", [("cfg1.5", 1.5), ("nocfg", 1.0)])
def test_a_whole_loop_with_the_tiny_net(golden, published, name, guidance):
    net = UNet3D(UNetConfig(block_out_channels=(32, 64, 96, 96), cross_attention_dim=48)).eval()
    weights = load_file(golden("unet_tiny") / "weights.safetensors")
    net.load_state_dict({key: value.float() for key, value in weights.items()})
    given = published.loop
    x, audio = given["init_latent_one_frame"].repeat(1, 1, 5, 1, 1), given["audio"][None]
    for number, (t, following) in enumerate(diffusion.ddim_steps(20), 1):
        sample = diffusion.unet_input(x, given["mask"], given["masked_latents"], given["ref_latents"])
        eps = net(sample, torch.tensor([t]), audio)
        if guidance != 1:
            null = net(sample, torch.tensor([t]), torch.zeros_like(audio))
            eps = null + guidance * (eps - null)
        x = diffusion.ddim_step(x, eps, t, following)
        key = f"loop_{name}_" + ("final" if number == 20 else f"step{number}")
        if key in published.outputs:
            expected = published.outputs[key]
            tolerance = 1e-5 if number == 1 else 1e-3 * float(expected.abs().max())
            torch.testing.assert_close(x, expected, atol=tolerance, rtol=0)
