"""Put video and audio on one clock without re-encoding the video.

For each source: 16 kHz mono FLAC from time zero, and a table that says which source frame each 25 fps tick shows.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from latentsync.config import VERSIONS, Resample
from latentsync.ledger.columns import Source
from latentsync.ledger.files import media_file, read_ledger, replacing, run_dir
from latentsync.ledger.rows import Row
from latentsync.ledger.shard import run_shard
from latentsync.media.audio import Damage, audio_pieces
from latentsync.media.read import frame_times
from latentsync.media.write import write_flac
from latentsync.timing import SAMPLE_RATE_HZ, samples_of, ticks_to_frames


def run(cfg: Resample, inputs: dict[str, list[Path]], outputs: dict[str, Path], sources: Path) -> None:
    """Ledger of sources -> the same with audio_file, ticks_file and n_ticks."""
    [ledger] = inputs["probe"]
    root = run_dir(outputs["ledger"])
    run_shard(
        outputs["ledger"],
        read_ledger(ledger),
        cfg,
        VERSIONS["resample"],
        lambda row, key: [resample_source(row, key, sources / row["path"], root, cfg)],
    )


def resample_source(row: Source, key: str, source: Path, root: Path, cfg: Resample) -> Row:
    """Write both files of one source."""
    table = ticks_to_frames(*frame_times(source))
    ticks_file = media_file("resample", row["id"], key, ".npy")
    with replacing(root / ticks_file) as temporary:
        np.save(temporary, table)
    audio_file, repairs, track = None, row["repairs"], row["audio_track"]
    if row["has_audio"]:
        track = cfg.audio_track or track
        audio_file = media_file("resample", row["id"], key, ".flac")
        damage = Damage()
        pieces = audio_pieces(source, track=track, damage=damage)
        write_flac(root / audio_file, fitted(pieces, samples_of(0, len(table))[1]), SAMPLE_RATE_HZ)
        damage.require_little(source, cfg.max_damaged_share, "resample.max_damaged_share")
        repairs = repairs | damage.repairs
    return row | {
        "audio_file": audio_file,
        "audio_track": track,
        "ticks_file": ticks_file,
        "n_ticks": len(table),
        "repairs": repairs,
    }


def fitted(pieces: Iterable[np.ndarray], length: int) -> Iterator[np.ndarray]:
    """The audio, float32 [1, n] a piece, cut or padded with silence to `length` samples, the length of the video."""
    missing = length
    for piece in pieces:
        yield piece[0, :missing]
        missing -= len(piece[0, :missing])
        if not missing:
            return
    while missing:
        yield np.zeros(min(missing, SAMPLE_RATE_HZ), np.float32)
        missing -= min(missing, SAMPLE_RATE_HZ)
