"""Sync scorers: one protocol, one table of them, and everything the rest of the project knows about each.

A scorer is opened once, with its weights and the largest shift. It is then called with a `Track`, either a curated clip
or a written video, and returns a function: offset applied to the audio, frames -> curve float (2 * max_shift + 1,), one
value per shift, higher is better (conventions: sync/curves.py). Video is embedded once per track, audio once per call.

To add a scorer: a function that opens it (here or in a file of its own), an entry in SCORERS, its name in
config.SyncScorer, and its weights in registry.toml. No torch is imported here before a network is opened.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from latentsync.sync import curves
from latentsync.timing import shifted_samples_of
from latentsync.weights import registry

CurveAt = Callable[[int], np.ndarray]


@dataclass(frozen=True)
class Track:
    """A face and the audio around it, 25 ticks per second. Tick 0 is the first of the track, sample 0 its start."""

    n_ticks: int
    samples: Callable[[int, int], np.ndarray]
    """[start, stop) -> float32 (stop - start,) at 16 kHz; silence outside the recording."""
    recorded: tuple[int, int]
    """Ticks [first, stop) that the recording covers; it may reach beyond the track."""
    opening: np.ndarray | None = None
    """float64 (n_ticks,), mouth opening in inter-ocular distances, NaN where it was not measured."""
    crops: np.ndarray | None = None
    """uint8 (n_ticks, R, R, 3), RGB, aligned faces."""
    has_face: np.ndarray | None = None
    """bool (n_ticks,): False where the crop shows no face. None: all of them do."""

    def audio(self, first: int, stop: int, offset_frames: int, margin: int = 0) -> np.ndarray:
        """Samples of the ticks [first, stop), read with an offset applied, with `margin` more samples at both ends."""
        start, end = shifted_samples_of(first, stop, offset_frames)
        return self.samples(start - margin, end + margin)

    def whole_windows(self, n: int, frames: int) -> np.ndarray:
        """bool (n,): whether all crops of window v, v..v+frames-1, show a face; empty where n is below 1."""
        has_face = np.ones(self.n_ticks, bool) if self.has_face is None else self.has_face
        return np.array([has_face[start : start + frames].all() for start in range(n)], bool)


@runtime_checkable
class Scorer(Protocol):
    """An opened scorer."""

    def __call__(self, track: Track) -> CurveAt:
        """The curve of a track at each offset; zeros where the track is too short to say anything."""
        ...


@dataclass(frozen=True)
class Entry:
    """What a scorer is, for every part of the project."""

    open: Callable[[Any, int], Scorer]
    """(path of the weights, or None if it needs none; max_shift in frames) -> scorer."""
    weights: str | None
    """Name in registry.toml; None: it needs none."""
    reads: Literal["opening", "crops"]
    """The field of `Track` that it reads besides the audio."""
    scale: str
    """What its confidence means."""
    stand_in: str | None
    """Ends the sentence "sync was scored by ..." for a stand-in of the published scorer; None: it is not one."""
    gpu: bool
    """Whether it uses a GPU where there is one."""


def open_scorer(name: str, weights: str | None, max_shift: int, key: str) -> Scorer:
    """The scorer that the configuration key `key` names; `weights`: a path, or None for the weights folder.

    Raises:
        ValueError: its weights are missing or belong to another network.
    """
    entry = SCORERS[name]
    path = registry.find(entry.weights, weights, f"{key}: {name}") if entry.weights else None
    return entry.open(path, max_shift)


def _open_envelope(_: Path | None, max_shift: int) -> Scorer:
    """Mouth opening against loudness; reads the audio around the track up to the ends of the recording."""

    def scorer(track: Track) -> CurveAt:
        first, stop = -max_shift, track.n_ticks + max_shift
        opening = track.opening
        assert opening is not None

        def curve_at(offset: int) -> np.ndarray:
            samples = track.audio(first, stop, offset, curves.ENVELOPE_WINDOW // 2)
            envelope = curves.speech_envelope(samples, stop - first)
            ticks = np.arange(first, stop) - offset
            envelope[(ticks < track.recorded[0]) | (ticks >= track.recorded[1])] = np.nan
            return curves.envelope_curve(opening, envelope, max_shift)

        return curve_at

    return scorer


def _open_syncnet_v2(weights: Path, max_shift: int) -> Scorer:
    """SyncNet of Chung and Zisserman on the aligned crop resized to 224 px: no second face detection, no JPEGs."""
    import cv2

    from latentsync.audio.mfcc import mfcc
    from latentsync.models import syncnet_v2

    net = syncnet_v2.load(weights).to(_device())
    size = (syncnet_v2.SIDE_PX, syncnet_v2.SIDE_PX)

    def scorer(track: Track) -> CurveAt:
        n = track.n_ticks - syncnet_v2.FRAMES  # as published, one window fewer than would be possible
        whole = track.whole_windows(n, syncnet_v2.FRAMES)
        if not whole.any():
            return _no_evidence(max_shift)
        assert track.crops is not None
        bgr = np.stack([cv2.resize(rgb, size)[..., ::-1] for rgb in track.crops])
        video = syncnet_v2.embed_frames(net, bgr, n)

        def curve_at(offset: int) -> np.ndarray:
            samples = track.audio(0, track.n_ticks, offset)
            audio = syncnet_v2.embed_audio(net, mfcc(np.round(samples * 32768)), n)
            return curves.distance_curve(video, audio, max_shift, whole)

        return curve_at

    return scorer


def _open_stable_syncnet(weights: Path, max_shift: int) -> Scorer:
    """A StableSyncNet. Unlike syncnet_v2 it reads the audio around the track, so every shift rests on all windows.

    Of the demo's: 0.48 to 0.82 for talkers it had not seen, up to 0.32 for other words.
    """
    import torch

    from latentsync.audio.mel import syncnet_mel
    from latentsync.faces.crop import lower_halves
    from latentsync.models import syncnet

    net, shape = syncnet.load(weights)
    net = net.to(_device())

    def scorer(track: Track) -> CurveAt:
        n = track.n_ticks - shape.frames + 1
        whole = track.whole_windows(n, shape.frames)
        if not whole.any():
            return _no_evidence(max_shift)
        assert track.crops is not None
        halves = torch.from_numpy(lower_halves(track.crops, shape.resolution)).unflatten(0, (track.n_ticks, 3))
        video = syncnet.embed_frames(net, halves, shape.frames).cpu().numpy()

        def curve_at(offset: int) -> np.ndarray:
            # One tick more: a window of mel is a little longer than its frames.
            mel = torch.from_numpy(syncnet_mel(track.audio(-max_shift, track.n_ticks + max_shift + 1, offset)))
            audio = syncnet.embed_audio(net, mel, n + 2 * max_shift, shape.frames)
            return curves.similarity_curve(video, audio.cpu().numpy(), max_shift, whole)

        return curve_at

    return scorer


def _no_evidence(max_shift: int) -> CurveAt:
    return lambda offset: np.zeros(2 * max_shift + 1)


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


SCORERS = {
    "syncnet_v2": Entry(
        open=_open_syncnet_v2,
        weights="syncnet_v2",
        reads="crops",
        scale='median minus smallest distance, the published "Sync-C"; good clips have 3 and more',
        stand_in=None,
        gpu=True,
    ),
    "stable_syncnet": Entry(
        open=_open_stable_syncnet,
        weights="stable_syncnet",
        reads="crops",
        scale="largest mean cosine minus the median over shifts, of a network of train_syncnet; 0 to 1",
        stand_in=None,
        gpu=True,
    ),
    "envelope": Entry(
        open=_open_envelope,
        weights=None,
        reads="opening",
        scale="standard deviations above the correlation of unrelated audio, which rarely exceeds 4",
        stand_in="the correlation of mouth opening and loudness, not by SyncNet",
        gpu=False,
    ),
}
