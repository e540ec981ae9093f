"""The mask: equal to the published file at every size it was published for, and sensible below."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from latentsync.ops import mask


def test_rows_are_those_of_mask_png(golden):
    spans = json.loads((golden("mask") / "info.json").read_text())["mask.png"]["row_spans_x_inclusive_lt128"]
    hole = mask.published_mask() == 0
    assert sorted(int(row) for row in spans) == np.flatnonzero(hole.any(1)).tolist()
    for row, parts in spans.items():
        expected = np.zeros(256, bool)
        for left, right in parts:
            expected[left : right + 1] = True
        assert (hole[int(row)] == expected).all(), row


@pytest.mark.parametrize("resolution", [256, 512])
def test_masks_equal_the_published_ones_exactly(golden, resolution):
    arrays = load_file(golden("mask") / "masks.safetensors")
    assert (mask.keep_mask(resolution) == (arrays[f"mask_{resolution}_uint8"] / 255.0).astype(np.float32)).all()
    assert (mask.latent_mask(resolution) == arrays[f"latent_mask_{resolution // 8}"]).all()


@pytest.mark.parametrize("resolution", [64, 128])
def test_small_masks_are_binary_and_cover_the_same_place(resolution):
    keep = mask.keep_mask(resolution)
    assert keep.shape == (resolution, resolution) and keep.dtype == np.float32
    assert set(np.unique(keep)) == {0.0, 1.0}
    assert (1 - keep).mean() == pytest.approx((1 - mask.keep_mask(256)).mean(), abs=0.01)
    fine = np.repeat(np.repeat(keep, 256 // resolution, 0), 256 // resolution, 1)
    assert (fine != mask.keep_mask(256)).mean() < 0.02


def test_latent_masks_take_the_top_left_pixel_of_each_cell():
    assert (mask.latent_mask(64, 4) == mask.keep_mask(64)[::4, ::4]).all()
    with pytest.raises(ValueError, match="does not divide"):
        mask.latent_mask(100, 8)


@pytest.mark.parametrize("size", [(52, 70), (210, 280), (420, 560)])
def test_the_feather_lies_inside_the_hole(size):
    ramp = mask.feathered_hole(size)
    assert ramp.shape == size[::-1] and ramp.min() == 0 and ramp.max() == 1
    rows, columns = ((np.arange(n) + 0.5) * 256 / n for n in ramp.shape)
    keep = mask.keep_mask(256)[np.ix_(rows.astype(int), columns.astype(int))]
    assert ramp[keep == 1].max() < 0.2  # cells that the edge of the hole crosses
    assert ramp[int(0.7 * size[1]), size[0] // 2] == 1  # the mouth


def test_shared_masks_cannot_be_changed():
    with pytest.raises(ValueError):
        mask.keep_mask(64)[0, 0] = 0
