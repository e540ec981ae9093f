"""Draw the face of a talker in advance: the whole image, the mouth at every opening, the eyes at stages of a blink.

The texture is warped per triangle of the face mesh (piecewise affine), so lips, jaw and chin move with it. Teeth,
tongue and the dark of the mouth are drawn between the inner lips. scene.py only moves these images.

Lengths are photo pixels. The canvas is the whole photo at CANVAS_SCALE canvas pixels per photo pixel.
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from scipy.interpolate import PchipInterpolator

from latentsync.synthetic import photo as photos
from latentsync.synthetic.look import Look, from_photo, to_photo
from latentsync.synthetic.mouth import hole_weight, lips, moved, neck_ring
from latentsync.synthetic.paint import coloured, polygons, smoothstep

CANVAS_SCALE = 2
LEVELS = 45  # openings drawn in advance; the gap grows by half a photo pixel from one to the next
BLINKS = 4  # stages of a blink, open to shut
FINE = 4  # supersampling of the outline of the mouth
TOOTH, TONGUE, DEEP = (214, 203, 188), (156, 78, 76), (30, 10, 10)  # RGB in the light of the photograph


@dataclass(frozen=True)
class Patch:
    """Images uint8 (n, h, w, 3) for a rectangle of the canvas whose upper left pixel is (x, y)."""

    x: int
    y: int
    images: np.ndarray


@dataclass(frozen=True)
class Face:
    """The images and the mesh of a talker.

    canvas: uint8 (h, w, 4) RGB and alpha; points (478, 2): landmarks of the photograph in the shape of the talker;
    depth (478,): larger is further away; width_px: from cheek to cheek.
    """

    canvas: np.ndarray
    mouth: Patch
    eyes: tuple[Patch, Patch]
    points: np.ndarray
    depth: np.ndarray
    width_px: float


@lru_cache(maxsize=16)
def face(look: Look) -> Face:
    """Draw the face of a talker; takes about a second."""
    source = photos.photo(look.mirrored)
    points = from_photo(look, source.points)
    size = source.pixels.shape[0] * CANVAS_SCALE
    on_photo = to_photo(look, _grid(0, 0, size, size))
    colours = _without_teeth(np.clip(coloured(look), 0, 255).astype(np.uint8), source)
    alpha = _sample((source.person * 255).astype(np.uint8), on_photo)
    canvas = np.dstack([_sharper(_sample(colours, on_photo)), alpha])
    eyes = (_eye(look, colours, points, 0), _eye(look, colours, points, 1))
    return Face(canvas, _mouth(look, colours, points), eyes, points, source.depth, float(np.ptp(points[:468, 0])))


def _grid(x: int, y: int, width: int, height: int) -> np.ndarray:
    """Photo coordinates (height, width, 2) of the centres of canvas pixels."""
    columns = (np.arange(x, x + width, dtype=np.float32) + 0.5) / CANVAS_SCALE - 0.5
    rows = (np.arange(y, y + height, dtype=np.float32) + 0.5) / CANVAS_SCALE - 0.5
    return np.stack(np.meshgrid(columns, rows), axis=-1)


def _canvas(points: np.ndarray, x: int, y: int, scale: int = 1) -> np.ndarray:
    """Photo coordinates as pixels of a rectangle of the canvas at `scale` times its resolution."""
    return ((points + 0.5) * CANVAS_SCALE - (x, y)) * scale - 0.5


def _sample(image: np.ndarray, where: np.ndarray) -> np.ndarray:
    where = where.astype(np.float32)
    nearest = cv2.BORDER_REPLICATE
    return cv2.remap(image, where, None, cv2.INTER_LANCZOS4, borderMode=nearest)  # pyright: ignore[reportCallIssue, reportArgumentType]  # map2 may be None


def _sharper(image: np.ndarray) -> np.ndarray:
    """Apply a mild unsharp mask, because enlarging has blurred the face."""
    return cv2.addWeighted(image, 1.5, cv2.GaussianBlur(image, (0, 0), 1.6), -0.5, 0)


def _without_teeth(colours: np.ndarray, source: photos.Photo) -> np.ndarray:
    """Inpaint the teeth, so that moving lips have no white edge."""
    teeth = polygons([source.points[list(photos.INNER_UPPER + photos.INNER_LOWER[::-1])]], colours.shape[:2])
    return cv2.inpaint(colours, cv2.dilate(teeth, np.ones((3, 3), np.uint8)), 2, cv2.INPAINT_TELEA)


def _mouth(look: Look, colours: np.ndarray, points: np.ndarray) -> Patch:
    """Draw the lower face at LEVELS openings."""
    around = np.vstack([points, neck_ring(points)])
    oval = points[list(photos.FACE_OVAL)]
    x, y = (int(v * CANVAS_SCALE) for v in (oval[:, 0].min() - 12, points[photos.NOSE_TIP, 1] - 6))
    right, bottom = (int(v) for v in (oval.max(0) + 22) * CANVAS_SCALE)
    where = _grid(x, y, right - x, bottom - y)
    free = hole_weight(points, where, 1.5)[..., None]
    # The colours of the lips extend past their edge; the teeth of the photograph do not move with the jaw.
    teeth = _sample(photos.photo(look.mirrored).pixels, to_photo(look, where)).astype(np.float32)
    triangles = _triangles()
    images = []
    for opening in np.linspace(0, 1, LEVELS):
        now = np.vstack([moved(points, opening), around[len(points) :]])
        back = _rest_position(where, around, now, triangles, x, y)
        skin = _sharper(_sample(colours, to_photo(look, where + (back - where) * free))).astype(np.float32)
        inside, covered = _inside(where, teeth, look, points, now, opening, x, y)
        images.append(np.clip(skin + (inside - skin) * covered[..., None], 0, 255).astype(np.uint8))
    return Patch(x, y, np.stack(images))


def _triangles() -> np.ndarray:
    """Triangles of the mesh and of a belt of skin between the oval of the face and the fixed points around it."""
    oval = np.array(photos.FACE_OVAL)
    ring = 478 + np.arange(len(oval))
    after, ring_after = np.roll(oval, -1), np.roll(ring, -1)
    belt = np.vstack([np.column_stack([oval, after, ring]), np.column_stack([after, ring_after, ring])])
    return np.vstack([photos.photo(False).triangles, belt])


def _rest_position(where, at_rest, now, triangles, x: int, y: int) -> np.ndarray:
    """Position at rest of what is now at `where` (h, w, 2): affine in each triangle, unchanged outside."""
    index = np.full(where.shape[:2], -1, np.int32)
    corners = np.round(_canvas(now, x, y)[triangles] * 16).astype(np.int32)
    for number, corner in enumerate(corners):
        cv2.fillConvexPoly(index, corner, (number,), cv2.LINE_8, 4)
    # Partly covered pixels along the lips belong to the adjacent triangle.
    index = np.where(index < 0, cv2.dilate(index.astype(np.float32), np.ones((5, 5))).astype(np.int32), index)
    ones = np.ones((len(triangles), 3, 1))
    affine = np.linalg.solve(np.concatenate([now[triangles], ones], axis=2), at_rest[triangles])  # (n, 3, 2)
    rows = affine[np.maximum(index, 0)].astype(np.float32)
    back = where[..., :1] * rows[..., 0, :] + where[..., 1:] * rows[..., 1, :] + rows[..., 2, :]
    return np.where(index[..., None] >= 0, back, where)


def _inside(where, teeth, look: Look, rest, now, opening: float, x: int, y: int) -> tuple[np.ndarray, np.ndarray]:
    """The inside of the mouth, float32 (h, w, 3), and its coverage of each pixel, float32 (h, w)."""
    mouth = lips(rest)
    u, v = np.moveaxis(mouth.local(where), -1, 0)
    upper, lower = (mouth.local(now[list(ring)]) for ring in (photos.INNER_UPPER, photos.INNER_LOWER))
    across = np.linspace(0, 1, 60)[:, None]
    edges = [PchipInterpolator(np.linspace(0, 1, len(edge)), edge)(across[:, 0]) for edge in (upper, lower)]
    outline = _canvas(mouth.world(np.vstack([edges[0], edges[1][::-1]])), x, y, FINE)
    fine = polygons([outline], (where.shape[0] * FINE, where.shape[1] * FINE))
    covered = cv2.resize(fine, where.shape[1::-1], interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    top, floor = (np.interp(u, edge[:, 0], edge[:, 1]) for edge in edges)
    reach = np.clip(np.abs(u) / mouth.half_width, 0, 1)
    light = float(np.clip(np.mean(look.skin), 0.55, 1)) ** 0.4
    image = np.full((*where.shape[:2], 3), DEEP, np.float32)
    # The tongue is at the floor of the mouth and becomes visible as the mouth opens.
    height = 1.0 + 7.5 * opening
    arch = height * np.sqrt(np.clip(1 - (reach / 0.72) ** 2, 0, 1))
    tongue = smoothstep((v - floor + arch) / 2.5) * smoothstep(opening * 4 - 0.8)
    shade = 0.45 + 0.55 * np.clip((v - floor + height) / (height + 1), 0, 1)
    image += (np.array(TONGUE, np.float32) * shade[..., None] - image) * tongue[..., None]
    # The lower teeth show slightly above the lower lip; the upper teeth are those of the photograph.
    lower_teeth = smoothstep((v - floor + 1.9 * (1 - reach**2)) / 0.9) * smoothstep((0.72 - reach) / 0.1)
    lower_teeth = lower_teeth * smoothstep(opening * 3 - 0.8)
    image += (np.array(TOOTH, np.float32) * 0.66 - image) * (0.8 * lower_teeth)[..., None]
    bottom = np.interp(u, mouth.u, mouth.lower) - 0.6
    shown = smoothstep((bottom - v) / 0.9) * smoothstep((0.97 - reach) / 0.12)
    image += (teeth - image) * shown[..., None]
    # The lips cast a shadow.
    shadow = (0.5 + 0.5 * smoothstep((v - top) / 2.2)) * (0.75 + 0.25 * smoothstep((floor - v) / 1.5))
    return image * (shadow * light)[..., None], covered


def _eye(look: Look, colours: np.ndarray, points: np.ndarray, side: int) -> Patch:
    """Draw one eye at BLINKS stages: the upper lid moves down and stretches the skin below the brow."""
    upper, lower = (points[list(ring[side])] for ring in (photos.LIDS_UPPER, photos.LIDS_LOWER))
    order = np.argsort(upper[:, 0])
    x, y = (int(v) for v in (np.minimum(upper.min(0), lower.min(0)) - (4, 9)) * CANVAS_SCALE)
    right, bottom = (int(v) for v in (np.maximum(upper.max(0), lower.max(0)) + (4, 3)) * CANVAS_SCALE)
    where = _grid(x, y, right - x, bottom - y)
    lid, floor = (np.interp(where[..., 0], edge[order, 0], edge[order, 1]) for edge in (upper, lower))
    crease = float(where[0, 0, 1])
    images = []
    for shut in np.linspace(0, 1, BLINKS):
        edge = lid + (floor - lid) * shut
        above = crease + (where[..., 1] - crease) * (lid - crease) / np.maximum(edge - crease, 1e-3)
        back = where.copy()
        back[..., 1] = np.where(where[..., 1] < edge, above, where[..., 1])
        images.append(_sharper(_sample(colours, to_photo(look, back))))
    return Patch(x, y, np.stack(images))
