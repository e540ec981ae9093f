"""What windows that span the trained time change in videos of 50 frames a second, on the talkers of a finished run.

    python benchmarks/rates.py --weights results/demo --sources results/demo/make_talkers/videos [--videos 4]

Each picture is shown twice, at 50 frames a second, and driven by another talker's audio. Windows are of successive
frames (0.32 s) or of every second one (0.64 s, as in training). Figures: correlation of the measured mouth opening with
the opening behind the audio; 5 to 95 % range of the opening; root mean square difference of neighbouring drawn mouths
(`step`) and of each from the mean of its neighbours (`jitter`), grey levels.
"""

import argparse
import json
import tempfile
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch

from benchmarks.presets import Measured, Watched
from latentsync.config import Generate
from latentsync.evaluation import measure, metrics
from latentsync.faces.mask import keep_mask
from latentsync.generation import joining
from latentsync.generation.audio import driving_audio
from latentsync.generation.session import LipSync
from latentsync.ledger.files import read_ledger
from latentsync.media.read import read_frames, read_video_frames
from latentsync.media.write import VideoWriter
from latentsync.timing import TICKS_PER_S
from latentsync.weights.find import find_weights


def main() -> None:
    """Redraw every video with both kinds of windows; print a table and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="folder of a finished run")
    parser.add_argument("--sources", type=Path, required=True, help="folder of its videos")
    parser.add_argument("--videos", type=int, default=4)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for file in sorted((args.weights / "generate").glob("*.jsonl")) for row in read_ledger(file)]
    rows = [row for row in rows if (row["kind"], row["system"], row["status"]) == ("cross", "ours", "ok")]
    truth = {row["id"]: row["sound_opening"] for row in read_ledger(args.weights / "make_talkers" / "truth.jsonl")}
    own, result = joining.stride_of, {}
    with tempfile.TemporaryDirectory() as folder, LipSync(*find_weights(args.weights)) as session:
        loaded = session.models(True)
        models = Watched(**{one.name: getattr(loaded, one.name) for one in fields(loaded)})
        session.models = lambda trained: models
        mouth, detector = keep_mask(models.resolution) < 0.5, session.detector("mediapipe", 2)
        for row in rows[: args.videos]:
            source, out = args.sources / row["picture_path"], Path(folder, "out.mp4")
            audio = driving_audio(args.weights / row["audio_file"])
            twice = doubled(source, Path(folder, "twice.mp4"))
            cases = {
                "25": (source, own),
                "50, successive": (twice, lambda times_s: 1),
                "50, every second": (twice, own),
            }
            for name, (video, stride_of) in cases.items():
                joining.stride_of, session.generate = stride_of, Generate(steps=10)
                models.watch(Measured())
                render = session.redraw(video, audio, out, "mediapipe", 2)
                seen = measure.Mouth(render, detector, models.resolution, with_crops=False)
                for _, frame in read_video_frames(out):
                    seen.see(frame)
                driving = metrics.sample_at(render["times_s"], np.array(truth[row["sound_id"]]), TICKS_PER_S)
                drawn = np.stack(models.faces)[:, :, mouth]
                away = drawn[1:-1] - (drawn[:-2] + drawn[2:]) / 2
                low, high = np.nanpercentile(seen.opening, [5, 95])
                figures = {
                    "mouth_r": float(metrics.correlation(seen.opening, driving)),
                    "opening": float(high - low),
                    "step": float(np.sqrt(np.mean(np.diff(drawn, axis=0) ** 2))),
                    "jitter": float(np.sqrt(np.mean(away**2))),
                }
                result.setdefault(name, []).append(figures)
                print(row["id"], name, {key: round(value, 4) for key, value in figures.items()}, flush=True)
            session.face_tracks.last = None, []  # the next file has the same name
    means = {
        name: {key: round(float(np.mean([one[key] for one in found])), 4) for key in found[0]}
        for name, found in result.items()
    }
    print(json.dumps(means))


def doubled(video: Path, out: Path) -> Path:
    """The video at 50 frames a second, each frame twice."""
    with VideoWriter(out, 50, *size(video), crf=4) as writer:
        for _, rgb in read_frames(video):
            writer.write(rgb)
            writer.write(rgb)
    return out


def size(video: Path) -> tuple[int, int]:
    """Width and height."""
    height, width, _ = next(iter(read_frames(video)))[1].shape
    return width, height


if __name__ == "__main__":
    main()
