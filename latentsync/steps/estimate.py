"""estimate: curate a few sources aside, and predict from them what all sources will yield and cost, and training too.

Inputs: sources (the lists of all shards); config (the whole configuration as JSON). Output: estimate (JSON). It is a
measurement and holds seconds of this machine, so no other rule reads it, and no target but its own asks for it.

What the run has curated already, with the present configuration, is the sample first. Where it is not enough, the
chain from probe to score_quality runs on other sources as one shard below `results/<run>/estimate/`, step by step as
the rules call it. Journals stay, so a second call measures only what is new. From a long source at most SEGMENTS
segments go on to align_faces; what follows counts for all of them.
"""

import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from latentsync import config, gpu_lease
from latentsync.curation import estimation, selection
from latentsync.curation.curated import finished
from latentsync.ledger.files import dumps, fingerprint, iterate_ledger, read_ledger, write_json, write_ledger
from latentsync.ledger.rows import Row
from latentsync.report import costs, forecast, forecast_training
from latentsync.timing import seconds

# step -> the step whose ledger it reads
CHAIN = {
    "probe": "sources",
    "resample": "probe",
    "detect_scenes": "resample",
    "segment": "detect_scenes",
    "align_faces": "segment",
    "score_sync": "align_faces",
    "score_quality": "align_faces",
}
PER_SEGMENT = ("align_faces", "score_sync", "score_quality")  # these see a part of a long source only
SEGMENTS = 24
MOST_CURATED = 100  # sources of a stratum that the run has curated and that count as sample; more would say little more
SHARD = "00000.jsonl"


def run(cfg: config.Estimate, inputs: dict[str, list[Path]], outputs: dict[str, Path], sources: Path) -> None:
    """Draw, curate, predict; the table goes to standard output.

    Raises:
        ValueError: none of the drawn sources can be read, or a step failed.
    """
    folder = outputs["estimate"].parent
    root = folder.parent
    configuration = config.validate(json.loads(inputs["config"][0].read_text(encoding="utf-8")))
    size = {row["id"]: row["size"] for ledger in inputs["sources"] for row in iterate_ledger(ledger) if _ok(row)}
    groups = estimation.strata(size, cfg.sources)
    done = {ledger.name: finished(root, ledger.name, CHAIN, configuration) for ledger in inputs["sources"]}
    curated = set().union(*done.values())
    sample = estimation.draw(groups, cfg.sources, curated, MOST_CURATED)
    stratum = {ident: number for number, group in enumerate(sample) for ident in group}
    fresh, yields = [ident for ident in stratum if ident not in curated], []
    for shard, known in done.items():
        yields += measured({ident: stratum[ident] for ident in known & stratum.keys()}, root, configuration, shard)
    if fresh:
        listed = (row for ledger in inputs["sources"] for row in iterate_ledger(ledger))
        write_ledger(folder / "sources" / SHARD, [row for row in listed if row["id"] in fresh])
        steps = list(_work(len(size), folder, configuration, sources, alone=not yields))
        yields += measured({ident: stratum[ident] for ident in fresh}, folder, configuration)
    else:
        print(f"{len(curated)} of {len(size)} videos are curated already; nothing is measured anew.", flush=True)
        steps = [_known(step, root, configuration) for step in CHAIN]
    yields.sort(key=lambda row: (row["stratum"], row["path"]))
    population = [
        {"sources": len(group), "bytes": sum(size[ident] for ident in group)}
        | {"done": len(curated & set(group)), "done_bytes": sum(size[ident] for ident in curated & set(group))}
        for group in groups
    ]
    cores = len(os.sched_getaffinity(0))
    found = forecast.predict(
        yields, population, steps, shards=configuration.shards, cores=cores, gpus=gpu_lease.count()
    )
    seen = [{name: row[name] for name in ("path", "stratum", "size", "footage_h")} for row in yields]
    selected_h = found["predicted"]["selected_h"]["value"]
    training = forecast_training.predict(root, configuration, selected_h, forecast_training.sizes(configuration))
    write_json(outputs["estimate"], found | {"training": training, "sample": seen})
    print(f"\n{forecast.table(found)}\n\n{forecast_training.table(training)}\n\nAll numbers: {outputs['estimate']}")


def _work(n_all: int, folder: Path, configuration: config.Config, sources: Path, alone: bool) -> Iterator[Row]:
    """Run the chain on the sources listed in `folder`; what each step cost. `alone`: they are the whole sample."""
    n = len(read_ledger(folder / "sources" / SHARD))
    for step, before in CHAIN.items():
        print(f"{step}: {n} of {n_all} videos", flush=True)
        yield _measure(step, before, folder, configuration, sources)
        made = read_ledger(folder / step / SHARD)
        if step == "resample" and alone:
            _refuse_broken(made)
        if step == "segment":
            write_ledger(folder / "sampled_segments" / SHARD, thin(made))


def _known(step: str, root: Path, configuration: config.Config) -> Row:
    """As `_measure`, of a step that works on nothing: its memory is that of the run."""
    peak_mb = next((row["peak_mb"] for row in costs.collect(root) if row["step"] == step), None)
    return {"step": step, "gpu": gpu_lease.wanted(step, getattr(configuration, step)), "peak_mb": peak_mb or 0.0} | {
        f"startup_{kind}": 0.0 for kind in ("cpu_s", "wall_s")
    }


def _refuse_broken(rows: Sequence[Row]) -> None:
    if not any(map(_ok, rows)):
        first = min(rows, key=lambda row: row["path"])
        raise ValueError(
            f"None of the {len(rows)} videos drawn can be read ({first['path']}: {first['detail']}), so nothing can be "
            "predicted; look at the footage, or raise estimate.sources to draw more."
        )


def thin(rows: Sequence[Row]) -> list[Row]:
    """Of every source at most SEGMENTS segments that are still ok, by stable rank; rows with a verdict stay."""
    by_source = defaultdict(list)
    for row in sorted(rows, key=lambda row: estimation.rank(row["id"])):
        by_source[row["source_id"]] += [row] if _ok(row) else []
    return [row for kept in by_source.values() for row in kept[:SEGMENTS]] + [row for row in rows if not _ok(row)]


def _given(step: str, folder: Path, shard: str = SHARD) -> Path:
    """The ledger that a step reads: that of the one before it, on a sample thinned before align_faces."""
    thinned = folder / "sampled_segments" / shard
    return thinned if step == "align_faces" and thinned.is_file() else folder / CHAIN[step] / shard


def _measure(step: str, before: str, folder: Path, configuration: config.Config, sources: Path) -> dict[str, Any]:
    """Run one step as its rule does; what its start and its memory cost, from this call or an earlier one that worked.

    `peak_mb` is the largest resident size of one process (getrusage); the cost of each row is in costs/, as in any run.
    """
    section = config.section_json(configuration, step)
    command = [sys.executable, "-m", "latentsync.steps", step, "--config", section]
    command += ["--version", config.VERSIONS[step], "--input", before, _given(step, folder)]
    command += ["--output", "ledger", folder / step / SHARD, "--sources", sources]
    log, noted = folder / "logs" / f"{step}.log", folder / "costs" / step / SHARD
    log.parent.mkdir(parents=True, exist_ok=True)
    known = len(read_ledger(noted)) if noted.exists() else 0
    start = time.perf_counter()
    with open(log, "wb") as log_file:
        job = subprocess.Popen([str(part) for part in command], stdout=log_file, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(job.pid, 0)
    job.returncode = os.waitstatus_to_exitcode(status)
    wall_s = time.perf_counter() - start
    if job.returncode:
        last = (log.read_text(errors="replace").strip().splitlines() or ["it wrote nothing"])[-1]
        raise ValueError(f"{step} ended with status {job.returncode} on the sample: {last}")
    worked = read_ledger(noted)[known:]
    now = {
        "key": fingerprint(section, config.VERSIONS[step]),
        "peak_mb": usage.ru_maxrss / 1024,
        "startup_cpu_s": max(0.0, usage.ru_utime + usage.ru_stime - sum(row["cpu_s"] for row in worked)),
        "startup_wall_s": max(0.0, wall_s - sum(row["wall_s"] for row in worked)),
    }
    path = folder / "measured" / f"{step}.json"
    if path.exists():
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["key"] == now["key"]:
            now = (now if worked else stored) | {"peak_mb": max(now["peak_mb"], stored["peak_mb"])}
    write_json(path, now)
    return now | {"step": step, "gpu": gpu_lease.wanted(step, getattr(configuration, step))}


def measured(
    stratum: Mapping[str, int], folder: Path, configuration: config.Config, shard: str = SHARD
) -> list[dict[str, Any]]:
    """For every drawn source what it yielded and cost, as forecast.predict takes it. `stratum`: of each, by its id."""
    if not stratum:
        return []
    rows = {step: read_ledger(folder / step / shard) for step in ("sources", *CHAIN)}
    given = {step: read_ledger(_given(step, folder, shard)) for step in CHAIN}
    whole, part = _ticks(rows["segment"]), _ticks(given["align_faces"])
    factor = {source: whole[source] / ticks for source, ticks in part.items()}
    notes = {step: iterate_ledger(folder / "costs" / step / shard) for step in CHAIN}
    spent = {step: _spent(step, given[step], rows[step], notes[step], folder) for step in CHAIN}
    length_h = {row["source_id"]: seconds(row["n_ticks"]) / 3600 for row in rows["resample"] if _ok(row)}
    source_rows = {row["id"]: row for row in rows["sources"]}
    clips_of = _scored(rows)
    found = []
    for source, number in stratum.items():
        times = factor.get(source, 1.0)
        clips = clips_of.get(source, [])
        kept = [row for row in clips if not selection.judge(row, configuration.select_clips)]
        yields = {"clips": len(clips), "clip_h": _hours(clips)}
        yields |= {"selected_clips": len(kept), "selected_h": _hours(kept)}
        found.append(
            {
                "path": source_rows[source]["path"],
                "stratum": number,
                "size": source_rows[source]["size"],
                "readable": int(source in length_h),
                "footage_h": length_h.get(source, 0.0),
                **{name: value * times for name, value in yields.items()},
                "steps": {
                    step: {
                        kind: spent[step][source][kind] * (times if step in PER_SEGMENT else 1.0)
                        for kind in ("cpu_s", "wall_s", "bytes")
                    }
                    for step in CHAIN
                },
            }
        )
    return found


def _spent(
    step: str, given: Sequence[Row], made: Sequence[Row], noted: Iterable[Row], folder: Path
) -> Mapping[str, dict[str, float]]:
    """Source id -> seconds of its rows in the step, the last note of each row, and bytes of its rows and media."""
    notes = {row["id"]: row for row in noted}
    found: dict[str, dict[str, float]] = defaultdict(lambda: {"cpu_s": 0.0, "wall_s": 0.0, "bytes": 0.0})
    for row in given:
        note = notes.get(row["id"]) if _ok(row) else None
        for kind in ("cpu_s", "wall_s"):
            found[row["source_id"]][kind] += note[kind] if note else 0.0
    files = {(row["source_id"], value) for row in made for value in row.values() if _is_media(step, value)}
    for source, file in files:
        found[source]["bytes"] += (folder / file).stat().st_size
    for row in made:
        found[row["source_id"]]["bytes"] += 2 * len(dumps(row))  # in the ledger and in its journal
    return found


def _is_media(step: str, value: Any) -> bool:
    return isinstance(value, str) and value.startswith(f"{step}/media/")


def _scored(rows: Mapping[str, Sequence[Row]]) -> dict[str, list[Any]]:
    """Source id -> its clips that have every score, with the columns of both steps."""
    quality = {row["id"]: row for row in rows["score_quality"] if _ok(row)}
    found = defaultdict(list)
    for row in rows["score_sync"]:
        if _ok(row) and row["id"] in quality:
            found[row["source_id"]].append(quality[row["id"]] | row)
    return found


def _ticks(segments: Sequence[Row]) -> dict[str, int]:
    """Source id -> ticks of its segments that are still ok."""
    found: dict[str, int] = defaultdict(int)
    for row in filter(_ok, segments):
        found[row["source_id"]] += row["end_tick"] - row["start_tick"]
    return found


def _ok(row: Row) -> bool:
    return row["status"] == "ok"


def _hours(rows: Sequence[Row]) -> float:
    return seconds(sum(row["end_tick"] - row["start_tick"] for row in rows)) / 3600
