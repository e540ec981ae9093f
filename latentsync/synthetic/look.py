"""The identity of a talker (shape, colours and voice, drawn from the seed) and the warp that gives it its shape.

The warp is a sum of smooth local stretches. It maps from the image of the talker to the photograph, so that rendering
needs no inversion. paint.py applies the colours.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from latentsync.synthetic import photo as photos

NAMES = ("Ada", "Bruno", "Chloé", "Diego", "Emi", "Farid", "Grace", "Hana", "Ivo", "Jun", "Kaya", "Léo", "Mira", "Noor")
# Combinations of colours, chosen by eye: gains of the skin in linear light, tint of the hair, iris (8 bits).
COMPLEXIONS = (
    ((1.0, 1.0, 1.0), (0.62, 0.53, 0.4), (70, 105, 140)),
    ((0.46, 0.32, 0.25), (0.16, 0.13, 0.12), (50, 34, 26)),
    ((0.86, 0.76, 0.62), (0.26, 0.19, 0.15), (70, 48, 34)),
    ((0.97, 0.84, 0.8), (0.62, 0.36, 0.22), (85, 110, 80)),
    ((0.62, 0.48, 0.37), (0.2, 0.16, 0.14), (56, 38, 28)),
    ((0.78, 0.66, 0.5), (0.4, 0.29, 0.21), (90, 64, 40)),
    ((1.06, 1.0, 0.94), (0.8, 0.68, 0.46), (95, 115, 125)),
    ((0.33, 0.22, 0.165), (0.15, 0.13, 0.13), (46, 32, 26)),
    ((0.92, 0.85, 0.72), (0.3, 0.24, 0.21), (78, 56, 40)),
    ((0.54, 0.39, 0.28), (0.32, 0.22, 0.17), (56, 40, 30)),
    ((1.0, 0.9, 0.9), (0.6, 0.6, 0.62), (80, 110, 140)),
    ((0.72, 0.59, 0.49), (0.4, 0.24, 0.19), (90, 84, 50)),
)
# fmt: off
SUITS = (
    (0.85, 0.32, 0.16), (0.13, 0.35, 0.62), (0.16, 0.45, 0.36), (0.45, 0.47, 0.5),
    (0.72, 0.6, 0.25), (0.5, 0.17, 0.25), (0.2, 0.23, 0.32), (0.86, 0.83, 0.76),
    (0.38, 0.26, 0.52), (0.16, 0.52, 0.58), (0.62, 0.42, 0.3), (0.33, 0.4, 0.22),
)
# fmt: on


@dataclass(frozen=True)
class Look:
    """One identity. Stretches are factors on the shape of the photograph, moves are photo pixels, colours 0 to 1."""

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


# Ranges of the features that are drawn evenly: each identity gets a different slice of each range.
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
    """`count` identities, spread evenly over the range of each feature, in another order for each feature."""
    rng = np.random.default_rng([seed, 7])
    slices = {key: (rng.permutation(count) + rng.uniform(0.2, 0.8, count)) / count for key in RANGES}
    shuffled = {key: rng.permutation(len(values)) for key, values in (("complexion", COMPLEXIONS), ("suit", SUITS))}
    mirrored = rng.permutation(count) % 2 == 0
    result = []
    for i in range(count):
        values: dict[str, Any] = {k: low + (high - low) * float(slices[k][i]) for k, (low, high) in RANGES.items()}
        values["skin"], values["hair"], values["iris"] = COMPLEXIONS[int(shuffled["complexion"][i % len(COMPLEXIONS)])]
        values["suit"] = SUITS[int(shuffled["suit"][i % len(SUITS)])]
        values["tract"] = 1.22 - 0.3 * (230.0 - values["pitch_hz"]) / 135.0  # low voices have long vocal tracts
        name = NAMES[i % len(NAMES)] + (str(i // len(NAMES) + 1) if i >= len(NAMES) else "")
        result.append(Look(name=name, mirrored=bool(mirrored[i]), **values))
    return tuple(result)


def to_photo(look: Look, points: np.ndarray) -> np.ndarray:
    """Map points (..., 2) of the talker to the photograph; both in photo pixels."""
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
    """Add to `moved` a local stretch about `centre` that fades like a Gaussian of widths `reach`."""
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
