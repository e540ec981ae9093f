"""Loss curves: from curve.csv files to the panels that the page draws."""

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MAX_POINTS = 400  # a longer curve is averaged over equal stretches; more points than pixels show nothing
HELD_OUT, OTHER_SOUND = "held-out data", "held-out data, another clip's sound"
STEPS = {
    "train_vae": ("VAE", "a small AutoencoderKL on the aligned faces"),
    "train_syncnet": ("SyncNet", "in sync or not, from the lower face and the sound"),
    "train_unet_stage1": ("U-Net, stage 1", "noise prediction alone, every weight"),
    "train_unet_stage2": ("U-Net, stage 2", "all losses; attention and motion layers"),
}
TRAINED = "training data"
# (title, words, {column of curve.csv: name of its line}); whatever column is not named here gets a panel of its own
_NOISE = {"recon": TRAINED, "val_recon": HELD_OUT, "val_recon_other_sound": OTHER_SOUND}
_PSNR = {"val_psnr_db": "whole face", "val_masked_psnr_db": "mouth blanked"}
_ACCURACY = {"val_accuracy": "at the published threshold", "val_best": "at the best threshold"}
PANELS = {
    "train_vae": [
        ("Absolute error", "Pixels in [−1, 1].", {"l1": TRAINED}),
        ("Squared error", "Pixels in [−1, 1].", {"mse": TRAINED}),
        ("KL", "Distance of the latents from a normal distribution.", {"kl": TRAINED}),
        ("PSNR, dB", "Held-out faces through the VAE and back.", _PSNR),
    ],
    "train_syncnet": [
        ("Sync", "Cross entropy of the cosine.", {"sync": TRAINED, "val_sync": HELD_OUT}),
        ("Accuracy", "Held-out pairs judged rightly.", _ACCURACY),
    ],
    "train_unet_stage1": [("Noise", "How far the predicted noise is off.", _NOISE)],
    "train_unet_stage2": [
        ("Noise", "How far the predicted noise is off.", _NOISE),
        ("Sync", "What SyncNet says about the redrawn mouth.", {"sync": TRAINED}),
        ("LPIPS", "Difference seen by the perceptual teacher, lower half.", {"lpips": TRAINED}),
        ("TREPA", "Difference seen by the video teacher.", {"trepa": TRAINED}),
        (
            "Gradients",
            "What each weighted loss sends into the U-Net's output.",
            {f"grad_{name}": name for name in ("recon", "sync", "lpips", "trepa")},
        ),
    ],
}
GUESSING = {
    ("train_syncnet", "Sync"): (round(math.log(2), 4), "ln 2: guessing"),
    ("train_syncnet", "Accuracy"): (0.5, "guessing"),
}


def read_curve(path: Path) -> dict[str, list[tuple[int, float]]]:
    """The (step, value) pairs of every column; empty cells and what is no number are left out.

    Raises:
        ValueError: the file has no column `step`.
    """
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if rows and "step" not in rows[0]:
        raise ValueError(f"{path} has no column step; delete it and run its training step again.")
    lines: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        for name, cell in row.items():
            if name != "step" and cell and math.isfinite(float(cell)):
                lines.setdefault(name, []).append((int(float(row["step"])), float(cell)))
    return lines


def thin(points: list[tuple[int, float]]) -> tuple[list[int], list[float]]:
    """Steps and values of equal stretches and their means, at most MAX_POINTS of them."""
    size = math.ceil(len(points) / MAX_POINTS) or 1
    stretches = [points[start : start + size] for start in range(0, len(points), size)]
    return [stretch[-1][0] for stretch in stretches], [_mean([v for _, v in stretch]) for stretch in stretches]


def _mean(values: list[float]) -> float:
    return float(f"{sum(values) / len(values):.5g}")


def summarise(step: str, path: Path) -> dict[str, Any]:
    """One training step for the page: its panels, or the reason why there are none."""
    title, words = STEPS[step]
    lines = read_curve(path)
    if any(lines.get("loss") == points for name, points in lines.items() if name != "loss"):
        del lines["loss"]  # the total of a single loss says what the loss says
    known = {column for _, _, columns in PANELS[step] for column in columns}
    plans = PANELS[step] + [(_spoken(name), "", {name: TRAINED}) for name in lines if name not in known]
    panels = [
        _panel(step, title, words, columns, lines) for title, words, columns in plans if columns.keys() & lines.keys()
    ]
    reason = None if panels else "The curve is empty."
    return {"step": step, "title": title, "words": words, "panels": panels, "reason": reason}


def _spoken(column: str) -> str:
    return {"loss": "Weighted sum"}.get(column, column.replace("val_", "held out: ").replace("_", " "))


def _panel(
    step: str, title: str, words: str, columns: Mapping[str, str], lines: Mapping[str, list[tuple[int, float]]]
) -> dict[str, Any]:
    drawn = []
    for column, name in columns.items():
        if column in lines:
            steps, values = thin(lines[column])
            points = [value for _, value in lines[column]]
            tenth = max(1, len(points) // 10)
            ends = {"first": _mean(points[:tenth]), "last": _mean(points[-tenth:])}
            drawn.append({"column": column, "name": name, "steps": steps, "values": values, **ends})
    shown = sorted(value for line in drawn for value in line["values"])
    # what spans decades shows nothing on a linear axis; the twentieth leaves single dips aside
    log = shown[0] > 0 and shown[-1] / shown[len(shown) // 20] > 50
    at, note = GUESSING.get((step, title), (None, ""))
    return {
        "title": title,
        "words": words,
        "lines": drawn,
        "log": log,
        "mark": None if at is None else {"at": at, "words": note},
    }


def summarise_all(curves: Mapping[str, Path]) -> list[dict[str, Any]]:
    """All training steps that ran, in the order of the data."""
    return [summarise(step, curves[step]) for step in STEPS if step in curves]
