"""The clock: time stamps that jump, restart, repeat or lie too close, as numbers."""

from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from latentsync.media import clock

MS = Fraction(1, 1000)


def packets(times_ms, place=None, duration=40, dts=True) -> clock.Packets:
    times = np.array(times_ms, np.int64)
    unknown = np.full(len(times), clock.UNKNOWN)
    at = np.arange(len(times)) if place is None else np.array(place)
    return clock.Packets(MS, times, times if dts else unknown, np.full(len(times), duration, np.int64), at)


def placed(found: clock.Packets, parts: clock.Parts) -> list[int]:
    """The repaired times of the packets that are kept, sorted."""
    kept = parts.of >= 0
    return sorted((found.pts[kept] + parts.shift[parts.of[kept]]).tolist())


def steady(n: int, start: int = 0, step: int = 40) -> list[int]:
    return [start + step * index for index in range(n)]


def test_a_clock_without_faults_is_one_part_that_does_not_move():
    found = packets(steady(100))
    parts = clock.video_parts(found, None)
    assert parts.n_moved == 0 and (parts.of == 0).all()


def test_frames_out_of_order_are_no_break():
    reordered = packets([0, 160, 80, 40, 120, 320, 240, 200, 280], dts=False)
    assert clock.video_parts(reordered, None).n_breaks == 0


def test_joined_files_go_on_where_the_first_ends_and_audio_moves_with_the_video():
    video = packets(steady(50, 100) + steady(50, 100), place=range(0, 200, 2))
    audio = packets(steady(50, 87) + steady(50, 93), place=range(1, 201, 2))
    parts = clock.video_parts(video, audio)
    assert placed(video, parts) == steady(100, 100)
    heard = clock.audio_parts(audio, video, parts, 100)
    assert heard.shift.tolist() == parts.shift.tolist() == [0, 2000]  # the second part stays in sync: 93 beside 100


def test_a_jump_of_the_audio_alone_is_closed_however_far_it_is():
    video = packets(steady(125), place=range(0, 250, 2))
    for jump in (11_000, 3_600_000, 36_000_000):
        audio = packets(steady(75) + steady(50, 3000 + jump), place=range(1, 251, 2))
        assert placed(audio, clock.audio_parts(audio, video, clock.video_parts(video, audio), 0)) == steady(125)


def test_a_microphone_that_was_off_while_the_video_went_on_leaves_a_gap():
    video = packets(steady(1500), place=range(0, 3000, 2))
    audio = packets(steady(100) + steady(400, 44_000), place=[*range(1, 201, 2), *range(2201, 3001, 2)])
    heard = clock.audio_parts(audio, video, clock.video_parts(video, audio), 0)
    assert heard.n_moved == 0
    late = packets(steady(400, 44_000), place=range(2201, 3001, 2))
    assert clock.audio_parts(late, video, clock.video_parts(video, late), 0).n_moved == 0


def test_audio_that_lies_beside_the_video_but_bears_another_time_is_moved_to_it():
    video = packets(steady(100), place=range(0, 200, 2))
    for start in (-50_000, 36_000_000):
        audio = packets(steady(100, start), place=range(1, 201, 2))
        assert placed(audio, clock.audio_parts(audio, video, clock.video_parts(video, audio), 0)) == steady(100)


def test_slides_are_shown_as_long_as_the_file_says_and_a_jump_is_not():
    slides = packets([0, 30_000, 60_000], duration=30_000)
    assert clock.video_parts(slides, None).n_breaks == 0
    jump = packets([0, 40, 30_000, 30_040], duration=40)
    parts = clock.video_parts(jump, None)
    assert placed(jump, parts) == [0, 40, 80, 120]


def test_where_all_steps_are_breaks_frames_follow_as_long_as_they_last():
    jumps = packets([0, 1_000_000, 2_000_000])
    assert placed(jumps, clock.video_parts(jumps, None)) == [0, 40, 80]
    unsaid = packets([0, 1_000_000, 2_000_000], duration=0)
    assert placed(unsaid, clock.video_parts(unsaid, None)) == [0, 40, 80]
    times, n_closed = clock.closed(np.array([0, 1_000_000]), MS, 40)
    assert times.tolist() == [0, 40] and n_closed == 1


def test_a_duration_that_spans_a_break_is_not_the_usual_one():
    """An mp4 gives each frame the time up to the next one, so of two frames the first lasts as long as the jump."""
    found = packets([0, 1_377_450], duration=40)
    found.duration[0] = 1_377_450
    parts = clock.video_parts(found, packets(steady(3, step=1_000_000), [0, 2, 3]))
    assert placed(found, parts) == [0, 160]  # four times the usual step at most


def test_a_single_wrong_time_costs_one_frame():
    times = steady(100)
    times[40] = 900_000
    found = packets(times)
    parts = clock.video_parts(found, None)
    assert parts.n_breaks == 0 and np.flatnonzero(parts.of < 0).tolist() == [40]


def test_frames_that_follow_too_soon_are_not_shown():
    base = Fraction(1, 1_000_000)
    times = np.array([0, 40_000, 40_003, 80_000, 80_600])
    assert clock.too_close(times, base).tolist() == [False, False, True, False, False]
    assert not clock.too_close(np.arange(1000) * 4167, base).any()  # 240 frames a second


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(30, 60), st.integers(-(10**9), 10**9)), min_size=1, max_size=4),
    st.integers(1, 200),
)
def test_any_joined_parts_give_one_clock_without_gaps_or_overlaps(runs, step):
    """Each run of packets starts anywhere; whatever lies within a run keeps its distances."""
    times = [start + step * index for length, start in runs for index in range(length)]
    found = packets(times, duration=step)
    parts = clock.video_parts(found, None)
    shown = np.array(placed(found, parts))
    assert (np.diff(shown) >= 0).all() and shown[-1] - shown[0] <= len(times) * max(step, 12_000)
    for number in range(len(parts.shift)):
        inside = np.diff(found.pts[parts.of == number])
        assert (np.abs(inside) <= 10_000).all()  # no longest gap is exceeded within a part
