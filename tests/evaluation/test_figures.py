"""Figures from rows: what is counted, what is pooled, how rows that were not measured count, and verdicts."""

import math
from collections import Counter
from functools import partial

import numpy as np
import pytest

from latentsync.evaluation import evidence, figures, metrics, systems
from latentsync.evaluation.evidence import Evidence, Pairs

INTERVAL = partial(metrics.bootstrap, resamples=100, seed=0)


def item(system: str, drive: str, r: float | None, r_picture: float = 0.1, error: float = 1.0) -> dict:
    sums = {"squared_error": error, "count": 1000}
    return {
        "system": system, "drive": drive, "mouth_r": r, "mouth_r_picture": r_picture, "mouth_r_known": True,
        "picture_group": "a", "psnr_outside_db": 40.0, "outside": sums, "outside_copy": sums, "mask_share": 0.1,
        "sync_confidence": 5.0, "sync_offset_frames": 0,
    }  # fmt: skip


def computed(truth: bool = True, **collected) -> dict:
    return figures.compute_all(Evidence(INTERVAL, **collected), truth)


def test_only_foreign_audio_counts_for_the_mouth_and_what_was_not_measured_counts_as_zero():
    videos = [
        item("ours", "cross", 0.9),
        item("ours", "cross", None),
        item("ours", "own", 1.0),
        item("copy", "cross", 0.2),
    ]
    found = computed(videos=videos)
    assert found["mouth_r"]["value"] == pytest.approx(0.45) and found["mouth_r"]["n"] == 2
    assert found["mouth_r_shuffled"]["value"] == pytest.approx(0.1)
    assert computed(videos=videos[2:])["mouth_r"]["reason"] == "no video was driven by foreign audio"


def test_psnr_is_pooled_over_all_pixels():
    found = computed(videos=[item("ours", "own", 1, error=0), item("ours", "cross", 1, error=2000)])["psnr_outside_db"]
    assert found["value"] == pytest.approx(10 * math.log10(255**2)) and "the worst video has 45.1 dB" in found["note"]
    assert "whole faces" not in found["note"]
    whole = computed(videos=[item("ours", "own", 1, error=9) | {"enhanced_region": "face"}])["psnr_outside_db"]
    assert "whole faces were enhanced (enhance.region: face), which counts as change" in whole["note"]
    none_differs = computed(videos=[item("ours", "own", 1, error=0)])["psnr_outside_db"]
    assert none_differs["value"] == evidence.TOP_DB and none_differs["low"] is None


def test_the_table_has_a_row_for_every_system_that_ran_or_failed():
    rows = systems.table(
        [item("ours", "cross", 0.5), item("copy", "cross", 0.0)], Counter({("untrained", "cross"): 2}), INTERVAL
    )
    assert [(row["system"], row["n"], row["failed"]) for row in rows] == [
        ("copy", 1, 0),
        ("untrained", 0, 2),
        ("ours", 1, 0),
    ]
    assert all(column.name in row for row in rows for column in systems.COLUMNS)


def test_one_frame_off_is_within_one_and_two_are_not():
    videos = [item("ours", "cross", 0.5) | {"sync_offset_frames": offset} for offset in (-2, -1, 0, 1)]
    [row] = systems.table(videos, Counter(), INTERVAL)
    assert row["sync_within_1"] == 0.75


def test_syncnet_figures_use_the_threshold_of_the_validation_clips():
    pairs = Pairs(np.array([0.3, 0.2, 0.35, 0.1]), np.array([True, False, True, False]), [0, 0, 1, 1])
    found = computed(pairs=pairs, threshold=0.25)
    assert found["syncnet_accuracy_5f"]["value"] == 1 and found["syncnet_accuracy_at_0.5"]["value"] == 0.5
    assert found["syncnet_auc"]["value"] == 1 and found["syncnet_auc"]["n"] == 4
    assert found["syncnet_accuracy_shuffled"]["value"] is None and found["syncnet_accuracy_shuffled"]["reason"]
    foreign = Pairs(np.array([0.3, 0.2, 0.3, 0.1]), np.array([True, True, False, True]), [0, 0, 1, 1])
    control = computed(pairs=pairs, shuffled=foreign, threshold=0.25)["syncnet_accuracy_shuffled"]
    assert control["value"] == 0.25 and control["n"] == 4


def test_every_figure_without_a_value_has_a_reason():
    for truth in (True, False):
        found = computed(truth, no_pairs="no clip is long enough")
        assert list(found) == [figure.key for figure in figures.FIGURES]
        assert all(each["value"] is None and each["n"] == 0 and each["reason"] for each in found.values())
    without = {figure.key for figure in figures.FIGURES if found[figure.key]["reason"] == figures.NO_TRUTH}
    assert {"offset_within_1", "faults_right_reason", "good_rejected", "mouth_r", "mouth_r_shuffled"} < without
    assert found["syncnet_auc"]["reason"] == "no clip is long enough"


def test_the_table_of_figures_is_consistent():
    keys = [figure.key for figure in figures.FIGURES]
    assert len(keys) == len(set(keys)) == len(figures.KEY_FIGURES) + len(figures.CONTROLS) + len(figures.FURTHER)
    assert all(control.control_of in {figure.key for figure in figures.KEY_FIGURES} for control in figures.CONTROLS)
    assert all(figure.counted and figure.axis for figure in figures.KEY_FIGURES)
    assert {column.explained_by for column in systems.COLUMNS} <= {None, *keys}


def found_with(**values: float) -> dict:
    """Figures of metrics.json with these values and enough items, the others not measured."""
    blank = {"value": None, "low": None, "high": None, "n": 0, "reason": "why", "note": ""}
    known = {key: blank | {"value": value, "n": 600, "reason": None} for key, value in values.items()}
    return {figure.key: known.get(figure.key, blank) for figure in figures.FIGURES}


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ({"mouth_r": 0.7, "mouth_r_shuffled": 0.2}, "pass"),
        ({"mouth_r": 0.7, "mouth_r_shuffled": 0.31}, "fail"),
        ({"mouth_r": 0.59, "mouth_r_shuffled": 0.0}, "fail"),
        ({"mouth_r": 0.7}, "unknown"),
        ({"mouth_r_shuffled": 0.2}, "unknown"),
        ({"syncnet_accuracy_5f": 0.9, "syncnet_accuracy_shuffled": 0.55}, "pass"),
        ({"syncnet_accuracy_5f": 0.9, "syncnet_accuracy_shuffled": 0.56}, "fail"),
        ({"syncnet_accuracy_5f": 0.8499, "syncnet_accuracy_shuffled": 0.5}, "fail"),
        ({"good_rejected": 0}, "pass"),
        ({"good_rejected": 1}, "fail"),
        ({"psnr_outside_db": 45.0}, "pass"),
    ],
)
def test_verdicts(values, verdict):
    [figure] = [each for each in figures.KEY_FIGURES if each.key in values] or [
        each for each in figures.KEY_FIGURES if each.key == "mouth_r"
    ]
    assert figures.judge(figure, found_with(**values))[0] == verdict


def test_too_few_items_do_not_pass():
    few = found_with(mouth_r=0.7, mouth_r_shuffled=0.0)
    few["mouth_r"]["n"] = 7
    [figure] = [each for each in figures.KEY_FIGURES if each.key == "mouth_r"]
    verdict, words = figures.judge(figure, few)
    assert verdict == "fail" and "8" in words
