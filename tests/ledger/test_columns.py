"""Typed rows: every column is described once, and the tables that derive from them hold what they should."""

from dataclasses import fields
from typing import Any

import pytest

from latentsync.config import VERSIONS
from latentsync.curation import selection
from latentsync.ledger.columns import ARRAYS, KINDS, Clip, OfSource, Source, columns, names_of, text_columns
from latentsync.ledger.files import read_ledger
from latentsync.media.probe import MediaInfo
from tests import made_run
from tests.fixtures import faults


@pytest.mark.parametrize("kind", [*KINDS, *ARRAYS])
def test_every_column_says_what_it_holds(kind):
    for name, (_, column) in columns((KINDS | ARRAYS)[kind]).items():
        assert column.meaning and "|" not in column.meaning, name
        assert column.step in {"", "sources", *VERSIONS}, name


def test_measurements_have_a_unit_in_their_name_or_their_description():
    suffixes = {"_s": "s", "_px": "px", "_deg": "degrees", "_hz": "Hz", "_ns": "ns", "_share": "0..1"}
    for kind in KINDS.values():
        for name, (_, column) in columns(kind).items():
            for suffix, unit in suffixes.items():
                assert not name.endswith(suffix) or column.unit.endswith(unit), name


def test_probe_writes_described_columns():
    assert {field.name for field in fields(MediaInfo)} <= columns(OfSource).keys()


def test_tables_that_derive_from_the_columns():
    """Every threshold's column can be looked up in rejected.csv, and text stays text when it is read back."""
    rejected = set(names_of(Clip, "rejected"))
    assert {limit.column for limit in selection.LIMITS} - {"length_s"} <= rejected
    assert text_columns(Clip) & rejected == set("id kind source_id path reason detail picture_hash motion_hash".split())
    assert set(names_of(OfSource, "card")) == set(
        "fps width height video_codec pix_fmt audio_rate_hz duration_s".split()
    )
    measures = set(names_of(Clip, "measure"))
    assert not measures & set("start_tick end_tick n_ticks n_frames track size rotation_deg resolution".split())
    numbers = {name for name, (hint, _) in columns(Clip).items() if hint in (int, float, int | None, float | None)}
    assert measures <= numbers


def test_a_row_with_an_unknown_column_or_another_type_is_noticed():
    assert faults({"id": "a", "kind": "source", "size": 3}, Source) == []
    assert faults({"colour": 1}, Source) == ["colour is not described"]
    assert len(faults({"size": 3.5, "kind": "clips", "cuts": ["a"], "has_audio": 1}, Source)) == 4


def test_a_null_is_found_where_the_type_does_not_allow_it():
    row: dict[str, Any] = {"audio_file": None, "reason": None}
    assert faults(row, Clip) == []
    assert len(faults({"width": None}, Clip)) == 1


def test_rows_made_for_tests_are_as_described(tmp_path):
    made_run.curate(tmp_path, range(12), ("unreadable", "no_face", "no_audio"))
    videos = made_run.generate(tmp_path)
    found = {"pair": list((tmp_path / "select_clips").glob("pairs*.jsonl"))}
    found["clip"] = [tmp_path / "select_clips" / f"{split}.jsonl" for split in ("train", "val", "test")]
    rows = [(kind, row) for kind, paths in found.items() for path in paths for row in read_ledger(path)]
    rows += [("video", row) for row in videos]
    rows += [(row["kind"], row) for row in read_ledger(tmp_path / "score_sync" / "00000.jsonl")]
    assert {kind for kind, _ in rows} == KINDS.keys() - {"tar"}
    assert [fault for kind, row in rows for fault in faults(row, KINDS[kind])] == []
