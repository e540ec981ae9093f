"""The only step with thresholds for clips: join scores by id, apply thresholds, split by group, make pairs.

Writes train, val and test (clip rows plus `split`, `group`, `offset_frames`: the offset to apply), rejected.csv (every
row that is in none of them, with its reason, its sentence and its scores), summary.json (curation/funnel.py), and
pairs-<shard>.jsonl for every shard of pairs (curation/pairs.py).

Splits persist: the undeclared file assignments.json remembers the split of every group that was ever selected, so that
a new source moves no other group, and a group that a threshold removed returns to its split. It is used only while
val_share and test_share are unchanged; deleting it assigns all groups again. Nothing else of an earlier run counts.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, product
from pathlib import Path
from typing import Any, cast

import pandas as pd

from latentsync.config import SelectClips
from latentsync.curation import footage, selection
from latentsync.curation.funnel import summary
from latentsync.curation.pairs import by_shard, pair
from latentsync.ledger import consent
from latentsync.ledger.columns import Clip, names_of
from latentsync.ledger.files import read_ledgers, write_json, write_ledger, write_text
from latentsync.ledger.rows import Row, rejected
from latentsync.ledger.sources import read_speakers

REJECTED_COLUMNS = names_of(Clip, "rejected")


def run(cfg: SelectClips, inputs: dict[str, list[Path]], outputs: dict[str, Any], sources: Path | None) -> None:
    """Judge, split and pair all clips of a run. Of the `outputs`, pairs is a list: one path per shard of pairs."""
    speakers = read_speakers(inputs.get("speakers", []))
    rows = join(read_ledgers(inputs["score_sync"]), read_ledgers(inputs["score_quality"]))
    covered = consent.read_covered(inputs.get("consent", []))
    path_of = {row["source_id"]: row["path"] for row in rows}
    whys = {source: consent.refusal(covered, path, "training") for source, path in path_of.items()}
    matches = footage.find(rows) if cfg.shared_footage else []
    for row, name in product(rows, footage.COLUMNS):  # nobody needs them any more, and they are long
        row.pop(name, None)
    refused = {source: why for source, why in whys.items() if why is not None}
    selected, rejected, alike = judge_all(rows, cfg, refused, matches)
    shared = footage.sharing(matches)
    if not selected:
        raise ValueError(nothing_left(rejected, cfg))
    groups = selection.group_of(rows, speakers, [*alike, *shared])
    for row in selected:
        row |= {"group": groups[row["source_id"]][0], "offset_frames": selection.applied_offset(row, cfg)}

    used = {groups[row["source_id"]] for row in selected}
    separate = len(used) >= selection.MIN_GROUPS
    splits: dict[str, list[Any]]
    if separate:
        split_of = _assign(used, outputs["summary"].with_name("assignments.json"), cfg)
        splits = {s: [r for r in selected if split_of[groups[r["source_id"]]] == s] for s in selection.SPLITS}
    else:
        splits = dict.fromkeys(selection.SPLITS, selected)
    for split, members in splits.items():
        write_ledger(outputs[split], [row | {"split": split} for row in members])
    pairs = pair(cast(list[Clip], splits["test"]), cfg.max_pairs)
    for path, members in zip(outputs["pairs"], by_shard(pairs, cfg.pair_shards), strict=True):
        write_ledger(path, members)
    write_text(outputs["rejected"], rejected_csv(rejected))
    selection_summary = summary(rows, rejected, splits, cfg) | {
        "same_clips_in_all_splits": not separate,
        "pairs": dict(Counter(row["kind"] for row in pairs)),
        "sources_with_shared_footage": len(set(chain.from_iterable(shared))),
        "speakers_without_source": len(set(speakers) - {row["path"] for row in rows}),
    }
    write_json(outputs["summary"], selection_summary)


def join(sync_rows: list[Row], quality_rows: list[Row]) -> list[Row]:
    """One row for each id with the columns of both. A verdict of score_sync goes before one of score_quality."""
    quality = {row["id"]: row for row in quality_rows}
    if quality.keys() != {row["id"] for row in sync_rows}:
        odd = sorted(quality.keys() ^ {row["id"] for row in sync_rows})
        raise ValueError(
            f"score_sync and score_quality do not hold the same rows ({len(odd)} differ, the first is {odd[0]}); "
            "delete both folders and run again."
        )
    verdict = ("status", "reason", "detail")
    rows = []
    for row in sync_rows:
        other = quality[row["id"]]
        rows.append(other | row | ({name: other[name] for name in verdict} if row["status"] == "ok" else {}))
    return rows


def judge_all(
    rows: Iterable[Any], cfg: SelectClips, refused: Mapping[str, str], matches: Sequence[footage.Match] = ()
) -> tuple[list[Any], list[Row], list[tuple[str, str]]]:
    """Selected rows, rejected rows with reason and detail, and pairs of sources that share a near duplicate.

    `refused`: id of a source without consent -> why. Such a source is never the one of several copies that is kept.
    `matches`: footage that sources share.
    """
    rows = list(rows)
    sound = [row for row in rows if row["status"] == "ok"]
    kept_instead = selection.duplicates(row for row in rows if row["source_id"] not in refused)
    speaker_of = selection.silent_faces(sound, cfg)
    path_of = {row["source_id"]: row["path"] for row in rows}
    verdicts: dict[str, list[tuple[str, str]]] = {}
    for row in sound:
        found = selection.judge(row, cfg)
        if row["source_id"] in refused:
            found.append(("no_consent", refused[row["source_id"]]))
        if row["source_id"] in kept_instead:
            original = path_of[kept_instead[row["source_id"]]]
            found.append(("duplicate", f"the same content as {original}, which is kept"))
        if row["id"] in speaker_of:
            found.append(("not_speaking", f"the audio belongs to the face of {speaker_of[row['id']]}"))
        verdicts[row["id"]] = sorted(found, key=lambda verdict: selection.ORDER.index(verdict[0]))
    by_id = {row["id"]: row for row in sound if not verdicts[row["id"]]}
    gone, pairs = selection.near_duplicates(by_id.values(), cfg.max_duplicate_bits, matches)
    for ident, kept in gone.items():
        text = f"shows what {kept} of {by_id[kept]['path']} shows, which is the better copy"
        verdicts[ident].append(("near_duplicate", text))
    dropped = [row for row in rows if row["status"] != "ok"]
    for row in sound:
        if verdicts[row["id"]]:
            (reason, detail), *others = verdicts[row["id"]]
            also = "".join(f"; also {other}: {text}" for other, text in others)
            dropped.append(rejected(row, reason, detail + also))
    selected = [row.copy() for row in sound if not verdicts[row["id"]]]
    alike = {(by_id[a]["source_id"], by_id[b]["source_id"]) for a, b in pairs}
    return selected, dropped, sorted(alike)


def _assign(groups: set[tuple[str, ...]], path: Path, cfg: SelectClips) -> dict[tuple[str, ...], str]:
    shares = {"val_share": cfg.val_share, "test_share": cfg.test_share}
    memory = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    stored = memory["splits"] if memory.get("shares") == shares else {}
    split_of = selection.assign(groups, stored, cfg.val_share, cfg.test_share)
    stored = stored | {name: split for group, split in split_of.items() for name in group}
    write_json(path, {"shares": shares, "splits": dict(sorted(stored.items()))})
    return split_of


def rejected_csv(rows: Sequence[Row]) -> str:
    """The table of rejected.csv, sorted by id; what a row does not know is an empty cell."""
    # object: integers stay integers beside blanks
    table = pd.DataFrame(rows, columns=pd.Index(REJECTED_COLUMNS), dtype=object)
    return table.sort_values("id").to_csv(index=False, lineterminator="\n")


def nothing_left(rejected: list[Row], cfg: SelectClips) -> str:
    """One sentence for a run in which no clip is left: the reasons, and which key to relax."""
    counts = Counter(row["reason"] for row in rejected)
    listed = ", ".join(f"{reason} {number}" for reason, number in counts.most_common()) or "there were no videos"
    if counts and counts.most_common(1)[0][0] == "no_consent":
        return f"No clip was selected ({listed}); add rows for these videos to the table that `consent` names."
    causes = [limit for reason, _ in counts.most_common() for limit in selection.limits_of(reason)]
    causes = [limit for limit in causes if getattr(cfg, limit.key) is not None]
    if not causes:
        return f"No clip was selected ({listed}); no threshold is the cause, so add videos with a face and audio."
    reason, key = causes[0].reason, causes[0].key
    return (
        f"No clip was selected ({listed}); relax select_clips.{key}, now {getattr(cfg, key)}, which causes {reason} "
        "(null switches it off)."
    )
