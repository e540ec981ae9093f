"""The share of frames that each gate of `generate` takes, of videos and of faults made from them; needs no weights.

    python benchmarks/gates.py --clips FOLDER

Faults are made in the frames 30 to 59 of each video with a face: the lower half of the frame cut off, a dark microphone
before the mouth, a hand of the forehead's colour, and blur along a line of 5, 10 or 20 % of the face's width. The last
line is one JSON object: per video the shares of all frames in percent, the milliseconds per measured face, and for each
gate the extreme value of its measure (the 1st or 99th percentile).
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from latentsync.config import Generate
from latentsync.faces.backends import FACE_MESH, open_detector
from latentsync.faces.face import Detector
from latentsync.faces.tracking import track_faces
from latentsync.generation import gates, speakers
from latentsync.media.read import Reader, frame_times

FAULTS = ("cut off", "microphone", "hand", "blur 0.05", "blur 0.1", "blur 0.2")
MADE = range(30, 60)


def frames_of(video: Path, limit: int, fault: str | None, detector: Detector) -> Iterator[np.ndarray]:
    """The frames as displayed, some with a fault."""
    detector.reset()
    height = None
    n = min(limit, len(frame_times(video)[0]))
    for number, frame in Reader(video).displayed_frames(np.arange(n)):
        rgb = frame.quick()
        faces = detector.detect(rgb) if fault else []
        if fault == "cut off":
            height = height or (int(faces[0].landmarks[13, 1]) if faces else len(rgb))
            rgb = np.ascontiguousarray(rgb[:height])
        elif faces and number in MADE:
            rgb = spoilt(rgb, faces[0], fault or "")
        yield rgb


def spoilt(rgb, face, fault: str) -> np.ndarray:
    """The frame with a fault in the face."""
    width, rgb = face.width_px, rgb.copy()
    x, y = face.landmarks[list(FACE_MESH.outer_lips)].mean(0)
    if fault == "microphone":
        centre = int(x), int(y + 0.25 * width)
        cv2.ellipse(rgb, centre, (int(0.22 * width), int(0.35 * width)), 0, 0, 360, (25, 25, 28), -1)
    elif fault == "hand":
        at_x, at_y = face.landmarks[[10, 151, 9]].mean(0).astype(int)
        skin = rgb[max(0, at_y - 3) : at_y + 4, max(0, at_x - 3) : at_x + 4].reshape(-1, 3).mean(0)
        for finger in range(4):
            centre = int(x - 0.1 * width), int(y + (0.11 * finger - 0.12) * width)
            colour = tuple(float(level * (1 - 0.05 * finger)) for level in skin)
            cv2.ellipse(rgb, centre, (int(0.45 * width), int(0.06 * width)), -8, 0, 360, colour, -1)
    else:
        length = max(3, int(float(fault.split()[1]) * width))
        line = np.zeros((length, length), np.float32)
        line[length // 2] = 1 / length
        rgb = cv2.filter2D(rgb, -1, line)
    return rgb


def measured(video: Path, limit: int, fault: str | None) -> dict[str, object]:
    """Shares of the frames, in percent, and extreme values."""
    spent = 0.0
    with open_detector("mediapipe", 2) as detector, open_detector("mediapipe", 1) as other:
        measure = gates.measure_faces(detector.scheme)

        def timed(rgb, face):
            nonlocal spent
            start_s = time.perf_counter()
            result = measure(rgb, face)
            spent += time.perf_counter() - start_s
            return result

        n = min(limit, len(frame_times(video)[0]))
        tracks = track_faces(frames_of(video, limit, fault, other), detector, 8, measure=timed)
    labels = gates.passed(tracks, speakers.speaking(tracks, n), np.arange(n) / 25, Generate())
    reasons = Counter(gates.PASSED_THROUGH.get(label, "redrawn") for label in labels.tolist())
    row: dict[str, object] = {name: round(100 * count / n, 1) for name, count in reasons.most_common()}
    if tracks:
        track = tracks[0]
        row["width"] = round(float(np.percentile(track.boxes[:, 2] - track.boxes[:, 0], 1)), 1)
        row["yaw"] = round(float(np.percentile(np.abs(gates.yaw_deg(track)), 99)), 1)
        row["margin"] = round(float(np.percentile(track.measures[:, 12], 1)), 2)
        row["occlusion"] = round(float(np.percentile(gates.occlusion(track), 99)), 1)
        row["sharpness"] = round(float(np.percentile(gates.sharpness(track), 1)), 2)
        row["ms"] = round(1000 * spent / sum(int(track.found.sum()) for track in tracks), 2)
    return row


def main() -> None:
    """Print a line per video and fault, then the JSON object."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=300, help="frames of each video")
    parser.add_argument("--faults", action="store_true", help="also with faults")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    rows = {}
    for video in sorted(args.clips.rglob("*.mp4")):
        for fault in (None, *FAULTS) if args.faults else (None,):
            name = video.name + (f", {fault}" if fault else "")
            rows[name] = measured(video, args.limit, fault)
            print(f"{name:32}", rows[name], flush=True)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
