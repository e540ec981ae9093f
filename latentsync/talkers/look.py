"""Who a talker is: a shape and colours, drawn from the seed, and how they change the one photograph.

The shape is a sum of smooth local stretches, given as the way back from the talker's picture to the photograph, so that
pixels need no inversion. The colours go through three soft masks: skin, hair and the orange of the suit.
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from latentsync.talkers import photo as photos
from latentsync.talkers.photo import Photo

NAMES = ("Ada", "Bruno", "Chloé", "Diego", "Emi", "Farid", "Grace", "Hana", "Ivo", "Jun", "Kaya", "Léo", "Mira", "Noor")
# Gains on linear light for the skin, tints of the hair and of the suit; one index of skin, hair and iris is one person.
SKIN = (
    (1.0, 1.0, 1.0),
    (0.46, 0.32, 0.25),
    (0.86, 0.76, 0.62),
    (0.97, 0.84, 0.8),
    (0.62, 0.48, 0.37),
    (0.78, 0.66, 0.5),
)
SKIN += (
    (1.06, 1.0, 0.94),
    (0.33, 0.22, 0.165),
    (0.92, 0.85, 0.72),
    (0.54, 0.39, 0.28),
    (1.0, 0.9, 0.9),
    (0.72, 0.59, 0.49),
)
HAIR = (
    (0.62, 0.53, 0.4),
    (0.16, 0.13, 0.12),
    (0.26, 0.19, 0.15),
    (0.62, 0.36, 0.22),
    (0.2, 0.16, 0.14),
    (0.4, 0.29, 0.21),
)
HAIR += (
    (0.8, 0.68, 0.46),
    (0.15, 0.13, 0.13),
    (0.3, 0.24, 0.21),
    (0.32, 0.22, 0.17),
    (0.6, 0.6, 0.62),
    (0.4, 0.24, 0.19),
)
SUIT = (
    (0.85, 0.32, 0.16),
    (0.13, 0.35, 0.62),
    (0.16, 0.45, 0.36),
    (0.45, 0.47, 0.5),
    (0.72, 0.6, 0.25),
    (0.5, 0.17, 0.25),
)
SUIT += (
    (0.2, 0.23, 0.32),
    (0.86, 0.83, 0.76),
    (0.38, 0.26, 0.52),
    (0.16, 0.52, 0.58),
    (0.62, 0.42, 0.3),
    (0.33, 0.4, 0.22),
)
IRIS = ((70, 105, 140), (50, 34, 26), (70, 48, 34), (85, 110, 80), (56, 38, 28), (90, 64, 40))
IRIS += ((95, 115, 125), (46, 32, 26), (78, 56, 40), (56, 40, 30), (80, 110, 140), (90, 84, 50))
# Inside of the suit's neck ring, photo pixels: the crumpled white lining is darkened, or detectors see faces in it.
LINING = ((134, 180), (139, 168), (160, 158), (184, 156), (190, 184), (235, 192), (252, 186), (258, 182), (276, 196))
LINING += ((290, 214), (297, 238), (295, 252), (280, 264), (250, 268), (225, 264), (195, 252), (165, 232), (143, 206))


@dataclass(frozen=True)
class Look:
    """One identity. Stretches are factors on the photograph's own shape, moves are photo pixels, colours 0 to 1."""

    name: str
    mirrored: bool
    face_width: float
    jaw_width: float
    chin_length: float
    hair_height: float
    hair_width: float
    eye_size: float
    eye_distance: float
    brow_move: float
    nose_width: float
    mouth_width: float
    lip_height: float
    skin: tuple[float, float, float]
    hair: tuple[float, float, float]
    suit: tuple[float, float, float]
    iris: tuple[int, int, int]
    brow_ink: float
    lip_colour: float
    pitch_hz: float
    tract: float


# Lowest and highest value of everything that is drawn evenly: each identity gets another slice of each range.
RANGES = {
    "face_width": (0.93, 1.09),
    "jaw_width": (0.86, 1.12),
    "chin_length": (0.93, 1.06),
    "hair_height": (0.84, 1.12),
    "hair_width": (0.86, 1.08),
    "eye_size": (0.86, 1.2),
    "eye_distance": (-2.2, 2.2),
    "brow_move": (-2.0, 2.0),
    "nose_width": (0.84, 1.3),
    "mouth_width": (0.76, 0.98),
    "lip_height": (1.0, 1.5),
    "brow_ink": (0.0, 0.55),
    "lip_colour": (0.0, 1.0),
    "pitch_hz": (95.0, 230.0),
}


@lru_cache(maxsize=4)
def looks(seed: int, count: int) -> tuple[Look, ...]:
    """`count` identities that differ in every feature: along each, they are spread evenly in an order of their own."""
    rng = np.random.default_rng([seed, 7])
    slices = {key: (rng.permutation(count) + rng.uniform(0.2, 0.8, count)) / count for key in RANGES}
    shuffled = {key: rng.permutation(len(values)) for key, values in (("skin", SKIN), ("suit", SUIT))}
    mirrored = rng.permutation(count) % 2 == 0
    result = []
    for i in range(count):
        values = {key: low + (high - low) * float(slices[key][i]) for key, (low, high) in RANGES.items()}
        tone = int(shuffled["skin"][i % len(SKIN)])
        name = NAMES[i % len(NAMES)] + (str(i // len(NAMES) + 1) if i >= len(NAMES) else "")
        result.append(
            Look(
                name=name,
                mirrored=bool(mirrored[i]),
                skin=SKIN[tone],
                hair=HAIR[tone],
                suit=SUIT[int(shuffled["suit"][i % len(SUIT)])],
                iris=IRIS[tone],
                tract=1.22 - 0.3 * (230.0 - values["pitch_hz"]) / 135.0,  # low voices have long vocal tracts
                **values,
            )
        )
    return tuple(result)


def to_photo(look: Look, points: np.ndarray) -> np.ndarray:
    """Where in the photograph lies what the talker shows at `points` (..., 2)? Both in photo pixels."""
    source = photos.photo(look.mirrored)
    p = points.astype(np.float32)
    middle = source.points[list(photos.FACE_OVAL)].mean(0)
    chin, nose = source.points[photos.CHIN], source.points[photos.NOSE_TIP]
    mouth = source.points[list(photos.INNER_UPPER + photos.INNER_LOWER)].mean(0)
    eyes = [source.points[list(corners)].mean(0) for corners in photos.EYE_CORNERS]
    brows = [source.points[list(brow)].mean(0) for brow in photos.BROWS]
    moved = p.copy()
    moved[..., 0] += (p[..., 0] - middle[0]) * (1 / look.face_width - 1)
    _stretch(p, moved, (chin[0], chin[1] - 10), (44, 24), (look.jaw_width, look.chin_length))
    _stretch(p, moved, (middle[0], 60), (75, 34), (look.hair_width, look.hair_height))
    _stretch(p, moved, nose, (11, 14), (look.nose_width, 1.0))
    _stretch(p, moved, mouth, (24, 13), (look.mouth_width, 1.0))
    _stretch(p, moved, mouth, (22, 6), (1.0, look.lip_height))
    for side, eye, brow in zip((-1, 1), eyes, brows, strict=True):
        outward = side * np.sign(eyes[1][0] - eyes[0][0])
        _stretch(p, moved, eye, (11, 8), (look.eye_size, look.eye_size), (outward * look.eye_distance, 0))
        _stretch(p, moved, brow, (15, 5), (1, 1), (0, look.brow_move))
    return moved


def _stretch(p, moved, centre, reach, factors, move=(0.0, 0.0)) -> None:
    """Add a local stretch about `centre` that fades like a Gaussian of widths `reach`."""
    offset = p - np.asarray(centre, np.float32)
    weight = np.exp(-0.5 * ((offset[..., 0] / reach[0]) ** 2 + (offset[..., 1] / reach[1]) ** 2))
    for axis in (0, 1):
        moved[..., axis] += weight * (offset[..., axis] * (1 / factors[axis] - 1) - move[axis])


def from_photo(look: Look, points: np.ndarray) -> np.ndarray:
    """The other way, for landmarks: fixed-point iteration, good to a hundredth of a pixel."""
    guess = points.copy()
    for _ in range(25):
        guess = guess + 0.7 * (points - to_photo(look, guess))
    return guess


def coloured(look: Look) -> np.ndarray:
    """The photograph in the talker's colours: float32 (h, w, 3), 0 to 255. Teeth and the white of the eyes stay."""
    source = photos.photo(look.mirrored)
    pixels = source.pixels.astype(np.float32)
    skin, hair, suit = masks(look.mirrored)
    light = (pixels / 255) ** 2.2
    grey = light @ np.array([0.3, 0.59, 0.11], np.float32)
    toned = _mix(light, light * np.array(look.skin, np.float32), skin)
    # Hair and cloth keep their light and shade and take another colour: grey of the photo over its mean, times tint.
    for mask, tint, gamma in ((hair, look.hair, 0.9), (suit, look.suit, 0.75)):
        mean = (grey * mask).sum() / mask.sum()
        toned = _mix(toned, ((grey / mean) ** gamma)[..., None] * np.array(tint, np.float32) ** 2.2, mask)
    inside = _polygon(_lining(look.mirrored, light.shape[1]), light.shape[:2], 0.8) * (1 - skin)
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


def _filled(source: Photo, rings: list, blur_px: float) -> np.ndarray:
    """The inside of closed rings of face-mesh vertices, antialiased, softened by blur_px."""
    return _polygon([source.points[list(ring)] for ring in rings], source.person.shape, blur_px)


def _polygon(rings: list[np.ndarray], shape: tuple[int, int], blur_px: float) -> np.ndarray:
    canvas = np.zeros(shape, np.uint8)
    for ring in rings:
        cv2.fillPoly(canvas, [np.round(ring * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    mask = canvas.astype(np.float32) / 255
    return cv2.GaussianBlur(mask, (0, 0), blur_px) if blur_px else mask


def _lining(mirrored: bool, width: int) -> list[np.ndarray]:
    ring = np.array(LINING, np.float64)
    return [np.column_stack([width - 1 - ring[:, 0], ring[:, 1]]) if mirrored else ring]


def _disc(source: Photo, centre: np.ndarray, radius: float) -> np.ndarray:
    y, x = np.mgrid[: source.person.shape[0], : source.person.shape[1]].astype(np.float32)
    return np.clip(radius + 0.5 - np.hypot(x - centre[0], y - centre[1]), 0, 1)
