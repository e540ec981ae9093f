"""Order, times and spans of the written frames."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    order, times_s, end_s = timeline.lay_out(np.array([0.0, 0.02, 0.03]), 0.08, 0.16)
    assert order.tolist() == [0, 1, 2, 2, 1, 0]
    np.testing.assert_allclose(np.diff(np.append(times_s, end_s)), [0.02, 0.01, 0.05, 0.05, 0.01, 0.02])


def test_the_source_itself_is_left_as_it_is():
    times_s = np.array([0.0, 0.033, 0.07])
    order, same, end_s = timeline.lay_out(times_s, 0.1, 0.1)
    assert order.tolist() == [0, 1, 2] and np.array_equal(same, times_s) and end_s == 0.1


durations = st.lists(st.floats(0.005, 1.5), min_size=1, max_size=12)


@given(durations, st.floats(0.01, 8), st.sampled_from(["bounce", "repeat", "hold", "cut"]))
def test_every_written_frame_shows_what_the_source_shows_at_its_time(lasts_s, wanted_s, loop):
    edges_s = np.concatenate([[0], np.cumsum(lasts_s)])
    end_s = edges_s[-1]
    order, times_s, stop_s = timeline.lay_out(edges_s[:-1], end_s, wanted_s, loop)
    middles_s = (times_s + np.append(times_s[1:], stop_s)) / 2
    passed, within_s = np.divmod(middles_s, end_s)
    if loop == "hold":
        within_s = np.minimum(middles_s, end_s - 1e-9)
    elif loop == "bounce":
        within_s = np.where(passed % 2, end_s - within_s, within_s)
    elif loop == "cut":
        assert stop_s <= end_s + 1e-9
    assert order.tolist() == (np.searchsorted(edges_s, within_s, side="right") - 1).tolist()
    frames_s = np.diff(np.append(times_s, stop_s))
    assert (frames_s > 0).all() and frames_s.max() <= timeline.LONGEST_S + 1e-6
    assert (times_s[1:] < wanted_s).all()
    assert stop_s >= (min(wanted_s, end_s) if loop == "cut" else wanted_s) - 1e-5


@pytest.mark.parametrize(
    ("fps", "shown_fps"), [(1, 25), (8, 32), (10, 30), (12, 36), (12.5, 12.5), (15, 15), (16, 16), (24, 24), (60, 60)]
)
def test_slow_videos_are_shown_at_a_rate_of_speech(fps, shown_fps):
    n = int(2 * fps)
    order, times_s, end_s = timeline.lay_out(np.arange(n) / fps, n / fps, n / fps)
    assert end_s == pytest.approx(n / fps)
    np.testing.assert_allclose(times_s, np.arange(round(end_s * shown_fps)) / shown_fps, atol=1e-9)
    assert order.tolist() == np.repeat(np.arange(n), round(shown_fps / fps)).tolist()


def test_gaps_of_a_phone_are_left_and_a_still_in_a_video_is_not():
    lasts_s = np.array([1 / 30, 0.1, 1 / 30, 0.5, *[1 / 30] * 20])
    edges_s = np.concatenate([[0], np.cumsum(lasts_s)])
    order, times_s, end_s = timeline.lay_out(edges_s[:-1], edges_s[-1], edges_s[-1])
    assert order.tolist() == [0, 1, 2, *[3] * 13, *range(4, 24)]
    assert np.diff(np.append(times_s, end_s))[3:16] == pytest.approx(0.5 / 13)


def test_a_span_ends_where_a_repeated_video_starts_again():
    order, _, _ = timeline.lay_out(np.arange(5) / 25, 0.2, 0.4, "repeat")
    assert timeline.spans(np.zeros(10, int), order) == [(0, 5, 0), (5, 10, 0)]
    order, _, _ = timeline.lay_out(np.arange(5) / 25, 0.2, 0.4, "bounce")
    assert timeline.spans(np.zeros(10, int), order) == [(0, 10, 0)]


def test_runs_end_where_the_label_changes():
    assert timeline.spans(np.array([-1, -1, 0, 0, 0, 1, -1])) == [(0, 2, -1), (2, 5, 0), (5, 6, 1), (6, 7, -1)]
    assert timeline.spans(np.array([2])) == [(0, 1, 2)]


def test_legs_run_one_way():
    order, _, _ = timeline.lay_out(np.arange(10) / 25, 0.4, 1.0)
    legs = timeline.legs(order)
    assert [leg.tolist() for leg in legs] == [list(range(10)), list(range(9, -1, -1)), list(range(5))]
    assert [leg.tolist() for leg in timeline.legs(np.zeros(3, int))] == [[0], [0], [0]]
    assert [leg.tolist() for leg in timeline.legs(np.array([1, 2, 4, 3]))] == [[1, 2, 4], [3]]
