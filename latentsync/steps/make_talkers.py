"""Make raw videos of synthetic talkers and write their ground truth.

Outputs: `truth` (truth.jsonl), `speakers` (speakers.csv), `sources` (the lists of these videos, one per shard), and
next to them the undeclared folder `videos/`, which the next steps read like footage from a camera. The ground truth
has one row per video, sorted by id:

    id, path            source_id and path below videos/, as in the ledgers
    identity            name of the speaker; other_identity: name of the second person, next to the first or in a
                        picture-in-picture (which makes no clip, so it is not in `expected`)
    faults              [] for a good video, else the one key of ledger.rows.REASONS that it must be rejected for
    kind                kind of the fault or of the video with two faces, e.g. "index cut off", or null
    copy_of             path of the video of which this file is an exact copy, or null; the one of the two whose id
                        sorts later is the duplicate
    again_of            path of the good video of which this file is a near duplicate, or null
    fps, vfr            nominal frame rate; whether the frame times are irregular
    n_frames, duration_s, width, height
    face_px             planned width of the face in each shot, from cheek to cheek
    offset_frames       at 25 fps; positive: the frames are late, i.e. the mouth at time t has the opening
                        sound_opening(t - offset_frames / 25)
    cuts_s              start of each further shot, in seconds
    expected            one entry per face and shot: start_s, end_s, track ("speaker", or "silent" for a face that does
                        not speak), side ("left" or "right", if there are two faces), and the reason for which its
                        clips must be rejected, or null if they must be kept
    sound_opening       mouth opening that the audio implies at ticks k / 25 s, 0 to 1, regardless of the frames

Finished videos are recorded in a journal and not made again, so a killed run continues.
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
from latentsync.synthetic.photo import photo
from latentsync.synthetic.plan import Take, plan
from latentsync.synthetic.render import render

WORKERS = 2  # threads suffice: OpenCV, numpy and x264 release the interpreter lock


def run(cfg: MakeTalkers, inputs: dict[str, list[Path]], outputs: dict[str, Any], sources: Path | None = None) -> None:
    """Render the videos that are not in the journal, then write ground truth, speakers and lists of sources."""
    folder = outputs["truth"].parent / "videos"
    takes = plan(cfg)
    keys = {take.path: fingerprint(take.described(), cfg.seed, VERSIONS["make_talkers"]) for take in takes}
    cv2.setNumThreads(1)
    with Journal(outputs["truth"].parent / "journal" / "videos.jsonl") as journal:
        _remove_superseded(journal, keys, folder)
        todo = [take for take in takes if not _finished(take, keys, journal, folder)]
        if todo:
            for mirrored in {take.look.mirrored for take in takes}:
                photo(mirrored)  # runs mediapipe once, before the threads start
        for take, row in _rendered([take for take in todo if take.made_from is None], cfg.seed, folder):
            journal.append(keys[take.path], [row])
        for take in todo:
            if take.made_from is not None:
                journal.append(keys[take.path], [render(take, cfg.seed, folder)])
        rows = [journal.rows[keys[take.path]][0] for take in takes]
    write_ledger(outputs["truth"], rows)
    write_text(outputs["speakers"], _speakers(rows))
    lists: list[Path] = outputs["sources"]
    listing.write_sources(folder, lists[0].parent, len(lists))


def _finished(take: Take, keys: dict[str, str], journal: Journal, folder: Path) -> bool:
    return keys[take.path] in journal.rows and (folder / take.path).is_file()


def _rendered(takes: list[Take], seed: int, folder: Path) -> Iterable[tuple[Take, Row]]:
    """Yield videos as they finish; those of one person are rendered in a row, so that its face stays in the cache."""
    takes = sorted(takes, key=lambda take: (take.look.name, take.path))
    with ThreadPoolExecutor(WORKERS) as pool:
        futures = {pool.submit(render, take, seed, folder): take for take in takes}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _remove_superseded(journal: Journal, keys: dict[str, str], folder: Path) -> None:
    """Delete the videos that an earlier configuration of this run made and this one does not, and no others."""
    for [row] in journal.rows.values():
        if row["path"] not in keys:
            (folder / row["path"]).unlink(missing_ok=True)


def _speakers(rows: list[Row]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("path", "speaker"))
    writer.writerows(sorted((row["path"], row["identity"]) for row in rows))
    return text.getvalue()
