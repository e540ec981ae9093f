"""Which clips stay, who belongs together, who goes where: plain functions on rows, no files.

Order of reasons, most fundamental first; a row gets the first that applies, `detail` tells of the others:
duplicate, small_face, low_quality, too_short, low_sync, large_offset. A bad picture is looked at first: noise makes
false cuts, so its pieces are short, and a short or bad piece cannot score well in sync. Reasons of earlier steps
(unreadable, no_face, no_audio) stand.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from latentsync.config import SelectClips
from latentsync.ops.timing import TICKS_PER_S
from latentsync.records import Row

SPLITS = ("train", "val", "test")
# reason -> the key of select_clips that causes it
KEYS = {
    "small_face": "min_face_px",
    "low_quality": "min_quality",
    "too_short": "min_s",
    "low_sync": "min_sync_confidence",
    "large_offset": "max_offset_frames",
}
MIN_GROUPS = 3  # fewer cannot give three splits
TWO_TEST_GROUPS_FROM = 6  # with so many groups, test holds at least two, so that pairs cross groups


def applied_offset(row: Row, cfg: SelectClips) -> int:
    """The offset to apply to a clip: what was measured where that is trustworthy, else 0."""
    return row["sync_offset_frames"] if row["sync_confidence"] >= cfg.min_offset_confidence else 0


def judge(row: Row, cfg: SelectClips) -> list[tuple[str, str]]:
    """Every (reason, sentence) for which the thresholds refuse a clip, in the order above; empty: it stays.

    An offset counts as large only where it would be applied: below min_offset_confidence it is noise.
    """
    length_s = (row["end_tick"] - row["start_tick"]) / TICKS_PER_S
    offset = applied_offset(row, cfg)
    lowest = [
        ("small_face", row["face_px"], cfg.min_face_px, "the face is {:.1f} px wide, the least allowed is {:g} px"),
        ("low_quality", row["quality"], cfg.min_quality, "the quality is {:.1f}, the least allowed is {:g}"),
        ("too_short", length_s, cfg.min_s, "the clip lasts {:.2f} s, the shortest allowed is {:g} s"),
        (
            "low_sync",
            row["sync_confidence"],
            cfg.min_sync_confidence,
            "the sync confidence is {:.2f}, the least allowed is {:g}",
        ),
    ]
    found = [
        (reason, text.format(value, limit))
        for reason, value, limit, text in lowest
        if limit is not None and value < limit
    ]
    if cfg.max_offset_frames is not None and abs(offset) > cfg.max_offset_frames:
        text = f"the offset is {offset:+d} frames, the largest allowed is {cfg.max_offset_frames}"
        found.append(("large_offset", text))
    return found


def duplicates(rows: Iterable[Row]) -> dict[str, str]:
    """Source id of every repeated file -> source id of the file that is kept: of equal contents the first by id."""
    first: dict[str, str] = {}
    contents = {row["source_id"]: row["sha256"] for row in rows if row.get("sha256")}
    for source, content in sorted(contents.items()):
        first.setdefault(content, source)
    return {source: first[content] for source, content in contents.items() if first[content] != source}


def group_of(rows: Iterable[Row], speakers: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Source id -> its group as the sorted names that it unites; the first of them is the group's name.

    A source's name is its speaker where `speakers` (path -> speaker) knows the path, else its own id. Equal files unite
    the names they stand under, so that one picture never lies in two splits.
    """
    name, content = {}, {}
    for row in rows:
        name[row["source_id"]] = speakers.get(row["path"], row["source_id"])
        if row.get("sha256"):
            content.setdefault(row["sha256"], set()).add(row["source_id"])
    united = {each: {each} for each in name.values()}
    for members in content.values():
        together = set().union(*(united[name[source]] for source in members))
        for each in together:
            united[each] = together
    return {source: tuple(sorted(united[each])) for source, each in name.items()}


def rank(group: Sequence[str]) -> str:
    """Sorting by this shuffles groups, always in the same way."""
    return hashlib.sha256(group[0].encode("utf-8", "surrogateescape")).hexdigest()


def assign(
    groups: Iterable[tuple[str, ...]], stored: Mapping[str, str], val_share: float, test_share: float
) -> dict[tuple[str, ...], str]:
    """Group -> split. Whoever stands in `stored` (name -> split) stays; newcomers fill test, then val, then train.

    Newcomers go by rank. test and val aim at their shares of all groups and hold at least one group each (test two,
    from six groups on). Only where a split would be empty does a group move: the last by rank of the largest split.
    """
    ranked = sorted(set(groups), key=rank)
    assert len(ranked) >= MIN_GROUPS, ranked
    n_test = max(2 if len(ranked) >= TWO_TEST_GROUPS_FROM else 1, round(test_share * len(ranked)))
    n_val = max(1, round(val_share * len(ranked)))
    n_test = max(1, min(n_test, len(ranked) - 1 - n_val))
    n_val = max(1, min(n_val, len(ranked) - 1 - n_test))
    result = {group: next((stored[name] for name in group if name in stored), None) for group in ranked}
    for split, wanted in (("test", n_test), ("val", n_val), ("train", len(ranked))):
        missing = wanted - sum(value == split for value in result.values())
        for group in [group for group in ranked if result[group] is None][: max(0, missing)]:
            result[group] = split
    for split in ("test", "val", "train"):
        if split not in result.values():
            members = {other: [g for g in ranked if result[g] == other] for other in SPLITS}
            result[max(members.values(), key=len)[-1]] = split
    return result


def pair(test_rows: Sequence[Row], max_pairs: int) -> list[Row]:
    """Picture and sound of every video to generate.

    The test sources in the order of their ids, at most `max_pairs`: each with its own sound, and with the sound of the
    next one, cyclic, of another group. Where all are of one group the next must do; a lone one has no cross pair.
    """
    first: dict[str, Row] = {}
    clips: dict[str, list[str]] = {}
    for row in sorted(test_rows, key=lambda row: row["id"]):
        first.setdefault(row["source_id"], row)
        clips.setdefault(row["source_id"], []).append(row["id"])
    chosen = [first[source] for source in sorted(first)][:max_pairs]
    pairs = []
    for number, picture in enumerate(chosen):
        following = chosen[number + 1 :] + chosen[:number]
        foreign = [row for row in following if row["group"] != picture["group"]]
        sounds = [("own", picture)] + [("cross", row) for row in (foreign or following)[:1]]
        for kind, sound in sounds:
            pairs.append(
                {
                    "id": f"{picture['source_id']}--{sound['source_id']}",
                    "kind": kind,
                    "picture_id": picture["source_id"],
                    "picture_path": picture["path"],
                    "picture_group": picture["group"],
                    "picture_clips": clips[picture["source_id"]],
                    "sound_id": sound["source_id"],
                    "sound_path": sound["path"],
                    "sound_group": sound["group"],
                    "audio_file": sound["audio_file"],
                }
            )
    return pairs
