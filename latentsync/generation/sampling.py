"""From faces and audio to latents of new mouths: the denoising loop of a batch of windows.

All frames of a video share one noise (as published), so neighbouring windows give nearly the same latents and can be
joined. The noise depends on the seed alone, not on the order of calls.

Axes: b batch, f frames, c channels, h w latent cells, s audio tokens, d their width.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from torch import Tensor

from latentsync.config import Solver
from latentsync.training import diffusion

Step = Callable[[Tensor, Tensor], Tensor]  # (latents, predicted noise) -> latents, both float32

# Solvers of diffusers, of order 2. "trailing" steps start at pure noise, where few steps would else start below it.
_SCHEDULERS: dict[str, Any] = {"dpmpp": DPMSolverMultistepScheduler, "unipc": UniPCMultistepScheduler}
_SCHEDULE = {
    "num_train_timesteps": diffusion.TRAIN_TIMESTEPS,
    "beta_start": diffusion.BETA_START,
    "beta_end": diffusion.BETA_END,
    "beta_schedule": "scaled_linear",
    "timestep_spacing": "trailing",
}

# Memory of one more window per call of the U-Net, measured with guidance at 256 and 512 px (docs/benchmarks.md).
BYTES_PER_PIXEL = 700
FREE_SHARE = 0.5
MOST_WINDOWS = 2  # on an H100 at 256 px one takes 47 ms a step, of two each 43, of four 41


@runtime_checkable
class Unet(Protocol):
    """The U-Net as the loop calls it."""

    def predict(
        self, sample: Tensor, timesteps: Tensor, heard: Any, deep: Tensor | None, /
    ) -> tuple[Tensor, Tensor | None]:
        """Sample b 13 f h w, timesteps b, what `listen` returned -> noise b 4 f h w, and what may be reused.

        deep: what an earlier step returned for reuse; None: everything is computed.
        """
        ...

    def listen(self, audio: Tensor, /) -> Any:
        """What the network needs of audio tokens b f s d in every step."""
        ...


def shared_noise(seed: int, height: int, width: int, channels: int = 4) -> Tensor:
    """One draw, 1 c 1 h w, on the CPU, so that a seed means the same on every device."""
    return diffusion.shared_noise((1, channels, 1, height, width), torch.Generator().manual_seed(seed))


def windows_at_once(frames: int, resolution: int, device: torch.device) -> int:
    """How many windows fit the free memory of a GPU, 1 to MOST_WINDOWS; 1 on a CPU, where more gain nothing.

    frames: per window. resolution: side of the face, pixels.
    """
    if device.type != "cuda":
        return 1
    needed = frames * resolution**2 * BYTES_PER_PIXEL
    return max(1, min(MOST_WINDOWS, int(torch.cuda.mem_get_info(device)[0] * FREE_SHARE) // needed))


def solver_steps(solver: Solver, steps: int) -> list[tuple[int, Step]]:
    """The timesteps of a solver and what it does at each. Use it once, in order: solvers of order 2 remember a step."""
    if solver == "ddim":

        def ddim(t: int, following: int) -> Step:
            return lambda latents, eps: diffusion.ddim_step(latents, eps, t, following)

        return [(t, ddim(t, following)) for t, following in diffusion.ddim_steps(steps)]
    scheduler = _SCHEDULERS[solver](**_SCHEDULE)
    scheduler.set_timesteps(steps)

    def step(t: int) -> Step:
        return lambda latents, eps: scheduler.step(eps, t, latents, return_dict=False)[0]

    return [(t, step(t)) for t in scheduler.timesteps.tolist()]


@torch.inference_mode()
def denoise(
    unet: Unet,
    noise: Tensor,
    mask: Tensor,
    masked: Tensor,
    reference: Tensor,
    audio: Tensor,
    steps: int,
    guidance: float,
    solver: Solver = "ddim",
    guided: tuple[float, float] = (0.0, 1.0),
    reuse: int = 1,
    before_step: Callable[[], None] = lambda: None,
) -> Tensor:
    """Denoised latents b f c h w of windows.

    noise: 1 c 1 h w. mask: h w, 1 = keep. masked, reference: b f c h w, the faces without and with their mouths.
    audio: b f s d, in the type of the network.
    steps: of the solver (DDIM with eta 0, DPM-Solver++ 2M of arXiv 2211.01095, UniPC of arXiv 2302.04867).
    guidance: against zero tokens. The unconditioned half is computed only where guidance acts, in the shares `guided`
    of the steps (0, 1: all), and nowhere if guidance is 1.
    reuse: every how many steps the deep levels of the network are computed (DeepCache, arXiv 2312.00858); 1: in all.
    before_step: called before every step; what it raises ends the loop.
    """
    assert masked.shape == reference.shape and audio.shape[:2] == masked.shape[:2], (masked.shape, audio.shape)
    masked, reference = masked.transpose(1, 2), reference.transpose(1, 2)
    latents, heard, deep = noise.to(masked).expand_as(masked), unet.listen(audio), None
    for number, (t, step) in enumerate(solver_steps(solver, steps)):
        before_step()
        sample = diffusion.unet_input(latents, mask, masked, reference).to(audio.dtype)
        guides = guidance != 1 and guided[0] <= number / steps < guided[1]
        if guides:  # null first, as published
            sample = torch.cat([sample, sample])
        if number % reuse == 0 or deep is None or len(deep) < len(sample):
            deep = None
        else:  # of both halves, the null first, if there are two
            deep = deep[-len(sample) :]
        eps, deep = unet.predict(sample, torch.full((len(sample),), t, device=sample.device), heard, deep)
        eps = eps.float()
        if guides:
            null, conditioned = eps.chunk(2)
            eps = null + guidance * (conditioned - null)
        latents = step(latents, eps)
    return latents.transpose(1, 2)
