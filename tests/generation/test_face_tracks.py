"""Tracks of a video are found once; those of the next video meanwhile, and never two at the same time."""

import threading
from pathlib import Path

import pytest

from latentsync.generation import face_tracks
from latentsync.generation.progress import Progress


def wanted(name: str) -> face_tracks.Wanted:
    return Path(name), "mediapipe", 2, None, False


class Find:
    """In place of a detector: its tracks are the name of the video; it goes on from frame to frame when it may."""

    def __init__(self):
        self.found, self.threads, self.may_end, self.busy = [], [], threading.Event(), threading.Lock()

    def __call__(self, video, faces, max_faces, max_s, deinterlace, progress):
        assert self.busy.acquire(blocking=False), "one detector follows two videos"
        try:
            self.threads.append(threading.current_thread())
            while not self.may_end.wait(0.01):
                progress(Progress("finding faces"))
            if video.name == "bad.mp4":
                raise ValueError("no picture")
            self.found.append(video.name)
            return [video.name]
        finally:
            self.busy.release()


@pytest.fixture
def find(monkeypatch):
    monkeypatch.setattr(face_tracks, "cores", lambda: 2)
    return Find()


def test_the_next_video_is_followed_meanwhile_and_once(find):
    tracks = face_tracks.FaceTracks(find)
    find.may_end.set()
    assert tracks.of(wanted("a.mp4")) == tracks.of(wanted("a.mp4")) == ["a.mp4"]
    tracks.meanwhile(wanted("b.mp4"))
    tracks.meanwhile(wanted("a.mp4"))  # is there already
    assert tracks.of(wanted("b.mp4")) == ["b.mp4"]
    assert find.found == ["a.mp4", "b.mp4"]
    assert find.threads[0] is threading.main_thread() is not find.threads[1]
    tracks.close()


def test_what_is_wrong_with_the_next_video_is_said_in_its_turn(find):
    tracks = face_tracks.FaceTracks(find)
    find.may_end.set()
    tracks.meanwhile(wanted("bad.mp4"))
    with pytest.raises(ValueError, match="no picture"):
        tracks.of(wanted("bad.mp4"))
    assert tracks.of(wanted("a.mp4")) == ["a.mp4"]
    tracks.close()


def test_another_video_or_the_end_stops_it_at_the_next_frame(find):
    tracks = face_tracks.FaceTracks(find)
    tracks.meanwhile(wanted("long.mp4"))
    tracks.meanwhile(wanted("longer.mp4"))
    tracks.close()
    assert find.found == []
    tracks = face_tracks.FaceTracks(find)
    tracks.meanwhile(wanted("long.mp4"))
    threading.Timer(0.1, find.may_end.set).start()
    found = tracks.of(wanted("other.mp4"))
    assert found == ["other.mp4"] and "long.mp4" not in find.found
    tracks.close()


def test_an_interrupted_wait_stops_the_thread_too(find, monkeypatch):
    tracks = face_tracks.FaceTracks(find)
    tracks.meanwhile(wanted("long.mp4"))
    coming = tracks.coming[1]
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(coming, "result", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
        tracks.of(wanted("long.mp4"))
    closing = threading.Thread(target=tracks.close, daemon=True)
    closing.start()
    closing.join(10)
    stopped = not closing.is_alive()
    find.may_end.set()  # so that a failure ends, too
    assert stopped and find.found == []
