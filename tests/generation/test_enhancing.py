"""Enhancement: alignment, what of a restorer's change reaches the frame, its course over time, and resuming.

No trained restorer is available to tests; what a good one does to a face is not tested here. GFPGAN's own network runs
at a small size with random weights.
"""

from dataclasses import dataclass, replace
from itertools import islice

import av
import cv2
import numpy as np
import pytest
import torch

from latentsync.config import Enhance
from latentsync.faces import alignment
from latentsync.faces.backends import BACKENDS, FACE_MESH, INSIGHT_106, open_detector
from latentsync.generation import gates, paste, restore, speakers
from latentsync.generation.enhancing import BATCH, Enhancing
from latentsync.generation.plan import Plan, VoicePlan
from latentsync.generation.stopwatch import Stopwatch
from latentsync.media.frames import planes
from latentsync.media.read import read_video_frames
from latentsync.models import restorers
from latentsync.weights import files as weight_files
from tests.face_charts import Charted, of_face_mesh
from tests.videos import head, write_video

RESOLUTION, N = 64, 20
SMALL = restorers.PUBLISHED_GFPGAN | {
    "out_size": 64,
    "num_style_feat": 32,
    "channel_multiplier": 1,
    "num_mlp": 2,
    "narrow": 0.0625,
}
FULL = {"strength": 1.0, "lip_protection": 0.0}


class Same:
    """A restorer that changes nothing."""

    size = 128

    def __call__(self, faces: np.ndarray) -> np.ndarray:
        return faces


class Weave(Same):
    """A restorer that adds a fine pattern of +-40 levels; `signs`: per frame, repeated."""

    def __init__(self, signs=(1,), levels=40.0):
        self.signs, self.n = signs, 0
        y, x = np.mgrid[: self.size, : self.size] // 4
        self.pattern = np.float32(levels) * ((-1.0) ** (x + y)).astype(np.float32)[..., None]

    def __call__(self, faces: np.ndarray) -> np.ndarray:
        signs = [self.signs[(self.n + k) % len(self.signs)] for k in range(len(faces))]
        self.n += len(faces)
        return np.stack([face + sign * self.pattern for face, sign in zip(faces, signs, strict=True)])


class Lighter(Weave):
    """A restorer that makes whole faces lighter or darker."""

    def __init__(self, signs, levels=8.0):
        super().__init__(signs)
        self.pattern = np.float32(levels)


class Moved(Same):
    """A restorer that moves the face by a pixel."""

    def __call__(self, faces: np.ndarray) -> np.ndarray:
        return np.roll(faces, 1, axis=2)


@pytest.fixture(scope="module")
def detector():
    with open_detector("mediapipe", 1) as detector:
        yield detector


@pytest.fixture(scope="module", params=BACKENDS)
def any_detector(request, detector):
    """FaceMesh's faces in the landmarks of every backend."""
    scheme = BACKENDS[request.param].scheme
    return detector if scheme is FACE_MESH else Charted(detector, scheme)


@dataclass(frozen=True)
class Scene:
    frames: list
    tracks: list
    voice: VoicePlan

    resolution: int = RESOLUTION

    def places(self, enhancer, resolution=None) -> restore.Places:
        resolution = resolution or self.resolution
        plan = Plan(np.arange(N), np.arange(N) / 25, N / 25, [self.voice])
        return restore.find_places(plan, self.voice, self.tracks, np.eye(3), resolution, enhancer)


def scene(path, detector, resolution=RESOLUTION):
    """The first N frames of a video, its track, and a voice that redraws all of them but frame 3."""
    frames = [paste.copied(frame) for _, frame in islice(read_video_frames(path), N)]
    [track] = speakers.track_video(path, detector, measure=gates.measure_faces(detector.scheme))
    matrices = np.array([alignment.similarity(anchors, resolution) for anchors in track.anchors[:N]])
    labels = np.zeros(len(frames), np.int64)
    labels[3], matrices[3] = gates.PROFILE, np.nan
    none = np.zeros((len(frames), 0), np.float32)
    rest = np.zeros(0, np.float32), np.zeros(0, np.int64), np.zeros((0, 2, 3)), 0
    voice = VoicePlan(labels, matrices, (labels >= 0).astype(np.float32), none, *rest)
    return Scene(frames, [track], voice, resolution)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "v.mp4"
    return write_video(path, N, images=lambda i, w, h: head(i // 4, w, h), size=(208, 176))


@pytest.fixture(scope="module")
def moving(video, detector):
    return scene(video, detector)


@pytest.fixture(scope="module")
def resting(tmp_path_factory, detector):
    path = tmp_path_factory.mktemp("still") / "v.mp4"
    return scene(write_video(path, N, images=lambda i, w, h: head(0, w, h), size=(208, 176)), detector)


def stage(of, restorer, **settings) -> Enhancing:
    enhancer = restore.Enhancer(restorer, Enhance(method="gfpgan", **{"force": True, **settings}), "weights")
    return Enhancing(of.places(enhancer), enhancer, of.resolution, Stopwatch())


def run(of, restorer, begin=0, **settings) -> list:
    frames = (paste.copied(frame) for frame in of.frames[begin:])
    return list(stage(of, restorer, **settings).restored(frames, begin))


def luma(frames) -> np.ndarray:
    return np.array([planes(frame)[0].astype(int) for frame in frames])


def change(of, restorer, **settings) -> np.ndarray:
    """Luma of the enhanced frames minus that of the given ones, int (m, h, w)."""
    return luma(run(of, restorer, **settings)) - luma(of.frames)


def redrawn(of, index: int, at_least=0.0) -> np.ndarray:
    """Where the generated mouth of a frame is pasted, bool (h, w)."""
    frame = of.frames[index]
    inside = np.zeros((frame.height, frame.width), bool)
    region, alpha = paste.paste_region(inside.shape, of.voice.matrices[index], of.resolution)
    inside[region[1] : region[3], region[0] : region[2]] = alpha > at_least
    return inside


def test_the_five_points_land_where_ffhq_has_them():
    turned = np.array([[0.6, -0.2], [0.2, 0.6]])
    points = np.stack([restore.FFHQ @ turned.T + [40, 90], restore.FFHQ * 2])
    matrices = restore.ffhq_matrix(points, 512)
    for matrix, five in zip(matrices, points, strict=True):
        np.testing.assert_allclose(alignment.apply(matrix, five), restore.FFHQ, atol=1e-6)
    half = alignment.apply(restore.ffhq_matrix(points[0], 256), points[0])
    np.testing.assert_allclose((half + 0.5) * 2, restore.FFHQ + 0.5, atol=1e-6)  # the same place of a smaller image


def test_no_similarity_fits_five_points_better():
    rng = np.random.default_rng(0)
    points = restore.FFHQ * 0.7 + rng.normal(0, 9, (5, 2))
    best = restore.ffhq_matrix(points, 512)

    def error(matrix):
        return ((alignment.apply(matrix, points) - restore.FFHQ) ** 2).sum()

    for _ in range(50):
        turn, shift = 1 + rng.normal(0, 0.02) + 1j * rng.normal(0, 0.02), rng.normal(0, 2, 2)
        rotated = np.array([[turn.real, -turn.imag], [turn.imag, turn.real]]) @ best[:, :2]
        assert error(np.column_stack([rotated, best[:, 2] + shift])) > error(best)


def test_a_real_face_lies_upright_in_the_square(video, any_detector):
    of = scene(video, any_detector)
    [face] = of.tracks
    aligned = alignment.apply(restore.ffhq_matrix(gates.five_points(face)[0], 512), gates.five_points(face)[0])
    assert np.abs(aligned - restore.FFHQ).max() < 40  # a real face is no template, but near it
    rgb = restore.aligned_face(of.frames[0], restore.ffhq_matrix(gates.five_points(face)[0], 128), 128)
    eye, cheek = (rgb[y - 4 : y + 5, 44:53].mean() for y in (60, 80))
    assert eye < cheek  # a pupil is dark, the skin below is not


def test_a_restorer_that_changes_nothing_and_strength_0_change_no_bit(moving):
    assert not change(moving, Same(), **FULL).any()
    assert not change(moving, Same(), **FULL, region="face").any()
    assert not change(moving, Weave(), strength=0.0).any()
    for given, got in zip(moving.frames, run(moving, Same(), **FULL), strict=True):
        for before, after in zip(planes(given), planes(got), strict=True):
            np.testing.assert_array_equal(before, after)


def test_only_redrawn_frames_change_and_in_them_only_the_redrawn_region(video, any_detector):
    of = scene(video, any_detector)
    changed = np.abs(change(of, Weave(), **FULL))
    assert not changed[3].any()  # passed through
    for index in (0, 2, 4, N - 1):
        inside = redrawn(of, index)
        assert not changed[index][~inside].any() and changed[index][inside].mean() > 5


def test_strength_scales(resting):
    full, half = (change(resting, Weave(), strength=s, lip_protection=0.0) for s in (1.0, 0.5))
    assert np.abs(half).sum() == pytest.approx(np.abs(full).sum() / 2, rel=0.05)
    assert np.corrcoef(half[5].ravel(), full[5].ravel())[0, 1] > 0.98


def test_the_whole_face_where_that_is_asked_for(resting):
    eyes = gates.five_points(resting.tracks[0])[0][:2].round().astype(int)
    for region, touched in (("mouth", False), ("face", True)):
        changed = np.abs(change(resting, Weave(), **FULL, region=region))[0]
        assert all((changed[y - 3 : y + 4, x - 3 : x + 4].max() > 5) == touched for x, y in eyes)


def test_lips_stay_to_the_bit_at_full_protection_even_where_the_generated_mouth_is_open(resting, detector):
    """The outline is the source's closed mouth; what is generated may be open by a good part of the eyes' distance."""
    full = np.abs(change(resting, Weave(), **FULL))[5]
    kept = np.abs(change(resting, Weave(), strength=1.0, lip_protection=1.0))[5]
    half = np.abs(change(resting, Weave(), strength=1.0, lip_protection=0.5))[5]
    lips, eyes = gates.outer_lips(resting.tracks[0])[5], gates.outer_eyes(resting.tracks[0])[5]
    apart = np.linalg.norm(eyes[1] - eyes[0])
    further = restore.LEAST_OPEN - resting.tracks[0].mouth_opening[5]
    assert further > 0.1
    for opened in (0.0, 0.5 * further, further):
        lower = np.where((lips[:, 1] > lips[:, 1].mean())[:, None], lips + [0, opened * apart], lips)
        inside = cv2.fillPoly(np.zeros(full.shape, np.uint8), [lower.round().astype(np.int32)], 1).astype(bool)
        inside &= redrawn(resting, 5)
        assert kept[inside].max() == 0 and full[inside].mean() > 5
        assert half[inside].mean() == pytest.approx(full[inside].mean() / 2, rel=0.15)
    assert kept.sum() > 0.2 * full.sum()  # cheeks and chin are enhanced all the same


def test_106_landmarks_align_the_face_and_protect_the_lips_as_facemesh_does(video, detector):
    """InsightFace's scheme, its points carried over from FaceMesh's of the same face."""
    mesh, insight = scene(video, detector), scene(video, Charted(detector, INSIGHT_106))
    places = [stage(of, Same()).places for of in (mesh, insight)]
    faces = [restore.aligned_face(mesh.frames[0], one.matrices[0], 128).astype(float) for one in places]
    blurred = [cv2.GaussianBlur(face, (0, 0), 3)[24:104, 24:104] for face in faces]
    assert np.abs(blurred[0] - blurred[1]).mean() < 4  # the same face, moved by a pixel at most ...
    assert np.abs(blurred[0] - blurred[1][:, ::-1]).mean() > 20  # ... and the same way round
    masks = [restore.lip_mask(one.lips[0], 128) for one in places]
    assert ((masks[0] > 0.5) & (masks[1] > 0.5)).sum() > 0.85 * ((masks[0] > 0.5) | (masks[1] > 0.5)).sum()
    with open_detector("mediapipe", 1) as found:
        [face] = found.detect(head(0))
    five = INSIGHT_106.five_points(of_face_mesh(INSIGHT_106, face.landmarks))
    placed = alignment.apply(restore.ffhq_matrix(five, 512), FACE_MESH.five_points(face.landmarks))
    assert np.abs(placed - restore.FFHQ).max() < 40


# --- over time ------------------------------------------------------------------------------------------------------


def test_flicker_of_light_never_reaches_the_frame(moving):
    rng = np.random.default_rng(1)
    for signs in ((1, -1), tuple(rng.choice([-1, 1], N)), tuple(rng.uniform(-1, 1, N))):
        assert np.abs(change(moving, Lighter(signs), **FULL)).max() <= 1


def test_flicker_of_detail_is_smoothed_where_the_face_rests_and_steady_detail_stays(resting):
    flicker = change(resting, Weave((1, -1), levels=8.0), **FULL)[6:-2]
    assert np.abs(flicker).max() <= 2
    steady = change(resting, Weave(levels=8.0), **FULL)[6:-2]
    inside = redrawn(resting, 6, 0.9)
    assert np.abs(steady[:, inside]).mean() > 4
    assert np.abs(np.diff(steady, axis=0)).max() <= 2


def test_frames_of_another_shot_do_not_reach_into_this_one(resting):
    """Without a cut in between, detail of the frames before would show in those after."""
    signs = [0] * 10 + [1] * 10
    joined = np.abs(change(resting, Weave(signs), **FULL))
    labels = np.where(np.arange(N) >= 10, 1, resting.voice.labels)
    cut = Scene(resting.frames, resting.tracks * 2, replace(resting.voice, labels=labels))
    parted = np.abs(change(cut, Weave([0] * 9 + [1] * 10), **FULL))  # frame 3 has no face
    assert joined[9].max() > 0 and not parted[9].any() and parted[10].max() > joined[10].max() > 0


def test_frames_from_any_one_on_are_those_of_a_whole_run(moving):
    whole = luma(run(moving, Weave((1, 0, -1)), **FULL))
    for first in (1, 7, 8, 9, 13, N - 1):
        enhancing = stage(moving, Weave((1, 0, -1)), **FULL)
        begin = enhancing.needed_from(first)
        assert begin % BATCH == 0 and begin <= first
        restorer = enhancing.restore
        restorer.n = begin - (begin > 3)  # as many faces as it has seen by then
        frames = (paste.copied(frame) for frame in moving.frames[begin:])
        np.testing.assert_array_equal(luma(list(enhancing.restored(frames, begin))[first - begin :]), whole[first:])


# --- on recorded people ---------------------------------------------------------------------------------------------


class Sharp(Same):
    """A restorer that sharpens, at the size of published ones."""

    size = 512

    def __call__(self, faces: np.ndarray) -> np.ndarray:
        return np.stack([2 * face - cv2.GaussianBlur(face, (0, 0), 2) for face in faces])


class FineWeave(Weave):
    size = 512


@pytest.mark.parametrize("name", ["vrt1.mp4", "talkvid_tys.mp4"])
def test_recorded_people_keep_their_place_and_lips_and_do_not_flicker(clips, detector, name, tmp_path):
    """They talk, so smoothing over time meets motion: most of a flicker of 8 levels ends below 2, not all of it."""
    of = scene(beginning(clips / name, tmp_path), detector, resolution=256)
    sharp = change(of, Sharp(), **FULL)
    assert np.abs(sharp).max() > 10 and shift_px(of, sharp + luma(of.frames)) <= 0.1
    assert not change(of, Sharp(), strength=0.0).any()
    woven = change(of, FineWeave(levels=120.0), **FULL)
    assert not any(woven[index][~redrawn(of, index)].any() for index in range(N) if index != 3)
    kept = np.abs(change(of, Sharp(), strength=1.0, lip_protection=1.0))
    for index, lips in enumerate(gates.outer_lips(of.tracks[0])[:N]):
        inside = cv2.fillPoly(np.zeros(kept.shape[1:], np.uint8), [lips.round().astype(np.int32)], 1)
        assert not kept[index][inside > 0].any()
    flicker = np.abs(change(of, FineWeave((1, -1), levels=8.0), **FULL))[6:-2]
    flicker = flicker[np.array([redrawn(of, index, 0.5) for index in range(6, N - 2)])]
    assert np.mean(flicker <= 2) > 0.98 and flicker.mean() < 0.5
    assert np.abs(change(of, Lighter((1, -1)), **FULL)).max() <= 1


def beginning(video, folder):
    """The first N frames of a video in a file of its own."""
    path = folder / "beginning.mp4"
    with av.open(str(video)) as source, av.open(str(path), "w") as target:
        given = source.streams.video[0]
        made = target.add_stream("libx264", rate=given.average_rate, options={"crf": "0", "preset": "ultrafast"})
        made.width, made.height, made.pix_fmt = given.width, given.height, "yuv420p"
        for frame in islice(source.decode(given), N):
            target.mux(made.encode(frame.reformat(format="yuv420p")))
        target.mux(made.encode(None))
    return path


# --- which frames ---------------------------------------------------------------------------------------------------


def test_a_face_that_the_frame_shows_no_finer_than_it_is_generated_is_left_unless_forced(moving):
    fine = np.median([alignment.scale_of(alignment.to_face(m, 64)) for m in np.delete(moving.voice.matrices, 3, 0)])
    side = next(r for r in (64, 128, 256) if r * fine / 64 >= 1)  # the first that is finer than the frame
    assert side > 64
    enhancer = restore.Enhancer(Same(), Enhance(method="gfpgan"), "")
    places = moving.places(enhancer)
    assert places.restored.sum() == N - 1 and places.n_coarse == 0
    matrices = np.array([alignment.similarity(anchors, side) for anchors in moving.tracks[0].anchors])
    matrices[3] = np.nan
    finer = replace(moving, voice=replace(moving.voice, matrices=matrices))
    places = finer.places(enhancer, side)
    assert places.restored.sum() == 0 and places.n_coarse == N - 1
    forced = enhancer._replace(cfg=Enhance(method="gfpgan", force=True))
    assert finer.places(forced, side).restored.sum() == N - 1


# --- networks -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gfpgan_file(tmp_path_factory):
    """GFPGANv1Clean, small and untrained, in a file of ours."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    weight_files.save(path, restorers.gfpgan_network(**SMALL).state_dict(), SMALL)
    return path


def test_gfpgan_runs_and_does_not_flicker(gfpgan_file):
    restorer = restorers.open_restorer("gfpgan", gfpgan_file)
    image = np.random.default_rng(0).uniform(0, 255, (1, 64, 64, 3)).astype(np.float32)
    twice = restorer(np.concatenate([image, image]))
    assert twice.shape == (2, 64, 64, 3) and 0 <= twice.min() < twice.max() <= 255
    np.testing.assert_allclose(twice[0], twice[1], atol=1e-3)  # the same frame gives the same face


def shift_px(of, got: np.ndarray) -> float:
    """How far the redrawn regions moved on average, pixels, by least squares over their gradients."""
    moved = []
    for index, (before, after) in enumerate(zip(luma(of.frames), got, strict=True)):
        if index != 3:
            before, after = (cv2.GaussianBlur(image.astype(np.float64), (0, 0), 1.5) for image in (before, after))
            inside = redrawn(of, index, 0.5)
            slopes = np.stack([np.gradient(before, axis=axis)[inside] for axis in (1, 0)], 1)
            moved.append(np.linalg.lstsq(slopes, (before - after)[inside], rcond=None)[0])
    return float(np.hypot(*np.mean(moved, 0)))


class Sharper(Same):
    """A restorer that sharpens, with a little of what a network with random weights makes of the face."""

    def __init__(self, network):
        self.network, self.size = network, network.size

    def __call__(self, faces: np.ndarray) -> np.ndarray:
        sharp = np.stack([2 * face - cv2.GaussianBlur(face, (0, 0), 2) for face in faces])
        return sharp + 0.1 * (self.network(faces) - faces)


def test_what_keeps_its_place_stays_there_to_a_tenth_of_a_pixel(moving, gfpgan_file):
    got = luma(run(moving, Sharper(restorers.open_restorer("gfpgan", gfpgan_file)), **FULL))
    assert np.abs(got - luma(moving.frames)).max() > 10 and shift_px(moving, got) <= 0.1
    moved = luma(run(moving, Moved(), **FULL))
    assert shift_px(moving, moved) > 0.5  # the measure sees a pixel of the aligned face


def test_a_foreign_pickle_is_read_and_a_wrong_one_is_named(tmp_path):
    path = tmp_path / "GFPGANv1.4.pth"
    torch.save({"params_ema": {"conv": torch.zeros(1)}}, path)
    with pytest.raises(ValueError, match=r"285 missing .*; 1 unexpected \(conv\).*enhance\.weights wants GFPGANv1\.3"):
        restorers.open_restorer("gfpgan", path)


def test_fidelity_without_codeformer_is_refused():
    with pytest.raises(ValueError, match=r"--fidelity 0.2 .*--enhance codeformer"):
        Enhance(method="gfpgan", fidelity=0.2)
