"""Videos with packets that cannot be decoded: what is lost, what is held, and that it is the same in any order."""

from pathlib import Path

import numpy as np
import pytest

from latentsync.config import DetectScenes, Generate
from latentsync.faces.backends import IBUG_68
from latentsync.generation.notes import notes_of
from latentsync.generation.speakers import track_video
from latentsync.generation.video import in_order
from latentsync.ledger.rows import Rejection
from latentsync.media import damage, probe, read
from latentsync.media.frames import to_rgb
from latentsync.steps.detect_scenes import find_cuts
from latentsync.timing import ticks_to_frames
from tests.media.mangled import overwritten, packets_of, remuxed
from tests.videos import number_of, write_video

GOP, N = 25, 150  # 25 frames a second
FILES = {
    "x264.mp4": {},
    "x264.avi": {},  # counted: it has no times of presentation
    "mpeg4.mp4": {"codec": "mpeg4", "b_frames": 0},
    "mpeg4.avi": {"codec": "mpeg4", "b_frames": 0},
    "vp9.webm": {"codec": "libvpx-vp9", "b_frames": 0},
    "hevc.mp4": {"codec": "libx265", "codec_options": {"x265-params": "log-level=none:pools=1:scenecut=0"}},
}
STEADY = {"x264-params": "scenecut=0", "sc_threshold": "1000000000"}  # key frames where they are due only


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("whole")
    made = {"gop": GOP, "codec_options": STEADY}
    return {name: write_video(folder / name, N, **made | more) for name, more in FILES.items()}


def broken(path: Path, out: Path, numbers, kept: float = 0.0) -> Path:
    return remuxed(path, out / path.name, overwritten(numbers, kept))


def keys_of(path: Path) -> list[int]:
    """Numbers of the key packets in the order of the file."""
    videos = [one for one in packets_of(path) if one["kind"] == "video"]
    return [number for number, one in enumerate(videos) if one["packet"].is_keyframe]


def shown(path: Path, span=None, strict: bool = False) -> dict[int, int]:
    """Index -> number that its frame shows."""
    return {index: number_of(to_rgb(frame)) for index, frame in read.Reader(path, strict).frames(span)}


def ticks_of(path: Path) -> np.ndarray:
    return ticks_to_frames(*read.frame_times(path))


@pytest.mark.parametrize("name", FILES)
def test_one_broken_packet_costs_its_frame(tmp_path, whole, name):
    path = broken(whole[name], tmp_path, [keys_of(whole[name])[3] - 1])  # nothing is predicted from it
    assert probe.probe_media(path).n_frames == N
    reader = read.Reader(path)
    numbers = [number_of(to_rgb(frame)) for _, frame in reader.frames()]
    [lost] = reader.lost
    assert 3 * GOP - 6 < lost < 3 * GOP and reader.n_concealed == 0
    near = range(lost, lost + 3 * probe.timeline(path).counted)  # where frames are counted, it may be one of the next
    assert [one for index, one in enumerate(numbers) if one != index and index not in near] == [lost - 1] * (not near)
    _, repairs = find_cuts(path, ticks_of(path), DetectScenes())
    assert repairs == {"lost_frames": 3 * GOP - lost}


@pytest.mark.parametrize("name", FILES)
def test_a_broken_key_frame_is_a_hole_that_costs_only_what_it_touches(tmp_path, whole, name):
    key = keys_of(whole[name])[2]
    path = broken(whole[name], tmp_path, [key])
    for strict in (False, True):
        for span in (np.arange(45), np.arange(3 * GOP, N)):
            assert shown(path, span, strict) == {index: index for index in span}
    for span in (np.arange(45, 60), np.arange(60, 70), np.arange(70, N)):
        with pytest.raises(Rejection, match=r"no frame can be decoded between (1.\d\d|2.00) and 3.00 s"):
            shown(path, span, strict=True)
    cuts, repairs = find_cuts(path, ticks_of(path), DetectScenes())
    begin = 75 - repairs["lost_frames"]
    assert 48 <= begin <= 50 and {begin, 75} <= set(cuts)  # and no segment crosses a cut


def test_what_is_predicted_from_a_broken_frame_is_shown_to_people_and_not_to_training(tmp_path, whole):
    """As players do, a result shows it; crops are cut of whole frames only."""
    path = broken(whole["mpeg4.mp4"], tmp_path, [30])
    assert list(shown(path)) == list(range(N))
    with pytest.raises(Rejection, match=r"between 1.20 and 2.00 s"):
        shown(path, strict=True)
    _, repairs = find_cuts(path, ticks_of(path), DetectScenes())
    assert repairs == {"lost_frames": 20}


def test_what_a_decoder_conceals_is_counted(tmp_path, whole):
    path = broken(whole["x264.mp4"], tmp_path, [30], kept=0.5)
    reader = read.Reader(path)
    assert len(list(reader.frames())) == N and (reader.n_concealed, reader.lost) == (1, set())
    _, repairs = find_cuts(path, ticks_of(path), DetectScenes())
    assert 10 < repairs["lost_frames"] <= GOP  # all up to the next key frame


def test_a_broken_beginning_is_left_out(tmp_path, whole):
    path = broken(whole["mpeg4.mp4"], tmp_path, [0, 1, 2])
    info = probe.probe_media(path)
    assert (info.n_frames, info.repairs) == (N - GOP, {"lost_frames": GOP})
    assert shown(path, strict=True) == {index: index + GOP for index in range(N - GOP)}


def test_a_source_of_which_most_is_lost_is_rejected(tmp_path, whole):
    path = broken(whole["vp9.webm"], tmp_path, range(20, 140))
    with pytest.raises(Rejection, match="130 of 150 frames are damaged, up to 130 in a row; more than 80%") as verdict:
        find_cuts(path, ticks_of(path), DetectScenes())
    assert verdict.value.reason == "unreadable"


def test_a_stream_without_key_frames_heals_by_time(tmp_path):
    path = write_video(tmp_path / "refresh.mp4", 400, codec="mpeg4", b_frames=0, gop=600, codec_options=STEADY)
    path = broken(path, tmp_path, [20])
    cuts, repairs = find_cuts(path, ticks_of(path), DetectScenes())
    healed = 20 + round(25 * damage.HEAL_S) + 1
    assert {20, healed} <= set(cuts) and repairs == {"lost_frames": healed - 20}


def test_a_long_hole_is_not_read_to_its_end_for_every_segment(tmp_path, whole, monkeypatch):
    path = broken(whole["mpeg4.mp4"], tmp_path, range(20, N))
    n_read, lost = [], damage.Spoiled.lost
    monkeypatch.setattr(damage.Spoiled, "lost", lambda *args: n_read.append(args) or lost(*args))
    with pytest.raises(Rejection, match=r"between 0.80 and 1.8\d s"):
        shown(path, np.arange(15, 30))
    assert len(n_read) <= 30 - 20 + read.REORDERED + 1
    assert shown(path, np.arange(15, 20)) == {index: index for index in range(15, 20)}


def test_frames_that_a_decoder_holds_back_are_not_lost_in_a_hole(tmp_path, whole):
    """The decoder has to be flushed for the last frames before the hole."""
    path = broken(whole["x264.mp4"], tmp_path, range(keys_of(whole["x264.mp4"])[2], N - 1))
    assert shown(path, np.arange(30, 2 * GOP)) == {index: index for index in range(30, 2 * GOP)}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("seed", range(4))
def test_what_is_not_damaged_is_the_same_however_it_is_reached(tmp_path, whole, name, seed):
    rng = np.random.default_rng(seed)

    def change(packets):
        for one in rng.choice(packets, 5, replace=False):
            data = bytearray(bytes(one["packet"]))
            for place in rng.integers(0, len(data), 3):
                data[place] = rng.integers(256)
            one["data"] = bytes(data)
        return packets

    path = remuxed(whole[name], tmp_path / name, change)
    for strict in (True, False):
        holes: list[range] = []
        reader = read.Reader(path, strict)
        everything = {index: to_rgb(frame) for index, frame in reader.frames(holes=holes)}
        n_lost = len(reader.lost)
        assert sorted(everything) == sorted(set(range(len(reader.timeline.pts))).difference(*holes))
        for again in range(2):
            reader = read.Reader(path, strict)
            for span in np.array_split(np.arange(len(reader.timeline.pts)), 7):
                alone = reader if again else read.Reader(path, strict)
                if any(hole.start <= span[-1] and span[0] < hole.stop for hole in holes):
                    with pytest.raises(Rejection, match="no frame can be decoded"):
                        list(alone.frames(span))
                    continue
                found = {index: to_rgb(frame) for index, frame in alone.frames(span)}
                assert list(found) == list(span)
                assert not strict or all((found[index] == everything[index]).all() for index in span)
        reader = read.Reader(path, strict)
        assert len(list(reader.frames(holes=[]))) == len(everything) and len(reader.lost) == n_lost


def test_generation_reads_a_damaged_video_twice_alike(tmp_path, whole):
    path = broken(whole["mpeg4.mp4"], tmp_path, [30, 31, 90])
    forth = [to_rgb(frame) for frame in in_order(path, np.arange(N))]
    back = [to_rgb(frame) for frame in in_order(path, np.arange(N)[::-1])]
    assert all((one == other).all() for one, other in zip(forth, back[::-1], strict=True))


def test_the_result_of_generation_says_what_was_lost(tmp_path, whole):
    class Blind:
        scheme = IBUG_68

        def detect(self, rgb):
            return []

        def reset(self):
            pass

    path = broken(whole["mpeg4.mp4"], tmp_path, [30, 31])
    counted: dict[str, int] = {}
    track_video(path, Blind(), damage=counted)
    assert counted == {"lost_frames": 2}
    assert "damaged frames replaced by the frame before or left out: 2" in notes_of(path, Generate(), False, counted)[0]
    assert notes_of(whole["mpeg4.mp4"], Generate(), False) == []
