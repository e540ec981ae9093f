"""A table of videos: every row is written or says why not, and a second call does only what is missing."""

import csv

import pytest

from latentsync.generation.pairs import read_pairs, results_of, work_through


def table(folder, *rows, header="video,audio,out"):
    path = folder / "pairs.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def files(tmp_path):
    for name in ("a.mp4", "b.mp4", "a.wav"):
        (tmp_path / name).write_text(name)
    return tmp_path


class Redraw:
    def __init__(self, *bad: str):
        self.bad, self.done, self.following = set(bad), [], []

    def __call__(self, pair, following) -> str:
        self.following.append(following and following.out.name)
        if pair.video.name in self.bad:
            raise ValueError(f"{pair.video.name} shows no face")
        self.done.append(pair.out.name)
        pair.out.write_text("new")
        return "12 of 12 frames redrawn"


ROWS = "a.mp4,a.wav,one.mp4", "b.mp4,a.wav,two.mp4", "a.mp4,a.wav,three.mp4"


def outcomes(path, redraw, settings="1"):
    return [(one.state, one.says) for one in work_through(path, settings, redraw)]


def test_a_row_that_fails_stops_no_other_and_is_tried_again(files):
    path, first, second = table(files, *ROWS), Redraw("b.mp4"), Redraw()
    assert outcomes(path, first) == [
        ("written", "12 of 12 frames redrawn"),
        ("failed", "b.mp4 shows no face"),
        ("written", "12 of 12 frames redrawn"),
    ]
    rows = list(csv.DictReader(results_of(path).open()))
    assert [row["state"] for row in rows] == ["written", "failed", "written"]
    assert rows[1]["says"] == "b.mp4 shows no face"
    assert {state for state, _ in outcomes(path, second)} == {"written"} and second.done == ["two.mp4"]


def test_a_stopped_table_goes_on_behind_its_last_row(files):
    class Stopped(Redraw):
        def __call__(self, pair, following):
            if self.done:
                raise KeyboardInterrupt
            return super().__call__(pair, following)

    path, rest = table(files, *ROWS), Redraw()
    with pytest.raises(KeyboardInterrupt):
        outcomes(path, Stopped())
    outcomes(path, rest)
    assert rest.done == ["two.mp4", "three.mp4"] and rest.following == ["three.mp4", None]


def test_a_video_without_consent_is_not_drawn_even_if_it_was_before(files):
    path, again, renewed = table(files, *ROWS), Redraw(), Redraw()
    outcomes(path, Redraw())

    def refuses(pair):
        return "the consent ended" if pair.video.name == "b.mp4" else None

    told = [(one.state, one.says) for one in work_through(path, "1", again, refuses=refuses)]
    done = ("written", "done before: 12 of 12 frames redrawn")
    assert told == [done, ("failed", "the consent ended"), done] and again.done == []
    assert (files / "two.mp4").read_text() == "new"  # what exists is the user's
    outcomes(path, renewed)
    assert renewed.done == ["two.mp4"]


@pytest.mark.parametrize("change", ["settings", "video", "out"])
def test_a_row_is_done_again_when_anything_changed(files, change):
    path, again = table(files, *ROWS), Redraw()
    outcomes(path, Redraw())
    if change == "video":
        (files / "b.mp4").write_text("another film")
    if change == "out":
        (files / "two.mp4").unlink()
    outcomes(path, again, "2" if change == "settings" else "1")
    assert again.done == (["one.mp4", "two.mp4", "three.mp4"] if change == "settings" else ["two.mp4"])


@pytest.mark.parametrize(
    ("rows", "header", "words"),
    [
        (["a.mp4,a.wav,one.mp4", "b.mp4,a.wav,./one.mp4"], "video,audio,out", "lines 2 and 3"),
        (["a.mp4,a.wav,"], "video,audio,out", "no out in line 2"),
        (
            ["a.mp4,a.wav"],
            "video,sound",
            "begins with 'video,sound'; its first line must name video, audio, out, separated by commas",
        ),
        ([], "video,audio,out", "no rows"),
    ],
)
def test_a_wrong_table_is_one_sentence(files, rows, header, words):
    with pytest.raises(ValueError, match=words):
        read_pairs(table(files, *rows, header=header))
    with pytest.raises(ValueError, match="is not a file; write a CSV"):
        read_pairs(files / "none.csv")
