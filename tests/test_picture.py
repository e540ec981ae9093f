"""Parts of frames in RGB: the same pixels as of the whole, in every format and every turn."""

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentsync.media.picture import Picture, native_rgb, planes

PLANAR = "yuv420p yuvj420p yuv422p yuv444p yuv410p yuv411p yuv420p10le yuv422p10le"
FORMATS = PLANAR + " nv12 gray gray10le rgb24 bgra yuyv422 gbrp"


def frame_of(name: str, width: int, height: int, seed: int) -> av.VideoFrame:
    """Noise, where every error of place shows."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return av.VideoFrame.from_ndarray(noise, format="rgb24").reformat(format=name)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), name=st.sampled_from(FORMATS.split()), turns=st.integers(0, 3), mirrored=st.booleans())
def test_a_part_has_the_pixels_of_the_whole(data, name, turns, mirrored):
    width, height = (data.draw(st.integers(9, 90) | st.integers(3, 24).map(lambda n: 4 * n)) for _ in "xy")
    if name == "yuyv422":
        width += width % 2
    picture = Picture(frame_of(name, width, height, turns), turns, mirrored)
    whole = picture.exact()
    assert whole.shape == picture.shape == picture.quick().shape
    x0, y0 = data.draw(st.integers(0, whole.shape[1] - 1)), data.draw(st.integers(0, whole.shape[0] - 1))
    x1, y1 = data.draw(st.integers(x0 + 1, whole.shape[1])), data.draw(st.integers(y0 + 1, whole.shape[0]))
    assert np.array_equal(picture.exact((x0, y0, x1, y1)), whole[y0:y1, x0:x1])


def test_the_whole_is_turned_as_displayed():
    frame = frame_of("yuv444p", 6, 4, 0)
    native = native_rgb(frame)
    assert np.array_equal(Picture(frame, 0, False).exact(), native)
    assert np.array_equal(Picture(frame, 1, False).exact(), np.rot90(native))
    assert np.array_equal(Picture(frame, 3, True).exact(), np.rot90(native[:, ::-1], 3))


def test_quick_is_near_exact():
    smooth = np.tile(np.linspace(0, 255, 64)[None, :, None], (48, 1, 3)).astype(np.uint8)
    picture = Picture(av.VideoFrame.from_ndarray(smooth, format="rgb24").reformat(format="yuv420p"), 0, False)
    assert np.abs(picture.quick().astype(int) - picture.exact()).mean() < 3


def test_planes_are_views():
    frame = frame_of("yuv420p10le", 33, 21, 0)
    luma, *chroma = planes(frame)
    assert luma.dtype == np.uint16 and luma.shape == (21, 33) and {plane.shape for plane in chroma} == {(11, 17)}
    luma[...] = 1023
    assert planes(frame)[0].min() == 1023


def test_a_region_outside_is_our_own_mistake():
    with pytest.raises(AssertionError):
        Picture(frame_of("yuv420p", 20, 20, 0), 0, False).exact((0, 0, 21, 5))
