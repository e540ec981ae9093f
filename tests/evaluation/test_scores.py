"""Figures from rows: what is counted, what is pooled, and what stands for a row that was not measured."""

import math
from collections import Counter

import numpy as np
import pytest

from latentsync.evaluation import scores

INTERVAL = scores.Bootstrap(100, 0)


def item(system: str, drive: str, r: float | None, r_picture: float = 0.1, error: float = 1.0) -> dict:
    sums = {"squared_error": error, "count": 1000}
    return {
        "system": system, "drive": drive, "mouth_r": r, "mouth_r_picture": r_picture, "mouth_r_known": True,
        "picture_group": "a", "psnr_outside_db": 40.0, "outside": sums, "outside_copy": sums, "mask_share": 0.1,
        "sync_confidence": 5.0, "sync_offset_frames": 0,
    }  # fmt: skip


def test_only_foreign_sound_counts_for_the_mouth_and_what_was_not_measured_counts_as_zero():
    videos = [
        item("ours", "cross", 0.9),
        item("ours", "cross", None),
        item("ours", "own", 1.0),
        item("copy", "cross", 0.2),
    ]
    figures = scores.mouth_figures(videos, INTERVAL)
    assert figures["mouth_r"]["value"] == pytest.approx(0.45) and figures["mouth_r"]["n"] == 2
    assert figures["mouth_r_shuffled"]["value"] == pytest.approx(0.1)
    assert scores.mouth_figures(videos[2:], INTERVAL)["mouth_r"]["reason"]


def test_psnr_is_pooled_over_all_pixels():
    figures = scores.outside_figures([item("ours", "own", 1, error=0), item("ours", "cross", 1, error=2000)], INTERVAL)
    assert figures["psnr_outside_db"]["value"] == pytest.approx(10 * math.log10(255**2))
    none_differs = scores.outside_figures([item("ours", "own", 1, error=0)], INTERVAL)["psnr_outside_db"]
    assert none_differs["value"] == scores.TOP_DB and none_differs["low"] is None


def test_the_table_has_a_row_for_every_system_that_ran_or_failed():
    rows = scores.table(
        [item("ours", "cross", 0.5), item("copy", "cross", 0.0)], Counter({("untrained", "cross"): 2}), INTERVAL
    )
    assert [(row["system"], row["n"], row["failed"]) for row in rows] == [
        ("copy", 1, 0),
        ("untrained", 0, 2),
        ("ours", 1, 0),
    ]


def test_one_frame_off_is_within_one_and_two_are_not():
    videos = [item("ours", "cross", 0.5) | {"sync_offset_frames": offset} for offset in (-2, -1, 0, 1)]
    [row] = scores.table(videos, Counter(), INTERVAL)
    assert row["sync_within_1"] == 0.75


def test_syncnet_figures_use_the_threshold_of_the_validation_clips():
    cosines, in_sync = np.array([0.3, 0.2, 0.35, 0.1]), np.array([True, False, True, False])
    none = np.zeros(0), np.zeros(0, bool), []
    figures = scores.syncnet_figures(cosines, in_sync, [0, 0, 1, 1], none, 0.25, INTERVAL)
    assert figures["syncnet_accuracy_5f"]["value"] == 1 and figures["syncnet_accuracy_at_0.5"]["value"] == 0.5
    assert figures["syncnet_accuracy_shuffled"]["value"] is None and figures["syncnet_accuracy_shuffled"]["reason"]
    foreign = np.array([0.3, 0.2, 0.3, 0.1]), np.array([True, True, False, True]), [0, 0, 1, 1]
    control = scores.syncnet_figures(cosines, in_sync, [0, 0, 1, 1], foreign, 0.25, INTERVAL)
    assert control["syncnet_accuracy_shuffled"]["value"] == 0.25 and control["syncnet_accuracy_shuffled"]["n"] == 4
