"""What the graph costs before any job starts: `snakemake -n` over 100,000 empty sources in 500 shards.

    python benchmarks/graph.py [--sources N] [--shards N] [--json FILE]

Every target is planned as a user calls it: the scan of the input folder, the check of the configuration and the whole
graph are in the figures. The first call also writes the lists of sources. Prints a table and one line of JSON: seconds
of wall clock and the peak of the process tree's resident memory, MB (2^20 bytes).
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
TARGETS = ("all", "all again", "curate", "train", "report", "export")
PER_FOLDER = 1000
LIMIT_S, LIMIT_MB = 30, 400
_POLL_S = 0.02


def make_sources(folder: Path, n: int) -> None:
    """`n` empty files with the names of videos, a thousand to a folder."""
    for first in range(0, n, PER_FOLDER):
        part = folder / f"speaker-{first // PER_FOLDER:04d}"
        part.mkdir(parents=True)
        for number in range(first, min(n, first + PER_FOLDER)):
            (part / f"interview {number:07d}.mp4").touch()


def measured(command: list[str]) -> tuple[float, float, str]:
    """Wall seconds, peak resident memory of the process tree in MB, and what the command printed; it must succeed."""
    with tempfile.TemporaryFile("w+") as said:
        start_s, peak = time.perf_counter(), 0
        child = psutil.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        while child.poll() is None:
            peak = max(peak, resident(child))
            time.sleep(_POLL_S)
        spent_s = time.perf_counter() - start_s
        said.seek(0)
        text = said.read()
    if child.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {child.returncode}:\n{text[-3000:]}")
    return spent_s, peak / 2**20, text


def resident(process: psutil.Process) -> int:
    """Bytes of a process and of everything below it; what ends meanwhile counts nothing."""
    total = 0
    try:
        for one in [process, *process.children(recursive=True)]:
            total += one.memory_info().rss
    except psutil.NoSuchProcess:
        pass
    return total


def jobs_of(text: str) -> int:
    """The total of the job table that a dry run prints."""
    [total] = [line.split()[1] for line in text.splitlines() if line.startswith("total ")][-1:] or ["0"]
    return int(total)


def main() -> None:
    """Make the sources, plan each target, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", type=int, default=100_000)
    parser.add_argument("--shards", type=int, default=500)
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    args = parser.parse_args()
    figures = {"sources": args.sources, "shards": args.shards, "targets": {}}
    print(f"{args.sources} empty sources, {args.shards} shards")
    print(f"{'snakemake -n':14}{'jobs':>8}{'wall s':>8}{'peak MB':>9}")
    with tempfile.TemporaryDirectory() as folder:
        make_sources(Path(folder, "in"), args.sources)
        call = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", folder]
        call += ["--profile", str(ROOT / "profiles/default"), "--configfile", str(ROOT / "config/real.yaml")]
        call += ["--cores", "1", "--config", f"input_dir={folder}/in", f"shards={args.shards}", "-n", "--"]
        for target in TARGETS:
            wall_s, peak_mb, text = measured([*call, target.split()[0]])
            row = {"jobs": jobs_of(text), "wall_s": round(wall_s, 1), "peak_mb": round(peak_mb)}
            figures["targets"][target] = row
            print(f"{target:14}{row['jobs']:8}{row['wall_s']:8}{row['peak_mb']:9}", flush=True)
    rows = figures["targets"].values()
    figures["worst_wall_s"], figures["worst_peak_mb"] = (max(r[k] for r in rows) for k in ("wall_s", "peak_mb"))
    figures["within_limits"] = figures["worst_wall_s"] < LIMIT_S and figures["worst_peak_mb"] < LIMIT_MB
    figures["snakemake"], figures["python"] = version("snakemake"), platform.python_version()
    line = json.dumps(figures)
    print(line)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(line + "\n")


if __name__ == "__main__":
    main()
