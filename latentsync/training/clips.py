"""Clip rows -> arrays for training: decoded crops, shifted audio, cached features.

Convention: indices are clip frames at 25 per second, frame 0 is tick `start_tick` of the source, ranges are half-open.
The audio of frame k is taken at k - offset_frames: offset_frames > 0 means that the video is late.
f frames, h w pixels, n audio samples, t mel columns.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from safetensors import safe_open

from latentsync.ledger.rows import Row
from latentsync.timing import shifted_samples_of

CACHE_BYTES = 2 << 30


def require_frames(rows: Sequence[Row], min_frames: int, *, at_least: int, what: str, fix: str) -> list[Row]:
    """The rows that are long enough.

    Raises:
        ValueError: fewer than `at_least` are; says how many there are, what is needed, and which key helps.
    """
    lengths = [row["end_tick"] - row["start_tick"] for row in rows]
    usable = [row for row, length in zip(rows, lengths, strict=True) if length >= min_frames]
    if len(usable) < at_least:
        raise ValueError(
            f"Too little data for {what}: {len(usable)} of {len(rows)} clips have the {min_frames} frames it needs "
            f"(the longest has {max(lengths, default=0)}), and it takes at least {at_least} such clips; {fix}."
        )
    return usable


def sized(rows: Sequence[Row], resolution: int | None) -> list[Row]:
    """The rows with crops shrunk to a side of `resolution` pixels; None: as they are."""
    return [row if resolution is None else row | {"resolution": resolution} for row in rows]


def content_key(path: Path) -> str:
    """A cheap fingerprint of a file: size, first and last 64 KiB (one of them holds the sample sizes of an mp4)."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(1 << 16)
        file.seek(max(0, size - (1 << 16)))
        tail = file.read()
    return hashlib.sha256(b"%d:" % size + head + tail).hexdigest()[:16]


class ByteCache:
    """Least recently used arrays up to a number of bytes; safe for the threads that prepare batches ahead."""

    def __init__(self, max_bytes: int):
        self.max_bytes, self.n_bytes = max_bytes, 0
        self._arrays: OrderedDict[Any, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Any, make: Callable[[], np.ndarray]) -> np.ndarray:
        """The array under this key, made if it is not there; read-only, since it is shared."""
        with self._lock:
            if key in self._arrays:
                self._arrays.move_to_end(key)
                return self._arrays[key]
        array = make()  # without the lock, so that threads decode at once; two that want the same make it twice
        array.flags.writeable = False
        with self._lock:
            if key not in self._arrays:
                self.n_bytes += array.nbytes
            self._arrays[key] = array
            while self.n_bytes > self.max_bytes and len(self._arrays) > 1:
                self.n_bytes -= self._arrays.popitem(last=False)[1].nbytes
        return array


class ClipStore:
    """The clips of a ledger as arrays. Whole clips are decoded and kept where all of them fit into the cache;
    otherwise only the frames asked for are decoded, and the latest are kept. Frames are as large as `resolution` of
    their row says: larger crops are shrunk."""

    def __init__(self, rows: Sequence[Row], root: Path, cache_bytes: int = CACHE_BYTES):
        self.rows, self.root = list(rows), Path(root)
        self._cache = ByteCache(cache_bytes)
        self._whole = sum(self.n_frames(i) * row["resolution"] ** 2 * 3 for i, row in enumerate(rows)) <= cache_bytes

    def __len__(self) -> int:
        return len(self.rows)

    def n_frames(self, index: int) -> int:
        """Frames of a clip."""
        return self.rows[index]["end_tick"] - self.rows[index]["start_tick"]

    def frames(self, index: int, start: int, stop: int) -> np.ndarray:
        """Crop frames [start, stop): uint8 (f, R, R, 3), read-only."""
        assert 0 <= start < stop <= self.n_frames(index), (index, start, stop)
        first, last = (0, self.n_frames(index)) if self._whole else (start, stop)
        array = self._cache.get(("frames", index, first, last), lambda: self._read_frames(index, first, last))
        return array[start - first : stop - first]

    def _read_frames(self, index: int, start: int, stop: int) -> np.ndarray:
        from latentsync.media.read import read_clip

        path = self.root / self.rows[index]["crop_file"]
        array = np.asarray(read_clip(path, start, stop))
        if len(array) != stop - start:
            raise ValueError(
                f"{path} gave {len(array)} of the frames {start} to {stop}; it does not fit its ledger: delete it and "
                "run align_faces again."
            )
        side = self.rows[index]["resolution"]
        if array.shape[1] < side:
            raise ValueError(
                f"The crops are {array.shape[1]} px wide and {side} px are asked for; raise align_faces.resolution."
            )
        if array.shape[1] == side:
            return array
        return np.stack([cv2.resize(frame, (side, side), interpolation=cv2.INTER_AREA) for frame in array])

    def audio(self, index: int) -> np.ndarray:
        """The clip's audio, offset applied: float32 (n,), 640 samples a frame, silence outside the file."""
        from latentsync.media.audio import read_flac

        row = self.rows[index]
        start, stop = shifted_samples_of(row["start_tick"], row["end_tick"], row["offset_frames"])
        path = self.root / row["audio_file"]
        return self._cache.get(("audio", index), lambda: np.array(read_flac(path, start, stop), dtype=np.float32))

    def mel(self, index: int) -> np.ndarray:
        """SyncNet's mel of the whole clip: float32 (80, t), 80 columns a second."""
        from latentsync.audio.mel import syncnet_mel

        return self._cache.get(("mel", index), lambda: np.array(syncnet_mel(self.audio(index)), dtype=np.float32))

    def fingerprint_parts(self) -> list[list[Any]]:
        """What training on these clips depends on, for a fingerprint: ids, content of the files, offsets, sizes."""
        keys = {name: content_key(self.root / name) for name in {row["audio_file"] for row in self.rows}}
        return [
            [
                row["id"],
                content_key(self.root / row["crop_file"]),
                keys[row["audio_file"]],
                row["offset_frames"],
                row["resolution"],
            ]
            for row in self.rows
        ]


class FeatureStore:
    """What extract_features wrote, one safetensors file per clip; windows are read from it without loading the rest."""

    def __init__(self, rows: Sequence[Row], root: Path, cache_bytes: int = CACHE_BYTES):
        self.rows, self.root = list(rows), Path(root)
        self._cache = ByteCache(cache_bytes)
        self._whole = sum((self.root / row["features_file"]).stat().st_size for row in self.rows) <= cache_bytes

    def __len__(self) -> int:
        return len(self.rows)

    def n_frames(self, index: int) -> int:
        """Frames of a clip."""
        return self.rows[index]["end_tick"] - self.rows[index]["start_tick"]

    def window(self, index: int, name: str, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop) of an array of a clip: `face_moments`, `masked_moments`, `whisper` ..., read-only."""
        if self._whole:
            return self.array(index, name)[start:stop]
        with safe_open(self.root / self.rows[index]["features_file"], framework="numpy") as file:
            return file.get_slice(name)[start:stop]

    def array(self, index: int, name: str) -> np.ndarray:
        """A whole array of a clip, e.g. `mel` (80, t), read-only."""
        return self._cache.get((index, name), lambda: self._read(index, name))

    def _read(self, index: int, name: str) -> np.ndarray:
        with safe_open(self.root / self.rows[index]["features_file"], framework="numpy") as file:
            return file.get_tensor(name)

    def fingerprint_parts(self) -> list[str]:
        """For a fingerprint: the file names, which carry a hash of everything that went into them."""
        return [row["features_file"] for row in self.rows]
