"""What each frame of a result shows: which source frame, whose mouth is redrawn where, and to which audio.

Axes: n source frames, m written frames, c closed mouths.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from latentsync.config import Generate
from latentsync.faces import alignment
from latentsync.faces.tracking import Track
from latentsync.generation import gates, silence, timeline
from latentsync.timing import SAMPLE_RATE_HZ


@dataclass(frozen=True)
class Voice:
    """One face, and what it is to say."""

    labels: np.ndarray
    """int64 [n], for each source frame the index of the track to redraw, or a key of gates.REASONS."""
    samples: np.ndarray
    """float32 [m], 16 kHz mono, from the result's time zero."""


@dataclass(frozen=True)
class VoicePlan:
    """What a voice does in each written frame."""

    labels: np.ndarray
    """int64 [m], as Voice.labels."""
    matrices: np.ndarray
    """float64 [m, 2, 3], pixels of the file -> crop pixels; NaN where nothing is generated."""
    opacity: np.ndarray
    """float32 [m], 0..1: how much of the generated mouth is pasted."""
    closed: np.ndarray
    """float32 [m, c], 0..1: how much of each is pasted, over the generated mouth."""
    samples: np.ndarray
    """float32 [m], 16 kHz mono, as long as the result."""
    closed_frames: np.ndarray
    """int64 [c], source frames whose closed mouths are shown in pauses."""
    closed_matrices: np.ndarray
    """float64 [c, 2, 3], pixels of the file -> crop pixels at silence.side(resolution)."""
    n_open: int
    """silence.Closing.n_open."""


@dataclass(frozen=True)
class Plan:
    """What each written frame shows."""

    order: np.ndarray
    """int64 [m], source frame."""
    times_s: np.ndarray
    """float64 [m]."""
    end_s: float
    voices: Sequence[VoicePlan]


def make_plan(
    times_s: np.ndarray,
    end_s: float,
    tracks: Sequence[Track],
    voices: Sequence[Voice],
    wanted_s: float,
    resolution: int,
    to_displayed: np.ndarray,
    cfg: Generate,
) -> Plan:
    """What all written frames show; `times_s` and `end_s` are the source's, `to_displayed` its file -> display map."""
    order, starts_s, stop_s = timeline.lay_out(times_s, end_s, wanted_s, cfg.loop)
    n_samples = round(stop_s * SAMPLE_RATE_HZ)
    shots = gates.shots(tracks, len(times_s))[order]
    plans = []

    def matrix(index: int, frame: int, side: int = resolution) -> np.ndarray:
        return alignment.similarity(tracks[index].anchors[frame - tracks[index].start], side) @ to_displayed

    for voice in voices:
        matrices = np.full((len(times_s), 2, 3), np.nan)
        for index, track in enumerate(tracks):
            for frame in (np.flatnonzero(voice.labels[track.start : track.stop] == index) + track.start).tolist():
                matrices[frame] = matrix(index, frame)
        # After the end of the audio comes silence; repeating its last features would keep the mouth at the last vowel.
        samples = voice.samples[:n_samples]
        if len(samples) < n_samples:
            samples = np.pad(samples, (0, n_samples - len(samples)))
        labels = voice.labels[order]
        closing = silence.no_closing(len(order))
        if cfg.silence is not None:
            share = silence.closed_share(silence.pauses(samples), starts_s)
            if cfg.silence == "close":
                closing = silence.plan_closing(tracks, labels, order, starts_s, share, cfg)
            else:
                labels = np.where((labels >= 0) & (share == 1), gates.SILENCE, labels)
        shown = np.where((labels >= 0)[:, None, None], matrices[order], np.nan)
        closed = [
            matrix(*pair, silence.side(resolution))
            for pair in zip(closing.tracks.tolist(), closing.frames.tolist(), strict=True)
        ]
        plans.append(
            VoicePlan(
                labels,
                shown,
                *closing.opacities(gates.opacity(labels, shots)),
                samples,
                closing.frames,
                np.array(closed).reshape(-1, 2, 3),
                closing.n_open,
            )
        )
    return Plan(order, starts_s, stop_s, plans)
