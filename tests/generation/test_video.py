"""Reading a video in the order of the result, the result's frame rate, and the quality it is written with."""

from fractions import Fraction

import pytest

from latentsync.generation import timeline
from latentsync.generation.video import BEST_CRF, WORST_CRF, constant_rate, in_order, matching_crf
from latentsync.media import read
from latentsync.media.write import VideoWriter
from tests.videos import VFR_S, head, number_of, numbered_image


@pytest.mark.parametrize("loop", ["bounce", "repeat", "hold"])
@pytest.mark.parametrize(("fps", "shown_fps"), [(25, 25), (2, 26), (Fraction(30_000, 1001), Fraction(30_000, 1001))])
def test_frames_come_in_their_order_and_at_an_exact_rate(tmp_path, loop, fps, shown_fps):
    path = tmp_path / "numbers.mp4"
    with VideoWriter(path, fps, 160, 64) as writer:
        for number in range(6):
            writer.write(numbered_image(number))
    times_s, end_s = read.frame_times(path)
    order, starts_s, stop_s = timeline.lay_out(times_s, end_s, 1.7 * end_s, loop)
    assert [number_of(frame.to_ndarray(format="rgb24")) for frame in in_order(path, order)] == order.tolist()
    assert constant_rate(path, starts_s, stop_s) == shown_fps
    assert constant_rate(path, starts_s[:3], starts_s[3]) == shown_fps  # and of a part


def test_uneven_frames_have_no_constant_rate(tmp_path):
    path = tmp_path / "vfr.mp4"
    with VideoWriter(path, 25, 160, 64, frame_times=VFR_S, end_s=VFR_S[-1] + 0.1) as writer:
        for number in range(len(VFR_S)):
            writer.write(numbered_image(number))
    assert constant_rate(path, *read.frame_times(path)) is None


def test_the_quality_follows_the_bits_of_the_source(tmp_path):
    """Photographs that drift, as large as a face in a call."""
    chosen = {}
    for crf in (0, 12, 24, 36, 51):
        with VideoWriter(tmp_path / f"{crf}.mp4", 25, 208, 176, crf=crf) as writer:
            for index in range(25):
                writer.write(head(index))
        chosen[crf] = matching_crf(writer.path)
    assert list(chosen.values()) == sorted(chosen.values())
    assert chosen[0] == BEST_CRF < chosen[36] and chosen[51] == WORST_CRF
