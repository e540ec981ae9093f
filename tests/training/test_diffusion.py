"""Schedule, noise and DDIM against golden/diffusion and against diffusers' scheduler; loops are in test_sampling.py."""

import json

import pytest
import torch
from safetensors.torch import load_file

from latentsync.training import diffusion

SETTINGS = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


class Golden:
    def __init__(self, folder):
        self.inputs = load_file(folder / "inputs.safetensors")
        self.outputs = load_file(folder / "outputs.safetensors")
        self.info = json.loads((folder / "info.json").read_text())


@pytest.fixture(scope="module")
def published(golden):
    return Golden(golden("diffusion"))


def test_schedule(published):
    torch.testing.assert_close(diffusion.alphas_cumprod(), published.outputs["alphas_cumprod"], atol=1e-7, rtol=0)
    assert float(diffusion.alphas_cumprod()[0]) == pytest.approx(published.info["final_alpha_cumprod"], abs=1e-7)
    of_betas = (1 - published.outputs["betas"]).cumprod(0)
    torch.testing.assert_close(diffusion.alphas_cumprod(), of_betas, atol=1e-7, rtol=0)
    table = published.info["sqrt_alpha_bar"]
    assert len(table) == 7
    for t, row in table.items():
        abar = float(diffusion.alphas_cumprod()[int(t)])
        ours = [abar, abar**0.5, (1 - abar) ** 0.5]
        assert ours == pytest.approx([row["alpha_bar"], row["sqrt"], row["sqrt_1m"]], abs=1e-7, rel=0)
        assert abar / (1 - abar) == pytest.approx(row["snr"], rel=1e-6)


def test_the_published_scheduler_is_the_one_that_is_compared_with(published):
    resolved = published.info["resolved_config"]
    assert {key: resolved[key] for key in SETTINGS} == SETTINGS
    assert (resolved["prediction_type"], resolved["timestep_spacing"]) == ("epsilon", "leading")
    assert published.info["init_noise_sigma"] == 1  # the first latents are the noise itself


def test_timesteps(published):
    assert published.info["timesteps"].keys() == {"4", "8", "10", "20", "25", "30", "50"}
    for steps, expected in published.info["timesteps"].items():
        pairs = diffusion.ddim_steps(int(steps))
        assert [t for t, _ in pairs] == expected
        assert all(lower == t for (_, lower), (t, _) in zip(pairs, pairs[1:], strict=False))
        assert pairs[-1][1] < 0


@pytest.mark.parametrize("steps", [8, 20])
def test_trajectory(published, steps):
    """With eps = 0.1 x + 0.01 t / 1000, as golden/diffusion says."""
    expected = published.outputs[f"trajectory_{steps}"]
    x = published.inputs["latent"]
    assert len(expected) == steps + 1 and torch.equal(x, expected[0])
    for number, (t, following) in enumerate(diffusion.ddim_steps(steps), 1):
        x = diffusion.ddim_step(x, 0.1 * x + 0.01 * t / 1000, t, following)
        torch.testing.assert_close(x, expected[number], atol=1e-5, rtol=0)


def test_step_equals_diffusers():
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(**SETTINGS)
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
    torch.testing.assert_close(x0, outputs["x0_from_eps"], atol=1e-5, rtol=0)
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
    for ours, theirs in zip((half - reference).abs(), (upstream - reference).abs(), strict=True):  # t = 951, 500, 20
        assert ours.mean() < theirs.mean() and ours.max() < 0.4 * theirs.max()
    noisy = diffusion.add_noise(inputs["x0"].half(), inputs["eps"].half(), inputs["t"])
    reference = published.outputs["noisy"]
    assert noisy.dtype == torch.float16
    assert (noisy - reference).abs().max() < (published.outputs["noisy_fp16"].float() - reference).abs().max() < 3e-3


def test_the_published_half_precision_is_ours_with_abar_rounded_first(published):
    """That rounding is the whole difference: with it our formulas give the published halves to the bit."""
    inputs, outputs = published.inputs, published.outputs
    abar = diffusion.alphas_cumprod().half()[inputs["t"]].reshape(-1, 1, 1, 1, 1)
    signal, noise = abar**0.5, (1 - abar) ** 0.5
    eps = inputs["eps"].half()
    assert torch.equal((inputs["x_t"].half() - noise * eps) / signal, outputs["x0_from_eps_fp16"])
    assert torch.equal(signal * inputs["x0"].half() + noise * eps, outputs["noisy_fp16"])


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_mixed_noise_covariance(published, alpha):
    noise = diffusion.mixed_noise((4, 4, 8, 64, 64), alpha, torch.Generator().manual_seed(0))
    frames = noise.transpose(0, 2).flatten(1)
    covariance = frames @ frames.T / frames.shape[1]
    expected = published.info["mixed_noise"][f"{alpha:.0f}"]
    diagonal = covariance.diagonal()
    others = covariance[~torch.eye(8, dtype=torch.bool)]
    # 65 536 samples a frame: one covariance is known to 0.005 (one sigma); upstream's own draw was 0.007 off.
    assert (diagonal - expected["expected_var"]).abs().max() < 0.02
    assert (others - expected["expected_offdiag"]).abs().max() < 0.015
    shared, own = (alpha**2 / (1 + alpha**2)) ** 0.5, (1 / (1 + alpha**2)) ** 0.5
    assert (shared, own) == pytest.approx((expected["shared_std"], expected["ind_std"]))


def test_noise_for_inference_is_the_same_for_every_frame():
    noise = diffusion.shared_noise((2, 4, 8, 16, 16), torch.Generator().manual_seed(0))
    assert torch.equal(noise, noise[:, :, :1].expand_as(noise)) and not torch.equal(noise[0], noise[1])
    assert noise.std() == pytest.approx(1, abs=0.05)


def test_noise_follows_its_generator():
    shape = (1, 4, 3, 8, 8)
    one, two = (diffusion.mixed_noise(shape, generator=torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(one, two) and not torch.equal(one[:, :, 0], one[:, :, 1])
