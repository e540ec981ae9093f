"""Which way a head faces, from six of its landmarks: a rigid face model fitted under scaled orthographic projection.

No camera is known of footage from anywhere, cropped and rescaled, so no focal length is assumed: POS of DeMenthon and
Davis, "Model-based object pose in 25 lines of code" (1995), without its perspective iterations. A face that fills a
third of a phone's picture loses a few degrees by that. The six points hardly move with speech; the chin would.

Axes: n frames.
"""

import numpy as np

# Nose tip, nose bridge, outer eye corners and mouth corners (viewer's left, right), centimetres: x to the right,
# y up, z towards the camera. Vertices 1, 168, 33, 263, 61, 291 of MediaPipe's canonical face model (Apache 2.0).
MODEL_CM = np.array(
    [
        [0.0, -1.127, 7.476],
        [0.0, 3.271, 5.236],
        [-4.446, 2.664, 3.173],
        [4.446, 2.664, 3.173],
        [-2.456, -4.343, 4.284],
        [2.456, -4.343, 4.284],
    ]
)
# number of landmarks of a scheme -> the six points above: 68 of iBUG, 106 of InsightFace's chart, 478 of FaceMesh
POINTS = {68: (30, 27, 36, 45, 48, 54), 106: (86, 72, 35, 93, 52, 61), 478: (1, 168, 33, 263, 61, 291)}


def pose_points(landmarks: np.ndarray) -> np.ndarray:
    """The six points [n, 6, 2] among landmarks [n, P, 2].

    Raises:
        ValueError: no scheme with so many points is known.
    """
    if landmarks.shape[1] not in POINTS:
        known = ", ".join(map(str, POINTS))
        raise ValueError(f"Head pose is not known for faces of {landmarks.shape[1]} points; known are {known}.")
    return landmarks[:, POINTS[landmarks.shape[1]]]


def head_pose(points: np.ndarray) -> np.ndarray:
    """Yaw, pitch and roll in degrees, float64 [n, 3], of the six points [n, 6, 2] in square pixels, y down.

    Yaw > 0: the nose points to the viewer's right; pitch > 0: up; roll > 0: the head leans anticlockwise as seen.
    The rotation is roll about the line of sight, after yaw about the vertical, after pitch about the ears.
    A person's own pitch at rest differs from the model's by up to ten degrees.
    """
    image = np.asarray(points, np.float64) * (1, -1)
    image = image - image.mean(1, keepdims=True)
    model = MODEL_CM - MODEL_CM.mean(0)
    affine = np.swapaxes(np.linalg.pinv(model) @ image, 1, 2)  # [n, 2, 3], least squares
    u, _, vt = np.linalg.svd(affine, full_matrices=False)
    rows = u @ vt  # the nearest two rows of a rotation
    x, y = rows[:, 0], rows[:, 1]
    z = np.cross(x, y)
    yaw = np.arcsin(np.clip(-z[:, 0], -1, 1))
    pitch = -np.arctan2(z[:, 1], z[:, 2])
    roll = np.arctan2(y[:, 0], x[:, 0])
    return np.degrees(np.stack([yaw, pitch, roll], 1))
