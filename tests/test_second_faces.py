"""Real videos with a difficulty: a second face in a small picture, and a frame in which no face is found."""

import numpy as np
import pytest

from latentsync.lipsync.tracking import track_faces
from latentsync.media.picture import Picture
from latentsync.media.read import Reader
from latentsync.models.face_mesh import FACE_MESH
from latentsync.models.faces import open_detector

INSET = np.array([64.0, 506.0])  # middle of the small picture's face in talkvid_tys, which its lower edge cuts off
INSET_PX = 40


class SeesBoth:
    """mediapipe, which does not see a face below 32 px, and a find in the inset of every frame but some."""

    def __init__(self, detector):
        self.detector, self.seen = detector, 0

    def reset(self):
        self.detector.reset()

    def detect(self, rgb):
        [main] = self.detector.detect(rgb)
        self.seen += 1
        if self.seen % 9 == 0:
            return [main]
        points = (main.landmarks - main.landmarks.mean(0)) * (INSET_PX / main.width_px) + INSET
        small = FACE_MESH.face(points + np.random.default_rng(self.seen).normal(0, 0.6, 2))
        return [main, small] if self.seen % 2 else [small, main]


class Blinks:
    """mediapipe, but for one frame in which it sees nobody, as FaceMesh does in ls_demo3 in another version."""

    def __init__(self, detector, blind: int):
        self.detector, self.blind, self.seen = detector, blind, -1

    def reset(self):
        self.detector.reset()

    def detect(self, rgb):
        self.seen += 1
        faces = self.detector.detect(rgb)
        return [] if self.seen == self.blind else faces


@pytest.fixture(scope="module")
def detector():
    with open_detector("mediapipe", 2) as opened:
        yield opened


def follow(path, detector, n, max_gap=5):
    pictures = (picture for _, picture in Reader(path).pictures(np.arange(n)))
    return track_faces(pictures, detector, max_gap, look=Picture.quick)


def test_a_face_in_an_inset_does_not_disturb_the_speaker(clips, detector):
    path = clips / "talkvid_tys.mp4"
    [alone] = follow(path, detector, 60)
    main, inset = follow(path, SeesBoth(detector), 60)
    assert np.array_equal(main.anchors, alone.anchors) and main.found.all()
    assert (main.start, main.stop) == (0, 60) and main.face_px == pytest.approx(255, abs=12)
    assert (inset.start, inset.stop) == (0, 60) and not inset.found.all() and inset.face_px < 50
    assert np.abs(inset.boxes.reshape(-1, 2, 2).mean(1) - INSET).max() < 8  # never the speaker's place


def test_a_frame_without_a_face_does_not_break_the_clip(clips, detector):
    path = clips / "ls_demo3.mp4"
    [whole] = follow(path, detector, 40)
    [track] = follow(path, Blinks(detector, blind=21), 40)
    assert (track.start, track.stop) == (0, 40) and np.flatnonzero(~track.found).tolist() == [21]
    assert np.isnan(track.mouth_opening[21]) and np.isfinite(np.delete(track.mouth_opening, 21)).all()
    assert np.abs(track.anchors[21] - whole.anchors[21]).max() < 3  # of 1080 x 1920
