"""Between RGB and code values of video: the matrices of ITU-R BT.601, BT.709 and BT.2020, full and limited range."""

from functools import lru_cache

import numpy as np

# Luma weights of red and blue.
LUMA = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}


def rgb_to_yuv(rgb: np.ndarray, matrix: str, full_range: bool = False, depth: int = 8) -> np.ndarray:
    """Y'CbCr code values float32 (h, w, 3) of R'G'B' 0..255, not yet rounded.

    Raises:
        ValueError: for a colour matrix that is not in LUMA.
    """
    if matrix not in LUMA:
        raise ValueError(f"Colour matrix {matrix} is not known; known: {', '.join(LUMA)}.")
    red, blue = LUMA[matrix]
    luma = rgb @ np.array([red, 1 - red - blue, blue], np.float32)
    cb = (rgb[..., 2] - luma) / (2 * (1 - blue))
    cr = (rgb[..., 0] - luma) / (2 * (1 - red))
    unit = 2 ** (depth - 8)
    if full_range:
        scale, zero = (2**depth - 1) / 255, 0
        return np.stack([luma * scale, cb * scale + 128 * unit, cr * scale + 128 * unit], -1).astype(np.float32)
    scale, zero = unit / 255, 16 * unit
    luma = luma * (219 * scale) + zero
    return np.stack([luma, cb * (224 * scale) + 128 * unit, cr * (224 * scale) + 128 * unit], -1).astype(np.float32)


@lru_cache
def rgb_to_codes(matrix: str, full_range: bool = False, depth: int = 8) -> np.ndarray:
    """`rgb_to_yuv` as a matrix float64 [3, 4] from (R', G', B', 1), R'G'B' 0..255; read-only.

    Raises:
        ValueError: for a colour matrix that is not in LUMA.
    """
    corners = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]], np.float64)
    black, *primaries = rgb_to_yuv(corners[None], matrix, full_range, depth)[0].astype(np.float64)
    result = np.column_stack([*((one - black) / 255 for one in primaries), black])
    result.flags.writeable = False
    return result


@lru_cache
def yuv_to_rgb(matrix: str, full_range: bool = False, depth: int = 8) -> np.ndarray:
    """Matrix float64 [3, 4] from code values (Y', Cb, Cr, 1) to R'G'B' 0..255, unclipped: what rgb_to_yuv undoes.

    Read-only.

    Raises:
        ValueError: for a colour matrix that is not in LUMA.
    """
    corners = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]], np.float64)
    codes = rgb_to_yuv(corners[None], matrix, full_range, depth)[0].astype(np.float64)
    result = np.linalg.solve(np.column_stack([codes, np.ones(4)]), corners).T
    result.flags.writeable = False
    return result
