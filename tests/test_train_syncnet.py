"""Pairs are what they claim, the threshold is the best one, and the net leaves the coin flip of ln 2."""

import csv
import math

import numpy as np
import pytest
import torch
import toys

from latentsync import records
from latentsync.config import SyncNetEncoder, TrainSyncnet
from latentsync.data.clips import ClipStore, to_pixels
from latentsync.models import syncnet, weights
from latentsync.ops import losses as ops
from latentsync.ops.timing import mel_start
from latentsync.steps import train_syncnet

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
    return ClipStore(records.read_ledger(folder / "select_clips/train.jsonl"), folder)


def run(folder, cfg, name="train_syncnet"):
    outputs = {"weights": folder / name / "syncnet.safetensors", "curve": folder / name / "curve.csv"}
    train_syncnet.run(cfg, toys.ledgers(folder, "train", "val"), outputs, None)
    return outputs


def test_negatives_lie_in_the_ring():
    for start in range(25):
        away = train_syncnet.negative_starts(start, 25, 5, 15)
        assert all(5 <= abs(other - start) <= 15 and 0 <= other < 25 for other in away)
        assert len(away) == sum(5 <= abs(other - start) <= 15 for other in range(25))
    assert list(train_syncnet.negative_starts(1, 4, 1, None)) == [0, 2, 3], "published: any other start"


def test_both_of_a_pair_share_their_sound_and_one_fits_it(clips):
    for number in range(30):
        index = number % len(clips)
        one, other = (
            train_syncnet.draw_pair(CFG, clips, index, np.random.default_rng(number), in_sync)
            for in_sync in (True, False)
        )
        assert np.array_equal(one["mel"], other["mel"]) and (one["y"], other["y"]) == (1, 0)
        mel, frames = clips.mel(index), clips.frames(index, 0, 40)
        starts = range(40 - 8 + 1)
        heard = [s for s in starts if np.array_equal(mel[None, :, mel_start(s) : mel_start(s) + 26], one["mel"])]
        seen = [s for s in starts if np.array_equal(train_syncnet.lower_halves(frames[s : s + 8], 32), one["visual"])]
        assert heard and seen == heard
        seen = [s for s in starts if np.array_equal(train_syncnet.lower_halves(frames[s : s + 8], 32), other["visual"])]
        assert 5 <= abs(seen[0] - heard[0]) <= 15


def test_the_shortest_clip_that_has_a_negative_is_enough(folder, clips):
    row = clips.rows[0] | {"end_tick": clips.rows[0]["start_tick"] + 8 + 5}
    for seed in range(20):
        train_syncnet.draw_pair(CFG, ClipStore([row], folder), 0, np.random.default_rng(seed), in_sync=False)


def test_the_net_sees_what_stage_2_will_show_it(clips):
    pixels = torch.from_numpy(to_pixels(clips.frames(0, 3, 11)))[None]
    shown = ops.frames_on_channels(ops.lower_half(pixels))[0].numpy()
    assert np.array_equal(shown, train_syncnet.lower_halves(clips.frames(0, 3, 11), 64))


def test_augmentation_is_off_by_default_and_stays_in_range(clips):
    pair = train_syncnet.draw_pair(CFG, clips, 0, np.random.default_rng(0), in_sync=True)
    rng = np.random.default_rng
    assert np.array_equal(train_syncnet._jitter(pair["visual"], rng(0), CFG), pair["visual"])
    strong = CFG.model_copy(update={"colour_jitter": 0.3, "shift_px": 2})
    changed = train_syncnet._jitter(pair["visual"], rng(0), strong)
    assert changed.shape == pair["visual"].shape and changed.min() >= -1 and changed.max() <= 1
    assert not np.array_equal(changed, pair["visual"])
    assert not np.array_equal(changed, train_syncnet._jitter(pair["visual"], rng(1), strong))


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
    tensors, metadata = weights.load(outputs["weights"])
    net = syncnet.build(TrainSyncnet.model_validate(metadata["config"]))
    weights.load_strictly(net, tensors, "the file")
    assert 0 <= metadata["threshold"] <= 1 and metadata["threshold_from"] == "val"
    held_out = ClipStore(records.read_ledger(folder / "select_clips/val.jsonl"), folder)
    cosines, y = train_syncnet.cosines_of(net, CFG, held_out)
    assert len(y) == 256 and y.sum() == 128
    assert ((cosines > metadata["threshold"]) == y).mean() == pytest.approx(metadata["threshold_accuracy"])


@pytest.mark.slow
def test_it_leaves_the_coin_flip(folder):
    outputs = run(
        folder,
        CFG.model_copy(
            update={
                "steps": 200,
                "batch_size": 16,
                "save_every": 1000,
                "log_every": 20,
                "gradient_checkpointing": False,
                "learning_rate": 2e-3,
                "warmup_steps": 20,
            }
        ),
        "longer",
    )
    rows = list(csv.DictReader(outputs["curve"].open()))
    assert float(rows[-1]["sync"]) < 0.75 * math.log(2)
    assert float(rows[-1]["val_best"]) > 0.65


def test_clips_too_short_are_one_sentence(folder):
    with pytest.raises(ValueError, match=r"Too little data for train_syncnet: 0 of 8 clips have the 47 frames .* 40\)"):
        run(folder, CFG.model_copy(update={"min_negative_frames": 39, "max_negative_frames": None}), "short")
