"""The same videos with and without face enhancement: MEASURES describes what is compared, and what decides.

Enhancement is worth it where sharpness rises by its limit or more and nothing else gets worse by more than its own. A
change counts only if its 95 % interval leaves out zero; where an interval reaches beyond a limit, nothing is decided.
Intervals are Student's of the mean over groups (speakers, or videos where speakers are not known): few groups make them
wide, where a bootstrap of few groups would make them too narrow.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy.stats import t as student

from latentsync.ledger.rows import Row

MIN_PAIRS = 4  # fewer pairs, or pairs of fewer groups, decide nothing
MIN_GROUPS = 2
CONFIDENCE = 0.95
NO_IDENTITY = "no identity network is part of this project yet"
ONLY_WITH = "it has no counterpart without enhancement"
UNMEASURED = "not measured in these videos"
MINUS = "\N{MINUS SIGN}"


class Limit(NamedTuple):
    """The smallest change that counts: a share of the value without enhancement, but at least `at_least`."""

    share: float
    at_least: float


@dataclass(frozen=True)
class Measure:
    """One line of the comparison."""

    key: str
    title: str
    value: Callable[[Row], float | None]
    """Of an item of a video; None where it is not known."""
    better: Literal["higher", "lower"] | None = None
    unit: str = ""
    digits: int = 2
    loss: Limit | None = None
    """Enhancement is not worth it if this gets worse by more."""
    gain: Limit | None = None
    """Enhancement is not worth it unless this gets better by as much."""
    of_source: Callable[[Row], float | None] | None = None
    """The same measurement on the source frames."""
    missing: str = UNMEASURED


def amplitude(item: Row) -> float | None:
    """Range of the measured mouth opening from the 5th to the 95th percentile, in inter-ocular distances."""
    known = [value for value in item["trace"]["measured"] if value is not None]
    return float(np.subtract(*np.percentile(known, [95, 5]))) if known else None


def _cost_s(item: Row) -> float | None:
    return item["enhance_s"] / item["n_enhanced"] if item["n_enhanced"] else None


# fmt: off
MEASURES = (
    Measure("sync_confidence", "Sync confidence", lambda item: item["sync_confidence"], "higher",
            loss=Limit(0.05, 0.05)),
    Measure("sync_offset", "Absolute sync offset", lambda item: abs(item["sync_offset_frames"]), "lower",
            "frames", 1),
    Measure("mouth_r", "Correlation of mouth and audio", lambda item: item["mouth_r"], "higher",
            loss=Limit(0, 0.05), missing="there is no ground truth"),
    Measure("amplitude", "Range of the mouth opening", amplitude, "higher", digits=3, loss=Limit(0.05, 0.005)),
    Measure("sharpness", "Sharpness", lambda item: item["sharpness"], "higher", "levels", 2,
            gain=Limit(0.05, 0.1), of_source=lambda item: item["source_sharpness"]),
    Measure("flicker", "Flicker", lambda item: item["flicker"], "lower", "levels", 2,
            loss=Limit(0.20, 0.1), of_source=lambda item: item["source_flicker"]),
    Measure("identity", "Identity", lambda item: None, "higher", missing=NO_IDENTITY),
    Measure("enhance_s", "Enhancement work per frame", _cost_s, None, "s", 3, missing=ONLY_WITH),
)
# fmt: on


def compare(items: Sequence[Row], rows: Sequence[Row]) -> Row | None:
    """The section `enhancement` of metrics.json; None where nothing was enhanced.

    Args:
        items: videos as evaluate measured them.
        rows: videos as generate wrote them.
    """
    if not any(row.get("restorer") for row in rows):
        return None
    enhanced = {item["pair_id"]: item for item in items if item["system"] == "ours"}
    both = [
        (item, enhanced[item["pair_id"]])
        for item in items
        if item["system"] == "unenhanced" and item["pair_id"] in enhanced
    ]
    planned = sum(row["system"] == "unenhanced" for row in rows)
    changed = [(plain, other) for plain, other in both if other["n_enhanced"]]
    measures = [_measured(measure, changed) for measure in MEASURES] if changed else []
    groups = len({plain["picture_group"] for plain, _ in changed})
    verdict, words = _judged(measures, len(changed), groups) if changed else ("unknown", _nothing(planned, len(both)))
    return {
        "pairs": [plain["pair_id"] for plain, _ in changed],
        "groups": groups,
        "unchanged": len(both) - len(changed),
        "failed": planned - len(both),
        "measures": measures,
        "verdict": verdict,
        "words": words,
    }


def _nothing(planned: int, measured: int) -> str:
    if not planned:
        return "No video was also generated without enhancement, so there is nothing to compare; set enhance.compared."
    if not measured:
        return "Nothing can be compared, because one of the two videos of every pair failed."
    return (
        "No frame of the compared videos was enhanced, because their faces are no finer in the frame than they are "
        "generated; enhance.force enhances them all the same."
    )


def _measured(measure: Measure, pairs: Sequence[tuple[Row, Row]]) -> Row:
    """One line, means over groups: without, with, and the change with its interval."""
    both: dict[str, list[tuple[float, float]]] = {}
    only, source = [], []
    for plain, other in pairs:
        before, after = measure.value(plain), measure.value(other)
        only += [after] if after is not None else []
        if before is not None and after is not None:
            both.setdefault(plain["picture_group"], []).append((before, after))
        filmed = measure.of_source(other) if measure.of_source else None
        source += [filmed] if filmed is not None else []
    found: dict[str, Any] = {name: getattr(measure, name) for name in ("key", "title", "unit", "digits", "better")}
    found |= {"n": sum(map(len, both.values())), "groups": len(both)}
    found |= dict.fromkeys(("without", "with", "change", "low", "high", "share"))
    found |= {"source": _mean(source), "reason": None if both else measure.missing}
    if not both:
        return found | {"with": _mean(only)}
    without, enhanced = np.array([np.mean(values, 0) for values in both.values()]).T
    change, low, high = _interval(enhanced - without)
    found |= {"without": _mean(without), "with": _mean(enhanced), "change": change, "low": low, "high": high}
    return found | {"share": _rounded(change / abs(without.mean())) if without.mean() else None}


def _interval(changes: np.ndarray) -> tuple[float, float | None, float | None]:
    """Mean of changes and its interval; None for the limits of a single one."""
    mean, n = float(changes.mean()), len(changes)
    if n < 2:
        return _rounded(mean), None, None
    half = float(student.ppf((1 + CONFIDENCE) / 2, n - 1) * changes.std(ddof=1) / np.sqrt(n))
    return _rounded(mean), _rounded(mean - half), _rounded(mean + half)


def _mean(values: Sequence[float] | np.ndarray) -> float | None:
    return _rounded(float(np.mean(values))) if len(values) else None


def _rounded(value: float) -> float:
    return round(float(value), 6)


# --- the verdict ----------------------------------------------------------------------------------------------------


def _judged(lines: Sequence[Row], n_pairs: int, groups: int) -> tuple[str, str]:
    """Verdict (yes, no, unknown) and its sentence."""
    if n_pairs < MIN_PAIRS or groups < MIN_GROUPS:
        return "unknown", (
            f"It is not clear whether enhancement was worth it: there are only {_counted(n_pairs, 'pair')} of "
            f"{_counted(groups, 'speaker or video', 'speakers or videos')}, and at least {MIN_PAIRS} pairs of "
            f"{MIN_GROUPS} are needed."
        )
    found: dict[str, list[str]] = {"worse": [], "open": [], "no gain": [], "better": [], "kept": []}
    for measure, line in zip(MEASURES, lines, strict=True):
        if measure.gain or (measure.loss and line["n"]):
            state, words = _found(measure, line)
            found[state].append(words)
    if found["worse"]:
        return "no", f"Enhancement was not worth it: {'; '.join(found['worse'])}."
    if found["no gain"]:
        return "no", f"Enhancement was not worth it: {'; '.join(found['no gain'])}."
    if found["open"]:
        return "unknown", f"It is not clear whether enhancement was worth it: {'; '.join(found['open'])}."
    return "yes", (
        f"Enhancement was worth it: {'; '.join(found['better'])}. Within their limits: {', '.join(found['kept'])}."
    )


def _found(measure: Measure, line: Row) -> tuple[str, str]:
    """What a line says: worse, kept, better, no gain, or open where its interval reaches beyond its limit."""
    title = line["title"][:1].lower() + line["title"][1:]
    if line["groups"] < MIN_GROUPS:
        return "open", f"{title} is known for only {_counted(line['groups'], 'speaker or video', 'speakers or videos')}"
    sign, limit = (1 if measure.better == "higher" else -1), measure.gain or measure.loss
    assert limit is not None
    much, gain = max(limit.share * abs(line["without"]), limit.at_least), sign * line["change"]
    least, most = sorted((sign * line["low"], sign * line["high"]))
    changed = f"{title} {_change(line, limit)}"
    if measure.gain:
        if least > 0 and gain >= much:
            return "better", changed
        if most >= much:
            return "open", f"{changed}, which leaves open whether it gains {_amount(line, much)}"
        return "no gain", f"{changed}, less than the {_amount(line, much)} asked for"
    if most < 0 and gain < -much:
        return "worse", changed
    if least < -much:
        return "open", f"{changed}, which does not rule out a loss of more than {_amount(line, much)}"
    return "kept", title


def _change(line: Row, limit: Limit) -> str:
    """ "rose by 12 % (interval +4.1 to +6.0 levels)"."""
    digits, unit = line["digits"], f" {line['unit']}" if line["unit"] else ""
    ends = " to ".join(f"{end:+.{digits}f}".replace("-", MINUS) for end in (line["low"], line["high"]))
    interval = f"(interval {ends}{unit})"
    share: float | None = line["share"] if limit.share else None
    shown = _amount(line, abs(line["change"])) if share is None else f"{100 * abs(share):.0f} %"
    if float(shown.split()[0]) == 0:
        return f"stayed the same {interval}"
    return f"{'rose' if line['change'] > 0 else 'fell'} by {shown} {interval}"


def _amount(line: Row, value: float) -> str:
    return f"{value:.{line['digits']}f}{' ' + line['unit'] if line['unit'] else ''}"


def _counted(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
