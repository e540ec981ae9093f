"""The mask: equal to the published file at every size it was published for, and sensible below."""

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from latentsync.faces import mask
from latentsync.faces.crop import to_pixels
from latentsync.generation import networks


def test_rows_are_those_of_mask_png(golden):
    spans = json.loads((golden("mask") / "info.json").read_text())["mask.png"]["row_spans_x_inclusive_lt128"]
    assert (cv2.imread(str(golden("mask") / "mask.png")) == mask.published_mask()[..., None]).all()
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
    info = json.loads((golden("mask") / "info.json").read_text())
    latent = info[f"latent_mask_{resolution // 8}"]
    assert (mask.latent_mask(resolution) < 0.5).sum() == latent["hole_cells"] > 400
    keep, whole = mask.keep_mask(resolution), info[f"load_fixed_mask_{resolution}"]
    assert (len(np.unique(keep)), ((keep > 0) & (keep < 1)).sum()) == (whole["n_unique"], whole["n_intermediate"])


@pytest.fixture
def without_vae(monkeypatch):
    """Models whose latents are the pixels themselves."""
    same = {"encode_moments": lambda _, pixels: pixels, "mode": lambda _, moments: moments}
    monkeypatch.setattr(networks, "vaes", SimpleNamespace(**same, decode=lambda _, latents: latents))
    models = object.__new__(networks.Models)  # of the fields only these are used
    fields = {"resolution": 256, "device": torch.device("cpu"), "dtype": torch.float32, "vae": None, "preview": None}
    for name, value in fields.items():
        object.__setattr__(models, name, value)
    return models


def test_what_the_vae_sees_and_what_its_frame_becomes_are_the_published_pixels(golden, without_vae):
    given = load_file(golden("mask") / "preprocess_inputs.safetensors")
    expected = load_file(golden("mask") / "preprocess_outputs.safetensors")
    decoded = load_file(golden("mask") / "decoded.safetensors")["decoded"]
    face, keep = given["face_256_uint8_chw"].transpose(1, 2, 0), mask.keep_mask(256)
    masked, pixels = (part.numpy() for part in without_vae.encode(face[None]).chunk(2, dim=1))
    assert np.abs(pixels[:, :, 100:140] - expected["pixel_values_rows_100_140"]).max() < 1e-6
    assert np.abs(masked[:, :, 100:140] - expected["masked_pixel_values_row100_140"]).max() < 1e-6
    cached = to_pixels(face[None]).swapaxes(0, 1)  # what extract_features encodes
    assert (cached == pixels).all() and (cached * keep == masked).all()
    # Published: a hard paste of the hole, then truncation. Ours blends inside the hole and rounds once, in the frame.
    combined = np.where(keep == 1, pixels, decoded)
    assert np.abs(combined[:, :, 90:140] - expected["combined_pixel_values_rows_90_140"]).max() < 1e-6
    drawn = np.floor(without_vae.decode(torch.from_numpy(decoded)).permute(0, 2, 3, 1).numpy())
    assert (drawn[:, keep == 0] == expected["combined_uint8_hwc"][:, keep == 0]).all()


def test_levels_of_pixels_are_the_published_ones_before_truncation(golden, without_vae):
    example = json.loads((golden("pipeline_bookkeeping") / "info.json").read_text())["pixel_values_to_images"]
    values = torch.tensor(example["inp"]).reshape(1, 1, 1, -1).expand(1, 3, -1, -1)
    levels = np.floor(without_vae.decode(values).permute(0, 2, 3, 1).numpy())
    assert len(example["inp"]) == 11 and list(levels.shape) == example["shape"]
    assert (levels == np.array(example["out"])[:, None]).all()


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
