"""Files with random damage end as rows or as good clips: nothing stops a step, hangs or takes all memory."""

import json
import multiprocessing
import re
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from latentsync.config import DetectScenes, Probe, Resample, Segment
from latentsync.ledger.columns import REASONS
from latentsync.ledger.files import read_ledger, write_ledger
from latentsync.media.audio import read_flac
from latentsync.steps import detect_scenes, probe, resample, segment
from tests.fixtures import source
from tests.media.mangled import mangled
from tests.videos import clicks, head, write_video

N_FILES, SECONDS, MAX_S, MAX_GB = 40, 2, 60.0, 1.5


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("originals")
    sound = clicks(SECONDS, [0.3, 0.9, 1.6], 44_100)
    made = {"audio": sound, "images": head, "size": (208, 176)}
    return [
        write_video(folder / "a.mp4", 25 * SECONDS, **made),
        write_video(folder / "b.mkv", 30 * SECONDS, 30, **made),
        write_video(folder / "c.ts", 25 * SECONDS, start_s=1.0, audio_start_s=1.0, **made),
        write_video(folder / "d.avi", 25 * SECONDS, codec="mpeg4", b_frames=0, **made | {"audio_codec": "pcm_s16le"}),
    ]


def curate(run: Path, sources: Path) -> tuple[dict[str, list[dict]], float]:
    """All steps that read the files themselves, but for the detector: rows by path, and the peak memory, GB."""
    names = sorted(path.name for path in sources.iterdir())
    write_ledger(run / "sources/00000.jsonl", [source(name, size=1, mtime_ns=1) for name in names])
    before = "sources"
    for step, cfg in ((probe, Probe()), (resample, Resample()), (detect_scenes, DetectScenes()), (segment, Segment())):
        name = step.__name__.rpartition(".")[2]
        step.run(cfg, {before: [run / before / "00000.jsonl"]}, {"ledger": run / name / "00000.jsonl"}, sources)
        before = name
    rows: dict[str, list[dict]] = {name: [] for name in names}
    for row in read_ledger(run / "segment/00000.jsonl"):
        rows[row["path"]].append(row)
    status = Path("/proc/self/status").read_text()  # rusage would count the process that started this one
    return rows, int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1e6


def test_damaged_files_end_as_rows(tmp_path, originals):
    folder = tmp_path / "in"
    folder.mkdir()
    for seed in range(N_FILES):
        rng = np.random.default_rng(seed)
        mangled(originals[int(rng.integers(len(originals)))], folder / f"{seed:04d}", rng)
    run = tmp_path / "results/fuzz"
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:  # with a peak of its own
        rows, peak_gb = process.submit(curate, run, folder).result()
    assert peak_gb < MAX_GB
    spent = Counter[str]()
    for cost in (json.loads(line) for path in run.glob("costs/*/*.jsonl") for line in path.open()):
        spent[cost["id"]] += cost["wall_s"]
    assert len(spent) >= N_FILES and max(spent.values()) < MAX_S
    assert len(rows) == N_FILES and all(rows.values())
    found = [row for members in rows.values() for row in members]
    assert all(row["reason"] in REASONS and row["detail"] for row in found if row["status"] != "ok")
    assert not [row["detail"] for row in found if row["reason"] in ("failed", "crashed")]
    good = [row for row in found if row["status"] == "ok"]
    assert len({row["path"] for row in good}) >= N_FILES // 3  # much of it can still be used
    for row in good:
        assert 0 < row["n_ticks"] < 25 * 60 and row["audio_file"] is not None or not row["has_audio"]
    for row in {row["path"]: row for row in good if row["audio_file"]}.values():
        samples = read_flac(tmp_path / "results/fuzz" / row["audio_file"])
        assert len(samples) == 640 * row["n_ticks"] and np.isfinite(samples).all()
