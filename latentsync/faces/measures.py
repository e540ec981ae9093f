"""Measures of a face: sharpness, exposure and clipping of its crop, how well it is aligned, and the pose of the head.

Axes: h w image, p landmarks, n frames. Crops are uint8 RGB (R, R, 3); the face is the convex hull of its landmarks.
"""

import cv2
import numpy as np

from latentsync.faces import alignment

SHARPNESS_SIDE_PX = 256
MOUTH_AND_CHIN = (0.2, 0.8), (0.5, 0.75)  # of the crop's width and height
BLACK, WHITE = 5, 250  # luma at and beyond which a pixel has lost its detail, of 0..255
# Nose tip, nose bridge, outer eye corners and mouth corners (viewer's left, right), centimetres: x to the right,
# y up, z towards the camera. Vertices 1, 168, 33, 263, 61, 291 of MediaPipe's canonical face model (Apache 2.0).
# They hardly move with speech; the chin would.
HEAD_CM = np.array(
    [
        [0.0, -1.127, 7.476],
        [0.0, 3.271, 5.236],
        [-4.446, 2.664, 3.173],
        [4.446, 2.664, 3.173],
        [-2.456, -4.343, 4.284],
        [2.456, -4.343, 4.284],
    ]
)


def face_mask(points: np.ndarray, resolution: int) -> np.ndarray:
    """True inside the hull of landmarks [p, 2], given in pixels of the face: bool (R, R)."""
    mask = np.zeros((resolution, resolution), np.uint8)
    cv2.fillConvexPoly(mask, cv2.convexHull(np.rint(points).astype(np.int32)), (1,))
    return mask.astype(bool)


def sharpness(face: np.ndarray, mask: np.ndarray) -> float:
    """Variance of the Laplacian of luma 0..255 inside the mask, of the face brought to 256 px.

    The measure of Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy" (2000). At one size, so that it
    says how much detail a training image of 256 px would hold: an enlarged small face counts as blurred. It grows with
    contrast and noise, so it compares clips of similar light.
    """
    side = (SHARPNESS_SIDE_PX, SHARPNESS_SIDE_PX)
    if face.shape[0] != SHARPNESS_SIDE_PX:
        shrinks = face.shape[0] > SHARPNESS_SIDE_PX
        face = cv2.resize(face, side, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
        mask = cv2.resize(mask.astype(np.uint8), side, interpolation=cv2.INTER_NEAREST).astype(bool)
    edges = cv2.Laplacian(luma(face), cv2.CV_32F)
    return float(edges[mask].var()) if mask.any() else 0.0


def exposure(face: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """Mean luma of the face, 0..1, and the share of its pixels that are nearly black or white."""
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


def motion(landmarks: np.ndarray, found: np.ndarray) -> float:
    """How much a face moves in itself from frame to frame: median of the mean step of its landmarks, in face widths.

    Landmarks [n, p, 2] of each tick are first laid over those of the tick before (the best similarity transform), so
    that a photograph stays still while a camera pans or zooms over it. Repeated frames do not count.
    """
    both = found[1:] & found[:-1]
    before, after = (np.asarray(points, np.float64)[both] @ [1, 1j] for points in (landmarks[:-1], landmarks[1:]))
    new = (before != after).any(1)
    if not new.any():
        return 0.0
    before, after = before[new], after[new]
    width = np.ptp(before.real, axis=1)
    before, after = before - before.mean(1, keepdims=True), after - after.mean(1, keepdims=True)
    turn = (after * before.conj()).sum(1, keepdims=True) / np.maximum((np.abs(before) ** 2).sum(1, keepdims=True), 1e-9)
    return float(np.median(np.abs(after - turn * before).mean(1) / np.maximum(width, 1e-9)))


def outside_share(matrices: np.ndarray, resolution: int, size: tuple[int, int]) -> float:
    """Mean share of mouth and chin, as the crop shows them, that lies beyond the border of a displayed frame.

    By the place in the crop and not by landmarks, which a detector guesses where it sees nothing.

    Args:
        matrices: float [n, 2, 3], displayed pixels -> unstretched crop pixels.
        resolution: of the crop.
        size: (width, height) of the frame.
    """
    width, height = alignment.crop_size(resolution)
    (left, right), (top, bottom) = MOUTH_AND_CHIN
    x, y = np.meshgrid(np.linspace(left, right, 15) * (width - 1), np.linspace(top, bottom, 15) * (height - 1))
    grid = np.stack([x.ravel(), y.ravel()], 1)
    shares = []
    for matrix in matrices:
        at = alignment.apply(alignment.invert(matrix), grid)
        shares.append(((at < -0.5) | (at > np.array(size) - 0.5)).any(1).mean())
    return float(np.mean(shares))


def head_pose(points: np.ndarray) -> np.ndarray:
    """Yaw, pitch and roll in degrees, float64 [n, 3], of the six points [n, 6, 2] in square pixels, y down.

    A rigid model of the head is fitted under scaled orthographic projection: POS of DeMenthon and Davis, "Model-based
    object pose in 25 lines of code" (1995), without its perspective iterations, since the focal length of cropped and
    rescaled footage is not known. A face that fills a third of a phone's image loses a few degrees by that.

    Yaw > 0: the nose points to the viewer's right; pitch > 0: up; roll > 0: the head leans anticlockwise as seen.
    The rotation is roll about the line of sight, after yaw about the vertical, after pitch about the ears.
    A person's own pitch at rest differs from the model's by up to ten degrees.
    """
    image = np.asarray(points, np.float64) * (1, -1)
    image = image - image.mean(1, keepdims=True)
    model = HEAD_CM - HEAD_CM.mean(0)
    affine = np.swapaxes(np.linalg.pinv(model) @ image, 1, 2)  # [n, 2, 3], least squares
    u, _, vt = np.linalg.svd(affine, full_matrices=False)
    rows = u @ vt  # the nearest two rows of a rotation
    x, y = rows[:, 0], rows[:, 1]
    z = np.cross(x, y)
    yaw = np.arcsin(np.clip(-z[:, 0], -1, 1))
    pitch = -np.arctan2(z[:, 1], z[:, 2])
    roll = np.arctan2(y[:, 0], x[:, 0])
    return np.degrees(np.stack([yaw, pitch, roll], 1))
