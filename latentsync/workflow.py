"""What the Snakefile calls while it is parsed: the configuration, the list of sources, the arguments of steps.

Nothing is written into results/ here, since `snakemake -n` and `--dag` parse the Snakefile, too: what the parse finds
is staged in a temporary folder, and the rule `record_inputs` copies it. No torch and no OpenCV, because every cluster
job parses the Snakefile again.
"""

import atexit
import filecmp
import inspect
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import date, datetime
from pathlib import Path
from typing import Any

from latentsync import config, gpu_lease
from latentsync.ledger import consent, faults, sources
from latentsync.ledger.files import write_json, write_text

# Keys of the configuration that hold paths of this machine.
PATHS: Any = {"input_dir": True, "consent": True, "select_clips": {"speakers"}, "mark": {"certificate", "private_key"}}
# Clocks of a file server and of this machine may differ by this much; waiting for so long is no harm.
_SKEW_S = 5


def prepare(values: dict[str, Any], main_process: bool) -> tuple[config.Config, list[str], Path]:
    """Check the configuration; in the main process, also find what changed since the last call.

    Returns the configuration, the names of the files below `results/<run>` that are new or have another content
    (sources/<shard>.jsonl, config.json, consent/*.json), and the folder in which they are staged under these names.

    Raises:
        ValueError: one sentence; the Snakefile turns it into a WorkflowError before any job starts.
    """
    cfg = config.validate(values)
    _refuse_no_videos(cfg)
    _refuse_braces(cfg)
    config.refuse_in_run(cfg.generate)
    if cfg.select_clips.speakers is not None:
        if not Path(cfg.select_clips.speakers).is_file():
            raise ValueError(f"select_clips.speakers is {cfg.select_clips.speakers!r}, which is not a file.")
        sources.read_speakers([Path(cfg.select_clips.speakers)])
    coverage = None if cfg.consent is None else _coverage(cfg, Path(cfg.consent))
    staging, run = Path(tempfile.gettempdir(), "unused"), Path("results", cfg.run)
    if not main_process:
        return cfg, [], staging
    _refuse_future(run)
    staging = Path(tempfile.mkdtemp(prefix="latentsync-"))
    atexit.register(shutil.rmtree, staging, ignore_errors=True)
    if not cfg.synthetic:
        _stage_sources(cfg, run, staging)
    # For the report; without paths of this machine.
    write_text(staging / "config.json", cfg.model_dump_json(indent=1, exclude=PATHS) + "\n")
    if coverage is not None:
        for name, text in consent.texts(coverage).items():
            write_text(staging / "consent" / name, text)
    return cfg, _changed(staging, run), staging


def _stage_sources(cfg: config.Config, run: Path, staging: Path) -> None:
    """List the input folder, and say on stderr what in it is not taken for a video."""
    assert cfg.input_dir is not None
    sources.refuse_results(Path(cfg.input_dir), Path("results"))
    sources.refuse_other_shards(run, cfg.shards)
    found = sources.write_sources(Path(cfg.input_dir), staging / "sources", cfg.shards)
    notes = []
    if others := found.passed_over:
        names = ", ".join(others[:3]) + (" ..." if len(others) > 3 else "")
        notes.append(f"{len(others)} files passed over by their names, which have rows that say so ({names})")
    if found.hidden:
        notes.append(f"{found.hidden} hidden files and folders skipped")
    if notes:
        note = f"{cfg.input_dir}: {found.videos} videos; " + "; ".join(notes)
        print(note.encode("utf-8", "backslashreplace").decode(), file=sys.stderr)  # names need not be UTF-8


def _changed(staging: Path, run: Path) -> list[str]:
    """Names of the staged files that differ from those of the run; the others are deleted.

    Snakemake sees a change by the time of the staged file, so this waits until the clock has passed the old file's.
    """
    names, newest_s = [], 0.0
    for staged in sorted(path for path in staging.rglob("*") if path.is_file()):
        old = run / staged.relative_to(staging)
        if old.is_file() and filecmp.cmp(staged, old, shallow=False):
            staged.unlink()
            continue
        names.append(staged.relative_to(staging).as_posix())
        newest_s = max(newest_s, old.stat().st_mtime) if old.is_file() else newest_s
    if (ahead_s := newest_s - time.time()) >= 0:  # at most _SKEW_S
        time.sleep(ahead_s + 0.01)
        for name in names:
            os.utime(staging / name)
    return names


def _refuse_no_videos(cfg: config.Config) -> None:
    """Raise if neither own videos nor the synthetic talkers are asked for."""
    if cfg.input_dir is None:
        raise ValueError(
            f"input_dir is not set, so run {cfg.run} has no videos; give the folder of your videos "
            f"(--config input_dir=/data/videos), or input_dir={config.TALKERS} for synthetic talkers."
        )
    if cfg.synthetic and Path(config.TALKERS).is_dir():
        raise ValueError(
            f"input_dir {config.TALKERS} stands for talkers that are made; for the folder of that name write "
            f"./{config.TALKERS}."
        )


def _refuse_braces(cfg: config.Config) -> None:
    """Raise for input files whose names Snakemake would read as wildcards."""
    inputs = {
        "select_clips.speakers": cfg.select_clips.speakers,
        "extract_features.vae_weights": cfg.extract_features.vae_weights,
        "extract_features.whisper_weights": cfg.extract_features.whisper_weights,
    }
    for key, path in inputs.items():
        if path is not None and ("{" in path or "}" in path):
            raise ValueError(
                f"{key} is {path!r}; Snakemake takes braces in the name of a file for a wildcard: rename it, or give a "
                "link without braces."
            )


def _refuse_future(run: Path) -> None:
    """Raise if a file that rules declare is dated in the future: Snakemake would take it for newer than any change."""
    now_s, ahead = time.time(), []
    for path in (*run.glob("*.json"), *run.glob("*/[!.]*.*")):
        with suppress(FileNotFoundError):  # a job of another call replaces it just now
            if (date_s := path.stat().st_mtime) > now_s + _SKEW_S:
                ahead.append((date_s, path))
    if ahead:
        ahead.sort()
        date_s, path = ahead[-1]
        when = datetime.fromtimestamp(date_s).isoformat(" ", "seconds")
        raise ValueError(
            f"{path} and {len(ahead) - 1} other files are dated in the future (until {when}), so changed videos would "
            "not be noticed. The clock was set back; if it is right now, date them to now: "
            f"find {run} -newermt @{now_s:.0f} -exec touch -d @{now_s:.0f} {{}} +"
        )


def _coverage(cfg: config.Config, table: Path) -> consent.Coverage:
    """What the table of consents allows today.

    Raises:
        ValueError: it is wrong, or it allows no training with any video.
    """
    named = [] if cfg.select_clips.speakers is None else [Path(cfg.select_clips.speakers)]
    folder = Path("results", cfg.run, "make_talkers", "videos") if cfg.synthetic else Path(cfg.input_dir or "")
    today = date.today()
    coverage = consent.cover(consent.read_consent(table, "consent", today), folder, sources.read_speakers(named))
    trainable = (path for path, ended in consent.covered(coverage, "training").items() if ended is None)
    if not any(cfg.synthetic or (folder / path).exists() for path in trainable):
        raise ValueError(
            f"consent {table} covers no video of {folder} for training on {today}; add rows with the scope training, "
            "or set consent: null."
        )
    return coverage


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


def given(arguments: list[str]) -> Callable[[Mapping], list[str]]:
    """A params function that returns these; in plain strings Snakemake would take {x} in a path for a wildcard."""

    def step(wildcards: Mapping) -> list[str]:
        return arguments

    step.__signature__ = _OF_WILDCARDS  # pyright: ignore[reportFunctionMemberAccess]
    return step


# Snakemake inspects the signature three times per job; stored, it saves 3 % of the planning time.
files.__signature__ = inspect.signature(files)  # pyright: ignore[reportFunctionMemberAccess]
_OF_WILDCARDS = inspect.Signature([inspect.Parameter("wildcards", inspect.Parameter.POSITIONAL_OR_KEYWORD)])


def gpus(cfg: config.Config) -> dict[str, int]:
    """Step -> GPUs that a job of it needs: 1 if it uses one and this machine has any, else 0.

    Without GPUs, jobs of these steps may run side by side. With SLURM, the profile says what they need.
    """
    uses = {step: gpu_lease.wanted(step, getattr(cfg, step)) for step in config.VERSIONS}
    uses["estimate"] = uses["align_faces"] or uses["score_sync"]  # it runs these steps on a sample
    return {step: int(used and gpu_lease.count() > 0) for step, used in uses.items()}


def record_run(run: Path, started_s: float, outcome: str) -> None:
    """Add one session to results/<run>/run.json; `wall_s` there is the sum over all sessions of the run.

    What goes wrong is said, and changes nothing about how the call ends: a full disk has failed a job before.
    """
    path = run / "run.json"
    try:
        sessions = json.loads(path.read_text())["sessions"] if path.exists() else []
        sessions.append({"outcome": outcome, "wall_s": round(time.time() - started_s, 1)})
        write_json(path, {"wall_s": round(sum(session["wall_s"] for session in sessions), 1), "sessions": sessions})
    except OSError as error:
        print(f"The time of this call was not recorded: {faults.sentence(error, run) or error}", file=sys.stderr)
    except (ValueError, KeyError, TypeError) as error:
        print(f"The time of this call was not recorded: {path} is damaged ({error}); delete it.", file=sys.stderr)
