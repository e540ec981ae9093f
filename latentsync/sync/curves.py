"""How far video and audio are apart: one curve over shifts, one offset, one confidence, for every scorer.

Convention (the whole project): an offset of +k frames means that the video is k frames of 1/25 s late against the
audio, so the audio of tick t is at tick t - k. A curve holds one number for each shift
-max_shift..max_shift, higher is better; its maximum is the confidence, the position of the maximum is the offset.

Axes: n ticks of a clip (25 a second), s shifts, v windows, d embedding.
"""

import numpy as np

from latentsync.timing import SAMPLE_RATE_HZ, SAMPLES_PER_TICK

ENVELOPE_WINDOW = 1600  # samples, 100 ms Hann: about as slow as a jaw
SPEECH_BAND_HZ = (150.0, 4000.0)
MIN_OVERLAP_TICKS = 12  # half a second; a shorter overlap is no evidence, its value in the curve is 0
STILL_MOUTH = 0.01  # standard deviation of the measured opening of a still mouth, in inter-ocular distances
SILENCE = 1e-4  # standard deviation of the envelope of audio at the 16-bit noise floor
INDEPENDENT_PER_S = 11.0  # independent observations in a second of speech, measured; see envelope_curve
DISTANCE_EPSILON = 1e-6  # torch.nn.functional.pairwise_distance adds it to every difference


def speech_envelope(samples: np.ndarray, n: int) -> np.ndarray:
    """Loudness (n,) of the speech band at n ticks: the square root of the amplitude, in a window centred on each tick.

    `samples` (n * 640 + 1600,) at 16 kHz begins 800 samples before tick 0. The square root is between amplitude,
    which follows only the loudest vowels, and decibels, which follow the noise in pauses; it separated best.
    """
    windows = np.lib.stride_tricks.sliding_window_view(samples, ENVELOPE_WINDOW)[::SAMPLES_PER_TICK][:n]
    assert len(windows) == n, (samples.shape, n)
    spectrum = np.abs(np.fft.rfft(windows * np.hanning(ENVELOPE_WINDOW), axis=1)) / ENVELOPE_WINDOW
    band_hz = np.fft.rfftfreq(ENVELOPE_WINDOW, 1 / SAMPLE_RATE_HZ)
    in_band = (band_hz >= SPEECH_BAND_HZ[0]) & (band_hz <= SPEECH_BAND_HZ[1])
    return (spectrum[:, in_band] ** 2).sum(axis=1) ** 0.25


def envelope_curve(opening: np.ndarray, envelope: np.ndarray, max_shift: int) -> np.ndarray:
    """Evidence (2 * max_shift + 1,) that the mouth moves with the audio, in standard deviations of chance, per shift.

    Args:
        opening: mouth opening (n,) in inter-ocular distances, NaN where no face was found.
        envelope: loudness (n + 2 * max_shift,), beginning max_shift ticks before the clip, NaN outside the recording.

    For each shift, over the ticks where both are known: the correlation of the levels and the correlation of the slopes
    (difference over two ticks) are averaged, so that neither a slow drift nor landmark jitter alone looks like a match;
    Fisher's z of that times sqrt(independent observations - 3) has unit variance over pairs of unrelated speech
    (INDEPENDENT_PER_S is set so). The largest of 31 shifts of unrelated speech, synthetic, was above 2 in half of all
    clips, above 3.3 in a twentieth and above 4.1 in a hundredth; the right audio reaches 6 in 2 s and 10 in 4 s where
    the opening is measured cleanly. A longer overlap counts for more, so the ends of the curve are not favoured.

    Limits: loudness says little about lips on real speech. 21 clips of 3 to 5 s from 9 public videos scored 0.9 to 2.8
    with their own audio, 1.6 (median) to 3.0 (one in a hundred) with that of others: a high value is evidence, a low
    one is not. A real run should not reject by it, and apply offsets only far above chance.
    """
    n = len(opening)
    assert len(envelope) == n + 2 * max_shift, (len(envelope), n, max_shift)
    curve = np.zeros(2 * max_shift + 1)
    for shift in range(-max_shift, max_shift + 1):
        # Tick t of the video shows the audio of tick t - shift.
        shifted = envelope[max_shift - shift : max_shift - shift + n]
        level, overlap = _correlation(opening, shifted)
        slope, _ = _correlation(opening[2:] - opening[:-2], shifted[2:] - shifted[:-2])
        observations = overlap / 25 * INDEPENDENT_PER_S
        if overlap >= MIN_OVERLAP_TICKS:
            agreement = np.clip((level + slope) / 2, -0.999, 0.999)
            curve[shift + max_shift] = np.arctanh(agreement) * np.sqrt(observations - 3)
    return curve


def _correlation(opening: np.ndarray, envelope: np.ndarray) -> tuple[float, int]:
    """Correlation over the ticks where both are known, shrunk where either hardly moves, and their number."""
    known = np.isfinite(opening) & np.isfinite(envelope)
    overlap = int(known.sum())
    if overlap < 3:
        return 0.0, overlap
    x, y = opening[known] - opening[known].mean(), envelope[known] - envelope[known].mean()
    spread = np.sqrt((x @ x / overlap + STILL_MOUTH**2) * (y @ y / overlap + SILENCE**2))
    return float(x @ y / overlap / spread), overlap


def distance_curve(
    video: np.ndarray, audio: np.ndarray, max_shift: int, counted: np.ndarray | None = None
) -> np.ndarray:
    """SyncNet's evidence (2 * max_shift + 1,): median minus mean distance for each shift; its maximum is "Sync-C".

    Mean over windows of the distance between embeddings (v, d) of the video and of the shifted audio.
    As in the original, the audio is padded with zero embeddings whose distances count in the mean.
    `counted` bool (v,): the windows that count; None: all.
    """
    means = mean_distances(video, audio, max_shift, counted)
    return np.median(means) - means


def mean_distances(
    video: np.ndarray, audio: np.ndarray, max_shift: int, counted: np.ndarray | None = None
) -> np.ndarray:
    """Mean distance (2 * max_shift + 1,) for the offsets -max_shift..max_shift; the original lists them in reverse."""
    each = distances(video, audio, max_shift)
    return (each if counted is None or counted.all() else each[:, counted]).mean(axis=1)


def distances(video: np.ndarray, audio: np.ndarray, max_shift: int) -> np.ndarray:
    """Distance (s, v) of each window of the video to the audio at each shift, to zeros where the audio has ended."""
    assert video.shape == audio.shape, (video.shape, audio.shape)
    padded = np.pad(audio, ((max_shift, max_shift), (0, 0)))
    windows = len(video)
    return np.array(
        [
            np.linalg.norm(video - padded[max_shift - shift : max_shift - shift + windows] + DISTANCE_EPSILON, axis=1)
            for shift in range(-max_shift, max_shift + 1)
        ]
    )


def similarity_curve(
    video: np.ndarray, audio: np.ndarray, max_shift: int, counted: np.ndarray | None = None
) -> np.ndarray:
    """StableSyncNet's evidence (2 * max_shift + 1,): mean cosine minus the median over shifts.

    Args:
        video: unit vectors (v, d) of the windows of the video.
        audio: unit vectors (v + 2 * max_shift, d) of those of the audio, beginning max_shift frames before the video.
        max_shift: frames.
        counted: bool (v,), the windows of the video that count; None: all.

    Cosines are in 0..1, and so is their maximum, the confidence. All shifts use the same number of windows.
    """
    windows = len(video)
    assert len(audio) == windows + 2 * max_shift, (len(audio), windows, max_shift)
    cosines = video @ audio.T
    used = slice(None) if counted is None or counted.all() else counted
    # Window v of the video goes with the audio of frame v - shift.
    shifts = range(-max_shift, max_shift + 1)
    means = np.array([np.diagonal(cosines, max_shift - shift)[:windows][used].mean() for shift in shifts])
    return means - np.median(means)


def peak(curve: np.ndarray) -> tuple[int, float]:
    """Offset in frames and confidence of a curve; of equal maxima the offset nearest to zero wins."""
    max_shift = len(curve) // 2
    offsets = np.arange(-max_shift, max_shift + 1)
    best = min(np.flatnonzero(curve == curve.max()), key=lambda i: (abs(offsets[i]), offsets[i]))
    return int(offsets[best]), float(curve[best])
