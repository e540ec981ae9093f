"""Train the U-Net, in two stages: one module, two rules.

Stage 1: noise prediction alone, all weights, no motion modules. Stage 2: motion modules join, and four losses act: on
the noise, and on the decoded one-step x0 (SyncNet, LPIPS, TREPA; arXiv 2412.09262, Sec. 3.2 to 3.4). Everything but
stage 2's true pixels comes from extract_features.

Axes: b batch, f frames, c channels, h w, s audio tokens, d their width; t is diffusion time.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn

from latentsync.config import TrainUnet, TrainUnetStage1, TrainUnetStage2
from latentsync.faces.crop import to_pixels
from latentsync.faces.mask import latent_mask
from latentsync.ledger.files import read_ledgers, run_dir
from latentsync.ledger.rows import Row
from latentsync.models import syncnet, teachers
from latentsync.models import vae as vaes
from latentsync.models.unet import UNet3D, UNetConfig
from latentsync.training import diffusion, loop, state
from latentsync.training import losses as ops
from latentsync.training.clips import ClipStore, FeatureStore, require_frames
from latentsync.training.data import EpochSampler, draw_windows, window
from latentsync.weights import files as weight_files
from latentsync.weights import registry
from latentsync.weights.initialise import start_unet

VALIDATION_ITEMS = 8
_GRADIENT_SCALE = 1024.0  # gradients of small losses would vanish in fp16


@dataclass
class Data:
    """What both stages read."""

    train: FeatureStore
    val: FeatureStore
    vae: AutoencoderKL
    mask: Tensor
    """h w, 1 = keep."""
    metadata: dict
    """What generation must know beside the U-Net's shape."""


def run(
    cfg: TrainUnetStage1 | TrainUnetStage2,
    inputs: dict[str, list[Path]],
    outputs: dict[str, Path],
    sources: Path | None,
) -> None:
    """Features and VAE, for stage 2 SyncNet and the weights of stage 1 -> weights and the loss curve."""
    two = isinstance(cfg, TrainUnetStage2)
    step = "train_unet_stage2" if two else "train_unet_stage1"
    root = run_dir(outputs["weights"])
    vae_path = inputs["vae"][0] if inputs.get("vae") else registry.find("vae")
    data = read_data(cfg, step, read_ledgers(inputs["features"]), root, vae_path)
    torch.manual_seed(cfg.seed)
    unet = continued_unet(cfg, inputs["stage1"][0]) if two else fresh_unet(cfg, data)
    unet.set_gradient_checkpointing(cfg.gradient_checkpointing)
    decoded = decoded_losses(cfg, inputs["syncnet"][0], data) if two else None
    losses = UnetLosses(data, decoded, cfg)
    with state.only_writer(outputs["weights"].parent / "state") as folder:
        used = {
            name: [weight_files.content_hash(path) for path in inputs.get(name, [])] for name in ("syncnet", "stage1")
        }
        parts = {
            "train": data.train.fingerprint_parts(),
            "val": data.val.fingerprint_parts(),
            "inputs": used,
            "metadata": data.metadata,
        }
        task = loop.Task(
            step, unet, _items(cfg, data.train, root if two else None), losses, losses.weights,
            losses.validate if len(data.val) else None,
        )  # fmt: skip
        loop.fit(task, cfg, folder=folder, data=parts, curve=outputs["curve"])
        if loop.is_main():
            supervision = {"stage": 2, "teachers": cfg.teachers} if two else {"stage": 1}
            weight_files.save(
                outputs["weights"], unet.state_dict(), asdict(unet.config), **supervision, **data.metadata
            )


def read_data(cfg: TrainUnet, step: str, rows: list[Row], root: Path, vae_path: Path) -> Data:
    """Stores of train and val, the VAE, and the metadata of the weights to be."""
    usable = {
        split: require_frames(
            [row for row in rows if row["split"] == split],
            2 * cfg.frames,
            at_least=needed,
            what=step,
            fix=f"lower {step}.frames, add videos, or select longer clips (select_clips.min_s, segment.length_s)",
        )
        for split, needed in (("train", 1), ("val", 0))
    }
    first = usable["train"][0]
    vae_stamp = weight_files.content_hash(vae_path)
    if first["vae"] != vae_stamp:
        raise ValueError(f"The features were computed with another VAE than {vae_path}; run extract_features again.")
    vae = vaes.load(vae_path)
    metadata = {
        "frames": cfg.frames,
        "resolution": first["resolution"],
        "audio_encoder": first["audio_encoder"],
        "vae": vae_stamp,
        "scaling_factor": vae.config["scaling_factor"],
    }
    factor = 2 ** (len(vae.config["block_out_channels"]) - 1)
    mask = torch.from_numpy(latent_mask(first["resolution"], factor))
    train, val = (FeatureStore(usable[split], root) for split in ("train", "val"))
    return Data(train, val, vae, mask, metadata)


def fresh_unet(cfg: TrainUnetStage1, data: Data) -> UNet3D:
    """Stage 1's U-Net, from scratch or from SD 1.5 or a LatentSync checkpoint."""
    channels = data.vae.config["latent_channels"]
    unet = UNet3D(
        UNetConfig(
            in_channels=3 * channels + 1,
            out_channels=channels,
            cross_attention_dim=data.metadata["audio_encoder"]["width"],
            motion="none",
            **cfg.unet.model_dump(),
        )
    )
    if cfg.init is not None:
        path = registry.find_start(cfg.init)
        print(f"{path}: {start_unet(unet, weight_files.read(path)[0], str(path))}", flush=True)
    return unet


def continued_unet(cfg: TrainUnetStage2, stage1: Path) -> UNet3D:
    """Stage 1's weights with motion modules that start as the identity; only the configured names are trained."""
    tensors, metadata = weight_files.load(stage1)
    unet = UNet3D(replace(UNetConfig(**metadata["config"]), motion=cfg.motion))
    print(f"{stage1}: {start_unet(unet, tensors, str(stage1))}", flush=True)
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_(any(part in name for part in cfg.trainable))
    if not any(parameter.requires_grad for parameter in unet.parameters()):
        raise ValueError(
            f"train_unet_stage2.trainable is {list(cfg.trainable)}, which is part of no name of a weight, so nothing "
            "would be trained; use for example motion_modules. or attentions."
        )
    return unet


def _items(
    cfg: TrainUnet, features: FeatureStore, root: Path | None
) -> Callable[[int, np.random.Generator], dict[str, np.ndarray]]:
    """Items for the loop; with `root` the true pixels of the faces come along (3 f h w)."""
    pick = EpochSampler(len(features), cfg.seed)
    clips = ClipStore(features.rows, root) if root is not None else None

    def item(number: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        index = pick(number)
        start, reference = draw_windows(features.n_frames(index), cfg.frames, rng)
        arrays = window(features, index, start, reference, cfg.frames)
        arrays["conditioned"] = np.asarray(rng.random() >= cfg.condition_dropout, np.float32)
        if clips is not None:
            arrays["pixels"] = to_pixels(clips.frames(index, start, start + cfg.frames))
        return arrays

    return item


DecodedLoss = Callable[[Tensor, dict[str, Tensor]], Tensor]  # (decoded pixels b 3 f h w, the items' batch) -> a number


def decoded_losses(cfg: TrainUnetStage2, syncnet_path: Path, data: Data) -> dict[str, DecodedLoss]:
    """The losses on decoded frames that have a weight, with their frozen teachers; the VAE goes along to the device."""
    device = loop.device()
    data.vae.to(device)  # pyright: ignore[reportArgumentType]  # typed as the unbound Module.to
    if cfg.gradient_checkpointing:
        data.vae.enable_gradient_checkpointing()
    losses: dict[str, DecodedLoss] = {}
    if cfg.losses.sync:
        losses["sync"] = _sync_loss(syncnet_path, cfg.frames, device)
    if cfg.losses.lpips:
        distance = teachers.perceptual(cfg.teachers).to(device)
        losses["lpips"] = lambda fake, batch: ops.lpips(distance, fake, batch["pixels"])
    if cfg.losses.trepa:
        size, normalise = cfg.video_teacher, cfg.video_normalise
        teacher = teachers.video(cfg.teachers, cfg.frames, size=size, normalise=normalise).to(device)
        losses["trepa"] = lambda fake, batch: ops.trepa(teacher(fake), _features(teacher, batch["pixels"]))
    return losses


@torch.no_grad()
def _features(teacher: nn.Module, pixels: Tensor) -> Tensor:
    return teacher(pixels)


def _sync_loss(path: Path, frames: int, device: torch.device) -> DecodedLoss:
    net, trained = syncnet.load(path)
    if trained.frames != frames:
        raise ValueError(
            f"train_unet_stage2.frames is {frames}, but SyncNet was trained on windows of {trained.frames}; make "
            "train_syncnet.frames equal, or set losses.sync to 0."
        )
    net = net.to(device).requires_grad_(False)

    def loss(fake: Tensor, batch: dict[str, Tensor]) -> Tensor:
        resized = ops.resize_bicubic(ops.frames_on_batch(fake), trained.resolution)
        clip = resized.unflatten(0, (len(fake), -1)).transpose(1, 2)
        visual = ops.frames_on_channels(ops.lower_half(clip))
        faces, audio = net(visual, batch["mel"])
        return ops.sync(faces, audio, torch.ones(len(fake), device=fake.device))

    return loss


class UnetLosses:
    """Losses of a batch of windows: noise always; decoded ones where x0 is meaningful and the audio conditions."""

    def __init__(self, data: Data, decoded: dict[str, DecodedLoss] | None, cfg: TrainUnet):
        self.vae, self.mask, self.val, self.frames = data.vae, data.mask, data.val, cfg.frames
        self.decoded = decoded or {}
        self.max_timestep = getattr(cfg, "max_timestep", 0)
        configured = cfg.losses.model_dump() if isinstance(cfg, TrainUnetStage2) else {"recon": 1.0}
        self.weights = {name: weight for name, weight in configured.items() if weight}

    def __call__(self, model: nn.Module, batch: dict[str, Tensor], context: loop.Context) -> dict[str, Tensor]:
        """Named losses of the loop."""
        t = torch.randint(diffusion.TRAIN_TIMESTEPS, (len(batch["face"]),), generator=context.generator)
        conditioned = batch["conditioned"] > 0
        noisy, noise, predicted = self._predict(model, batch, t, context)
        losses = {"recon": ops.recon(predicted, noise)} if "recon" in self.weights else {}
        # One-step x0 near t = 999 is noise divided by 0.068: four backward passes would teach nothing.
        active = conditioned & (t <= self.max_timestep).to(conditioned.device)
        if self.decoded and active.any():
            x0 = diffusion.x0_from_eps(noisy[active], predicted[active], t[active.cpu()])
            pixels = vaes.decode(self.vae, ops.frames_on_batch(x0)).unflatten(0, (len(x0), -1)).transpose(1, 2)
            of_active = {name: values[active] for name, values in batch.items()}
            losses |= {name: loss(pixels, of_active) for name, loss in self.decoded.items()}
        if context.log and self.decoded:
            context.figures |= {f"grad_{name}": self._norm(name, loss, predicted) for name, loss in losses.items()}
        return losses

    def _predict(
        self, model: nn.Module, batch: dict[str, Tensor], t: Tensor, context: loop.Context
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(x_t, its noise, the U-Net's prediction of it), each b c f h w; audio is zero for items without condition."""
        face, masked, reference = (self._latents(batch[name], context) for name in ("face", "masked", "reference"))
        b, c, f, h, w = face.shape
        noise = diffusion.mixed_noise((b, c, f, h, w), generator=context.generator).to(face.device)
        noisy = diffusion.add_noise(face, noise, t)
        sample = diffusion.unet_input(noisy, self.mask.to(face.device), masked, reference)
        audio = batch["audio"] * batch["conditioned"][:, None, None, None]
        return noisy, noise, model(sample, t.to(face.device), audio)

    def _latents(self, moments: Tensor, context: loop.Context) -> Tensor:
        latents = vaes.sample(self.vae, moments.flatten(0, 1), context.generator)
        return latents.unflatten(0, moments.shape[:2]).transpose(1, 2)

    def _norm(self, name: str, loss: Tensor, predicted: Tensor) -> float:
        """Length of the gradient that a weighted loss sends into the U-Net's output."""
        scaled = loss * (self.weights[name] * _GRADIENT_SCALE)
        (gradient,) = torch.autograd.grad(scaled, predicted, retain_graph=True)
        return gradient.float().norm().item() / _GRADIENT_SCALE

    def validate(self, model: nn.Module, context: loop.Context) -> dict[str, float]:
        """Noise loss on fixed windows at fixed t, with their own audio and with another window's."""
        rng = np.random.default_rng(0)
        pick = EpochSampler(len(self.val), seed=0)
        windows = []
        for number in range(VALIDATION_ITEMS):
            starts = draw_windows(self.val.n_frames(pick(number)), self.frames, rng)
            windows.append(window(self.val, pick(number), *starts, self.frames) | {"conditioned": np.float32(1)})
        sums = {"val_recon": 0.0, "val_recon_other_sound": 0.0}
        for number, arrays in enumerate(windows):
            t = torch.tensor([(2 * number + 1) * diffusion.TRAIN_TIMESTEPS // (2 * VALIDATION_ITEMS)])
            other = windows[(number + 1) % VALIDATION_ITEMS]["audio"]
            for name, audio in (("val_recon", arrays["audio"]), ("val_recon_other_sound", other)):
                batch = {key: torch.tensor(value)[None].to(context.device) for key, value in arrays.items()}
                batch["audio"] = torch.tensor(audio)[None].to(context.device)
                context.generator.manual_seed(number)  # the same noise for both
                _, noise, predicted = self._predict(model, batch, t, context)
                sums[name] += ops.recon(predicted, noise).item() / VALIDATION_ITEMS
        return sums
