"""What the U-Net trains on: a window of a clip, another window of it as reference, and the sound of the first.

Axes: f frames, c channels of the latent, h w latent cells, s audio tokens, d their width, t mel columns.
"""

import numpy as np

from latentsync.audio.whisper import window_tokens
from latentsync.timing import mel_start, mel_width
from latentsync.training.clips import FeatureStore


def draw_windows(n_frames: int, frames: int, rng: np.random.Generator) -> tuple[int, int]:
    """Starts of the window to predict and of its reference, which never overlap; the clip has at least 2 frames' worth.

    Uniform over the windows that leave room for a reference, then uniform over their references.
    """
    assert n_frames >= 2 * frames, (n_frames, frames)
    starts = np.arange(n_frames - frames + 1)
    allowed = starts[(starts >= frames) | (starts <= n_frames - 2 * frames)]
    start = int(rng.choice(allowed))
    reference = int(rng.choice(starts[np.abs(starts - start) >= frames]))
    return start, reference


def window(features: FeatureStore, index: int, start: int, reference: int, frames: int) -> dict[str, np.ndarray]:
    """Arrays of one item, float32: face, masked, reference (moments f 2c h w), audio (f s d), mel (1 80 t)."""

    def moments(name: str, first: int) -> np.ndarray:
        return features.window(index, name, first, first + frames).astype(np.float32)

    whisper = features.array(index, "whisper")
    first = mel_start(start)
    return {
        "face": moments("face_moments", start),
        "masked": moments("masked_moments", start),
        "reference": moments("face_moments", reference),
        "audio": np.asarray(window_tokens(whisper, start, frames), np.float32),
        "mel": features.array(index, "mel")[None, :, first : first + mel_width(frames)],
    }
