"""Synthetic talkers: the ground truth is checked by code that did not write it.

The detector of align_faces measures the mouth in the written files, the envelope of score_sync measures the audio.
"""

import json
from collections import Counter
from dataclasses import replace
from fractions import Fraction

import cv2
import numpy as np
import pytest

from latentsync.config import MakeTalkers, SelectClips
from latentsync.faces.alignment import crop, similarity, stretch
from latentsync.faces.backends import open_detector
from latentsync.faces.mask import keep_mask
from latentsync.faces.measures import motion
from latentsync.ledger.columns import REASONS
from latentsync.ledger.rows import Rejection, source_id
from latentsync.media.audio import read_audio
from latentsync.media.probe import probe_media
from latentsync.media.read import frame_times, read_frames
from latentsync.steps import make_talkers
from latentsync.sync.curves import ENVELOPE_WINDOW, envelope_curve, peak, speech_envelope
from latentsync.synthetic import mouth, photo, plan, render, scene, voice
from latentsync.synthetic.look import from_photo, looks, to_photo

SEED = 5
PEOPLE = looks(SEED, 10)
NTSC = Fraction(30000, 1001)
TAKES = [
    plan.Take("a/one.mp4", PEOPLE[0], duration_s=3.0, offset_frames=7),
    plan.Take("a/two.mp4", PEOPLE[1], duration_s=3.0, offset_frames=-9, fps=NTSC, width=320),
    plan.Take("a/three.mp4", PEOPLE[2], duration_s=3.0, offset_frames=10, vfr=True, width=320),
    plan.Take("a/four.mp4", PEOPLE[3], duration_s=3.4, offset_frames=0, cuts_s=(1.7,), face_px=(134.0, 106.0)),
]


@pytest.fixture(scope="module")
def filmed(tmp_path_factory):
    """The takes as files, with ground truth and detected mouth openings: (path, truth, times, openings)."""
    folder = tmp_path_factory.mktemp("videos")
    result = []
    with open_detector("mediapipe", 1) as detector:
        for take in TAKES:
            truth = render.render(take, SEED, folder)
            detector.reset()
            seen = [detector.detect(frame) for _, frame in read_frames(folder / take.path)]
            times, _ = frame_times(folder / take.path)
            openings = np.array([faces[0].mouth_opening if faces else np.nan for faces in seen])
            result.append((folder / take.path, truth, times, openings))
    return result


def spoken(take: plan.Take, truth: dict) -> voice.Voice:
    return render._speech(take, SEED, "voice", truth["duration_s"])


def test_plan_has_every_reason_and_enough_good_videos():
    cfg = MakeTalkers()
    takes = plan.plan(cfg)
    assert takes == plan.plan(cfg)
    faults = Counter(take.fault for take in takes)
    assert all(faults[reason] == cfg.faults_each for reason in plan.KINDS)
    good = [take for take in takes if take.fault is None]
    assert len(good) == cfg.good
    assert min(Counter(take.look.name for take in good).values()) >= 4
    assert {take.look.name for take in good} == {look.name for look in looks(cfg.seed, cfg.identities)}
    assert min(Counter(take.offset_frames for take in good).values()) >= 1
    assert {take.offset_frames for take in good} == set(range(-10, 11))
    assert sum(take.fps == NTSC for take in good) >= 5
    assert sum(take.vfr for take in good) >= 5
    assert sum(len(take.cuts_s) == 1 for take in good) >= 5
    assert all(12 <= abs(take.offset_frames) <= 14 for take in takes if take.fault == "large_offset")
    assert {take.kind for take in takes if take.fault == "unreadable"} == set(plan.KINDS["unreadable"])
    assert any(" " in take.path for take in takes)
    assert any(not take.path.isascii() for take in takes)


def test_later_id_of_equal_files_is_the_duplicate():
    takes = {take.path: take for take in plan.plan(MakeTalkers(seed=3))}
    copies = [take for take in takes.values() if take.copy_of]
    assert len(copies) == 3
    for take in copies:
        original = takes[take.copy_of]
        first, second = sorted((take, original), key=lambda each: source_id(each.path))
        assert (first.fault, second.fault) == (None, "duplicate")


def test_another_seed_is_another_plan_with_other_people():
    one, other = plan.plan(MakeTalkers(seed=1)), plan.plan(MakeTalkers(seed=2))
    assert len(one) == len(other)
    assert [take.offset_frames for take in one] != [take.offset_frames for take in other]
    assert all(a.look != b.look for a, b in zip(one, other, strict=True))


def test_people_differ_in_every_feature():
    for feature in ("face_width", "jaw_width", "mouth_width", "eye_distance", "skin", "hair", "suit", "pitch_hz"):
        values = {getattr(look, feature) for look in PEOPLE}
        assert len(values) == len(PEOPLE), feature


def test_the_shape_is_undone_by_its_inverse():
    points = photo.photo(PEOPLE[4].mirrored).points
    shaped = from_photo(PEOPLE[4], points)
    assert np.abs(to_photo(PEOPLE[4], shaped) - points).max() < 0.02
    assert np.abs(shaped - points).max() > 1


def test_loudness_follows_the_mouth_opening_and_only_without_a_shift():
    for seed in range(8):
        said = voice.speak(np.random.default_rng(seed), 5.0, 100 + 15 * seed, 1.0)
        opening = said.opening_at(np.arange(125) / 25)
        padded = np.pad(said.audio, ENVELOPE_WINDOW // 2)
        loudness = speech_envelope(padded, 125)
        assert np.corrcoef(opening, loudness)[0, 1] > 0.9
        curve = envelope_curve(0.3 * opening, np.pad(loudness, 15, constant_values=np.nan), 15)
        assert peak(curve)[0] == 0
        assert np.delete(curve, range(12, 19)).max() < 0.5 * curve.max()


def test_voice_pauses_and_the_pauses_are_quiet():
    said = voice.speak(np.random.default_rng(0), 10.0, 120, 1.0)
    shut = said.opening_at(np.arange(250) / 25) < 0.01
    runs = np.split(shut, np.flatnonzero(np.diff(shut)) + 1)
    assert sum(run[0] and len(run) >= 5 for run in runs) >= 3  # pauses of a fifth of a second
    assert 0.1 < shut.mean() < 0.6
    level = np.sqrt((said.audio.reshape(250, 640) ** 2).mean(1))
    assert np.median(level[shut]) < 0.05 * np.median(level[~shut])
    assert np.abs(said.audio).max() < 0.99


def test_every_other_voice_pauses_in_digital_silence():
    """Speech from a synthesiser does, and a model that never heard it gapes."""
    voices = [voice.speak(np.random.default_rng(seed), 5.0, 120, 1.0).audio for seed in range(12)]
    shares = np.array([(np.abs(sound) < 1e-6).mean() for sound in voices])
    assert 3 <= (shares > 0.1).sum() <= 9 and (shares[shares <= 0.1] < 0.01).all()


def test_detector_follows_the_commanded_mouth(filmed):
    for take, (_, truth, times, measured) in zip(TAKES, filmed, strict=True):
        assert np.isfinite(measured).all()
        commanded = spoken(take, truth).opening_at(times - take.offset_frames / 25)
        assert np.corrcoef(measured, commanded)[0, 1] > 0.93, take.path
        assert measured.max() > 0.2
        assert measured.min() < 0.03


def test_truth_and_file_agree(filmed):
    for take, (path, truth, times, _) in zip(TAKES, filmed, strict=True):
        info = probe_media(path)
        assert (info.width, info.height) == (truth["width"], truth["height"])
        assert info.n_frames == truth["n_frames"] == len(times)
        assert info.duration_s == pytest.approx(truth["duration_s"], abs=1e-3)
        assert truth["fps"] == pytest.approx(float(take.fps), abs=1e-4)
        assert len(truth["sound_opening"]) == int(np.ceil(truth["duration_s"] * 25 - 1e-6))
        steps = np.diff(times)
        assert (np.ptp(steps) > 0.02) == take.vfr
        assert all(np.abs(times - cut).min() < 1e-4 for cut in truth["cuts_s"])


def test_planted_offset_is_in_the_file(filmed):
    for take, (path, truth, times, measured) in zip(TAKES, filmed, strict=True):
        n = len(truth["sound_opening"])
        mouth_at_ticks = np.interp(np.arange(n) / 25, times, measured)
        half = ENVELOPE_WINDOW // 2
        samples = np.pad(read_audio(path), (half, half + 640))
        loudness = np.pad(speech_envelope(samples, n), 15, constant_values=np.nan)
        assert peak(envelope_curve(mouth_at_ticks, loudness, 15))[0] == take.offset_frames


def test_audio_is_at_its_planned_time_within_two_milliseconds(filmed):
    for take, (path, truth, _, _) in zip(TAKES, filmed, strict=True):
        planned, decoded = spoken(take, truth).audio, read_audio(path)
        n = 2 ** int(np.ceil(np.log2(len(planned) + len(decoded))))
        correlation = np.fft.irfft(np.fft.rfft(decoded, n) * np.conj(np.fft.rfft(planned, n)), n)
        lag = int(np.argmax(correlation))
        assert min(lag, n - lag) <= 32  # samples of 1/16000 s
        assert abs(len(decoded) - len(planned)) <= 16_000 * 0.1


def test_a_cut_changes_the_frame_at_once(filmed):
    path, truth, times, _ = filmed[3]
    frames = np.stack([frame for _, frame in read_frames(path)]).astype(np.float32)
    change = np.abs(np.diff(frames, axis=0)).mean((1, 2, 3))
    first = int(np.argmin(np.abs(times - truth["cuts_s"][0])))
    assert np.argmax(change) == first - 1
    assert change.max() > 5 * np.median(change)


def test_the_same_take_gives_the_same_bytes(filmed, tmp_path):
    render.render(TAKES[2], SEED, tmp_path)
    assert (tmp_path / TAKES[2].path).read_bytes() == filmed[2][0].read_bytes()
    other = render.render(TAKES[2], SEED + 1, tmp_path)
    assert other["sound_opening"] != filmed[2][1]["sound_opening"]


def test_only_the_lower_face_of_the_mesh_moves():
    points = photo.photo(False).points
    wide, shut = mouth.moved(points, 1.0), mouth.moved(points, 0.0)
    upper_face = [
        *photo.FACE_OVAL[:6],
        *photo.BROWS[0],
        *photo.EYE_CORNERS[0],
        *photo.EYE_CORNERS[1],
        1,
        photo.NOSE_TIP,
    ]
    assert (wide[upper_face] == points[upper_face]).all()
    middle = [photo.INNER_UPPER[5], photo.INNER_LOWER[5]]
    across = np.linalg.norm(points[photo.EYE_CORNERS[1][0]] - points[photo.EYE_CORNERS[0][0]])
    assert np.linalg.norm(np.diff(wide[middle], axis=0)) / across == pytest.approx(mouth.WIDEST_GAP, abs=0.03)
    assert np.linalg.norm(np.diff(shut[middle], axis=0)) / across < 0.02
    lip = wide[photo.OUTER_LOWER[5], 1] - shut[photo.OUTER_LOWER[5], 1]
    assert 0.05 * lip < wide[photo.CHIN, 1] - shut[photo.CHIN, 1] < 0.6 * lip


@pytest.mark.parametrize("person", [0, 5, 8])
def test_nothing_outside_the_published_mask_depends_on_the_mouth_opening(person, detector):
    size = (320, 320)
    rng = np.random.default_rng(person)
    who = scene.Person(PEOPLE[person], scene.motion(rng, 4.0), (160.0, 150.0), 125.0, size)
    shot = scene.Shot(scene.background(rng, *size), (who,), scene.light(rng, *size))
    kept = keep_mask(256) > 0.5
    for time_s in (0.2, 1.9):
        shut, wide = shot.frame(time_s, (0.0,)), shot.frame(time_s, (1.0,))
        detector.reset()
        [face] = detector.detect(shut)
        matrix = similarity(face.anchors, 256)
        change = np.abs(np.diff([stretch(crop(frame, matrix, 256), 256) for frame in (shut, wide)], axis=0)[0]).max(-1)
        assert change[kept].mean() < 0.05  # of 255 grey levels
        assert np.quantile(change[kept], 0.999) < 8
        assert change[~kept].mean() > 8


def test_faces_of_low_quality_are_detected_and_score_low(detector, tmp_path):
    from latentsync.faces.stills import face_region
    from latentsync.models.quality import open_scorer

    score = open_scorer("piqe")
    base = replace(TAKES[0], duration_s=2.0, offset_frames=0)
    quality = {}
    for name, change in {
        "good": {},
        "compression": {"fault": "low_quality", "kind": "compression"},
        "blur": {"fault": "low_quality", "kind": "blur"},
        "small": {"fault": "small_face", "width": 320, "face_px": (46.4,)},
    }.items():
        take = replace(base, path=f"{name}.mp4", **change)
        render.render(take, SEED, tmp_path)
        detector.reset()
        frames = [frame for _, frame in read_frames(tmp_path / take.path)]
        faces = [detector.detect(frame) for frame in frames]
        assert np.mean([len(found) == 1 for found in faces]) > 0.9, name
        widths = [found[0].width_px for found in faces if found]
        assert np.median(widths) == pytest.approx(take.face_px[0], rel=0.12), name
        regions = [face_region(frames[i], faces[i][0].landmarks) for i in (5, 25, 45) if faces[i]]
        quality[name] = np.mean([score(region) for region in regions])
    assert quality["good"] > 52
    assert max(quality["compression"], quality["blur"]) < 38


def test_of_two_people_only_one_speaks_the_audio(detector, tmp_path):
    for kind in plan.KINDS[plan.TWO_FACES]:
        take = replace(TAKES[0], path=f"{kind}.mp4", fault=plan.TWO_FACES, kind=kind, other=PEOPLE[6], other_left=True)
        take = replace(take, width=568, face_px=(108.8,), offset_frames=-3)
        truth = render.render(take, SEED, tmp_path)
        sides = {entry["track"]: (entry["side"], entry["reason"]) for entry in truth["expected"]}
        assert sides == {"speaker": ("right", None), "silent": ("left", "not_speaking")}
        assert truth["faults"] == []
        detector.reset()
        faces = [sorted(detector.detect(frame), key=lambda f: f.box) for _, frame in read_frames(tmp_path / take.path)]
        assert np.mean([len(found) == 2 for found in faces]) > 0.9
        left, right = (np.array([f[i].mouth_opening for f in faces if len(f) == 2]) for i in (0, 1))
        times = np.array([i / 25 for i, found in enumerate(faces) if len(found) == 2])
        commanded = spoken(take, truth).opening_at(times + 3 / 25)
        assert np.corrcoef(right, commanded)[0, 1] > 0.9
        assert abs(np.corrcoef(left, commanded)[0, 1]) < 0.6
        assert (left.std() < 0.02) == (kind == "other silent")
        listener = np.stack([found[0].landmarks for found in faces if len(found) == 2])
        assert motion(listener, np.ones(len(listener), bool)) > 1.3 * SelectClips().min_motion  # not a photograph


def test_unrelated_speech_does_not_match_at_any_shift():
    take = replace(TAKES[0], fault="low_sync")
    speech = render._speech(take, SEED, "voice", 3.0)
    words = render._unrelated_speech(take, SEED, 3.0, speech)
    ticks = np.arange(75) / 25
    loudness = np.pad(speech.opening_at(ticks), 15, constant_values=np.nan)
    assert envelope_curve(words.opening_at(ticks), loudness, 15).max() < 2.0


SMALL = MakeTalkers(seed=9, identities=8, good=3, faults_each=1, duration_s=2.0, height_px=160)


def outputs(folder):
    step = folder / "make_talkers"
    lists = [folder / "sources" / f"{number:05d}.jsonl" for number in range(2)]
    return {"truth": step / "truth.jsonl", "speakers": step / "speakers.csv", "sources": lists}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    make_talkers.run(SMALL, {}, outputs(folder))
    return folder / "make_talkers"


def contents(step) -> dict[str, bytes]:
    return {path.relative_to(step).as_posix(): path.read_bytes() for path in step.rglob("*.mp4")} | {
        name: (step / name).read_bytes() for name in ("truth.jsonl", "speakers.csv")
    }


def test_the_step_writes_every_fault_of_the_ground_truth(made):
    rows = [json.loads(line) for line in (made / "truth.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["id"] for row in rows] == sorted(source_id(row["path"]) for row in rows)
    assert {path.relative_to(made / "videos").as_posix() for path in (made / "videos").rglob("*.*")} == {
        row["path"] for row in rows
    }
    assert {fault for row in rows for fault in row["faults"]} == set(plan.KINDS) & REASONS.keys()
    by_path = {row["path"]: row for row in rows}
    for row in rows:
        path = made / "videos" / row["path"]
        if row["faults"] == ["unreadable"]:
            with pytest.raises(Rejection) as rejection:
                probe_media(path)
            assert rejection.value.reason == "unreadable"
            continue
        info = probe_media(path)
        assert info.has_audio == (row["faults"] != ["no_audio"])
        assert (info.duration_s < 1.3) == (row["faults"] == ["too_short"])
        if row["copy_of"]:
            assert path.read_bytes() == (made / "videos" / row["copy_of"]).read_bytes()
            assert by_path[row["copy_of"]]["sound_opening"] == row["sound_opening"]
        if row["again_of"]:
            check_near_duplicate(made / "videos", row, by_path[row["again_of"]])
    speakers = (made / "speakers.csv").read_text(encoding="utf-8").splitlines()
    assert speakers[0] == "path,speaker"
    assert speakers[1:] == sorted(f"{row['path']},{row['identity']}" for row in rows)


def check_near_duplicate(videos, row: dict, original: dict) -> None:
    """Other bytes and another size, but the same frames and words."""
    assert row["faults"] == ["near_duplicate"] and not original["faults"]
    assert original["n_frames"] == row["n_frames"] and original["sound_opening"] == row["sound_opening"]
    assert row["height"] == round(0.8 * original["height"]) and row["offset_frames"] == original["offset_frames"]
    size = (original["width"], original["height"])
    one, other = (dict(read_frames(videos / each["path"], np.array([0, 20]))) for each in (row, original))
    for index in (0, 20):
        assert 0.5 < np.abs(cv2.resize(one[index], size).astype(float) - other[index]).mean() < 8


def test_a_picture_in_picture_shows_a_person_who_speaks_other_words(detector, tmp_path):
    for take in (take for take in plan.plan(MakeTalkers(faults_each=2)) if take.fault == plan.INSET):
        take = replace(take, duration_s=2.0)
        truth = render.render(take, SEED, tmp_path)
        [stretch] = truth["expected"]
        assert truth["faults"] == [] and stretch["reason"] is None and stretch["track"] == "speaker"
        frames = [frame for _, frame in read_frames(tmp_path / take.path)]
        detector.reset()
        main = [detector.detect(frame)[0] for frame in frames]
        assert np.median([face.width_px for face in main]) == pytest.approx(take.face_px[0], rel=0.12)
        side = round(render.INSET_SHARE * take.height)
        top, left = render._corner(take, side)
        assert (top > take.height / 2) == (take.kind == "lower corner") and (left < take.width / 2) == take.other_left
        assert all(face.box[0] > left + side or face.box[2] < left for face in main)
        inset = [cv2.resize(frame[top : top + side, left : left + side], None, fx=3, fy=3) for frame in frames]
        detector.reset()
        small = [detector.detect(frame) for frame in inset]
        assert np.mean([len(found) == 1 for found in small]) > 0.8
        mouth = np.array([found[0].mouth_opening if found else np.nan for found in small])
        heard = spoken(take, truth).opening_at((np.arange(len(frames)) - take.offset_frames) / 25)
        known = np.isfinite(mouth)
        assert np.corrcoef(mouth[known], heard[known])[0, 1] < 0.6


def test_near_duplicates_have_different_originals_that_are_not_copied():
    takes = {take.path: take for take in plan.plan(MakeTalkers(seed=5))}
    again = [take for take in takes.values() if take.again_of]
    copied = {take.copy_of for take in takes.values()}
    assert len({take.again_of for take in again}) == len(again) == 3
    assert all(takes[take.again_of].fault is None and take.again_of not in copied for take in again)
    only_one = plan.plan(MakeTalkers(good=1))  # it is copied, so no original is left for a near duplicate
    assert not any(take.again_of for take in only_one)


@pytest.mark.parametrize("kind", plan.KINDS["unreadable"])
def test_every_kind_of_broken_file_is_unreadable(kind, tmp_path):
    take = replace(TAKES[0], fault="unreadable", kind=kind, duration_s=1.0)
    render.render(take, SEED, tmp_path)
    with pytest.raises(Rejection):
        probe_media(tmp_path / take.path)


@pytest.mark.parametrize("kind", plan.KINDS["no_face"])
def test_videos_without_a_face_have_none(kind, detector, tmp_path):
    take = replace(TAKES[0], fault="no_face", kind=kind, duration_s=2.0)
    render.render(take, SEED, tmp_path)
    detector.reset()
    assert not any(detector.detect(frame) for i, frame in read_frames(tmp_path / take.path) if i % 5 == 0)


def test_a_killed_run_continues_and_one_worker_makes_the_same_files(made, tmp_path, monkeypatch):
    monkeypatch.setattr(make_talkers, "WORKERS", 1)

    class Killed(Exception):
        pass

    calls = []

    def dies(take, seed, folder):
        if len(calls) == 4:
            raise Killed
        calls.append(take.path)
        return render.render(take, seed, folder)

    monkeypatch.setattr(make_talkers, "render", dies)
    with pytest.raises(Killed):
        make_talkers.run(SMALL, {}, outputs(tmp_path))
    step = tmp_path / "make_talkers"
    assert not (step / "truth.jsonl").exists()
    with open(step / "journal" / "videos.jsonl", "ab") as journal:
        journal.write(b'{"key":"torn')
    before = {path: (step / "videos" / path).stat().st_mtime_ns for path in calls}
    monkeypatch.setattr(make_talkers, "render", render.render)
    make_talkers.run(SMALL, {}, outputs(tmp_path))
    assert contents(step) == contents(made)
    assert {path: (step / "videos" / path).stat().st_mtime_ns for path in calls} == before


def test_another_plan_removes_superseded_videos_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(make_talkers, "render", lambda take, seed, folder: _pretend(take, folder))
    videos = tmp_path / "make_talkers" / "videos"
    make_talkers.run(SMALL.model_copy(update={"good": 9}), {}, outputs(tmp_path))
    many = set(videos.rglob("*.mp4"))
    (videos / "mine.mp4").write_bytes(b"a user's own file")
    make_talkers.run(SMALL, {}, outputs(tmp_path))
    left = set(videos.rglob("*.mp4"))
    assert left == {videos / take.path for take in plan.plan(SMALL)} | {videos / "mine.mp4"}
    assert many - left


def _pretend(take, folder):
    path = folder / take.path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"video")
    return {"id": take.id, "path": take.path, "identity": take.look.name}
