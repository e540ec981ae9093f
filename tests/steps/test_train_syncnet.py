"""Pairs are what they claim, the threshold is the best one, and the net leaves the coin flip of ln 2."""

import csv
import math

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState

from latentsync.config import SyncNetEncoder, TrainSyncnet
from latentsync.faces.crop import lower_halves, to_pixels
from latentsync.ledger.files import read_ledger
from latentsync.models import syncnet
from latentsync.steps import train_syncnet
from latentsync.timing import mel_start
from latentsync.training import losses as ops
from latentsync.training.clips import ClipStore
from latentsync.training.data import draw_pairs
from latentsync.weights import files as weight_files
from tests import toys

CFG = TrainSyncnet(
    steps=4, batch_size=4, learning_rate=1e-3, mixed_precision="no", gradient_checkpointing=True, log_every=2,
    save_every=2, torch_threads=1, frames=8, resolution=32, min_negative_frames=5, max_negative_frames=15,
    visual=SyncNetEncoder(
        in_channels=24, block_out_channels=(16, 32, 32, 64, 128),
        downsample_factors=((1, 2), 2, 2, 2, 2), attn_blocks=(False,) * 5,
    ),
    audio=SyncNetEncoder(
        in_channels=1, block_out_channels=(16, 32, 32, 64, 64, 128),
        downsample_factors=((2, 1), 2, 2, 2, 2, (2, 1)), attn_blocks=(False,) * 6,
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return toys.run_folder(tmp_path_factory.mktemp("run"), n_frames=40)


@pytest.fixture
def clips(folder):
    return ClipStore(read_ledger(folder / "select_clips/train.jsonl"), folder)


def run(folder, cfg, name="train_syncnet"):
    outputs = {"weights": folder / name / "syncnet.safetensors", "curve": folder / name / "curve.csv"}
    train_syncnet.run(cfg, toys.ledgers(folder, "train", "val"), outputs, None)
    return outputs


def test_every_window_of_a_group_has_a_negative():
    for windows, n_starts in ((2, 6), (2, 40), (3, 16), (4, 16), (4, 90)):
        cfg = CFG.model_copy(update={"windows_per_clip": windows})
        for seed in range(50):
            starts = np.array(train_syncnet.draw_starts(cfg, n_starts, np.random.default_rng(seed)))
            assert len(starts) == windows and starts.min() >= 0 and starts.max() < n_starts
            away = np.abs(starts[:, None] - starts)
            assert ((away >= 5) & (away <= 15)).any(1).all()
    everything = [train_syncnet.draw_starts(CFG, 40, np.random.default_rng(seed))[0] for seed in range(600)]
    assert set(everything) == set(range(40))


def test_published_negatives_are_any_other_start():
    published = TrainSyncnet()
    seen = {tuple(train_syncnet.draw_starts(published, 4, np.random.default_rng(seed))) for seed in range(200)}
    assert seen == {(a, b) for a in range(4) for b in range(4) if a != b}


class Lengths(ClipStore):
    """As many clips as there are lengths; nothing to see or hear."""

    def __init__(self, lengths):
        self.lengths = lengths

    def __len__(self):
        return len(self.lengths)

    def n_frames(self, index):
        return self.lengths[index]


def test_pairs_are_spread_over_all_clips_however_many():
    for n_clips, n, clips in ((3, 10, [0, 1, 2, 0, 1]), (5, 10, [0, 1, 2, 3, 4]), (100, 10, [0, 20, 40, 60, 80])):
        drawn, foreign = draw_pairs(Lengths([40] * n_clips), list("ab" * n_clips)[:n_clips], 8, n, 5, 15, seed=0)
        assert [pair.clip for pair in drawn] == [pair.clip for pair in foreign] == [i for i in clips for _ in range(2)]
    drawn, _ = draw_pairs(Lengths([40, 9] * 50), [""] * 100, 8, 20, 5, 15, seed=0)
    assert sorted({pair.clip for pair in drawn}) == list(range(0, 100, 10)), "only clips that are long enough"


def test_a_group_shares_its_clip_and_each_audio_fits_its_frame(clips):
    task = train_syncnet.task(CFG, torch.nn.Identity(), clips, clips)
    for group in range(12):
        members = [task.item(2 * group + n, np.random.default_rng(n)) for n in range(2)]
        assert {int(member["group"]) for member in members} == {group}
        for member in members:
            start = int(member["start"])
            fitting = [
                index
                for index in range(len(clips))
                if np.array_equal(member["visual"], lower_halves(clips.frames(index, start, start + 8), 32))
            ]
            mel = clips.mel(fitting[0])[:, mel_start(start) : mel_start(start) + 26]
            assert len(fitting) == 1 and np.array_equal(member["mel"][0], mel)


def test_the_loss_is_that_of_balanced_pairs():
    """Two groups; in the first all windows are negatives of one another, in the second only neighbours are."""
    cfg = CFG.model_copy(update={"windows_per_clip": 3, "batch_size": 6})
    task = train_syncnet.task(cfg, torch.nn.Identity(), _OneClip(), _OneClip())
    starts, groups = torch.tensor([0, 5, 15, 0, 10, 25]), torch.tensor([0, 0, 0, 1, 1, 1])
    visual, audio = (torch.nn.functional.normalize(torch.rand(6, 4) + 0.1, dim=1) for _ in range(2))
    batch = {"visual": visual, "mel": audio, "start": starts, "group": groups}
    loss = task.losses(lambda v, a: (v, a), batch, None)["sync"]
    cosine = (audio @ visual.T).clamp(0, 1)
    negatives = [(0, 1), (0, 2), (1, 2), (3, 4), (4, 5)]
    fails = [-math.log(1 - cosine[pair]) for a, b in negatives for pair in ((a, b), (b, a))]
    fits = [-math.log(cosine[n, n]) for n in range(6)]
    assert loss.item() == pytest.approx((np.mean(fits) + np.mean(fails)) / 2, rel=1e-4)


class _OneClip:
    rows: list = []

    def __len__(self):
        return 1


def test_the_net_sees_what_stage_2_will_show_it(clips):
    pixels = torch.from_numpy(to_pixels(clips.frames(0, 3, 11)))[None]
    shown = ops.frames_on_channels(ops.lower_half(pixels))[0].numpy()
    assert np.array_equal(shown, lower_halves(clips.frames(0, 3, 11), 64))


def test_augmentation_is_off_by_default_and_stays_in_range(clips):
    visual, rng = lower_halves(clips.frames(0, 0, 8), 32), np.random.default_rng
    assert np.array_equal(train_syncnet.jittered(visual, rng(0), CFG), visual)
    strong = CFG.model_copy(update={"colour_jitter": 0.3, "shift_px": 2})
    changed = train_syncnet.jittered(visual, rng(0), strong)
    assert changed.shape == visual.shape and changed.min() >= -1 and changed.max() <= 1
    assert not np.array_equal(changed, visual)
    assert not np.array_equal(changed, train_syncnet.jittered(visual, rng(1), strong))


@pytest.fixture(params=[pytest.param("fp16", marks=pytest.mark.needs_cuda), "bf16"])
def half(request):
    """A mixed precision; accelerate takes only one in the life of a process unless its state is reset."""
    AcceleratorState._reset_state()
    yield {"mixed_precision": request.param}
    AcceleratorState._reset_state()


def test_half_precision_trains(folder, half):
    rows = list(
        csv.DictReader(run(folder, CFG.model_copy(update=half | {"steps": 2}), half["mixed_precision"])["curve"].open())
    )
    assert all(0.3 < float(row[name]) < 3 for row in rows for name in ("sync", "val_sync"))


def test_the_best_threshold():
    cosines = np.array([0.1, 0.2, 0.3, 0.6, 0.4, 0.7, 0.8, 0.9])
    y = np.array([0, 0, 0, 0, 1, 1, 1, 1], bool)
    threshold, accuracy = train_syncnet.best_threshold(cosines, y)
    assert accuracy == 7 / 8 and ((cosines > threshold) == y).mean() == accuracy
    assert train_syncnet.best_threshold(np.array([0.2, 0.8]), np.array([False, True])) == (0.5, 1.0)


def test_outputs_carry_what_later_steps_need(folder):
    outputs = run(folder, CFG)
    rows = list(csv.DictReader(outputs["curve"].open()))
    assert [row["step"] for row in rows] == ["2", "4"]
    assert set(rows[0]) == {"step", "loss", "sync", "val_sync", "val_accuracy", "val_best"}
    tensors, metadata = weight_files.load(outputs["weights"])
    net = syncnet.build(TrainSyncnet.model_validate(metadata["config"]))
    weight_files.load_strictly(net, tensors, "the file")
    assert 0 <= metadata["threshold"] <= 1 and metadata["threshold_from"] == "val"
    held_out = ClipStore(read_ledger(folder / "select_clips/val.jsonl"), folder)
    cosines, y = train_syncnet.cosines_of(net, CFG, held_out)
    assert len(y) == 256 and y.sum() == 128
    assert ((cosines > metadata["threshold"]) == y).mean() == pytest.approx(metadata["threshold_accuracy"])


@pytest.mark.slow
def test_it_leaves_the_coin_flip(folder):
    longer = {"steps": 100, "batch_size": 16, "windows_per_clip": 3, "learning_rate": 1e-3, "warmup_steps": 20}
    quick = {"save_every": 100, "log_every": 25, "gradient_checkpointing": False}
    outputs = run(folder, CFG.model_copy(update=longer | quick), "longer")
    rows = list(csv.DictReader(outputs["curve"].open()))
    assert float(rows[-1]["sync"]) < 0.75 * math.log(2)
    assert float(rows[-1]["val_best"]) > 0.65


def test_clips_too_short_are_one_sentence(folder):
    with pytest.raises(ValueError, match=r"Too little data for train_syncnet: 0 of 8 clips have the 47 frames .* 40\)"):
        run(folder, CFG.model_copy(update={"min_negative_frames": 39, "max_negative_frames": None}), "short")
