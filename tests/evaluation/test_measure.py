"""Measurements on written files: pixels outside the mask, the mouth of the right face, how late it is."""

import numpy as np
import pytest

from latentsync.evaluation import measure
from latentsync.faces import alignment
from latentsync.faces.detection import Face, open_detector
from latentsync.media.read import read_frames, read_video_frames
from tests import toys
from tests.videos import head, write_video

RESOLUTION = 64


def render_of(path, n: int, detector) -> dict:
    matrices = []
    for _, rgb in read_frames(path):
        [face] = detector.detect(rgb)
        matrices.append(alignment.similarity(face.anchors, RESOLUTION))
    return {"order": np.arange(n), "times_s": np.arange(n) / 25, "end_s": n / 25, "matrices": np.array(matrices)}


@pytest.fixture(scope="module")
def detector():
    with open_detector("mediapipe", 2) as detector:
        yield detector


def test_outside_sees_every_change_but_those_inside_the_mask(tmp_path, detector):
    lossless = {"codec_options": {"crf": "0"}}
    source = write_video(tmp_path / "a.mp4", 6, pictures=head, size=(208, 176), **lossless)
    render = render_of(source, 6, detector)
    same = measure.outside(source, source, render, RESOLUTION)
    assert same.squared_error == 0 and 0.1 < same.mask_share < 0.4
    with open_detector("mediapipe", 1) as single:
        mouth = np.mean(
            [single.detect(rgb)[0].landmarks[[13, 14]].mean(0) for _, rgb in read_frames(source)], 0
        ).astype(int)

    def spoiled(x: int, y: int):
        def pictures(index, width, height):
            picture = head(index, width, height)
            picture[y - 4 : y + 4, x - 4 : x + 4] = 128
            return picture

        return write_video(tmp_path / f"{x}.mp4", 6, pictures=pictures, size=(208, 176), **lossless)

    # The test's own way from RGB to the file spreads chroma alone, so luma differs nowhere but at the spot.
    assert measure.outside(spoiled(*mouth), source, render, RESOLUTION).squared_error == 0
    assert measure.outside(spoiled(20, 20), source, render, RESOLUTION).squared_error > 1000


def test_a_copy_written_with_the_same_settings_is_the_yardstick(tmp_path, detector):
    source = write_video(tmp_path / "a.mp4", 6, pictures=head, size=(208, 176))
    render = render_of(source, 6, detector)
    psnr = {}
    for crf in (8, 30):
        measure.reencoded(tmp_path / f"{crf}.mp4", source, render, crf)
        psnr[crf] = measure.outside(tmp_path / f"{crf}.mp4", source, render, RESOLUTION).psnr_db
    assert psnr[30] < 45 < psnr[8]


class TwoFaces:
    """A detector that always sees the same two faces."""

    def __init__(self):
        self.faces = []
        for left, opening in ((20, 0.1), (140, 0.5)):
            anchors = np.float32([[left + 15, 40], [left + 45, 40], [left + 30, 65]])
            landmarks = np.float32([[left, 30], [left + 60, 30], [left + 30, 100]])
            self.faces.append(Face((left, 30, left + 60, 100), landmarks, anchors, opening))

    def detect(self, rgb):
        return self.faces

    def reset(self):
        pass


def test_the_mouth_of_the_face_in_the_crop_box_is_measured(tmp_path):
    """Two faces: the matrices say which of them is meant, and whether anything is."""
    source, detector = write_video(tmp_path / "two.mp4", 3, size=(220, 120)), TwoFaces()
    nothing, elsewhere = (
        np.full((2, 3), np.nan),
        alignment.similarity(np.float32([[90, 5], [95, 5], [92, 9]]), RESOLUTION),
    )
    for face in detector.faces:
        matrices = np.array([alignment.similarity(face.anchors, RESOLUTION), nothing, elsewhere])
        opening = measure.mouth_opening(read_video_frames(source), matrices, detector, RESOLUTION)
        assert opening[0] == face.mouth_opening and np.isnan(opening[1:]).all()


@pytest.mark.parametrize("offset", [-6, 0, 4])
def test_sync_of_finds_how_late_a_mouth_is(offset):
    rng = np.random.default_rng(1)
    tune = toys.opening_tune(120, rng)
    sound = toys.speech(tune, rng)
    times_s = np.arange(144) / 30  # a picture at 30 frames a second
    opening = np.interp(times_s - offset / 25, np.arange(120) / 25, tune)
    found, confidence = measure.sync_of(opening, times_s, 4.8, sound)
    assert abs(found - offset) <= 1 and confidence > 5
    _, chance = measure.sync_of(opening, times_s, 4.8, toys.speech(toys.opening_tune(120, rng), rng))
    assert chance < confidence
