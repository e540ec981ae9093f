"""Shots: a background, one or two talkers with moving heads, light, and the frame at any time.

A frame is one warp of the canvas of each talker (face.py). The map from frame to canvas is the framing of the shot for
the shoulders and a moving similarity transform for the head, blended over the neck, plus the depth of the face times
the turn of the head.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator

from latentsync.synthetic import photo as photos
from latentsync.synthetic.face import BLINKS, CANVAS_SCALE, LEVELS, Face, Patch, face
from latentsync.synthetic.look import Look
from latentsync.synthetic.paint import smoothstep

BLINK_S = (0.0, 0.06, 0.12, 0.16, 0.26)  # closing, closed, opening
BLINK_STAGE = (0, BLINKS - 1, BLINKS - 1, BLINKS - 1, 0)
LISTENER_SPEED = 3  # of turning and nodding; at 1, a face with a closed mouth is nearly as still as a photograph


def _smooth(rng: np.random.Generator, size: float) -> np.ndarray:
    """Amplitude, frequency and phase (rows) of three slow oscillations (columns)."""
    hertz = rng.uniform((0.08, 0.2, 0.4), (0.2, 0.4, 0.75))
    return np.array([size * np.array([0.6, 0.45, 0.2]) * rng.uniform(0.6, 1.2, 3), hertz, rng.uniform(0, 2 * np.pi, 3)])


def _at(wave: np.ndarray, time_s: float) -> float:
    return float((wave[0] * np.sin(2 * np.pi * wave[1] * time_s + wave[2])).sum())


@dataclass(frozen=True)
class Motion:
    """Movement of a head: waves of `_smooth` in photo pixels, radians or shares; blinks are start times."""

    right: np.ndarray
    down: np.ndarray
    roll: np.ndarray
    nearer: np.ndarray
    turn: np.ndarray
    nod: np.ndarray
    blinks_s: tuple[float, ...]


def motion(rng: np.random.Generator, duration_s: float, listens: bool = False) -> Motion:
    """Draw a random movement; a person who listens turns and nods faster."""
    waves = [_smooth(rng, size) for size in (4.5, 2.4, 0.045, 0.02, 0.12, 0.07)]
    if listens:
        for wave in waves[-2:]:
            wave[1] *= LISTENER_SPEED
    blinks, at = [], rng.uniform(0.3, 3.0)
    while at < duration_s:
        blinks.append(float(at))
        at += rng.uniform(1.2, 4.5)
    return Motion(*waves, blinks_s=tuple(blinks))


class Person:
    """One talker in one shot; draws itself over an image."""

    def __init__(self, look: Look, moves: Motion, centre: tuple[float, float], face_px: float, size: tuple[int, int]):
        """Place the face: its centre and width in pixels of the frame, whose size is (width, height)."""
        self.face: Face = face(look)
        self.moves = moves
        self.canvas = self.face.canvas.copy()  # mouth and eyes are pasted into it for each frame
        self.scale = face_px / self.face.width_px  # frame pixels per photo pixel
        oval = self.face.points[list(photos.FACE_OVAL)]
        self.middle = (oval.min(0) + oval.max(0)) / 2
        self.neck = np.array([self.middle[0], self.face.points[photos.CHIN, 1] + 12])
        x, y = np.meshgrid(np.arange(size[0], dtype=np.float32), np.arange(size[1], dtype=np.float32))
        self.x = (x - centre[0]) / self.scale + self.middle[0]  # photo coordinates while nothing moves
        self.y = (y - centre[1]) / self.scale + self.middle[1]
        chin = float(self.face.points[photos.CHIN, 1] - self.middle[1])
        away = np.hypot((self.x - self.middle[0]) / 72, (self.y - self.middle[1] + 18) / (chin + 30))
        self.head = smoothstep((1.75 - away) / 0.75).astype(np.float32)
        self.depth = _depth(self.face, self.x, self.y) * self.head

    def draw(self, image: np.ndarray, time_s: float, opening: float) -> np.ndarray:
        """Draw the talker at a time over an image uint8 (h, w, 3), with a mouth opening of 0 to 1."""
        self._paste(self.face.mouth, round(float(np.clip(opening, 0, 1)) * (LEVELS - 1)))
        stage = max((_stage(time_s - start) for start in self.moves.blinks_s), default=0)
        for eye in self.face.eyes:
            self._paste(eye, stage)
        moves = self.moves
        cos, sin = np.cos(_at(moves.roll, time_s)), np.sin(_at(moves.roll, time_s))
        zoom = 1 + _at(moves.nearer, time_s)
        # Inverse transform of the head about the neck, minus identity, so that it can fade out towards the shoulders.
        linear = np.array([[cos, sin], [-sin, cos]]) / zoom - np.eye(2)
        shift = -linear @ self.neck - (_at(moves.right, time_s), _at(moves.down, time_s))
        shift, linear = shift.astype(np.float32), linear.astype(np.float32)
        turn, nod = np.float32(_at(moves.turn, time_s)), np.float32(_at(moves.nod, time_s))
        x = self.x + self.head * (linear[0, 0] * self.x + linear[0, 1] * self.y + shift[0]) + turn * self.depth
        y = self.y + self.head * (linear[1, 0] * self.x + linear[1, 1] * self.y + shift[1]) + nod * self.depth
        half = np.float32(CANVAS_SCALE * 0.5 - 0.5)
        warped = cv2.remap(self.canvas, x * CANVAS_SCALE + half, y * CANVAS_SCALE + half, cv2.INTER_LINEAR)
        alpha = cv2.merge([warped[..., 3]] * 3)
        over = cv2.multiply(warped[..., :3], alpha, scale=1 / 255)
        return cv2.add(over, cv2.multiply(image, 255 - alpha, scale=1 / 255))

    def _paste(self, patch: Patch, index: int) -> None:
        height, width = patch.images.shape[1:3]
        self.canvas[patch.y : patch.y + height, patch.x : patch.x + width, :3] = patch.images[index]


def _stage(since_s: float) -> int:
    return round(float(np.interp(since_s, BLINK_S, BLINK_STAGE))) if 0 <= since_s <= BLINK_S[-1] else 0


def _depth(of: Face, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Smooth depth of the face at photo coordinates (h, w), in photo pixels; outside, that of the nearest landmark."""
    points, depth = of.points[:468], of.depth[:468] - np.median(of.depth[:468])
    step = 4
    low, high = points.min(0) - 90, points.max(0) + 90
    grid = np.stack(np.meshgrid(np.arange(low[0], high[0], step), np.arange(low[1], high[1], step)), axis=-1)
    inside = LinearNDInterpolator(points, depth)(grid)
    field = np.where(np.isnan(inside), NearestNDInterpolator(points, depth)(grid), inside)
    field = cv2.GaussianBlur(field.astype(np.float32), (0, 0), 2.0)
    columns, rows = (x - np.float32(low[0])) / step, (y - np.float32(low[1])) / step
    return cv2.remap(field, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def background(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """An out-of-focus room: uint8 (height, width, 3)."""
    warm = rng.uniform(-1, 1)
    base = np.array([0.5 + 0.12 * warm, 0.5, 0.5 - 0.12 * warm]) * rng.uniform(0.55, 1.3)
    y, x = np.mgrid[:height, :width].astype(np.float32) / height
    light_x, light_y = rng.uniform(-0.2, width / height + 0.2), rng.uniform(-0.3, 0.5)
    glow = np.exp(-((x - light_x) ** 2 + (y - light_y) ** 2) / rng.uniform(0.5, 1.4))
    image = base * (0.55 + 0.7 * glow[..., None])
    kind = rng.integers(4)
    layer = np.zeros_like(image)
    if kind == 0:  # shelves with books
        for row in range(4):
            left = -rng.uniform(0, 0.1)
            while left < width / height:
                book, tall = rng.uniform(0.025, 0.09), rng.uniform(0.14, 0.22)
                top = (row + 1) * 0.27 - tall
                inside = (x > left) & (x < left + book) & (y > top) & (y < (row + 1) * 0.27)
                layer[inside] = rng.uniform(-0.2, 0.2) + rng.uniform(-0.07, 0.07, 3)
                left += book + (rng.uniform(0.05, 0.3) if rng.uniform() < 0.12 else 0)
    elif kind == 1:  # lights at night
        for _ in range(26):
            cx, cy, radius = rng.uniform(0, width / height), rng.uniform(0, 0.9), rng.uniform(0.02, 0.075)
            colour = np.array([1.0, rng.uniform(0.5, 0.9), rng.uniform(0.2, 0.8)])[:: rng.choice((-1, 1))]
            layer += np.clip((radius - np.hypot(x - cx, y - cy)) * 60, 0, 1)[..., None] * colour * rng.uniform(0.1, 0.4)
        image *= 0.55
    elif kind == 2:  # a window with a lattice
        left, right, top, bottom = rng.uniform(0, 0.3), rng.uniform(0.75, 1.3), -0.1, rng.uniform(0.5, 0.8)
        inside = (x > left) & (x < right) & (y > top) & (y < bottom)
        bars = (np.abs((x - left) % 0.26 - 0.13) < 0.012) | (np.abs(y % 0.3 - 0.15) < 0.012)
        layer[inside & ~bars] = np.array([0.28, 0.34, 0.4])
    else:  # a wall with a dado and a framed picture
        layer[y > rng.uniform(0.62, 0.8)] = -0.12
        left, top = rng.uniform(0.02, 0.9), rng.uniform(0.05, 0.2)
        frame = (x > left) & (x < left + 0.36) & (y > top) & (y < top + 0.28)
        inside = frame & (x > left + 0.03) & (x < left + 0.33) & (y > top + 0.03) & (y < top + 0.25)
        layer[frame] = -0.22
        layer[inside] = rng.uniform(0, 0.3, 3)
    image = image + cv2.GaussianBlur(layer, (0, 0), height * rng.uniform(0.008, 0.022))
    return (np.clip(image, 0.02, 0.98) * 255).astype(np.uint8)


@dataclass(frozen=True)
class Shot:
    """People in front of a background."""

    backdrop: np.ndarray
    people: tuple[Person, ...]
    light: np.ndarray  # float32 (h, w, 3), factor

    def frame(self, time_s: float, openings: tuple[float, ...]) -> np.ndarray:
        """The frame at a time, uint8 (h, w, 3); `openings` are the mouth openings of `people`, 0 to 1."""
        image = self.backdrop
        for person, opening in zip(self.people, openings, strict=True):
            image = person.draw(image, time_s, opening)
        return cv2.multiply(image, self.light, dtype=cv2.CV_8U)


def light(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Soft, tinted light from one side."""
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :, None] * np.ones((height, 1, 1), np.float32)
    warm = rng.uniform(-0.05, 0.05)
    tint = np.array([1 + warm, 1, 1 - warm], np.float32)
    return np.ascontiguousarray(rng.uniform(0.9, 1.06) * (1 + rng.uniform(-0.16, 0.16) * x) * tint)
