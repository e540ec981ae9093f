"""The table of consents: what it covers today, what it no longer covers, and sentences for tables that are wrong."""

from datetime import date

import pytest

from latentsync.ledger import consent
from latentsync.ledger.consent import Grant, cover, cover_files, covered, grant_of_file, read_consent, refusal

TODAY = date(2026, 11, 27)
PAPER, RENEWED = "ab" * 32, "cd" * 32
HEADER = "path,speaker,scope,until,document"


def table(folder, *rows, header=HEADER):
    path = folder / "consent.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def coverage(folder, *rows, speakers=None, today=TODAY):
    return cover(read_consent(table(folder, *rows), "consent", today), folder, speakers or {})


def test_a_row_covers_a_file_for_its_scopes_and_no_other(tmp_path):
    found = coverage(tmp_path, "a.mp4,,training,2027-01-31,", f"sub/./b c.mp4,,training generation,,{PAPER.upper()}")
    assert found == {
        "a.mp4": {"training": Grant("2027-01-31", None, False)},
        "sub/b c.mp4": dict.fromkeys(("training", "generation"), Grant(None, PAPER, False)),
    }
    for_generation = covered(found, "generation")
    assert refusal(for_generation, "sub/b c.mp4", "generation") is None
    assert refusal(for_generation, "a.mp4", "generation") == (
        "a.mp4 is not covered for generation; add a row with its path and this scope"
    )
    assert refusal(None, "a.mp4", "generation") is None  # no table


@pytest.mark.parametrize(("until", "ended"), [("2026-11-26", True), ("2026-11-27", False), ("2026-11-28", False)])
def test_a_consent_holds_to_the_end_of_its_last_day(tmp_path, until, ended):
    found = covered(coverage(tmp_path, f"a.mp4,,training,{until},"), "training")
    assert found == {"a.mp4": until if ended else None}
    sentence = f"the consent of a.mp4 to training ended on {until}; add a row with a later date"
    assert refusal(found, "a.mp4", "training") == (sentence if ended else None)


def test_of_several_rows_the_one_that_lasts_longest_counts(tmp_path):
    rows = f"a.mp4,,training,2026-01-01,{PAPER}", f"a.mp4,,training generation,2027-01-01,{RENEWED}"
    for order in (rows, rows[::-1], (*rows, rows[1])):
        assert coverage(tmp_path, *order)["a.mp4"]["training"] == Grant("2027-01-01", RENEWED, False)
    assert coverage(tmp_path, *rows, "a.mp4,,training,,")["a.mp4"]["training"] == Grant(None, None, False)


def test_a_speaker_stands_for_all_files_of_theirs(tmp_path):
    speakers = {"a.mp4": "Ann", "b.mp4": "Ann", "c.mp4": "Bo"}
    found = coverage(tmp_path, ",Ann,training,,", "b.mp4,,training generation,2020-01-01,", speakers=speakers)
    assert covered(found, "training") == {"a.mp4": None, "b.mp4": None}
    assert covered(found, "generation") == {"b.mp4": "2020-01-01"}
    with pytest.raises(ValueError, match="row for the speaker Ann, but select_clips.speakers names no speakers; set"):
        coverage(tmp_path, ",Ann,training,,")


def test_names_are_compared_as_the_list_of_sources_has_them(tmp_path):
    """An accent in either encoding, a table outside the folder, and files elsewhere."""
    videos = tmp_path / "videos"
    videos.mkdir()
    (tmp_path / "link").symlink_to(videos)
    rows = "videos/Zoe\u0308.mp4,,training,,", "elsewhere.mp4,,training,,"
    found = cover(read_consent(table(tmp_path, *rows), "consent", TODAY), tmp_path / "link", {})
    allowed = covered(found, "training")
    assert [refusal(allowed, name, "training") for name in ("Zo\u00eb.mp4", "Zoe\u0308.mp4")] == [None, None]
    assert refusal(allowed, "elsewhere.mp4", "training") is not None


@pytest.mark.parametrize(
    ("rows", "header", "words"),
    [
        (["a.mp4,,train,,"], HEADER, "line 2 has the scope 'train'; write training, generation, or both"),
        (["a.mp4,,,,"], HEADER, "line 2 has the scope ''"),
        (["a.mp4,,training,31.12.2027,"], HEADER, "line 2 ends on '31.12.2027'; write a date such as 2027-12-31"),
        (["a.mp4,,training,,scan.pdf"], HEADER, "the document 'scan.pdf'; write its sha256, 64 hex digits, or leave"),
        (["a.mp4,Ann,training,,"], HEADER, "line 2 has both path and speaker; give one of them"),
        (["a.mp4,,training,,", ",,training,,"], HEADER, "line 3 has neither path nor speaker"),
        (["a, b.mp4,,training,,"], HEADER, "has both path and speaker"),  # a comma without quotes
        (["a.mp4;training;;"], "path;scope;until;document", "begins with 'path;scope;until;document'; its first line"),
        (
            ["a.mp4,training,"],
            "path,scope,until_when",
            "must name path or speaker, scope, until and document, with commas",
        ),
        ([], HEADER, "has no rows, so it covers nothing"),
    ],
)
def test_a_wrong_table_is_one_sentence(tmp_path, rows, header, words):
    with pytest.raises(ValueError, match=f"^consent .*consent.csv.*{words}"):
        read_consent(table(tmp_path, *rows, header=header), "consent", TODAY)


def test_a_table_that_is_none(tmp_path):
    with pytest.raises(ValueError, match=r"consent .*none.csv is not a file; write a CSV with the columns path or"):
        read_consent(tmp_path / "none.csv", "consent", TODAY)
    (tmp_path / "consent.csv").write_bytes(HEADER.encode() + b"\nZo\xeb.mp4,,training,,\n")
    with pytest.raises(ValueError, match="is not a CSV file in UTF-8"):
        read_consent(tmp_path / "consent.csv", "consent", TODAY)
    (tmp_path / "consent.csv").write_text("\ufeffpath,scope,until,document,note\na.mp4,training,,,signed\n")
    [row] = read_consent(tmp_path / "consent.csv", "consent", TODAY)  # as Excel saves it, with a column of its own
    assert row.path == tmp_path / "a.mp4" and row.scope == ("training",)


def test_a_renewal_in_time_changes_only_the_details(tmp_path):
    before = consent.texts(coverage(tmp_path, f"a.mp4,,training generation,2026-12-01,{PAPER}"))
    renewed = consent.texts(coverage(tmp_path, f"a.mp4,,training generation,2027-12-01,{RENEWED}"))
    ended = consent.texts(coverage(tmp_path, f"a.mp4,,training,2026-12-01,{PAPER}", today=date(2026, 12, 2)))

    def changed(other):
        return {name for name in before if before[name] != other[name]}

    assert changed(renewed) == {"grants.json"}
    assert changed(ended) == {"training.json", "generation.json", "grants.json"}
    for name, text in before.items():
        (tmp_path / name).write_text(text)
    assert consent.read_covered([tmp_path / "training.json"]) == {"a.mp4": None}
    grants = consent.read_grants([tmp_path / "grants.json"])
    assert grants["a.mp4"]["training"] == Grant("2026-12-01", PAPER, False)
    assert consent.read_covered([]) is None and consent.read_grants([]) is None


def test_the_command_line_compares_files(tmp_path):
    (tmp_path / "a.mp4").touch()
    (tmp_path / "other name.mp4").symlink_to(tmp_path / "a.mp4")
    path = table(
        tmp_path, "a.mp4,,generation,,", "b.mp4,,training,,", "c.mp4,,generation,2026-01-01,", ",Ann,training,,"
    )
    found = cover_files(path, TODAY)
    assert grant_of_file(found, path, tmp_path / "other name.mp4") == Grant(None, None, False)
    for name, words in (
        ("b.mp4", "is not covered for generation; add a row with its path and this scope."),
        ("c.mp4", "to generation ended on 2026-01-01; add a row with a later date."),
    ):
        with pytest.raises(ValueError, match=f"^--consent {path}: .*{name} {words}"):
            grant_of_file(found, path, tmp_path / name)
    assert cover_files(None, TODAY) is None and grant_of_file(None, None, tmp_path / "b.mp4") is None
