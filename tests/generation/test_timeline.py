"""Order, times and spans of the written frames."""

import json

import numpy as np
import pytest

from latentsync import timing
from latentsync.generation import timeline


def test_pingpong_and_cut_equal_the_published_order(golden):
    cases = json.loads((golden("pipeline_bookkeeping") / "info.json").read_text())["loop_video"]
    assert len(cases) >= 6
    for name, expected in cases.items():
        n_frames, wanted = (int(part.removeprefix("video").removeprefix("audio")) for part in name.split("_"))
        order, times_s, end_s = timeline.lay_out(np.arange(n_frames) / 25, n_frames / 25, wanted / 25)
        if isinstance(expected, dict):
            assert len(order) == expected["len"] and order[-6:].tolist() == expected["tail"]
        else:
            assert order.tolist() == expected
        np.testing.assert_allclose(times_s, np.arange(wanted) / 25, atol=1e-9)
        assert end_s == pytest.approx(wanted / 25)


def test_frames_keep_as_many_samples_as_published(golden):
    kept = json.loads((golden("pipeline_bookkeeping") / "info.json").read_text())["audio_samples_kept"]
    assert len(kept) == 5
    assert {frames: timing.samples_of(0, int(frames))[1] for frames in kept} == kept


def test_frames_of_uneven_length_keep_their_length_when_the_video_runs_back():
    order, times_s, end_s = timeline.lay_out(np.array([0.0, 0.1, 0.15]), 0.4, 0.8)
    assert order.tolist() == [0, 1, 2, 2, 1, 0]
    np.testing.assert_allclose(np.diff(np.append(times_s, end_s)), [0.1, 0.05, 0.25, 0.25, 0.05, 0.1])


def test_the_source_itself_is_left_as_it_is():
    times_s = np.array([0.0, 0.033, 0.07])
    order, same, end_s = timeline.lay_out(times_s, 0.1, 0.1)
    assert order.tolist() == [0, 1, 2] and np.array_equal(same, times_s) and end_s == 0.1


def test_runs_end_where_the_label_changes():
    assert timeline.spans(np.array([-1, -1, 0, 0, 0, 1, -1])) == [(0, 2, -1), (2, 5, 0), (5, 6, 1), (6, 7, -1)]
    assert timeline.spans(np.array([2])) == [(0, 1, 2)]


def test_legs_run_one_way():
    order, _, _ = timeline.lay_out(np.arange(10) / 25, 0.4, 1.0)
    legs = timeline.legs(order)
    assert [leg.tolist() for leg in legs] == [list(range(10)), list(range(9, -1, -1)), list(range(5))]
    assert [leg.tolist() for leg in timeline.legs(np.zeros(3, int))] == [[0], [0], [0]]
    assert [leg.tolist() for leg in timeline.legs(np.array([1, 2, 4, 3]))] == [[1, 2, 4], [3]]
