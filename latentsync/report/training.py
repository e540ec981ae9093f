"""Loss curves: from curve.csv files to lists that the page draws."""

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MAX_POINTS = 400  # a longer curve is averaged over equal stretches; more points than pixels show nothing
TITLES = {
    "train_vae": ("VAE", "a small AutoencoderKL on the aligned faces"),
    "train_syncnet": ("SyncNet", "in sync or not, from the lower face and the sound"),
    "train_unet_stage1": ("U-Net, stage 1", "noise prediction alone, every weight"),
    "train_unet_stage2": ("U-Net, stage 2", "all four losses; attention and motion layers"),
}
WORDS = {
    "recon": "How far the picture is off.",
    "noise": "How far the predicted noise is off.",
    "sync": "What SyncNet says about the redrawn mouth.",
    "lpips": "Difference seen by the perceptual teacher, lower half.",
    "trepa": "Difference seen by the video teacher.",
    "kl": "Distance of the latents from a normal distribution.",
}


def read_curve(path: Path) -> tuple[list[int], dict[str, list[float | None]]]:
    """Steps and one list per loss; an empty cell or a number that is none is None.

    Raises:
        ValueError: the file has no column `step`.
    """
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if rows and "step" not in rows[0]:
        raise ValueError(f"{path} has no column step; delete it and run its training step again.")
    names = [name for name in (rows[0] if rows else []) if name != "step"]
    return [int(float(row["step"])) for row in rows], {name: [_value(row[name]) for row in rows] for name in names}


def _value(cell: str | None) -> float | None:
    if cell is None or cell.strip() == "":
        return None
    value = float(cell)
    return value if math.isfinite(value) else None


def thin(points: list[tuple[int, float]]) -> list[list[float]]:
    """[steps, values] of equal stretches and their means, at most MAX_POINTS of them."""
    size = math.ceil(len(points) / MAX_POINTS) or 1
    stretches = [points[start : start + size] for start in range(0, len(points), size)]
    return [[stretch[-1][0] for stretch in stretches], [_mean([v for _, v in stretch]) for stretch in stretches]]


def _mean(values: list[float]) -> float:
    return float(f"{sum(values) / len(values):.5g}")


def summarise(name: str, path: Path) -> dict[str, Any]:
    """One training step for the page: a panel for each figure, or the reason why there is none."""
    title, words = TITLES[name]
    steps, figures = read_curve(path)
    lines = {figure: [(s, v) for s, v in zip(steps, values, strict=True) if v is not None] for figure, values in figures.items()}
    lines = {figure: points for figure, points in lines.items() if points}
    if len(lines) > 1:  # the total of a single loss says nothing that the loss does not say
        lines = {figure: points for figure, points in lines.items() if figure != "loss" or not _repeated(points, lines)}
    panels = []
    for figure, points in lines.items():
        if _trained(figure) not in lines or figure == _trained(figure):
            held_out = next((lines[other] for other in lines if other != figure and _trained(other) == figure), None)
            panels.append(_panel(name, figure, points, held_out))
    reason = None if panels else "The curve is empty: the training was shorter than its key log_every."
    return {"step": name, "title": title, "words": words, "panels": panels, "reason": reason}


def _trained(figure: str) -> str:
    """The name of a figure without the mark of held-out data."""
    return figure.removeprefix("val_").removeprefix("validation_")


def _repeated(points: list[tuple[int, float]], lines: dict[str, list[tuple[int, float]]]) -> bool:
    return any(points == other for figure, other in lines.items() if figure != "loss")


def _panel(step: str, figure: str, points: list[tuple[int, float]], held_out: list[tuple[int, float]] | None) -> dict[str, Any]:
    values = [value for _, value in points + (held_out or [])]
    known = [value for _, value in points]
    tenth = max(1, len(known) // 10)
    # a loss that falls by decades shows nothing on a linear axis
    log = min(values) > 0 and max(values) / sorted(values)[len(values) // 20] > 50
    guess = step == "train_syncnet" and _trained(figure) in ("loss", "bce", "sync")
    return {
        "figure": figure,
        "title": figure.replace("val_", "held out: ").replace("_", " "),
        "train": thin(points),
        "held_out": thin(held_out) if held_out else None,
        "first": _mean(known[:tenth]),
        "last": _mean(known[-tenth:]),
        "log": log,
        "mark": {"at": round(math.log(2), 4), "words": "ln 2: guessing"} if guess else None,
        "words": WORDS.get(_trained(figure).removesuffix("_loss"), ""),
    }


def summarise_all(curves: Mapping[str, Path]) -> list[dict[str, Any]]:
    """All training steps that ran, in the order of the data."""
    return [summarise(name, curves[name]) for name in TITLES if name in curves]
