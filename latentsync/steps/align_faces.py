"""align_faces: track the faces of each segment and write their aligned crops, the only video that curation encodes.

Each source is decoded once, through all its segments, with a few dozen frames in memory at most: a crop is cut as soon
as the anchors of its frame are final. Decoding, detecting and encoding run in parallel where there are cores. Faces are
tracked through the source frames that the segment shows, each frame once, and then repeated on the 25 fps ticks, so a
frame that is shown for two ticks looks the same in both.

A segment becomes one row of kind clip for each face, the widest first (t0), with
  faces          name of the backend that found the face and its landmarks (faces/backends.py)
  crop_file      mp4, 25 fps, R x R; one frame for each tick of the clip
  geometry_file  npz: matrices float32 [n, 2, 3] (source pixels -> unstretched crop pixels), landmarks float32 [n, P, 2]
                 (source pixels), found bool [n], mouth_opening float32 [n] (NaN where not found)
  stills_file    npz: some frames of the face in the pixels of the source, where R is below the published 256; else null
"""

import functools
import sys
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import av
import numpy as np

from latentsync.config import VERSIONS, AlignFaces
from latentsync.faces.alignment import PUBLISHED_RESOLUTION, similarity
from latentsync.faces.backends import open_detector
from latentsync.faces.crop import face_frame
from latentsync.faces.face import Detector
from latentsync.faces.smoothing import jitter_px
from latentsync.faces.stills import Stills
from latentsync.faces.tracking import Track, track_faces
from latentsync.ledger.columns import Segment
from latentsync.ledger.files import media_file, read_ledger, replacing, run_dir
from latentsync.ledger.rows import Rejection, Row, clip_id
from latentsync.ledger.shard import run_shard
from latentsync.media.ahead import Behind, ahead
from latentsync.media.frames import DisplayedFrame
from latentsync.media.read import Reader
from latentsync.media.write import VideoWriter
from latentsync.timing import TICKS_PER_S


def run(cfg: AlignFaces, inputs: dict[str, list[Path]], outputs: dict[str, Path], sources: Path) -> None:
    """Ledger of segments -> ledger of clips, crops and geometry in the folder media beside it."""
    [ledger] = inputs["segment"]
    root = run_dir(outputs["ledger"])
    # Segments come in the order of their sources and times.
    open_reader = functools.lru_cache(1)(functools.partial(Reader, strict=True, deinterlace=cfg.deinterlace))
    with open_detector(cfg.backend, cfg.max_faces) as detector:

        def work(row: Segment, key: str) -> list[Row]:
            assert sources is not None
            return align_segment(row, key, cfg, detector, open_reader(sources / row["path"]), root)

        run_shard(outputs["ledger"], read_ledger(ledger), cfg, VERSIONS["align_faces"], work)


def align_segment(row: Segment, key: str, cfg: AlignFaces, detector: Detector, video: Reader, root: Path) -> list[Row]:
    """The clips of one segment.

    Raises:
        Rejection: no_face; unreadable, frames of it are lost.
    """
    shown = np.load(root / row["ticks_file"])[row["start_tick"] : row["end_tick"]]
    indices, first_tick, repeats = np.unique(shown, return_index=True, return_counts=True)
    max_gap = round(cfg.max_gap_ticks * len(indices) / len(shown))
    stills = Stills(len(indices)) if cfg.resolution < PUBLISHED_RESOLUTION else None
    with _CropWriters(root / "align_faces/media", f"{row['id']}.{key}", cfg) as writers:

        def on_anchors(track_id: int, number: int, frame: DisplayedFrame, anchors: np.ndarray) -> None:
            matrix = similarity(anchors, cfg.resolution)
            writers.write(track_id, face_frame(frame, matrix, cfg.resolution), int(repeats[number]))
            if stills is not None:
                stills.add(track_id, number, frame, matrix, cfg.resolution)

        with closing(ahead(frame for _, frame in video.displayed_frames(indices))) as frames:  # pyright: ignore[reportArgumentType]  # a generator
            tracks = track_faces(
                frames, detector, max_gap, on_anchors, on_end=writers.close, to_rgb=DisplayedFrame.quick
            )
    if not tracks:
        writers.keep({})
        raise Rejection("no_face", f"no face was found in {len(indices)} frames")
    most = int(np.sum([_on_frames(track, len(indices)) for track in tracks], 0).max())
    rows, names = [], {}
    for number, track in enumerate(tracks):
        start_tick = row["start_tick"] + int(first_tick[track.start])
        end_tick = row["start_tick"] + int(first_tick[track.stop - 1] + repeats[track.stop - 1])
        ident = clip_id(row["source_id"], start_tick, end_tick, number)
        crop_file, geometry_file = (media_file("align_faces", ident, key, suffix) for suffix in (".mp4", ".npz"))
        names[track.track_id] = root / crop_file
        stills_file = None
        if stills is not None:
            stills_file = media_file("align_faces", ident, key, ".stills.npz")
            stills.write(root / stills_file, track)
        found = _write_geometry(root / geometry_file, track, repeats[track.start : track.stop], cfg.resolution)
        rows.append(
            row
            | {
                "kind": "clip",
                "id": ident,
                "segment_id": row["id"],
                "track": number,
                "faces": cfg.backend,
                "start_tick": start_tick,
                "end_tick": end_tick,
                "crop_file": crop_file,
                "geometry_file": geometry_file,
                "stills_file": stills_file,
                "resolution": cfg.resolution,
                "face_px": round(track.face_px, 1),
                "face_share": round(float(found.mean()), 4),
                "n_faces": most,
                "jitter_px": round(jitter_px(track.anchors), 3),
                "raw_jitter_px": round(jitter_px(track.raw_anchors), 3),
            }
        )
    writers.keep(names)
    return rows


def _on_frames(track: Track, n_frames: int) -> np.ndarray:
    """1 at each frame of the segment in which the track's face was seen."""
    seen = np.zeros(n_frames, int)
    seen[track.start : track.stop] = track.found
    return seen


def _write_geometry(path: Path, track: Track, repeats: np.ndarray, resolution: int) -> np.ndarray:
    """Write the arrays of one clip, one entry for each tick; returns `found`. numpy dates its zip members 1980."""
    matrices = similarity(track.anchors, resolution)
    found = np.repeat(track.found, repeats)
    with replacing(path) as temporary:
        np.savez(
            temporary,
            matrices=np.repeat(matrices, repeats, 0).astype(np.float32),
            landmarks=np.repeat(track.landmarks, repeats, 0),
            found=found,
            mouth_opening=np.repeat(track.mouth_opening, repeats),
        )
    return found


class _CropWriters:
    """A crop video for each track as it appears, closed when the track ends: an open one holds an encoder.

    Which videos are kept, and their names, are known only at the end.
    """

    def __init__(self, media: Path, segment: str, cfg: AlignFaces):
        self.media, self.segment, self.cfg = media, segment, cfg
        self.paths: dict[int, Path] = {}
        self.open: dict[int, VideoWriter] = {}
        self.encoder = Behind()

    def __enter__(self) -> "_CropWriters":
        return self

    def __exit__(self, *error: Any) -> None:
        try:
            if error[0] is None:
                self.encoder.wait()
        except BaseException:
            self._end(*sys.exc_info())
            raise
        self._end(*error)

    def _end(self, *error: Any) -> None:
        """Whatever fails: stop the thread, close all files, delete those of a failed segment."""
        with ExitStack() as stack:
            if error[0] is not None:
                for path in self.paths.values():
                    stack.callback(path.unlink, missing_ok=True)
            for writer in self.open.values():
                stack.callback(writer.__exit__, *error)
            stack.callback(self.encoder.stop)

    def write(self, track_id: int, face: av.VideoFrame, times: int) -> None:
        """Append a face to the video of its track, once for each tick that shows it."""
        if track_id not in self.paths:
            path, side = self.media / f".{self.segment}-{track_id}.mp4", self.cfg.resolution
            self.open[track_id] = VideoWriter(path, TICKS_PER_S, side, side, crf=self.cfg.crf).__enter__()
            self.paths[track_id] = path
        for _ in range(times):
            self.encoder.call(self.open[track_id].write_frame, face)

    def close(self, track_id: int) -> None:
        """Finish the video of a track that has ended, if it has one."""
        if track_id in self.open:
            self.encoder.call(self._finish, track_id)

    def _finish(self, track_id: int) -> None:
        self.open.pop(track_id).__exit__(None, None, None)

    def keep(self, names: dict[int, Path]) -> None:
        """Once the files are closed: rename those of these track ids and delete the others."""
        self.encoder.wait()
        for track_id, path in self.paths.items():
            if track_id in names:
                path.replace(names[track_id])
            else:
                path.unlink()
