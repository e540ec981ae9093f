"""What the gfpgan package makes of a picture: a script for the interpreter of .venv-parity, run by test_gfpgan.py.

    .venv-parity/bin/python tests/parity/gfpgan_package.py GFPGANv1.4.pth given.npz made.npz THREADS

`GFPGANer` runs as published, with its own reading of weights, alignment, conversion and pasting. Its face detector and
face parser would be downloaded, so they are replaced: the detector by one that returns the given points, the parser by
the package's own way without one, a square with a soft edge.
"""

import sys
from functools import partial
from unittest import mock

import numpy as np
import torch
from torchvision.transforms import functional

# The import alias: basicsr imports a module of torchvision that is gone; its functions are in `functional`.
sys.modules["torchvision.transforms.functional_tensor"] = functional

from gfpgan import GFPGANer  # noqa: E402

HELPER = "facexlib.utils.face_restoration_helper"


class Points:
    """A face detector in the form of RetinaFace's that finds one face, at the given points."""

    def __init__(self, points: np.ndarray):
        self.row = np.concatenate([points.min(0), points.max(0), [1.0], points.ravel()])[None]

    def detect_faces(self, image: np.ndarray, threshold: float) -> np.ndarray:
        """One row of box, confidence and five points, in pixels."""
        return self.row


def reverse(picture: np.ndarray) -> np.ndarray:
    """RGB of BGR, and BGR of RGB."""
    return np.ascontiguousarray(picture[..., ::-1])


def main(weights: str, given_path: str, made_path: str, threads: str) -> None:
    """Write what the package makes of `aligned` (float32 RGB, 512 px) and of `frame` (uint8 RGB) with five `points`.

    Also its matrices for the five points of further `poses` (n, 5, 2), and what its network makes of `pixels`.
    """
    torch.set_num_threads(int(threads))
    given = np.load(given_path)
    with (
        mock.patch(f"{HELPER}.init_detection_model", return_value=Points(given["points"])),
        mock.patch(f"{HELPER}.init_parsing_model"),
    ):
        package = GFPGANer(weights, upscale=1, device=torch.device("cpu"))
    package.face_helper.use_parse = False
    pixels = torch.from_numpy(given["pixels"])
    with torch.inference_mode():
        torch.manual_seed(0)
        fresh, _ = package.gfpgan(pixels, return_rgb=False)
        fixed, _ = package.gfpgan(pixels, return_rgb=False, randomize_noise=False)
    # GFPGANer leaves the noise random, so that no two of its pictures are equal; here it takes the maps of the file.
    package.gfpgan.forward = partial(package.gfpgan.forward, randomize_noise=False)
    _, [from_ours], _ = package.enhance(reverse(given["aligned"]), has_aligned=True)
    [crop], [from_own], pasted = package.enhance(reverse(given["frame"]))
    helper = package.face_helper
    [matrix] = helper.affine_matrices
    helper.clean_all()
    helper.all_landmarks_5 = list(given["poses"])
    helper.align_warp_face()
    pictures = {"from_ours": from_ours, "crop": crop, "from_own": from_own, "pasted": pasted}
    np.savez(
        made_path,
        fresh=fresh.numpy(),
        fixed=fixed.numpy(),
        matrix=matrix,
        matrices=np.array(helper.affine_matrices),
        **{name: reverse(picture) for name, picture in pictures.items()},
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
