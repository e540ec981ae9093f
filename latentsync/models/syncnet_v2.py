"""SyncNet of Chung and Zisserman, "Out of time: automated lip sync in the wild" (2016), as published.

Two convolutional towers give 1024 numbers for 5 frames of a face (224 x 224, BGR, 0..255) and for 20 columns of MFCC;
the embeddings are close where lips and audio agree. Key names are those of the published file, a flat state dict.
Axes: b batch, c channels, f frames, h w frame size, m cepstral coefficients, t MFCC columns, d embedding.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from latentsync.weights import files as weight_files

FRAMES, COLUMNS, COLUMNS_PER_FRAME = 5, 20, 4
SIDE_PX = 224
CHUNK_WINDOWS = 16  # windows at a time: about 0.4 GB of activations


def _conv(dims: int, inputs: int, outputs: int, kernel: Any, stride: Any = 1, padding: Any = 0) -> list[nn.Module]:
    """A block; kernel, stride and padding are the same along every axis or one number for each."""
    conv, norm = (nn.Conv2d, nn.BatchNorm2d) if dims == 2 else (nn.Conv3d, nn.BatchNorm3d)
    return [conv(inputs, outputs, kernel, stride, padding), norm(outputs), nn.ReLU()]


def _head() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 1024))


class SyncNetV2(nn.Module):
    """Both towers; 13 631 616 parameters. 102 entries; the published file has 88, without batch counters."""

    def __init__(self):
        super().__init__()
        self.netcnnaud = nn.Sequential(
            *_conv(2, 1, 64, 3, padding=1),
            nn.MaxPool2d(1),
            *_conv(2, 64, 192, 3, padding=1),
            nn.MaxPool2d(3, (1, 2)),
            *_conv(2, 192, 384, 3, padding=1),
            *_conv(2, 384, 256, 3, padding=1),
            *_conv(2, 256, 256, 3, padding=1),
            nn.MaxPool2d(3, 2),
            *_conv(2, 256, 512, (5, 4)),
        )
        self.netfcaud = _head()
        self.netcnnlip = nn.Sequential(
            *_conv(3, 3, 96, (5, 7, 7), (1, 2, 2)),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *_conv(3, 96, 256, (1, 5, 5), (1, 2, 2), (0, 1, 1)),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
            *_conv(3, 256, 256, (1, 3, 3), padding=(0, 1, 1)),
            *_conv(3, 256, 256, (1, 3, 3), padding=(0, 1, 1)),
            *_conv(3, 256, 256, (1, 3, 3), padding=(0, 1, 1)),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *_conv(3, 256, 512, (1, 6, 6)),
        )
        self.netfclip = _head()

    def audio_features(self, mfcc: Float[Tensor, "b 1 13 20"]) -> Float[Tensor, "b 512"]:
        """Last activations (b, 512) of the audio tower for windows (b, 1, m=13, t=20)."""
        return self.netcnnaud(mfcc).flatten(1)

    def lip_features(self, frames: Float[Tensor, "b 3 f h w"]) -> Float[Tensor, "n 512"]:
        """Last activations (b * (f - 4), 512) of the video tower for b c f h w, one per window of five frames.

        Only the first layer looks along time, without padding, so one pass over a run of frames gives every window.
        """
        return self.netcnnlip(frames).squeeze((-2, -1)).transpose(1, 2).flatten(0, 1)

    def embed_audio(self, mfcc: Float[Tensor, "b 1 13 20"]) -> Float[Tensor, "b 1024"]:
        """Embeddings (b, d) of windows (b, 1, 13, 20)."""
        return self.netfcaud(self.audio_features(mfcc))

    def embed_lips(self, frames: Float[Tensor, "1 3 f h w"]) -> Float[Tensor, "n 1024"]:
        """Embeddings (f - 4, d) of the frames (1, c, f, h, w)."""
        return self.netfclip(self.lip_features(frames))


def load(path: Path) -> SyncNetV2:
    """The network with the published weights, in evaluation mode.

    Raises:
        ValueError: the file is missing, or holds something else.
    """
    return weight_files.build_with(SyncNetV2, weight_files.read_foreign(path), str(path)).eval()


@torch.inference_mode()
def embed_frames(
    net: SyncNetV2, frames: UInt8[np.ndarray, "f 224 224 3"], windows: int
) -> Float[np.ndarray, "{windows} 1024"]:
    """Embeddings (windows, 1024) of uint8 frames (f, 224, 224, 3), BGR as published; window v is frames v..v+4.

    On a GPU without TF32: its 10-bit mantissa would change scores visibly.
    """
    assert frames.shape[1:] == (SIDE_PX, SIDE_PX, 3) and len(frames) >= windows + FRAMES - 1, frames.shape
    device = next(net.parameters()).device
    result = []
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for start in range(0, windows, CHUNK_WINDOWS):
            stop = min(start + CHUNK_WINDOWS, windows)
            chunk = torch.from_numpy(frames[start : stop + FRAMES - 1]).to(device).permute(3, 0, 1, 2).unsqueeze(0)
            result.append(net.embed_lips(chunk.float()))
    return torch.cat(result).cpu().numpy()


@torch.inference_mode()
def embed_audio(net: SyncNetV2, mfcc: Float[np.ndarray, "13 t"], windows: int) -> Float[np.ndarray, "{windows} 1024"]:
    """Embeddings (windows, 1024) of coefficients (13, t); window v is columns 4v..4v+19. Without TF32, as above."""
    assert mfcc.shape[1] >= (windows - 1) * COLUMNS_PER_FRAME + COLUMNS, mfcc.shape
    windowed = torch.from_numpy(np.ascontiguousarray(mfcc)).float().unfold(1, COLUMNS, COLUMNS_PER_FRAME)
    windowed = windowed[:, :windows].transpose(0, 1).unsqueeze(1).to(next(net.parameters()).device)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        return torch.cat([net.embed_audio(chunk) for chunk in windowed.split(CHUNK_WINDOWS)]).cpu().numpy()
