"""Paste-back: the published blend, computed on a region only; nothing outside the mask changes."""

import json

import av
import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from latentsync.faces import alignment
from latentsync.faces.crop import align_face
from latentsync.faces.mask import feathered_hole
from latentsync.generation import paste, paste_gpu
from latentsync.media.colour import rgb_to_yuv, yuv_to_rgb
from latentsync.media.frames import DisplayedFrame, planes

ANCHORS = np.array([[542.0, 673.0], [622.0, 687.0], [567.0, 750.0]])
Y0, Y1, X0, X1 = 614, 908, 445, 690  # where golden/alignment shows the results


@pytest.fixture(scope="module")
def parity(golden):
    folder = golden("alignment")
    arrays = load_file(folder / "outputs.safetensors")
    return lambda name: arrays[name] if name in arrays else cv2.imread(str(folder / f"{name}.png"))[..., ::-1]


def image(height: int = 240, width: int = 320) -> np.ndarray:
    """A smooth colourful frame."""
    coarse = np.random.default_rng(1).integers(20, 235, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def face_at(x: float, y: float, size: float = 1.5, angle: float = 0.1, resolution: int = 64) -> np.ndarray:
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return alignment.similarity(size * alignment.TEMPLATE @ turn.T + [x, y], resolution)


def whole_box(shape: tuple[int, ...], matrix: np.ndarray, resolution: int) -> tuple[paste.Region, np.ndarray]:
    """The published blend: region and soft mask of the whole crop box."""
    region = paste.face_region(shape, matrix, resolution)
    empty = region == (0, 0, 0, 0)
    return region, np.zeros((0, 0), np.float32) if empty else paste.soft_box(matrix, resolution, region)


def blended(source: np.ndarray, patch: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return source + alpha[..., None] * (patch - source)


def pasted(frame: np.ndarray, face: np.ndarray, matrix: np.ndarray, resolution: int, blend_of=paste.paste_region):
    """A copy of an RGB frame with the face laid in."""
    (x0, y0, x1, y1), alpha = blend_of(frame.shape, matrix, resolution)
    result = frame.copy()
    if alpha.size:
        patch = paste.face_patch(face, matrix, resolution, (x0, y0, x1, y1))
        result[y0:y1, x0:x1] = np.rint(blended(frame[y0:y1, x0:x1], patch, alpha))
    return result


@pytest.mark.parametrize("resolution", [256, 512])
@pytest.mark.parametrize("kind", ["unmodified", "painted"])
def test_restored_frames_equal_the_published_ones(golden, parity, resolution, kind):
    frame, matrix = parity("frame_1080x1920"), alignment.similarity(ANCHORS, resolution)
    face = parity(f"face_{resolution}" if kind == "unmodified" else f"face_painted_{resolution}").astype(np.float32)
    region, alpha = whole_box(frame.shape, matrix, resolution)
    whole = np.zeros(frame.shape[:2], np.float32)
    whole[region[1] : region[3], region[0] : region[2]] = alpha
    assert np.abs(whole[Y0:Y1, X0:X1] - parity(f"soft_mask_roi_{resolution}")).max() < 1e-3  # stored as fp16
    restored = frame.astype(np.float32)
    part = restored[region[1] : region[3], region[0] : region[2]]
    part[...] = blended(part, paste.face_patch(face, matrix, resolution, region), alpha)
    # The golden file is the truncation of what we have: a value just below a whole number may fall to either side.
    lost = restored[Y0:Y1, X0:X1] - parity(f"restored_{kind}_{resolution}_roi")
    assert -0.06 < lost.min() and lost.max() < 1.06 and 0.3 < lost.mean() < 0.7
    truncated = np.floor(restored)
    away = np.abs(truncated[Y0:Y1, X0:X1] - parity(f"restored_{kind}_{resolution}_roi"))
    between = np.abs(restored - np.rint(restored))[Y0:Y1, X0:X1] > 0.02
    assert away.max() <= 1 and (away[between] == 0).mean() > 0.999 and between.mean() > 0.4
    info = json.loads((golden("alignment") / "info.json").read_text())[f"R{resolution}"]
    facts = info[f"restore_{kind}"]
    rows, columns = np.nonzero((truncated != frame).any(-1))
    box = [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
    assert box == facts["changed_bbox_y0x0y1x1"] and [Y0, Y1, X0, X1] == info["roi_y0y1x0x1"]
    assert len(rows) == pytest.approx(facts["n_changed_pixels"], rel=0.02)
    change = np.abs(truncated - frame)[Y0:Y1, X0:X1].mean()
    assert change == pytest.approx(facts["mean_abs_change_in_roi"], abs=0.1)
    restored[Y0:Y1, X0:X1] = frame[Y0:Y1, X0:X1]
    assert (restored == frame).all()


@pytest.mark.parametrize("resolution", [256, 512])
def test_the_soft_mask_goes_through_the_published_stages(golden, parity, monkeypatch, resolution):
    frame, matrix = parity("frame_1080x1920"), alignment.similarity(ANCHORS, resolution)
    (x0, y0, x1, y1), stages, kernels = paste.face_region(frame.shape, matrix, resolution), [], []
    erode, blur = cv2.erode, cv2.GaussianBlur

    def eroded(box, kernel):
        stages.append(box)
        kernels.append(list(kernel.shape))
        return erode(box, kernel)

    def blurred(box, size, sigma, **options):
        stages.append(box)
        kernels.append((*size, sigma))
        return blur(box, size, sigma, **options)

    monkeypatch.setattr(cv2, "erode", eroded)
    monkeypatch.setattr(cv2, "GaussianBlur", blurred)
    paste.soft_box(matrix, resolution, (x0, y0, x1, y1))
    for stage, name in zip(stages, ("inv_mask", "eroded_mask", "center_mask"), strict=True):
        whole = np.zeros(frame.shape[:2], np.float32)
        whole[y0:y1, x0:x1] = stage
        assert np.abs(whole[Y0:Y1, X0:X1] - parity(f"{name}_roi_{resolution}")).max() < 1e-3  # stored as fp16
    facts = json.loads((golden("alignment") / "info.json").read_text())[f"R{resolution}"]["restore_painted"]
    assert stages[1].sum() == pytest.approx(facts["sum_eroded_mask"], abs=1)
    width = facts["blur_kernel"]
    assert kernels == [[2, 2], facts["second_erosion_kernel"], (width, width, pytest.approx(facts["sigma"]))]


def test_a_face_taken_out_and_put_back_changes_next_to_nothing(parity):
    frame, matrix = parity("frame_1080x1920"), alignment.similarity(ANCHORS, 256)
    face = align_face(DisplayedFrame(av.VideoFrame.from_ndarray(frame, format="rgb24"), 0, False), matrix, 256)
    for blend_of in (whole_box, paste.paste_region):
        back = pasted(frame, face, matrix, 256, blend_of)
        away = np.abs(back.astype(int) - frame)[Y0:Y1, X0:X1]
        assert away.mean() < 0.5 and (away > 0).any()
    region, alpha = paste.paste_region(frame.shape, matrix, 256)
    untouched = np.ones(frame.shape[:2], bool)
    untouched[region[1] : region[3], region[0] : region[2]] = alpha == 0
    assert (back[untouched] == frame[untouched]).all() and 0.005 < 1 - untouched.mean() < 0.02


@settings(max_examples=40, deadline=None)
@given(st.floats(-150, 300), st.floats(-150, 250), st.floats(0.2, 4), st.floats(-0.7, 0.7), st.sampled_from([64, 256]))
def test_the_region_gives_what_the_whole_frame_would(x, y, size, angle, resolution):
    frame, matrix = image(), face_at(x, y, size, angle, resolution)
    region, alpha = whole_box(frame.shape, matrix, resolution)
    x0, y0, x1, y1 = region
    whole = paste.soft_box(matrix, resolution, (0, 0, 320, 240))
    assert alpha.shape == (y1 - y0, x1 - x0)
    assert x0 % 2 == y0 % 2 == 0 and (x1 % 2 == 0) and (y1 % 2 == 0)
    assert np.abs(whole[y0:y1, x0:x1] - alpha).max(initial=0) < 1e-3
    whole[y0:y1, x0:x1] = 0
    assert whole.max() < 1e-3


@settings(max_examples=25, deadline=None)
@given(st.floats(-60, 300), st.floats(-60, 220), st.floats(0.5, 2))
def test_only_the_hole_changes(x, y, size):
    frame, matrix = image(), face_at(x, y, size)
    region, alpha = paste.paste_region(frame.shape, matrix, 64)
    result = pasted(frame, np.zeros((64, 64, 3)), matrix, 64)
    changed = np.zeros(frame.shape[:2], bool)
    changed[region[1] : region[3], region[0] : region[2]] = alpha > 0
    assert (result[~changed] == frame[~changed]).all()
    rows, columns = np.nonzero(changed)
    inside = alignment.apply(alignment.to_face(matrix, 64), np.column_stack([columns, rows]).astype(float))
    hole = cv2.dilate(cv2.resize(feathered_hole((52, 70)), (64, 64)), np.ones((3, 3), np.uint8))
    assert (hole[np.rint(inside[:, 1]).astype(int), np.rint(inside[:, 0]).astype(int)] > 0).all()


def test_a_face_outside_the_frame_pastes_nothing():
    frame, matrix = image(), face_at(2000, 2000)
    assert paste.paste_region(frame.shape, matrix, 64)[0] == (0, 0, 0, 0)
    assert (pasted(frame, np.zeros((64, 64, 3)), matrix, 64) == frame).all()


def grey(height: int = 240, width: int = 320, pix_fmt: str = "yuv420p", level: int = 100) -> av.VideoFrame:
    """A frame of one level in all planes."""
    frame = av.VideoFrame(width, height, pix_fmt)
    for plane in planes(frame):
        plane[...] = level
    return frame


def cubic(values: np.ndarray, x: float, y: float) -> float:
    """Values (h, w) at a point by cubic convolution with a = -0.75 (Keys 1981, Eq. 8), written out."""

    def weight(d: float) -> float:
        d = abs(d)
        near, far = 1.25 * d**3 - 2.25 * d**2 + 1, -0.75 * (d**3 - 5 * d**2 + 8 * d - 4)
        return near if d <= 1 else far if d < 2 else 0.0

    rows, columns = (range(int(np.floor(at)) - 1, int(np.floor(at)) + 3) for at in (y, x))
    return sum(weight(y - r) * weight(x - c) * values[r, c] for r in rows for c in columns)


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p", "yuv420p10le"])
def test_the_paste_is_one_cubic_sample_of_the_face_blended_once(pix_fmt):
    face = cv2.resize(image(64, 64).astype(np.float32), (64, 64))
    matrix, depth = face_at(150, 100, size=1.2, angle=0.2), 10 if "10" in pix_fmt else 8
    source = grey(pix_fmt=pix_fmt, level=100 * 2 ** (depth - 8))
    result = paste.paste_face(source, face, matrix, 64)
    codes, to_face = rgb_to_yuv(face, "bt601", depth=depth), alignment.to_face(matrix, 64)
    alpha = cv2.resize(paste.opacity(64), (128, 128), interpolation=cv2.INTER_LINEAR)  # doubled like the face
    for channel, (new, old) in enumerate(zip(planes(result), planes(source), strict=True)):
        step = source.width // old.shape[1]
        checked = 0
        for row, column in np.argwhere(new != old)[::7].tolist():
            at = np.array([column, row]) * step + (step - 1) / 2
            x, y = alignment.apply(to_face, at)
            if not (3 < x < 60 and 3 < y < 60):
                continue
            expected = cubic(codes[..., channel], x, y)
            opacity = cv2.getRectSubPix(alpha, (1, 1), (2 * x + 0.5, 2 * y + 0.5)).item()
            wanted = int(old[row, column]) + opacity * (expected - int(old[row, column]))
            # OpenCV places samples on a grid of 1/32 of a pixel.
            assert abs(int(new[row, column]) - wanted) < 1.0 * 2 ** (depth - 8) + 0.5
            checked += 1
        assert checked > 20


def test_strength_is_a_share_of_the_change():
    face, matrix = np.full((64, 64, 3), 255.0, np.float32), face_at(150, 100)
    source = grey()
    whole, half, none = (planes(paste.paste_face(source, face, matrix, 64, s))[0].astype(int) for s in (1, 0.5, 0))
    assert whole.max() == 235 and (none == 100).all()
    assert np.abs((whole - 100) / 2 - (half - 100)).max() <= 1


@pytest.mark.parametrize(("resolution", "size"), [(512, 0.5), (256, 0.25)])
def test_a_large_face_pasted_small_is_averaged(resolution, size):
    face = np.random.default_rng(0).integers(0, 256, (resolution, resolution, 3)).astype(np.float32)
    matrix = face_at(150, 100, size=size, angle=0, resolution=resolution)
    (_, (values,), alpha), _ = paste.layers(grey(), face, matrix, resolution)
    inner = values[alpha > 0.9]
    assert len(inner) > 20 and inner.std() < 20 and inner.mean() == pytest.approx(16 + 127.5 * 219 / 255, abs=4)


def test_a_large_crop_pasted_small_is_averaged():
    rng = np.random.default_rng(0)
    matrix = face_at(150, 100, size=0.5, angle=0, resolution=512)
    region = paste.face_region((240, 320), matrix, 512)
    patch = paste.face_patch(rng.integers(0, 256, (512, 512, 3)), matrix, 512, region)
    inner = patch[8:-8, 8:-8]
    assert inner.std() < 20 and inner.mean() == pytest.approx(127.5, abs=2)


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le"])
@pytest.mark.parametrize(("matrix", "tag"), [("bt601", 5), ("bt709", 1)])
def test_planes_become_what_ffmpeg_would_make_of_the_frame(pix_fmt, matrix, tag):
    depth = 10 if "10" in pix_fmt else 8
    target = image(96, 128)
    ffmpeg = av.VideoFrame.from_ndarray(target, format="rgb24").reformat(format=pix_fmt, dst_colorspace=tag)
    expected = [
        np.frombuffer(plane, np.uint8 if depth == 8 else np.uint16).reshape(plane.height, -1)[:, : plane.width]
        for plane in ffmpeg.planes
    ]
    made = [np.zeros_like(plane) for plane in expected]
    paste.paste_yuv(*made, (0, 0, 128, 96), np.ones((96, 128), np.float32), target, matrix, depth=depth)
    for got, wanted in zip(made, expected, strict=True):
        away = np.abs(got.astype(int) - wanted) / 2 ** (depth - 8)
        assert away.mean() < 0.3 and away.max() <= 2


@pytest.mark.parametrize("shape", [(96, 128), (95, 127)])
def test_planes_outside_the_mask_keep_their_values_and_the_edge_is_a_blend(shape):
    rng = np.random.default_rng(0)
    small = -(-shape[0] // 2), -(-shape[1] // 2)
    y, u, v = (rng.integers(16, 236, size, dtype=np.uint8) for size in (shape, small, small))
    before = [plane.copy() for plane in (y, u, v)]
    region = (32, 32, shape[1], shape[0])
    alpha = np.zeros((shape[0] - 32, shape[1] - 32), np.float32)
    alpha[10:, 11:] = 0.5
    paste.paste_yuv(y, u, v, region, alpha, np.full((*alpha.shape, 3), 255.0), "bt709")
    assert (y[:42] == before[0][:42]).all() and (y[:, :43] == before[0][:, :43]).all()
    assert np.abs(y[42:, 43:] - (before[0][42:, 43:] / 2 + 235 / 2)).max() <= 0.51
    for plane, old in ((u, before[1]), (v, before[2])):
        assert (plane[:21] == old[:21]).all() and (plane[:, :21] == old[:, :21]).all()
        assert np.abs(plane[22:, 22:] - (old[22:, 22:] / 2 + 64)).max() <= 0.51
        assert np.abs(plane[22:, 21] - (old[22:, 21] * 0.75 + 32)).max() <= 0.51  # half of the block is masked


def test_full_range_and_unknown_matrices():
    white = np.full((1, 1, 3), 255, np.float32)
    assert rgb_to_yuv(white, "bt601", full_range=True)[0, 0] == pytest.approx([255, 128, 128])
    assert rgb_to_yuv(white, "bt2020", depth=10)[0, 0] == pytest.approx([940, 512, 512])
    with pytest.raises(ValueError, match="smpte is not known; known: bt601, bt709, bt2020"):
        rgb_to_yuv(white, "smpte")


@pytest.mark.parametrize("matrix", ["bt601", "bt709", "bt2020"])
@pytest.mark.parametrize(("full_range", "depth"), [(False, 8), (True, 8), (False, 10)])
def test_colours_come_back(matrix, full_range, depth):
    rgb = np.random.default_rng(0).uniform(0, 255, (5, 7, 3)).astype(np.float32)
    back = cv2.transform(rgb_to_yuv(rgb, matrix, full_range, depth), yuv_to_rgb(matrix, full_range, depth))
    assert np.abs(back - rgb).max() < 1e-3


@settings(max_examples=30)
@given(
    st.floats(-60, 300),
    st.floats(-60, 220),
    st.floats(0.2, 3),
    st.floats(-0.7, 0.7),
    st.sampled_from([64, 256]),
    st.sampled_from(["yuv420p", "yuv444p"]),
)
def test_the_paste_of_a_gpu_is_that_of_the_cpu(x, y, size, angle, resolution, pix_fmt):
    face = cv2.resize(image(64, 64).astype(np.float32), (resolution, resolution), interpolation=cv2.INTER_CUBIC)
    frame, matrix = grey(pix_fmt=pix_fmt), face_at(x, y, size, angle, resolution)
    ours = paste_gpu.layers(frame, torch.from_numpy(face).permute(2, 0, 1), matrix, resolution)()
    wanted = paste.layers(frame, face, matrix, resolution)
    assert len(ours) == len(wanted)
    for (grid, values, alpha), (same, given_values, given_alpha) in zip(ours, wanted, strict=True):
        assert grid.region == same.region and len(values) == len(given_values) == len(grid.channels)
        opaque = given_alpha > 0  # elsewhere nothing is pasted
        assert np.abs(alpha - given_alpha).max(initial=0) < 2e-3
        for value, given_value in zip(values, given_values, strict=True):
            assert value.dtype == given_value.dtype == np.float32
            assert np.abs(value - given_value)[opaque].max(initial=0) < 0.5
