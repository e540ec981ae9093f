"""Image quality without a reference: one number per image, higher is better.

piqe (embedded): (100 - PIQE) times the share of blocks that PIQE itself does not call noisy. From block statistics, no
    weights. PIQE alone weighs noise so little that a face under heavy noise scores like a clean one (measured: 50 and
    52); with the factor 26 and 51. It needs pixels as the camera recorded them: it scores an enlarged face as blurred.
hyperiqa (published): HyperIQA with its KonIQ-10k weights, 0 to 100 (mean opinions: 0 bad, 50 fair). LatentSync
    keeps 40 and more, scoring the central 224 px: most of a crop of 256, but only the nose of one of 512. Here the
    image is resized to 256 px first, so that a crop of 256 scores as published and 40 means the same at 512.

Both run on the CPU with one thread, so that a score does not depend on the machine.
"""

from collections.abc import Callable

import numpy as np

Scorer = Callable[[np.ndarray], float]

HYPERIQA_SIDE_PX, HYPERIQA_CENTRE_PX = 256, 224
RESNET = "latentsync_resnet50_empty"


def open_scorer(backend: str) -> Scorer:
    """The scorer of one name: `score(rgb uint8 (h, w, 3)) -> float`, higher is better.

    Raises:
        ValueError: an unknown name, or weights that are missing or do not fit.
    """
    openers = {"piqe": _open_piqe, "hyperiqa": _open_hyperiqa}
    if backend not in openers:
        raise ValueError(f"score_quality.backend is {backend!r}; known are {', '.join(openers)}.")
    return openers[backend]()


def _open_piqe() -> Scorer:
    import pyiqa
    import torch

    torch.set_num_threads(1)
    metric = pyiqa.create_metric("piqe", device="cpu")

    def score(rgb: np.ndarray) -> float:
        height, width = (
            side // 16 * 16 for side in rgb.shape[:2]
        )  # whole blocks; pyiqa would pad the rest by mirroring
        if min(height, width) == 0 or rgb.max() == 0:
            return 0.0  # black, or smaller than a block: pyiqa would divide by zero
        top, left = (rgb.shape[0] - height) // 2, (rgb.shape[1] - width) // 2
        inner = np.ascontiguousarray(rgb[top : top + height, left : left + width])
        piqe = float(metric(torch.from_numpy(inner).permute(2, 0, 1).unsqueeze(0).float() / 255))
        return (100 - piqe) * (1 - float(metric.net.get_masks()["noise_mask"].mean()))

    return score


def _open_hyperiqa() -> Scorer:
    import cv2
    import torch

    from latentsync.weights import files as weight_files
    from latentsync.weights import layouts, registry

    path = registry.find("hyperiqa", key="score_quality.backend: hyperiqa")
    torch.set_num_threads(1)
    net = build_hyperiqa()
    published = weight_files.read_foreign(path)
    weight_files.load_strictly(net, layouts.hyperiqa_state(published), str(path), published)
    net.eval().requires_grad_(False)

    def score(rgb: np.ndarray) -> float:
        side = (HYPERIQA_SIDE_PX, HYPERIQA_SIDE_PX)
        whole = cv2.resize(rgb, side, interpolation=cv2.INTER_AREA if rgb.shape[0] > side[0] else cv2.INTER_CUBIC)
        margin = (HYPERIQA_SIDE_PX - HYPERIQA_CENTRE_PX) // 2
        centre = np.ascontiguousarray(whole[margin:-margin, margin:-margin])
        pixels = torch.from_numpy(centre).permute(2, 0, 1).unsqueeze(0).float().div(255)
        return float(net.forward_patch(pixels))

    return score


def build_hyperiqa():
    """pyiqa's HyperNet, untrained. Its constructor would download ImageNet weights, so it gets an empty ResNet."""
    import timm
    from pyiqa.archs.hypernet_arch import HyperNet

    if RESNET not in timm.list_models():

        def empty_resnet(pretrained: bool = False, pretrained_cfg=None, pretrained_cfg_overlay=None, **options):
            return timm.create_model("resnet50", pretrained=False, **options)

        empty_resnet.__name__ = RESNET
        empty_resnet.__module__ = __name__
        timm.models.register_model(empty_resnet)
    return HyperNet(base_model_name=RESNET, pretrained=False)
