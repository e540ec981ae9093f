"""What evaluate has collected, and the functions that compute figures from it: evidence in, a Measured value out.

A Measured value comes with the number of items behind it and a 95 % interval, or with the reason why there is none.
Items of kind `video` are described in steps/evaluate.py, outcomes in evaluation/planted.py.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from latentsync.evaluation import metrics
from latentsync.ledger.rows import Row

NO_VIDEO = "no video was generated"
TOP_DB = 100.0  # PSNR of identical images, which would be infinite


@dataclass(frozen=True)
class Measured:
    """The value of one figure; as a dict it is what metrics.json holds."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    reason: str | None = None  # why there is no value
    note: str = ""  # what the value rests on


def unknown(reason: str) -> Measured:
    """A figure that was not measured."""
    return Measured(reason=reason)


def measured(value: float, n: int, interval: tuple[float, float] | None = None, note: str = "") -> Measured:
    """A measured figure; a limit that is NaN becomes None."""
    low, high = (round(limit, 6) if math.isfinite(limit) else None for limit in interval or (math.nan, math.nan))
    return Measured(round(float(value), 6), low, high, int(n), None, note)


@dataclass(frozen=True)
class Pairs:
    """Cosines of the trained SyncNet for pairs of test clips, the truth about each, and the clip it shows."""

    cosines: np.ndarray  # float64 [n]
    in_sync: np.ndarray  # bool [n]
    clips: Sequence[int]  # length n; intervals are drawn over clips


NO_PAIRS = Pairs(np.zeros(0), np.zeros(0, bool), [])


@dataclass(frozen=True)
class Evidence:
    """Everything that figures are computed from."""

    interval: Callable[..., tuple[float, float]]  # metrics.bootstrap with its number of resamples and its seed
    videos: Sequence[Row] = ()
    outcomes: Sequence[Row] = ()
    pairs: Pairs = NO_PAIRS
    shuffled: Pairs = NO_PAIRS  # the same frames and labels, each with audio of other groups
    threshold: float = 0.5  # of the cosine, chosen on the validation clips
    no_pairs: str = ""  # why there are no pairs

    @property
    def ours(self) -> list[Row]:
        """Videos of the trained model."""
        return [item for item in self.videos if item["system"] == "ours"]

    def mean(self, values: Sequence[float], note: str = "", groups: Sequence[object] | None = None) -> Measured:
        """Mean of values with its interval, drawn over groups."""
        return measured(float(np.mean(values)), len(values), self.interval(values, groups), note)


# --- SyncNet --------------------------------------------------------------------------------------------------------


def accuracy(e: Evidence, threshold: float, note: str) -> Measured:
    """Share of pairs that the SyncNet judges correctly."""
    if not len(e.pairs.cosines):
        return unknown(e.no_pairs)
    return e.mean((e.pairs.cosines > threshold) == e.pairs.in_sync, note, e.pairs.clips)


def accuracy_at_own(e: Evidence) -> Measured:
    """At the threshold of the validation clips."""
    return accuracy(e, e.threshold, f"threshold {e.threshold:.3f} of the cosine, chosen on the validation clips")


def accuracy_shuffled(e: Evidence) -> Measured:
    """At the same threshold, with audio of other groups."""
    if len(e.pairs.cosines) and not len(e.shuffled.cosines):
        return unknown("all test clips are of one group, so there is no foreign audio")
    note = "the same frames and labels, each with audio of other groups"
    return accuracy(replace(e, pairs=e.shuffled), e.threshold, note)


def auc(e: Evidence) -> Measured:
    """Area under the ROC curve."""
    if not len(e.pairs.cosines):
        return unknown(e.no_pairs)
    return measured(metrics.auc(e.pairs.cosines, e.pairs.in_sync), len(e.pairs.cosines), note="needs no threshold")


# --- Curation against the ground truth ------------------------------------------------------------------------------


def offsets(e: Evidence, good_only: bool = False) -> Measured:
    """Share of planted offsets that were found within one frame."""
    items = [o for o in e.outcomes if "offset_within_1" in o and not (good_only and o["expected"])]
    if not items:
        return unknown("the ground truth holds no clip with a talking face")
    missed = Counter(str(item["expected"] or "good") for item in items if not item["offset_within_1"])
    note = "missed: " + (", ".join(f"{n} {kind}" for kind, n in sorted(missed.items())) or "none")
    return e.mean([item["offset_within_1"] for item in items], note)


def faults(e: Evidence) -> Measured:
    """Share of planted faults that were rejected for their own reason."""
    planted = [item for item in e.outcomes if item["expected"] is not None]
    wrong = [item for item in planted if not item["right"]]
    if not planted:
        return unknown("no fault was planted")
    return measured(1 - len(wrong) / len(planted), len(planted), note=_named(wrong))


def good_rejected(e: Evidence) -> Measured:
    """How many good stretches were rejected."""
    good = [item for item in e.outcomes if item["expected"] is None]
    lost = [item for item in good if not item["right"]]
    return measured(len(lost), len(good), note=_named(lost)) if good else unknown("nothing was planned as good")


def _named(items: Sequence[Row]) -> str:
    return "; ".join(f"{o['path']}: {o['expected'] or 'good'} became {'/'.join(o['found'])}" for o in items)


# --- Written videos -------------------------------------------------------------------------------------------------


def mouth(e: Evidence, key: str) -> Measured:
    """Correlation of the written mouths with foreign audio (`mouth_r`) or the original video (`mouth_r_picture`)."""
    cross = [item for item in e.videos if (item["system"], item["drive"]) == ("ours", "cross")]
    if not cross:
        return unknown("no video was driven by foreign audio")
    people = len({item["picture_group"] for item in cross})
    note = f"{len(cross)} videos of {people} people; a video whose mouth could not be measured counts as 0"
    return e.mean([item[key] or 0.0 for item in cross], note)


def psnr(e: Evidence, key: str) -> Measured:
    """PSNR outside the mask, all pixels of our videos (`outside`) or of untouched copies (`outside_copy`) pooled."""
    errors = np.array([[item[key]["squared_error"], item[key]["count"]] for item in e.ours])
    if not len(errors):
        return unknown(NO_VIDEO)

    def pooled_db(rows: np.ndarray) -> float:
        error, count = errors[rows.astype(int)].sum(0)
        return min(TOP_DB, metrics.psnr_db(error, int(count)))

    rows = np.arange(len(errors))
    worst = min(pooled_db(rows[[row]]) for row in rows)
    note = f"all pixels of {len(errors)} videos pooled; the worst video has {worst:.1f} dB"
    if any(item.get("enhanced_region") == "face" for item in e.ours):
        note += "; whole faces were enhanced (enhance.region: face), which counts as change here"
    return measured(pooled_db(rows), len(errors), e.interval(rows, statistic=pooled_db), note)


def mask_share(e: Evidence) -> Measured:
    """Share of pixels inside the mask."""
    if not e.ours:
        return unknown(NO_VIDEO)
    return e.mean([item["mask_share"] for item in e.ours], "of all pixels of all frames")
