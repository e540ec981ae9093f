"""Procedural faces that speak: clip rows with crops and sound as select_clips would hand them on, and their truth.

A face is an ellipse with eyes and a mouth that opens with the loudness of a syllable tune; colours and shape differ by
identity. Nothing here looks like a person, but image and sound belong together and the truth is known.
"""

from pathlib import Path

import numpy as np

from latentsync.ledger.files import write_ledger
from latentsync.media.write import VideoWriter, write_flac
from latentsync.timing import SAMPLE_RATE_HZ, SAMPLES_PER_TICK
from tests import fixtures

MARGIN_TICKS = 20  # sound before and after the clip, so that offsets have something to take


def opening_tune(n_ticks: int, rng: np.random.Generator) -> np.ndarray:
    """Mouth opening 0..1 at 25 Hz: syllables of 3 to 6 a second of uneven loudness, with pauses."""
    time = np.arange(n_ticks)
    opening = np.zeros(n_ticks)
    tick = rng.uniform(0, 6)
    while tick < n_ticks:
        length = rng.uniform(4, 8)
        if rng.random() > 0.15:
            bump = np.clip(1 - ((time - tick - length / 2) / (length / 2)) ** 2, 0, 1)
            opening = np.maximum(opening, rng.uniform(0.35, 1) * bump)
        tick += length
    return opening


def speech(opening: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Sound whose loudness follows the opening: a buzz of a dozen harmonics and some noise, float32."""
    n = len(opening) * SAMPLES_PER_TICK
    loudness = np.interp(np.arange(n) / SAMPLES_PER_TICK, np.arange(len(opening)), opening)
    phase = 2 * np.pi * np.cumsum(rng.uniform(100, 220) * (1 + 0.2 * loudness)) / SAMPLE_RATE_HZ
    buzz = sum(np.sin(harmonic * phase) / harmonic for harmonic in range(1, 13))
    return (0.15 * loudness * (buzz + 0.2 * rng.normal(size=n)) + 0.001 * rng.normal(size=n)).astype(np.float32)


def face(opening: float, identity: int, shift: tuple[float, float], size: int) -> np.ndarray:
    """One image, uint8 (size, size, 3)."""
    rng = np.random.default_rng([77, identity])
    background, skin, lips, eyes = rng.uniform(20, 235, 3), rng.uniform([120, 80, 60], [240, 200, 180]), *rng.uniform(
        [[120, 30, 40], [10, 10, 10]], [[220, 100, 110], [90, 90, 90]]
    )  # fmt: skip
    wide, tall, mouth_wide = rng.uniform(0.34, 0.44), rng.uniform(0.44, 0.5), rng.uniform(0.12, 0.18)
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    x, y = x - 0.5 - shift[0], y - 0.45 - shift[1]

    def ellipse(cx: float, cy: float, rx: float, ry: float) -> np.ndarray:
        return np.clip((1 - np.hypot((x - cx) / rx, (y - cy) / ry)) * min(rx, ry) * size + 0.5, 0, 1)[..., None]

    image = np.broadcast_to(background, (size, size, 3))
    for layer, colour in [
        (ellipse(0, 0, wide, tall), skin),
        (ellipse(-0.18, -0.18, 0.06, 0.035), eyes),
        (ellipse(0.18, -0.18, 0.06, 0.035), eyes),
        (ellipse(0, 0.2 + 0.04 * opening, mouth_wide, 0.045 + 0.06 * opening), lips),
        (ellipse(0, 0.2 + 0.04 * opening, mouth_wide * 0.8, 0.005 + 0.07 * opening), np.array([25, 8, 10])),
    ]:
        image = image * (1 - layer) + colour * layer
    return image.round().astype(np.uint8)


def clip(
    folder: Path, number: int, identity: int, *, n_frames: int = 60, size: int = 64, offset_frames: int = 0
) -> dict:
    """Write one clip below the run folder; its row, with the true opening of the sound under `opening`."""
    rng = np.random.default_rng([5, number])
    n_ticks = n_frames + 2 * MARGIN_TICKS
    tune = opening_tune(n_ticks, rng)
    start, stop = MARGIN_TICKS, MARGIN_TICKS + n_frames
    source = f"{number:016x}"
    name = f"{source}-{start:06d}-{stop:06d}-t0"
    crop, audio = f"align_faces/media/{name}.mp4", f"resample/media/{source}.flac"
    (folder / "align_faces/media").mkdir(parents=True, exist_ok=True)
    (folder / "resample/media").mkdir(parents=True, exist_ok=True)
    write_flac(folder / audio, speech(tune, rng), SAMPLE_RATE_HZ)
    sway = rng.uniform(0, 6, 2)
    with VideoWriter(folder / crop, fps=25, width=size, height=size) as video:
        for tick in range(start, stop):
            shift = tuple(0.01 * np.sin(tick / 7 + sway))
            video.write(face(tune[tick - offset_frames], identity, shift, size))
    columns = {
        "source_id": source, "crop_file": crop, "audio_file": audio, "resolution": size,
        "offset_frames": offset_frames, "group": f"identity {identity}",
        "opening": [round(float(value), 4) for value in tune[start - offset_frames : stop - offset_frames]],
    }  # fmt: skip
    return fixtures.clip(f"{number}.mp4", start, stop, **columns)


def run_folder(folder: Path, *, n_frames: int = 40, each: int = 2) -> Path:
    """A run folder as select_clips leaves it: four identities to train, one to validate, one to test on."""
    rows = [
        clip(folder, each * identity + k, identity, n_frames=n_frames, offset_frames=(identity + k) % 3 - 1)
        for identity in range(6)
        for k in range(each)
    ]
    for split, identities in {"train": range(4), "val": [4], "test": [5]}.items():
        write_ledger(
            folder / f"select_clips/{split}.jsonl",
            [row | {"split": split} for row in rows if int(row["group"].split()[1]) in identities],
        )
    write_ledger(folder / "sources/00000.jsonl", [{"id": row["source_id"]} for row in rows])
    return folder


def ledgers(folder: Path, *names: str) -> dict[str, list[Path]]:
    """The inputs of a step, by name: splits, or the sources of the one shard."""
    shard = {"sources": [folder / "sources/00000.jsonl"]}
    return {name: shard.get(name, [folder / f"select_clips/{name}.jsonl"]) for name in names}
