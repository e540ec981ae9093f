"""Where an audio track may hold a voice, hop by hop, by WebRTC's voice activity detector: mixtures over six bands.

It takes music, tones and loud noise for voices; what share of a clip is speech, audio/speech.py measures.
"""

import numpy as np
from jaxtyping import Bool, Float

from latentsync.timing import SAMPLE_RATE_HZ

MODE = 2  # of 0 (lenient) to 3; loud broadband noise counts as voice in every mode


def voiced(samples: Float[np.ndarray, " n"], frame_samples: int) -> Bool[np.ndarray, " f"]:
    """Whether each whole frame of 10, 20 or 30 ms holds a voice, of samples (n,) in [-1, 1] at 16 kHz.

    A new detector each time, since it adapts to its input.
    """
    import webrtcvad

    detector = webrtcvad.Vad(MODE)
    starts = range(0, len(samples) - frame_samples + 1, frame_samples)
    frames = (np.round(np.clip(samples[i : i + frame_samples], -1, 1) * 32767).astype("<i2") for i in starts)
    return np.array([detector.is_speech(frame.tobytes(), SAMPLE_RATE_HZ) for frame in frames], bool)
