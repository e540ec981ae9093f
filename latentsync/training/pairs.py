"""Pairs of picture and sound for judging a SyncNet: half in sync, half not, and the same with somebody else's sound.

Negatives come from the same clip, between `nearest` and `furthest` frames away, so that only timing can tell; with the
sound of another clip nothing can tell, and a judge that still finds something is looking at the picture alone.

Axes: f frames, c channels, h w, t mel columns.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from latentsync.faces.crop import lower_halves
from latentsync.timing import mel_start, mel_width
from latentsync.training.clips import ClipStore


@dataclass(frozen=True)
class Pair:
    """Windows of one picture and one sound, starts in frames."""

    clip: int
    picture: int
    sound_clip: int
    sound: int
    in_sync: bool


def draw(
    clips: ClipStore, groups: list[str], frames: int, n: int, nearest: int, furthest: int, seed: int
) -> tuple[list[Pair], list[Pair]]:
    """n balanced pairs spread evenly over the clips, and the same with the sound of a clip of another group.

    Both are empty where no clip has the frames that a pair needs, the second also where all clips are of one group.
    """
    usable = [index for index in range(len(clips)) if clips.n_frames(index) >= frames + nearest]
    rng = np.random.default_rng(seed)
    pairs, shuffled = [], []
    n_shown = min(len(usable), -(-n // 2))
    shown = [usable[k * len(usable) // n_shown] for k in range(n_shown)]
    for number in range(n if usable else 0):
        clip = shown[(number // 2) % n_shown]
        starts = clips.n_frames(clip) - frames + 1
        if number % 2 == 0:  # a pair in sync and one out of sync share their sound
            while True:
                sound = int(rng.integers(starts))
                away = [start for start in range(starts) if nearest <= abs(start - sound) <= furthest]
                if away:
                    break
        in_sync = number % 2 == 0
        pairs.append(Pair(clip, sound if in_sync else int(rng.choice(away)), clip, sound, in_sync))
        foreign = [index for index in usable if groups[index] != groups[clip]]
        if foreign:
            other = int(rng.choice(foreign))
            start = int(rng.integers(clips.n_frames(other) - frames + 1))
            shuffled.append(Pair(clip, pairs[-1].picture, other, start, in_sync))
    return pairs, shuffled


def batches(
    clips: ClipStore, pairs: list[Pair], frames: int, resolution: int, size: int = 32
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(visual n (f c) h/2 w in [-1, 1], mel n 1 80 t) in the order of the pairs."""
    for first in range(0, len(pairs), size):
        some = pairs[first : first + size]
        visual = [lower_halves(clips.frames(p.clip, p.picture, p.picture + frames), resolution) for p in some]
        columns = [(p.sound_clip, mel_start(p.sound)) for p in some]
        mel = [clips.mel(clip)[None, :, start : start + mel_width(frames)] for clip, start in columns]
        yield np.stack(visual), np.stack(mel)
