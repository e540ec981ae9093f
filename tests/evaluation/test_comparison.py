"""With and without enhancement: what is compared, what decides, and what is said where nothing can be decided."""

import numpy as np
import pytest

from latentsync.evaluation import comparison

PLAIN = {"sync_confidence": 8.0, "sync_offset_frames": 0, "mouth_r": 0.8, "sharpness": 10.0, "flicker": 2.0}


def items(n: int = 8, people: int = 4, noise: float = 0.01, opening: float = 1.0, **factors: float) -> list[dict]:
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


def rows_of(n: int = 8) -> list[dict]:
    return [{"system": system, "restorer": "ab12"} for system in ("ours", "unenhanced") for _ in range(n)]


def compare(found: list[dict], n: int = 8) -> dict:
    result = comparison.compare(found, rows_of(n))
    assert result is not None
    return result


def lines(result: dict) -> dict[str, dict]:
    return {line["key"]: line for line in result["measures"]}


def test_nothing_is_compared_where_nothing_was_enhanced():
    assert comparison.compare(items(), [{"system": "ours", "restorer": None}, {"system": "ours"}]) is None


def test_every_measure_is_the_mean_of_paired_changes():
    result = compare(items(sharpness=1.3, noise=0))
    found = lines(result)
    assert list(found) == [measure.key for measure in comparison.MEASURES]
    assert result["pairs"] == [f"p{number}" for number in range(8)] and result["groups"] == 4
    sharp = found["sharpness"]
    assert (sharp["without"], sharp["with"], sharp["source"]) == (10, 13, 14)
    assert (sharp["change"], sharp["low"], sharp["high"], sharp["share"]) == (3, 3, 3, 0.3)
    assert found["amplitude"]["without"] == pytest.approx(0.2, rel=0.02)  # of a sine of amplitude 0.1
    assert found["enhance_s"] | {"reason": ""} == found["enhance_s"] | {"with": 0.1, "without": None, "reason": ""}
    assert found["identity"]["with"] is None and "no identity network" in found["identity"]["reason"]


def test_sharper_and_nothing_worse_is_worth_it():
    result = compare(items(sharpness=1.3))
    assert result["verdict"] == "yes"
    assert "sharpness rose by 29 % (interval +2.89 to +3.02 levels)" in result["words"]
    assert "sync confidence" in result["words"] and "flicker" in result["words"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"sync_confidence": 0.8}, "sync confidence fell by 20 %"),
        ({"mouth_r": 0.8}, "correlation of mouth and audio fell by 0.16"),
        ({"opening": 0.8}, "range of the mouth opening fell by 20 %"),
        ({"flicker": 1.4}, "flicker rose by 40 %"),
    ],
)
def test_what_gets_worse_is_named(change, named):
    result = compare(items(sharpness=1.3, **change))
    assert result["verdict"] == "no" and named in result["words"]
    assert "sharpness" not in result["words"]


@pytest.mark.parametrize("change", [{"sync_confidence": 0.98}, {"flicker": 1.1}, {"sync_confidence": 1.5}])
def test_small_losses_and_gains_decide_nothing(change):
    assert compare(items(sharpness=1.3, **change))["verdict"] == "yes"


@pytest.mark.parametrize(
    ("sharpness", "said"), [(0.8, "fell by 20 %"), (1.0, "stayed the same"), (1.03, "rose by 3 %")]
)
def test_without_more_sharpness_it_is_not_worth_it(sharpness, said):
    result = compare(items(sharpness=sharpness, noise=0.001))
    assert result["verdict"] == "no" and f"sharpness {said}" in result["words"]
    assert "less than the 0.50 levels asked for" in result["words"]


def scattered(key: str, change: float) -> list[dict]:
    """Enhanced videos of which one person loses twice what the three others gain."""
    found = items(sharpness=1.3, noise=0)
    for number, item in enumerate(item for item in found if item["system"] == "ours"):
        item[key] += change if number % 4 else -2 * change
    return found


def test_an_interval_beyond_a_limit_is_undecided():
    """The means are on the good side, but people differ so much that the opposite cannot be excluded."""
    result = compare(scattered("sync_confidence", 2))
    assert result["verdict"] == "unknown" and "not clear whether" in result["words"]
    assert "does not rule out a loss of more than 0.40" in result["words"]
    result = compare(scattered("sharpness", 4))
    assert result["verdict"] == "unknown" and "leaves open whether it gains 0.50 levels" in result["words"]


def test_intervals_of_noise_leave_out_zero_as_often_as_they_say():
    rng, out = np.random.default_rng(0), {2: 0, 8: 0}
    for n in out:
        for _ in range(400):
            _, low, high = comparison._interval(rng.normal(0, 1, n))
            out[n] += low * high > 0
    assert all(count / 400 == pytest.approx(0.05, abs=0.03) for count in out.values())


@pytest.mark.parametrize(("n", "people"), [(3, 3), (6, 1)])
def test_few_pairs_or_people_decide_nothing(n, people):
    result = compare(items(n=n, people=people, sharpness=1.3, flicker=2.0), n)
    assert result["verdict"] == "unknown" and "there are only" in result["words"]
    assert lines(result)["sharpness"]["share"] == pytest.approx(0.3, abs=0.02)  # it is measured all the same


def test_a_measure_that_is_known_of_few_decides_nothing_either():
    found = items(sharpness=1.3)
    for item in found[2:]:
        item["mouth_r"] = None
    found[1]["mouth_r"] = 0.1
    result = compare(found)
    assert result["verdict"] == "unknown"
    assert "correlation of mouth and audio is known for only 1 speaker or video" in result["words"]
    unknown = compare([item | {"mouth_r": None} for item in items(sharpness=1.3)])  # as without ground truth
    assert unknown["verdict"] == "yes" and "correlation" not in unknown["words"]
    unseen = compare([item | {"sharpness": None} for item in items()])
    assert unseen["verdict"] == "unknown" and "sharpness is known for only 0" in unseen["words"]


def test_values_near_zero_do_not_become_large_shares():
    found = items(sharpness=1.3, noise=0)
    for item in found:
        item["mouth_r"] = 0.01 if item["system"] == "unenhanced" else 0.0
        item["flicker"] = 0.0 if item["system"] == "unenhanced" else 0.01
    assert compare(found)["verdict"] == "yes"


def test_videos_without_an_enhanced_frame_are_left_out_and_counted():
    found = items(sharpness=1.3)
    for item in found[:2]:
        item |= {"n_enhanced": 0, "enhance_s": None}
    result = compare(found)
    assert (result["unchanged"], result["failed"], len(result["pairs"])) == (1, 0, 7)
    nothing = compare([item | {"n_enhanced": 0, "enhance_s": None} for item in found])
    assert nothing["measures"] == [] and "enhance.force" in nothing["words"]


def test_failed_videos_are_counted_as_such():
    found = items(sharpness=1.3)
    result = compare([item for item in found if (item["system"], item["pair_id"]) != ("ours", "p5")])
    assert (result["unchanged"], result["failed"], len(result["pairs"])) == (0, 1, 7)
    for system in ("ours", "unenhanced"):
        assert "failed" in compare([item for item in found if item["system"] == system])["words"]
    alone = comparison.compare(found[1::2], [{"system": "ours", "restorer": "ab12"}])
    assert alone is not None and "set enhance.compared" in alone["words"]
