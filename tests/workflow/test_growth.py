"""Sources added to a finished run: only they are processed, and existing files are not touched.

`make bench-growth` adds a hundred sources to a hundred.
"""

import json
import os
import subprocess
import time

import pytest

from latentsync.ledger.files import read_ledger, read_ledgers
from latentsync.ledger.rows import shard_of, source_id
from tests.workflow.short import command, curate, heads, processed

SHARDS = 2
BEFORE, ADDED = (int(os.environ.get(name, default)) for name, default in (("BEFORE", 3), ("ADDED", 4)))


def shard(name):
    return shard_of(source_id(name), SHARDS)


def file_stats(run):
    """Inode and modification time of every ledger and media file, by path below the run."""
    paths = [path for pattern in ("*/*.jsonl", "*/media/*") for path in run.glob(pattern)]
    return {str(path.relative_to(run)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


@pytest.mark.slow
def test_only_added_sources_are_processed(tmp_path):
    old = [f"old {number}.mp4" for number in range(BEFORE)]
    quiet = shard(old[0])  # this shard gets nothing new
    new = [name for name in (f"new {number}.mp4" for number in range(9 * ADDED)) if shard(name) != quiet][:ADDED]
    heads(tmp_path / "in", *old)
    start_s = time.perf_counter()
    run = curate(tmp_path, SHARDS)
    first_s = time.perf_counter() - start_s
    before, work, journals = file_stats(run), processed(run), {p: p.read_bytes() for p in run.glob("*/journal/*")}
    ids = {source_id(name) for name in old}
    assert {ident[:16] for items in work.values() for ident in items} == ids

    heads(tmp_path / "in", *new)
    start_s = time.perf_counter()
    curate(tmp_path, SHARDS)
    second_s = time.perf_counter() - start_s
    after, again = file_stats(run), processed(run)
    added = {source_id(name) for name in new}
    for step, items in again.items():
        assert len(items) == len(set(items)), f"{step} processed an item twice"
        assert {ident[:16] for ident in set(items) - set(work[step])} == added, step
    for path, content in journals.items():
        assert path.read_bytes().startswith(content), f"{path} was rewritten"
    untouched = [path for path in before if "/media/" in path or path.endswith(f"/{quiet}.jsonl")]
    assert len(untouched) > 4 * BEFORE and {path: after[path] for path in untouched} == {
        path: before[path] for path in untouched
    }
    curate(tmp_path, SHARDS, "export")
    exported = read_ledger(run / "export_webdataset/tars.jsonl")
    selected = read_ledgers((run / "select_clips").glob("t*.jsonl"))
    assert sum(row["n_samples"] for row in exported if row["split"] != "val") == len(selected) > 0
    assert (run / "export_webdataset/train-000000.tar").stat().st_size > 10_000

    clips = sum(item.count("-t") for item in again["score_sync"])
    figures = {"before": BEFORE, "added": ADDED, "clips": clips, "media_untouched": len(untouched)}
    print(json.dumps(figures | {"first_s": round(first_s, 1), "second_s": round(second_s, 1)}))


@pytest.mark.slow
def test_ledgers_of_an_older_version_without_checksums_plan_nothing(tmp_path):
    """Checksums are not declared, so whether they are there or not runs nothing again, neither here nor in training."""
    heads(tmp_path / "in", "a.mp4", "b.mp4", "c.mp4")
    run = curate(tmp_path, 1)
    checksums = list(run.glob("*/.*.sha256"))
    assert {path.parent.name for path in checksums} >= {"probe", "align_faces", "select_clips"}
    for change in (lambda path: path.unlink(), lambda path: path.write_text(f"{'0' * 64}  other\n")):
        for path in checksums:
            change(path)
        dry = [*command(tmp_path, 1), "--dry-run"]
        planned = subprocess.run(dry, capture_output=True, text=True, timeout=120, check=True)
        assert "Nothing to be done" in planned.stdout + planned.stderr
