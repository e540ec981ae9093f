"""Items of training: every clip once an epoch, augmentation alike for all frames, pairs that judge a SyncNet."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from latentsync.training import data
from latentsync.training.clips import ClipStore
from tests import toys


def test_samples_are_visited_once_per_epoch():
    sampler = data.EpochSampler(7, seed=3)
    epochs = [[sampler(number) for number in range(7 * epoch, 7 * epoch + 7)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs) and epochs[0] != epochs[1]
    assert data.EpochSampler(7, seed=3)(15) == epochs[2][1], "any number can be asked for first"
    with ThreadPoolExecutor(4) as threads:
        shared = list(threads.map(sampler, [n for k in range(500) for n in (k % 7, 7 + k % 7)]))
    assert shared == [number for k in range(500) for number in (epochs[0][k % 7], epochs[1][k % 7])]


def test_augmentation_changes_all_frames_alike():
    pixels = np.random.default_rng(0).uniform(-0.5, 0.5, (3, 2, 16, 16)).astype(np.float32)
    pixels[:, 1] = pixels[:, 0]
    for change, strength in ((data.recolour, 0.3), (data.move, 3)):
        assert np.array_equal(change(pixels, 0, np.random.default_rng(1)), pixels), "off"
        one, again, other = (change(pixels, strength, np.random.default_rng(seed)) for seed in (1, 1, 2))
        assert np.array_equal(one, again) and not np.array_equal(one, other)
        assert np.array_equal(one[:, 0], one[:, 1]) and one.shape == pixels.shape and np.abs(one).max() <= 1
    moved = data.move(pixels, 3, np.random.default_rng(1))
    assert any(
        np.array_equal(moved[..., 4:-4, 4:-4], pixels[..., 4 + y : 12 + y, 4 + x : 12 + x])
        for y in range(-3, 4)
        for x in range(-3, 4)
    )


def test_pairs_are_balanced_near_and_foreign(tmp_path):
    rows = [toys.clip(tmp_path, number, number // 2, n_frames=40) for number in range(4)]
    clips, groups = ClipStore(rows, tmp_path), [row["group"] for row in rows]
    pairs, shuffled = data.draw_pairs(clips, groups, 16, 60, 5, 15, seed=0)
    assert len(pairs) == len(shuffled) == 60 and sum(p.in_sync for p in pairs) == 30
    assert all(p.clip == p.audio_clip for p in pairs)
    assert all((p.start == p.audio_start) if p.in_sync else 5 <= abs(p.start - p.audio_start) <= 15 for p in pairs)
    assert all(groups[p.clip] != groups[p.audio_clip] for p in shuffled)
    assert [(p.clip, p.start, p.in_sync) for p in shuffled] == [(p.clip, p.start, p.in_sync) for p in pairs]
    visual, mel = next(data.pair_batches(clips, pairs, 16, 64))
    assert visual.shape == (32, 48, 32, 64) and mel.shape == (32, 1, 80, 52)
    face = clips.frames(pairs[0].clip, pairs[0].start, pairs[0].start + 1)[0, 32:].astype(np.float32) / 127.5 - 1
    np.testing.assert_allclose(visual[0, :3], face.transpose(2, 0, 1), atol=1e-6)
    assert data.draw_pairs(clips, groups, 38, 60, 5, 15, seed=0) == ([], [])
    assert data.draw_pairs(clips, ["one"] * 4, 16, 4, 5, 15, seed=0)[1] == []
