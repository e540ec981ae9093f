"""Some frames of a face in the pixels of its source: quality metrics need more detail than a crop below 256 px has.

They are kept while the source is decoded for the crop, which saves a third decode.
"""

import math
from pathlib import Path

import cv2
import numpy as np

from latentsync.faces import alignment
from latentsync.faces.tracking import Track
from latentsync.ledger.files import replacing
from latentsync.media.frames import DisplayedFrame
from latentsync.timing import evenly_spaced

STILLS = 5  # of a clip as long as its segment, at most one more; a shorter clip has fewer, but at least one
MARGIN = 0.1  # of the box of the landmarks, on each side
MIN_SIDE_PX = 96  # six blocks of PIQE; a smaller box is widened into its surroundings
MAX_SIDE_PX = 256


class Stills:
    """The stills of all tracks of one segment of `n_frames`."""

    def __init__(self, n_frames: int):
        self.every = math.ceil(n_frames / STILLS)
        self.first: dict[int, int] = {}
        self.kept: dict[int, list[tuple[int, np.ndarray, np.ndarray]]] = {}  # track id -> frame, corner, surroundings

    def add(self, track_id: int, number: int, frame: DisplayedFrame, matrix: np.ndarray, resolution: int) -> None:
        """Keep the surroundings of the face in one frame in `every`; `matrix` is that of its crop."""
        first = self.first.setdefault(track_id, number)
        if (number - first) % self.every:
            return
        size = np.array(alignment.crop_size(resolution), np.float64)
        corners = np.array([(x, y) for x in (-0.25, 1.25) for y in (-0.25, 1.25)]) * size
        corners = alignment.apply(alignment.invert(matrix), corners)
        ends = frame.shape[1], frame.shape[0]
        low = [int(min(max(at, 0), end - 1)) for at, end in zip(np.floor(corners.min(0)), ends, strict=True)]
        high = [int(max(at, least + 1)) for at, least in zip(np.ceil(corners.max(0)), low, strict=True)]
        around = frame.exact()[low[1] : high[1], low[0] : high[0]].copy()
        self.kept.setdefault(track_id, []).append((number, np.array(low), around))

    def write(self, path: Path, track: Track) -> None:
        """The faces of one track as npz, uint8 (h, w, 3) each, in order."""
        faces = []
        for number, corner, around in self.kept[track.track_id]:
            index = number - track.start
            if track.found[index]:
                faces.append(face_region(around, track.landmarks[index] - corner))
        assert faces, "a track begins with a detection"
        with replacing(path) as temporary:
            np.savez_compressed(temporary, **{f"{number:03d}": face for number, face in enumerate(faces)})


def read_stills(path: Path, count: int) -> list[np.ndarray]:
    """At most `count` of the faces in a file of Stills, evenly spread from the first to the last."""
    with np.load(path) as arrays:
        names = sorted(arrays.files)
        return [arrays[names[index]] for index in evenly_spaced(len(names), count)]


def face_region(rgb: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """The part (h, w, 3) of an image around landmarks (p, 2): their box and its margin, clipped to the image.

    At least MIN_SIDE_PX wide and high where the image is; reduced by area averaging to at most MAX_SIDE_PX.
    """
    low, high = landmarks.min(axis=0), landmarks.max(axis=0)
    size_px = np.array(rgb.shape[1::-1])
    sides = np.minimum(np.maximum(np.rint((high - low) * (1 + 2 * MARGIN)), MIN_SIDE_PX), size_px).astype(int)
    start = np.clip(np.rint((low + high - sides) / 2).astype(int), 0, size_px - sides)
    region = rgb[start[1] : start[1] + sides[1], start[0] : start[0] + sides[0]]
    scale = MAX_SIDE_PX / max(sides)
    if scale < 1:
        width, height = (max(1, round(side * scale)) for side in sides)
        region = cv2.resize(region, (width, height), interpolation=cv2.INTER_AREA)
    return region
