"""The alignment: parity with golden/alignment, and what must hold for any face."""

import json
import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from scipy import ndimage

from latentsync.faces import alignment

BASE = np.array([[542.0, 673.0], [622.0, 687.0], [567.0, 750.0]])
STEPS = np.array([[[0, 0], [0, 0], [0, 0]], [[3, -2], [2, -1], [4, 1]], [[-8, 5], [-7, 6], [-9, 3]]], float)
number = st.floats(-1, 1)
shapes = st.lists(st.tuples(number, number), min_size=3, max_size=3).map(np.array)


def spread(points: np.ndarray) -> float:
    return float(np.ptp(points, axis=0).max())


@st.composite
def placed(draw) -> tuple[np.ndarray, float]:
    """Anchors of a face like the template, distorted a little, of any size, turn and place; and the turn."""
    angle, size = draw(st.floats(-0.8, 0.8)), draw(st.floats(0.2, 20))
    points = alignment.TEMPLATE + 4 * draw(shapes)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return size * points @ turn.T + 500 * np.array([draw(number), draw(number)]), angle


@pytest.fixture(scope="module")
def parity(golden):
    folder = golden("alignment")
    arrays = load_file(folder / "outputs.safetensors")
    return lambda name: arrays[name] if name in arrays else cv2.imread(str(folder / f"{name}.png"))[..., ::-1]


def near(matrix: np.ndarray, golden: np.ndarray) -> None:
    """Within golden/alignment's tolerance."""
    away = np.abs(matrix - golden)
    assert away[:, :2].max() < 1e-5 and away[:, 2].max() < 1e-3


@pytest.mark.parametrize("resolution", [256, 512])
def test_matrices_of_three_frames_in_a_row_equal_the_published_ones(parity, resolution):
    state = None
    for frame, step in enumerate(STEPS):
        matrix, state = alignment.published_similarity(BASE + step, resolution, state)
        near(matrix, parity(f"seq_M_smooth_{resolution}_{frame}"))
        near(matrix - np.pad(state[:, None], ((0, 0), (2, 0))), parity(f"seq_M_nosmooth_{resolution}_{frame}"))
        assert np.abs(state - parity(f"seq_pbias_{resolution}_{frame}")).max() < 1e-6
    matrix = alignment.similarity(BASE, resolution)
    near(matrix, parity(f"affine_matrix_{resolution}"))
    near(alignment.invert(matrix), parity(f"inverse_affine_{resolution}"))
    bias = parity(f"p_bias_after_{resolution}")
    near(matrix - np.pad(bias[:, None], ((0, 0), (2, 0))), parity(f"M_nosmooth_{resolution}"))
    assert (matrix.astype(np.float16) == parity(f"affine_matrix_fp16_{resolution}")).all()


@pytest.mark.parametrize(("resolution", "size"), [(256, "210x280"), (512, "420x560")])
def test_crops_equal_the_published_ones(golden, parity, resolution, size):
    cropped = alignment.crop(parity("frame_1080x1920"), alignment.similarity(BASE, resolution), resolution)
    if resolution == 256:
        exact = parity("crop_float_before_truncation_256_rows_0_40")
        assert np.abs(cropped[:40].transpose(2, 0, 1) - exact).max() < 0.005
    truncated = np.floor(cropped).astype(np.uint8)
    for got, name in (
        (truncated, f"crop_{size}_R{resolution}"),
        (alignment.stretch(truncated, resolution), f"face_{resolution}"),
    ):
        away = np.abs(got.astype(int) - parity(name))
        assert away.max() <= 1 and (away == 0).mean() > 0.99
    info = json.loads((golden("alignment") / "info.json").read_text())[f"R{resolution}"]
    assert alignment.crop_size(resolution) == tuple(info["face_size_wh"])
    assert np.abs(alignment.template(resolution) - info["template"]).max() < 1e-9
    rounded = (np.rint(cropped) != truncated).mean()  # what align_face does instead: one rounding, at the end
    assert rounded == pytest.approx(info["uint8_pixels_that_differ_if_rounded_instead_of_truncated"], abs=0.01)


def test_a_face_at_the_corner_is_filled_with_grey_as_published(parity):
    matrix, _ = alignment.published_similarity(parity("border_case_landmarks3"), 256, None)
    near(matrix, parity("border_case_affine_matrix_256"))
    cropped = np.floor(alignment.crop(parity("frame_1080x1920"), matrix, 256)).astype(np.uint8)
    away = np.abs(alignment.stretch(cropped, 256).astype(int) - parity("border_case_face_256"))
    assert away.max() <= 2 and (away > 1).mean() < 1e-4 and (away == 0).mean() > 0.99
    assert (cropped[:, 0] == alignment.FILL).all()


def test_the_cubic_resize_equals_the_published_one(parity):
    face = parity("face_painted_256") / np.float32(127.5) - 1
    small = alignment.resize_cubic(face, (210, 280))
    golden = parity("face_resized_210x280_painted_256_rows_130_170")
    assert np.abs(small[130:170].transpose(2, 0, 1) - golden).max() < 1e-4


def test_a_face_of_another_shape_is_resized_as_published(golden):
    given = load_file(golden("mask") / "preprocess_inputs.safetensors")["face_200x220_uint8_chw"].transpose(1, 2, 0)
    expected = load_file(golden("mask") / "preprocess_outputs.safetensors")["resized_from_200x220_uint8"][0]
    resized = np.rint(alignment.resize_cubic(given, (256, 256))).clip(0, 255).transpose(2, 0, 1)
    assert np.abs(resized - expected).max() <= 1 and (resized == expected).mean() > 0.99


def test_crop_sizes():
    assert [alignment.crop_size(r) for r in (64, 128, 256, 512)] == [(52, 70), (105, 140), (210, 280), (420, 560)]


def test_three_equal_anchors_are_refused():
    with pytest.raises(ValueError, match="coincide"):
        alignment.similarity(np.ones((3, 2)), 256)


@given(placed())
def test_inverse_undoes(face):
    points, _ = face
    matrix = alignment.similarity(points, 256)
    there = alignment.apply(matrix, points)
    assert np.abs(alignment.apply(alignment.invert(matrix), there) - points).max() < 1e-6 * (1 + np.abs(points).max())


@given(placed(), st.sampled_from([64, 256, 512]))
def test_anchors_come_to_lie_near_the_template(face, resolution):
    points, _ = face
    away = alignment.apply(alignment.similarity(points, resolution), points) - alignment.template(resolution)
    # 4 of 75 units of distortion, rotation fitted around it, and a bias below two pixels
    assert np.abs(away).max() < 2.8 * resolution / 256 * 8 + 2


@given(placed(), st.floats(0.3, 3), st.tuples(number, number))
def test_scale_and_place_of_a_face_do_not_change_its_crop(face, size, shift):
    points, _ = face
    moved = size * points + 300 * np.array(shift)
    a = alignment.apply(alignment.similarity(points, 256), points)
    b = alignment.apply(alignment.similarity(moved, 256), moved)
    assert np.abs(a - b).max() < 1e-6


@given(placed(), st.floats(-0.8, 0.8))
def test_a_turned_face_gets_the_same_crop_but_for_the_bias(face, angle):
    points, _ = face
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    a = alignment.apply(alignment.similarity(points, 256), points)
    b = alignment.apply(alignment.similarity(points @ turn.T, 256), points @ turn.T)
    assert np.ptp(a - b, axis=0).max() < 1e-6  # one common shift: the published bias looks at the face unturned
    assert np.abs(a - b).max() < 3


@given(placed())
def test_a_small_crop_is_the_256_crop_made_smaller(face):
    points, _ = face
    assert np.abs(alignment.similarity(points, 64) * 4 - alignment.similarity(points, 256)).max() < 1e-9 * (
        1 + np.abs(points).max()
    )


@settings(max_examples=30, deadline=None)
@given(
    st.integers(3, 12), st.integers(3, 12), st.lists(st.floats(-1.5, 1.5), min_size=4, max_size=4),
    st.tuples(st.floats(-15, 15), st.floats(-15, 15)), st.integers(0, 9),
)  # fmt: skip
def test_warp_is_exact_bilinear_with_a_border(height, width, linear, shift, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 2), dtype=np.uint8)
    back = np.column_stack([np.reshape(linear, (2, 2)), shift])
    got = alignment.warp(image, back, (9, 7))
    for channel in range(2):
        expected = ndimage.affine_transform(
            image[..., channel].astype(float), back[::-1, 1::-1], back[::-1, 2], (7, 9),
            order=1, mode="grid-constant", cval=alignment.FILL, prefilter=False,
        )  # fmt: skip
        assert np.abs(got[..., channel] - expected).max() < 0.01


def test_a_shrunk_small_crop_is_an_average_and_does_not_flicker():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (600, 600, 3), dtype=np.uint8)
    points = alignment.TEMPLATE * 5 + 100
    cropped = alignment.crop(noise, alignment.similarity(points, 64), 64)
    one_sample = alignment.warp(noise, alignment.invert(alignment.similarity(points, 64)), alignment.crop_size(64))
    assert cropped.shape == (70, 52, 3)
    assert cropped.std() < 0.35 * one_sample.std()
    ramp = np.broadcast_to(np.linspace(0, 255, 600)[:, None, None], (600, 600, 3)).astype(np.float32)
    shrunk = alignment.crop(ramp, alignment.similarity(points, 64), 64)
    plain = alignment.warp(ramp, alignment.invert(alignment.similarity(points, 64)), alignment.crop_size(64))
    off = np.abs(shrunk - plain).max((1, 2))
    assert (
        off[:-8].max() < 0.01 and off.max() < 0.1
    )  # averaging shifts nothing; the last rows lie at the picture's edge


def test_a_matrix_without_an_inverse_is_an_error_and_no_shape_gives_a_matrix_that_is_not_finite():
    with pytest.raises(np.linalg.LinAlgError, match="no inverse"):
        alignment.invert(np.array([[1.0, 2, 0], [2, 4, 0]]))
    # The shape that no rotation brings nearer to the template: sum(conj(a) b) is 0 but for rounding.
    a, b, _ = alignment.TEMPLATE @ [1, 1j] - (alignment.TEMPLATE @ [1, 1j]).mean()
    c = alignment.TEMPLATE[2] @ [1, 1j] - (alignment.TEMPLATE @ [1, 1j]).mean()
    shape = np.conj([c - b, a - c, b - a])  # sums to 0, as does its product with (a, b, c)
    matrix = alignment.similarity(np.stack([shape.real, shape.imag], -1), 256)
    assert np.isfinite(matrix).all() and abs(np.linalg.det(matrix[:, :2])) > 1e-6


def test_many_faces_at_once_get_the_matrices_of_each():
    points = np.random.default_rng(3).uniform(0, 500, (2, 5, 3, 2))
    for resolution in (64, 256):
        together = alignment.similarity(points, resolution)
        assert together.shape == (2, 5, 2, 3)
        for index in np.ndindex(2, 5):
            assert np.allclose(together[index], alignment.similarity(points[index], resolution), atol=1e-9)


def test_the_rotation_is_that_of_procrustes_and_a_mirrored_face_is_not_mirrored_back():
    for points in np.random.default_rng(4).uniform(0, 500, (50, 3, 2)):
        a, b = points - points.mean(0), alignment.TEMPLATE - alignment.TEMPLATE.mean(0)
        u, _, vt = np.linalg.svd(a.T @ b)
        vt[-1] *= np.sign(np.linalg.det(u @ vt))
        linear = alignment.similarity(points, 256)[:, :2]
        assert np.allclose(linear / alignment.scale_of(linear @ np.eye(2, 3)), (u @ vt).T, atol=1e-9)
