"""The table of faces and their audio: written, edited, read, and what each face then says."""

import csv

import cv2
import numpy as np
import pytest

from latentsync.generation import speakers, voices
from latentsync.generation.speakers import NO_FACE, OTHER_FACE
from latentsync.media.read import frame_times
from tests.generation.test_speakers import a_track
from tests.videos import clicks, head, write_video

TIMES_S = np.arange(70) / 25
TRACKS = [a_track(0, 30, 300, 90), a_track(0, 40, 80, 60), a_track(50, 60, 200, 40)]
HEADER = "face,start_s,end_s,audio\n"


def two_heads(index: int, width: int, height: int) -> np.ndarray:
    """Two people side by side; the one to the right is shown from frame 10 on only."""
    image = np.full((height, width, 3), 90, np.uint8)
    image[:, : width // 2] = head(0, width // 2, height)
    if index >= 10:
        image[:, width // 2 :] = cv2.resize(head(0, 160, 136), (width // 2, height))
    return image


@pytest.fixture(scope="module")
def video(folder):
    return write_video(folder / "two.mp4", 30, images=two_heads, size=(416, 176))


@pytest.fixture(scope="module")
def found(video, detector):
    return speakers.track_video(video, detector)


@pytest.fixture
def spoken(tmp_path):
    """Two audio files of different rates, and a folder for the table."""
    for name, rate, length_s in (("one.wav", 16_000, 1.0), ("two.wav", 44_100, 2.0)):
        audio = clicks(length_s, [0.5], rate, 40)
        write_video(tmp_path / name, video_track=False, audio=audio, audio_rate_hz=rate, audio_codec="pcm_s16le")
    return tmp_path


def table(folder, *lines: str):
    (folder / "faces.csv").write_text(HEADER + "".join(line + "\n" for line in lines))
    return folder / "faces.csv"


def test_the_table_lists_each_face_with_a_thumbnail_of_it(video, found, tmp_path):
    said = voices.write_table(tmp_path / "faces", video, found, *frame_times(video))
    with (tmp_path / "faces" / "faces.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["face"] for row in rows] == ["1", "2"] and len(said) == 2
    assert {row["audio"] for row in rows} == {""}
    for row, person in zip(rows, speakers.people(found), strict=True):
        track = found[person[0]]
        assert (float(row["start_s"]), float(row["end_s"])) == (track.start / 25, track.stop / 25)
        choice = speakers.choose(found, 30, f"{row['x']},{row['y']}")
        assert set(choice.labels[choice.labels >= 0].tolist()) == set(person)  # its place finds the face again
        thumbnail = cv2.imread(str(tmp_path / "faces" / row["thumbnail"]))
        assert min(thumbnail.shape[:2]) >= 90 and thumbnail.std() > 20
    assert {row["start_s"] for row in rows} == {"0.000", "0.400"}
    with pytest.raises(ValueError, match=r"--out .*holds faces.csv already"):
        voices.write_table(tmp_path / "faces", video, found, *frame_times(video))


def test_rows_without_audio_are_left_alone_and_paths_are_relative_to_the_table(spoken):
    path = table(spoken, "1,0,2,one.wav", "2,0,2,", f"2,0.5,1,{spoken / 'two.wav'}")
    rows = voices.read_table(path)
    assert rows == [
        voices.Row(1, 0.0, 2.0, spoken / "one.wav"),
        voices.Row(2, 0.5, 1.0, spoken / "two.wav"),
    ]


def test_each_face_gets_its_own_audio_between_its_times(spoken):
    rows = [voices.Row(1, 0, 9, spoken / "one.wav"), voices.Row(2, 0.4, 0.8, spoken / "two.wav")]
    (first, one), (second, two) = voices.voices(rows, TRACKS, TIMES_S)
    assert first.tolist() == [0] * 30 + [OTHER_FACE] * 10 + [NO_FACE] * 10 + [2] * 10 + [NO_FACE] * 10
    assert second.tolist() == [-2] * 10 + [1] * 10 + [-2] * 20 + [-1] * 10 + [-2] * 10 + [-1] * 10
    assert len(one.for_model) == 16_000 and len(two.for_model) == 32_000
    assert not ((first >= 0) & (first == second)).any()
    choice = speakers.chosen_of(TRACKS, [first, second])
    assert choice.taken == (1, 2) and choice.n_left_alone == 0


def test_one_file_in_two_parts_of_a_face_is_one_voice(spoken):
    rows = [voices.Row(2, 0, 0.4, spoken / "one.wav"), voices.Row(2, 0.8, 1.2, spoken / "one.wav")]
    [(labels, _)] = voices.voices(rows, TRACKS, TIMES_S)
    assert (labels == 1).nonzero()[0].tolist() == [*range(10), *range(20, 30)]


def test_the_result_has_the_sum_of_all_files(spoken):
    rows = [voices.Row(1, 0, 9, spoken / "one.wav"), voices.Row(2, 0, 9, spoken / "two.wav")]
    audio = [one for _, one in voices.voices(rows, TRACKS, TIMES_S)]
    both = voices.mixed(audio)
    assert both.length_s == pytest.approx(2.0) and (both.rate_hz, both.layout, both.copied()) == (44_100, "mono", False)
    written = np.concatenate(list(both.pieces(44_100, "mono")), axis=1)[0]
    parts = [np.concatenate(list(one.pieces(44_100, "mono")), axis=1)[0] for one in audio]
    assert [len(part) for part in parts] == [44_100, 88_200] and len(written) == 88_200
    expected = parts[1].copy()
    expected[:44_100] += parts[0]
    np.testing.assert_allclose(written, expected.clip(-1, 1), atol=1e-6)
    assert expected.max() > 1.2  # both click at once, and the sum is limited
    assert voices.mixed(audio[:1]) is audio[0] and voices.mixed([audio[0], audio[0]]) is audio[0]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["1,0,2,"], "names no audio"),
        (["1,0,2,three.wav"], "line 2: .*three.wav is not a file; paths are relative to the table"),
        (["0,0,2,one.wav"], "line 2 is not a face"),
        (["1,0,2,one.wav", "2,2,2,one.wav"], "line 3 is not a face"),
        (["one,0,2,one.wav"], "line 2 is not a face"),
        (["1,0,2"], "line 2 has no column audio"),
    ],
)
def test_a_wrong_table_is_one_sentence_with_its_line(spoken, lines, words):
    with pytest.raises(ValueError, match=words):
        voices.read_table(table(spoken, *lines))


def test_a_face_that_is_not_there_or_says_two_things_is_refused(spoken):
    with pytest.raises(ValueError, match="--voices names face 3, but the video has 2"):
        voices.voices([voices.Row(3, 0, 9, spoken / "one.wav")], TRACKS, TIMES_S)
    twice = [voices.Row(1, 0, 1, spoken / "one.wav"), voices.Row(1, 0.5, 2, spoken / "two.wav")]
    with pytest.raises(ValueError, match=r"lets face 1 say one.wav and two.wav at 0.5 s"):
        voices.voices(twice, TRACKS, TIMES_S)
