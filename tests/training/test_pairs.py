"""Pairs that judge a SyncNet: balanced, near in time, and foreign ones for the control."""

import numpy as np

from latentsync.training import pairs as drawn
from latentsync.training.clips import ClipStore
from tests import toys


def test_pairs_are_balanced_near_and_foreign(tmp_path):
    rows = [toys.clip(tmp_path, number, number // 2, n_frames=40) for number in range(4)]
    clips, groups = ClipStore(rows, tmp_path), [row["group"] for row in rows]
    pairs, shuffled = drawn.draw(clips, groups, 16, 60, 5, 15, seed=0)
    assert len(pairs) == len(shuffled) == 60 and sum(p.in_sync for p in pairs) == 30
    assert all(p.clip == p.sound_clip for p in pairs)
    assert all((p.picture == p.sound) if p.in_sync else 5 <= abs(p.picture - p.sound) <= 15 for p in pairs)
    assert all(groups[p.clip] != groups[p.sound_clip] for p in shuffled)
    assert [(p.clip, p.picture, p.in_sync) for p in shuffled] == [(p.clip, p.picture, p.in_sync) for p in pairs]
    visual, mel = next(drawn.batches(clips, pairs, 16, 64))
    assert visual.shape == (32, 48, 32, 64) and mel.shape == (32, 1, 80, 52)
    face = clips.frames(pairs[0].clip, pairs[0].picture, pairs[0].picture + 1)[0, 32:].astype(np.float32) / 127.5 - 1
    np.testing.assert_allclose(visual[0, :3], face.transpose(2, 0, 1), atol=1e-6)
    assert drawn.draw(clips, groups, 38, 60, 5, 15, seed=0) == ([], [])
    assert drawn.draw(clips, ["one"] * 4, 16, 4, 5, 15, seed=0)[1] == []
