"""Which clips stay, who belongs together, who goes where: plain functions on rows, no files.

LIMITS is the one table of thresholds: select_clips judges by it, the funnel, the report and its what-if tables read it.
It stands in the order of reasons, most fundamental first; a row gets the first that applies, `detail` tells of the
others. A bad picture is looked at first: noise makes false cuts, so its pieces are short, and a short or bad piece
cannot score well in sync. Reasons of earlier steps (unreadable, no_face, no_audio) stand.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from latentsync.config import SelectClips
from latentsync.ops.timing import TICKS_PER_S
from latentsync.records import Row

SPLITS = ("train", "val", "test")
MIN_GROUPS = 3  # fewer cannot give three splits
TWO_TEST_GROUPS_FROM = 6  # with so many groups, test holds at least two, so that pairs cross groups


@dataclass(frozen=True)
class Limit:
    """One threshold of select_clips: what it judges, and how that is told."""

    key: str  # of SelectClips; None there switches it off
    column: str  # of a clip's row, or length_s
    least: bool  # True: values below the limit are refused; False: absolute values above it
    reason: str  # of records.REASONS
    sentence: str  # of value and limit
    title: str  # of the column, for the page
    axis: str  # unit and direction, for the page
    signed: bool = False  # the column may be negative; an upper limit then bounds both sides


LIMITS = (
    Limit(
        "min_face_px",
        "face_px",
        True,
        "small_face",
        "the face is {:.1f} px wide, the least allowed is {:g} px",
        "Face width",
        "pixels of the source",
    ),
    Limit(
        "min_quality",
        "quality",
        True,
        "low_quality",
        "the quality is {:.1f}, the least allowed is {:g}",
        "Picture quality",
        "quality, higher is better",
    ),
    Limit(
        "min_s",
        "length_s",
        True,
        "too_short",
        "the clip lasts {:.2f} s, the shortest allowed is {:g} s",
        "Clip length",
        "seconds",
    ),
    Limit(
        "min_sync_confidence",
        "sync_confidence",
        True,
        "low_sync",
        "the sync confidence is {:.2f}, the least allowed is {:g}",
        "Sync confidence",
        "confidence",
    ),
    Limit(
        "max_offset_frames",
        "sync_offset_frames",
        False,
        "large_offset",
        "the offset is {:+d} frames, the largest allowed is {:g}",
        "Offset between picture and sound",
        "frames at 25 fps; above 0 the picture is late",
        signed=True,
    ),
)
COLUMNS = tuple(dict.fromkeys(limit.column for limit in LIMITS))
ORDER = ("duplicate", *dict.fromkeys(limit.reason for limit in LIMITS))  # of reasons that are given to clips


def limits_of(reason: str) -> list[Limit]:
    """The thresholds that cause a reason; none for a reason that no threshold causes."""
    return [limit for limit in LIMITS if limit.reason == reason]


def length_s(row: Row) -> float:
    """Length of a clip or segment, seconds."""
    return (row["end_tick"] - row["start_tick"]) / TICKS_PER_S


def applied_offset(row: Row, cfg: SelectClips) -> int:
    """The offset to apply to a clip: what was measured where that is trustworthy, else 0."""
    return row["sync_offset_frames"] if row["sync_confidence"] >= cfg.min_offset_confidence else 0


def judge(row: Row, cfg: SelectClips) -> list[tuple[str, str]]:
    """Every (reason, sentence) for which the thresholds refuse a clip, in the order of LIMITS; empty: it stays.

    An offset counts as large only where it would be applied: below min_offset_confidence it is noise.
    """
    known = {"length_s": length_s(row), "sync_offset_frames": applied_offset(row, cfg)}
    found = []
    for each in LIMITS:
        limit = getattr(cfg, each.key)
        if limit is None:
            continue
        value = known[each.column] if each.column in known else row[each.column]
        if value < limit if each.least else abs(value) > limit:
            found.append((each.reason, each.sentence.format(value, limit)))
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
