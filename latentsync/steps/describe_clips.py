"""describe_clips: the page of curation and the dataset card, right after selection and before any training.

Inputs: summary, rejected, train, val, test of select_clips; score_sync (all shards: crops, and what the sources
are); config (the whole configuration as JSON); consent (what the table of consents says; none: not checked).
Outputs: page, summary (every number on the page), card_json and card_md. Beside them, undeclared, costs.html: what
every step cost; seconds differ from run to run, and declared results must not. Undeclared as well: media/, the clips
that the page plays, and previews.jsonl, their list.

The number of images is bounded whatever the number of clips, and ledgers are read row by row: only the scalars of a row
are kept in memory.
"""

import json
import sys
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from latentsync.config import VERSIONS, DescribeClips
from latentsync.curation.selection import SPLITS
from latentsync.ledger.consent import read_grants
from latentsync.ledger.files import iterate_ledger, run_dir, write_json, write_text
from latentsync.ledger.rows import Row, length_s
from latentsync.report import borderline, card, clips, costs, curation, images, page, speakers

PARTS = "av face-alignment mediapipe numpy opencv-python-headless pyiqa scenedetect".split()


def run(cfg: DescribeClips, inputs: dict[str, list[Path]], outputs: dict[str, Path], sources: Path | None) -> None:
    """Write page, summary and card, and the page of costs beside them."""
    root = run_dir(outputs["page"])
    synthetic = sources is not None and sources.resolve().is_relative_to(root.resolve())
    selection = json.loads(inputs["summary"][0].read_text(encoding="utf-8"))
    configuration = json.loads(inputs["config"][0].read_text(encoding="utf-8"))
    selected = list({row["id"]: row for split in SPLITS for row in _scalars(inputs[split])}.values())
    rejected = curation.read_rejected(inputs["rejected"][0])
    summary = summarise(root.name, selection, selected, rejected)
    summary["card"] = card.make(
        name=root.name,
        synthetic=synthetic,
        selection=selection,
        selected=selected,
        rejected=rejected,
        sources=source_properties(inputs["score_sync"]),
        speakers=summary["speakers"],
        sections={step: configuration[step] for step in _steps_before() if step in configuration},
        versions={step: VERSIONS[step] for step in _steps_before()},
        parts={name: metadata.version(name) for name in PARTS},
        licence=cfg.licence,
        coverage=read_grants(inputs.get("consent", [])),
    )
    ids, offsets = shown_ids(summary), {row["id"]: row["offset_frames"] for row in selected}
    shown = images.middle_images(ids, inputs["score_sync"], root, sources)
    played = clips.write(ids, inputs["score_sync"], offsets, outputs["page"], root)
    write_json(outputs["summary"], summary)
    write_text(outputs["page"], page.render_description(summary, shown, played))
    write_json(outputs["card_json"], summary["card"])
    write_text(outputs["card_md"], page.render_card(summary["card"]))
    spent = costs.collect(root, summary["headline"]["source_s"])
    write_text(outputs["page"].with_name("costs.html"), page.render_costs(root.name, spent))


def summarise(run: str, selection: dict[str, Any], selected: list[Row], rejected: list[Row]) -> dict[str, Any]:
    """Everything on the page apart from the card."""
    kept = curation.summarise(selection, selected, rejected)
    people = speakers.summarise(selected)
    found, left = next(stage for stage in kept["stages"] if stage["stage"] == "found"), kept["stages"][-1]
    return {
        "run": run,
        "headline": {
            "sources": found["left"],
            "source_s": found["seconds"],
            "clips": left["left"],
            "clip_s": left["seconds"],
            "groups": people["groups_n"],
            "rejected": kept["rejected_n"],
        },
        "stand_ins": selection["stand_ins"],
        "warnings": [*curation.warnings(selection), *([people["warning"]] if people["warning"] else [])],
        "curation": kept,
        "best": borderline.best(selected),
        "borderline": borderline.sheets(selected, rejected, selection["thresholds"]),
        "speakers": people,
    }


def shown_ids(summary: dict[str, Any]) -> list[str]:
    """Ids of the rows whose image is on the page."""
    near = [item["id"] for sheet in summary["borderline"] for item in (*sheet["kept"], *sheet["lost"])]
    return [*curation.shown_ids(summary["curation"]), *(item["id"] for item in summary["best"]), *near]


def source_properties(ledgers: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Source id -> what probe measured, from any row of the source."""
    found: dict[str, dict[str, Any]] = {}
    for row in (row for ledger in ledgers for row in iterate_ledger(ledger)):
        if row["source_id"] not in found or not found[row["source_id"]]:
            found[row["source_id"]] = {name: row[name] for name in card.SOURCE_FACTS if name in row}
    return found


def _scalars(ledgers: Iterable[Path]) -> Iterator[Row]:
    """Rows of clips with length_s, without lists and file names, so that 100,000 clips fit into memory."""
    for row in (row for ledger in ledgers for row in iterate_ledger(ledger)):
        yield {
            sys.intern(name): value
            for name, value in row.items()
            if not isinstance(value, list | dict) and not name.endswith("_file")
        } | {"length_s": length_s(row)}


def _steps_before() -> list[str]:
    names = list(VERSIONS)
    return names[names.index("probe") : names.index("describe_clips")]
