"""Frames as people see them, and faces taken straight from their planes."""

import av
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentsync.faces import alignment
from latentsync.faces.crop import align_face, aligned, face_frame
from latentsync.media.frames import DisplayedFrame, native_rgb, planes, to_displayed

PLANAR = "yuv420p yuvj420p yuv422p yuv444p yuv411p yuv420p10le yuv422p10le"
OTHERS = "nv12 gray gray10le rgb24 bgra yuyv422 gbrp"


def frame_of(name: str, width: int, height: int, colorspace: int = 2) -> av.VideoFrame:
    """A smooth colourful image: chroma at half resolution loses next to nothing of it."""
    coarse = np.random.default_rng(1).integers(40, 215, (4, 4, 3), dtype=np.uint8)
    rgb = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    to = {1: "ITU709", 2: "ITU601"}[colorspace]
    frame = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format=name, dst_colorspace=to)
    frame.colorspace = colorspace
    return frame


def exact_face(image: DisplayedFrame, matrix: np.ndarray, resolution: int) -> np.ndarray:
    return alignment.stretch(alignment.crop(image.exact(), matrix, resolution), resolution)


@settings(max_examples=80, deadline=None)
@given(
    name=st.sampled_from(f"{PLANAR} {OTHERS}".split()),
    width=st.integers(10, 37).map(lambda n: 4 * n),  # over an odd side swscale stretches the chroma
    height=st.integers(10, 37).map(lambda n: 4 * n),
    turns=st.integers(0, 3),
    mirrored=st.booleans(),
    size=st.floats(0.4, 3),
    angle=st.floats(-0.6, 0.6),
    resolution=st.sampled_from((64, 256)),
)
def test_a_face_from_the_planes_is_the_face_of_the_frame(name, width, height, turns, mirrored, size, angle, resolution):
    image = DisplayedFrame(frame_of(name, width, height), turns, mirrored)
    middle = np.array(image.shape[1::-1]) / 2
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = size * (alignment.TEMPLATE - alignment.TEMPLATE.mean(0)) @ turn.T + middle
    matrix = alignment.similarity(points, resolution)
    off = aligned(image, matrix, resolution) - exact_face(image, matrix, resolution)
    assert np.abs(off).mean() < 1.6 and np.quantile(np.abs(off), 0.9) < 8  # the rest lies at edges, half filled


@pytest.mark.parametrize(("colorspace", "name"), [(1, "yuv420p"), (2, "yuv420p"), (1, "yuv420p10le"), (2, "yuvj444p")])
def test_colours_of_a_face_are_those_of_the_matrix_that_the_frame_names(colorspace, name):
    image = DisplayedFrame(frame_of(name, 120, 120, colorspace), 0, False)
    matrix = alignment.similarity(alignment.TEMPLATE * 0.9 + 15, 256)
    off = aligned(image, matrix, 256) - exact_face(image, matrix, 256)
    assert np.abs(off.mean((0, 1))).max() < 0.6 and np.abs(off).max() < 9


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(f"{PLANAR} {OTHERS}".split()),
    colorspace=st.sampled_from((1, 2)),
    turns=st.integers(0, 3),
    resolution=st.sampled_from((64, 256)),
    away=st.integers(0, 60),
)
def test_a_face_to_be_encoded_looks_like_the_face_in_rgb(name, colorspace, turns, resolution, away):
    image = DisplayedFrame(frame_of(name, 120, 160, colorspace), turns, False)
    matrix = alignment.similarity(alignment.TEMPLATE * 0.9 + 15 + away, resolution)  # with `away`, partly outside
    frame = face_frame(image, matrix, resolution)
    assert (frame.width, frame.height) == (resolution, resolution)
    assert frame.format.name == ("yuv420p" if name in PLANAR.split() else "rgb24")
    frame.colorspace, frame.color_range = 1, 1  # as the writer tags it
    off = native_rgb(frame).astype(np.float64) - align_face(image, matrix, resolution)
    assert np.abs(off.mean((0, 1))).max() < 0.5 and np.abs(off).mean() < 1.6 and np.quantile(np.abs(off), 0.95) < 10


def test_luma_of_a_face_in_bt709_is_kept_to_the_last_code():
    """Through RGB and back, one code in seven is another."""
    frame = av.VideoFrame(128, 128, "yuv420p")
    frame.colorspace = 1
    codes = np.random.default_rng(0).integers(16, 236, (128, 128), dtype=np.uint8)
    for plane, values in zip(planes(frame), (codes, np.full((64, 64), 90), np.full((64, 64), 160)), strict=True):
        plane[:] = values
    image = DisplayedFrame(frame, 0, False)
    matrix = alignment.similarity(alignment.TEMPLATE + 10, 256)
    luma = alignment.stretch(alignment.crop((codes,), matrix, 256, 16 + 127 * 219 / 255), 256)
    face = planes(face_frame(image, matrix, 256))
    assert np.array_equal(face[0], np.clip(np.rint(luma), 0, 255).astype(np.uint8))
    inside = alignment.stretch(alignment.crop((np.full((128, 128), 1.0, np.float32),), matrix, 256, 0), 256) > 0.999
    assert (face[1][inside[::2, ::2]] == 90).all() and (face[2][inside[::2, ::2]] == 160).all()


def test_beyond_the_frame_lies_grey():
    image = DisplayedFrame(frame_of("yuv420p", 64, 64), 0, False)
    matrix = alignment.similarity(alignment.TEMPLATE + 500, 256)
    assert np.abs(aligned(image, matrix, 256) - 127).max() < 1.5


def test_the_whole_is_turned_as_displayed():
    frame = frame_of("yuv444p", 6, 4)
    native = native_rgb(frame)
    assert np.array_equal(DisplayedFrame(frame, 0, False).exact(), native)
    assert np.array_equal(DisplayedFrame(frame, 1, False).exact(), np.rot90(native))
    assert np.array_equal(DisplayedFrame(frame, 3, True).exact(), np.rot90(native[:, ::-1], 3))
    assert DisplayedFrame(frame, 1, False).shape == DisplayedFrame(frame, 1, False).quick().shape == (6, 4, 3)


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("mirrored", [False, True])
def test_the_matrix_to_the_screen_follows_the_pixels(turns, mirrored):
    frame = frame_of("rgb24", 7, 5)
    shown, native = DisplayedFrame(frame, turns, mirrored).exact(), native_rgb(frame)
    for x, y in ((0, 0), (6, 0), (2, 4)):
        at = to_displayed(7, 5, turns, mirrored) @ [x, y, 1]
        assert np.array_equal(shown[round(at[1]), round(at[0])], native[y, x])


def test_quick_is_near_exact():
    image = DisplayedFrame(frame_of("yuv420p", 64, 48), 0, False)
    assert np.abs(image.quick().astype(int) - image.exact()).mean() < 3


def test_planes_are_views():
    frame = frame_of("yuv420p10le", 33, 21)
    luma, *chroma = planes(frame)
    assert luma.dtype == np.uint16 and luma.shape == (21, 33) and {plane.shape for plane in chroma} == {(11, 17)}
    luma[...] = 1023
    assert planes(frame)[0].min() == 1023
