"""MediaPipe's FaceMesh: where the anchors of a face lie, small faces, and what happens from frame to frame."""

import cv2
import numpy as np
import pytest
from skimage import data

from latentsync.faces import alignment
from latentsync.faces.backends import open_detector


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """NASA's portrait of Eileen Collins, her face 92 px wide about (222, 110)."""
    return data.astronaut()


def on_canvas(photo: np.ndarray, face_px: float, width: int, height: int, at: float = 0.5) -> np.ndarray:
    """The portrait's head, its face so wide, on a grey image."""
    scale = face_px / 92
    head = cv2.resize(photo[:250, 120:330], None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    canvas = np.full((height, width, 3), 110, np.uint8)
    y, x = (height - head.shape[0]) // 3, int((width - head.shape[1]) * at)
    canvas[y : y + head.shape[0], x : x + head.shape[1]] = head
    return canvas


def test_a_portrait_has_one_face_where_one_sees_it(photo, detector):
    detector.reset()
    [face] = detector.detect(photo)
    assert face.width_px == pytest.approx(92, abs=8)
    assert face.landmarks.shape == (478, 2) and face.landmarks.dtype == face.anchors.dtype == np.float32
    left, right, nose = face.anchors
    assert left == pytest.approx([201, 89], abs=5)  # by eye
    assert right == pytest.approx([250, 92], abs=5)
    assert nose == pytest.approx([224, 120], abs=5)
    assert 0.02 < face.mouth_opening < 0.3  # she smiles, her teeth show


def test_the_crop_is_framed_as_published(photo, detector):
    detector.reset()
    [face] = detector.detect(photo)
    points = alignment.apply(alignment.similarity(face.anchors, 256), face.landmarks) / alignment.crop_size(256)
    eyes, mouth, chin = points[[33, 133, 362, 263]].mean(0), points[[61, 291]].mean(0), points[152]
    assert 0.22 < eyes[1] < 0.36 and 0.54 < mouth[1] < 0.72 and 0.8 < chin[1] < 0.96
    assert all(abs(place[0] - 0.5) < 0.08 for place in (eyes, mouth, chin))


@pytest.mark.parametrize(("face_px", "size"), [(45, (568, 320)), (60, (1080, 1920)), (90, (1920, 1080))])
def test_small_faces_are_found_and_followed(photo, detector, face_px, size):
    detector.reset()
    for shift in range(12):
        image = np.roll(on_canvas(photo, face_px, *size), 3 * shift, axis=1)
        [face] = detector.detect(image)
        assert face.width_px == pytest.approx(face_px, rel=0.2)
        if shift == 0:
            first = face.anchors
        assert np.abs(face.anchors - first - [3 * shift, 0]).max() < 0.1 * face_px


def test_two_faces_the_widest_first_and_no_more_than_asked_for(photo, detector):
    image = on_canvas(photo, 70, 640, 320, at=0.05)
    image[:, 320:] = on_canvas(photo, 110, 320, 320)
    detector.reset()
    large, small = detector.detect(image)
    assert large.box[0] > 320 > small.box[2] and large.width_px > small.width_px
    with open_detector("mediapipe", 1) as one:
        assert len(one.detect(image)) == 1


@pytest.mark.parametrize("name", ["coffee", "rocket", "hubble_deep_field"])
def test_images_without_people_have_no_face(detector, name):
    detector.reset()
    for _ in range(3):
        assert detector.detect(getattr(data, name)()[:400, :600]) == []


def test_after_a_reset_the_same_frames_give_the_same_faces(photo, detector):
    frames = [np.roll(photo, 2 * step, axis=0) for step in range(5)]
    runs = []
    for _ in range(2):
        detector.reset()
        runs.append([detector.detect(frame)[0].landmarks for frame in frames])
        detector.detect(np.zeros_like(photo))  # what came in between must not matter
    assert (np.array(runs[0]) == np.array(runs[1])).all()


def test_nothing_is_said_on_stderr(photo, capfd):
    with open_detector("mediapipe", 2) as opened:
        opened.detect(photo)
        opened.reset()
        opened.detect(on_canvas(photo, 60, 1080, 1920))
    assert capfd.readouterr().err == ""
