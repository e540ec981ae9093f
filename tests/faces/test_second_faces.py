"""Real videos with a difficulty: a second face in a small image, and a frame in which no face is found."""

import cv2
import numpy as np
import pytest
from mediapipe.python.solutions.face_mesh import FaceMesh

from latentsync.faces.backends import FACE_MESH
from latentsync.faces.tracking import track_faces
from latentsync.media.frames import DisplayedFrame
from latentsync.media.read import Reader

INSET = np.array([64.0, 516.0])  # middle of the small image's face in talkvid_tys, 53 px wide
INSET_TOP, INSET_RIGHT = 448, 128


class SeesBoth:
    """mediapipe, shown the image with its lower edge mirrored: the face in the inset is cut off there, and as it is
    no detector at hand sees it (FaceMesh, BlazeFace, MTCNN). Every ninth find of it is lost, and the order changes."""

    def __init__(self, detector):
        self.detector, self.seen = detector, 0

    def reset(self):
        self.detector.reset()

    def detect(self, rgb):
        main, small = self.detector.detect(mirrored(rgb))
        self.seen += 1
        if self.seen % 9 == 0:
            return [main]
        return [main, small] if self.seen % 2 else [small, main]


class SeesOne(SeesBoth):
    """The same finds without the inset's."""

    def detect(self, rgb):
        return self.detector.detect(mirrored(rgb))[:1]


class PaintedOver(SeesBoth):
    """The same image without an inset."""

    def detect(self, rgb):
        rgb = rgb.copy()
        rgb[INSET_TOP:, :INSET_RIGHT] = 110
        return self.detector.detect(mirrored(rgb))


def mirrored(rgb):
    return cv2.copyMakeBorder(rgb, 0, 64, 0, 0, cv2.BORDER_REFLECT)


class Blinks:
    """mediapipe, but for one frame in which it finds no face."""

    def __init__(self, detector, blind: int):
        self.detector, self.blind, self.seen = detector, blind, -1

    def reset(self):
        self.detector.reset()

    def detect(self, rgb):
        self.seen += 1
        faces = self.detector.detect(rgb)
        return [] if self.seen == self.blind else faces


class EachFrame:
    """FaceMesh that looks for the face in every frame instead of following it, at the least confidence given."""

    def __init__(self, confidence):
        self.graph = FaceMesh(static_image_mode=True, refine_landmarks=True, min_detection_confidence=confidence)

    def reset(self):
        pass

    def detect(self, rgb):
        size = rgb.shape[1::-1]
        found = self.graph.process(np.ascontiguousarray(rgb)).multi_face_landmarks or []
        return [FACE_MESH.face(np.array([(p.x, p.y) for p in item.landmark]) * size - 0.5) for item in found]


def follow(path, detector, n, start=0, max_gap=5):
    images = (image for _, image in Reader(path).displayed_frames(np.arange(start, start + n)))
    return track_faces(images, detector, max_gap, to_rgb=DisplayedFrame.quick)


def test_a_face_in_an_inset_does_not_disturb_the_speaker(clips, detector):
    path = clips / "talkvid_tys.mp4"
    main, inset = follow(path, SeesBoth(detector), 60)
    [alone] = follow(path, SeesOne(detector), 60)
    assert np.array_equal(main.anchors, alone.anchors) and main.found.all()
    [without] = follow(path, PaintedOver(detector), 60)
    assert np.abs(main.anchors - without.anchors).max() < 0.5  # of a face 255 px wide
    assert (main.start, main.stop) == (0, 60) and main.face_px == pytest.approx(255, abs=12)
    assert (inset.start, inset.stop) == (0, 60) and not inset.found.all() and inset.face_px == pytest.approx(53, abs=4)
    assert np.abs(inset.boxes.reshape(-1, 2, 2).mean(1) - INSET).max() < 8  # never the speaker's place


def test_a_frame_without_a_face_does_not_break_the_clip(clips, detector):
    path = clips / "ls_demo3.mp4"
    [whole] = follow(path, detector, 40)
    [track] = follow(path, Blinks(detector, blind=21), 40)
    assert (track.start, track.stop) == (0, 40) and np.flatnonzero(~track.found).tolist() == [21]
    assert np.isnan(track.mouth_opening[21]) and np.isfinite(np.delete(track.mouth_opening, 21)).all()
    assert np.abs(track.anchors[21] - whole.anchors[21]).max() < 3  # of 1080 x 1920


def test_frames_in_which_facemesh_finds_no_face_are_interpolated(clips):
    """In each frame with 0.63 it finds no face in frames 308, 315 and 316; with 0.6 only in 316 of all 600."""
    [track] = follow(clips / "ls_demo3.mp4", EachFrame(0.63), 40, start=290)
    assert (track.start, track.stop) == (0, 40)
    seen, lost = np.flatnonzero(track.found), np.flatnonzero(~track.found)
    assert 1 <= lost.size <= 5 and np.array_equal(np.isnan(track.mouth_opening), ~track.found)
    for coordinate in track.raw_anchors.reshape(40, -1).T:
        assert coordinate[lost] == pytest.approx(np.interp(lost, seen, coordinate[seen]), abs=0.01)
