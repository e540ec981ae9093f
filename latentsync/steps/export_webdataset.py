"""WebDataset tars for training elsewhere, made of the clips of export_clips: all audio is already in sync.

`results/<run>/export_webdataset/{train,val,test}-000000.tar` and so on: names as its readers expect them, each a link
to a file in the folder media beside it whose name says what made it. So an export that is killed leaves the tars of
the one before, and what has not changed is not written again. A sample is four members, its key the clip's id:

  mp4            H.264, 25 fps, R x R; AAC if the source has audio
  json           the clip's columns, with `source` for what is known of the video that it was cut from
  landmarks.npy  float32 [n, P, 2], pixels (x, y) of the mp4's frames, the centre of the first at (0, 0)
  matrices.npy   float32 [n, 2, 3], pixels of the source -> pixels of the mp4

Below three groups train, val and test are the same clips: each split has its own tars all the same, and `split` in the
json is that of the tar. The same clips give the same bytes: members sorted by id, no times, no owners.
"""

import io
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from latentsync.config import VERSIONS, ExportWebdataset
from latentsync.faces import alignment
from latentsync.ledger.columns import Clip, OfSource, columns, names_of
from latentsync.ledger.files import dumps, media_file, read_ledger, replacing, run_dir
from latentsync.ledger.rows import Row
from latentsync.ledger.shard import run_shard
from latentsync.timing import SAMPLE_RATE_HZ, TICKS_PER_S

SPLITS = ("train", "val", "test")
OF_SOURCE = {"source_id", "path", *columns(OfSource)}
OF_LEDGER = set(names_of(Clip, "internal"))


def run(cfg: ExportWebdataset, inputs: dict[str, list[Path]], outputs: dict[str, Path], sources: Path | None) -> None:
    """Ledger of exported clips, and the splits -> a ledger with one row for each tar, `tar_file` and `n_samples`."""
    [exported] = inputs["clips"]
    clips = {row["id"]: row for row in read_ledger(exported)}
    root = run_dir(outputs["ledger"])
    tars = []
    for split in SPLITS:
        [ledger] = inputs[split]
        members = [clips[row["id"]] for row in read_ledger(ledger)]  # sorted by id
        tars += tars_of(split, members, cfg.samples_per_tar)
    run_shard(
        outputs["ledger"],
        tars,
        cfg,
        VERSIONS["export_webdataset"],
        lambda row, key: [export_tar(row, key, root)],
    )
    link(outputs["ledger"].parent, read_ledger(outputs["ledger"]))


def tars_of(split: str, members: list[Clip], size: int) -> list[Row]:
    """One row of kind tar for each `size` clips of a split, with the rows of its clips."""
    return [
        {
            "id": f"{split}-{first // size:06d}",
            "kind": "tar",
            "split": split,
            "clips": members[first : first + size],
            "status": "ok",
            "reason": None,
            "detail": "",
        }
        for first in range(0, len(members), size)
    ]


def export_tar(row: Row, key: str, root: Path) -> Row:
    """Write the tar of one row."""
    tar_file = media_file("export_webdataset", row["id"], key, ".tar")
    with replacing(root / tar_file) as temporary, tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
        for clip in row["clips"]:
            for suffix, content in sample(clip, row["split"], root).items():
                member = tarfile.TarInfo(f"{clip['id']}.{suffix}")  # mode 644, no owner, 1970
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return {name: value for name, value in row.items() if name != "clips"} | {
        "tar_file": tar_file,
        "n_samples": len(row["clips"]),
    }


def sample(clip: Clip, split: str, root: Path) -> dict[str, bytes]:
    """The members of one clip, by suffix."""
    with np.load(root / clip["geometry_file"]) as arrays:
        matrices = np.array([alignment.to_face(matrix, clip["resolution"]) for matrix in arrays["matrices"]])
        landmarks = np.array([alignment.apply(*both) for both in zip(matrices, arrays["landmarks"], strict=True)])
    return {
        "mp4": (root / clip["export_file"]).read_bytes(),
        "json": (dumps(public(clip, split)) + "\n").encode(),
        "landmarks.npy": _npy(landmarks),
        "matrices.npy": _npy(matrices),
    }


def public(clip: Clip, split: str) -> dict[str, Any]:
    """What other projects want to know of a clip: no files of ours, and of the source what the mp4 does not say."""
    own = {
        name: value for name, value in clip.items() if name not in OF_SOURCE | OF_LEDGER and not name.endswith("_file")
    }
    return own | {
        "split": split,
        "fps": TICKS_PER_S,
        "n_frames": clip["end_tick"] - clip["start_tick"],
        "audio_rate_hz": SAMPLE_RATE_HZ if clip["has_audio"] else None,
        "source": {name: clip[name] for name in OF_SOURCE & clip.keys()},
    }


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array.astype(np.float32))
    return buffer.getvalue()


def link(folder: Path, rows: list[Row]) -> None:
    """Give every tar its name in `folder`, and take away the names of tars that are no more."""
    target_of = {f"{row['id']}.tar": Path("media", Path(row["tar_file"]).name) for row in rows}
    for old in folder.glob("*.tar"):
        if old.is_symlink() and old.name not in target_of:
            old.unlink()
    for name, target in target_of.items():
        place = folder / name
        if not (place.is_symlink() and place.readlink() == target):
            with replacing(place) as temporary:
                temporary.unlink(missing_ok=True)
                os.symlink(target, temporary)
