"""What generation does to videos when the networks change nothing: each comes back, and only the mouth was touched.

    python benchmarks/identity.py --clips FOLDER [--seconds 3] [--resolutions 256 512]

A stand-in gives every face back as it came, and the result is encoded without loss. Compared with the source: frames,
rate, size, duration and colour description; samples of all planes changed outside of what a paste may change (before
encoding, since decoding the result gives the pasted frames); PSNR of luma inside, of the frames together, in dB.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import av
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.generate import identity  # noqa: E402
from latentsync.config import Generate  # noqa: E402
from latentsync.faces.backends import open_detector  # noqa: E402
from latentsync.generation import paste, pipeline  # noqa: E402
from latentsync.generation.audio import DrivingAudio  # noqa: E402
from latentsync.generation.gates import measure_faces  # noqa: E402
from latentsync.generation.speakers import track_video  # noqa: E402
from latentsync.ledger.rows import Rejection  # noqa: E402
from latentsync.media.frames import planes  # noqa: E402
from latentsync.media.read import frame_times, read_video_frames  # noqa: E402
from latentsync.timing import SAMPLE_RATE_HZ  # noqa: E402

TAGS = ("colorspace", "color_range", "color_primaries", "color_trc")


def main() -> None:
    """A row for each video and face size; exit status 1 if one is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--resolutions", type=int, nargs="+", default=[256, 512])
    args = parser.parse_args()
    rows = []
    print("video | face | frames | redrawn | kept: size, frame times, colours | changed outside | dB inside")
    for video in sorted(args.clips.glob("*.mp4")):
        with open_detector("mediapipe", 6) as detector, tempfile.TemporaryDirectory() as folder:
            tracks = track_video(video, detector, max_s=args.seconds, measure=measure_faces(detector.scheme))
            for resolution in args.resolutions:
                try:
                    row = compared(video, resolution, tracks, args.seconds, Path(folder, "out.mp4"))
                except Rejection as verdict:
                    print(f"{video.name} | {resolution} | {verdict}", flush=True)
                    continue
                rows.append({"video": video.name, "resolution": resolution} | row)
                print(" | ".join(str(value) for value in rows[-1].values()), flush=True)
    least = {r: min(row["db"] for row in rows if row["resolution"] == r) for r in args.resolutions}
    ok = all(row["kept"] and row["changed_outside"] == 0 for row in rows)
    print(json.dumps({"videos": len({row["video"] for row in rows}), "all_kept": ok, "least_db": least}))
    sys.exit(not ok)


def compared(video: Path, resolution: int, tracks: list, seconds: float, out: Path) -> dict:
    """Redraw the first seconds of a video and compare."""
    silence = DrivingAudio(np.zeros(round(seconds * SAMPLE_RATE_HZ), np.float32))
    cfg = Generate(codec="lossless", length="video", max_s=seconds)
    written = pipeline.redraw(video, silence, out, identity(resolution), cfg, tracks)
    n, outside, squares, inside = written["n_frames"], 0, 0.0, 0
    (times_s, _), (own_s, end_s) = frame_times(out), frame_times(video)
    kept = n == int(np.searchsorted(own_s, min(seconds, end_s) - 1e-6)) and np.abs(times_s - own_s[:n]).max() < 1e-4
    for (index, new), (_, old) in zip(read_video_frames(out), read_video_frames(video), strict=False):
        if index >= n:
            break
        kept &= (new.width, new.height) == (old.width, old.height)
        kept &= all(getattr(new, tag) == getattr(old, tag) for tag in TAGS)
        old = old if old.format.name == new.format.name else old.reformat(format=new.format.name)
        touched = masks(old, written["matrices"][index], resolution)
        for plane, before, mask in zip(planes(new), planes(old), touched, strict=True):
            outside += int((plane != before)[~mask].sum())
        luma = (planes(new)[0].astype(np.float64) - planes(old)[0])[touched[0]]
        squares, inside = squares + float((luma**2).sum()), inside + luma.size
    top = 2 ** (10 if "10" in av.VideoFormat(new.format.name).name else 8) - 1
    db = 10 * np.log10(top**2 * inside / max(squares, 1e-9)) if inside else float("nan")
    return {
        "frames": n,
        "redrawn": written["n_generated"],
        "kept": bool(kept),
        "changed_outside": outside,
        "db": round(float(db), 2),
    }


def masks(frame: av.VideoFrame, matrix: np.ndarray, resolution: int) -> list[np.ndarray]:
    """For each plane, which samples a paste may change."""
    found = [np.zeros(plane.shape, bool) for plane in planes(frame)]
    if np.isfinite(matrix).all():
        face = np.zeros((resolution, resolution, 3), np.float32)
        for grid, _, alpha in paste.layers(frame, face, matrix, resolution):
            x0, y0, x1, y1 = grid.region
            for channel in grid.channels:
                found[channel][y0:y1, x0:x1] = alpha > 0
    return found


if __name__ == "__main__":
    main()
