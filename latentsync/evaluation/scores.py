"""Figures of the evaluation from its items: each with the number of items behind it, an interval, or a reason for none.

A figure is {value, low, high, n, reason, note}: `reason` says why there is no value, `note` what the value rests on.
Items of kind `video` are described in steps/evaluate.py, outcomes in evaluation/planted.py.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from latentsync.evaluation import metrics

Item = dict[str, Any]
Figure = dict[str, Any]

TOP_DB = 100.0  # stands for pictures that do not differ at all
SYSTEMS = {  # (system, kind) -> title of its row
    ("ground_truth", "own"): "The source itself, its own sound (at its planted offset)",
    ("copy", "cross"): "Control: the source left as it is, under foreign sound",
    ("untrained", "cross"): "Control: the same U-Net, untrained, foreign sound",
    ("ours", "own"): "Ours, own sound",
    ("ours", "cross"): "Ours, foreign sound",
}


def unknown(reason: str) -> Figure:
    """A figure that was not measured."""
    return {"value": None, "low": None, "high": None, "n": 0, "reason": reason, "note": ""}


def figure(value: float, n: int, interval: tuple[float, float] | None = None, note: str = "") -> Figure:
    """A measured figure; NaN limits of the interval become null."""
    low, high = (None if not math.isfinite(limit) else round(limit, 6) for limit in interval or (math.nan, math.nan))
    return {"value": round(float(value), 6), "low": low, "high": high, "n": int(n), "reason": None, "note": note}


class Bootstrap:
    """Intervals over whole groups with the configured number of resamples."""

    def __init__(self, resamples: int, seed: int):
        self.resamples, self.seed = resamples, seed

    def __call__(
        self, values: Sequence[float], groups: Sequence[object] | None = None, statistic: Callable = np.mean
    ) -> tuple[float, float]:
        """The 95 % interval of a statistic of the values."""
        return metrics.bootstrap(values, self.resamples, self.seed, groups, statistic)


def syncnet_figures(
    cosines: np.ndarray,
    in_sync: np.ndarray,
    clips: Sequence[int],
    shuffled: tuple[np.ndarray, np.ndarray, Sequence[int]],
    threshold: float,
    interval: Bootstrap,
) -> dict[str, Figure]:
    """Accuracy at the threshold that val chose, at the published 0.5, the area under the curve, and the control."""
    right = (cosines > threshold) == in_sync
    at_half = (cosines > 0.5) == in_sync
    note = f"threshold {threshold:.3f} of the cosine, chosen on the validation clips"
    result = {
        "syncnet_accuracy_5f": figure(right.mean(), len(right), interval(right, clips), note),
        "syncnet_accuracy_at_0.5": figure(at_half.mean(), len(right), interval(at_half, clips), "published threshold"),
        "syncnet_auc": figure(metrics.auc(cosines, in_sync), len(right), note="needs no threshold"),
    }
    if not len(shuffled[0]):
        reason = "all test clips are of one group, so there is no foreign sound"
        return result | {"syncnet_accuracy_shuffled": unknown(reason)}
    right = (shuffled[0] > threshold) == shuffled[1]
    note = "the same pictures and labels, each with sound of other groups"
    return result | {"syncnet_accuracy_shuffled": figure(right.mean(), len(right), interval(right, shuffled[2]), note)}


def curation_figures(outcomes: Sequence[Item], interval: Bootstrap) -> dict[str, Figure]:
    """Planted offsets found, faults rejected for their reason, good stretches rejected."""
    offsets = [item for item in outcomes if "offset_within_1" in item]
    good = [item for item in outcomes if item["expected"] is None]
    faults = [item for item in outcomes if item["expected"] is not None]
    result = {}
    for name, some in (("offset_within_1", offsets), ("offset_within_1_good", [o for o in offsets if o in good])):
        hits = [float(item["offset_within_1"]) for item in some]
        missed = Counter(str(item["expected"] or "good") for item in some if not item["offset_within_1"])
        note = "missed: " + (", ".join(f"{n} {kind}" for kind, n in sorted(missed.items())) or "none")
        reason = "the truth holds no clip with a talking face"
        result[name] = figure(np.mean(hits), len(hits), interval(hits), note) if hits else unknown(reason)
    right = [float(item["right"]) for item in faults]
    wrong = "; ".join(_became(item) for item in faults if not item["right"])
    lost = "; ".join(_became(item) for item in good if not item["right"])
    no_faults, no_good = "no fault was planted", "nothing was planned as good"
    result["faults_right_reason"] = figure(np.mean(right), len(right), note=wrong) if right else unknown(no_faults)
    rejected = sum(not item["right"] for item in good)
    result["good_rejected"] = figure(rejected, len(good), note=lost) if good else unknown(no_good)
    return result


def _became(item: Item) -> str:
    return f"{item['path']}: {item['expected'] or 'good'} became {'/'.join(item['found'])}"


def mouth_figures(videos: Sequence[Item], interval: Bootstrap) -> dict[str, Figure]:
    """Does the written mouth follow the sound that drove it, and not the picture it was drawn into?"""
    cross = [item for item in videos if (item["system"], item["drive"]) == ("ours", "cross")]
    if not cross:
        return dict.fromkeys(("mouth_r", "mouth_r_shuffled"), unknown("no video was driven by foreign sound"))
    people = len({item["picture_group"] for item in cross})
    note = f"{len(cross)} videos of {people} people; a video whose mouth could not be measured counts as 0"
    result = {}
    for name, key in (("mouth_r", "mouth_r"), ("mouth_r_shuffled", "mouth_r_picture")):
        values = [item[key] or 0.0 for item in cross]
        result[name] = figure(np.mean(values), len(values), interval(values), note)
    return result


def outside_figures(videos: Sequence[Item], interval: Bootstrap) -> dict[str, Figure]:
    """How much of the picture outside the mask survived, beside an untouched copy written with the same settings."""
    ours = [item for item in videos if item["system"] == "ours"]
    if not ours:
        return dict.fromkeys(("psnr_outside_db", "psnr_copy_db", "mask_share"), unknown("no video was generated"))

    def pooled(name: str) -> Figure:
        errors = np.array([[item[name]["squared_error"], item[name]["count"]] for item in ours])

        def total_db(rows: np.ndarray) -> float:
            error, count = errors[rows.astype(int)].sum(0)
            return min(TOP_DB, metrics.psnr_db(error, int(count)))

        each = [min(TOP_DB, metrics.psnr_db(error, int(count))) for error, count in errors]
        note = f"all pixels of {len(ours)} videos pooled; the worst video has {min(each):.1f} dB"
        rows = np.arange(len(ours))
        return figure(total_db(rows), len(ours), interval(rows, statistic=total_db), note)

    shares = [item["mask_share"] for item in ours]
    return {
        "psnr_outside_db": pooled("outside"),
        "psnr_copy_db": pooled("outside_copy"),
        "mask_share": figure(np.mean(shares), len(shares), interval(shares), "of all pixels of all frames"),
    }


def table(videos: Iterable[Item], failed: Counter, interval: Bootstrap) -> list[Item]:
    """One row for each system, controls first; what a row does not know is null."""
    rows = []
    videos = list(videos)
    for (system, kind), title in SYSTEMS.items():
        mine = [item for item in videos if (item["system"], item["drive"]) == (system, kind)]
        if not mine and not failed[system, kind]:
            continue
        known = [item["mouth_r"] or 0.0 for item in mine if item["mouth_r_known"]]
        low, high = interval(known) if known else (math.nan, math.nan)
        r = figure(np.mean(known), len(known), (low, high)) if known else unknown("")
        outside = [item["psnr_outside_db"] for item in mine if item["psnr_outside_db"] is not None]
        sure = [item["sync_confidence"] for item in mine]
        row = {"system": system, "driven_by": kind, "title": title, "n": len(mine), "failed": failed[system, kind]}
        row |= {"mouth_r": r["value"], "mouth_r_low": r["low"], "mouth_r_high": r["high"]}
        row |= {
            "psnr_outside_db": round(float(np.mean(outside)), 3) if outside else None,
            "sync_confidence": round(float(np.median(sure)), 3) if sure else None,
            "sync_within_1": round(float(np.mean([abs(item["sync_offset_frames"]) <= 1 for item in mine])), 3)
            if mine
            else None,
        }
        rows.append(row)
    return rows
