"""Face restorers: a face in FFHQ alignment in, the same face with more detail out.

All have the form `restore(faces) -> faces`, float32 (n, S, S, 3), RGB 0..255, with S = `restore.size`. Their packages
are optional and imported here only: spandrel for GFPGAN and onnxruntime for GPEN (extra `restorers`),
spandrel-extra-arches for CodeFormer (extra `codeformer`, separate because the licence of its code forbids commercial
use).

Every file is checked before a network is built, and no code in it is run except ONNX operators.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from latentsync.weights import onnx, registry

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
CODEFORMER_SIDE_PX = 512
Forward = Callable[[Any], Any]


class TorchRestorer:
    """A network in PyTorch on the GPU where there is one; its pixels are n 3 S S in [-1, 1]."""

    def __init__(self, network: Any, size: int, forward: Forward):
        import torch

        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = network.eval().requires_grad_(False).to(self.device)
        self.size, self.forward = size, forward

    def __call__(self, faces: np.ndarray) -> np.ndarray:
        """Restore float32 (n, S, S, 3), RGB 0..255."""
        import torch

        assert faces.shape[1:] == (self.size, self.size, 3), faces.shape
        with torch.inference_mode():
            pixels = torch.from_numpy(faces).to(self.device).permute(0, 3, 1, 2).contiguous() / 127.5 - 1
            restored = self.forward(pixels)
            return ((restored.clamp(-1, 1) + 1) * 127.5).permute(0, 2, 3, 1).float().cpu().numpy()


def gfpgan_network(**shape: Any):
    """GFPGANv1Clean, untrained."""
    try:
        from spandrel.architectures.GFPGAN import GFPGAN
    except ImportError as error:
        raise _not_installed("gfpgan", "restorers", error) from error
    return GFPGAN(**shape)


def open_gfpgan(path: Path) -> TorchRestorer:
    """GFPGAN (arXiv 2101.04061). It uses the fixed noise maps of its file: new noise for every frame flickers."""
    state, shape = _state(path, PUBLISHED_GFPGAN)
    if shape.keys() != PUBLISHED_GFPGAN.keys():
        raise ValueError(f"{path} holds the configuration of another network, not GFPGAN.")
    network = _fill(gfpgan_network(**shape), state, path, "GFPGANv1.3.pth or GFPGANv1.4.pth")

    def forward(pixels):
        return network(pixels, return_rgb=False, randomize_noise=False)[0]

    return TorchRestorer(network, int(shape["out_size"]), forward)


def open_codeformer(path: Path, fidelity: float) -> TorchRestorer:
    """CodeFormer (arXiv 2206.11253), the published network of 512 px.

    `fidelity`: `w` of its Sec. 3.3, 0 most freedom, 1 closest to the input.
    """
    try:
        from spandrel_extra_arches.architectures.CodeFormer import CodeFormer  # pyright: ignore[reportMissingImports]  # optional
    except ImportError as error:
        raise _not_installed("codeformer", "codeformer", error) from error
    state, _ = _state(path, {})
    network = _fill(CodeFormer(), state, path, "codeformer.pth")

    def forward(pixels):
        return network(pixels, weight=fidelity)[0]

    return TorchRestorer(network, CODEFORMER_SIDE_PX, forward)


class OnnxRestorer:
    """A network in an ONNX file that maps 1 3 S S to the same, RGB in [-1, 1]: GPEN-BFR-512 (arXiv 2105.06070)."""

    def __init__(self, path: Path):
        try:
            import onnxruntime
            from onnxruntime.capi import onnxruntime_pybind11_state as faults  # pyright: ignore[reportAttributeAccessIssue]  # compiled
        except ImportError as error:
            raise _not_installed("gpen", "restorers", error) from error
        registry.require_intact(path)
        providers = onnx.providers()
        kinds = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoModel", "NoSuchFile", "EngineError",
                 "NotImplemented", "RuntimeException")  # fmt: skip
        unreadable = (UnicodeDecodeError, *(getattr(faults, kind) for kind in kinds))
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors only; faults of the file are reported below
        try:  # no fallback: a GPU that fails must not silently become a CPU
            self.session = onnxruntime.InferenceSession(str(path), options, providers=providers, enable_fallback=0)
        except unreadable as error:
            raise ValueError(
                f"{path} is damaged or not an ONNX network ({str(error)[:100]}); get it by "
                "`latentsync weights fetch gpen`."
            ) from error
        onnx.require_started(self.session, providers)
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        shape = inputs[0].shape if inputs else []
        if (
            len(inputs) != 1
            or len(shape) != 4
            or shape[1] != 3
            or shape[2] != shape[3]
            or not isinstance(shape[2], int)
        ):
            raise ValueError(f"{path} takes {[one.shape for one in inputs]}, not one image 1 x 3 x 512 x 512.")
        self.size, self.input, self.output = shape[2], inputs[0].name, outputs[0].name

    def __call__(self, faces: np.ndarray) -> np.ndarray:
        """Restore float32 (n, S, S, 3), RGB 0..255, one at a time, as the file requires."""
        assert faces.shape[1:] == (self.size, self.size, 3), faces.shape
        pixels = np.ascontiguousarray(faces.transpose(0, 3, 1, 2) / 127.5 - 1, np.float32)
        restored = [cast(np.ndarray, self.session.run([self.output], {self.input: face[None]})[0]) for face in pixels]
        return ((np.concatenate(restored).clip(-1, 1) + 1) * 127.5).transpose(0, 2, 3, 1).astype(np.float32)


def open_restorer(method: str, path: Path, fidelity: float = 0.5) -> TorchRestorer | OnnxRestorer:
    """The restorer of this name with these weights; `fidelity` is codeformer's.

    Raises:
        ValueError: its package is not installed, or the file is damaged or another network's.
    """
    if method == "codeformer":
        return open_codeformer(path, fidelity)
    return {"gfpgan": open_gfpgan, "gpen": OnnxRestorer}[method](path)


def _state(path: Path, shape: Mapping[str, Any]) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """Tensors of a file, and the shape of the network: from our metadata, else the published one."""
    from latentsync.weights import files as weight_files

    state, metadata = weight_files.read(path)
    return state, metadata.get("config", shape)


def _fill(network: Any, state: dict[str, Any], path: Path, published: str):
    from latentsync.weights import files as weight_files

    try:
        return weight_files.load_strictly(network, state, str(path))
    except ValueError as error:
        raise ValueError(f"{error} enhance.weights wants {published}.") from error


def _not_installed(method: str, extra: str, error: ImportError) -> ValueError:
    return ValueError(
        f"enhance.method is {method}, which needs a package that is not installed ({error}); "
        f"pip install 'latentsync-studio[{extra}]'."
    )
