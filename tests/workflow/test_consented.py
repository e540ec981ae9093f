"""A run with a table of consents: what it does not cover reaches no split, and each change runs what it must."""

import csv

import pytest
import yaml

from latentsync.ledger.files import read_ledgers
from tests.workflow.short import SECTIONS, curate, heads

NAMES = [f"{number}.mp4" for number in range(5)]


def consent(folder, ends: dict[str, str], document: str = "") -> None:
    rows = "".join(f"{name},training generation,{until},{document}\n" for name, until in ends.items())
    (folder / "in/consent.csv").write_text("path,scope,until,document\n" + rows)


def selected(run) -> set[str]:
    return {
        row["path"] for row in read_ledgers(run / f"select_clips/{split}.jsonl" for split in ("train", "val", "test"))
    }


def refused(run) -> dict[str, str]:
    with open(run / "select_clips/rejected.csv", newline="") as file:
        return {row["path"]: row["detail"] for row in csv.DictReader(file) if row["reason"] == "no_consent"}


@pytest.mark.slow
def test_only_what_is_covered_is_selected_today(tmp_path):
    heads(tmp_path / "in", *NAMES)
    given = {"input_dir": str(tmp_path / "in"), "shards": 1, "consent": str(tmp_path / "in/consent.csv")}
    (tmp_path / "short.yaml").write_text(yaml.safe_dump(SECTIONS | given))
    consent(tmp_path, dict.fromkeys(NAMES[:4], "2999-01-01"))
    run = curate(tmp_path, 1)
    assert selected(run) == set(NAMES[:4]) and refused(run).keys() == {NAMES[4]}
    made = [run / f"{step}/summary.json" for step in ("select_clips", "describe_clips")]
    before = [path.stat().st_mtime_ns for path in made]

    consent(tmp_path, dict.fromkeys(NAMES[:4], "2999-12-31"), "ab" * 32)  # renewed: only the page is made again
    curate(tmp_path, 1)
    after = [path.stat().st_mtime_ns for path in made]
    assert after[0] == before[0] and after[1] > before[1]
    card = (run / "describe_clips/card.md").read_text()
    assert "(1 signed documents named); the first ends on 2999-12-31" in card

    consent(tmp_path, dict.fromkeys(NAMES[:4], "2999-12-31") | {NAMES[0]: "2020-01-01"})
    curate(tmp_path, 1)
    assert selected(run) == set(NAMES[1:4])
    assert refused(run)[NAMES[0]].startswith("the consent of 0.mp4 to training ended on 2020-01-01; add a row")
