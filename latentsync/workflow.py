"""What the Snakefile calls while it is parsed: the configuration, the list of sources, the arguments of steps.

No torch and no OpenCV, because every cluster job parses the Snakefile again.
"""

import inspect
import json
import time
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

from latentsync import config, gpu_lease, required
from latentsync.ledger import consent, sources
from latentsync.ledger.files import write_json, write_text

# Keys of the configuration that hold paths of this machine.
PATHS: Any = {"input_dir": True, "consent": True, "select_clips": {"speakers"}, "mark": {"certificate", "private_key"}}


def prepare(values: dict[str, Any], main_process: bool) -> config.Config:
    """Check the configuration; in the main process, also list the sources and write `results/<run>/config.json`.

    Raises:
        ValueError: one sentence; the Snakefile turns it into a WorkflowError before any job starts.
    """
    cfg = config.validate(values)
    if cfg.select_clips.speakers is not None:
        if not Path(cfg.select_clips.speakers).is_file():
            raise ValueError(f"select_clips.speakers is {cfg.select_clips.speakers!r}, which is not a file.")
        sources.read_speakers([Path(cfg.select_clips.speakers)])
    coverage = None if cfg.consent is None else _coverage(cfg, Path(cfg.consent))
    required.check(cfg)
    if main_process and cfg.input_dir is not None:
        sources.refuse_results(Path(cfg.input_dir), Path("results"))
        videos, others = sources.write_sources(Path(cfg.input_dir), Path("results", cfg.run, "sources"), cfg.shards)
        if others:
            names = ", ".join(others[:3]) + (" ..." if len(others) > 3 else "")
            note = f"{cfg.input_dir}: {videos} videos; {len(others)} other files ignored by their names: {names}"
            print(note.encode("utf-8", "backslashreplace").decode())  # names need not be UTF-8
    if main_process:
        _write_config(cfg)
        if coverage is not None:
            for name, text in consent.texts(coverage).items():
                _write_changed(Path("results", cfg.run, "consent", name), text)
    return cfg


def _coverage(cfg: config.Config, table: Path) -> consent.Coverage:
    """What the table of consents allows today.

    Raises:
        ValueError: it is wrong, or it allows no training with any video.
    """
    named = [] if cfg.select_clips.speakers is None else [Path(cfg.select_clips.speakers)]
    folder = Path("results", cfg.run, "make_talkers", "videos") if cfg.input_dir is None else Path(cfg.input_dir)
    today = date.today()
    coverage = consent.cover(consent.read_consent(table, "consent", today), folder, sources.read_speakers(named))
    trainable = (path for path, ended in consent.covered(coverage, "training").items() if ended is None)
    if not any(cfg.input_dir is None or (folder / path).exists() for path in trainable):
        raise ValueError(
            f"consent {table} covers no video of {folder} for training on {today}; add rows with the scope training, "
            "or set consent: null."
        )
    return coverage


def _write_config(cfg: config.Config) -> None:
    """Write results/<run>/config.json for the report, without paths of this machine."""
    path = Path("results", cfg.run, "config.json")
    _write_changed(path, cfg.model_dump_json(indent=1, exclude=PATHS) + "\n")


def _write_changed(path: Path, text: str) -> None:
    """Write a file that jobs depend on, only if that changes it."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)


def arguments(cfg: config.Config) -> dict[str, list[str]]:
    """Step -> the arguments that re-run it when they change: its name, its section and its version."""
    return {
        step: [step, "--config", config.section_json(cfg, step), "--version", str(version)]
        for step, version in config.VERSIONS.items()
    }


def files(wildcards: Mapping, input: Mapping, output: Mapping) -> list[str]:
    """Arguments that name the inputs and outputs of a job, under the names that its rule gives them.

    A params function of all rules. Snakemake records no params that follow from input and output, so the names of files
    re-run nothing beyond what the files themselves do.
    """
    named = []
    for one, several, paths in (("--input", "--input", input), ("--output", "--outputs", output)):
        for name, value in paths.items():
            named += [one, name, value] if isinstance(value, str) else [several, name, *value]
    return named


# Snakemake inspects the signature three times per job; stored, it saves 3 % of the planning time.
files.__signature__ = inspect.signature(files)  # pyright: ignore[reportFunctionMemberAccess]


def gpus(cfg: config.Config) -> dict[str, int]:
    """Step -> GPUs that a job of it needs: 1 if it uses one and this machine has any, else 0.

    Without GPUs, jobs of these steps may run side by side. With SLURM, the profile says what they need.
    """
    uses = {step: gpu_lease.wanted(step, getattr(cfg, step)) for step in config.VERSIONS}
    uses["estimate"] = uses["align_faces"] or uses["score_sync"]  # it runs these steps on a sample
    return {step: int(used and gpu_lease.count() > 0) for step, used in uses.items()}


def record_run(run: Path, started_s: float, outcome: str) -> None:
    """Add one session to results/<run>/run.json; `wall_s` there is the sum over all sessions of the run."""
    path = run / "run.json"
    sessions = json.loads(path.read_text())["sessions"] if path.exists() else []
    sessions.append({"outcome": outcome, "wall_s": round(time.time() - started_s, 1)})
    write_json(path, {"wall_s": round(sum(session["wall_s"] for session in sessions), 1), "sessions": sessions})
