"""Which videos are generated: pairs of a video and an audio, and which of them once more as a control. Plain rows.

A pair belongs to one of select_clips.pair_shards shards, by its video: both pairs of a video share a shard, so its
faces are tracked once. The columns `picture_*` are about the video, `sound_*` about the source of the audio.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from latentsync.ledger.columns import Clip, Pair
from latentsync.ledger.rows import Row, shard_of

SUFFIXES = {"ours": "", "unenhanced": "-unenhanced", "untrained": "-untrained"}  # of ids and file names, by system


def pair(test_rows: Sequence[Clip], max_pairs: int) -> list[Pair]:
    """Video and audio of every pair, sorted by video; at most `max_pairs` test sources, in the order of their ids.

    Each source is paired with its own audio (kind own), and with the audio of the next source of another group, cyclic
    (kind cross); if all are of one group, with that of the next source. A single source has no cross pair.
    `cross_rank` numbers the cross pairs from 0 in the order of their ids; None for own pairs.
    """
    first: dict[str, Clip] = {}
    clips: dict[str, list[str]] = {}
    for row in sorted(test_rows, key=lambda row: row["id"]):
        first.setdefault(row["source_id"], row)
        clips.setdefault(row["source_id"], []).append(row["id"])
    chosen = [first[source] for source in sorted(first)][:max_pairs]
    pairs: list[Any] = []
    for number, video in enumerate(chosen):
        following = chosen[number + 1 :] + chosen[:number]
        foreign = [row for row in following if row["group"] != video["group"]]
        audios = [("own", video)] + [("cross", row) for row in (foreign or following)[:1]]
        for kind, audio in audios:
            pairs.append(
                {
                    "id": f"{video['source_id']}--{audio['source_id']}",
                    "kind": kind,
                    "cross_rank": None,
                    "picture_id": video["source_id"],
                    "picture_path": video["path"],
                    "picture_group": video["group"],
                    "picture_clips": clips[video["source_id"]],
                    "sound_id": audio["source_id"],
                    "sound_path": audio["path"],
                    "sound_group": audio["group"],
                    "audio_file": audio["audio_file"],
                    "audio_track": audio["audio_track"],
                }
            )
    cross = sorted((row for row in pairs if row["kind"] == "cross"), key=lambda row: row["id"])
    for rank, row in enumerate(cross):
        row["cross_rank"] = rank
    return pairs


def by_shard(pairs: Sequence[Pair], shards: int) -> list[list[Pair]]:
    """The pairs of each shard; a shard may be empty."""
    result: list[list[Pair]] = [[] for _ in range(shards)]
    for row in pairs:
        result[int(shard_of(row["picture_id"], shards))].append(row)
    return result


def videos(pairs: Sequence[Pair], again: Mapping[str, int]) -> list[Row]:
    """One row per video to generate, sorted by source video: every pair, and the first cross pairs by other systems.

    `again`: how many, by system; counted over all shards, by `cross_rank`. The rank itself is left out of the rows: it
    changes when a pair is added, and a video that depends on it would be generated again.
    """
    result = []
    for row in sorted(pairs, key=lambda row: (row["picture_id"], row["id"])):
        rank, columns = row["cross_rank"], {name: value for name, value in row.items() if name != "cross_rank"}
        for system, suffix in SUFFIXES.items():
            if system == "ours" or (rank is not None and rank < again.get(system, 0)):
                state = {"status": "ok", "reason": None, "detail": ""}
                result.append(columns | state | {"pair_id": row["id"], "id": row["id"] + suffix, "system": system})
    return result
