"""How much later the audio is to be heard than its file says: given, or measured on the video's own audio."""

from collections.abc import Sequence

import numpy as np

from latentsync.config import ScoreSync, SelectClips
from latentsync.faces.tracking import Track
from latentsync.generation.audio import DrivingAudio
from latentsync.sync import curves, scorers
from latentsync.timing import SAMPLES_PER_TICK, TICKS_PER_S

# On unrelated speech one clip in a hundred scores 4.1, on real speech with its own audio most score below 3
# (sync/curves.py): only evidence far above chance moves anything.
MIN_CONFIDENCE = 6.0


def own_offset(
    audio: DrivingAudio, tracks: Sequence[Track], labels: np.ndarray, times_s: np.ndarray
) -> tuple[float, float]:
    """How much later a video's own audio should be heard to fit its mouths, seconds, and the confidence in that.

    What score_sync says with the scorer `envelope`, which needs no weights: the opening of the mouth against loudness.
    0 s where the confidence is below MIN_CONFIDENCE or the offset beyond SelectClips.max_offset_frames.

    Args:
        audio: of the video itself. Audio that was not recorded with it says nothing about its delay.
        tracks: faces of the video.
        labels: int64 [n], the track that speaks in each source frame; below 0: none.
        times_s: float64 [n], when each source frame is shown.
    """
    opening = np.full(len(times_s), np.nan)
    for index, track in enumerate(tracks):
        here = np.flatnonzero(labels[track.start : track.stop] == index)
        opening[track.start + here] = track.mouth_opening[here]
    n_ticks = int(times_s[-1] * TICKS_PER_S) + 1
    frames = np.searchsorted((times_s[1:] + times_s[:-1]) / 2, np.arange(n_ticks) / TICKS_PER_S - 1e-6)
    samples, max_shift = audio.for_model, ScoreSync().max_shift_frames

    def read(start: int, stop: int) -> np.ndarray:
        inside = samples[max(0, start) : max(0, stop)]
        before = max(0, min(stop, 0) - start)
        return np.pad(inside, (before, stop - start - before - len(inside)))

    recorded = 0, len(samples) // SAMPLES_PER_TICK
    scorer = scorers.open_scorer("envelope", None, max_shift, "generate.audio_offset_ms")
    curve = scorer(scorers.Track(n_ticks, read, recorded, opening[frames]))(0)
    offset_frames, confidence = curves.peak(curve)
    limit = SelectClips().max_offset_frames or max_shift
    sure = confidence >= MIN_CONFIDENCE and abs(offset_frames) <= limit
    return (offset_frames / TICKS_PER_S if sure else 0.0), confidence
