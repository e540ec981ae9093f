"""The denoiser: LatentSync's U-Net (arXiv 2412.09262, Fig. 2), which is Stable Diffusion 1.5's inflated to video.

Three things make it LatentSync's: 13 input channels (noisy latents 4, mask 1, masked frame 4, reference frame 4), cross
attention from each frame to the 50 audio tokens around it, and motion modules (AnimateDiff, arXiv 2307.04725) that
attend over frames. Key names are upstream's, so published checkpoints load strictly.

Axes: b batch, f frames, c channels, h w, n tokens of one attention, s audio tokens, d their width.
From outside a video is `b c f h w`. Inside it is `b f h w c`, contiguous: a convolution sees channels-last frames, a
linear layer sees tokens and a GroupNorm sees the whole clip, all without moving memory.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Clip = Float[Tensor, "b f h w c"]  # inside the network
KeysValues = tuple[Tensor, Tensor]
Heard = dict[str, tuple[KeysValues, KeysValues | None]]  # by block: of the audio, and of no audio; see UNet3D.listen
Audio = Float[Tensor, "bf s width"] | Heard | None


@dataclass(frozen=True)
class UNetConfig:
    """What the network is built from; the defaults are LatentSync 1.5 and 1.6 (1267 M parameters).

    `motion`: which blocks have motion modules (stage 1: none; stage 2: all; stage2_efficient: decoder).
    `norm_groups` is meant for narrow nets. Upstream's motion modules always use 32 groups; so do ours where 32 divides
    the width, and norm_groups elsewhere.
    `audio_positions` adds fixed sinusoids to the audio tokens, since attention does not see their order.
    The published networks work without it, since Whisper's trained features carry time; untrained features need it.
    """

    in_channels: int = 13
    out_channels: int = 4
    block_out_channels: Sequence[int] = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    cross_attention_dim: int = 384
    attention_heads: int = 8
    norm_groups: int = 32
    motion: Literal["none", "all", "decoder"] = "all"
    motion_max_frames: int = 24
    audio: bool = True
    audio_positions: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "block_out_channels", tuple(self.block_out_channels))  # JSON knows lists only
        for width in self.block_out_channels:
            for name, divisor in (("norm_groups", self.norm_groups), ("attention_heads", self.attention_heads)):
                if width % divisor:
                    raise ValueError(f"{name} is {divisor}, which does not divide the U-Net's width {width}.")


# --- parts ----------------------------------------------------------------------------------------------------------


class FrameConv(nn.Conv2d):
    """A 2-D convolution of every frame: b f h w c -> b f h w c."""

    def forward(self, x: Clip) -> Float[Tensor, "b f h2 w2 d"]:  # noqa: D102
        y = super().forward(x.flatten(0, 1).permute(0, 3, 1, 2))
        return y.permute(0, 2, 3, 1).unflatten(0, x.shape[:2])


class PixelConv(nn.Conv2d):
    """A 1x1 convolution, which is a linear layer over channels; the weight keeps the shape of a convolution's."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, 1)

    def forward(self, x: Float[Tensor, "*positions c"]) -> Float[Tensor, "*positions d"]:  # noqa: D102
        return F.linear(x, self.weight.flatten(1), self.bias)


def without_copies(x: Float[Tensor, "n *positions c"], norm: nn.GroupNorm) -> Float[Tensor, "n *positions c"]:
    """GroupNorm of x, channels last. On a GPU PyTorch's own first brings channels to the front, and back afterwards.

    Means and mean squares are float32 sums. The transposes were a fifth of a denoising step at 512 px.
    """
    c = x.shape[-1]
    groups = x.reshape(len(x), -1, norm.num_groups, c // norm.num_groups)
    n = groups.shape[1] * groups.shape[3]
    mean = groups.sum((1, 3), dtype=torch.float32) / n
    square = torch.linalg.vector_norm(groups, dim=(1, 3), dtype=torch.float32).square() / n
    per_std = (square - mean.square()).clamp_min(0).add(norm.eps).rsqrt()
    scale = per_std[..., None] * norm.weight.float().view(norm.num_groups, -1)
    shift = norm.bias.float().view(norm.num_groups, -1) - mean[..., None] * scale
    scale, shift = (one.reshape(len(x), *[1] * (x.dim() - 2), c).to(x.dtype) for one in (scale, shift))
    return torch.addcmul(shift, x, scale)


class ClipNorm(nn.GroupNorm):
    """GroupNorm with statistics over all frames of the clip, as published: the result depends on the clip's length."""

    def forward(self, x: Clip) -> Clip:  # noqa: D102
        if x.is_cuda and not torch.is_grad_enabled():
            return without_copies(x, self)
        return super().forward(x.flatten(1, 2).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).reshape(x.shape)


class FrameNorm(nn.GroupNorm):
    """GroupNorm with statistics of each frame alone, before attention."""

    def forward(self, x: Clip) -> Clip:  # noqa: D102
        if x.is_cuda and not torch.is_grad_enabled():
            return without_copies(x.flatten(0, 1), self).reshape(x.shape)
        return super().forward(x.flatten(0, 1).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).reshape(x.shape)


class Attention(nn.Module):
    """Multi-head attention over the last but one axis: x (..., n, c), context (..., s, d) or x itself."""

    def __init__(self, width: int, context_width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context_width, width, bias=False)
        self.to_v = nn.Linear(context_width, width, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(  # noqa: D102
        self, x: Float[Tensor, "*batch n c"], context: Float[Tensor, "*batch s d"] | None = None
    ) -> Float[Tensor, "*batch n c"]:
        return self.attend(x, *self.keys_values(x if context is None else context))

    def keys_values(self, context: Float[Tensor, "*batch s d"]) -> tuple[Tensor, Tensor]:
        """What the tokens of a context are compared with, and what they say: (..., heads, s, width / heads) each."""
        return self._split(self.to_k(context)), self._split(self.to_v(context))

    def attend(self, x: Float[Tensor, "*batch n c"], k: Tensor, v: Tensor) -> Float[Tensor, "*batch n c"]:
        """Attention of x (..., n, c) to keys and values."""
        attended = F.scaled_dot_product_attention(self._split(self.to_q(x)), k, v)
        return self.to_out[0](attended.transpose(-3, -2).flatten(-2))

    def _split(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (self.heads, -1)).transpose(-3, -2)


class GEGLU(nn.Module):
    """Gated linear unit with GELU (arXiv 2002.05202)."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.proj = nn.Linear(width, 2 * inner)

    def forward(self, x: Float[Tensor, "*batch c"]) -> Float[Tensor, "*batch d"]:  # noqa: D102
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """Width -> four times as wide -> width; index 1 of the list is upstream's dropout, which is 0."""

    def __init__(self, width: int):
        super().__init__()
        self.net = nn.Sequential(GEGLU(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width))

    def forward(self, x: Float[Tensor, "*batch c"]) -> Float[Tensor, "*batch c"]:  # noqa: D102
        return self.net(x)


def position_table(length: int, width: int) -> Float[Tensor, "{length} {width}"]:
    """Sines on even and cosines on odd channels (arXiv 1706.03762, Sec. 3.5): (length, width)."""
    position = torch.arange(length)[:, None].float()
    frequencies = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000) / width))
    table = torch.zeros(length, width)
    table[:, 0::2] = torch.sin(position * frequencies)
    table[:, 1::2] = torch.cos(position * frequencies)[:, : width // 2]
    return table


class TimeEmbedding(nn.Module):
    """Diffusion time t -> a vector: sinusoids (cosines first), then two linear layers."""

    def __init__(self, width: int, embedding: int):
        super().__init__()
        self.width = width
        self.linear_1 = nn.Linear(width, embedding)
        self.linear_2 = nn.Linear(embedding, embedding)

    def sinusoids(self, t: Int[Tensor, " b"] | Float[Tensor, " b"]) -> Float[Tensor, "b width"]:
        """Cosines, then sines of t at width/2 frequencies from 1 down to nearly 1/10000: (b,) -> (b, width)."""
        half = self.width // 2
        frequencies = torch.exp(torch.arange(half, device=t.device, dtype=torch.float32) * (-math.log(10_000) / half))
        angles = t.float()[:, None] * frequencies
        return torch.cat([angles.cos(), angles.sin()], dim=-1)

    def forward(self, t: Int[Tensor, " b"] | Float[Tensor, " b"]) -> Float[Tensor, "b d"]:  # noqa: D102
        return self.linear_2(F.silu(self.linear_1(self.sinusoids(t).to(self.linear_1.weight.dtype))))


# --- the three things inside a layer --------------------------------------------------------------------------------


class ResnetBlock(nn.Module):
    """Two convolutions of every frame, diffusion time added between them."""

    def __init__(self, cfg: UNetConfig, width_in: int, width_out: int):
        super().__init__()
        self.norm1 = ClipNorm(cfg.norm_groups, width_in, eps=1e-5)
        self.conv1 = FrameConv(width_in, width_out, 3, padding=1)
        self.time_emb_proj = nn.Linear(4 * cfg.block_out_channels[0], width_out)
        self.norm2 = ClipNorm(cfg.norm_groups, width_out, eps=1e-5)
        self.conv2 = FrameConv(width_out, width_out, 3, padding=1)
        self.conv_shortcut = PixelConv(width_in, width_out) if width_in != width_out else nn.Identity()

    def forward(self, x: Clip, time: Float[Tensor, "b e"]) -> Float[Tensor, "b f h w d"]:  # noqa: D102
        y = self.conv1(F.silu(self.norm1(x)))
        y = y + self.time_emb_proj(F.silu(time))[:, None, None, None]
        y = self.conv2(F.silu(self.norm2(y)))
        return self.conv_shortcut(x) + y


class TransformerBlock(nn.Module):
    """Self attention inside a frame, cross attention to its audio tokens, feed forward; each after a LayerNorm."""

    name = ""  # of the block in the network, which `listen` uses

    def __init__(self, cfg: UNetConfig, width: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = Attention(width, width, cfg.attention_heads)
        if cfg.audio:
            self.norm2 = nn.LayerNorm(width)
            self.attn2 = Attention(width, cfg.cross_attention_dim, cfg.attention_heads)
        self.norm3 = nn.LayerNorm(width)
        self.ff = FeedForward(width)

    def forward(self, x: Float[Tensor, "bf n c"], audio: Audio) -> Float[Tensor, "bf n c"]:  # noqa: D102
        x = x + self.attn1(self.norm1(x))
        if isinstance(audio, dict):
            x = x + self._attend_to_heard(x, *audio[self.name])
        elif audio is not None:
            x = x + self.attn2(self.norm2(x), audio)
        return x + self.ff(self.norm3(x))

    def _bias(self) -> Tensor:
        bias = self.attn2.to_out[0].bias
        assert isinstance(bias, Tensor)
        return bias

    def _attend_to_heard(self, x: Tensor, own: KeysValues, null: KeysValues | None) -> Tensor:
        """Frames that come before those with keys have the null condition.

        Its tokens are zero, so their values are, and only the bias is left, unless positions were added (`null`).
        """
        silent = len(x) - len(own[0])
        heard = self.attn2.attend(self.norm2(x[silent:]), *own)
        if not silent:
            return heard
        if null is None:
            return torch.cat([self._bias().expand(silent, *x.shape[1:]), heard])
        k, v = (one.expand(silent, -1, -1, -1) for one in null)
        return torch.cat([self.attn2.attend(self.norm2(x[:silent]), k, v), heard])


class SpatialTransformer(nn.Module):
    """Attention of the pixels of one frame to one another and to the audio: (b f) n c inside."""

    def __init__(self, cfg: UNetConfig, width: int):
        super().__init__()
        self.norm = FrameNorm(cfg.norm_groups, width, eps=1e-6)
        self.proj_in = PixelConv(width, width)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(cfg, width)])
        self.proj_out = PixelConv(width, width)

    def forward(self, x: Clip, audio: Audio) -> Clip:  # noqa: D102
        b, f, h, w, c = x.shape
        tokens = self.proj_in(self.norm(x)).reshape(b * f, h * w, c)
        for block in self.transformer_blocks:
            tokens = block(tokens, audio)
        return x + self.proj_out(tokens).reshape(x.shape)


class PositionTable(nn.Module):
    """Sinusoids over frames; a buffer that upstream stores in the checkpoint."""

    pe: Tensor

    def __init__(self, width: int, max_frames: int):
        super().__init__()
        self.register_buffer("pe", position_table(max_frames, width)[None])

    def forward(self, x: Float[Tensor, "bn f c"]) -> Float[Tensor, "bn f c"]:  # noqa: D102
        return x + self.pe[:, : x.shape[1]]


class TemporalAttention(Attention):
    """Self attention over frames; q, k and v see the position table, the residual does not."""

    def __init__(self, width: int, heads: int, max_frames: int):
        super().__init__(width, width, heads)
        self.pos_encoder = PositionTable(width, max_frames)

    def forward(self, x: Float[Tensor, "bn f c"]) -> Float[Tensor, "bn f c"]:  # noqa: D102
        return super().forward(self.pos_encoder(x))


class TemporalBlock(nn.Module):
    """Two attentions over frames and a feed forward."""

    def __init__(self, cfg: UNetConfig, width: int):
        super().__init__()
        self.attention_blocks = nn.ModuleList(
            TemporalAttention(width, cfg.attention_heads, cfg.motion_max_frames) for _ in range(2)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.ff = FeedForward(width)
        self.ff_norm = nn.LayerNorm(width)

    def forward(self, x: Float[Tensor, "bn f c"]) -> Float[Tensor, "bn f c"]:  # noqa: D102
        for attention, norm in zip(self.attention_blocks, self.norms, strict=True):
            x = x + attention(norm(x))
        return x + self.ff(self.ff_norm(x))


class TemporalTransformer(nn.Module):
    """Attention of the frames at one pixel to one another: (b n) f c inside. It starts as the identity."""

    def __init__(self, cfg: UNetConfig, width: int):
        super().__init__()
        self.norm = FrameNorm(32 if width % 32 == 0 else cfg.norm_groups, width, eps=1e-6)
        self.proj_in = nn.Linear(width, width)
        self.transformer_blocks = nn.ModuleList([TemporalBlock(cfg, width)])
        self.proj_out = nn.Linear(width, width)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def forward(self, x: Clip) -> Clip:  # noqa: D102
        b, f, h, w, c = x.shape
        tokens = self.proj_in(self.norm(x)).reshape(b, f, h * w, c).transpose(1, 2).reshape(b * h * w, f, c)
        for block in self.transformer_blocks:
            tokens = block(tokens)
        return x + self.proj_out(tokens).reshape(b, h * w, f, c).transpose(1, 2).reshape(x.shape)


class MotionModule(nn.Module):
    """Exists for its name: upstream's keys hold `temporal_transformer`."""

    def __init__(self, cfg: UNetConfig, width: int):
        super().__init__()
        self.temporal_transformer = TemporalTransformer(cfg, width)

    def forward(self, x: Clip) -> Clip:  # noqa: D102
        return self.temporal_transformer(x)


class Downsample(nn.Module):
    """Half the height and width."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = FrameConv(width, width, 3, stride=2, padding=1)

    def forward(self, x: Clip) -> Float[Tensor, "b f h2 w2 c"]:  # noqa: D102
        return self.conv(x)


class Upsample(nn.Module):
    """Nearest neighbour to the size of the next skip (odd sizes are not exactly doubled), then a convolution."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = FrameConv(width, width, 3, padding=1)

    def forward(self, x: Clip, size: tuple[int, int]) -> Float[Tensor, "b f h2 w2 c"]:  # noqa: D102
        y = F.interpolate(x.flatten(0, 1).permute(0, 3, 1, 2), size=size)
        return self.conv(y.permute(0, 2, 3, 1).unflatten(0, x.shape[:2]))


# --- blocks ---------------------------------------------------------------------------------------------------------


class Block(nn.Module):
    """Layers of one resolution; a layer is resnet -> attention (where there is one) -> motion (where there is one)."""

    def __init__(self, cfg: UNetConfig, widths_in: list[int], width: int, attention: bool, motion: bool):
        super().__init__()
        self.resnets = nn.ModuleList(ResnetBlock(cfg, width_in, width) for width_in in widths_in)
        if attention:
            self.attentions = nn.ModuleList(SpatialTransformer(cfg, width) for _ in widths_in)
        if motion:
            self.motion_modules = nn.ModuleList(MotionModule(cfg, width) for _ in widths_in)
        self.gradient_checkpointing = False

    def layer(self, index: int, x: Clip, time: Tensor, audio: Audio) -> Float[Tensor, "b f h w d"]:
        """One layer; with gradient checkpointing its activations are recomputed in the backward pass."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(self._layer, index, x, time, audio, use_reentrant=False)
        return self._layer(index, x, time, audio)

    def _layer(self, index: int, x: Tensor, time: Tensor, audio: Audio) -> Tensor:
        x = self.resnets[index](x, time)
        if hasattr(self, "attentions"):
            x = self.attentions[index](x, audio)
        if hasattr(self, "motion_modules"):
            x = self.motion_modules[index](x)
        return x


class DownBlock(Block):
    """Encoder layers; every output is kept as a skip for the decoder."""

    def __init__(self, cfg: UNetConfig, width_in: int, width: int, attention: bool, downsample: bool):
        widths_in = [width_in] + [width] * (cfg.layers_per_block - 1)
        super().__init__(cfg, widths_in, width, attention, motion=cfg.motion == "all")
        self.downsamplers = nn.ModuleList([Downsample(width)] if downsample else [])

    def forward(self, x: Clip, time: Tensor, audio: Audio) -> tuple[Tensor, list[Tensor]]:  # noqa: D102
        skips = []
        for index in range(len(self.resnets)):
            x = self.layer(index, x, time, audio)
            skips.append(x)
        for downsample in self.downsamplers:
            x = downsample(x)
            skips.append(x)
        return x, skips


class MidBlock(nn.Module):
    """Resnet, attention, resnet at the lowest resolution; no motion module."""

    def __init__(self, cfg: UNetConfig, width: int):
        super().__init__()
        self.attentions = nn.ModuleList([SpatialTransformer(cfg, width)])
        self.resnets = nn.ModuleList(ResnetBlock(cfg, width, width) for _ in range(2))

    def forward(self, x: Clip, time: Tensor, audio: Audio) -> Clip:  # noqa: D102
        return self.resnets[1](self.attentions[0](self.resnets[0](x, time), audio), time)


class UpBlock(Block):
    """Decoder layers; each takes the last remaining skip."""

    def __init__(self, cfg: UNetConfig, width_in: int, skips: list[int], width: int, attention: bool, upsample: bool):
        widths_in = [before + skip for before, skip in zip([width_in] + [width] * len(skips), skips, strict=False)]
        super().__init__(cfg, widths_in, width, attention, motion=cfg.motion != "none")
        self.upsamplers = nn.ModuleList([Upsample(width)] if upsample else [])

    def forward(self, x: Clip, time: Tensor, audio: Audio, skips: list[Tensor]) -> Tensor:  # noqa: D102
        for index in range(len(self.resnets)):
            x = self.layer(index, torch.cat([x, skips.pop()], dim=-1), time, audio)
        for upsample in self.upsamplers:
            x = upsample(x, skips[-1].shape[2:4])
        return x


# --- the network ----------------------------------------------------------------------------------------------------


class UNet3D(nn.Module):
    """Predicts the noise in a clip of latents; any number of levels, attention on all but the lowest."""

    def __init__(self, cfg: UNetConfig):
        super().__init__()
        self.config = cfg
        widths = cfg.block_out_channels
        levels = range(len(widths))
        self.conv_in = FrameConv(cfg.in_channels, widths[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(widths[0], 4 * widths[0])

        skips = [widths[0]]
        self.down_blocks = nn.ModuleList()
        for level in levels:
            last = level == levels[-1]
            self.down_blocks.append(DownBlock(cfg, skips[-1], widths[level], attention=not last, downsample=not last))
            skips += [widths[level]] * (cfg.layers_per_block + (not last))

        self.mid_block = MidBlock(cfg, widths[-1])

        before = widths[-1]
        self.up_blocks = nn.ModuleList()
        for level in reversed(levels):
            own = [skips.pop() for _ in range(cfg.layers_per_block + 1)]
            lowest = level == levels[-1]
            self.up_blocks.append(UpBlock(cfg, before, own, widths[level], attention=not lowest, upsample=level > 0))
            before = widths[level]

        self.conv_norm_out = ClipNorm(cfg.norm_groups, widths[0], eps=1e-5)
        self.conv_out = FrameConv(widths[0], cfg.out_channels, 3, padding=1)
        assert self.conv_out.bias is not None
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)
        for name, block in self.named_modules():
            if isinstance(block, TransformerBlock):
                block.name = name

    def set_gradient_checkpointing(self, enabled: bool) -> None:
        """Trade compute for memory in every layer of the encoder and the decoder."""
        for block in [*self.down_blocks, *self.up_blocks]:
            assert isinstance(block, Block)
            block.gradient_checkpointing = enabled

    def listen(self, audio: Float[Tensor, "*bf s d"]) -> Heard:
        """Keys and values of audio b f s d in every attention to it: they are the same in all denoising steps."""
        heard, null = self._placed(audio), None
        if self.config.audio_positions:  # without them, zero tokens have values of zero
            null = self._placed(torch.zeros_like(heard[:1]))
        blocks = [block for block in self.modules() if isinstance(block, TransformerBlock)]
        return {
            block.name: (block.attn2.keys_values(heard), None if null is None else block.attn2.keys_values(null))
            for block in blocks
        }

    def _placed(self, audio: Tensor) -> Tensor:
        audio = audio.reshape(-1, *audio.shape[-2:])
        return audio + position_table(*audio.shape[1:]).to(audio) if self.config.audio_positions else audio

    def forward(
        self,
        sample: Float[Tensor, "b c f h w"],
        timesteps: Int[Tensor, " *b"] | int,
        audio: Float[Tensor, "*bf s d"] | Heard | None = None,
    ) -> Float[Tensor, "b out f h w"]:
        """Noise prediction.

        sample: b c f h w, channels in the order noisy 4, mask 1, masked 4, reference 4.
        timesteps: (b,) or a scalar, 0 .. 999.
        audio: b f s d, or (b f) s d. Zeros are the null condition of classifier-free guidance; None skips the
            cross attention altogether. What `listen` returns saves computing keys and values in every step; if it is
            of fewer clips than the sample, those at the end, the clips before them have the null condition.
        """
        return self.predict(sample, timesteps, audio)[0]

    def predict(
        self,
        sample: Float[Tensor, "b c f h w"],
        timesteps: Int[Tensor, " *b"] | int,
        audio: Float[Tensor, "*bf s d"] | Heard | None = None,
        deep: Float[Tensor, "b f h w inner"] | None = None,
    ) -> tuple[Float[Tensor, "b out f h w"], Float[Tensor, "b f h w inner"]]:
        """Noise prediction, and what all levels but the outermost contribute to it, b f h w c.

        The latter changes little from one denoising step to the next (DeepCache, arXiv 2312.00858): given as `deep`, it
        is used as it is, and only the outermost level is computed. The rest as in `forward`.
        """
        b, _, f, _, _ = sample.shape
        if self.config.motion != "none" and f > self.config.motion_max_frames:
            raise ValueError(
                f"A clip of {f} frames is longer than motion_max_frames = {self.config.motion_max_frames}; "
                "shorten the window or raise the limit before training."
            )
        if isinstance(audio, Tensor):
            audio = self._placed(audio)
        time = self.time_embedding(torch.as_tensor(timesteps, device=sample.device).expand(b))
        x_in = self.conv_in(sample.permute(0, 2, 3, 4, 1).contiguous())
        x, outputs = self.down_blocks[0](x_in, time, audio)
        skips = [x_in, *outputs]
        if deep is None:
            deep = self._below(x, time, audio, skips)
        x = self.up_blocks[-1](deep, time, audio, skips[: 1 + self.config.layers_per_block])  # not the downsampled one
        return self.conv_out(F.silu(self.conv_norm_out(x))).permute(0, 4, 1, 2, 3), deep

    def _below(self, x: Tensor, time: Tensor, audio: Audio, skips: list[Tensor]) -> Tensor:
        """All levels but the outermost; takes its skips off the list."""
        for block in self.down_blocks[1:]:
            x, outputs = block(x, time, audio)
            skips += outputs
        x = self.mid_block(x, time, audio)
        for block in self.up_blocks[:-1]:
            x = block(x, time, audio, skips)
        return x
