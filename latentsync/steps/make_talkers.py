"""Make raw videos of synthetic talking heads, and write down the truth about them.

Outputs: `truth` (truth.jsonl), `speakers` (speakers.csv), and beside truth the undeclared folder `videos/`, which the
following steps read as if a camera had filled it; `sources`, the lists of these videos, one per shard. One row of truth
for each video, sorted by id:

    id, path            source_id and path below videos/, as in the ledgers
    identity            name of the person who speaks; other_identity: of the second person, beside the first or
                        in a small picture in a corner (which is then no clip of its own: expected does not name it)
    faults              [] for a good video, else the one key of records.REASONS that it must be rejected for
    kind                how the fault looks, e.g. "index cut off"; also which sort of two-face video, else null
    copy_of             path of the video that this file repeats byte for byte, or null; whichever of the two ids sorts
                        later is the one marked as duplicate
    again_of            path of the good video that this file shows once more, encoded and scaled anew, or null
    fps, vfr            nominal frame rate; whether the frames come at irregular times
    n_frames, duration_s, width, height
    face_px             width of the face in each shot, from cheek to cheek, as planned
    offset_frames       at 25 frames a second; above 0 the picture is late: it shows at t the mouth of
                        sound_opening(t - offset_frames / 25)
    cuts_s              where a new shot begins
    expected            one entry for each face of each shot: start_s, end_s, track ("speaker", or "silent" for a mouth
                        that the sound is not from), side ("left", "right"; only where there are two), and the
                        reason for which its clips must be rejected, null where they must be kept
    sound_opening       how far the mouth of the sound is open at ticks k / 25 s, 0 to 1, whatever the picture shows

A finished video is remembered in a journal and never made again, so a killed run carries on.
"""

import csv
import io
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import cv2

from latentsync.config import VERSIONS, MakeTalkers
from latentsync.ledger import sources as listing
from latentsync.ledger.files import fingerprint, write_ledger, write_text
from latentsync.ledger.rows import Row
from latentsync.ledger.shard import Journal
from latentsync.synthetic.again import make_again
from latentsync.synthetic.film import film
from latentsync.synthetic.photo import photo
from latentsync.synthetic.plan import Take, plan

WORKERS = 2  # OpenCV, numpy and x264 let go of the interpreter's lock, so threads do


def run(cfg: MakeTalkers, inputs: dict[str, list[Path]], outputs: dict[str, Any], sources: Path | None = None) -> None:
    """Render what the journal does not know yet; write truth, speakers and the lists of sources."""
    folder = outputs["truth"].parent / "videos"
    takes = plan(cfg)
    keys = {take.path: fingerprint(take.described(), cfg.seed, VERSIONS["make_talkers"]) for take in takes}
    cv2.setNumThreads(1)
    with Journal(outputs["truth"].parent / "journal" / "videos.jsonl") as journal:
        _remove_superseded(journal, keys, folder)
        todo = [take for take in takes if not _finished(take, keys, journal, folder)]
        if todo:
            for mirrored in {take.look.mirrored for take in takes}:
                photo(mirrored)  # mediapipe once, before the threads
        for take, row in _rendered([take for take in todo if take.made_from is None], cfg.seed, folder):
            journal.append(keys[take.path], [row])
        for take in todo:
            if take.made_from is not None:
                make_again(take, folder)
                journal.append(keys[take.path], [film(take, cfg.seed, folder)])
        rows = [journal.rows[keys[take.path]][0] for take in takes]
    write_ledger(outputs["truth"], rows)
    write_text(outputs["speakers"], _speakers(rows))
    lists: list[Path] = outputs["sources"]
    listing.write_sources(folder, lists[0].parent, len(lists))


def _finished(take: Take, keys: dict[str, str], journal: Journal, folder: Path) -> bool:
    return keys[take.path] in journal.rows and (folder / take.path).is_file()


def _rendered(takes: list[Take], seed: int, folder: Path) -> Iterable[tuple[Take, Row]]:
    """Videos as they become ready; one person's videos follow one another, so that the drawn face is at hand."""
    takes = sorted(takes, key=lambda take: (take.look.name, take.path))
    with ThreadPoolExecutor(WORKERS) as pool:
        futures = {pool.submit(film, take, seed, folder): take for take in takes}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _remove_superseded(journal: Journal, keys: dict[str, str], folder: Path) -> None:
    """Delete videos that an earlier configuration of this run made and this one does not want, and no others."""
    for [row] in journal.rows.values():
        if row["path"] not in keys:
            (folder / row["path"]).unlink(missing_ok=True)


def _speakers(rows: list[Row]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("path", "speaker"))
    writer.writerows(sorted((row["path"], row["identity"]) for row in rows))
    return text.getvalue()
