"""Step segment: times only, every tick in exactly one segment, no segment across a cut."""

from latentsync.config import Segment
from latentsync.ledger.files import read_ledger, write_ledger
from latentsync.ledger.rows import segment_id, source_id
from latentsync.steps import segment
from tests import fixtures


def source(name, n_ticks, cuts, status="ok"):
    columns = {"n_ticks": n_ticks, "cuts": cuts, "audio_file": None, "sha256": "0" * 64}
    return fixtures.source(name, status=status, **columns)


def run(tmp_path, rows, cfg):
    ledgers = [tmp_path / "demo" / step / "00000.jsonl" for step in ("detect_scenes", "segment")]
    write_ledger(ledgers[0], rows)
    segment.run(cfg, {"detect_scenes": [ledgers[0]]}, {"ledger": ledgers[1]}, None)
    return read_ledger(ledgers[1])


def test_scenes_are_cut_into_pieces_and_the_rest_joins_the_last(tmp_path):
    rows = run(tmp_path, [source("a.mp4", 700, [3, 400])], Segment(length_s=5.0))
    assert [(row["start_tick"], row["end_tick"]) for row in rows] == [
        (0, 3),  # too short for anything, but that is for select_clips to say
        (3, 128),
        (128, 253),
        (253, 400),
        (400, 525),
        (525, 700),
    ]
    for row in rows:
        assert row["id"] == segment_id(source_id("a.mp4"), row["start_tick"], row["end_tick"])
        assert row["kind"] == "segment" and row["source_id"] == source_id("a.mp4") and "cuts" not in row
        assert row["n_ticks"] == 700 and row["sha256"] == "0" * 64
    assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)


def test_a_short_source_is_one_segment_and_a_fault_keeps_its_row(tmp_path):
    faulty = source("b.mp4", 0, [], status="error") | {"reason": "unreadable", "detail": "cut off"}
    rows = run(tmp_path, [source("a.mp4", 2, []), faulty], Segment(length_s=2.5))
    kinds = {row["path"]: (row["kind"], row.get("start_tick"), row.get("end_tick"), row["reason"]) for row in rows}
    assert kinds == {"a.mp4": ("segment", 0, 2, None), "b.mp4": ("source", None, None, "unreadable")}
