"""Measurements on written files: pixels outside the mask, the mouth and crops of the right face, how late it is."""

import cv2
import numpy as np
import pytest

from latentsync.evaluation import measure
from latentsync.faces import alignment
from latentsync.faces.backends import open_detector
from latentsync.faces.crop import align_face
from latentsync.faces.face import Face
from latentsync.generation.paste import paste_region
from latentsync.media.frames import DisplayedFrame, to_rgb
from latentsync.media.read import read_frames, read_video_frames
from latentsync.sync import curves
from latentsync.sync.scorers import SCORERS
from tests import toys
from tests.videos import head, write_video

RESOLUTION = 64


def render_of(path, n: int, detector) -> dict:
    matrices = []
    for _, rgb in read_frames(path):
        [face] = detector.detect(rgb)
        matrices.append(alignment.similarity(face.anchors, RESOLUTION))
    clock = {"order": np.arange(n), "times_s": np.arange(n) / 25, "end_s": n / 25}
    return clock | {"matrices": np.array(matrices), "deinterlaced": np.bool_(False)}


def test_outside_sees_every_change_but_those_inside_the_mask(tmp_path, detector):
    lossless = {"codec_options": {"crf": "0"}}
    source = write_video(tmp_path / "a.mp4", 6, images=head, size=(208, 176), **lossless)
    render = render_of(source, 6, detector)
    same = measure.outside(source, source, render, RESOLUTION)
    assert same.squared_error == 0 and 0.1 < same.mask_share < 0.4
    with open_detector("mediapipe", 1) as single:
        mouth = np.mean(
            [single.detect(rgb)[0].landmarks[[13, 14]].mean(0) for _, rgb in read_frames(source)], 0
        ).astype(int)

    def spoiled(x: int, y: int):
        def images(index, width, height):
            image = head(index, width, height)
            image[y - 4 : y + 4, x - 4 : x + 4] = 128
            return image

        return write_video(tmp_path / f"{x}.mp4", 6, images=images, size=(208, 176), **lossless)

    # The test's own way from RGB to the file spreads chroma alone, so luma differs nowhere but at the spot.
    assert measure.outside(spoiled(*mouth), source, render, RESOLUTION).squared_error == 0
    assert measure.outside(spoiled(20, 20), source, render, RESOLUTION).squared_error > 1000


def test_a_copy_written_with_the_same_settings_is_the_reference(tmp_path, detector):
    source = write_video(tmp_path / "a.mp4", 6, images=head, size=(208, 176))
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
        render = {"matrices": matrices, "times_s": np.arange(3) / 25, "end_s": 3 / 25}
        mouth = measure.Mouth(render, detector, RESOLUTION, with_crops=True)
        for _, frame in read_video_frames(source):
            mouth.see(frame)
        assert mouth.opening[0] == face.mouth_opening and np.isnan(mouth.opening[1:]).all()
        # Where generate redrew a face that is not found, the crop is the one that generate saw; else it is grey.
        assert mouth.has_face.tolist() == [True, False, True] and (mouth.crops[1] == 127).all()


def looked_at(frames: list[np.ndarray], move_px: float = 0.0) -> measure.Look:
    """A face that moves sideways by `move_px` each frame, as the look of its frames (h, w)."""
    look, anchors = measure.Look(RESOLUTION), np.array([[60.0, 60], [140, 60], [100, 95]])
    for number, luma in enumerate(frames):
        matrix = alignment.similarity(anchors + [number * move_px, 0], RESOLUTION)
        look.see(luma, matrix, *paste_region(luma.shape, matrix, RESOLUTION))
    return look


def test_flicker_of_noise_is_its_standard_deviation_and_a_still_picture_has_none():
    rng = np.random.default_rng(0)
    still = 128 + 20 * np.sin(np.arange(220) / 3) * np.ones((200, 1))
    assert looked_at([still] * 5).flicker == 0
    lighter = [still + level for level in (0, 8, 0, 8, 0, 8)]
    assert looked_at(lighter).flicker == pytest.approx(16 / 6**0.5, rel=1e-3)  # 0 - 2 * 8 + 0 = -16
    blocks = [still + rng.normal(0, 5, (25, 28)).repeat(8, 0).repeat(8, 1)[:, :220] for _ in range(30)]
    assert looked_at(blocks).flicker == pytest.approx(5, rel=0.15)
    drifting = [still + number for number in range(6)]  # a change of light at a steady pace is no flicker
    assert looked_at(drifting).flicker < 0.01


def test_a_moving_face_flickers_only_where_it_changes():
    """Drawn at its place in every frame, a smooth face that moves by 1.5 px a frame has next to no flicker."""
    y, x = np.mgrid[:200, :240]
    frames = [128 + 40 * np.sin((x - 1.5 * number) / 9) * np.cos(y / 11) for number in range(8)]
    assert looked_at(frames, move_px=1.5).flicker < 0.1 < 0.2 < looked_at(frames).flicker


def test_sharpness_grows_with_contrast_and_falls_with_blur():
    rng = np.random.default_rng(0)
    grain = rng.normal(0, 1, (200, 220))
    sharp, strong, blurred = (looked_at([128 + one]).sharpness for one in (grain, 3 * grain, cv2.blur(grain, (3, 3))))
    assert sharp == pytest.approx(20**0.5, rel=0.05)  # of independent pixels: 4 * 4 + 4 * 1
    assert strong == pytest.approx(3 * sharp, rel=1e-4) and blurred < 0.4 * sharp


def test_flicker_is_not_measured_across_frames_that_passed_through():
    look = looked_at([np.full((200, 220), level) for level in (0.0, 0.0)])
    look.skip()
    matrix = alignment.similarity(np.array([[60.0, 60], [140, 60], [100, 95]]), RESOLUTION)
    look.see(np.full((200, 220), 200.0), matrix, *paste_region((200, 220), matrix, RESOLUTION))
    assert np.isnan(look.flicker) and look.sharpness == 0


def scored(opening: np.ndarray, times_s: np.ndarray, end_s: float, audio: np.ndarray) -> tuple[int, float]:
    """Offset and confidence by the envelope of a mouth that was measured."""
    render = {"matrices": np.full((len(times_s), 2, 3), np.nan), "times_s": times_s, "end_s": end_s}
    mouth = measure.Mouth(render, TwoFaces(), RESOLUTION, with_crops=False)
    mouth.opening[:] = opening
    return curves.peak(SCORERS["envelope"].open(None, 15)(mouth.track(audio))(0))


@pytest.mark.parametrize("offset", [-6, 0, 4])
def test_the_envelope_finds_how_late_a_measured_mouth_is(offset):
    rng = np.random.default_rng(1)
    tune = toys.opening_tune(120, rng)
    audio = toys.speech(tune, rng)
    times_s = np.arange(144) / 30  # 30 frames a second
    opening = np.interp(times_s - offset / 25, np.arange(120) / 25, tune)
    found, confidence = scored(opening, times_s, 4.8, audio)
    assert abs(found - offset) <= 1 and confidence > 5
    _, chance = scored(opening, times_s, 4.8, toys.speech(toys.opening_tune(120, rng), rng))
    assert chance < confidence


@pytest.mark.parametrize("size", [0, 100, 3 * 640, 3 * 640 + 1, 10_000])
def test_audio_of_a_track_is_silent_outside_the_recording(size):
    render = {"matrices": np.full((3, 2, 3), np.nan), "times_s": np.arange(3) / 25, "end_s": 3 / 25}
    audio = np.arange(1, size + 1, dtype=np.float32)
    track = measure.Mouth(render, TwoFaces(), RESOLUTION, with_crops=False).track(audio)
    assert track.recorded == (0, -(-size // 640)) and track.crops is None
    np.testing.assert_array_equal(track.samples(-50, size + 50), np.pad(audio, 50))
    assert not track.samples(-80, -20).any() and not track.samples(size + 5, size + 9).any()


def test_crops_of_a_written_video_are_those_of_the_faces_found_in_it(tmp_path, detector):
    """At 50 frames a second, every second frame is one of 25; its crop is what align_face makes of it."""
    n = 6
    video = write_video(tmp_path / "a.mp4", n, images=head, size=(208, 176), fps=50)
    render = render_of(video, n, detector) | {"times_s": np.arange(n) / 50, "end_s": n / 50}
    moved = render | {"matrices": render["matrices"] + np.array([[0, 0, 3.0], [0, 0, -2.0]])}
    mouth = measure.Mouth(moved, detector, RESOLUTION, with_crops=True)
    for _, frame in read_video_frames(video):
        mouth.see(frame)
    assert mouth.crops.shape == (3, RESOLUTION, RESOLUTION, 3) and mouth.has_face.all()
    detector.reset()
    for index, frame in read_video_frames(video):
        [face] = detector.detect(to_rgb(frame))
        if index % 2 == 0:
            wanted = align_face(
                DisplayedFrame(frame, 0, False), alignment.similarity(face.anchors, RESOLUTION), RESOLUTION
            )
            np.testing.assert_array_equal(mouth.crops[index // 2], wanted)
    track = mouth.track(np.zeros(0, np.float32))
    assert track.n_ticks == len(track.opening) == 3 and track.crops is mouth.crops


def test_each_written_video_is_decoded_once(tmp_path, detector, monkeypatch):
    source = write_video(tmp_path / "a.mp4", 4, images=head, size=(208, 176))
    render = render_of(source, 4, detector)
    decoded = []
    original = measure.read_video_frames
    monkeypatch.setattr(measure, "read_video_frames", lambda path, *rest: decoded.append(path) or original(path, *rest))
    written = tmp_path / "b.mp4"
    untouched, mouth = (measure.Mouth(render, detector, RESOLUTION, with_crops=True) for _ in range(2))
    measure.reencoded(written, source, render, 8, untouched)
    found = measure.outside(written, source, render, RESOLUTION, mouth)
    assert decoded == [written] and found == measure.outside(written, source, render, RESOLUTION)
    assert np.isfinite(mouth.opening).all() and mouth.has_face.all() and untouched.has_face.all()
    assert np.abs(mouth.crops.astype(int) - untouched.crops).mean() < 3
