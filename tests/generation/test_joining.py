"""Windows cover a span, joining gives every frame once, and neither seam nor smear is left at a joint."""

import json

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from latentsync.generation import joining

FRAMES = 16
spans = st.tuples(st.integers(1, 90), st.integers(0, 7), st.integers(1, 5))  # length, overlap, windows in a batch


def latents_from(truth, shift=0.0):
    """A network that gives the truth, shifted by an amount that depends on the window."""
    return lambda batch: torch.stack([truth[w] + shift * float(np.sin(w[0] + 1)) for w in batch])


def whole(length, overlap, size, latents_of, first=0):
    pieces = list(joining.joined(joining.windows(length, FRAMES, overlap), size, overlap, latents_of, first))
    starts = np.cumsum([pieces[0][0], *(len(latents) for _, latents in pieces)])
    assert [start for start, _ in pieces] == starts[:-1].tolist() and starts[-1] == length
    return pieces[0][0], torch.cat([latents for _, latents in pieces])


def test_chunks_without_overlap_are_the_published_ones(golden):
    cases = json.loads((golden("pipeline_bookkeeping") / "info.json").read_text())["chunks"]
    assert len(cases) == 6
    for length, expected in cases.items():
        chunks = joining.windows(int(length), 16, 0)
        assert len(chunks) == expected["num_inferences"]
        assert len(chunks[-1]) == expected["last_chunk"]


@given(spans)
def test_windows_cover_everything_in_order(case):
    length, overlap, _ = case
    windows = joining.windows(length, FRAMES, overlap)
    assert np.array_equal(np.unique(np.concatenate(windows)), np.arange(length))
    for before, after in zip(windows, windows[1:], strict=False):
        assert before[0] < after[0] <= before[-1] + 1 - overlap
    if overlap:
        assert {len(window) for window in windows} == {min(length, FRAMES)}


@settings(deadline=None)
@given(spans)
@example((29, 4, 2))  # the last window begins one frame after the one before it
def test_joined_gives_every_frame_once_and_keeps_what_windows_agree_on(case):
    length, overlap, size = case
    truth = torch.arange(float(length)).reshape(-1, 1, 1, 1)
    assert torch.equal(whole(length, overlap, size, latents_from(truth))[1], truth)


@settings(deadline=None)
@given(spans, st.integers(0, 89))
@example((29, 4, 2), 28)
def test_joined_from_a_later_frame_gives_the_same_bits(case, first):
    length, overlap, size = case
    first = min(first, length - 1)
    latents_of = latents_from(torch.rand(length, 2, 1, 1, generator=torch.Generator().manual_seed(length)), 1.0)
    begin, part = whole(length, overlap, size, latents_of, first)
    windows = joining.windows(length, FRAMES, overlap)
    assert joining.needed_from(windows, size, first) <= begin <= first
    assert torch.equal(part[first - begin :], whole(length, overlap, size, latents_of)[1][first:])


@pytest.mark.parametrize("overlap", [1, 2, 4])
def test_a_still_face_drifts_instead_of_jumping(overlap):
    still = torch.zeros(100, 1, 1, 1)
    jumps = whole(100, 0, 2, latents_from(still, 1.0))[1].diff(dim=0).abs().max()
    drifts = whole(100, overlap, 2, latents_from(still, 1.0))[1].diff(dim=0).abs().max()
    assert jumps > 1 and drifts < jumps / 3


@pytest.mark.parametrize("overlap", [1, 2, 4])
def test_motion_keeps_its_size_where_windows_meet(overlap):
    """Every window draws the same motion at its own level: the result has the motion and no step."""
    moving = torch.tensor([-1.0, 1.0]).repeat(50).reshape(-1, 1, 1, 1)
    result = whole(100, overlap, 2, latents_from(moving, 0.1))[1].diff(dim=0).abs().flatten()
    assert torch.allclose(result, torch.full_like(result, 2.0), atol=0.05)


@pytest.mark.parametrize(("fps", "stride"), [(12, 1), (25, 1), (30_000 / 1001, 1), (50, 2), (59.94, 2), (120, 5)])
def test_windows_span_the_time_of_training_at_any_rate(fps, stride):
    assert joining.stride_of(np.arange(40) / fps) == stride
    assert joining.stride_of(np.zeros(1)) == 1


@given(st.integers(1, 60), st.integers(1, 4), st.integers(2, 12), st.integers(1, 3))
def test_phases_come_back_in_the_order_of_the_frames(length, stride, frames, n):
    length = min(length, stride * frames)
    batch = [np.arange(length) + 100 * number for number in range(n)]
    phases = [one for window in batch for one in joining.strided(window, stride, frames)]
    assert len({len(one) for one in phases}) == 1 and len(phases[0]) <= frames
    if length > frames:
        assert all(set(np.diff(one)) <= {stride, *range(stride)} for one in phases)
    latents = torch.from_numpy(np.stack(phases)).float()[:, :, None, None, None]
    joined_again = joining.interleaved(latents, n, length)
    assert torch.equal(joined_again[..., 0, 0, 0], torch.from_numpy(np.stack(batch)).float())
