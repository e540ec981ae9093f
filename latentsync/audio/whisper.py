"""Audio features: Whisper's encoder (arXiv 2212.04356), five states of 384 numbers for every 20 ms.

Audio becomes a log-mel of 100 columns a second, the encoder halves that to 50 rows a second. The states of a row are
the convolutions' output with positions, and the output of every block before the final norm. A frame of video takes
the 10 rows around it: with 5 states that makes 50 tokens.

The encoder sees 30 s at a time. Published: adjacent pieces of 30 s, whose borders are audible (#132 upstream).
Default: windows of 30 s every 20 s, cross-faded; up to 30 s of audio the two are equal.

Axes: n frames of video, t rows (50 a second), s states, d width.
"""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Num
from torch import Tensor, nn
from transformers.models.whisper.configuration_whisper import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from latentsync import timing
from latentsync.audio.mel import N_MELS, whisper_logmel
from latentsync.weights import files as weight_files
from latentsync.weights import layouts, registry

CHUNK_COLUMNS = 3000  # 30 s
HOP_COLUMNS = 2000
KEPT = 3  # windows: two overlap, and the next begins

Chunking = Literal["overlap", "published"]


class WhisperFeatures:
    """A frozen encoder that returns its hidden states: `states` of them, each `width` wide."""

    def __init__(self, encoder: WhisperEncoder, chunking: Chunking = "overlap"):
        self.encoder = encoder.eval().requires_grad_(False)
        self.chunking: Chunking = chunking
        self.width, self.states = encoder.config.d_model, encoder.config.encoder_layers + 1

    def features(self, samples: Float[np.ndarray, " n"]) -> Float32[np.ndarray, "t s d"]:
        """Samples (16 kHz mono) -> float32 [t, s, d], t = n // 160 // 2."""
        rows = self.rows(samples)
        return rows[np.arange(len(rows))].cpu().numpy()

    def rows(self, samples: Float[np.ndarray, " n"]) -> "Rows":
        """The same features, computed when they are asked for, on the encoder's device."""
        return Rows(self, samples)

    @torch.inference_mode()
    def encode(self, logmel: Float32[np.ndarray, "80 columns"]) -> Float32[Tensor, "1500 s d"]:
        """The states of one piece, padded to 30 s with 0 in the log-mel domain, as published: [1500, s, d]."""
        columns = np.zeros((1, N_MELS, CHUNK_COLUMNS), np.float32)
        columns[0, :, : logmel.shape[1]] = logmel
        states: list[Tensor] = []
        layers = self.encoder.layers
        hooks = [layers[0].register_forward_pre_hook(lambda _, inputs: states.append(inputs[0]))]
        hooks += [layer.register_forward_hook(lambda *call: states.append(_first(call[-1]))) for layer in layers]
        try:
            self.encoder(torch.from_numpy(columns).to(self.encoder.device, self.encoder.dtype))
        finally:
            for hook in hooks:
                hook.remove()
        return torch.stack([state[0] for state in states], dim=1).float()


class Rows:
    """Features t s d of one audio; windows of 30 s are encoded when their rows are asked for, in any order.

    The KEPT windows used last are held, so memory does not grow with the audio, apart from its log-mel (32 kB a
    second). The loudest value of the log-mel is that of the whole audio.
    """

    def __init__(self, encoder: WhisperFeatures, samples: Float[np.ndarray, " n"]):
        logmel = whisper_logmel(samples)
        self.shape = logmel.shape[1] // 2, encoder.states, encoder.width
        self.device = encoder.encoder.device
        self.windows = list(_windows(logmel.shape[1], encoder.chunking))

        def encode(window: int) -> Tensor:
            start = self.windows[window][0]
            return encoder.encode(logmel[:, start : start + CHUNK_COLUMNS])

        self.encoded = lru_cache(KEPT)(encode)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Int[np.ndarray, "*n"]) -> Float32[Tensor, "*n s d"]:
        """Rows by number, 0 .. t - 1."""
        wanted, places = np.unique(rows, return_inverse=True)
        found = torch.zeros(len(wanted), *self.shape[1:], device=self.device)
        for number, (start, weight) in enumerate(self.windows):
            inside = slice(*np.searchsorted(wanted, [start // 2, start // 2 + len(weight)]).tolist())
            here = wanted[inside] - start // 2
            if len(here):
                shares = torch.from_numpy(weight[here])[:, None, None].to(self.device)
                found[inside] += shares * self.encoded(number)[torch.from_numpy(here).to(self.device)]
        return found[torch.from_numpy(places.reshape(rows.shape)).to(self.device)]


def _first(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]


def _windows(columns: int, chunking: Chunking) -> Iterator[tuple[int, np.ndarray]]:
    """First column of each window and the weights of its rows; over all windows the weights of a row add up to 1."""
    hop = CHUNK_COLUMNS if chunking == "published" else HOP_COLUMNS
    fade = (CHUNK_COLUMNS - hop) // 2
    starts = list(range(0, max(1, columns - (CHUNK_COLUMNS - hop)), hop))
    for start in starts:
        weight = np.ones(min(CHUNK_COLUMNS, columns - start) // 2, np.float32)
        ramp = (np.arange(fade, dtype=np.float32) + 0.5) / max(fade, 1)
        if start != starts[0]:
            weight[:fade] = ramp
        if start != starts[-1]:
            weight[len(weight) - fade :] = 1 - ramp
        yield start, weight


def build(
    backend: Literal["whisper", "embedded"],
    *,
    width: int = 384,
    layers: int = 4,
    seed: int = 0,
    path: str | Path | None = None,
    chunking: Chunking = "overlap",
) -> WhisperFeatures:
    """The published Whisper (tiny, or any size that `path` names), or a small seeded untrained encoder."""
    if backend == "whisper":
        return WhisperFeatures(
            load_whisper(registry.find("whisper", path, "extract_features.audio_encoder: whisper")), chunking
        )
    return WhisperFeatures(_embedded(width, layers, seed), chunking)


def load_whisper(path: Path, heads: int | None = None) -> WhisperEncoder:
    """The encoder of OpenAI's .pt, of a Hugging Face folder, or of a safetensors file with either's names."""
    path = Path(path)
    names = ("model.safetensors", "pytorch_model.bin")
    file = next((path / name for name in names if (path / name).exists()), path / names[0]) if path.is_dir() else path
    if not file.exists():
        raise ValueError(f"{file} does not exist; give OpenAI's tiny.pt or a folder with Whisper's model.safetensors.")
    published = weight_files.read_foreign(file)
    state = layouts.whisper_encoder_state(published)
    first, layers = state.get("conv1.weight"), sum(key.endswith(".fc1.weight") for key in state)
    if first is None or first.dim() != 3 or layers == 0:
        looks = layouts.recognise(published) or ""
        raise ValueError(f"{file} holds no Whisper encoder; give OpenAI's tiny.pt or small.pt. {looks}".rstrip())
    width = first.shape[0]
    if first.shape[1] != N_MELS:
        raise ValueError(
            f"{file} is a Whisper with {first.shape[1]} mel bands; LatentSync needs {N_MELS}: use tiny or small."
        )
    heads = heads or max(1, width // 64)  # every published Whisper has 64 channels a head
    if width % heads:
        raise ValueError(
            f"{file} is {width} wide, which is not a multiple of {heads} heads; it is not a published Whisper."
        )
    return weight_files.load_strictly(WhisperEncoder(_config(width, layers, heads)), state, str(file), published)


def _config(width: int, layers: int, heads: int) -> WhisperConfig:
    return WhisperConfig(
        d_model=width,
        encoder_layers=layers,
        encoder_attention_heads=heads,
        encoder_ffn_dim=4 * width,
        num_mel_bins=N_MELS,
        max_source_positions=CHUNK_COLUMNS // 2,
    )


def _embedded(width: int, layers: int, seed: int) -> WhisperEncoder:
    """A stand-in that passes the spectrum on without training.

    Convolutions are initialised as in He et al. (arXiv 1502.01852, Eq. 10), the first with three times the scale, since
    a band of the log-mel has a standard deviation of about a third; blocks add little to their input, so every state
    varies in time by about 1/2. Positions are zero: untrained attention cannot use them, and the U-Net could read the
    place in the clip from them. Measured with a small attention network that predicts the mouth opening of unseen
    voices, after 500 steps: r 0.25 with transformers' initialisation, 0.85 with this, 0.97 with
    UNetConfig.audio_positions as well.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = WhisperEncoder(_config(width, layers, heads=max(1, width // 16)))
        for conv in (encoder.conv1, encoder.conv2):
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)
        for weight in (
            parameter for layer in encoder.layers for parameter in layer.parameters() if parameter.dim() == 2
        ):
            nn.init.normal_(weight, std=0.5 * weight.shape[1] ** -0.5)
        with torch.no_grad():
            encoder.conv1.weight.mul_(3)
            encoder.embed_positions.weight.zero_()
    return encoder


def tokens_at(
    features: Num[np.ndarray | Tensor, "t s d"] | Rows, centres: Int[np.ndarray, " n"]
) -> Num[np.ndarray | Tensor, "n tokens d"]:
    """The tokens around centre rows: [t, s, d], (n,) -> [n, 10 s, d]; token = row * s + state, rows clamped."""
    rows = timing.whisper_window(centres, len(features))
    return features[rows].reshape(len(rows), -1, features.shape[-1])


def window_tokens(features: np.ndarray | Tensor, start_frame: int, n: int) -> np.ndarray | Tensor:
    """Tokens of n frames at 25 per second from `start_frame`: [n, 10 s, d]."""
    times_s = np.arange(start_frame, start_frame + n) / timing.TICKS_PER_S
    return tokens_at(features, timing.whisper_rows(times_s))
