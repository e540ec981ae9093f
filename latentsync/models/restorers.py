"""Face restorers: a face in FFHQ alignment in, the same face with more detail out. So far only GFPGAN's network.

All have the form `restore(faces) -> faces`, float32 (n, S, S, 3), RGB 0..255, with S = `restore.size`.
GFPGAN's random noise maps are the fixed ones of its file: fresh ones for every frame, as its own tool draws, flicker.
"""

import sys
import types
from pathlib import Path

import numpy as np

# GFPGAN v1.3 and v1.4 as published; files of ours carry their own shape in their metadata.
PUBLISHED_GFPGAN = {
    "out_size": 512,
    "num_style_feat": 512,
    "channel_multiplier": 2,
    "fix_decoder": False,
    "num_mlp": 8,
    "input_is_latent": True,
    "different_w": True,
    "narrow": 1,
    "sft_half": True,
}


def gfpgan_network(**shape):
    """GFPGANv1Clean of the gfpgan package, which imports a torchvision module that no longer exists: its one alias."""
    import torchvision.transforms.functional as functional

    name = "torchvision.transforms.functional_tensor"
    if name not in sys.modules:
        alias = types.ModuleType(name)
        alias.rgb_to_grayscale = functional.rgb_to_grayscale
        sys.modules[name] = alias
    from gfpgan.archs.gfpganv1_clean_arch import GFPGANv1Clean

    return GFPGANv1Clean(**shape)


class Gfpgan:
    """GFPGAN on the CPU or the GPU at hand."""

    def __init__(self, weights: Path):
        import torch

        from latentsync.models import weights as files

        if weights.suffix == ".safetensors":
            state, metadata = files.load(weights)
            shape = metadata["config"]
        else:
            published = torch.load(weights, map_location="cpu", weights_only=True)
            state, shape = published.get("params_ema", published.get("params", published)), PUBLISHED_GFPGAN
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = gfpgan_network(**shape)
        try:
            self.network.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(
                f"enhance.weights {weights.name!r} does not fit GFPGANv1Clean ({str(error).splitlines()[1].strip()}); "
                "give GFPGANv1.3.pth or GFPGANv1.4.pth."
            ) from error
        self.network.eval().requires_grad_(False).to(self.device)
        self.size = int(shape["out_size"])

    def __call__(self, faces: np.ndarray) -> np.ndarray:
        """Restore float32 (n, S, S, 3), RGB 0..255."""
        import torch

        assert faces.shape[1:] == (self.size, self.size, 3), faces.shape
        with torch.inference_mode():
            pixels = torch.from_numpy(faces).to(self.device).permute(0, 3, 1, 2).contiguous() / 127.5 - 1
            restored, _ = self.network(pixels, return_rgb=False, randomize_noise=False)
            return ((restored.clamp(-1, 1) + 1) * 127.5).permute(0, 2, 3, 1).float().cpu().numpy()


RESTORERS = {"gfpgan": Gfpgan}


def open_restorer(method: str, weights: Path) -> Gfpgan:
    """The restorer of this name with these weights.

    Raises:
        ValueError: the file does not fit, or the network is not part of this version.
    """
    if method not in RESTORERS:
        raise ValueError(f"enhance.method {method} has no network in this version; choose gfpgan or null.")
    return RESTORERS[method](weights)
