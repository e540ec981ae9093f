"""What the tiles of the curation page play: small mp4 files beside it, each the copied crop with its audio in sync.

A crop has no audio, and an export is made only on request, after the page. So the few clips that the page shows are
muxed here; nothing is encoded but their audio.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from latentsync.ledger.files import fingerprint, iterate_ledger, media_file, write_ledger
from latentsync.ledger.rows import Rejection, Row
from latentsync.media.audio import read_flac
from latentsync.media.write import mux_clip
from latentsync.timing import SAMPLE_RATE_HZ, shifted_samples_of

AUDIO_BITRATE = 64_000


def write(
    ids: Iterable[str], ledgers: Iterable[Path], offsets: Mapping[str, int], page: Path, root: Path
) -> dict[str, dict[str, Any]]:
    """Row id -> {file, relative to `page`; audio: whether it is heard}; rows without a readable crop are left out.

    `offsets`: frames by which the audio of a clip is shifted, as readers of it do; 0 where there is none. What is there
    is kept. A list of the files lies beside the page, so that `latentsync clean` finds those that it names no more.
    """
    wanted, found = set(ids), {}
    rows = (row for ledger in ledgers for row in iterate_ledger(ledger))
    for row in rows:
        if row["id"] in wanted and row.get("crop_file"):
            offset = offsets.get(row["id"], 0)
            key = fingerprint(row["crop_file"], row["audio_file"], row["start_tick"], row["end_tick"], offset)
            name = media_file(page.parent.name, row["id"], key, ".mp4")
            if _is_there(root / name) or _muxed(root / name, row, offset, root):
                found[row["id"]] = {"file": name.partition("/")[2], "audio": row["audio_file"] is not None}
    listed = [{"id": ident, "preview_file": f"{page.parent.name}/{one['file']}"} for ident, one in found.items()]
    write_ledger(page.with_name("previews.jsonl"), listed)
    return found


def _is_there(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0  # a full disk may have left an empty one


def _muxed(path: Path, row: Row, offset: int, root: Path) -> bool:
    """Whether the file could be written; what is missing or damaged in the run has no player."""
    try:
        sound = None
        if row["audio_file"] is not None:
            start, stop = shifted_samples_of(row["start_tick"], row["end_tick"], offset)
            sound = read_flac(root / row["audio_file"], start, stop)
        mux_clip(path, root / row["crop_file"], sound, SAMPLE_RATE_HZ, AUDIO_BITRATE)
    except (Rejection, FileNotFoundError):
        return False
    return True
