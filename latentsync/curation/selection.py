"""Which clips are selected, how they are grouped, and which split a group goes to: functions on rows, no files.

LIMITS is the one table of thresholds: select_clips applies it, and funnel, report and what-if tables read it.
It is in the order of reasons, most fundamental first: a row gets the first reason that applies, and `detail` names the
others. What shows no person who talks comes first, then image quality: noise causes false cuts and so short segments,
and a short or bad clip cannot score well in sync. Reasons of earlier steps (unreadable, no_face, no_audio) are kept.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from latentsync.config import SelectClips
from latentsync.curation import duplicates as near
from latentsync.curation import footage
from latentsync.curation.footage import Match
from latentsync.ledger.columns import Clip
from latentsync.ledger.rows import Row, length_s

SPLITS = ("train", "val", "test")
MIN_GROUPS = 3  # fewer cannot give three splits
TWO_TEST_GROUPS_FROM = 6  # with so many groups, test holds at least two, so that pairs cross groups


@dataclass(frozen=True)
class Limit:
    """One threshold of select_clips: the column it applies to, and its wording."""

    key: str  # of SelectClips; null there disables it
    column: str  # of a clip's row, or length_s
    least: bool  # True: values below the limit are rejected; False: absolute values above it
    reason: str  # of ledger/columns.py
    sentence: str  # of value and limit
    title: str  # of the column, for the page
    axis: str  # unit and direction, for the page
    kept: str  # what the clips that pass are, for the funnel
    signed: bool = False  # the column may be negative; an upper limit then applies to both signs

    def refuses(self, value: float | None, limit: float) -> bool:
        """Whether a clip with this value is rejected; an unknown value is not."""
        return value is not None and (value < limit if self.least else abs(value) > limit)

    @property
    def words(self) -> str:
        """The limit's name on the page."""
        return f"{self.title}, at {'least' if self.least else 'most'}"


# fmt: off
LIMITS = (
    Limit("min_upright_share", "upright_share", True, "not_upright",
          "the face is upright in a share of {:.2f} of the frames, the least allowed is {:g}",
          "Face upright in the crop", "share of the checked frames", "face upright"),
    Limit("max_outside_share", "outside_share", False, "outside",
          "a share of {:.2f} of mouth and chin lies outside of the frame, the most allowed is {:g}",
          "Mouth and chin outside of the frame", "share of their place in the crop", "mouth inside the frame"),
    Limit("min_motion", "motion", True, "still",
          "the face moves by {:.5f} of its width from frame to frame, the least allowed is {:g}",
          "Motion of the face", "median step of the landmarks, face widths", "face moving"),
    Limit("min_audio_peak", "audio_peak", True, "silent",
          "the loudest sample of the audio is {:.6f}, the least allowed is {:g}",
          "Peak of the audio", "0 digital silence, 1 full scale", "audio not silent"),
    Limit("min_face_px", "face_px", True, "small_face",
          "the face is {:.1f} px wide, the least allowed is {:g} px",
          "Face width", "pixels of the source", "face large enough"),
    Limit("min_quality", "quality", True, "low_quality",
          "the quality is {:.1f}, the least allowed is {:g}",
          "Image quality", "quality, higher is better", "image quality high enough"),
    Limit("min_sharpness", "sharpness", True, "blurred",
          "the sharpness is {:.2f}, the least allowed is {:g}",
          "Sharpness of the face", "variance of the Laplacian at 256 px", "face in focus"),
    Limit("min_exposure", "exposure", True, "badly_lit",
          "the mean luma of the face is {:.3f}, the least allowed is {:g}",
          "Exposure of the face", "mean luma, 0 black, 1 white", "face well lit"),
    Limit("max_exposure", "exposure", False, "badly_lit",
          "the mean luma of the face is {:.3f}, the most allowed is {:g}",
          "Exposure of the face", "mean luma, 0 black, 1 white", "face well lit"),
    Limit("min_aligned_share", "aligned_share", True, "misaligned",
          "the face is confirmed in a share of {:.2f} of the frames, the least allowed is {:g}",
          "Face confirmed in the crop", "share of the checked frames", "face confirmed in the crop"),
    Limit("max_yaw_deg", "yaw_deg", False, "turned_away",
          "the head is turned by {:+.1f} degrees, the most allowed is {:g}",
          "Turn of the head", "degrees; above 0 to the viewer's right", "facing the camera", signed=True),
    Limit("max_pitch_deg", "pitch_deg", False, "turned_away",
          "the head is tilted by {:+.1f} degrees, the most allowed is {:g}",
          "Tilt of the head", "degrees; above 0 upwards", "facing the camera", signed=True),
    Limit("min_s", "length_s", True, "too_short",
          "the clip lasts {:.2f} s, the shortest allowed is {:g} s",
          "Clip length", "seconds", "long enough"),
    Limit("min_speech_share", "speech_share", True, "little_speech",
          "a share of {:.2f} of the audio is speech, the least allowed is {:g}",
          "Speech", "share of the clip's audio", "enough speech"),
    Limit("min_sync_confidence", "sync_confidence", True, "low_sync",
          "the sync confidence is {:.2f}, the least allowed is {:g}",
          "Sync confidence", "confidence", "video and audio in sync"),
    Limit("max_offset_frames", "sync_offset_frames", False, "large_offset",
          "the offset is {:+d} frames, the largest allowed is {:g}",
          "Offset between video and audio", "frames at 25 fps; above 0 the video is late",
          "offset small enough", signed=True),
)
# fmt: on
WORTH_OF_TWICE = 10.0  # points of quality, see `worth`
COLUMNS = tuple(dict.fromkeys(limit.column for limit in LIMITS))
_REASONS = tuple(dict.fromkeys(limit.reason for limit in LIMITS))
_SYNC = _REASONS.index("low_sync")
# All reasons that clips get here, in the order in which they count: without consent nothing else matters, a silent
# face cannot score well in sync, and near duplicates are searched only among clips without another reason, or both
# copies might be rejected.
ORDER = ("no_consent", "duplicate", *_REASONS[:_SYNC], "not_speaking", *_REASONS[_SYNC:], "near_duplicate")


def limits_of(reason: str) -> list[Limit]:
    """The thresholds that cause a reason; none for a reason that no threshold causes."""
    return [limit for limit in LIMITS if limit.reason == reason]


def applied_offset(row: Clip, cfg: SelectClips) -> int:
    """The offset to apply to a clip: what was measured where that is trustworthy, else 0."""
    return row["sync_offset_frames"] if row["sync_confidence"] >= cfg.min_offset_confidence else 0


def judge(row: Clip, cfg: SelectClips) -> list[tuple[str, str]]:
    """Every (reason, sentence) for which the thresholds reject a clip, in the order of LIMITS; empty: it is selected.

    An offset counts as large only where it would be applied: below min_offset_confidence it is noise.
    """
    known = {"length_s": length_s(row), "sync_offset_frames": applied_offset(row, cfg)}
    found = []
    for each in LIMITS:
        limit = getattr(cfg, each.key)
        if limit is None:
            continue
        value = known[each.column] if each.column in known else row[each.column]
        if each.refuses(value, limit):
            found.append((each.reason, each.sentence.format(value, limit)))
    return found


def silent_faces(rows: Iterable[Clip], cfg: SelectClips) -> dict[str, str]:
    """Id of every clip whose face does not speak -> id of the clip whose face does.

    Of the clips of one segment that overlap by more than half of the shorter one, the one with the highest sync
    confidence is the speaker, ties by id. Below min_offset_confidence no speaker is chosen.
    """
    segments: dict[str, list[Clip]] = {}
    for row in rows:
        segments.setdefault(row["segment_id"], []).append(row)
    result: dict[str, str] = {}
    for clips in segments.values():
        clips.sort(key=lambda row: (-row["sync_confidence"], row["id"]))
        for number, speaker in enumerate(clips):
            if speaker["id"] in result or speaker["sync_confidence"] < cfg.min_offset_confidence:
                continue
            for other in clips[number + 1 :]:
                shared = min(speaker["end_tick"], other["end_tick"]) - max(speaker["start_tick"], other["start_tick"])
                if 2 * shared > min(row["end_tick"] - row["start_tick"] for row in (speaker, other)):
                    result.setdefault(other["id"], speaker["id"])
    return result


def worth(row: Row) -> float:
    """By which of two clips that show the same one is kept: quality, and WORTH_OF_TWICE for each doubling of the size
    of the face, up to the size of the crop, and of the length.

    The metric of quality sees the crop, where a smaller copy is enlarged: it may score better by its smoothness.
    """
    face_px, length = min(row["face_px"], row["resolution"]), row["end_tick"] - row["start_tick"]
    return row["quality"] + WORTH_OF_TWICE * (math.log2(max(face_px, 1)) + math.log2(max(length, 1)))


def near_duplicates(
    rows: Iterable[Row], max_bits: int | None, matches: Sequence[Match] = ()
) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Id of every near duplicate -> id of the clip that is kept instead; and all pairs of clips with near hashes.

    The clip of more `worth` is kept, ties by id. A clip goes if clips that are kept show more than half of it: by
    image and motion hashes that both differ in at most `max_bits` (None: no hash counts) all of it, by `matches` of
    faces the part in which the two overlap. A clip without a motion hash has no near hashes.
    """
    ranked = sorted(rows, key=lambda row: (-worth(row), row["id"]))
    shown: dict[str, list[tuple[str, int, int]]] = {row["id"]: [] for row in ranked}  # by better clips, in own ticks
    hashed = [row for row in ranked if row.get("motion_hash")] if max_bits is not None else []
    pairs = []
    if max_bits is not None and hashed:
        motion, image = (near.as_numbers([row[name] for row in hashed]) for name in ("motion_hash", "picture_hash"))
        for i, j in near.near_pairs(motion, image, max_bits).tolist():
            pairs.append((hashed[i]["id"], hashed[j]["id"]))
            shown[hashed[j]["id"]].append((hashed[i]["id"], hashed[j]["start_tick"], hashed[j]["end_tick"]))
    place = {row["id"]: number for number, row in enumerate(ranked)}
    for first, second, start, end, lag in footage.overlaps(ranked, matches):
        if place[first] < place[second]:
            shown[second].append((first, start - lag, end - lag))
        else:
            shown[first].append((second, start, end))
    gone: dict[str, str] = {}
    for row in ranked:
        kept = sorted((each for each in shown[row["id"]] if each[0] not in gone), key=lambda each: place[each[0]])
        if 2 * near.covered((start, end) for _, start, end in kept) > row["end_tick"] - row["start_tick"]:
            gone[row["id"]] = max(kept, key=lambda each: each[2] - each[1])[0]
    return gone, pairs


def duplicates(rows: Iterable[Row]) -> dict[str, str]:
    """Source id of every repeated file -> source id of the one that is kept: the first by id of equal contents."""
    first: dict[str, str] = {}
    contents = {row["source_id"]: row["sha256"] for row in rows if row.get("sha256")}
    for source, content in sorted(contents.items()):
        first.setdefault(content, source)
    return {source: first[content] for source, content in contents.items() if first[content] != source}


def group_of(
    rows: Iterable[Row], speakers: Mapping[str, str], alike: Iterable[tuple[str, str]] = ()
) -> dict[str, tuple[str, ...]]:
    """Source id -> its group as the names that it unites, speakers first, sorted; the first is the group's name.

    A source's name is its speaker where `speakers` (path -> speaker) knows the path, else its own id. Equal files, and
    sources that are `alike` (pairs of ids), are in one group, so that the same footage is never in two splits.
    """
    name, content = {}, {}
    for row in rows:
        name[row["source_id"]] = speakers.get(row["path"], row["source_id"])
        if row.get("sha256"):
            content.setdefault(row["sha256"], set()).add(row["source_id"])
    united = {each: {each} for each in name.values()}
    for members in [*content.values(), *map(set, alike)]:
        together = set().union(*(united[name[source]] for source in members))
        for each in together:
            united[each] = together
    return {source: tuple(sorted(united[each], key=lambda one: (one in name, one))) for source, each in name.items()}


def rank(group: Sequence[str]) -> str:
    """Sorting by this shuffles groups, always in the same way."""
    return hashlib.sha256(group[0].encode("utf-8", "surrogateescape")).hexdigest()


def assign(
    groups: Iterable[tuple[str, ...]], stored: Mapping[str, str], val_share: float, test_share: float
) -> dict[tuple[str, ...], str]:
    """Group -> split. Groups in `stored` (name -> split) keep their split; new groups fill test, then val, then train.

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
    return cast(dict[tuple[str, ...], str], result)  # train took all that were left
