"""Train the small VAE of runs that have no published one: L1 + MSE of the pixels and a little KL, nothing perceptual.

A share of the images is masked as the U-Net's conditions are (hole = mid grey), since those are encoded too.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn

from latentsync.config import TrainVae
from latentsync.faces.crop import to_pixels
from latentsync.faces.mask import keep_mask
from latentsync.ledger.files import read_ledgers, run_dir
from latentsync.models import vae as vaes
from latentsync.training import loop, state
from latentsync.training.clips import ClipStore, require_frames, sized
from latentsync.training.data import EpochSampler, recolour

MEASURED_FRAMES = 256  # fixed frames behind validation and scaling factor
ENCODED_AT_ONCE = 32
START_LOG_VARIANCE = -6.0


class Autoencode(nn.Module):
    """The VAE as one call, which is what several processes can train."""

    def __init__(self, vae: AutoencoderKL):
        super().__init__()
        self.vae = vae

    def forward(self, pixels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Pixels n c h w -> the same pixels through drawn latents, and the mean KL of a latent number (nats)."""
        posterior = self.vae.encode(pixels).latent_dist  # pyright: ignore[reportAttributeAccessIssue]  # not a tuple
        latents = vaes.sample(self.vae, posterior.parameters, generator)
        return vaes.decode(self.vae, latents), posterior.kl().mean() / latents[0].numel()


def run(cfg: TrainVae, inputs: dict[str, list[Path]], outputs: dict[str, Path], sources: Path | None) -> None:
    """Clips of train and val -> weights (their latents' standard deviation in the metadata) and the loss curve."""
    root = run_dir(outputs["weights"])
    fix = "add videos, or relax the thresholds of select_clips"
    train, val = (sized(read_ledgers(inputs[name]), cfg.resolution) for name in ("train", "val"))
    clips = ClipStore(require_frames(train, 1, at_least=1, what="train_vae", fix=fix), root)
    held_out = ClipStore(val, root)
    torch.manual_seed(cfg.seed)
    vae = quiet(vaes.build(cfg))
    # A fifth faster on a CPU.
    vae.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  # typed as the unbound Module.to
    if cfg.gradient_checkpointing:
        vae.enable_gradient_checkpointing()
    with state.only_writer(outputs["weights"].parent / "state") as folder:
        parts = {"train": clips.fingerprint_parts(), "val": held_out.fingerprint_parts()}
        loop.fit(_task(cfg, vae, clips, held_out), cfg, folder=folder, data=parts, curve=outputs["curve"])
        if loop.is_main():
            vae.to(loop.device())  # pyright: ignore[reportArgumentType]  # typed as the unbound Module.to
            scaling_factor = 1 / _latent_std(vae, clips)
            vaes.save(outputs["weights"], vae, scaling_factor, resolution=clips.rows[0]["resolution"])


def quiet(vae: AutoencoderKL) -> AutoencoderKL:
    """Let the posterior start narrow: at PyTorch's start noise is as strong as the latents, and for a hundred steps the
    decoder learns to do without them (measured)."""
    with torch.no_grad():
        conv = vae.quant_conv
        assert conv is not None and conv.bias is not None
        conv.weight.chunk(2)[1].zero_()
        conv.bias.chunk(2)[1].fill_(START_LOG_VARIANCE)
    return vae


def _task(cfg: TrainVae, vae: AutoencoderKL, clips: ClipStore, held_out: ClipStore) -> loop.Task:
    pick = EpochSampler(len(clips), cfg.seed)

    def item(number: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        index = pick(number)
        frame = int(rng.integers(clips.n_frames(index)))
        pixels = to_pixels(clips.frames(index, frame, frame + 1))[:, 0]
        if rng.random() < cfg.flip_share:
            pixels = pixels[:, :, ::-1]
        pixels = recolour(pixels, cfg.colour_jitter, rng)
        if rng.random() < cfg.masked_share:
            pixels = pixels * keep_mask(pixels.shape[-1])
        return {"pixels": np.ascontiguousarray(pixels)}

    def losses(model: nn.Module, batch: dict[str, Tensor], context: loop.Context) -> dict[str, Tensor]:
        pixels = batch["pixels"].to(memory_format=torch.channels_last)
        decoded, kl = model(pixels, context.generator)
        l1, mse = F.l1_loss(decoded, pixels), F.mse_loss(decoded, pixels)
        return {"l1": l1, "mse": mse, "kl": kl}

    def validate(model: nn.Module, context: loop.Context) -> dict[str, float]:
        pixels = fixed_frames(held_out).to(context.device)
        masked = pixels * torch.tensor(keep_mask(pixels.shape[-1]), device=context.device)
        assert isinstance(model, Autoencode)
        return {"val_psnr_db": psnr_db(model.vae, pixels), "val_masked_psnr_db": psnr_db(model.vae, masked)}

    weights = {"l1": 1.0, "mse": 1.0, "kl": cfg.kl_weight}
    return loop.Task("train_vae", Autoencode(vae), item, losses, weights, validate if len(held_out) else None)


def fixed_frames(clips: ClipStore) -> Tensor:
    """About MEASURED_FRAMES frames, spread evenly over all clips: pixels n 3 h w."""
    n = min(len(clips), MEASURED_FRAMES)
    spread = [k * len(clips) // n for k in range(n)]
    stride = -(-sum(clips.n_frames(index) for index in spread) // MEASURED_FRAMES)
    chosen = [
        clips.frames(index, frame, frame + 1)
        for number, index in enumerate(spread)
        for frame in range(number % stride, clips.n_frames(index), stride)
    ]
    return torch.from_numpy(to_pixels(np.concatenate(chosen))).transpose(0, 1).contiguous()


def psnr_db(vae: AutoencoderKL, pixels: Tensor) -> float:
    """Peak signal-to-noise ratio of images through the most likely latents, over all pixels together."""
    squares = [
        F.mse_loss(vaes.decode(vae, vaes.mode(vae, vaes.encode_moments(vae, some))).clamp(-1, 1), some, reduction="sum")
        for some in pixels.split(ENCODED_AT_ONCE)
    ]
    return float(10 * torch.log10(4 * pixels.numel() / torch.stack(squares).sum()))


@torch.inference_mode()
def _latent_std(vae: AutoencoderKL, clips: ClipStore) -> float:
    """Standard deviation of drawn latents over fixed frames of the training clips; as in Stable Diffusion, over all
    channels together (arXiv 2112.10752, App. G)."""
    pixels = fixed_frames(clips).to(next(vae.parameters()).device)
    generator = torch.Generator().manual_seed(0)
    latents = [vaes.sample(vae, vaes.encode_moments(vae, some), generator) for some in pixels.split(ENCODED_AT_ONCE)]
    return float(torch.cat(latents).std())
