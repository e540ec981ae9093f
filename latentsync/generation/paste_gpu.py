"""`paste.layers` in torch, for faces that are on a GPU: only the sampled layers come back to the host, unwaited for.

Samples are placed as cv2.warpAffine places them, on a grid of 1/32 of a pixel, so that both give the same pixels.
"""

from collections.abc import Callable
from functools import lru_cache

import av
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from latentsync.generation.paste import Grid, Layers, back_from, grids, hole_rows, opacity, resizing_of, size_of
from latentsync.media.colour import rgb_to_codes
from latentsync.media.frames import colour_of

_COARSE, _FINE = 1024, 32  # fixed point of OpenCV's warpAffine: coordinates, then places in its table of weights


def layers(frame: av.VideoFrame, face: Tensor, matrix: np.ndarray, resolution: int) -> Callable[[], Layers]:
    """Begin to compute `paste.layers` of a face float32 (3, R, R), RGB 0..255; the function returned waits for them."""
    top, bottom = hole_rows(resolution)
    to_codes = _moved(rgb_to_codes(*colour_of(frame)), face.device)
    part = face[:, top:bottom]
    codes = torch.tensordot(to_codes[:, :3], part, 1) + to_codes[:, 3, None, None]
    opaque = _opacity(resolution, face.device)[None, top:bottom]
    found, cuda = [], face.device.type == "cuda"
    for grid in grids(frame, matrix, resolution):
        layer = _placed(codes[list(grid.channels)], opaque, grid)
        found.append((grid, layer.to("cpu", non_blocking=cuda)))
    done = torch.cuda.Event() if cuda else None
    if done:
        done.record()

    def waited() -> Layers:
        if done:
            done.synchronize()
        return [(grid, list(layer[:-1]), layer[-1]) for grid, layer in ((grid, one.numpy()) for grid, one in found)]

    return waited


def _placed(values: Tensor, opaque: Tensor, grid: Grid) -> Tensor:
    """Rows `hole_rows` of a face c h w and their opacity 1 h w, at the pixels of a grid: (c + 1) h' w'."""
    scale, resolution = resizing_of(grid), values.shape[2]
    back, size = back_from(grid, resolution, scale), size_of(grid.region)
    if scale > 1:
        values = F.interpolate(values[None], scale_factor=scale, mode="bicubic", align_corners=False)[0]
        opaque = F.interpolate(opaque[None], scale_factor=scale, mode="bilinear", align_corners=False)[0]
        return _sampled(torch.cat([values, opaque]), back, size, "bilinear", "border")
    if scale < 1:
        values = F.avg_pool2d(values, round(1 / scale))
    values = _sampled(values, back, size, "bicubic", "border")
    return torch.cat([values, _sampled(opaque, back_from(grid, resolution, 1), size, "bilinear", "zeros")])


@lru_cache(maxsize=2)
def _opacity(resolution: int, device: torch.device) -> Tensor:
    return _moved(opacity(resolution), device)


def _moved(values: np.ndarray, device: torch.device) -> Tensor:
    """Copied while the GPU works on what came before."""
    given = torch.from_numpy(np.array(values, np.float32))
    return given.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else given


def _sampled(values: Tensor, back: np.ndarray, size: tuple[int, int], mode: str, padding: str) -> Tensor:
    """Values c h w at back [2, 3] of every pixel of an image of `size` (width, height): c h' w'."""
    height, width = values.shape[1:]
    x, y = (torch.arange(n, device=values.device, dtype=torch.float64) for n in size)
    places = []
    for (a, b, c), length in zip(back.tolist(), (width, height), strict=True):
        coarse = torch.round((b * y + c) * _COARSE)[:, None] + torch.round(a * x * _COARSE)
        at = torch.floor((coarse + _COARSE / _FINE / 2) / (_COARSE / _FINE)) / _FINE
        places.append((2 * at + 1) / length - 1)  # grid_sample's coordinates: -1 and 1 are the outer edges
    grid = torch.stack(places, -1).to(values.dtype)[None]
    return F.grid_sample(values[None], grid, mode=mode, padding_mode=padding, align_corners=False)[0]
