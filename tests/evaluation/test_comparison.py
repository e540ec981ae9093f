"""With and without enhancement: what is compared, what decides, and what is said where nothing can be decided."""

from functools import partial

import numpy as np
import pytest

from latentsync.evaluation import comparison, metrics

INTERVAL = partial(metrics.bootstrap, resamples=200, seed=0)
PLAIN = {"sync_confidence": 8.0, "sync_offset_frames": 0, "mouth_r": 0.8, "sharpness": 10.0, "flicker": 2.0}


def items(n: int = 6, people: int = 3, noise: float = 0.01, opening: float = 1.0, **factors: float) -> list[dict]:
    """n videos without and with enhancement; with it each measurement is its factor times that without."""
    rng, found = np.random.default_rng(1), []
    wave = 0.2 + 0.1 * np.sin(np.arange(100))
    for number in range(n):
        for system in ("unenhanced", "ours"):
            factor = {name: (factors.get(name, 1.0) if system == "ours" else 1.0) for name in PLAIN}
            item = {name: value * factor[name] * (1 + noise * rng.uniform(-1, 1)) for name, value in PLAIN.items()}
            mouth = wave * (opening if system == "ours" else 1.0)
            item |= {"system": system, "pair_id": f"p{number}", "picture_group": f"person {number % people}"}
            item |= {"sync_offset_frames": 0, "trace": {"measured": [None, *mouth.tolist()]}}
            item |= {"source_sharpness": 14.0, "source_flicker": 1.5}
            item |= {"n_enhanced": 50, "enhance_s": 5.0} if system == "ours" else {"n_enhanced": 0, "enhance_s": None}
            found.append(item)
    return found


ROWS = [{"restorer": "ab12"}]


def compare(found: list[dict]) -> dict:
    result = comparison.compare(found, ROWS, INTERVAL)
    assert result is not None
    return result


def lines(result: dict) -> dict[str, dict]:
    return {line["key"]: line for line in result["measures"]}


def test_nothing_is_compared_where_nothing_was_enhanced():
    assert comparison.compare(items(), [{"restorer": None}, {}], INTERVAL) is None


def test_every_measure_is_the_mean_of_paired_changes():
    result = compare(items(sharpness=1.3, noise=0))
    found = lines(result)
    assert list(found) == [measure.key for measure in comparison.MEASURES]
    assert result["pairs"] == [f"p{number}" for number in range(6)] and result["people"] == 3
    sharp = found["sharpness"]
    assert (sharp["without"], sharp["with"], sharp["source"]) == (10, 13, 14)
    assert (sharp["change"], sharp["low"], sharp["high"], sharp["share"]) == (3, 3, 3, 0.3)
    assert found["amplitude"]["without"] == pytest.approx(0.2, rel=0.02)  # of a sine of amplitude 0.1
    assert found["enhance_s"] | {"reason": ""} == found["enhance_s"] | {"with": 0.1, "without": None, "reason": ""}
    assert found["identity"]["with"] is None and "no identity network" in found["identity"]["reason"]


def test_sharper_and_nothing_worse_is_worth_it():
    result = compare(items(sharpness=1.3))
    assert result["verdict"] == "yes"
    assert "sharpness rose by 29 % (interval +2.9 to +2.9 levels)" in result["words"]
    assert "sync confidence" in result["words"] and "flicker" in result["words"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"sync_confidence": 0.8}, "sync confidence fell by 20 %"),
        ({"mouth_r": 0.8}, "correlation of mouth and audio fell by 20 %"),
        ({"opening": 0.8}, "range of the mouth opening fell by 20 %"),
        ({"flicker": 1.4}, "flicker rose by 40 %"),
    ],
)
def test_what_gets_worse_is_named(change, named):
    result = compare(items(sharpness=1.3, **change))
    assert result["verdict"] == "no" and named in result["words"]
    assert "sharpness" not in result["words"]


@pytest.mark.parametrize("change", [{"sync_confidence": 0.97}, {"flicker": 1.1}, {"sync_confidence": 1.5}])
def test_small_losses_and_gains_decide_nothing(change):
    assert compare(items(sharpness=1.3, **change))["verdict"] == "yes"


@pytest.mark.parametrize("sharpness", [0.8, 1.0, 1.03])
def test_without_more_sharpness_it_is_not_worth_it(sharpness):
    result = compare(items(sharpness=sharpness))
    assert result["verdict"] == "no" and "did not improve sharpness by 5 %" in result["words"]


def test_an_interval_beyond_a_limit_is_undecided():
    """The mean is within the limit, but the videos differ so much that a real loss cannot be excluded."""
    found = items(sharpness=1.3, noise=0)
    for number, item in enumerate(item for item in found if item["system"] == "ours"):
        item["sync_confidence"] += 2 if number % 3 else -4  # persons differ: -4, +2, +2
    result = compare(found)
    assert result["verdict"] == "unknown" and "cannot be told: sync confidence" in result["words"]


@pytest.mark.parametrize(("n", "people"), [(3, 3), (6, 1)])
def test_few_pairs_or_one_person_decide_nothing(n, people):
    result = compare(items(n=n, people=people, sharpness=1.3, flicker=2.0))
    assert result["verdict"] == "unknown" and "cannot be told from" in result["words"]
    assert lines(result)["sharpness"]["share"] == pytest.approx(0.3, abs=0.02)  # it is measured all the same


def test_videos_without_an_enhanced_frame_are_left_out_and_counted():
    found = items(sharpness=1.3)
    for item in found[:2]:
        item |= {"n_enhanced": 0, "enhance_s": None}
    result = compare(found)
    assert result["unchanged"] == 1 and len(result["pairs"]) == 5
    nothing = compare([item | {"n_enhanced": 0, "enhance_s": None} for item in found])
    assert nothing["measures"] == [] and "enhance.force" in nothing["words"]
    assert "enhance.compared" in compare([item for item in found if item["system"] == "ours"])["words"]


def test_a_failed_or_unknown_side_is_no_pair():
    found = items(sharpness=1.3)
    found[0]["mouth_r"] = None
    missing = [item for item in found if (item["system"], item["pair_id"]) != ("ours", "p5")]
    result = compare(missing)
    assert len(result["pairs"]) == 5 and lines(result)["mouth_r"]["n"] == 4
