"""How far mouths open in pauses of the audio, with and without --silence close, on the talkers of a finished run.

    python benchmarks/silence.py --weights results/demo [--videos 5]

Each talker without planted faults says two synthetic sentences, each followed by 0.5 to 1 s without speech; every
second talker has faint noise there. Figures: the mean measured gap between the lips over the distance of the eyes, in
speech (where the voice opens the mouth by more than a tenth) and in pauses; the share of the second in the first, of
whole pauses and without their first and last 0.08 s.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch

from latentsync.config import Generate
from latentsync.evaluation.measure import Mouth
from latentsync.generation import pipeline
from latentsync.generation.audio import DrivingAudio
from latentsync.generation.session import LipSync
from latentsync.generation.timeline import spans
from latentsync.ledger.files import read_ledger
from latentsync.media.read import read_video_frames
from latentsync.synthetic.voice import speak
from latentsync.timing import SAMPLE_RATE_HZ
from latentsync.weights.find import find_weights

RATE_HZ = 100  # of the true opening
EDGE_S, LEAST_S, NOISE_DB = 0.08, 0.3, -58


def main() -> None:
    """Print a row for each talker and each way, and the means as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="folder of a finished run")
    parser.add_argument("--videos", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    folder, chosen = args.weights / "make_talkers", {}
    for row in read_ledger(folder / "truth.jsonl"):
        odd = row["faults"], row["cuts_s"], row["other_identity"], row["copy_of"], row["again_of"], row["vfr"]
        if not any(odd):
            chosen.setdefault(row["identity"], folder / "videos" / row["path"])
    found: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as work, LipSync(*find_weights(args.weights)) as session:
        for number, video in enumerate(list(chosen.values())[: args.videos]):
            samples, opening = driving(number)
            tracks = session.tracks(video, "mediapipe", 2)
            for way in (None, "close"):
                cfg, out = Generate(steps=10, max_s=None, silence=way), Path(work, "out.mp4")
                made = pipeline.redraw(video, DrivingAudio(samples), out, session.models(True), cfg, tracks)
                mouth = Mouth(made, session.detector("mediapipe", 2), session.models(True).resolution, False)
                for _, frame in read_video_frames(out):
                    mouth.see(frame)
                figures = measured(mouth.opening, made["times_s"], opening)
                found.setdefault(str(way), []).append(figures)
                shown = {name: round(value, 4) for name, value in figures.items()}
                print(f"{video.name} {way}: {shown}, {made['n_closed']} frames from references", flush=True)
    means = {
        way: {name: round(float(np.mean([row[name] for row in rows])), 4) for name in rows[0]}
        for way, rows in found.items()
    }
    print(json.dumps(means))


def driving(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two sentences and two pauses: samples float32 at 16 kHz, and the opening of the mouth at RATE_HZ."""
    rng, parts, opening = np.random.default_rng(100 + seed), [], []
    for _ in range(2):
        voice = speak(rng, 2.4, rng.uniform(90, 230), rng.uniform(0.95, 1.2))
        parts.append(voice.audio)
        opening.append(voice.opening_at(np.arange(240) / RATE_HZ))
        n = int(rng.uniform(0.5, 1.0) * RATE_HZ)
        noise = rng.standard_normal(n * SAMPLE_RATE_HZ // RATE_HZ) * 10 ** (NOISE_DB / 20)
        parts.append(noise if seed % 2 else 0 * noise)
        opening.append(np.zeros(n))
    return np.concatenate(parts).astype(np.float32), np.concatenate(opening)


def measured(opening: np.ndarray, times_s: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Mean opening in speech and in pauses, and the shares of the latter in the former."""
    at = np.clip((times_s * RATE_HZ + 1).astype(int), 0, len(truth) - 1)
    pause, inner, edge = np.zeros(len(truth), bool), np.zeros(len(truth), bool), round(EDGE_S * RATE_HZ)
    for start, stop, closed in spans(truth < 0.02):
        if closed and stop - start >= LEAST_S * RATE_HZ:
            pause[start:stop], inner[start + edge : stop - edge] = True, True
    speech = float(np.nanmean(opening[truth[at] > 0.1]))
    in_pause, inside = (float(np.nanmean(opening[which[at]])) for which in (pause, inner))
    known = np.isfinite(opening)
    return {
        "speech": speech,
        "pause": in_pause,
        "pause_share": in_pause / speech,
        "inner_share": inside / speech,
        "r": float(np.corrcoef(opening[known], truth[at][known])[0, 1]),
        "largest_step": float(np.nanmax(np.abs(np.diff(opening)))),
    }


if __name__ == "__main__":
    main()
