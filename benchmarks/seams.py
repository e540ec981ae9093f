"""Are places where windows meet visible? Neighbouring frames of generated mouths at borders and elsewhere.

    python benchmarks/seams.py --weights results/demo [--clips 8] [--frames 76] [--overlaps 0 1 2 4] [--steps 5]

A window is drawn at every frame of talkers driven by another talker's audio; every overlap then joins the same windows,
begun at each of the first frames. `ratio`: the difference of the two frames at a border, inside the mouth region, over
the mean difference of the same two frames in all windows that hold both (1: neither seam nor smear). `+-` is the
standard error over the clips. `still`: one frozen frame with constant audio, the largest step between two frames of
several windows, grey levels. `place`: the difference of two frames by their place in a window, over the mean of all.
Prints a table and one line of JSON.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentsync.config import Generate
from latentsync.faces.mask import keep_mask
from latentsync.generation import joining
from latentsync.generation.session import LipSync
from latentsync.ledger.files import read_ledger
from latentsync.media.audio import read_flac
from latentsync.media.read import read_clip
from latentsync.timing import SAMPLE_RATE_HZ, TICKS_PER_S, whisper_rows
from latentsync.weights.find import find_weights


def every_window(models: Any, conditioning: Tensor, tokens: Tensor, cfg: Generate) -> Tensor:
    """Latents n f c h w of the windows that begin at each frame."""
    assert cfg.batch_size is not None
    starts = range(len(tokens) - models.frames + 1)
    batches = [
        [slice(s, s + models.frames) for s in starts[at : at + cfg.batch_size]] for at in starts[:: cfg.batch_size]
    ]
    drawn = [
        models.denoise(torch.stack([conditioning[w] for w in batch]), torch.stack([tokens[w] for w in batch]), cfg)
        for batch in batches
    ]
    return torch.cat(drawn)


def steps_of(models: Any, latents: Tensor) -> np.ndarray:
    """Mean differences of neighbouring frames in the mouth region, of latents f c h w: float64 [f - 1], grey levels."""
    mouth = torch.from_numpy(keep_mask(models.resolution) < 0.5)
    faces = models.decode(latents).cpu()[:, :, mouth]
    return (faces[1:] - faces[:-1]).abs().mean((1, 2)).double().numpy()


def inside(windows_steps: np.ndarray) -> np.ndarray:
    """Mean step of each pair of frames over the windows that hold both: [n, f - 1] -> [n + f - 2]."""
    n, pairs = windows_steps.shape
    total, count = np.zeros(n + pairs - 1), np.zeros(n + pairs - 1)
    for place in range(pairs):
        total[place : place + n] += windows_steps[:, place]
        count[place : place + n] += 1
    return total / count


def at_borders(models: Any, drawn: Tensor, expected: np.ndarray, overlap: int) -> tuple[list[float], list[float]]:
    """Steps where windows meet, and what `inside` gives for the same frames; for every first frame of a joined run."""
    frames, found, wanted = models.frames, [], []
    for first in range(frames - overlap):
        n_windows = (len(drawn) - 1 - first) // (frames - overlap) + 1
        windows = joining.windows(overlap + n_windows * (frames - overlap), frames, overlap)

        def latents_of(batch: list[joining.Window], first: int = first) -> Tensor:
            return torch.stack([drawn[first + int(window[0])] for window in batch])

        pieces = list(joining.joined(windows, len(windows), overlap, latents_of))
        steps = steps_of(models, torch.cat([latents for _, latents in pieces]))
        meets = [start - 1 for start, _ in pieces[1:]]
        found += steps[meets].tolist()
        wanted += expected[[first + pair for pair in meets]].tolist()
    return found, wanted


def main() -> None:
    """Measure all overlaps on the same clips."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="folder of a finished run")
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--frames", type=int, default=76, help="of each clip")
    parser.add_argument("--overlaps", type=int, nargs="+", default=[0, 1, 2, 4])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--guidance", type=float, default=1.5)
    args = parser.parse_args()
    rows = [
        row
        for path in sorted((args.weights / "align_faces").glob("*.jsonl"))
        for row in read_ledger(path)
        if row["kind"] == "clip" and row["status"] == "ok" and row["n_ticks"] >= args.frames and row["audio_file"]
    ]
    rows = rows[:: max(1, len(rows) // args.clips)][: args.clips]
    cfg = Generate(steps=args.steps, guidance=args.guidance, batch_size=8)
    borders: dict[int, list[tuple[list[float], list[float]]]] = {overlap: [] for overlap in args.overlaps}
    still, places = dict.fromkeys(args.overlaps, 0.0), []
    with LipSync(*find_weights(args.weights)) as session, torch.inference_mode():
        models = session.models(True)
        for row, other in zip(rows, rows[1:] + rows[:1], strict=True):
            samples = read_flac(args.weights / other["audio_file"])
            faces = read_clip(args.weights / row["crop_file"])[: len(samples) * TICKS_PER_S // SAMPLE_RATE_HZ]
            faces = faces[: args.frames]
            conditioning = models.encode(faces)
            tokens = models.listen(samples)(whisper_rows(np.arange(len(faces)) / TICKS_PER_S))
            drawn = every_window(models, conditioning, tokens, cfg)
            constant, said = (x[20:21].expand(2 * models.frames, *x.shape[1:]) for x in (conditioning, tokens))
            frozen = every_window(models, constant, said, cfg)
            steps = np.stack([steps_of(models, latents) for latents in drawn])
            places.append(steps[: len(steps) // models.frames * models.frames].mean(0))
            for overlap, found in borders.items():
                found.append(at_borders(models, drawn, inside(steps), overlap))
                steps_still, _ = at_borders(models, frozen, np.zeros(len(frozen) + models.frames), overlap)
                still[overlap] = max(still[overlap], *steps_still)
    print("overlap | borders | at borders | elsewhere | ratio | +- | p95 at / else | still: largest step")
    result = {}
    for overlap, found in borders.items():
        sums = np.array([(sum(border), sum(rest)) for border, rest in found])
        border, rest = (np.concatenate([pair[i] for pair in found]) for i in (0, 1))
        ratio = border.mean() / rest.mean()
        # Of a ratio of means, over clips (Cochran, "Sampling Techniques", 1977, chapter 6).
        error = np.sqrt(((sums[:, 0] - ratio * sums[:, 1]) ** 2).sum() * len(sums) / (len(sums) - 1)) / sums[:, 1].sum()
        tails = np.percentile(border, 95), np.percentile(rest, 95)
        print(
            f"{overlap} | {len(border)} | {border.mean():.3f} | {rest.mean():.3f} | {ratio:.3f} | {error:.3f} | "
            f"{tails[0]:.2f} / {tails[1]:.2f} | {still[overlap]:.3f}"
        )
        result[overlap] = {"ratio": round(ratio, 3), "error": round(error, 3), "still_max": round(still[overlap], 3)}
    place = np.mean(places, 0)
    print("place |", " ".join(f"{value:.3f}" for value in place / place.mean()))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
