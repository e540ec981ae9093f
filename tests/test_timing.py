"""Seconds, ticks, frames, samples, mel columns and Whisper rows: properties, and the published figures."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentsync import timing

RATES = [Fraction(16), Fraction(24000, 1001), 24, 25, Fraction(30000, 1001), 30, 50, 60]


@st.composite
def clocks(draw) -> tuple[np.ndarray, float]:
    """Presentation times of a VFR file on a 1/90000 clock, and the end of its last frame."""
    gaps = draw(st.lists(st.integers(90, 45_000), min_size=1, max_size=80))
    times = np.cumsum([0, *gaps])
    return times[:-1] / 90_000, times[-1] / 90_000


@given(clocks())
def test_every_tick_shows_the_nearest_frame(clock):
    times, end = clock
    table = timing.ticks_to_frames(times, end)
    assert table.dtype == np.int32 and (np.diff(table) >= 0).all()
    distance = np.abs(times[None] - np.arange(len(table))[:, None] / 25)
    chosen = distance[np.arange(len(table)), table]
    assert (chosen <= distance.min(axis=1) + 2e-6).all()
    # no earlier frame is as near: of two equally near frames the earlier is shown
    for tick, frame in enumerate(table):
        assert frame == 0 or distance[tick, frame - 1] > chosen[tick] - 1e-12


@given(clocks())
def test_the_last_tick_lies_before_the_end_of_the_last_frame_and_the_next_does_not(clock):
    times, end = clock
    n_ticks = len(timing.ticks_to_frames(times, end))
    assert n_ticks == timing.n_ticks(end)
    assert (n_ticks - 1) / 25 < end
    assert n_ticks / 25 >= end - 1e-6


@pytest.mark.parametrize("rate", RATES)
@settings(max_examples=25)
@given(n_frames=st.integers(1, 2000))
def test_constant_rates(rate, n_frames):
    times = np.array([float(i / Fraction(rate)) for i in range(n_frames)])
    table = timing.ticks_to_frames(times, float(n_frames / Fraction(rate)))
    exact = [Fraction(k, 25) * Fraction(rate) for k in range(len(table))]
    nearest = [min(-((1 - 2 * at) // 2), n_frames - 1) for at in exact]  # round half down: ties to the earlier
    assert table.tolist() == nearest
    if rate == 25:
        assert table.tolist() == list(range(n_frames))


def test_a_tie_goes_to_the_earlier_frame_though_floats_disagree():
    times = np.arange(40) / 12.5  # every odd tick lies half-way between two frames
    assert timing.ticks_to_frames(times, 3.2)[1::2].tolist() == list(range(40))
    thirds = np.arange(200) * 2 / 75  # 37.5 fps: ties at times that no float holds
    assert timing.ticks_to_frames(thirds, 200 * 2 / 75)[1::2].tolist() == list(range(1, 200, 3))[:100]


@pytest.mark.parametrize(
    ("end_s", "n_ticks"), [(0.01, 1), (0.04, 1), (0.0400001, 1), (0.041, 2), (4.0, 100), (4.571233, 115), (3.975, 100)]
)
def test_tick_counts(end_s, n_ticks):
    assert timing.n_ticks(end_s) == n_ticks


@given(st.integers(0, 10_000), st.integers(1, 10_000), st.integers(1, 500))
def test_pieces_cover_a_scene_without_gaps(start, length, piece):
    result = timing.pieces(start, start + length, piece)
    assert result[0][0] == start and result[-1][1] == start + length
    assert all(a[1] == b[0] for a, b in zip(result, result[1:], strict=False))
    assert all(stop - first == piece for first, stop in result[:-1])
    assert result[-1][1] - result[-1][0] < 2 * piece
    assert len(result) == 1 or result[-1][1] - result[-1][0] >= piece


@given(st.integers(0, 5000), st.integers(0, 500), st.integers(-15, 15))
def test_samples_tile_and_shift(start, length, offset):
    first, last = timing.samples_of(start, start + length)
    assert last - first == 640 * length and timing.samples_of(start + length, start + length)[0] == last
    # picture late (offset > 0): its sound lies earlier
    shifted = timing.shifted_samples_of(start, start + length, offset)
    assert shifted == (first - 640 * offset, last - 640 * offset)


@given(st.integers(0, 100_000))
def test_mel_and_whisper_positions_are_the_published_ones(frame):
    assert timing.mel_start(frame) == int(Fraction(80 * frame, 25))
    [centre] = timing.whisper_rows(np.array([frame / 25]))
    assert centre == int(Fraction(50 * frame, 25))
    [rows] = timing.whisper_window(np.array([centre]), 1_000_000)
    assert rows.tolist() == [max(0, row) for row in range(2 * frame - 4, 2 * frame + 6)]
    assert timing.whisper_rows(np.array([frame / 50])) == frame


@given(st.integers(0, 100_000), st.sampled_from(RATES))
def test_the_whisper_row_is_the_nearest_at_every_rate(frame, rate):
    """Generation reads audio at the native frame's own time; where training's ticks coincide, so do the rows."""
    exact = Fraction(50 * frame) / Fraction(rate)
    [row] = timing.whisper_rows(np.array([float(frame / Fraction(rate))]))
    assert row == (exact + Fraction(1, 2)).__floor__()  # ties to the later row
    assert abs(row - exact) <= Fraction(1, 2)  # 10 ms


def test_whisper_rows_of_native_frames():
    times_s = np.array([0, 1 / 30, 2 / 30, 1001 / 30000])
    assert timing.whisper_rows(times_s).tolist() == [0, 2, 3, 2]


@given(st.lists(st.floats(0, 1000), min_size=2, max_size=50).map(sorted))
def test_whisper_rows_never_go_back(times_s):
    assert (np.diff(timing.whisper_rows(np.array(times_s))) >= 0).all()


@given(st.integers(0, 5000), st.integers(1, 200))
def test_evenly_spaced_holds_both_ends_and_nothing_twice(n, count):
    chosen = timing.evenly_spaced(n, count)
    assert len(chosen) == len(set(chosen)) == min(n, count) and chosen == sorted(chosen)
    assert all(0 <= index < n for index in chosen)
    if min(n, count) > 1:
        assert (chosen[0], chosen[-1]) == (0, n - 1)
        gaps = np.diff(chosen)
        assert gaps.max() - gaps.min() <= 1
    if count >= n:
        assert chosen == list(range(n))


@given(st.integers(0, 10_000_000))
def test_seconds_of_ticks(ticks):
    assert timing.seconds(ticks) == float(Fraction(ticks, 25))


def test_published_widths():
    assert timing.mel_width(16) == 52 and timing.mel_width(25) == 80
    assert timing.SAMPLES_PER_TICK == 640 and timing.MEL_COLUMNS_PER_S == 80 and timing.WHISPER_ROWS_PER_S == 50
    assert timing.ticks_in(5.0) == 125 and timing.ticks_in(0.001) == 1


@given(st.lists(st.integers(-5, 300), min_size=1, max_size=20), st.integers(1, 200))
def test_whisper_windows_are_clamped_at_both_ends(centres, n_rows):
    rows = timing.whisper_window(np.array(centres), n_rows)
    assert rows.shape == (len(centres), 10) and rows.min() >= 0 and rows.max() < n_rows
    for row, centre in zip(rows, centres, strict=True):
        assert row.tolist() == [min(max(r, 0), n_rows - 1) for r in range(centre - 4, centre + 6)]
