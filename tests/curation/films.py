"""Films as curation sees them, without images: how a head and a mouth move, how a voice sounds, rows of clips."""

from itertools import pairwise

import numpy as np
from scipy.ndimage import gaussian_filter1d

from latentsync.curation import signature
from latentsync.faces.alignment import crop_size
from latentsync.ledger.rows import Row
from tests import fixtures

GRID_HZ = 200


class Film:
    """A person who moves and speaks for `length_s`, all of it by a seed."""

    def __init__(self, seed: int, length_s: float, voice_seed: int | None = None):
        rng = np.random.default_rng([seed, 1])
        n = round(length_s * GRID_HZ)
        slow, quick = (gaussian_filter1d(rng.standard_normal((n, 6)), w * GRID_HZ, axis=0) for w in (0.3, 0.08))
        moves = slow / slow.std(0) + 0.3 * quick / quick.std(0)
        # x and y in pixels of the film, size, roll in radians, yaw and pitch in degrees
        self.head = moves * (9.0, 9.0, 0.02, 0.03, 4.0, 3.0) + (400.0, 300.0, 0.0, 0.0, 2.0, -5.0)
        opening = gaussian_filter1d(rng.standard_normal(n), 0.06 * GRID_HZ)
        self.opening = 0.1 * (opening / opening.std()).clip(0)
        voice = np.random.default_rng([seed if voice_seed is None else voice_seed, 2])
        noise = voice.standard_normal(round(length_s * 16_000))
        loud = gaussian_filter1d(voice.standard_normal((len(noise) // 160, 6)), 6, axis=0)
        loud = np.exp(2 * loud / loud.std(0))
        spectrum, hz = np.fft.rfft(noise), np.fft.rfftfreq(len(noise), 1 / 16_000)
        self.audio = np.zeros(len(noise), np.float32)
        for band, (low, high) in enumerate(pairwise(np.geomspace(200, 3800, 7))):
            part = np.fft.irfft(spectrum * ((hz >= low) & (hz < high)), len(noise))
            gain = np.interp(np.arange(len(noise)) / 160, np.arange(len(loud)), loud[:, band])
            self.audio += (0.01 * part * gain).astype(np.float32)

    def clip(
        self,
        path: str,
        start_s: float,
        length_s: float,
        first_tick: int = 0,
        fps: float = 25.0,
        scale: float = 1.0,
        gain: float = 1.0,
        noise: float = 0.0,
        track: int = 0,
        face: bool = True,
        audio: bool = True,
        **columns,
    ) -> Row:
        """A row for what is seen from `start_s` on, as a clip from `first_tick` on, filmed at `fps`."""
        n = round(25 * length_s)
        rng = np.random.default_rng(n)
        shown = np.rint(np.arange(n) / 25 * fps) / fps  # the frame that a tick shows, seconds from the start
        at = np.rint((start_s + shown) * GRID_HZ).astype(int).clip(0, len(self.head) - 1)
        x, y, size, roll, yaw, pitch = (self.head[at] + noise * rng.standard_normal((n, 6))).T
        width, height = crop_size(64)
        zoom = width / (160 * scale) * np.exp(-size)
        linear = zoom[:, None, None] * np.stack([np.cos(roll), -np.sin(roll), np.sin(roll), np.cos(roll)], 1).reshape(
            n, 2, 2
        )
        shift = np.array([width, height]) / 2 - np.einsum("nij,nj->ni", linear, scale * np.stack([x, y], 1))
        matrices = np.concatenate([linear, shift[..., None]], 2)
        values = {"quality": 50.0, "face_px": 120.0, "resolution": 64} | columns
        values |= {"face_signature": None, "audio_signature": None}
        if face:
            pose = np.stack([yaw, pitch], 1)
            found = signature.face_signature(matrices, pose, self.opening[at], 64, first_tick)
            values["face_signature"] = signature.as_text(found)
        if audio:
            values["audio_signature"] = signature.as_text(self.heard(start_s, n, first_tick, gain))
        return fixtures.clip(path, first_tick, first_tick + n, track, **values)

    def heard(self, start_s: float, n: int, first_tick: int, gain: float) -> np.ndarray:
        """Signature of the audio of n ticks from `start_s` on; what is outside of the film is silent."""
        around = signature.AROUND_TICKS * 640
        padded = np.pad(self.audio, around)
        first = round(start_s * 16_000)
        return signature.audio_signature(gain * padded[first : first + n * 640 + 2 * around], first_tick)
