"""What the Snakefile needs while it is parsed: a checked configuration, the list of sources, the record of the run.

No torch, no OpenCV: every cluster job parses the Snakefile again.
"""

import json
import time
from pathlib import Path
from typing import Any

from latentsync import config, required
from latentsync.ledger import sources
from latentsync.ledger.files import write_json, write_text


def prepare(values: dict[str, Any], main_process: bool) -> config.Config:
    """Check the configuration, and in the main process list the sources.

    Raises:
        ValueError: one sentence; the Snakefile turns it into a WorkflowError, before any job starts.
    """
    cfg = config.validate(values)
    if cfg.select_clips.speakers is not None:
        if not Path(cfg.select_clips.speakers).is_file():
            raise ValueError(f"select_clips.speakers is {cfg.select_clips.speakers!r}, which is not a file.")
        sources.read_speakers([Path(cfg.select_clips.speakers)])
    required.check(cfg)
    if main_process and cfg.input_dir is not None:
        sources.refuse_results(Path(cfg.input_dir), Path("results"))
        videos, others = sources.write_sources(Path(cfg.input_dir), Path("results", cfg.run, "sources"), cfg.shards)
        if others:
            names = ", ".join(others[:3]) + (" ..." if len(others) > 3 else "")
            said = f"{cfg.input_dir}: {videos} videos; {len(others)} files passed over, not videos by name: {names}"
            print(said.encode("utf-8", "backslashreplace").decode())  # names need not be UTF-8
    if main_process:
        _write_configuration(cfg)
    return cfg


def _write_configuration(cfg: config.Config) -> None:
    """Keep results/<run>/config.json for the report, without the places of this machine."""
    path = Path("results", cfg.run, "config.json")
    text = cfg.model_dump_json(indent=1, exclude={"input_dir": True, "select_clips": {"speakers"}}) + "\n"
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)


def record_run(run: Path, started_s: float, outcome: str) -> None:
    """Add one session to results/<run>/run.json; `wall_s` is the sum over the sessions of this run."""
    path = run / "run.json"
    sessions = json.loads(path.read_text())["sessions"] if path.exists() else []
    sessions.append({"outcome": outcome, "wall_s": round(time.time() - started_s, 1)})
    write_json(path, {"wall_s": round(sum(session["wall_s"] for session in sessions), 1), "sessions": sessions})
