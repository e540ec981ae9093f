"""Step detect_scenes: every cut within one tick, none where there is none."""

import numpy as np
import pytest

from latentsync.config import DetectScenes
from latentsync.generation import speakers
from latentsync.ledger.files import read_ledger, write_ledger
from latentsync.media.read import Reader, frame_times
from latentsync.steps import detect_scenes
from latentsync.timing import ticks_to_frames
from tests.fixtures import source
from tests.videos import write_two_sizes, write_video

SIZE = (160, 120)


def head(index, width, height, colours=((60, 70, 90), (200, 150, 120)), speed=1.0):
    """A crude talking head: an ellipse that sways, with a mouth that opens, before a textured wall."""
    y, x = np.mgrid[:height, :width]
    wall = np.array(colours[0]) + 12 * np.sin(x / 9)[..., None] + 8 * np.cos(y / 7)[..., None]
    scale = width / 320
    sway = speed * 40 * scale * np.sin(index / 8)
    centre_x, centre_y = width / 2 + sway, height / 2 + 10 * scale * np.cos(index / 5)
    face = ((x - centre_x) / 60) ** 2 + ((y - centre_y) / 80) ** 2 < scale**2
    opening = 3 + 12 * abs(np.sin(index / 3))
    mouth = ((x - centre_x) / 22) ** 2 + ((y - centre_y - 40 * scale) / opening) ** 2 < scale**2
    rgb = np.where(face[..., None], np.array(colours[1]), wall)
    rgb = np.where(mouth[..., None], np.array((30, 10, 10)), rgb)
    return np.clip(rgb, 0, 255).astype(np.uint8)


STUDIO = ((150, 140, 120), (240, 200, 180))


def cuts_of(path):
    times, end_s = frame_times(path)
    return detect_scenes.find_cuts(path, ticks_to_frames(times, end_s), DetectScenes())[0], times


@pytest.mark.parametrize("fps", [12, 24, 25, 30, 60])
def test_cuts_are_found_within_one_tick_at_any_rate(tmp_path, fps):
    n_frames, cut = 4 * fps, int(1.7 * fps)

    def images(index, width, height):
        return head(index * 25 / fps, width, height) if index < cut else head(index * 25 / fps, width, height, STUDIO)

    path = write_video(tmp_path / "x.mp4", n_frames, fps, size=SIZE, images=images)
    cuts, times = cuts_of(path)
    assert len(cuts) == 1 and abs(cuts[0] - 25 * times[cut]) <= 1


def test_two_cuts_in_a_vfr_file(tmp_path):
    times_s = np.cumsum([0.0, *[1 / 30, 2 / 30, 1 / 60, 0.1] * 24]).tolist()
    looks = [((60, 70, 90), (200, 150, 120)), STUDIO, ((30, 90, 40), (120, 90, 70))]

    def images(index, width, height):
        return head(times_s[index] * 25, width, height, looks[(index > 30) + (index > 65)])

    cuts, times = cuts_of(write_video(tmp_path / "x.mp4", times_s=times_s, size=SIZE, images=images))
    assert len(cuts) == 2 and all(abs(a - 25 * times[b]) <= 1 for a, b in zip(cuts, (31, 66), strict=True))


@pytest.mark.parametrize("fps", [16, 25])
def test_a_head_that_moves_a_lot_is_no_cut(tmp_path, fps):
    path = write_video(
        tmp_path / "x.mp4", 6 * fps, fps, size=SIZE, images=lambda i, w, h: head(i * 25 / fps, w, h, speed=2.0)
    )
    assert cuts_of(path)[0] == []


def test_key_frames_that_renew_the_grain_are_no_cuts(tmp_path):
    """A coarse encoder keeps the grain of the last key frame: it changes all at once, though nothing is cut."""
    grain = [np.random.default_rng(k).normal(0, 40, (240, 320, 1)) for k in range(3)]

    def images(index, width, height):
        return np.clip(head(index / 4, width, height) + grain[index // 40], 0, 255).astype(np.uint8)

    path = write_video(tmp_path / "x.mp4", 120, size=(320, 240), codec_options={"preset": "fast"}, images=images)
    assert cuts_of(path)[0] == []
    images = (image for _, image in Reader(path).displayed_frames())
    assert {scene for scene, _ in speakers.scenes(images)} == {0}  # generation looks as closely, and no closer


def test_a_video_that_changes_its_size_is_no_cut_and_no_fault(tmp_path):
    def images(index, width, height):
        return head(index, width, height, *([STUDIO] * (index >= 60)))

    cuts, _ = cuts_of(write_two_sizes(tmp_path / "call.ts", 40, (SIZE, (320, 240)), images))
    assert cuts == [60]


def test_the_step_adds_cuts_and_passes_faults_through(tmp_path):
    run_dir = tmp_path / "results" / "demo"
    write_video(tmp_path / "a.mp4", 60, size=SIZE, images=lambda i, w, h: head(i, w, h, *([STUDIO] * (i >= 30))))
    rows = []
    for name, status in (("a.mp4", "ok"), ("c.mp4", "error")):
        rows.append(source(name, status=status, ticks_file="resample/media/a.npy", n_ticks=60, repairs={}))
    (run_dir / "resample" / "media").mkdir(parents=True)
    np.save(run_dir / "resample" / "media" / "a.npy", np.arange(60, dtype=np.int32))
    write_ledger(run_dir / "resample" / "00000.jsonl", rows)
    ledger = run_dir / "detect_scenes" / "00000.jsonl"
    detect_scenes.run(
        DetectScenes(), {"resample": [run_dir / "resample" / "00000.jsonl"]}, {"ledger": ledger}, tmp_path
    )
    done = {row["path"]: row for row in read_ledger(ledger)}
    assert done["a.mp4"]["cuts"] == [30] and "cuts" not in done["c.mp4"]


def test_real_clips(clips):
    for name in ("vrt1.mp4", "talkvid_aoc.mp4", "talkvid_tys.mp4", "iplap_129.mp4", "realtime_girl.mp4"):
        assert cuts_of(clips / name)[0] == []
    assert 223 in cuts_of(clips / "cosmos10.mp4")[0]  # a film: old man, then a young woman
