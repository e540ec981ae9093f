"""Pairs of video and audio: who is paired with whom, in which shard, and which are generated again as controls."""

from latentsync.curation.pairs import by_shard, pair, videos
from latentsync.ledger.rows import clip_id, shard_of, source_id


def clip(path: str, group: str, start: int = 0) -> dict:
    source = source_id(path)
    row = {"id": clip_id(source, start, start + 50, 0), "source_id": source, "path": path, "group": group}
    return row | {"audio_file": f"resample/media/{source}.flac", "audio_track": 1}


def test_pairs_are_cyclic_and_limited():
    rows = [clip(f"{k}.mp4", "AAB"[k % 3], start) for k in range(6) for start in (0, 50)]
    pairs = pair(rows, 4)
    order = sorted({row["source_id"] for row in rows})[:4]
    group = {row["source_id"]: row["group"] for row in rows}
    assert [row["picture_id"] for row in pairs] == [source for source in order for _ in range(2)]
    for own, cross in zip(pairs[::2], pairs[1::2], strict=True):
        assert own["kind"] == "own" and own["picture_id"] == own["sound_id"] and own["cross_rank"] is None
        assert cross["id"] == f"{cross['picture_id']}--{cross['sound_id']}"
        at = order.index(cross["picture_id"])
        following = [*order[at + 1 :], *order[:at]]
        assert cross["sound_id"] == next(s for s in following if group[s] != group[cross["picture_id"]])
        assert cross["audio_file"] == f"resample/media/{cross['sound_id']}.flac"
        assert len(cross["picture_clips"]) == 2


def test_within_one_group_the_next_source_is_used():
    cross = [row for row in pair([clip(f"{k}.mp4", "A") for k in range(3)], 10) if row["kind"] == "cross"]
    assert len(cross) == 3 and all(row["picture_id"] != row["sound_id"] for row in cross)


def test_both_pairs_of_a_video_share_its_shard():
    pairs = pair([clip(f"{k}.mp4", str(k)) for k in range(12)], 12)
    shards = by_shard(pairs, 5)
    assert len(shards) == 5
    assert sorted(row["id"] for rows in shards for row in rows) == sorted(row["id"] for row in pairs)
    for number, rows in enumerate(shards):
        assert {shard_of(row["picture_id"], 5) for row in rows} <= {f"{number:05d}"}
        assert sum(row["kind"] == "own" for row in rows) == sum(row["kind"] == "cross" for row in rows)
    assert sorted(map(len, by_shard(pairs[:2], 99))) == [0] * 98 + [2]


def test_controls_are_the_first_cross_pairs_however_many_shards():
    pairs = pair([clip(f"{k}.mp4", str(k)) for k in range(12)], 12)
    alone = videos(pairs, {"untrained": 4, "unenhanced": 2})
    first = sorted(row["id"] for row in pairs if row["kind"] == "cross")[:4]
    assert [row["pair_id"] for row in alone if row["system"] == "untrained"] == first
    assert [row["pair_id"] for row in alone if row["system"] == "unenhanced"] == first[:2]
    again = {f"{ident}-untrained" for ident in first} | {f"{ident}-unenhanced" for ident in first[:2]}
    assert {row["id"] for row in alone} == {row["id"] for row in pairs} | again
    shared = [row for rows in by_shard(pairs, 5) for row in videos(rows, {"untrained": 4, "unenhanced": 2})]
    assert sorted(shared, key=lambda row: row["id"]) == sorted(alone, key=lambda row: row["id"])


def test_another_pair_changes_no_row_of_the_others():
    """A row is what a video depends on: if it changed, the video would be generated again."""
    rows = [clip(f"{k}.mp4", str(k)) for k in range(8)]
    last = max(rows, key=lambda row: row["id"])
    before = {row["id"]: row for row in videos(pair([row for row in rows if row != last], 9), {})}
    after = {row["id"]: row for row in videos(pair(rows, 9), {})}
    kept = before.keys() & after.keys()
    assert len(kept) == len(before) - 1  # the cyclic neighbour of the new source gets its audio
    assert {ident: after[ident] for ident in kept} == {ident: before[ident] for ident in kept}
