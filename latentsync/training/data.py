"""From stored clips to the arrays of one training item: which clip, which window of it, how it is varied.

Everything is a pure function of the sample number and of generators seeded by it, so resuming needs no saved state.
Frames are at 25 per second. Axes: n windows, f frames, c channels, h w pixels or latent cells, s audio tokens, d their
width, t mel columns.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from latentsync.faces.crop import lower_halves
from latentsync.timing import mel_start, mel_width
from latentsync.training.clips import ClipStore, FeatureStore

PAIRS_PER_BATCH = 32


class EpochSampler:
    """The clip of a sample number: number // n is the epoch, and each epoch is a permutation drawn from (seed, epoch).

    Sample numbers count through the whole training: number = (step * world + rank) * batch + position.
    """

    def __init__(self, n_items: int, seed: int):
        assert n_items > 0
        self.n_items, self.seed = n_items, seed
        self._cached = -1, np.empty(0, dtype=np.int64)

    def __call__(self, number: int) -> int:
        """The item, 0 <= item < n_items."""
        epoch, position = divmod(number, self.n_items)
        cached, order = self._cached  # read at once, so that threads in different epochs never mix two orders
        if cached != epoch:
            order = np.random.default_rng([self.seed, epoch]).permutation(self.n_items)
            self._cached = epoch, order
        return int(order[position])


def mel_window(mel: np.ndarray, start: int, frames: int) -> np.ndarray:
    """SyncNet's mel of `frames` frames from frame `start`: (80, t) of a clip -> (1, 80, mel_width(frames))."""
    first = mel_start(start)
    return mel[None, :, first : first + mel_width(frames)]


# --- U-Net: a window to predict and a reference window ----------------------------------------------------------------


def draw_windows(n_frames: int, frames: int, rng: np.random.Generator) -> tuple[int, int]:
    """Starts of the window to predict and of its reference; the two never overlap.

    Uniform over the windows that leave room for a reference, then uniform over their references. The clip has at least
    twice `frames` frames.
    """
    assert n_frames >= 2 * frames, (n_frames, frames)
    starts = np.arange(n_frames - frames + 1)
    allowed = starts[(starts >= frames) | (starts <= n_frames - 2 * frames)]
    start = int(rng.choice(allowed))
    reference = int(rng.choice(starts[np.abs(starts - start) >= frames]))
    return start, reference


def window(features: FeatureStore, index: int, start: int, reference: int, frames: int) -> dict[str, np.ndarray]:
    """Arrays of one item, float32: face, masked, reference (moments f 2c h w), audio (f s d), mel (1 80 t)."""
    from latentsync.audio.whisper import window_tokens  # transformers takes 3 s to import, and SyncNet needs none of it

    def moments(name: str, first: int) -> np.ndarray:
        return features.window(index, name, first, first + frames).astype(np.float32)

    return {
        "face": moments("face_moments", start),
        "masked": moments("masked_moments", start),
        "reference": moments("face_moments", reference),
        "audio": np.asarray(window_tokens(features.array(index, "whisper"), start, frames), np.float32),
        "mel": mel_window(features.array(index, "mel"), start, frames),
    }


# --- Augmentation: changes that leave the mouth as it is. Pixels are in [-1, 1]. --------------------------------------


def recolour(pixels: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Change gain and level of each colour, the same for all frames: (3, ...) float32.

    Half of the change is common to the colours (exposure, contrast), half is each colour's own (light, skin).
    """
    drawn = (rng.uniform(-strength, strength, (2, 3)) + rng.uniform(-strength, strength, (2, 1))) / 2
    gain, level = drawn.astype(np.float32).reshape(2, 3, *[1] * (pixels.ndim - 1))
    return (pixels * (1 + gain) + level).clip(-1, 1)


def move(pixels: np.ndarray, furthest_px: int, rng: np.random.Generator) -> np.ndarray:
    """Shift by whole pixels, the same for all frames; the edge is repeated: (..., h, w)."""
    right, down = rng.integers(0, 2 * furthest_px + 1, 2)
    h, w = pixels.shape[-2:]
    around = [(0, 0)] * (pixels.ndim - 2) + [(furthest_px, furthest_px)] * 2
    return np.pad(pixels, around, mode="edge")[..., down : down + h, right : right + w]


# --- Pairs that judge a SyncNet ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """A window of frames and a window of audio; starts in frames."""

    clip: int
    start: int
    audio_clip: int
    audio_start: int
    in_sync: bool


def draw_pairs(
    clips: ClipStore, groups: list[str], frames: int, n: int, nearest: int, furthest: int, seed: int
) -> tuple[list[Pair], list[Pair]]:
    """n pairs, half of them in sync, spread evenly over the clips; and the same with audio of a clip of another group.

    Negatives come from the same clip, between `nearest` and `furthest` frames away, so only timing separates them. With
    the audio of another clip nothing does, and a SyncNet that still scores above chance judges by the frames alone.
    Both lists are empty where no clip has the frames that a pair needs, the second also where there is only one group.
    """
    usable = [index for index in range(len(clips)) if clips.n_frames(index) >= frames + nearest]
    rng = np.random.default_rng(seed)
    pairs, shuffled = [], []
    n_shown = min(len(usable), -(-n // 2))
    shown = [usable[k * len(usable) // n_shown] for k in range(n_shown)]
    for number in range(n if usable else 0):
        clip = shown[(number // 2) % n_shown]
        starts = clips.n_frames(clip) - frames + 1
        in_sync = number % 2 == 0
        if in_sync:  # this pair and the next, which is out of sync, share their audio
            while True:
                audio = int(rng.integers(starts))
                away = [start for start in range(starts) if nearest <= abs(start - audio) <= furthest]
                if away:
                    break
        pairs.append(Pair(clip, audio if in_sync else int(rng.choice(away)), clip, audio, in_sync))
        foreign = [index for index in usable if groups[index] != groups[clip]]
        if foreign:
            other = int(rng.choice(foreign))
            start = int(rng.integers(clips.n_frames(other) - frames + 1))
            shuffled.append(Pair(clip, pairs[-1].start, other, start, in_sync))
    return pairs, shuffled


def pair_batches(
    clips: ClipStore, pairs: list[Pair], frames: int, resolution: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(visual n (f c) h/2 w in [-1, 1], mel n 1 80 t) in the order of the pairs."""
    for first in range(0, len(pairs), PAIRS_PER_BATCH):
        batch = pairs[first : first + PAIRS_PER_BATCH]
        visual = [lower_halves(clips.frames(p.clip, p.start, p.start + frames), resolution) for p in batch]
        yield np.stack(visual), np.stack([mel_window(clips.mel(p.audio_clip), p.audio_start, frames) for p in batch])
