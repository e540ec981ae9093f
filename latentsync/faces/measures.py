"""What a face crop looks like, in plain numbers: sharpness, exposure, clipping, and how well it is aligned.

Axes: h w picture, p landmarks. Pictures are uint8 RGB crops (R, R, 3); the face is the convex hull of its landmarks.
"""

import cv2
import numpy as np

from latentsync.faces import alignment

SHARPNESS_SIDE_PX = 256
BLACK, WHITE = 5, 250  # luma at and beyond which a pixel has lost its detail, of 0..255


def to_face(points: np.ndarray, resolution: int) -> np.ndarray:
    """Points [..., 2] of the unstretched crop as pixels of the stretched face (R, R)."""
    return (points + 0.5) * (resolution / np.array(alignment.crop_size(resolution))) - 0.5


def face_mask(points: np.ndarray, resolution: int) -> np.ndarray:
    """True inside the hull of landmarks [p, 2], given in pixels of the face: bool (R, R)."""
    mask = np.zeros((resolution, resolution), np.uint8)
    cv2.fillConvexPoly(mask, cv2.convexHull(np.rint(points).astype(np.int32)), 1)
    return mask.astype(bool)


def sharpness(face: np.ndarray, mask: np.ndarray) -> float:
    """Variance of the Laplacian of luma 0..255 inside the mask, of the face brought to 256 px.

    The measure of Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy" (2000). At one size, so that it
    says how much detail a training picture of 256 px would hold: an enlarged small face is as blurred as a blurred
    one. It grows with contrast and with noise, so it compares clips of like light.
    """
    side = (SHARPNESS_SIDE_PX, SHARPNESS_SIDE_PX)
    if face.shape[0] != SHARPNESS_SIDE_PX:
        shrinks = face.shape[0] > SHARPNESS_SIDE_PX
        face = cv2.resize(face, side, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
        mask = cv2.resize(mask.astype(np.uint8), side, interpolation=cv2.INTER_NEAREST).astype(bool)
    edges = cv2.Laplacian(luma(face), cv2.CV_32F)
    return float(edges[mask].var()) if mask.any() else 0.0


def exposure(face: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """Mean luma of the face, 0..1, and the share of its pixels that are all but black or white."""
    values = luma(face)[mask]
    if not len(values):
        return 0.0, 1.0
    return float(values.mean() / 255), float(((values <= BLACK) | (values >= WHITE)).mean())


def luma(rgb: np.ndarray) -> np.ndarray:
    """Luma (BT.601) float32 (h, w), 0..255."""
    return cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32)


def anchor_distance(anchors: np.ndarray, resolution: int) -> float:
    """Mean distance of anchors [3, 2], in pixels of the unstretched crop, from the template, in widths of the crop."""
    away = np.linalg.norm(anchors - alignment.template(resolution), axis=1)
    return float(away.mean() / alignment.crop_size(resolution)[0])
