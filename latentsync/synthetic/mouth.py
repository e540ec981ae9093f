"""Movement of the face mesh when the mouth opens.

Nothing moves outside the hole of LatentSync's published mask, so that the masked image contains no information about
the mouth opening. Lengths are photo pixels; points are vertices of the face mesh (478, 2).
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from latentsync.faces.alignment import apply, crop_size, scale_of, similarity
from latentsync.faces.mask import keep_mask
from latentsync.synthetic import photo as photos
from latentsync.synthetic.paint import smoothstep

WIDEST_GAP = 0.4  # gap between the inner lips of a fully open mouth, relative to the distance of the eyes
CLOSED_GAP_PX = 0.35  # a closed mouth shows a dark line
SEAM = 0.22  # the lips meet at this share of the gap that the smile of the photograph leaves
JAW = 0.5  # the chin moves this far for one pixel of the lower lip
HOLE_MARGIN_PX, HOLE_FADE_PX = 2.0, 5.0  # nothing moves within the margin; the movement grows over the next FADE_PX
# Anchors as different detectors choose them (faces/backends.py; a low and a high nose): movement stays in every hole.
_UPPER_BROWS = tuple(brow[:5] for brow in photos.BROWS)
ANCHOR_SETS = ((*photos.BROWS, photos.NOSE), (*_UPPER_BROWS, (1,)), (*_UPPER_BROWS, (4, 5)))
_SIDE = 256


@dataclass(frozen=True)
class Lips:
    """The resting mouth in its own axes: origin between the corners, u parallel to the line of the eyes, v down."""

    origin: np.ndarray
    axes: np.ndarray  # (2, 2), rows are the directions of u and v
    half_width: float
    u: np.ndarray  # (11,) along the inner lips
    upper: np.ndarray  # v of the upper inner lip at u
    lower: np.ndarray
    eyes_px: float  # distance of the outer corners of the eyes

    def local(self, points: np.ndarray) -> np.ndarray:
        """Photo pixels (..., 2) as coordinates (u, v)."""
        return (points - self.origin) @ self.axes.T

    def world(self, local: np.ndarray) -> np.ndarray:
        """Coordinates (u, v) as photo pixels."""
        return local @ self.axes + self.origin


def lips(points: np.ndarray) -> Lips:
    """Measure the mouth of a face mesh."""
    along = points[photos.EYE_CORNERS[1][0]] - points[photos.EYE_CORNERS[0][0]]
    axes = np.array([along, [-along[1], along[0]]]) / np.linalg.norm(along)
    origin = points[[photos.INNER_UPPER[0], photos.INNER_UPPER[-1]]].mean(0)
    upper, lower = ((points[list(ring)] - origin) @ axes.T for ring in (photos.INNER_UPPER, photos.INNER_LOWER))
    u = (upper[:, 0] + lower[:, 0]) / 2
    return Lips(origin, axes, float((u[-1] - u[0]) / 2), u, upper[:, 1], lower[:, 1], float(np.linalg.norm(along)))


def moved(points: np.ndarray, opening: float) -> np.ndarray:
    """The mesh with its mouth opened: 0 is closed, 1 is a gap of WIDEST_GAP times the distance of the eyes."""
    mouth = lips(points)
    u, v = mouth.local(points).T
    gap = CLOSED_GAP_PX + opening * (WIDEST_GAP * mouth.eyes_px - CLOSED_GAP_PX)
    # Positions of the inner lips as functions of u: the upper lip moves to the seam, the lower lip follows the gap.
    rest = np.maximum(mouth.lower - mouth.upper, 0)
    shape = np.sqrt(np.clip(1 - (mouth.u / mouth.half_width) ** 2, 0, 1))
    upper_to = mouth.upper + SEAM * rest - np.minimum(SEAM * gap, SEAM * rest.max() + 0.6) * shape
    lower_to = upper_to + gap * shape
    upper_edge, lower_edge = np.interp(u, mouth.u, mouth.upper), np.interp(u, mouth.u, mouth.lower)
    upper_move = np.interp(u, mouth.u, upper_to - mouth.upper, left=0, right=0)
    lower_move = np.interp(u, mouth.u, lower_to - mouth.lower, left=0, right=0)
    # The jaw follows the middle of the lower lip when it opens, and only slightly when it closes.
    middle = float((lower_to - mouth.lower)[len(mouth.u) // 2])
    jaw_move = middle * (JAW if middle > 0 else JAW / 3) * np.exp(-((u / mouth.half_width / 1.2) ** 2))
    chin = mouth.local(points[photos.CHIN])[1]
    to_chin = np.clip((v - lower_edge - 3) / (chin - lower_edge - 3), 0, 1)
    is_lower = v > (upper_edge + lower_edge) / 2
    is_lower[list(photos.INNER_UPPER)], is_lower[list(photos.INNER_LOWER[1:-1])] = False, True
    to_nose = np.clip((upper_edge - v) / 7, 0, 1)
    down = np.where(is_lower, lower_move * (1 - to_chin) + jaw_move * to_chin, upper_move * (1 - to_nose))
    # The corners move inward and down as the mouth opens.
    corner = np.exp(-(((np.abs(u) - mouth.half_width) / 6) ** 2) - (v / 5) ** 2)
    inward = -np.sign(u) * corner * (0.6 + 2.4 * opening)
    down = down + corner * 1.6 * opening
    return points + hole_weight(points, points)[:, None] * (np.column_stack([inward, down]) @ mouth.axes)


def neck_ring(points: np.ndarray) -> np.ndarray:
    """Fixed points around the oval of the face, one for each of its vertices; the skin between them stretches."""
    oval = points[list(photos.FACE_OVAL)]
    centre = oval.mean(0)
    return centre + (oval - centre) * 1.3


def hole_weight(points: np.ndarray, where: np.ndarray, fade_px: float = HOLE_FADE_PX) -> np.ndarray:
    """Allowed share of the movement at `where` (..., 2): 0 where the published mask keeps the image, 1 in its hole."""
    depth = np.minimum.reduce([_depth_in_hole(points, anchors, where) for anchors in ANCHOR_SETS])
    return smoothstep((depth - HOLE_MARGIN_PX) / fade_px)


def _depth_in_hole(points: np.ndarray, vertices: tuple[tuple[int, ...], ...], where: np.ndarray) -> np.ndarray:
    """Distance in photo pixels to the nearest kept pixel, for a detector whose anchors are these vertices."""
    anchors = np.array([points[list(part)].mean(0) for part in vertices])
    matrix = similarity(anchors, _SIDE)
    on_crop = apply(matrix, where).astype(np.float32)
    on_crop = on_crop if on_crop.ndim == 3 else on_crop[:, None]
    depth = cv2.remap(_distance(), on_crop, None, cv2.INTER_LINEAR)  # pyright: ignore[reportCallIssue, reportArgumentType]  # map2 may be None
    return depth.reshape(where.shape[:-1]) / scale_of(matrix)


@lru_cache(maxsize=1)
def _distance() -> np.ndarray:
    """Distance transform of the hole on the unstretched crop, in crop pixels."""
    keep = cv2.resize(keep_mask(_SIDE).astype(np.float32), crop_size(_SIDE), interpolation=cv2.INTER_AREA)
    return cv2.distanceTransform((keep < 0.01).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
