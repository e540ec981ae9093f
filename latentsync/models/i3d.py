"""I3D features of short clips, for the Frechet video distance (FVD, arXiv 1812.01717): the published TorchScript file.

A TorchScript file is a program: it is run only if its sha256 is known and matches (registry.py, or `<file>.sha256`).

Axes: n clips, f frames, h w, c channels, d = 400 features (logits of Kinetics-400).
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8

from latentsync.weights import registry

SIDE_PX = 224
# Value range of the input when the file does not rescale it. It was trained on [-1, 1]; LatentSync's own evaluation
# uses [0, 1] (spec of the published code, defect 35), so its FVD cannot be compared with other work.
RANGES = {"trained": (-1.0, 1.0), "latentsync": (0.0, 1.0)}


def load(path: Path) -> torch.jit.ScriptModule:
    """The detector in evaluation mode.

    Raises:
        ValueError: its sha256 is unknown or wrong, or it is not TorchScript.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist; `latentsync weights fetch i3d` gets it.")
    if not registry.require_intact(path):
        raise ValueError(
            f"{path} is a program whose sha256 is not known, so it is not run; get it by `latentsync weights "
            f"fetch i3d`, or, if you trust it, write its sha256 to {registry.recorded_at(path)} (sha256sum)."
        )
    try:
        return torch.jit.load(str(path), map_location="cpu").eval()
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{path} is no TorchScript file ({str(error)[:80]}); fetch it again.") from error


@torch.inference_mode()
def features(
    net: torch.jit.ScriptModule, clips: UInt8[np.ndarray, "n f 224 224 3"], values: str = "trained"
) -> Float[np.ndarray, "n d"]:
    """Features float32 (n, d) of uint8 clips (n, f, 224, 224, 3), f >= 10; `values` is a key of RANGES."""
    assert clips.dtype == np.uint8 and clips.shape[2:] == (SIDE_PX, SIDE_PX, 3) and clips.shape[1] >= 10, clips.shape
    low, high = RANGES[values]
    found = []
    for clip in clips:
        pixels = torch.from_numpy(clip).permute(3, 0, 1, 2)[None].float() * ((high - low) / 255) + low
        found.append(net(pixels, rescale=False, resize=False, return_features=True).float())
    return torch.cat(found).numpy()
