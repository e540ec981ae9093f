"""report: the page of a run, and summary.json with every number on it.

Inputs: summary, rejected, train, val, test of select_clips; score_sync (all shards: crops of rejected clips); generate
(its ledgers); metrics and per_item of evaluate; the curve.csv of each training step under the name
of that step (train_vae only where it ran); config (the whole configuration as JSON; optional); consent (what the table
of consents says; none: not checked).
Outputs: page and summary. Beside them, undeclared, costs.html: what every step cost.

summary.json holds the key figures and controls of evaluation/figures.py at its top level (null: see `reasons`), `n`,
`intervals`, `stand_ins`, and one key for each section of the page. The page shows nothing else, apart from images and
videos.
"""

import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from latentsync.config import VERSIONS, Report
from latentsync.evaluation.figures import CONTROLS, KEY_FIGURES
from latentsync.ledger.consent import Coverage, read_grants
from latentsync.ledger.files import read_ledgers, run_dir, write_json, write_text
from latentsync.ledger.rows import Row
from latentsync.report import costs, curation, evaluation, images, page, training
from latentsync.report.words import duration, listed

PARTS = (
    "accelerate av diffusers face-alignment mediapipe numpy pyiqa scenedetect torch torchvision transformers".split()
)


def run(cfg: Report, inputs: dict[str, list[Path]], outputs: dict[str, Path], sources: Path | None = None) -> None:
    """Write page and summary, and the page of costs beside them."""
    root = run_dir(outputs["page"])
    generated = read_ledgers(inputs["generate"])
    items = read_ledgers(inputs["per_item"])
    selected = {row["id"]: row for split in ("train", "val", "test") for row in read_ledgers(inputs[split])}
    rejected = curation.read_rejected(inputs["rejected"][0])
    synthetic = sources is not None and sources.resolve().is_relative_to(root.resolve())
    summary = summarise(
        run=root.name,
        synthetic=synthetic,
        selection=_json(inputs["summary"][0]),
        metrics=_json(inputs["metrics"][0]),
        selected=list(selected.values()),
        rejected=rejected,
        curves={step: inputs[step][0] for step in training.STEPS if inputs.get(step)},
        generated=generated,
        items=items,
        players=cfg.players,
        configuration=_json(inputs["config"][0]) if inputs.get("config") else {},
        coverage=read_grants(inputs.get("consent", [])),
    )
    shown = curation.shown_ids(summary["curation"])
    media = {"images": images.middle_images(shown, inputs["score_sync"], root, sources), "players": {}}
    for column in (column for row in summary["players"] + summary["compared"] for column in row["columns"]):
        path = root / column["file"] if column["file"] else (sources or Path()) / column["path"]
        name = column["file"] or column["path"]
        if name not in media["players"]:  # a source and a result may be shown twice
            media["players"][name] = images.preview(path)
    summary["players_cut_s"] = max((clip["cut"] for clip in media["players"].values()), default=0)
    write_json(outputs["summary"], summary)
    write_text(outputs["page"], page.render(summary, media))
    spent = costs.collect(root, summary["headline"]["source_s"])
    write_text(outputs["page"].with_name("costs.html"), page.render_costs(root.name, spent))


def summarise(
    *,
    run: str,
    synthetic: bool,
    selection: Mapping[str, Any],
    metrics: Mapping[str, Any],
    selected: list[Row],
    rejected: list[Row],
    curves: Mapping[str, Path],
    generated: list[Row],
    items: list[Row],
    players: int,
    configuration: Mapping[str, Any],
    coverage: Coverage | None,
) -> dict[str, Any]:
    """Everything that summary.json holds."""
    cards = evaluation.cards(metrics["figures"])
    top = {figure.key: metrics["figures"][figure.key] for figure in (*KEY_FIGURES, *CONTROLS)}
    kept = curation.summarise(selection, selected, rejected)
    trained = [training.summarise(step, path) for step, path in curves.items()]
    train_s, guessed = selection["splits"]["train"]["hours"] * 3600, None
    if "train_syncnet" in curves:
        guessed = training.guesses(curves["train_syncnet"], selection["splits"]["train"]["clips"], duration(train_s))
    ours = [row for row in generated if row["system"] == "ours"]
    made = [row for row in ours if row["status"] == "ok"]
    rows = evaluation.choose_players(generated, items, players)
    compared = metrics["enhancement"]["pairs"] if metrics["enhancement"] else []
    return {
        "run": run,
        **{key: found["value"] for key, found in top.items()},
        "n": {key: found["n"] for key, found in top.items()},
        "intervals": {key: [found["low"], found["high"]] for key, found in top.items()},
        "reasons": {key: found["reason"] for key, found in top.items() if found["value"] is None},
        "stand_ins": list(dict.fromkeys([*metrics["stand_ins"], *selection["stand_ins"]])),
        "warnings": [*([guessed] if guessed else []), *curation.warnings(selection)],
        "headline": {
            "kind": "synthetic videos" if synthetic else "videos",
            "sources": kept["stages"][0]["left"],
            "source_s": kept["stages"][0]["seconds"],
            "clips": kept["stages"][-1]["left"],
            "clip_s": kept["stages"][-1]["seconds"],
            "trained": listed([step["title"].replace(", stage", " stage") for step in trained]),
            "generated": len(made),
            "own": sum(row["kind"] == "own" for row in made),
            "cross": sum(row["kind"] == "cross" for row in made),
            "failed": len(ours) - len(made),
            "marked": listed(sorted({row["marked"] for row in made})),
            "resolution": made[0]["resolution"] if made else None,
            "judged": sum(card["verdict"] != "unknown" for card in cards),
            "unjudged": sum(card["verdict"] == "unknown" for card in cards),
            "passed": sum(card["verdict"] == "pass" for card in cards),
        },
        "figures": cards,
        "unmeasured": evaluation.unmeasured(cards),
        "players": rows,
        "compared": evaluation.compared_players(generated, items, compared, players),
        "no_players": _no_players(players, ours),
        "consents": evaluation.consents(generated, coverage),
        "curation": kept,
        "training": trained,
        "evaluation": evaluation.summarise(metrics, items),
        "configuration": dict(configuration),
        "versions": {"steps": VERSIONS, "parts": _parts(metrics, generated)},
    }


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _no_players(players: int, ours: list[Row]) -> str:
    if not players:
        return "report.players is 0, so no videos are shown."
    if not ours:
        return "No video was generated, so there is nothing to watch."
    return "Every video failed; the reasons are listed below, under Evaluation."


def _parts(metrics: Mapping[str, Any], generated: list[Row]) -> dict[str, str]:
    """Names of what ran -> versions of libraries, content hashes of weights."""
    weights = {name: value for row in generated for name, value in row.items() if name in ("unet", "vae")}
    libraries = {name: metadata.version(name) for name in PARTS}
    hashes = {f"weights: {name}": str(value) for name, value in sorted({**metrics["evaluators"], **weights}.items())}
    return hashes | libraries
