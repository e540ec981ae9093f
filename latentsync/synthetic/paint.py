"""The photograph in the colours of a talker, applied through soft masks of skin, hair and suit."""

from functools import lru_cache

import cv2
import numpy as np

from latentsync.synthetic import photo as photos
from latentsync.synthetic.look import Look

# Inside of the neck ring of the suit, in photo pixels: its white lining is darkened, or detectors find faces in it.
LINING = ((134, 180), (139, 168), (160, 158), (184, 156), (190, 184), (235, 192), (252, 186), (258, 182), (276, 196))
LINING += ((290, 214), (297, 238), (295, 252), (280, 264), (250, 268), (225, 264), (195, 252), (165, 232), (143, 206))


def coloured(look: Look) -> np.ndarray:
    """The photograph in the colours of a talker: float32 (h, w, 3), 0 to 255. Teeth and whites of the eyes stay."""
    source = photos.photo(look.mirrored)
    pixels = source.pixels.astype(np.float32)
    skin, hair, suit = masks(look.mirrored)
    light = (pixels / 255) ** 2.2
    grey = light @ np.array([0.3, 0.59, 0.11], np.float32)
    toned = _mix(light, light * np.array(look.skin, np.float32), skin)
    # Hair and suit keep their shading and get another colour: grey of the photo relative to its mean, times the tint.
    for mask, tint, gamma in ((hair, look.hair, 0.9), (suit, look.suit, 0.75)):
        mean = (grey * mask).sum() / mask.sum()
        toned = _mix(toned, ((grey / mean) ** gamma)[..., None] * np.array(tint, np.float32) ** 2.2, mask)
    lining = np.array(LINING, np.float64)
    if look.mirrored:
        lining[:, 0] = light.shape[1] - 1 - lining[:, 0]
    inside = _blurred([lining], light.shape[:2], 0.8) * (1 - skin)
    toned = _mix(toned, 0.2 * cv2.GaussianBlur(light * (1 - skin[..., None]), (0, 0), 2.5), inside)
    lips = _filled(source, [photos.OUTER_UPPER + photos.OUTER_LOWER[::-1]], 0.7)
    lips *= 1 - _filled(source, [photos.INNER_UPPER + photos.INNER_LOWER[::-1]], 0.5)
    toned = _mix(toned, toned * np.array([0.92, 0.62, 0.66], np.float32), lips * look.lip_colour)
    brows = _filled(source, [brow[:5] + brow[:4:-1] for brow in photos.BROWS], 1.2)
    toned = _mix(toned, toned * np.array(look.hair, np.float32) ** 1.2, brows * look.brow_ink)
    for iris in photos.IRIS:
        centre, radius = source.points[iris[0]], np.linalg.norm(source.points[iris[1]] - source.points[iris[0]])
        inside = _disc(source, centre, radius * 0.95) * (grey < 0.35)
        tint = (np.array(look.iris, np.float32) / 255) ** 2.2
        toned = _mix(toned, tint * (0.35 + 4 * grey[..., None]), inside * 0.5)
    return np.clip(toned, 0, 1) ** (1 / 2.2) * 255


@lru_cache(maxsize=2)
def masks(mirrored: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Skin, hair and suit of the photograph, float32 (h, w) each, 0 to 1."""
    source = photos.photo(mirrored)
    y, x = np.mgrid[: source.pixels.shape[0], : source.pixels.shape[1]].astype(np.float32)
    lab = cv2.cvtColor(cv2.bilateralFilter(source.pixels, 5, 20, 3), cv2.COLOR_RGB2LAB).astype(np.float32)
    hairy = 1 / (1 + np.exp(-((lab[..., 2] - 148) / 1.5 + (150 - lab[..., 0]) / 25)))  # yellow and dark
    oval = _filled(source, [photos.FACE_OVAL], 0) > 0.5
    near = cv2.dilate(oval.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (31, 31))) > 0
    brow = source.points[list(photos.BROWS[0] + photos.BROWS[1])][:, 1].min()
    chin = source.points[photos.CHIN]
    neck = (abs(x - chin[0]) < 38) & (y > chin[1] - 20) & (y < chin[1] + 18) & (lab[..., 0] > 70)
    skin = np.where(oval & (y > brow + 5), 1.0, (1 - hairy) * (lab[..., 0] > 60)) * near * (y > brow - 12)
    skin = np.maximum(skin, neck) * source.person
    lids = zip(photos.LIDS_UPPER, photos.LIDS_LOWER, strict=True)
    bare = _filled(source, [upper + lower[::-1] for upper, lower in lids], 0.6)
    bare = np.maximum(bare, _filled(source, [photos.INNER_UPPER + photos.INNER_LOWER[::-1]], 0.6))
    hair = source.person * (1 - skin) * (y < chin[1] - 25) * ~(oval & (y > brow + 5))
    suit = source.person * np.clip((lab[..., 1] - 148) / 12, 0, 1) * (y > chin[1] + 20)
    soft = [cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 0.8) for mask in (skin, hair, suit)]
    return soft[0] * (1 - bare), soft[1], soft[2]


def _mix(a: np.ndarray, b: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return a + (b - a) * weight[..., None]


def _filled(source: photos.Photo, rings: list, blur_px: float) -> np.ndarray:
    """The inside of closed rings of mesh vertices, antialiased and blurred by blur_px."""
    return _blurred([source.points[list(ring)] for ring in rings], source.person.shape, blur_px)


def _blurred(rings: list[np.ndarray], shape: tuple[int, ...], blur_px: float) -> np.ndarray:
    mask = polygons(rings, shape, cv2.LINE_AA).astype(np.float32) / 255
    return cv2.GaussianBlur(mask, (0, 0), blur_px) if blur_px else mask


def polygons(rings: list[np.ndarray], shape: tuple[int, ...], edge: int = cv2.LINE_8) -> np.ndarray:
    """Rings of points (n, 2) in pixels, filled with 255 in an image uint8 of zeros; cv2.LINE_AA: with smooth edges."""
    image = np.zeros(shape, np.uint8)
    for ring in rings:
        cv2.fillPoly(image, [np.round(ring * 16).astype(np.int32)], (255,), edge, 4)
    return image


def smoothstep(x: np.ndarray | float) -> np.ndarray:
    """0 below 0, 1 above 1, a smooth curve between."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def _disc(source: photos.Photo, centre: np.ndarray, radius: float | np.floating) -> np.ndarray:
    y, x = np.mgrid[: source.person.shape[0], : source.person.shape[1]].astype(np.float32)
    return np.clip(radius + 0.5 - np.hypot(x - centre[0], y - centre[1]), 0, 1)
