"""The fixed mask that hides the lower face: 1 keeps a pixel, 0 generates it. Pure numpy and OpenCV.

The published mask.png (256 x 256, used by every published configuration) as the inclusive x spans of its rows: two
bands beside the nose, then a U over cheeks, mouth and chin. It hides so much because cheeks and jaw would give away the
shape of the mouth. It is not quite symmetric.
"""

from functools import lru_cache

import cv2
import numpy as np

SIDE = 256
FEATHER_PX = 10  # at the size of the mask, see feathered_hole
BANDS = range(95, 128), ((9, 77), (178, 246))
U_TOP = 128
# fmt: off
U_SPANS = (  # rows 128 to 242
    (9, 247), (9, 247), (9, 247), (9, 247), (9, 247), (9, 247), (9, 247), (9, 246), (10, 246), (10, 246), (10, 246),
    (10, 246), (10, 246), (10, 246), (10, 246), (10, 246), (10, 246), (10, 246), (10, 246), (10, 246), (10, 246),
    (10, 245), (11, 245), (11, 245), (11, 245), (11, 245), (11, 245), (11, 245), (11, 245), (11, 245), (11, 245),
    (11, 245), (11, 245), (11, 245), (11, 245), (11, 244), (12, 244), (12, 244), (12, 244), (12, 244), (12, 244),
    (12, 244), (12, 243), (13, 243), (13, 242), (14, 242), (14, 241), (15, 241), (15, 240), (16, 240), (16, 239),
    (17, 238), (18, 238), (18, 237), (19, 236), (19, 236), (20, 235), (21, 234), (21, 234), (22, 233), (22, 232),
    (23, 232), (24, 231), (25, 230), (26, 230), (26, 229), (27, 228), (28, 228), (29, 227), (30, 226), (31, 225),
    (32, 224), (33, 223), (34, 223), (34, 222), (35, 221), (36, 220), (37, 219), (38, 218), (39, 217), (40, 216),
    (42, 215), (43, 214), (44, 213), (45, 212), (47, 211), (48, 210), (49, 208), (51, 207), (52, 206), (54, 204),
    (56, 203), (57, 202), (59, 200), (60, 199), (62, 197), (64, 196), (66, 194), (68, 192), (70, 191), (72, 189),
    (74, 187), (76, 185), (78, 183), (80, 180), (82, 178), (85, 175), (87, 173), (90, 171), (93, 168), (95, 166),
    (99, 164), (104, 160), (108, 156), (131, 152),
)
# fmt: on


def published_mask() -> np.ndarray:
    """mask.png, uint8 (256, 256), values 0 and 255."""
    mask = np.full((SIDE, SIDE), 255, np.uint8)
    rows, spans = BANDS
    for row in rows:
        for left, right in spans:
            mask[row, left : right + 1] = 0
    for row, (left, right) in enumerate(U_SPANS, U_TOP):
        mask[row, left : right + 1] = 0
    return mask


@lru_cache
def _mask(resolution: int) -> np.ndarray:
    mask = published_mask()
    if resolution >= SIDE:  # at 512 this leaves grey levels along the edge, as published
        keep = cv2.resize(mask, (resolution, resolution), interpolation=cv2.INTER_LANCZOS4) / np.float64(255)
    else:  # not published: a pixel is kept where more than half of its area is, so the mask stays binary
        keep = cv2.resize(mask / 255.0, (resolution, resolution), interpolation=cv2.INTER_AREA) > 0.5
    keep = keep.astype(np.float32)
    keep.flags.writeable = False  # shared by all callers
    return keep


def keep_mask(resolution: int) -> np.ndarray:
    """The mask at a face size, float32 (R, R): 1 = keep, 0 = generate. Read-only."""
    return _mask(resolution)


def latent_mask(resolution: int, factor: int = 8) -> np.ndarray:
    """The mask at the latent's size, float32 (R / factor, R / factor): nearest, i.e. each cell's top-left pixel."""
    if resolution % factor:
        raise ValueError(f"A face of {resolution} pixels does not divide into latent cells of {factor} pixels.")
    return np.ascontiguousarray(_mask(resolution)[::factor, ::factor])


@lru_cache
def feathered_hole(size: tuple[int, int]) -> np.ndarray:
    """Opacity of the generated face, float32 (h, w) for a crop of (w, h): 0 outside the mask's hole, 1 well inside it.

    The ramp is inside the hole and FEATHER_PX wide, so nothing outside the hole changes.
    """
    depth = cv2.distanceTransform(255 - published_mask(), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) - 0.5
    ramp = np.clip(depth / FEATHER_PX, 0, 1).astype(np.float32)
    shrinks = size[0] <= SIDE and size[1] <= SIDE
    return cv2.resize(ramp, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
