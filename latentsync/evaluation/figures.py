"""FIGURES: every figure of the evaluation, described once. metrics.json, the page and its summary follow this table.

A figure with a bar is a key figure: it gets a card on the page and a verdict. A figure with `control_of` is shown below
that key figure and takes part in its verdict. All others are listed under "Further figures".

The bars are those of the demo (synthetic talkers, small networks); on other footage they are reference points.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from latentsync.evaluation import evidence
from latentsync.evaluation.evidence import Evidence, Measured

NO_TRUTH = "real footage: there is no ground truth"


@dataclass(frozen=True)
class Figure:
    """One figure: what it is called, how it is computed, and what it must reach."""

    key: str
    title: str
    compute: Callable[[Evidence], Measured]
    needs_truth: bool = False  # it compares with the ground truth of synthetic talkers
    bar: float | None = None  # a key figure must reach it, or must not exceed it (at_most)
    at_most: bool = False
    min_n: int = 1  # items that a key figure must rest on
    counted: str = ""  # what its items are
    control_of: str | None = None  # key of the figure whose control it is
    between: tuple[float, float] | None = None  # range of a control
    below: float | None = None  # how far a control must be below its figure
    axis: tuple[float, float] | None = (0, 1)  # ends of the strip on the page; None: not drawn
    digits: int = 2
    unit: str = ""
    factor: float = 1  # the page shows the value times this: 100 for percent
    before_note: str = ""
    wording: str = ""  # how to read it: the last section of the page


# fmt: off
FIGURES = (
    Figure("syncnet_accuracy_5f", "SyncNet accuracy", evidence.accuracy_at_own,
           bar=0.85, min_n=500, counted="balanced pairs, negatives 5 to 15 frames away",
           wording="The SyncNet trained in this run sees 16 frames of the lower face and a window of audio, and judges "
                   "whether they belong together. Half of the pairs are from the same moment, half from elsewhere in "
                   "the same clip. With shuffled audio the accuracy must drop to chance; otherwise the network "
                   "recognises clips, not lips."),
    Figure("syncnet_accuracy_at_0.5", "SyncNet accuracy at the published threshold 0.5",
           lambda e: evidence.accuracy(e, 0.5, "published threshold")),
    Figure("syncnet_auc", "SyncNet, area under the ROC curve", evidence.auc),
    Figure("syncnet_accuracy_shuffled", "With shuffled audio", evidence.accuracy_shuffled,
           control_of="syncnet_accuracy_5f", between=(0.45, 0.55)),
    Figure("offset_within_1", "Offsets within one frame", evidence.offsets, needs_truth=True,
           bar=0.95, counted="clips with a talking face, abstentions counted as misses",
           wording="Every talking clip has a known shift between video and audio. The shift counts as found when the "
                   "measured one is within one frame of it; a clip whose confidence is too low counts as a miss."),
    Figure("offset_within_1_good", "Offsets within one frame, good clips alone",
           lambda e: evidence.offsets(e, good_only=True), needs_truth=True),
    Figure("faults_right_reason", "Faults rejected for the right reason", evidence.faults, needs_truth=True,
           bar=1.0, counted="planted faults", before_note="Judged otherwise: "),
    Figure("good_rejected", "Good clips rejected", evidence.good_rejected, needs_truth=True,
           bar=0, at_most=True, counted="good segments", axis=(0, 10), digits=0, before_note="Rejected: "),
    Figure("mouth_r", "Mouth follows the audio", lambda e: evidence.mouth(e, "mouth_r"), needs_truth=True,
           bar=0.6, min_n=8, counted="videos driven by foreign speech, mean of their correlations", unit="r",
           wording="A face detector measures the mouth opening in the written file, divided by the distance between "
                   "the eyes. It is correlated with the true opening behind the audio that drove it. The control is "
                   "the correlation of the same videos with the opening in their original video: what leaks around "
                   "the mask."),
    Figure("mouth_r_shuffled", "The same videos against the opening in the original video",
           lambda e: evidence.mouth(e, "mouth_r_picture"), needs_truth=True, control_of="mouth_r", below=0.4),
    Figure("psnr_outside_db", "Frame outside the mouth", lambda e: evidence.psnr(e, "outside"),
           bar=45, counted="videos, all frames", axis=(20, 60), digits=1, unit="dB",
           wording="Luma error against the decoded source outside the pasted region, as PSNR. The control is the "
                   "untouched source, encoded again in the same way: the most that any model can reach."),
    Figure("psnr_copy_db", "Untouched copy, encoded again", lambda e: evidence.psnr(e, "outside_copy"),
           control_of="psnr_outside_db", digits=1, unit="dB"),
    Figure("mask_share", "Share of the frame inside the mask", evidence.mask_share,
           control_of="psnr_outside_db", axis=None, digits=1, unit="%", factor=100),
)
# fmt: on
KEY_FIGURES = tuple(figure for figure in FIGURES if figure.bar is not None)
CONTROLS = tuple(figure for figure in FIGURES if figure.control_of)
FURTHER = tuple(figure for figure in FIGURES if figure.bar is None and not figure.control_of)


def compute_all(collected: Evidence, truth: bool) -> dict[str, dict[str, Any]]:
    """The figures of metrics.json: key -> {value, low, high, n, reason, note}; `truth`: whether there is any."""

    def one(figure: Figure) -> Measured:
        return figure.compute(collected) if truth or not figure.needs_truth else evidence.unknown(NO_TRUTH)

    return {figure.key: asdict(one(figure)) for figure in FIGURES}


def judge(figure: Figure, measured: Mapping[str, Mapping[str, Any]]) -> tuple[str, str]:
    """Verdict (pass, fail, unknown) of a key figure and its words; `measured`: the figures of metrics.json."""
    value = measured[figure.key]["value"]
    if value is None:
        return "unknown", "not measured"
    # the value itself is compared with the bar, not its rounding
    if value > figure.bar if figure.at_most else value < figure.bar:
        return "fail", f"misses {figure.bar:g}"
    if measured[figure.key]["n"] < figure.min_n:
        return "fail", f"too few: at least {figure.min_n} needed"
    verdicts = {judge_control(control, measured)[0] for control in CONTROLS if control.control_of == figure.key}
    for verdict, of_figure, words in (("fail", "fail", "fails"), ("missing", "unknown", "is missing")):
        if verdict in verdicts:
            return of_figure, f"passes {figure.bar:g}, its control {words}"
    return "pass", f"passes {figure.bar:g}"


def judge_control(control: Figure, measured: Mapping[str, Mapping[str, Any]]) -> tuple[str, str]:
    """Verdict (pass, fail, missing, none) of a control and its words; none: nothing is required of it."""
    assert control.control_of is not None
    value, of = measured[control.key]["value"], measured[control.control_of]["value"]
    if control.between is None and control.below is None:
        return "none", ""
    if value is None:
        return "missing", ""
    if control.between is not None:
        low, high = control.between
        passed, wanted = low <= value <= high, f"between {low:g} and {high:g}"
    elif of is None:
        return "none", ""
    else:
        passed, wanted = of - value >= control.below, f"at least {control.below:g} lower"
    return ("pass", f"must be {wanted}: it is") if passed else ("fail", f"must be {wanted}: it is not")
