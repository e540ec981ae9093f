"""The table of sync scorers: it agrees with what is derived from it; frames without a face do not count."""

import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from latentsync import config, gpu_lease, required
from latentsync.curation.funnel import STAND_INS
from latentsync.models import syncnet
from latentsync.report.card import SCALES
from latentsync.sync import curves, scorers
from latentsync.weights import registry
from tests import toys
from tests.rigged_syncnet import Rigged


def test_the_configuration_names_the_scorers_of_the_table():
    assert set(get_args(config.SyncScorer)) == scorers.SCORERS.keys()
    assert config.ScoreSync().backend == config.Evaluate().sync_backend == "syncnet_v2"


@pytest.mark.parametrize("name", scorers.SCORERS)
def test_everything_about_a_scorer_follows_from_the_table(name, tmp_path, monkeypatch):
    entry = scorers.SCORERS[name]
    section, evaluate = config.ScoreSync(backend=name), config.Evaluate(sync_backend=name)
    assert gpu_lease.wanted("score_sync", section) == gpu_lease.wanted("evaluate", evaluate) == entry.gpu
    assert SCALES[name] == entry.scale
    assert STAND_INS.get(name) == (entry.stand_in and f"sync was scored by {entry.stand_in}")
    cfg = config.Config.model_construct(**{**dict(config.Config()), "score_sync": section, "evaluate": evaluate})
    read = required.by_step(cfg)
    asked = [(part, key) for step in ("score_sync", "evaluate") for part, _, key in read[step] if "sync" in key]
    keys = [f"score_sync.backend: {name}", f"evaluate.sync_backend: {name}"]
    assert asked == ([(entry.weights, key) for key in keys] if entry.weights else [])
    if entry.weights:
        assert registry.entry(entry.weights).what
        monkeypatch.setenv("LATENTSYNC_WEIGHTS", str(tmp_path))
        with pytest.raises(ValueError, match=f"is missing.*needed by evaluate.sync_backend: {name}"):
            scorers.open_scorer(name, None, 15, "evaluate.sync_backend")


def test_weights_of_both_steps_are_looked_for(tmp_path, monkeypatch):
    """A path for score_sync does not hide that evaluate's file is missing; one file for both is named once."""
    monkeypatch.setenv("LATENTSYNC_WEIGHTS", str(tmp_path))
    with pytest.raises(ValueError) as error:
        required.check(
            config.validate({"score_sync": {"weights": "nowhere.model"}, "train_unet_stage1": {"init": None}})
        )
    assert "nowhere.model is missing" in str(error.value)
    assert "syncnet_v2, for evaluate.sync_backend: syncnet_v2" in str(error.value)
    with pytest.raises(ValueError) as error:
        required.check(config.Config())
    assert str(error.value).count("auxiliary/syncnet_v2.model") == 1


def test_the_table_is_imported_without_torch():
    code = "import sys; import latentsync.sync.scorers; sys.exit('torch' in sys.modules or 'cv2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def talking(offset: int, n: int = 100) -> scorers.Track:
    """Frames as bright as the mouth is open, `offset` frames late; the audio goes on for 40 ticks on both sides."""
    rng = np.random.default_rng(3)
    tune = toys.opening_tune(n + 80, rng)
    audio = toys.speech(tune, rng)
    shown = tune[40 - offset : 40 - offset + n]

    def samples(start: int, stop: int) -> np.ndarray:
        return audio[40 * 640 + start : 40 * 640 + stop]

    crops = np.broadcast_to((30 + 200 * shown).astype(np.uint8)[:, None, None, None], (n, 32, 32, 3)).copy()
    return scorers.Track(n, samples, (-40, n + 40), opening=0.2 * shown, crops=crops)


@pytest.fixture
def rigged(monkeypatch):
    net = Rigged()
    monkeypatch.setattr(syncnet, "load", lambda path: (net, config.TrainSyncnet(frames=16, resolution=32)))
    return scorers.SCORERS["stable_syncnet"].open(Path(), 15)


@pytest.mark.parametrize("offset", [-6, 0, 5])
def test_two_scorers_agree_on_a_track(rigged, offset):
    for scorer in (rigged, scorers.SCORERS["envelope"].open(None, 15)):
        curve_at = scorer(talking(offset))
        found, _ = curves.peak(curve_at(0))
        assert abs(found - offset) <= 1 and abs(curves.peak(curve_at(found))[0]) <= 1


def test_windows_with_a_frame_of_no_face_do_not_count(rigged):
    whole = talking(4)
    has_face = np.ones(100, bool)
    has_face[40:60] = False
    spoiled = whole.crops.copy()
    spoiled[40:60] = np.random.default_rng(0).integers(0, 256, (20, 1, 1, 1), np.uint8)
    parts = [scorers.Track(100, whole.samples, whole.recorded, crops=crops, has_face=has_face)
             for crops in (whole.crops, spoiled)]  # fmt: skip
    curve, other = (rigged(track)(0) for track in parts)
    np.testing.assert_array_equal(curve, other)
    assert abs(curves.peak(curve)[0] - 4) <= 1
    assert not np.array_equal(curve, rigged(whole)(0))
    none = scorers.Track(100, whole.samples, whole.recorded, crops=spoiled, has_face=np.arange(100) % 16 > 0)
    assert not rigged(none)(0).any()


def test_distances_of_windows_that_do_not_count_are_left_out():
    rng = np.random.default_rng(0)
    audio = rng.standard_normal((40, 16))
    video = np.roll(audio, 3, axis=0)
    video[10:14] = 1e3
    counted = np.ones(40, bool)
    counted[10:14] = False
    assert curves.peak(curves.distance_curve(video, audio, 15, counted))[0] == 3
    wanted = curves.distances(video, audio, 15)[:, counted].mean(1)
    np.testing.assert_allclose(curves.mean_distances(video, audio, 15, counted), wanted)


def test_syncnet_v2_counts_windows_of_five_faces(monkeypatch):
    from latentsync.models import syncnet_v2

    class Net:
        def to(self, _):
            return self

    monkeypatch.setattr(syncnet_v2, "load", lambda path: Net())
    monkeypatch.setattr(syncnet_v2, "embed_frames", lambda net, bgr, n: bgr[:n, 0, 0, :1].astype(np.float64))
    monkeypatch.setattr(syncnet_v2, "embed_audio", lambda net, mfcc, n: np.arange(n)[:, None].astype(np.float64))
    crops = np.broadcast_to(np.arange(30, dtype=np.uint8)[:, None, None, None], (30, 8, 8, 3)).copy()
    crops[12] = 255
    track = scorers.Track(30, lambda start, stop: np.zeros(stop - start, np.float32), (0, 30), crops=crops)
    has_face = np.arange(30) != 12
    scorer = scorers.SCORERS["syncnet_v2"].open(Path(), 3)
    known = scorers.Track(30, track.samples, (0, 30), crops=crops, has_face=has_face)
    assert known.whole_windows(25, 5).tolist() == [not 8 <= start <= 12 for start in range(25)]
    assert curves.peak(scorer(known)(0))[1] != curves.peak(scorer(track)(0))[1]
    assert track.whole_windows(-2, 5).shape == (0,)
