"""Shared footage is found however it was cut, by the face alone and by the audio alone; strangers share none."""

import numpy as np
import pytest

from latentsync.curation import footage, selection
from latentsync.curation.footage import Match
from latentsync.ledger.rows import Row, source_id
from tests.curation.films import Film

N = 24
FILMS = [Film(number, 14.0) for number in range(N)]


def originals() -> list[Row]:
    """Each film as three clips that follow each other; quality falls with the number."""
    rows = []
    for number, film in enumerate(FILMS):
        for first in (0, 125, 250):
            rows.append(
                film.clip(f"{number}.mp4", first / 25, 5.0 - 1.0 * (first == 250), first, quality=90.0 - number)
            )
    return rows


ORIGINALS = originals()


def pairs(found: list[Match], kind: str | None = None) -> set[frozenset]:
    return {frozenset((match.a, match.b)) for match in found if kind in (None, match.kind)}


def copies(seed: int, **changes) -> tuple[list[Row], set[frozenset], list[float]]:
    """A copy of every film, cut at random."""
    rng = np.random.default_rng(seed)
    rows, wanted, starts = [], set(), []
    for number, film in enumerate(FILMS):
        length_s = rng.uniform(3.5, 7.0)
        starts.append(rng.uniform(0, 14.0 - length_s))
        rows.append(film.clip(f"copy {number}.mp4", starts[-1], length_s, quality=20.0, **changes))
        wanted.add(frozenset((source_id(f"{number}.mp4"), source_id(f"copy {number}.mp4"))))
    return rows, wanted, starts


def test_strangers_share_nothing():
    assert footage.find(ORIGINALS) == []
    assert max((match.nats for match in footage.find(ORIGINALS, 0.0)), default=0.0) < footage.JOINS_NATS / 2


@pytest.mark.parametrize("fps", [15, 24, 30000 / 1001, 30, 60])
@pytest.mark.parametrize("kind", ["face", "audio"])
def test_copies_are_found_by_either_alone(fps, kind):
    given = {"face": kind == "face", "audio": kind == "audio"}
    rows, wanted, starts = copies(round(fps), fps=fps, scale=0.5, gain=0.3, noise=0.002, **given)
    found = footage.find([*ORIGINALS, *rows])
    assert pairs(found) <= wanted and len(pairs(found, kind)) >= 0.95 * N
    for match in found:
        [number] = [n for n in range(N) if source_id(f"{n}.mp4") in (match.a, match.b)]
        lag_ticks = -match.lag_ticks if match.a == source_id(f"copy {number}.mp4") else match.lag_ticks
        assert lag_ticks == pytest.approx(25 * starts[number], abs=1.1)
        assert match.end_tick - match.start_tick >= 60


def test_a_copy_that_is_half_of_something_else_is_followed_as_far_as_it_goes():
    a = FILMS[0].clip("a.mp4", 0.0, 14.0)
    montage = [
        FILMS[1].clip("b.mp4", 2.0, 4.0),
        FILMS[0].clip("b.mp4", 6.0, 5.0, 100),
        FILMS[2].clip("b.mp4", 1.0, 4.0, 225),
    ]
    found = [match for match in footage.find([a, *montage]) if match.kind == "face"]
    [match] = found
    ticks = (match.start_tick, match.end_tick)
    if match.a != a["source_id"]:
        ticks = tuple(tick - match.lag_ticks for tick in ticks)
    assert ticks == pytest.approx((150, 275), abs=20)


def test_a_jingle_joins_none_and_a_voice_that_few_share_does():
    few = [Film(100 + k, 5.0, voice_seed=7).clip(f"few {k}.mp4", 0.0, 5.0) for k in range(4)]
    many = [Film(200 + k, 5.0, voice_seed=8).clip(f"many {k}.mp4", 0.0, 5.0) for k in range(footage.COMMON + 8)]
    found = footage.find([*few, *many])
    assert pairs(found, "face") == set() and len(pairs(found, "audio")) > 6 + 27
    joined = {frozenset(pair) for pair in footage.sharing(found)}
    assert joined == {frozenset((few[i]["source_id"], few[j]["source_id"])) for i in range(4) for j in range(i)}


def test_a_film_that_everybody_copied_is_joined_however_often():
    rows = [FILMS[0].clip(f"{k}.mp4", 0.3 * (k % 20), 6.0, audio=False) for k in range(50)]
    groups = selection.group_of(rows, {}, footage.sharing(footage.find(rows)))
    assert len(set(groups.values())) == 1


def test_clips_that_mostly_show_a_better_clip_go_and_others_stay():
    """The copy's first clip lies in two originals, its second in one for less than half, its third nowhere else."""
    a = [FILMS[0].clip("a.mp4", first / 25, 5.0, first, quality=60.0) for first in (0, 125)]
    b = [
        FILMS[0].clip("b.mp4", 3.0, 5.0, 0, quality=50.0),
        FILMS[0].clip("b.mp4", 8.0, 6.0, 125, quality=70.0),
        FILMS[1].clip("b.mp4", 0.0, 4.0, 275, quality=10.0),
    ]
    found = footage.find([*a, *b])
    gone, _ = selection.near_duplicates([*a, *b], None, found)
    assert gone == {b[0]["id"]: a[1]["id"]}
    better = [row | {"quality": 90.0} for row in b]
    gone, _ = selection.near_duplicates([*a, *better], None, found)
    assert gone == {a[1]["id"]: b[0]["id"]}  # two fifths of a[0] are shown by b[0], all of a[1] by both


def test_another_face_of_the_same_scene_is_no_near_duplicate():
    """Two people at a table, filmed once: the copies of each go, by their own."""
    rows = [
        FILMS[k].clip(path, start, 5.0, track=k, quality=q)
        for k in (0, 1)
        for path, start, q in (("a", 0, 9.0), ("b", 0.5, 8.0))
    ]
    gone, _ = selection.near_duplicates(rows, None, footage.find(rows))
    assert gone == {rows[1]["id"]: rows[0]["id"], rows[3]["id"]: rows[2]["id"]}


def test_the_order_of_rows_does_not_matter():
    rows, _, _ = copies(3)
    forward = footage.find([*ORIGINALS, *rows])
    assert footage.find([*rows, *ORIGINALS][::-1]) == forward and len(forward) >= 2 * N - 3
