"""Outcomes against the truth: what was planted, what was found, and what counts as right."""

from functools import partial

import pytest

from latentsync.evaluation import evidence, metrics, planted


def figure_of(compute, outcomes: dict) -> evidence.Measured:
    interval = partial(metrics.bootstrap, resamples=100, seed=0)
    return compute(evidence.Evidence(interval, outcomes=list(outcomes.values())))


def video(name: str, *expected: dict, offset: int = 0) -> dict:
    return {"id": name, "path": f"{name}.mp4", "offset_frames": offset, "expected": list(expected)}


def stretch(start_s: float, end_s: float, reason: str | None = None, **more) -> dict:
    return {"start_s": start_s, "end_s": end_s, "reason": reason, "track": "speaker"} | more


def clip(source: str, name: str, start: int, end: int, offset: int = 0, confidence: float | None = 9.0) -> dict:
    row = {"id": name, "source_id": source, "kind": "clip", "start_tick": start, "end_tick": end}
    return row | {"sync_offset_frames": offset, "sync_confidence": confidence}


def judged(truth, rows, selected=(), reasons=None, centre_x=None):
    found = planted.outcomes(truth, rows, set(selected), reasons or {}, centre_x or {}, min_confidence=3.0)
    return {outcome["id"]: outcome for outcome in found}


def test_good_and_bad_stretches_are_distinguished():
    truth = [
        video("good", stretch(0, 4), offset=3),
        video("lost", stretch(0, 4)),
        video("fault", stretch(0, 4, "low_quality")),
        video("wrong", stretch(0, 4, "low_quality")),
        video("slipped", stretch(0, 4, "small_face")),
        video("gone", stretch(0, 4, "no_face")),
        video("broken", stretch(0, 4, "unreadable")),
    ]
    rows = [clip(name, name, 0, 100) for name in ("good", "lost", "fault", "wrong", "slipped")]
    rows += [clip("good", "stray", 90, 96)]  # a find of six frames in a good video is no clip of it
    rows += [{"id": "broken", "source_id": "broken", "kind": "source"}]
    reasons = {"lost": "low_sync", "fault": "low_quality", "wrong": "too_short", "stray": "too_short"}
    found = judged(truth, rows, ["good", "slipped"], reasons | {"broken": "unreadable"})
    right = {name: outcome["right"] for name, outcome in found.items()}
    assert right == {
        "good-0": True, "lost-0": False, "fault-0": True, "wrong-0": False, "slipped-0": False, "gone-0": False,
        "broken-0": True,
    }  # fmt: skip
    assert found["gone-0"]["found"] == ["missing"] and found["slipped-0"]["found"] == ["selected"]
    good, faults = (figure_of(compute, found) for compute in (evidence.good_rejected, evidence.faults))
    assert (good.value, good.n) == (1, 2) and "lost.mp4: good became low_sync" in good.note
    assert (faults.value, faults.n) == (pytest.approx(2 / 5), 5) and "slipped.mp4" in faults.note


def test_every_row_of_a_fault_must_carry_its_reason():
    truth = [video("noise", stretch(0, 4, "low_quality"))]
    rows = [clip("noise", "a", 0, 60), clip("noise", "b", 60, 100)]
    assert not judged(truth, rows, [], {"a": "low_quality", "b": "low_sync"})["noise-0"]["right"]
    assert judged(truth, rows, [], {"a": "low_quality", "b": "low_quality"})["noise-0"]["right"]


@pytest.mark.parametrize(("reason", "kept"), [(None, "face"), ("low_sync", None)])
def test_a_face_seen_in_hair_says_nothing_of_the_planted_one_unless_it_is_selected(reason, kept):
    truth = [video("v", stretch(0, 4, reason)) | {"face_px": [128.0]}]
    rows = [clip("v", "face", 0, 100) | {"face_px": 130.8}, clip("v", "hair", 23, 100) | {"face_px": 47.0}]
    verdicts = {"face": reason, "hair": "small_face"}
    assert judged(truth, rows, [kept], verdicts)["v-0"]["right"]
    spoiled = judged(truth, rows, [kept, "hair"], verdicts)["v-0"]
    assert not spoiled["right"] and "a stray find was selected" in spoiled["found"]
    assert not judged(truth, rows[1:], [], verdicts)["v-0"]["right"]  # hair alone is no face


def test_two_shots_and_two_faces_are_matched_in_time_and_side():
    two = [stretch(0, 4, side="left"), stretch(0, 4, "low_sync", side="right", track="silent")]
    truth = [video("shots", stretch(0, 2), stretch(2, 4, "low_quality")), video("faces", *two)]
    rows = [
        clip("shots", "s0", 0, 51),
        clip("shots", "s1", 51, 100),
        clip("faces", "l", 0, 100),
        clip("faces", "r", 0, 100),
    ]
    found = judged(truth, rows, ["s0", "l"], {"s1": "low_quality", "r": "low_sync"}, {"l": 0.3, "r": 0.7})
    assert all(outcome["right"] for outcome in found.values())
    swapped = judged(truth, rows, ["s0", "l"], {"s1": "low_quality", "r": "low_sync"}, {"l": 0.7, "r": 0.3})
    assert not swapped["faces-0"]["right"] and "offset_within_1" not in swapped["faces-1"]


@pytest.mark.parametrize(
    ("measured", "confidence", "found"), [(4, 9.0, True), (7, 9.0, False), (5, 2.9, False), (5, None, False)]
)
def test_offsets_count_within_one_frame_and_abstentions_are_misses(measured, confidence, found):
    truth = [video("v", stretch(0, 4), offset=5), video("mute", stretch(0, 4, "no_audio"))]
    outcome = judged(truth, [clip("v", "v", 0, 100, measured, confidence)], ["v"])
    assert outcome["v-0"]["offset_within_1"] == found and "offset_within_1" not in outcome["mute-0"]
    assert figure_of(evidence.offsets, outcome).n == 1
