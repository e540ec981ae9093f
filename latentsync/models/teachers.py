"""The two frozen teachers of stage 2: LPIPS compares frames, VideoMAEv2 (for TREPA) compares whole clips.

Published: VGG16 with LPIPS's learned weights, and VideoMAEv2 ViT-g fine-tuned on Something-Something v2.
Embedded: the same code with small seeded untrained networks. Random features still measure difference, but not what
people see; the report calls them stand-ins.

Axes: b batch, c channels, f frames, h w, d features.
"""

import warnings
from typing import Any, Literal

import lpips
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers.models.videomae.configuration_videomae import VideoMAEConfig
from transformers.models.videomae.modeling_videomae import VideoMAEForVideoClassification

from latentsync.weights import files as weight_files
from latentsync.weights import layouts, registry

KEY = "train_unet_stage2.teachers: published"

Backend = Literal["published", "embedded"]
Size = Literal["giant", "base", "small"]
Normalise = Literal["none", "imagenet"]

_VIDEOMAE: dict[str, Any] = {
    "image_size": 224,
    "num_frames": 16,
    "patch_size": 16,
    "num_hidden_layers": 12,
    "num_labels": 710,
}
# Published: the giant, fine-tuned on Something-Something v2. The smaller ones were distilled from it on Kinetics-710.
VIDEOMAE_V2 = {
    "giant": _VIDEOMAE
    | {"hidden_size": 1408, "num_attention_heads": 16, "intermediate_size": 6144}
    | {"patch_size": 14, "num_hidden_layers": 40, "num_labels": 174},
    "base": _VIDEOMAE | {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
    "small": _VIDEOMAE | {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536},
}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
VIDEOMAE_EMBEDDED: dict[str, Any] = {
    "image_size": 64,
    "patch_size": 16,
    "hidden_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 384,
    "num_labels": 0,
    "initializer_range": 0.1,  # 1 / sqrt(width): with transformers' 0.02 an untrained network hardly mixes its tokens
}


def perceptual(backend: Backend, seed: int = 0) -> nn.Module:
    """LPIPS (arXiv 1801.03924): (n 3 h w, n 3 h w) in [-1, 1] -> n 1 1 1.

    Published is VGG16. Embedded is SqueezeNet (1.2 M parameters) without the learned weights of layers, which belong
    to trained features; layers count equally.
    """
    if backend == "published":
        path = registry.find("vgg16", key=KEY)
        net, published = _lpips(net="vgg"), weight_files.read_foreign(path)
        weight_files.load_strictly(net.net, layouts.lpips_vgg16_state(published), str(path), published)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = _lpips(net="squeeze", lpips=False, pretrained=False)
    return net.eval().requires_grad_(False)


def _lpips(**options: Any) -> lpips.LPIPS:
    """Always with a random trunk: lpips would download one otherwise."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")  # lpips uses its old arguments
        return lpips.LPIPS(pnet_rand=True, verbose=False, **options)


class VideoTeacher(nn.Module):
    """Features of a clip: b 3 f h w in [-1, 1] -> b d (mean over tokens, then LayerNorm), not yet of unit length."""

    def __init__(self, config: VideoMAEConfig, normalise: Normalise = "none"):
        super().__init__()
        self.net = VideoMAEForVideoClassification(config)
        assert isinstance(config.image_size, int)
        self.frames, self.size, self.normalise = config.num_frames, config.image_size, normalise

    def forward(self, pixels: Float[Tensor, "b 3 f h w"]) -> Float[Tensor, "b d"]:  # noqa: D102
        assert pixels.shape[2] == self.frames, f"this teacher takes {self.frames} frames, not {pixels.shape[2]}"
        clip = trepa_input(pixels, self.size)
        if self.normalise == "imagenet":
            mean, std = (clip.new_tensor(values).view(3, 1, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
            clip = (clip - mean) / std
        clip = clip.to(self.net.dtype).transpose(1, 2)  # transformers: b f c h w
        assert self.net.fc_norm is not None  # VideoMAE has it where use_mean_pooling is set
        return self.net.fc_norm(self.net.videomae(clip).last_hidden_state.mean(dim=1))


def video(
    backend: Backend, frames: int = 16, seed: int = 0, *, size: Size = "giant", normalise: Normalise = "none"
) -> VideoTeacher:
    """The TREPA teacher for clips of `frames`; published teachers take 16, embedded ones any even number.

    `normalise`: VideoMAE was trained on pixels with ImageNet's mean and deviation taken out ("imagenet"), LatentSync
    feeds it [0, 1] as it is ("none", published).
    """
    if backend == "published":
        if frames != VIDEOMAE_V2[size]["num_frames"]:
            raise ValueError(
                f"train_unet_stage2.frames is {frames}, but the published TREPA teacher was trained on 16 frames; use "
                "16, set losses.trepa to 0, or choose the embedded teachers."
            )
        path = registry.find(f"videomae_{size}", key=KEY)
        published = weight_files.read_foreign(path)
        teacher = VideoTeacher(config(VIDEOMAE_V2[size]), normalise)
        weight_files.load_strictly(teacher.net, layouts.videomae_state(published), str(path), published)
    else:
        if frames % 2:
            raise ValueError(
                f"train_unet_stage2.frames is {frames}; the TREPA teacher takes pairs of frames, so use an even number."
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            teacher = VideoTeacher(config(VIDEOMAE_EMBEDDED | {"num_frames": frames}), normalise)
    return teacher.eval().requires_grad_(False)


def config(shape: dict[str, Any]) -> VideoMAEConfig:
    """VideoMAEv2 as TREPA uses it: pairs of frames, mean over tokens, biases on queries and values."""
    return VideoMAEConfig(tubelet_size=2, use_mean_pooling=True, qv_bias=True, layer_norm_eps=1e-6, **shape)


def trepa_input(pixels: Float[Tensor, "b c f h w"], size: int) -> Float[Tensor, "b c f {size} {size}"]:
    """Clips for the video teacher: b c f h w in [-1, 1] -> b c f size size in [0, 1]; no ImageNet normalisation."""
    frames = pixels.float().transpose(1, 2).flatten(0, 1)
    if frames.shape[-2:] != (size, size):  # bicubic without antialias, as published
        frames = F.interpolate(frames, size=(size, size), mode="bicubic", align_corners=False)
    return (frames / 2 + 0.5).clamp(0, 1).unflatten(0, (len(pixels), -1)).transpose(1, 2)
