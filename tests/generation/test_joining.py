"""Windows cover a span, and joining gives every frame once."""

import json

import pytest
import torch

from latentsync.generation import joining


def test_chunks_without_overlap_are_the_published_ones(golden):
    cases = json.loads((golden("pipeline_bookkeeping") / "info.json").read_text())["chunks"]
    assert len(cases) == 6
    for length, expected in cases.items():
        chunks = joining.windows(int(length), 16, 0)
        assert len(chunks) == expected["num_inferences"]
        assert chunks[-1][1] - chunks[-1][0] == expected["last_chunk"]


@pytest.mark.parametrize("overlap", [0, 1, 4, 8, 15])
@pytest.mark.parametrize("length", [1, 3, 15, 16, 17, 20, 28, 29, 100])
def test_windows_cover_everything_in_order(length, overlap):
    windows = joining.windows(length, 16, overlap)
    assert windows[0][0] == 0 and windows[-1][1] == length
    for (start, stop), (following, _) in zip(windows, windows[1:], strict=False):
        assert start < following <= stop - overlap
    if overlap:
        assert {stop - start for start, stop in windows} == {min(length, 16)}


@pytest.mark.parametrize("length", [1, 15, 16, 17, 29, 45])
@pytest.mark.parametrize("overlap", [0, 4, 12])
@pytest.mark.parametrize("size", [1, 2, 9])
def test_joined_gives_every_frame_once_and_keeps_what_windows_agree_on(length, overlap, size):
    truth = torch.arange(float(length)).reshape(-1, 1, 1, 1)
    sizes = []

    def latents_of(batch):
        sizes.append(len(batch))
        return torch.stack([truth[start:stop] for start, stop in batch])

    spans = joining.windows(length, 16, overlap)
    pieces = list(joining.joined(spans, size, latents_of))
    assert torch.allclose(torch.cat([latents for _, latents in pieces]), truth)
    assert [start for start, _ in pieces] == [start for start, _ in spans]
    assert max(sizes) <= size and sum(sizes) == len(spans)


def test_joined_fades_from_one_window_to_the_next():
    def latents_of(batch):
        return torch.stack([torch.full((16, 1, 1, 1), float(start > 0)) for start, _ in batch])

    for size in (1, 2):
        result = torch.cat([piece for _, piece in joining.joined(joining.windows(28, 16, 4), size, latents_of)])
        assert torch.allclose(result[12:16].flatten(), torch.tensor([0.2, 0.4, 0.6, 0.8]))
        assert (result[:12] == 0).all() and (result[16:] == 1).all()
