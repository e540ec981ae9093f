"""Are places where windows meet visible? Neighbouring frames of generated mouths at borders and elsewhere.

    python benchmarks/seams.py --weights results/demo [--clips 4] [--overlaps 0 1 2 4] [--steps 10] [--guidance 1.5]

`ratio`: on talkers driven by another talker's audio, the difference of neighbouring frames inside the mouth region
where two windows meet, divided by that of the same two frames where they do not (1: neither seam nor smear). Each clip
is drawn with windows that begin at several frames, so every pair of frames is its own control. `still`: one frozen
frame with constant audio, largest and mean step at a border, grey levels. Prints a table and one line of JSON.
"""

import argparse
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentsync.config import Generate
from latentsync.faces.mask import keep_mask
from latentsync.generation import joining
from latentsync.generation.api import LipSync, find_weights
from latentsync.ledger.files import read_ledger
from latentsync.media.audio import read_flac
from latentsync.media.read import read_clip
from latentsync.timing import SAMPLE_RATE_HZ, TICKS_PER_S, whisper_rows

GRIDS = 4  # drawings of a clip


def steps_of(models: Any, conditioning: Tensor, tokens: Tensor, cfg: Generate, overlap: int) -> tuple[Any, Any]:
    """Differences of neighbouring frames float64 [f - 1], grey levels, and whether each lies at a border."""
    windows = joining.windows(len(tokens), models.frames, overlap)

    def latents_of(batch: list[joining.Window]) -> Tensor:
        return models.denoise(
            torch.stack([conditioning[w] for w in batch]), torch.stack([tokens[w] for w in batch]), cfg
        )

    assert cfg.batch_size is not None
    pieces = list(joining.joined(windows, cfg.batch_size, overlap, latents_of))
    faces = models.decode(torch.cat([latents for _, latents in pieces])).cpu().numpy()
    mouth = keep_mask(models.resolution) < 0.5
    steps = np.array([np.abs(after - before)[:, mouth].mean() for before, after in pairwise(faces)], np.float64)
    at_border = np.zeros(len(steps), bool)
    at_border[[start - 1 for start, _ in pieces[1:]]] = True
    return steps, at_border


def paired(
    models: Any, conditioning: Tensor, tokens: Tensor, cfg: Generate, overlap: int
) -> tuple[list[float], list[float]]:
    """Steps where windows meet, and those of the same two frames, as a mean, in drawings where they do not."""
    first = range(0, models.frames, models.frames // GRIDS)
    steps, meets = np.full((GRIDS, len(tokens) - 1), np.nan), np.zeros((GRIDS, len(tokens) - 1), bool)
    for row, start in enumerate(first):
        steps[row, start:], meets[row, start:] = steps_of(models, conditioning[start:], tokens[start:], cfg, overlap)
    rest = np.nanmean(np.where(meets, np.nan, steps), 0)
    at = [(row, frame) for row, frame in np.argwhere(meets) if frame >= models.frames]  # all drawings have these
    return [float(steps[row, frame]) for row, frame in at], [float(rest[frame]) for _, frame in at]


def main() -> None:
    """Measure all overlaps on the same clips."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="folder of a finished run")
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--overlaps", type=int, nargs="+", default=[0, 1, 2, 4])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--guidance", type=float, default=1.5)
    args = parser.parse_args()
    rows = [
        row
        for path in sorted((args.weights / "align_faces").glob("*.jsonl"))
        for row in read_ledger(path)
        if row["kind"] == "clip" and row["status"] == "ok" and row["n_ticks"] >= 80
    ][: args.clips]
    cfg = Generate(steps=args.steps, guidance=args.guidance, batch_size=8)
    found: dict[int, dict[str, list[Any]]] = {o: {"border": [], "else": [], "still": []} for o in args.overlaps}
    with LipSync(*find_weights(args.weights)) as session, torch.inference_mode():
        models = session.models(True)
        for row, other in zip(rows, rows[1:] + rows[:1], strict=True):
            samples = read_flac(args.weights / other["audio_file"])
            faces = read_clip(args.weights / row["crop_file"])[: len(samples) * TICKS_PER_S // SAMPLE_RATE_HZ]
            conditioning = models.encode(faces)
            tokens = models.listen(samples)(whisper_rows(np.arange(len(faces)) / TICKS_PER_S))
            still, constant = conditioning[20:21].repeat(64, 1, 1, 1), tokens[20:21].repeat(64, 1, 1)
            for overlap, lists in found.items():
                border, rest = paired(models, conditioning, tokens, cfg, overlap)
                lists["border"] += border
                lists["else"] += rest
                steps, at_border = steps_of(models, still, constant, cfg, overlap)
                lists["still"] += steps[at_border].tolist()
    print("overlap | borders | at borders | elsewhere | ratio | +- | p95 at / else | still: largest, mean step")
    result = {}
    for overlap, lists in found.items():
        border, rest, still = (np.array(lists[name]) for name in ("border", "else", "still"))
        ratio = border.mean() / rest.mean()
        error = (border - ratio * rest).std() / np.sqrt(len(border)) / rest.mean()
        tails = np.percentile(border, 95), np.percentile(rest, 95)
        print(
            f"{overlap} | {len(border)} | {border.mean():.3f} | {rest.mean():.3f} | {ratio:.3f} | {error:.3f} | "
            f"{tails[0]:.2f} / {tails[1]:.2f} | {still.max():.3f}, {still.mean():.3f}"
        )
        result[overlap] = {"ratio": round(ratio, 3), "error": round(error, 3), "still_max": round(still.max(), 3)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
