"""Loss curves: from curve.csv files to the panels that the page draws."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

MAX_POINTS = 400  # a longer curve is averaged over equal stretches: it has more points than pixels
HELD_OUT, OTHER_AUDIO = "held-out data", "held-out data, another clip's audio"
STEPS = {
    "train_vae": ("VAE", "a small AutoencoderKL on the aligned faces"),
    "train_syncnet": ("SyncNet", "in sync or not, from the lower face and the audio"),
    "train_unet_stage1": ("U-Net, stage 1", "noise prediction alone, every weight"),
    "train_unet_stage2": ("U-Net, stage 2", "all losses; attention and motion layers"),
}
TRAINED = "training data"
# (title, words, {column of curve.csv: name of its line}); every other column gets a panel of its own
_NOISE = {"recon": TRAINED, "val_recon": HELD_OUT, "val_recon_other_sound": OTHER_AUDIO}
_PSNR = {"val_psnr_db": "whole face", "val_masked_psnr_db": "mouth blanked"}
_GRADIENTS = {f"grad_{loss}": loss for loss in ("recon", "sync", "lpips", "trepa")}
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
        ("Accuracy", "Held-out pairs judged correctly.", _ACCURACY),
    ],
    "train_unet_stage1": [("Noise", "Error of the predicted noise.", _NOISE)],
    "train_unet_stage2": [
        ("Noise", "Error of the predicted noise.", _NOISE),
        ("Sync", "SyncNet's loss of the generated mouth.", {"sync": TRAINED}),
        ("LPIPS", "Distance measured by the perceptual teacher, lower half.", {"lpips": TRAINED}),
        ("TREPA", "Distance measured by the video teacher.", {"trepa": TRAINED}),
        ("Gradients", "Gradient of each weighted loss at the U-Net's output.", _GRADIENTS),
    ],
}
CHANCE = {  # horizontal marks of panels, by step and title
    ("train_syncnet", "Sync"): {"at": round(math.log(2), 4), "words": "ln 2: chance"},
    ("train_syncnet", "Accuracy"): {"at": 0.5, "words": "chance"},
}


CHANCE_LOSS, CHANCE_ACCURACY = 0.95 * math.log(2), 0.65  # a loss above the one, an accuracy below the other: guessing


def read_curve(path: Path) -> dict[str, pd.Series]:
    """The values of every column by step; empty cells, NaN and infinities are left out.

    Raises:
        ValueError: the file has no column `step`.
    """
    table = pd.read_csv(path, float_precision="round_trip")  # pyright: ignore[reportCallIssue, reportArgumentType]  # stub lacks it
    if "step" not in table:
        raise ValueError(f"{path} has no column step; delete it and run its training step again.")
    table = table.set_index("step").astype(float).replace([math.inf, -math.inf], math.nan)
    return {name: column.dropna() for name, column in table.items() if column.notna().any()}


def thin(points: pd.Series) -> tuple[list[int], list[float]]:
    """Last steps and means of equal stretches, at most MAX_POINTS of them."""
    size = math.ceil(len(points) / MAX_POINTS) or 1
    stretches = [points.iloc[start : start + size] for start in range(0, len(points), size)]
    return [int(stretch.index[-1]) for stretch in stretches], [_mean(stretch) for stretch in stretches]


def _ends(points: pd.Series) -> tuple[float, float]:
    """Means of the first and the last tenth."""
    tenth = max(1, len(points) // 10)
    return _mean(points.iloc[:tenth]), _mean(points.iloc[-tenth:])


def _mean(values: pd.Series) -> float:
    return float(f"{values.mean():.5g}")


def summarise(step: str, path: Path) -> dict[str, Any]:
    """One training step for the page: its panels, or the reason why there are none."""
    title, words = STEPS[step]
    lines = read_curve(path)
    if any(points.equals(lines.get("loss")) for name, points in lines.items() if name != "loss"):
        del lines["loss"]  # the total of a single loss is that loss
    known = {column for _, _, columns in PANELS[step] for column in columns}
    plans = PANELS[step] + [(_titled(name), "", {name: TRAINED}) for name in lines if name not in known]
    panels = [
        _panel(step, title, words, columns, lines) for title, words, columns in plans if columns.keys() & lines.keys()
    ]
    reason = None if panels else "The curve is empty."
    return {"step": step, "title": title, "words": words, "panels": panels, "reason": reason}


def guesses(curve: Path, clips: int, length: str) -> str | None:
    """A sentence where a SyncNet learned nothing that holds for held-out data; None where it did, or none was held out.

    `clips`, `length`: what it was trained on. Guessing has a loss of ln 2 and judges half of the pairs correctly; the
    accuracy is that at the best threshold, which is above a half for few pairs.
    """
    lines = read_curve(curve)
    if "val_sync" not in lines:
        return None
    ends = {name: _ends(lines[name])[1] for name in ("val_sync", "val_best") if name in lines}
    accuracy = ends.get("val_best", 0.5)
    if ends["val_sync"] < CHANCE_LOSS or accuracy >= CHANCE_ACCURACY:
        return None
    return (
        f"The SyncNet of this run guesses: on held-out clips its loss ended at {ends['val_sync']:.3f}, where guessing "
        f"has ln 2 = {math.log(2):.3f}, and it judged {accuracy:.0%} of the pairs correctly at its best threshold. "
        f"{clips} clips ({length}) are too little to train it, so its figures, and the sync loss of stage 2, say "
        "nothing about this footage. Add hours of footage of many people; evaluate.sync_backend: syncnet_v2 judges "
        "sync without a SyncNet of the run."
    )


def _titled(column: str) -> str:
    return {"loss": "Weighted sum"}.get(column, column.replace("val_", "held out: ").replace("_", " "))


def _panel(
    step: str, title: str, words: str, columns: Mapping[str, str], lines: Mapping[str, pd.Series]
) -> dict[str, Any]:
    drawn = []
    for column, name in columns.items():
        if column in lines:
            steps, values = thin(lines[column])
            first, last = _ends(lines[column])
            ends = {"first": first, "last": last}
            drawn.append({"column": column, "name": name, "steps": steps, "values": values, **ends})
    shown = sorted(value for line in drawn for value in line["values"])
    # values over decades need a log axis; the twentieth ignores single dips
    log = shown[0] > 0 and shown[-1] / shown[len(shown) // 20] > 50
    return {"title": title, "words": words, "lines": drawn, "log": log, "mark": CHANCE.get((step, title))}
