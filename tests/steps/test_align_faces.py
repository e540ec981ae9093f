"""The step: rows, crops and geometry of each face, on made videos and on the real clips."""

import shutil
import time

import cv2
import numpy as np
import pytest
from skimage import data

from latentsync.config import AlignFaces, DetectScenes
from latentsync.faces.alignment import apply, crop_size, invert, similarity
from latentsync.faces.backends import IBUG_68, open_detector
from latentsync.faces.crop import align_face
from latentsync.faces.smoothing import jitter_px
from latentsync.faces.tracking import track_faces
from latentsync.ledger.columns import Clip, Geometry, columns
from latentsync.ledger.files import read_ledger, write_ledger
from latentsync.ledger.rows import source_id
from latentsync.media.ahead import DEPTH
from latentsync.media.frames import DisplayedFrame
from latentsync.media.read import Reader, frame_times, read_clip
from latentsync.media.write import VideoWriter
from latentsync.steps import align_faces
from latentsync.steps.detect_scenes import find_cuts
from latentsync.synthetic import render, scene
from latentsync.synthetic.look import looks
from latentsync.synthetic.plan import Take
from latentsync.timing import ticks_to_frames
from tests.fixtures import faults, segment
from tests.media.mangled import overwritten, remuxed
from tests.videos import woven, write_two_sizes, write_video

PORTRAIT = data.astronaut()[:250, 150:300]
CFG = AlignFaces(backend="mediapipe", resolution=64)
# What each real clip shows between two ticks, and why.
REAL = {
    "iplap_129": (0, 30, 1),
    "ls_demo1": (0, 30, 1),
    "ls_demo3": (0, 30, 1),
    "musetalk_yongen": (0, 30, 1),  # a drawn face is a face
    "realtime_girl": (0, 30, 1),
    "synctalk_demo": (0, 30, 1),
    "talkvid_aoc": (0, 30, 1),
    "talkvid_tys": (0, 30, 1),  # the second one, in the corner, is cut off by the edge
    "vrt1": (0, 30, 1),
    "vrt3": (0, 30, 1),
    "vrt5": (0, 30, 1),
    "w2lgfpgan_kim": (0, 30, 1),
    "cosmos10": (112, 160, 0),  # titles; before and after them an animated film, whose faces are found
}


def heads(number: int, places: tuple[int, ...] = (150,), width: int = 480) -> np.ndarray:
    """Portraits, faces about 92 px wide, that move to and fro by 20 px, on grey."""
    image = np.full((260, width, 3), 110, np.uint8)
    for place in places:
        x = place + int(20 * np.sin(number / 6))
        image[5:255, x - 75 : x + 75] = PORTRAIT
    return image


def write(path, times, images):
    first = images(0)
    with VideoWriter(path, 25, first.shape[1], first.shape[0], crf=12, frame_times=times) as writer:
        for number in range(len(times)):
            writer.write(images(number))


def prepare(root, videos, names, ranges=None):
    """A ledger of one segment for each video, with its table of ticks."""
    rows = []
    for name in names:
        ident = source_id(name)
        ticks = ticks_to_frames(*frame_times(videos / name))
        start, end = (ranges or {}).get(name, (0, len(ticks)))
        ticks_file = root / "resample" / "media" / f"{ident}.npy"
        ticks_file.parent.mkdir(parents=True, exist_ok=True)
        np.save(ticks_file, ticks)
        columns = {"n_ticks": len(ticks), "ticks_file": ticks_file.relative_to(root).as_posix()}
        rows.append(segment(name, start, end, **columns))
    ledger = root / "segment" / "00000.jsonl"
    write_ledger(ledger, rows)
    return ledger


def run(root, videos, ledger, cfg=CFG):
    align_faces.run(cfg, {"segment": [ledger]}, {"ledger": root / "align_faces" / "00000.jsonl"}, videos)
    return read_ledger(root / "align_faces" / "00000.jsonl")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Videos: 16 fps (each frame for one or two ticks); two faces; none; a face that leaves for good."""
    videos = tmp_path_factory.mktemp("videos")
    write(videos / "slow.mp4", np.arange(24) / 16, heads)
    write(videos / "two.mp4", np.arange(20) / 25, lambda n: heads(n, (110, 350)))
    write(videos / "none.mp4", np.arange(12) / 25, lambda n: heads(n, ()))
    write(videos / "leaves.mp4", np.arange(30) / 25, lambda n: heads(n, (150,) if n < 16 else ()))
    root = tmp_path_factory.mktemp("run")
    ledger = prepare(root, videos, ["slow.mp4", "two.mp4", "none.mp4", "leaves.mp4"])
    rows = run(root, videos, ledger)
    return videos, root, ledger, {name: [r for r in rows if r["path"] == name] for name in {r["path"] for r in rows}}


def test_a_clip_has_one_crop_and_one_matrix_for_each_tick(made):
    videos, root, _, rows = made
    [row] = rows["slow.mp4"]
    assert (row["kind"], row["status"], row["track"], row["start_tick"], row["end_tick"]) == ("clip", "ok", 0, 0, 38)
    assert row["id"] == f"{row['source_id']}-000000-000038-t0" and row["segment_id"] == row["id"][:-3]
    assert (row["faces"], row["resolution"], row["face_share"], row["n_faces"]) == ("mediapipe", 64, 1.0, 1)
    assert row["face_px"] == pytest.approx(92, abs=8) and not faults(row, Clip)
    crops = read_clip(root / row["crop_file"])
    geometry = np.load(root / row["geometry_file"])
    assert crops.shape == (38, 64, 64, 3) and set(geometry) == columns(Geometry).keys()
    assert geometry["matrices"].shape == (38, 2, 3) and geometry["landmarks"].shape == (38, 478, 2)
    assert geometry["matrices"].dtype == geometry["landmarks"].dtype == geometry["mouth_opening"].dtype == np.float32
    assert geometry["found"].dtype == bool and geometry["found"].all() and np.isfinite(geometry["mouth_opening"]).all()
    shown = ticks_to_frames(*frame_times(videos / "slow.mp4"))
    images = dict(Reader(videos / "slow.mp4").displayed_frames())
    for tick in range(38):
        face = align_face(images[shown[tick]], geometry["matrices"][tick], 64)
        assert np.abs(face.astype(int) - crops[tick]).mean() < 3, tick
    same = np.flatnonzero(np.diff(shown) == 0)
    assert len(same) == 14 and (geometry["matrices"][same] == geometry["matrices"][same + 1]).all()


def test_two_faces_are_two_clips(made):
    _, root, _, rows = made
    first, second = rows["two.mp4"]
    assert (first["track"], second["track"], first["n_faces"], second["n_faces"]) == (0, 1, 2, 2)
    left, right = sorted(np.load(root / row["geometry_file"])["landmarks"][0, :, 0].mean() for row in (first, second))
    assert left < 200 < 250 < right
    for row in (first, second):
        assert read_clip(root / row["crop_file"]).shape == (20, 64, 64, 3)


def test_a_segment_without_a_face_keeps_its_row_and_leaves_no_file(made):
    _, root, _, rows = made
    [row] = rows["none.mp4"]
    assert (row["kind"], row["status"], row["reason"]) == ("segment", "rejected", "no_face")
    assert row["detail"] == "no face was found in 12 frames"
    named = {root / row[key] for part in rows.values() for row in part for key in row if key.endswith("_file")}
    assert set((root / "align_faces" / "media").iterdir()) <= named


def test_a_clip_ends_where_its_face_does(made):
    _, root, _, rows = made
    [row] = rows["leaves.mp4"]
    assert (row["start_tick"], row["end_tick"]) == (0, 16) and row["face_share"] == 1.0
    assert len(read_clip(root / row["crop_file"])) == 16


def test_the_same_again_gives_the_same_bytes_and_repeats_nothing(made, tmp_path, monkeypatch):
    videos, root, ledger, _ = made
    again = tmp_path / "run"
    shutil.copytree(root / "resample", again / "resample")
    shutil.copytree(root / "segment", again / "segment")
    later = time.localtime(time.time() + 1e8)
    monkeypatch.setattr(time, "localtime", lambda *_: later)
    run(again, videos, again / "segment" / "00000.jsonl")
    for path in sorted(p for p in (root / "align_faces").rglob("*") if p.is_file()):
        assert path.read_bytes() == (again / path.relative_to(root)).read_bytes(), path.name
    monkeypatch.setattr(align_faces, "track_faces", None)
    run(again, videos, again / "segment" / "00000.jsonl")


def test_a_fault_in_the_middle_leaves_no_file(made, tmp_path, monkeypatch):
    videos, root, ledger, _ = made
    shutil.copytree(root / "resample", tmp_path / "resample")

    class Broken(Reader):
        def displayed_frames(self, indices=None):
            for index, image in super().displayed_frames(indices):
                if index == 15:
                    raise OSError(5, "the disk is gone", "in.mp4")
                yield index, image

    monkeypatch.setattr(align_faces, "Reader", Broken)
    shutil.copytree(root / "segment", tmp_path / "segment")
    with pytest.raises(OSError, match="disk"):
        run(tmp_path, videos, tmp_path / "segment" / "00000.jsonl")
    assert [path.name for path in (tmp_path / "align_faces" / "media").iterdir() if "mp4" in path.name] == []


def test_a_disk_that_is_full_at_the_end_leaves_no_file(made, tmp_path, monkeypatch):
    videos, _, _, _ = made

    class Full(VideoWriter):
        def __exit__(self, kind, error, trace):
            super().__exit__(OSError, OSError("full"), None)
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(align_faces, "VideoWriter", Full)
    [segment] = read_ledger(prepare(tmp_path, videos, ["two.mp4"]))
    with open_detector("mediapipe", 2) as detector, pytest.raises(OSError, match="No space"):
        align_faces.align_segment(segment, "k", CFG, detector, Reader(videos / "two.mp4"), tmp_path)
    media = tmp_path / "align_faces/media"
    assert [path.name for path in media.iterdir() if path.suffix == ".mp4"] == []


def test_a_strobing_detector_keeps_few_encoders_open(made, tmp_path, monkeypatch):
    """Each find is taken for another face; every encoder holds memory and a file, so it must close with its track."""
    videos, root, _, _ = made

    class Strobe:
        count = most = 0

        def reset(self):
            pass

        def detect(self, rgb):
            self.count += 1
            grid = np.stack(np.meshgrid(np.linspace(0, 60, 17), np.linspace(0, 72, 4)), -1).reshape(-1, 2)
            places = [(60, 60), (300, 60)] if self.count // 2 % 2 else [(180, 150), (350, 150)]
            Strobe.most = max(Strobe.most, len(list((tmp_path / "align_faces/media").glob("*.part*"))))
            return [IBUG_68.face(grid + place) for place in places]

    ledger = prepare(tmp_path, videos, ["leaves.mp4"])
    [segment] = read_ledger(ledger)
    long = segment | {"start_tick": 0, "end_tick": 30}
    cfg = CFG.model_copy(update={"max_gap_ticks": 0})
    rows = align_faces.align_segment(long, "k", cfg, Strobe(), Reader(videos / "leaves.mp4"), tmp_path)
    assert len(rows) == 1 and Strobe.most <= 2 + DEPTH
    assert len([path for path in (tmp_path / "align_faces/media").iterdir() if path.suffix == ".mp4"]) == 1


def test_a_video_that_changes_its_size_is_followed_in_each(tmp_path):
    def images(index, width, height):
        return cv2.resize(heads(index), (width, height), interpolation=cv2.INTER_AREA)

    path = write_two_sizes(tmp_path / "call.ts", 15, ((480, 260), (960, 520)), images)
    rows = run(tmp_path / "run", tmp_path, prepare(tmp_path / "run", tmp_path, [path.name]))
    assert [(row["start_tick"], row["end_tick"]) for row in rows] == [(0, 15), (15, 30)]
    small, large = (row["face_px"] for row in rows)
    assert large == pytest.approx(2 * small, rel=0.05)


def test_crops_of_interlaced_video_are_deinterlaced_and_those_of_progressive_video_the_same_bytes(tmp_path):
    def walks(number, width, height):
        image = np.full((height, width, 3), 110, np.uint8)
        image[5:505, 150 + 3 * number : 450 + 3 * number] = cv2.resize(PORTRAIT, (300, 500))
        return image

    shared = {"n_frames": 10, "size": (640, 512), "codec_options": {"crf": "8"}}
    write_video(tmp_path / "fields.mp4", images=woven(walks, "tff"), field_order="tff", **shared)
    write_video(tmp_path / "plain.mp4", images=lambda i, *size: walks(2 * i, *size), **shared)
    names, crops = ["fields.mp4", "plain.mp4"], {}
    for deinterlace in (True, False):
        root, cfg = tmp_path / str(deinterlace), AlignFaces(backend="mediapipe", deinterlace=deinterlace)
        for row in run(root, tmp_path, prepare(root, tmp_path, names), cfg):
            crops[row["path"], deinterlace] = root / row["crop_file"]

    def combing(path):
        """By how much lines stand out from the two around them, grey levels."""
        grey = read_clip(path).mean(-1)
        return np.abs(2 * grey[:, 1:-1] - grey[:, :-2] - grey[:, 2:]).mean()

    made, kept, plain = (combing(crops[one]) for one in [(names[0], True), (names[0], False), (names[1], True)])
    print(f"combing of crops: deinterlaced {made:.2f}, as they are {kept:.2f}, of progressive video {plain:.2f}")
    assert kept > 1.5 * plain and made < 1.15 * plain
    assert crops[names[1], True].read_bytes() == crops[names[1], False].read_bytes()


@pytest.fixture(scope="module")
def real(clips, tmp_path_factory):
    root = tmp_path_factory.mktemp("real")
    ranges = {f"{name}.mp4": (start, end) for name, (start, end, _) in REAL.items()}
    rows = run(root, clips, prepare(root, clips, sorted(ranges), ranges))
    return root, {name: [row for row in rows if row["path"] == f"{name}.mp4"] for name in REAL}


@pytest.mark.parametrize("name", REAL)
def test_real_clips_yield_faces_where_there_are_some_framed_as_a_person_would(real, name):
    root, rows = real
    start, end, n_faces = REAL[name]
    if n_faces == 0:
        assert [(row["status"], row["reason"]) for row in rows[name]] == [("rejected", "no_face")]
        return
    assert len(rows[name]) == n_faces
    for row in rows[name]:
        assert (row["start_tick"], row["end_tick"], row["face_share"]) == (start, end, 1.0)
        assert len(read_clip(root / row["crop_file"])) == end - start
        geometry = np.load(root / row["geometry_file"])
        places = np.array([apply(m, p) for m, p in zip(geometry["matrices"], geometry["landmarks"], strict=True)])
        places /= crop_size(64)
        eyes, mouth, chin = places[:, [33, 133, 362, 263]].mean(1), places[:, [61, 291]].mean(1), places[:, 152]
        # In shares of the crop: eyes above the mask's bands (0.37), mouth and chin inside its U (0.5 to 0.95).
        assert 0.2 < eyes[:, 1].min() and eyes[:, 1].max() < 0.37
        assert 0.5 < mouth[:, 1].min() and mouth[:, 1].max() < 0.78 and chin[:, 1].max() < 0.97
        assert np.abs(eyes[:, 0] - 0.5).max() < 0.1 and np.abs(mouth[:, 0] - 0.5).max() < 0.15
        brow_tilt = places[:, 334, 1] - places[:, 105, 1]
        assert np.abs(brow_tilt).max() < 0.06  # upright, however the head leans
        step = np.abs(np.diff(geometry["matrices"].astype(float), axis=0))
        assert np.median(step[:, :, :2]) < 0.01


def test_crops_of_real_clips_are_sharp_enough_to_see_the_mouth(real):
    root, rows = real
    for name in ("vrt3", "ls_demo3", "talkvid_aoc"):
        crops = read_clip(root / rows[name][0]["crop_file"])
        assert cv2.Laplacian(crops[10, 30:50, 16:48], cv2.CV_64F).std() > 8, name


def test_a_still_head_does_not_tremble(tmp_path, monkeypatch):
    """A talker whose head is held still: whatever moves the crop is jitter of the landmarks. Mouth and eyes move."""
    still = scene.Motion(*[np.zeros((3, 3))] * 6, blinks_s=(1.0, 2.3))
    monkeypatch.setattr(render, "motion", lambda rng, duration_s, listens: still)
    take = Take("still.mp4", looks(1, 8)[2], duration_s=4.0, width=640, height=640, face_px=(230.0,))
    render.render(take, 1, tmp_path)
    images = (image for _, image in Reader(tmp_path / "still.mp4").displayed_frames())
    with open_detector("mediapipe", 2) as detector:
        [track] = track_faces(images, detector, 5, to_rgb=DisplayedFrame.quick)
    corners = np.array([[0, 0], [210, 0], [0, 280], [210, 280]])
    trembling = {}
    for name, anchors in (("before", track.raw_anchors), ("after", track.anchors)):
        matrices = [similarity(each, 256) for each in anchors]
        back = invert(np.mean(matrices, 0))
        placed = np.array([apply(matrix, apply(back, corners)) for matrix in matrices])
        trembling[name] = float(np.sqrt((np.diff(placed, axis=0) ** 2).mean() / 2)), jitter_px(anchors)
    for name, (corner_px, anchor_px) in trembling.items():
        print(f"{name} filtering: corners of the crop {corner_px:.3f} px, anchors {anchor_px:.3f} px, rms at 256")
    assert trembling["after"][1] < 0.25
    assert trembling["after"][0] < trembling["before"][0] and trembling["after"][1] < trembling["before"][1]


def test_damage_costs_the_segments_that_it_touches(tmp_path):
    """A key frame of three is broken: the second between them is a scene of its own, and the others are whole."""
    steady = {"codec": "mpeg4", "b_frames": 0, "gop": 25, "codec_options": {"sc_threshold": "1000000000"}}
    film = write_video(tmp_path / "film.mp4", 75, size=(480, 260), images=lambda n, *_: heads(n), **steady)
    (tmp_path / "in").mkdir()
    path = remuxed(film, tmp_path / "in" / "film.mp4", overwritten([25]))
    cuts, repairs = find_cuts(path, ticks_to_frames(*frame_times(path)), DetectScenes())
    assert cuts == [25, 50] and repairs == {"lost_frames": 25}
    rows = {}
    for span in ((0, 25), (25, 50), (50, 75), (10, 30), (45, 75)):
        root = tmp_path / "results" / f"run{span[0]}"
        [rows[span]] = run(root, tmp_path / "in", prepare(root, tmp_path / "in", ["film.mp4"], {"film.mp4": span}))
    assert [row["status"] for row in rows.values()] == ["ok", "error", "ok", "error", "error"]
    detail = "no frame can be decoded between 1.00 and 2.00 s"
    assert {(row["reason"], row["detail"]) for row in rows.values()} == {(None, ""), ("unreadable", detail)}
