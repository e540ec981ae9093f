"""Ordinary mp4 clips for use elsewhere: the crop as it is (packets copied) and its audio, shifted into sync, as AAC."""

from pathlib import Path

from latentsync.config import VERSIONS, ExportClips
from latentsync.ledger.columns import Clip
from latentsync.ledger.files import media_file, read_ledgers, run_dir
from latentsync.ledger.rows import Row
from latentsync.ledger.shard import run_shard
from latentsync.media.audio import read_flac
from latentsync.media.write import mux_clip
from latentsync.timing import SAMPLE_RATE_HZ, shifted_samples_of


def run(cfg: ExportClips, inputs: dict[str, list[Path]], outputs: dict[str, Path], sources: Path | None = None) -> None:
    """Ledgers of selected clips (train, val, test) -> one ledger with `export_file`."""
    rows = read_ledgers(path for name in ("train", "val", "test") for path in inputs[name])
    # Fewer than three groups make train and test the same clips; a clip is exported once.
    rows = list({row["id"]: row for row in rows}.values())
    root = run_dir(outputs["ledger"])
    run_shard(
        outputs["ledger"], rows, cfg, VERSIONS["export_clips"], lambda row, key: [export_clip(row, key, cfg, root)]
    )


def export_clip(row: Clip, key: str, cfg: ExportClips, root: Path) -> Row:
    """Write the clip of one row."""
    export_file = media_file("export_clips", row["id"], key, ".mp4")
    sound = None
    if row["audio_file"] is not None:
        start, stop = shifted_samples_of(row["start_tick"], row["end_tick"], row["offset_frames"])
        sound = read_flac(root / row["audio_file"], start, stop)
    mux_clip(root / export_file, root / row["crop_file"], sound, SAMPLE_RATE_HZ, cfg.audio_bitrate)
    return row | {"export_file": export_file}
