"""Several faces that say different things: the table that `latentsync faces` writes, and the audio of the result.

The table is a CSV with a row for each face: its number, when it is seen, where its middle lies and how wide it is, a
thumbnail, and an empty column `audio`. A user writes audio files into that column. Paths are relative to the table. All
audio starts at time zero of the video, whenever its face appears. Rows may be copied and their times changed, so that a
face says something else in another part, e.g. where another person takes its place behind a cut.
"""

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from latentsync.faces.stills import face_region
from latentsync.faces.tracking import Track
from latentsync.generation import timeline
from latentsync.generation.audio import DrivingAudio, driving_audio
from latentsync.generation.speakers import labelled, people
from latentsync.ledger.files import csv_rows, replacing
from latentsync.ledger.rows import Rejection
from latentsync.media.read import Reader

TABLE = "faces.csv"
COLUMNS = ("face", "start_s", "end_s", "x", "y", "width_px", "thumbnail", "audio")
_NEEDED = ("face", "start_s", "end_s", "audio")


@dataclass(frozen=True)
class Row:
    """What one face says between two times."""

    face: int
    """Its number, from 1, as `speakers.people` orders them."""
    start_s: float
    end_s: float
    audio: Path


def write_table(folder: Path, video: Path, tracks: Sequence[Track], times_s: np.ndarray, end_s: float) -> list[str]:
    """Write faces.csv and a thumbnail for each face into a folder; returns a sentence for each face.

    Args:
        folder: made if it does not exist.
        video: the source.
        tracks: its faces, from `speakers.track_video`.
        times_s: float64 [n], when its frames are shown.
        end_s: when the last one ends.

    Raises:
        ValueError: the table exists already; it may hold what somebody wrote into it.
    """
    if (folder / TABLE).exists():
        raise ValueError(f"--out {folder} holds {TABLE} already; delete it or choose another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    until_s = np.append(times_s[1:], end_s)
    rows, shown = [], {}
    for number, own in enumerate(people(tracks), 1):
        longest = max((tracks[index] for index in own), key=lambda track: (int(track.found.sum()), -track.start))
        seen = np.flatnonzero(longest.found)
        middle = int(seen[len(seen) // 2])
        shown[longest.start + middle] = [*shown.get(longest.start + middle, []), (number, longest.boxes[middle])]
        centre = np.median(np.concatenate([tracks[index].centres for index in own]), 0)
        start_s, stop_s = times_s[tracks[own[0]].start], until_s[tracks[own[-1]].stop - 1]
        rows.append(
            {
                "face": number,
                "start_s": f"{math.floor(start_s * 1000) / 1000:.3f}",
                "end_s": f"{math.ceil(stop_s * 1000) / 1000:.3f}",
                "x": round(float(centre[0])),
                "y": round(float(centre[1])),
                "width_px": round(max(tracks[index].face_px for index in own)),
                "thumbnail": f"face-{number}.png",
                "audio": "",
            }
        )
    for index, frame in Reader(video).displayed_frames(np.array(sorted(shown), np.int64)):
        for number, box in shown[index]:
            png = cv2.imencode(".png", face_region(frame.exact(), box.reshape(2, 2))[..., ::-1])[1]
            (folder / f"face-{number}.png").write_bytes(png.tobytes())
    with replacing(folder / TABLE) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return [
        f"face {row['face']}: {row['start_s']} to {row['end_s']} s, {row['width_px']} px wide at "
        f"{row['x']},{row['y']}; {folder / row['thumbnail']}"
        for row in rows
    ]


def read_table(path: Path) -> list[Row]:
    """The rows whose column `audio` is filled.

    Raises:
        ValueError: the file is not such a table, names a file that is missing, or no row has audio.
    """
    lines = csv_rows(path, "--voices", "`latentsync faces` writes one")
    rows = []
    for number, line in enumerate(lines, 2):
        missing = [name for name in _NEEDED if line.get(name) is None]
        if missing:
            raise ValueError(f"--voices {path} line {number} has no column {missing[0]}; needed: {', '.join(_NEEDED)}.")
        if not line["audio"].strip():
            continue
        audio = path.parent / line["audio"].strip()
        if not audio.is_file():
            raise ValueError(f"--voices {path} line {number}: {audio} is not a file; paths are relative to the table.")
        try:
            row = Row(int(line["face"]), float(line["start_s"]), float(line["end_s"]), audio)
        except ValueError:
            row = None
        if row is None or not (row.face >= 1 and math.isfinite(row.start_s) and row.start_s < row.end_s):
            raise ValueError(
                f"--voices {path} line {number} is not a face: face is a number from 1, start_s lies before end_s."
            )
        rows.append(row)
    if not rows:
        raise ValueError(f"--voices {path} names no audio; write a file into the column audio of at least one row.")
    return rows


def voices(rows: Sequence[Row], tracks: Sequence[Track], times_s: np.ndarray) -> list[tuple[np.ndarray, DrivingAudio]]:
    """(labels int64 [n], audio) of each face and audio file: which track says it in which frame, or a code below 0.

    Raises:
        ValueError: a row names a face that is not there, two rows of a face overlap, or a file cannot be used.
    """
    persons, files = people(tracks), {row.audio: _audio(row.audio) for row in rows}
    said: dict[tuple[int, Path], list[Row]] = {}
    for index, row in enumerate(rows):
        if row.face > len(persons):
            raise ValueError(f"--voices names face {row.face}, but the video has {len(persons)}.")
        for other in rows[:index]:
            if row.face == other.face and row.start_s < other.end_s and other.start_s < row.end_s:
                raise ValueError(
                    f"--voices lets face {row.face} say {other.audio.name} and {row.audio.name} at "
                    f"{max(row.start_s, other.start_s):g} s; let one end before the other starts."
                )
        said.setdefault((row.face, row.audio), []).append(row)
    result = []
    for (face, audio), own in said.items():
        labels, theirs = labelled(tracks, len(times_s), []), labelled(tracks, len(times_s), persons[face - 1])
        for row in own:
            inside = (times_s >= row.start_s - timeline.EPSILON_S) & (times_s < row.end_s - timeline.EPSILON_S)
            labels = np.where(inside, theirs, labels)
        result.append((labels, files[audio]))
    return result


def _audio(path: Path) -> DrivingAudio:
    try:
        return driving_audio(path)
    except Rejection as verdict:
        raise ValueError(f"--voices {path} cannot be used: {verdict}") from None


@dataclass(frozen=True)
class Mixed(DrivingAudio):
    """The sum of several files, for the result."""

    files: tuple[DrivingAudio, ...] = ()

    def pieces(self, rate_hz: int, layout: str) -> Iterator[np.ndarray]:
        """The samples float32 [c, n], piece by piece, limited to full scale."""
        sources = [source.pieces(rate_hz, layout) for source in self.files]
        left = [np.zeros((0, 0), np.float32) for _ in sources]
        while sources:
            for index, source in enumerate(sources):
                while left[index].shape[1] == 0 and (piece := next(source, None)) is not None:
                    left[index] = piece
            going = [index for index, rest in enumerate(left) if rest.shape[1]]
            sources, left = [sources[index] for index in going], [left[index] for index in going]
            if going:
                n = min(rest.shape[1] for rest in left)
                yield np.sum([rest[:, :n] for rest in left], axis=0, dtype=np.float32).clip(-1, 1)
                left = [rest[:, n:] for rest in left]


def mixed(audio: Sequence[DrivingAudio]) -> DrivingAudio:
    """What is written into the result, and how long it is: the one file as it is, or the sum of all files.

    A sum is encoded at the highest rate and, unless all files are mono, in stereo.
    """
    files = {one.path: one for one in audio}
    if len(files) == 1:
        return audio[0]
    n = max(len(one.for_model) for one in audio)
    total = np.sum([np.pad(one.for_model, (0, n - len(one.for_model))) for one in files.values()], axis=0)
    layout = "mono" if all(one.layout == "mono" for one in audio) else "stereo"
    rate_hz = max(one.rate_hz for one in audio)
    return Mixed(total.astype(np.float32), audio[0].path, rate_hz=rate_hz, layout=layout, files=tuple(files.values()))
