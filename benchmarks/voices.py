"""Does each of two people in one video say what their own audio says? On synthetic talkers, side by side.

    python benchmarks/voices.py --weights results/demo [--videos 5] [--seconds 8]

Every video shows two people, whose mouths are redrawn to a voice each. Figures are correlations of the measured mouth
opening with the opening behind an audio: its own, and that of the other person. Two voices agree by chance, so pairs
are drawn until their openings correlate by less than 0.05; `chance` is what is left.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch

from latentsync.config import Generate
from latentsync.evaluation.metrics import correlation
from latentsync.generation import pipeline, speakers
from latentsync.generation.audio import DrivingAudio
from latentsync.generation.session import LipSync
from latentsync.media.read import read_frames
from latentsync.synthetic.look import looks
from latentsync.synthetic.plan import TWO_FACES, Take
from latentsync.synthetic.render import render
from latentsync.synthetic.voice import Voice, speak
from latentsync.weights.find import find_weights

SEED, WIDTH, HEIGHT, FACE_PX = 7, 570, 320, 110.0
SIDES = ("left", "right")
MOST_CHANCE = 0.05
FPS = 25


def main() -> None:
    """Print a row for each face and the means and extremes as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="folder of a finished run")
    parser.add_argument("--videos", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    people, own, other = looks(SEED, 2 * args.videos), [], []
    with tempfile.TemporaryDirectory() as work, LipSync(*find_weights(args.weights)) as session:
        for number in range(args.videos):
            first, second = people[2 * number : 2 * number + 2]
            shape = {"width": WIDTH, "height": HEIGHT, "face_px": (FACE_PX,)}
            take = Take(f"{number}.mp4", first, TWO_FACES, "other speaks", second, duration_s=args.seconds, **shape)
            render(take, SEED, Path(work))
            said, chance = two_voices(number, args.seconds)
            shown = redrawn(session, Path(work, take.path), [voice.audio for voice in said], Path(work, "out.mp4"))
            times_s = np.arange(len(shown)) / FPS
            truth = [voice.opening_at(times_s) for voice in said]
            for side, name in enumerate(SIDES):
                own.append(correlation(shown[:, side], truth[side]))
                other.append(correlation(shown[:, side], truth[1 - side]))
                print(f"{take.path} {name}: own {own[-1]:.3f}, other {other[-1]:.3f}, chance {chance:.3f}", flush=True)
    print(
        json.dumps(
            {
                "own_mean": round(float(np.mean(own)), 3),
                "own_least": round(min(own), 3),
                "other_mean": round(float(np.mean(other)), 3),
                "other_most": round(max(other), 3),
                "faces": len(own),
            }
        )
    )


def two_voices(number: int, duration_s: float) -> tuple[list[Voice], float]:
    """Two voices whose openings hardly correlate, and by how much they do."""
    rng, times_s = np.random.default_rng(SEED + number), np.arange(round(duration_s * FPS)) / FPS
    while True:
        said = [speak(rng, duration_s, rng.uniform(90, 230), rng.uniform(0.95, 1.2)) for _ in SIDES]
        chance = correlation(*(voice.opening_at(times_s) for voice in said))
        if abs(chance) < MOST_CHANCE:
            return said, chance


def redrawn(session: LipSync, video: Path, said: list[np.ndarray], out: Path) -> np.ndarray:
    """Measured opening of the left and the right mouth of the result, float64 [n, 2]; NaN where a face is not found."""
    tracks, models = session.tracks(video, "mediapipe", 2), session.models(True)
    audio = [DrivingAudio(samples) for samples in said]
    n_frames = len(list(read_frames(video)))
    labels = [speakers.choose(tracks, n_frames, side).labels for side in SIDES]
    cfg = Generate(max_s=None, length="video")
    pipeline.redraw(video, audio[0], out, models, cfg, tracks, list(zip(labels, audio, strict=True)))
    detector, opening = session.detector("mediapipe", 2), np.full((n_frames, len(SIDES)), np.nan)
    detector.reset()
    for frame, (_, rgb) in enumerate(read_frames(out)):
        for face in detector.detect(rgb):
            opening[frame, int(face.landmarks[:, 0].mean() > rgb.shape[1] / 2)] = face.mouth_opening
    return opening


if __name__ == "__main__":
    main()
