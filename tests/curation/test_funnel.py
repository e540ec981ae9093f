"""The funnel counts files that are no videos apart from videos."""

from latentsync.curation.funnel import funnel
from latentsync.ledger.rows import rejected
from latentsync.report import curation


def source(path, reason=None):
    row = {"id": path, "kind": "source", "source_id": path, "path": path, "status": "ok", "reason": None, "detail": ""}
    return rejected(row, reason, "why")


def clip(path, reason=None):
    row = {"kind": "clip", "source_id": path, "segment_id": f"{path}-000000-000050", "id": f"{path}-000000-000050-t0"}
    row |= {"start_tick": 0, "end_tick": 50, "status": "ok", "reason": None, "duration_s": 2.0}
    return rejected(row, reason, "why") if reason else row


def test_files_that_are_no_videos_are_a_stage_of_their_own():
    """They have no length, no size and no hash, and the number of videos is the number of videos."""
    lost = [source("notes.txt", "not_video"), source("broken.mp4", "unreadable"), clip("b", "low_sync")]
    stages = funnel([*lost, clip("a")], lost)
    assert [(stage["stage"], stage["left"], stage["lost"]) for stage in stages[:3]] == [
        ("files", 4, {}),
        ("found", 3, {"not_video": 1}),
        ("readable", 2, {"unreadable": 1}),
    ]
    shown = curation.funnel(stages)
    assert [(stage["title"], stage["unit"]) for stage in shown[:2]] == [
        ("Files found", "files"),
        ("Videos found", "videos"),
    ]
    assert shown[1]["lost"] == [
        {"reason": "not_video", "name": "not video", "words": "the file holds no video", "rows": 1}
    ]
    assert funnel([clip("a")], [])[0]["stage"] == "found"
