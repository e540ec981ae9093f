"""StableSyncNet (arXiv 2412.09262, Sec. 3.3): do this mouth and this audio belong together?

Two encoders of the same build, one for the lower half of a face over some frames, one for the mel spectrogram of the
same time, end in unit vectors; their cosine is the probability. Key names are upstream's.

Axes: b batch, f frames, c channels, h w, t mel columns (80 a second), d embedding.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import ValidationError
from torch import Tensor, nn

from latentsync.audio.mel import N_MELS
from latentsync.config import SyncNetEncoder, TrainSyncnet
from latentsync.timing import mel_start, mel_width
from latentsync.weights import files as weight_files
from latentsync.weights import layouts

CHUNK_WINDOWS = 16  # windows embedded at a time


@dataclass(frozen=True)
class Published:
    """A published shape: both encoders, the (h, w) of what the visual one sees, and the frames of a window."""

    visual: SyncNetEncoder
    audio: SyncNetEncoder
    size: tuple[int, int]
    frames: int = 16


def _encoder(in_channels: int, channels: tuple[int, ...], factors: tuple, attention: tuple[int, ...] = ()):
    attn_blocks = tuple(number in attention for number in range(len(channels)))
    return SyncNetEncoder(
        in_channels=in_channels, block_out_channels=channels, downsample_factors=factors, attn_blocks=attn_blocks
    )


_PIXEL_CHANNELS, _PIXEL_FACTORS = (64, 128, 256, 256, 512, 1024, 2048, 2048), ((1, 2), 2, 2, 2, 2, 2, 2, 2)
_MEL_CHANNELS, _MEL_FACTORS = (32, 64, 128, 256, 512, 1024, 2048), ((2, 1), 2, 2, 1, 2, 2, (2, 3))
# Upstream's four. Its 25_pixel cannot be built there, since its file lacks attn_blocks; without attention it can.
PUBLISHED = {
    "16_pixel_attn": Published(
        _encoder(48, _PIXEL_CHANNELS, _PIXEL_FACTORS, (4, 5)),
        _encoder(1, _MEL_CHANNELS, _MEL_FACTORS, (3, 4)),
        (128, 256),
    ),
    "16_pixel": Published(
        _encoder(48, _PIXEL_CHANNELS, _PIXEL_FACTORS), _encoder(1, _MEL_CHANNELS, _MEL_FACTORS), (128, 256)
    ),
    "16_latent": Published(
        _encoder(64, (64, 128, 256, 256, 512, 1024), (2, 2, 2, 1, 2, 2)),
        _encoder(1, (32, 64, 128, 256, 512, 1024), ((2, 1), 2, 2, 2, 2, (2, 3))),
        (32, 32),
    ),
    "25_pixel": Published(
        _encoder(75, (128, 128, 256, 256, 512, 512, 1024, 1024), _PIXEL_FACTORS),
        _encoder(1, (64, 128, 256, 256, 512, 1024), (2, 2, 2, 2, 2, 2)),
        (128, 256),
        frames=25,
    ),
}  # fmt: skip


class ResnetBlock(nn.Module):
    """Two convolutions with a shortcut, then a strided convolution where the factor (h, w) is not 1."""

    def __init__(self, width_in: int, width: int, factor: tuple[int, int], dropout: float):
        super().__init__()
        self.norm1 = _norm(width_in)
        self.conv1 = nn.Conv2d(width_in, width, 3, padding=1)
        self.norm2 = _norm(width)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(width_in, width, 1) if width_in != width else nn.Identity()
        self.padding = _padding(factor)
        self.downsample_conv = nn.Conv2d(width, width, 3, stride=factor) if factor != (1, 1) else None

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:  # noqa: D102
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(self.dropout(F.silu(self.norm2(y))))
        y = self.conv_shortcut(x) + y
        return y if self.downsample_conv is None else self.downsample_conv(F.pad(y, self.padding))


class FeedForward(nn.Module):
    """Gated feed forward, four times as wide inside (GEGLU, arXiv 2002.05202)."""

    def __init__(self, width: int):
        super().__init__()
        self.net = nn.ModuleList([nn.Module(), nn.Identity(), nn.Linear(4 * width, width)])
        self.net[0].proj = nn.Linear(width, 8 * width)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:  # noqa: D102
        value, gate = self.net[0].proj(x).chunk(2, dim=-1)  # pyright: ignore[reportCallIssue]  # a module
        return self.net[2](value * F.gelu(gate))


class Attention(nn.Module):
    """Self attention over tokens b n c, eight heads."""

    def __init__(self, width: int, heads: int = 8):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:  # noqa: D102
        q, k, v = (to(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for to in (self.to_q, self.to_k, self.to_v))
        return self.to_out[0](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2))


class AttentionBlock(nn.Module):
    """Attention among the positions of a feature map, with a residual around it all."""

    def __init__(self, width: int):
        super().__init__()
        self.norm1 = _norm(width)
        self.conv_in = nn.Conv2d(width, width, 1)
        self.norm2 = nn.LayerNorm(width)
        self.attn = Attention(width)
        self.norm3 = nn.LayerNorm(width)
        self.ff = FeedForward(width)
        self.conv_out = nn.Conv2d(width, width, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:  # noqa: D102
        tokens = self.conv_in(self.norm1(x)).flatten(2).transpose(1, 2)
        tokens = tokens + self.attn(self.norm2(tokens))
        tokens = tokens + self.ff(self.norm3(tokens))
        return x + self.conv_out(tokens.transpose(1, 2).unflatten(2, x.shape[2:]))


class Encoder(nn.Module):
    """Blocks down to 1x1, then a ReLU (so that cosines are not negative) and a unit vector: b c h w -> b d.

    `size`, the (h, w) of the input, is checked at construction where it is known.
    """

    def __init__(self, cfg: SyncNetEncoder, size: tuple[int, int] | None = None):
        super().__init__()
        factors = [_pair(factor) for factor in cfg.downsample_factors]
        if not len(factors) == len(cfg.block_out_channels) == len(cfg.attn_blocks):
            raise ValueError(
                f"block_out_channels, downsample_factors and attn_blocks have {len(cfg.block_out_channels)}, "
                f"{len(factors)} and {len(cfg.attn_blocks)} entries; a SyncNet encoder needs one of each per block."
            )
        if size is not None:
            _check_size(size, factors)
        width = cfg.block_out_channels[0]
        self.conv_in = nn.Conv2d(cfg.in_channels, width, 3, padding=1)
        self.down_blocks = nn.ModuleList()
        for width_out, factor, attention in zip(cfg.block_out_channels, factors, cfg.attn_blocks, strict=True):
            self.down_blocks.append(ResnetBlock(width, width_out, factor, cfg.dropout))
            if attention:  # an entry of its own, so that the indices after it shift
                self.down_blocks.append(AttentionBlock(width_out))
            width = width_out
        self.norm_out = _norm(width)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:  # noqa: D102
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        x = F.relu(self.norm_out(x))
        assert x.shape[2:] == (1, 1), f"the encoder must end at 1x1, not at {tuple(x.shape[2:])}"
        return F.normalize(x.flatten(1), dim=1)


class StableSyncNet(nn.Module):
    """The pair of encoders. Give `visual_size` (h, w) and `frames` to have the shapes checked at construction."""

    def __init__(
        self,
        visual: SyncNetEncoder,
        audio: SyncNetEncoder,
        visual_size: tuple[int, int] | None = None,
        frames: int | None = None,
    ):
        super().__init__()
        if visual.block_out_channels[-1] != audio.block_out_channels[-1]:
            raise ValueError(
                f"The two encoders of SyncNet end {visual.block_out_channels[-1]} and {audio.block_out_channels[-1]} "
                "wide; the last entries of block_out_channels must be equal."
            )
        self.visual_encoder = Encoder(visual, visual_size)
        self.audio_encoder = Encoder(audio, (N_MELS, mel_width(frames)) if frames else None)

    def forward(
        self, visual: Float[Tensor, "b fc h w"], mel: Float[Tensor, "b 1 80 t"]
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d"]]:
        """Unit vectors of frames and audio, without negative components.

        visual: b (f c) h w, the frames' lower halves stacked on channels, frame first, in [-1, 1].
        mel: b 1 80 t.
        """
        return self.visual_encoder(visual), self.audio_encoder(mel)


def build(cfg: TrainSyncnet) -> StableSyncNet:
    """The network that a train_syncnet section describes: the lower half of the face, RGB frames on channels."""
    if cfg.visual.in_channels != 3 * cfg.frames:
        raise ValueError(
            f"train_syncnet.visual.in_channels is {cfg.visual.in_channels}, but {cfg.frames} RGB frames have "
            f"{3 * cfg.frames} channels; change it or frames."
        )
    return StableSyncNet(cfg.visual, cfg.audio, (cfg.resolution // 2, cfg.resolution), cfg.frames)


def build_published(name: str) -> StableSyncNet:
    """One of PUBLISHED, untrained."""
    shape = PUBLISHED[name]
    return StableSyncNet(shape.visual, shape.audio, shape.size, shape.frames)


def load(path: Path) -> tuple[StableSyncNet, TrainSyncnet]:
    """A SyncNet in evaluation mode and its configuration: one that train_syncnet wrote, or a published file.

    Raises:
        ValueError: the file is damaged, or is none of these networks.
    """
    state, metadata = weight_files.read(path)
    cfg = configuration(metadata["config"], path) if metadata else _published_configuration(state, path)
    return weight_files.build_with(lambda: build(cfg), state, str(path)).eval(), cfg


def configuration(config: dict[str, Any], path: Path) -> TrainSyncnet:
    """The train_syncnet section stored in a file that this project wrote.

    Raises:
        ValueError: the file holds another network.
    """
    try:
        return TrainSyncnet.model_validate(config)
    except ValidationError as error:
        raise ValueError(f"{path} was not written by train_syncnet ({error.error_count()} keys do not fit).") from error


def _published_configuration(state: weight_files.State, path: Path) -> TrainSyncnet:
    """The configuration in PUBLISHED with exactly these shapes; frames on channels, lower half of 256 px."""
    shapes = {key: value.shape for key, value in state.items()}
    for name, published in PUBLISHED.items():
        with torch.device("meta"):
            wanted = {key: value.shape for key, value in build_published(name).state_dict().items()}
        if shapes == wanted:
            if name == "16_latent":
                raise ValueError(
                    f"{path} is the published 16_latent, which takes latents; scoring needs pixels, so give another."
                )
            return TrainSyncnet(frames=published.frames, visual=published.visual, audio=published.audio)
    looks = layouts.recognise(state)
    raise ValueError(f"{path} has the shapes of no published StableSyncNet ({', '.join(PUBLISHED)})."
                     + (f" {looks}" if looks else ""))  # fmt: skip


@torch.inference_mode()
def embed_frames(net: StableSyncNet, halves: Float[Tensor, "f c h w"], frames: int) -> Float[Tensor, "n d"]:
    """Unit vectors (f - frames + 1, d) of every window of lower halves f c h w in [-1, 1]."""
    n, device = len(halves) - frames + 1, next(net.parameters()).device
    windows = (halves[start : start + frames].flatten(0, 1) for start in range(n))
    batches = (torch.stack(batch) for batch in _batched(windows))
    return torch.cat([net.visual_encoder(batch.to(device)) for batch in batches])


@torch.inference_mode()
def embed_audio(net: StableSyncNet, mel: Float[Tensor, "80 t"], n: int, frames: int) -> Float[Tensor, "{n} d"]:
    """Unit vectors (n, d) of the windows of a mel (80, t) that begin at frames 0..n-1."""
    device = next(net.parameters()).device
    windows = (mel[None, :, mel_start(frame) : mel_start(frame) + mel_width(frames)] for frame in range(n))
    batches = (torch.stack(batch) for batch in _batched(windows))
    return torch.cat([net.audio_encoder(batch.to(device)) for batch in batches])


def _norm(width: int) -> nn.GroupNorm:
    """32 groups, as published; in a narrow network as many as divide the width into groups of two channels or more."""
    groups = 32 if width % 32 == 0 else max(n for n in range(1, 33) if width % n == 0 and width >= 2 * n)
    return nn.GroupNorm(groups, width, eps=1e-6)


def _pair(factor: int | Sequence[int]) -> tuple[int, int]:
    return (factor, factor) if isinstance(factor, int) else (factor[0], factor[1])


def _padding(factor: tuple[int, int]) -> tuple[int, int, int, int]:
    """Zeros left, right, top, bottom before a strided 3x3 convolution."""
    if factor[0] == 1:
        return (0, 1, 1, 1)
    if factor[1] == 1:
        return (1, 1, 0, 1)
    return (0, 1, 0, 1)


def sizes(size: tuple[int, int], factors: Iterable[int | Sequence[int]]) -> list[tuple[int, int]]:
    """The (h, w) of the feature map before and after each block; ends early when a side reaches 0."""
    path = [size]
    for factor in map(_pair, factors):
        h, w = path[-1]
        if factor != (1, 1):
            left, right, top, bottom = _padding(factor)
            h, w = (h + top + bottom - 3) // factor[0] + 1, (w + left + right - 3) // factor[1] + 1
        path.append((h, w))
        if min(h, w) < 1:
            break
    return path


def _check_size(size: tuple[int, int], factors: list[tuple[int, int]]) -> None:
    path = sizes(size, factors)
    if path[-1] != (1, 1):
        raise ValueError(
            "A SyncNet encoder must shrink its input to 1x1, but downsample_factors give "
            f"{' -> '.join(f'{h}x{w}' for h, w in path)}; change the factors or the resolution (docs/models.md)."
        )


def _batched(windows: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    windows = iter(windows)
    while batch := list(islice(windows, CHUNK_WINDOWS)):
        yield batch
