"""Changes to training pictures that say nothing new about the mouth. Pixels are in [-1, 1], axes f frames, c, h, w."""

import numpy as np


def recolour(pixels: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Change gain and level of each colour, the same for all frames: (3, ...) float32.

    Half of the change is common to the colours (exposure, contrast), half is each colour's own (light, skin).
    """
    drawn = (rng.uniform(-strength, strength, (2, 3)) + rng.uniform(-strength, strength, (2, 1))) / 2
    gain, level = drawn.astype(np.float32).reshape(2, 3, *[1] * (pixels.ndim - 1))
    return (pixels * (1 + gain) + level).clip(-1, 1)


def move(pixels: np.ndarray, furthest_px: int, rng: np.random.Generator) -> np.ndarray:
    """Shift by whole pixels, the same for all frames; the edge is repeated: (..., h, w)."""
    right, down = rng.integers(0, 2 * furthest_px + 1, 2)
    h, w = pixels.shape[-2:]
    around = [(0, 0)] * (pixels.ndim - 2) + [(furthest_px, furthest_px)] * 2
    return np.pad(pixels, around, mode="edge")[..., down : down + h, right : right + w]
