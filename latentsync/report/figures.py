"""The key figures and their bars: what a value must reach, over how many items, and what its control must do.

The bars are those of the demo (synthetic talkers, small networks); for other footage they are a yardstick, no promise.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One key figure. `bar` is the value to reach (`at_most`: not to pass); `min_n` the items that it must rest on."""

    key: str
    title: str
    bar: float
    axis: tuple[float, float]
    counted: str
    min_n: int = 1
    at_most: bool = False
    digits: int = 2
    unit: str = ""
    before_note: str = ""


@dataclass(frozen=True)
class Control:
    """A figure shown below another. It must lie in `between`, or at least `below` under the figure."""

    key: str
    of: str
    title: str
    between: tuple[float, float] | None = None
    below: float | None = None
    drawn: bool = True
    digits: int = 2
    unit: str = ""
    percent: bool = False


FIGURES = (
    Figure(
        "syncnet_accuracy_5f", "SyncNet accuracy", 0.85, (0, 1), "balanced pairs, negatives 5 to 15 frames away", 500
    ),
    Figure(
        "offset_within_1",
        "Offsets within one frame",
        0.95,
        (0, 1),
        "clips with a talking face, abstentions counted as misses",
    ),
    Figure(
        "faults_right_reason",
        "Faults caught for the right reason",
        1.0,
        (0, 1),
        "planted faults",
        before_note="Judged otherwise: ",
    ),
    Figure(
        "good_rejected",
        "Good clips rejected",
        0,
        (0, 10),
        "good stretches of film",
        at_most=True,
        digits=0,
        before_note="Rejected: ",
    ),
    Figure(
        "mouth_r",
        "Mouth follows the sound",
        0.6,
        (0, 1),
        "videos driven by foreign speech, mean of their correlations",
        8,
        unit="r",
    ),
    Figure("psnr_outside_db", "Picture outside the mouth", 45, (20, 60), "videos, all frames", digits=1, unit="dB"),
)
CONTROLS = (
    Control("syncnet_accuracy_shuffled", "syncnet_accuracy_5f", "With shuffled sound", between=(0.45, 0.55)),
    Control("mouth_r_shuffled", "mouth_r", "The same videos against the picture's own opening", below=0.4),
    Control("psnr_copy_db", "psnr_outside_db", "Untouched copy, encoded again", digits=1, unit=" dB"),
    Control(
        "mask_share",
        "psnr_outside_db",
        "Share of the frame inside the mask",
        drawn=False,
        digits=1,
        unit=" %",
        percent=True,
    ),
)
NAMES = [figure.key for figure in FIGURES] + [control.key for control in CONTROLS]


def judge(values: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every key figure with its verdict (pass, fail, unknown) in words.

    Args:
        values: name -> {value, low, high, n, reason}; a value of None has a reason.
    """
    return [_card(figure, values[figure.key], values) for figure in FIGURES]


def _card(figure: Figure, measured: Mapping[str, Any], values: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    value, n = measured["value"], measured["n"] or 0
    controls = [_control(control, values[control.key], value) for control in CONTROLS if control.of == figure.key]
    top = figure.axis[1] if value is None or value <= figure.axis[1] else 1.1 * value
    card = {
        "key": figure.key,
        "title": figure.title,
        "value": value,
        "low": measured["low"],
        "high": measured["high"],
        "n": n,
        "counted": figure.counted,
        "digits": figure.digits,
        "unit": figure.unit,
        "axis": [figure.axis[0], round(top, 6)],
        "bar": figure.bar,
        "bar_words": f"{'at most' if figure.at_most else 'at least'} {figure.bar:g}",
        "controls": controls,
        "reason": measured["reason"],
        "note": figure.before_note + measured["note"] if measured["note"] else "",
    }
    if value is None:
        return card | {"verdict": "unknown", "words": "not measured"}
    # the bar is compared with the value itself, not with its rounding
    clears = value <= figure.bar if figure.at_most else value >= figure.bar
    if not clears:
        return card | {"verdict": "fail", "words": f"misses {figure.bar:g}"}
    if n < figure.min_n:
        return card | {"verdict": "fail", "words": f"too few: {figure.min_n} are asked for"}
    if any(control["verdict"] == "fail" for control in controls):
        return card | {"verdict": "fail", "words": f"clears {figure.bar:g}, its control does not"}
    if any(control["verdict"] == "missing" for control in controls):
        return card | {"verdict": "unknown", "words": f"clears {figure.bar:g}, its control is missing"}
    return card | {"verdict": "pass", "words": f"clears {figure.bar:g}"}


def _control(control: Control, measured: Mapping[str, Any], value: float | None) -> dict[str, Any]:
    found = measured["value"]
    card = {
        "key": control.key,
        "title": control.title,
        "value": found,
        "shown": None if found is None else 100 * found if control.percent else found,
        "low": measured["low"],
        "high": measured["high"],
        "reason": measured["reason"],
        "drawn": control.drawn,
        "digits": control.digits,
        "unit": control.unit,
        "words": "",
        "verdict": "none asked",
    }
    if found is None:
        return card | {"verdict": "missing" if control.between or control.below else "none asked"}
    if control.between is not None:
        low, high = control.between
        inside = low <= found <= high
        words = f"must lie between {low:g} and {high:g}: it {'does' if inside else 'does not'}"
        return card | {"words": words, "verdict": "pass" if inside else "fail"}
    if control.below is not None and value is not None:
        far = value - found >= control.below
        words = f"must be at least {control.below:g} lower: it {'is' if far else 'is not'}"
        return card | {"words": words, "verdict": "pass" if far else "fail"}
    return card
