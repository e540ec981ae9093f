"""The same videos with and without face enhancement: MEASURES describes what is compared, and what decides.

Enhancement is worth it where sharpness rises by its limit or more and nothing else gets worse by more than its own. A
change counts only if its 95 % interval leaves out zero; where an interval reaches beyond a limit, nothing is decided.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from latentsync.ledger.rows import Row

MIN_PAIRS = 4  # fewer pairs, or pairs of fewer people, decide nothing
MIN_PEOPLE = 2
NO_IDENTITY = "no identity network is part of this project yet"
ONLY_WITH = "it has no counterpart without enhancement"
UNMEASURED = "not measured in these videos"


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
    worse_by: float | None = None
    """Enhancement is not worth it if this gets worse by more than this share of the value without enhancement."""
    better_by: float | None = None
    """Enhancement is not worth it unless this gets better by at least this share."""
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
    Measure("sync_confidence", "Sync confidence", lambda item: item["sync_confidence"], "higher", worse_by=0.05),
    Measure("sync_offset", "Sync offset without its sign", lambda item: abs(item["sync_offset_frames"]), "lower",
            "frames", 1),
    Measure("mouth_r", "Correlation of mouth and audio", lambda item: item["mouth_r"], "higher", worse_by=0.05,
            missing="there is no ground truth"),
    Measure("amplitude", "Range of the mouth opening", amplitude, "higher", digits=3, worse_by=0.05),
    Measure("sharpness", "Sharpness", lambda item: item["sharpness"], "higher", "levels", 1,
            better_by=0.05, of_source=lambda item: item["source_sharpness"]),
    Measure("flicker", "Flicker", lambda item: item["flicker"], "lower", "levels", 2,
            worse_by=0.20, of_source=lambda item: item["source_flicker"]),
    Measure("identity", "Identity", lambda item: None, "higher", missing=NO_IDENTITY),
    Measure("enhance_s", "Work of enhancement a frame", _cost_s, None, "s", 3, missing=ONLY_WITH),
)
# fmt: on


def compare(items: Sequence[Row], rows: Sequence[Row], interval: Callable[..., tuple[float, float]]) -> Row | None:
    """The section `enhancement` of metrics.json; None where nothing was enhanced.

    Args:
        items: videos as evaluate measured them.
        rows: videos as generate wrote them.
        interval: bootstrap interval of values and their groups, see metrics.bootstrap.
    """
    if not any(row.get("restorer") for row in rows):
        return None
    enhanced = {item["pair_id"]: item for item in items if item["system"] == "ours"}
    pairs = [(item, enhanced.get(item["pair_id"])) for item in items if item["system"] == "unenhanced"]
    changed = [(plain, other) for plain, other in pairs if other is not None and other["n_enhanced"]]
    measures = [_measured(measure, changed, interval) for measure in MEASURES] if changed else []
    people = len({plain["picture_group"] for plain, _ in changed})
    verdict, words = _judged(measures, len(changed), people) if changed else ("unknown", _nothing(pairs))
    return {
        "pairs": [plain["pair_id"] for plain, _ in changed],
        "people": people,
        "unchanged": len(pairs) - len(changed),
        "measures": measures,
        "verdict": verdict,
        "words": words,
    }


def _nothing(pairs: Sequence[tuple[Row, Row | None]]) -> str:
    if not pairs:
        return "No video was generated without enhancement, too, so nothing can be compared (enhance.compared)."
    return (
        "No frame of the compared videos was enhanced, because their faces are no finer in the frame than they are "
        "generated; enhance.force enhances them all the same."
    )


def _measured(measure: Measure, pairs: Sequence[tuple[Row, Row]], interval: Callable[..., tuple[float, float]]) -> Row:
    """One line: means over the pairs that have both values, and the mean of the paired changes with its interval."""
    both, groups, only = [], [], []
    for plain, other in pairs:
        before, after = measure.value(plain), measure.value(other)
        only += [after] if after is not None else []
        if before is not None and after is not None:
            both.append((before, after))
            groups.append(plain["picture_group"])
    source = [measure.of_source(other) for _, other in pairs] if measure.of_source else []
    found: dict[str, Any] = {name: getattr(measure, name) for name in ("key", "title", "unit", "digits", "better")}
    found |= {"n": len(both), "source": _mean([value for value in source if value is not None])}
    found |= {"without": _mean([before for before, _ in both]), "with": _mean([after for _, after in both] or only)}
    found |= dict.fromkeys(("change", "low", "high", "share"))
    found["reason"] = None if both else measure.missing
    if both:
        changes = [after - before for before, after in both]
        low, high = (limit if math.isfinite(limit) else None for limit in interval(changes, groups))
        change, before = float(np.mean(changes)), abs(found["without"])
        found |= {"change": _rounded(change), "low": _rounded(low), "high": _rounded(high)}
        found["share"] = _rounded(change / before) if before > 0 else None
    return found


def _mean(values: Sequence[float]) -> float | None:
    return _rounded(float(np.mean(values))) if values else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _judged(lines: Sequence[Row], n_pairs: int, people: int) -> tuple[str, str]:
    """Verdict (yes, no, unknown) and its sentence."""
    if n_pairs < MIN_PAIRS or people < MIN_PEOPLE:
        return "unknown", (
            f"Whether enhancement was worth it cannot be told from {_counted(n_pairs, 'pair', 'pairs')} of "
            f"{_counted(people, 'person', 'people')}: at least {MIN_PAIRS} pairs of {MIN_PEOPLE} people are needed."
        )
    found = [
        (_found(measure, line), line)
        for measure, line in zip(MEASURES, lines, strict=True)
        if line["change"] is not None and (measure.worse_by or measure.better_by)
    ]
    words = {state: [_changed(line) for each, line in found if each == state] for state in ("worse", "better", "open")}
    if words["worse"]:
        return "no", f"Enhancement was not worth it: {'; '.join(words['worse'])}."
    if words["open"]:
        return "unknown", f"Whether enhancement was worth it cannot be told: {'; '.join(words['open'])}."
    if not words["better"]:
        gains = " or ".join(
            f"{_lower(each.title)} by {_percent(each.better_by)}" for each in MEASURES if each.better_by
        )
        return "no", f"Enhancement was not worth it: it did not improve {gains}."
    kept = ", ".join(_lower(line["title"]) for each, line in found if each == "kept")
    return "yes", f"Enhancement was worth it: {'; '.join(words['better'])}. Within their limits: {kept}."


def _found(measure: Measure, line: Row) -> str:
    """What a line says: better, kept, worse, or open (its interval reaches beyond what is allowed).

    Limits are shares of the value without enhancement; where that is zero, any fall is beyond them.
    """
    sign, whole = (1 if measure.better == "higher" else -1), abs(line["without"])
    ends = sorted(sign * (line["change"] if limit is None else limit) for limit in (line["low"], line["high"]))
    if measure.better_by is not None:
        return "better" if ends[0] > 0 and sign * line["change"] >= measure.better_by * whole else "kept"
    assert measure.worse_by is not None
    beyond = sign * line["change"] < -measure.worse_by * whole
    if ends[1] < 0 and beyond:
        return "worse"
    return "open" if beyond or ends[0] < -measure.worse_by * whole else "kept"


def _changed(line: Row) -> str:
    """ "sharpness rose by 12 % (interval +4.1 to +6.0 levels)"."""
    digits, change = line["digits"], line["change"]
    by = _percent(line["share"]) if line["share"] is not None else f"{abs(change):.{digits}f}"
    words = f"{_lower(line['title'])} {'rose' if change > 0 else 'fell'} by {by}"
    if line["low"] is None:
        return words
    ends = " to ".join(f"{limit:+.{digits}f}".replace("-", "−") for limit in (line["low"], line["high"]))
    return f"{words} (interval {ends}{' ' + line['unit'] if line['unit'] else ''})"


def _lower(title: str) -> str:
    return title[:1].lower() + title[1:]


def _percent(share: float) -> str:
    return f"{100 * abs(share):.0f} %"


def _counted(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
