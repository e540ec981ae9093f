"""How much of an audio track is speech rather than music, noise or silence, by Silero VAD.

Of its package only the network is read: importing it takes seconds, since it imports torch, and limits torch to one
thread. The variant is the one that takes many frames in one call; its probabilities are those of the others.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

NETWORK = "data/silero_vad_16k_sequence.onnx"
FRAME_SAMPLES = 512  # 32 ms
CONTEXT_SAMPLES = 64  # of the frame before, which the network is given, too
FRAMES_AT_ONCE = 512  # 16 s: what the network holds does not grow with the length of the audio
LIKELY = 0.5  # probability from which a frame counts as speech; from 0.3 or 0.7 the shares of clips differ by 0.04
# Frames as loud as the loudest 5 % get this level (rms, -20 dB of full scale): without it, the share of a clip that is
# turned down by 40 dB drops by up to 0.6.
LOUD_PERCENTILE, LOUD = 95, 0.1


class Speech:
    """Tells speech from music, noise and silence; opened once, it remembers nothing from call to call."""

    def __init__(self) -> None:
        import onnxruntime

        package = find_spec("silero_vad")
        if package is None or package.origin is None:
            raise ModuleNotFoundError("No module named 'silero_vad'", name="silero_vad")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors only
        file = Path(package.origin).parent / NETWORK
        self.network: Any = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def share(self, samples: Float[np.ndarray, " n"]) -> float:
        """Share of 32 ms frames with speech, 0..1, of samples (n,) at 16 kHz at any level; 0 without samples."""
        if not len(samples):
            return 0.0
        frames = _frames(samples)[:, CONTEXT_SAMPLES:]
        power = np.einsum("ij,ij->i", frames, frames, dtype=np.float64) / FRAME_SAMPLES  # squares are never held
        loud = np.sqrt(np.percentile(power, LOUD_PERCENTILE))
        gain = LOUD / loud if loud > 0 else 1.0
        return float((self.probabilities(samples * np.float32(gain)) >= LIKELY).mean())

    def probabilities(self, samples: Float[np.ndarray, " n"]) -> Float[np.ndarray, " f"]:
        """Probability of speech, float32 (f,) in 0..1, of each frame of samples (n,) in [-1, 1] at 16 kHz.

        The last frame is filled with zeros.
        """
        frames = _frames(samples)
        hidden = cell = np.zeros((1, 1, 128), np.float32)
        found = [np.zeros(0, np.float32)]
        for first in range(0, len(frames), FRAMES_AT_ONCE):
            block = np.ascontiguousarray(frames[first : first + FRAMES_AT_ONCE])
            likely, hidden, cell = self.network.run(
                ["speech_probs", "hn", "cn"], {"input": block, "h": hidden, "c": cell}
            )
            found.append(likely)
        return np.concatenate(found)


def _frames(samples: np.ndarray) -> np.ndarray:
    """Each frame after the last samples of the one before: float32 (f, CONTEXT_SAMPLES + FRAME_SAMPLES), a view."""
    n_frames = -(-len(samples) // FRAME_SAMPLES)
    padded = np.zeros(CONTEXT_SAMPLES + max(1, n_frames) * FRAME_SAMPLES, np.float32)
    padded[CONTEXT_SAMPLES : CONTEXT_SAMPLES + len(samples)] = samples
    windows = np.lib.stride_tricks.sliding_window_view(padded, CONTEXT_SAMPLES + FRAME_SAMPLES)
    return windows[::FRAME_SAMPLES][:n_frames]
