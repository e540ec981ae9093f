"""The page shows what stands in summary.json and nothing else, loads nothing, and says in words what is missing."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from latentsync import config
from latentsync.curation import selection
from latentsync.evaluation.figures import CONTROLS, KEY_FIGURES
from latentsync.ledger.files import read_ledger, write_json, write_ledger, write_text
from latentsync.ledger.rows import length_s
from latentsync.media.read import frame_times
from latentsync.media.write import VideoWriter
from latentsync.report import costs, evaluation, images, page, training
from latentsync.report.words import listed
from latentsync.steps import report
from tests.made_run import film, filmed, make_run
from tests.pages import Reader, flat


def write_report(root: Path, inputs: dict[str, list[Path]], name: str = "report") -> tuple[str, dict]:
    """The page and the summary."""
    outputs = {"page": root / name / "index.html", "summary": root / name / "summary.json"}
    report.run(config.Report(players=2), inputs, outputs, root / "videos")
    return outputs["page"].read_text(), json.loads(outputs["summary"].read_text())


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Root, inputs, page and summary of a finished run."""
    root = tmp_path_factory.mktemp("report") / "demo"
    inputs = make_run(root)
    return root, inputs, *write_report(root, inputs)


def test_page_is_whole_and_loads_nothing(demo):
    _, _, text, _ = demo
    seen = Reader(text)
    assert not seen.open
    assert len(seen.ids) == len(set(seen.ids))
    local = [address for address in seen.addresses if not address.startswith("data:")]
    assert {address for address in local if address != "costs.html"} == {f"#{ident}" for ident in SECTIONS}
    assert set(SECTIONS) <= set(seen.ids)
    assert not re.search(r"https?:|@import|url\(", re.sub(r"data:[^\"]*", "", text))


SECTIONS = ("figures", "players", "curation", "training", "evaluation", "costs", "reading")


def test_every_number_stands_in_the_summary(demo):
    _, _, text, summary = demo
    seen, leaves = Reader(text), flat(summary)
    known = {float(leaf) for leaf in leaves if isinstance(leaf, int | float)}
    assert len(seen.numbers) > 150
    assert [value for value in seen.numbers if value not in known] == []
    # numbers outside <data> belong to sentences: of the summary, or of the page's own fixed words
    sentences = " ".join(str(leaf) for leaf in leaves if isinstance(leaf, str))
    fixed = {"95", "0"}  # 95 % interval, report.players is 0
    loose = {token for words in seen.words for token in re.findall(r"\d+(?:\.\d+)?", words)}
    assert {token for token in loose if token not in sentences} <= fixed


def test_names_of_the_figures_stand_at_the_top(demo):
    _, inputs, _, summary = demo
    measured = json.loads(inputs["metrics"][0].read_text())["figures"]
    for key in (figure.key for figure in (*KEY_FIGURES, *CONTROLS)):
        assert summary[key] == measured[key]["value"] is not None
        assert summary["n"][key] == measured[key]["n"] > 0
    assert summary["stand_ins"] == [
        "frames were encoded by a small VAE trained in this run",
        "sync was scored by the correlation of mouth opening and loudness, not by SyncNet",
        "image quality was scored by PIQE, which needs no weights, not by HyperIQA",
    ]


def test_the_table_says_which_scorer_judged_sync_and_that_it_stands_in(demo):
    _, inputs, text, summary = demo
    assert summary["evaluation"]["sync_scorer"] == json.loads(inputs["metrics"][0].read_text())["sync_scorer"]
    assert "<code>envelope</code>: unrelated audio stays below about 4." in text
    assert "A stand-in: sync was scored by loudness." in text


def test_same_inputs_same_bytes_and_no_place_or_clock(demo):
    root, inputs, text, _ = demo
    write_report(root, inputs, "again")
    for name in ("index.html", "summary.json"):
        assert (root / "report" / name).read_bytes() == (root / "again" / name).read_bytes()
        assert str(root.parent) not in (root / "report" / name).read_text()
    assert len(text) < 12e6


def test_small_nets_are_said_to_be_small_beside_the_videos(demo, tmp_path):
    root, inputs, text, _ = demo
    assert "judge the timing of the mouths" in text
    rows = [row | {"resolution": 256} for row in read_ledger(root / "generate" / "00000.jsonl")]
    write_ledger(tmp_path / "large.jsonl", rows)
    large, _ = write_report(root, inputs | {"generate": [tmp_path / "large.jsonl"]}, "large")
    assert "judge the timing of the mouths" not in large


def test_the_consent_of_every_video_is_listed(demo):
    root, inputs, text, summary = demo
    assert summary["consents"] is None and "Consent was not checked" in text
    paths = sorted({row["picture_path"] for row in read_ledger(root / "generate" / "00000.jsonl")})
    grants = {path: {"generation": {"until": None, "document": None, "ended": False}} for path in paths}
    grants[paths[0]]["generation"] |= {"until": "2027-03-01", "document": "cd" * 32}
    write_json(root / "grants.json", grants)
    text, summary = write_report(root, inputs | {"consent": [root / "grants.json"]}, "with_consent")
    assert [row["path"] for row in summary["consents"]] == paths
    assert sum(row["videos"] for row in summary["consents"]) == summary["headline"]["generated"] > len(paths) > 1
    table = text[text.index("Consent that each video rests on") :]
    table = table[: table.index("</details>")]
    assert table.count("<tr>") == 1 + len(paths) and table.count("without an end") == len(paths) - 1
    assert f'<code title="sha256 {"cd" * 32}">{"cd" * 6}</code>' in table and "<td>2027-03-01</td>" in table
    assert "Consent was not checked" not in text and not Reader(text).open


def test_videos_are_shown_with_and_without_enhancement(demo, tmp_path):
    _, _, text, summary = demo
    assert summary["compared"] == [] and summary["evaluation"]["enhancement"] is None
    assert "With enhancement" not in text and "Sharpness, flicker" not in text
    root = tmp_path / "enhanced"
    text, summary = write_report(root, make_run(root, enhanced=True))
    seen, found = Reader(text), summary["evaluation"]["enhancement"]
    assert not seen.open and found["words"] in text.replace("&#39;", "'")
    known = {float(leaf) for leaf in flat(summary) if isinstance(leaf, int | float)}
    assert [value for value in seen.numbers if value not in known] == []
    assert [[column["title"] for column in row["columns"]] for row in summary["compared"]] == [
        ["As filmed", "Without enhancement", "With enhancement"]
    ] * len(summary["compared"])
    assert 1 <= len(summary["compared"]) <= 2
    for row in summary["compared"]:
        source, without, enhanced = row["columns"]
        assert source["path"] and without["file"] == enhanced["file"].replace(".mp4", "-unenhanced.mp4")
        assert without["times_s"] and enhanced["times_s"]
    assert text.count("<b>With enhancement</b>") == len(summary["compared"])


def test_foreign_names_are_escaped(demo):
    _, _, text, _ = demo
    assert "day 1/ä &amp; &lt;b&gt;" in text
    assert "<b>10" not in text and "<b>20" not in text


def test_what_is_missing_is_said_in_words(tmp_path):
    """Real footage: no truth, one video failed."""
    root = tmp_path / "real"
    text, summary = write_report(root, make_run(root, known=False, fail_first=True))
    assert not Reader(text).open
    assert summary["mouth_r"] is None and "there is no ground truth" in summary["reasons"]["mouth_r"]
    missing = [card["title"] for card in summary["figures"] if card["value"] is None]
    assert len(missing) == 4 and text.count('class="card figure"') == 2  # one sentence instead of four empty cards
    assert f"Not measured: {listed(missing)}. Real footage: there is no ground truth." in text
    assert "there is no audio, so sync cannot be measured. the sound cannot be read" in text
    assert summary["headline"]["judged"] == 2 and summary["headline"]["failed"] == 1
    assert summary["evaluation"]["failed"][0]["detail"] == "the sound cannot be read"


def test_a_syncnet_that_guesses_is_said_to_guess(demo, tmp_path):
    """Loss at ln 2 and accuracy near a half on held-out clips: too little footage, said before all figures."""
    root, inputs, text, summary = demo
    assert (
        not any("guesses" in warning for warning in summary["warnings"]) and "SyncNet of this run guesses" not in text
    )
    lines = ["step,sync,val_sync,val_accuracy,val_best"]
    lines += [f"{k},{0.7 - k / 2000:.4f},0.69{k % 7},0.5,0.54" for k in range(10, 260, 10)]
    write_text(tmp_path / "curve.csv", "\n".join(lines) + "\n")
    text, summary = write_report(root, inputs | {"train_syncnet": [tmp_path / "curve.csv"]}, "guessed")
    said = summary["warnings"][0]
    assert "its loss ended at 0.69" in said and "ln 2 = 0.693" in said and "judged 54% of the pairs" in said
    clips = json.loads(inputs["summary"][0].read_text())["splits"]["train"]["clips"]
    assert f"{clips} clips (" in said and 0 < text.index("SyncNet of this run guesses") < text.index("card figure")


@pytest.mark.parametrize(
    ("loss", "best", "guesses"),
    [(0.693, 0.504, True), (1.4, 0.55, True), (0.66, 0.5, True), (0.62, 0.55, False), (0.69, 0.81, False)],
)
def test_what_counts_as_guessing(tmp_path, loss, best, guesses):
    write_text(tmp_path / "curve.csv", f"step,sync,val_sync,val_best\n10,0.3,{loss},{best}\n")
    assert (training.guesses(tmp_path / "curve.csv", 7, "41 s") is not None) == guesses
    write_text(tmp_path / "curve.csv", "step,sync\n10,0.69\n")  # nothing was held out, so nothing is known
    assert training.guesses(tmp_path / "curve.csv", 7, "41 s") is None


def test_nothing_generated_nothing_rejected(tmp_path):
    root = tmp_path / "bare"
    text, summary = write_report(root, make_run(root, known=False, empty=True))
    assert not Reader(text).open
    for sentence in (
        "there is nothing to watch",
        "Nothing was rejected",
        "No video was generated",
        "so there is nothing to compare",
    ):
        assert sentence in text
    assert [step["step"] for step in summary["training"]] == list(training.STEPS)[1:]
    assert summary["reasons"]["psnr_outside_db"] == "no video was generated"


def test_what_if_agrees_with_select_clips(demo):
    """Each tried threshold leaves the clips that select_clips' own judgement leaves."""
    root, inputs, _, summary = demo
    rows = [row for row in read_ledger(inputs["score_sync"][0]) if row["status"] == "ok"]
    ran = config.SelectClips.model_validate(summary["curation"]["thresholds"])
    tried = 0
    for table in summary["curation"]["what_if"]:
        assert sum(row["now"] for row in table["rows"]) == 1
        for row in table["rows"]:
            cfg = ran.model_copy(update={table["key"]: row["at"]})
            left = [clip for clip in rows if not selection.judge(clip, cfg)]
            assert (row["clips"], row["seconds"]) == (len(left), sum(length_s(clip) for clip in left))
            tried += row["clips"] != summary["headline"]["clips"]
    assert tried >= 8


def test_histograms_hold_every_clip(demo):
    root, _, _, summary = demo
    charts = [chart for chart in summary["curation"]["histograms"] if not chart["reason"]]
    known = {"length_s"} | {name for row in read_ledger(root / "score_quality" / "00000.jsonl") for name in row}
    scores = {chart["score"] for chart in summary["curation"]["histograms"]}
    assert {chart["score"] for chart in charts} == scores & known != scores  # others are not in these rows
    for chart in charts:
        assert sum(chart["kept"]) == chart["kept_n"] == 12
        assert sum(chart["lost"]) == chart["lost_n"] in (5, 6)
        assert len(chart["edges"]) == len(chart["kept"]) + 1
        assert chart["marks"] or chart["score"] not in {limit.column for limit in selection.LIMITS}
        assert all(chart["edges"][0] <= mark["at"] <= chart["edges"][-1] for mark in chart["marks"])


def test_long_and_foreign_videos_are_shown_small(tmp_path):
    """A film of 14 s and 271 pixels becomes 12 s of 256 that every browser plays; a small mp4 stays as it is."""
    film(tmp_path / "small.mp4", 96, 128, 50, 1)
    assert images.preview(tmp_path / "small.mp4")["uri"] == images.data_uri(filmed(96, 128, 50, 1, True), "video/mp4")
    with VideoWriter(tmp_path / "long.mp4", 5, 301, 271, audio=np.zeros(14 * 16_000, np.float32)) as writer:
        for level in range(70):
            writer.write(np.full((271, 301, 3), 3 * level, np.uint8))
    shown = images.preview(tmp_path / "long.mp4")
    import base64

    (tmp_path / "shown.mp4").write_bytes(base64.b64decode(shown["uri"].split(",")[1]))
    times, end = frame_times(tmp_path / "shown.mp4")
    assert shown["cut"] == 12 and len(times) == 60 and end == pytest.approx(12)
    info = images.probe_media(tmp_path / "shown.mp4")
    assert (info.width, info.height, info.pix_fmt, info.has_audio) == (284, 256, "yuv420p", True)


def test_a_long_trace_is_thinned_and_a_cut_video_is_named(demo):
    _, _, text, summary = demo
    assert summary["evaluation"]["cut"] == {"videos": 2, "seconds": 60.0}
    assert "of which only the beginning was generated: 2;" in text
    times = [k / 25 for k in range(90_000)]
    item = {"trace": {"times_s": times, "measured": times, "true": None}, "mouth_r": 0.5}
    column = evaluation._column("a", "b", "", None, None, item)
    assert len(column["times_s"]) == len(column["measured"]) == 2000 and column["times_s"][1] == 45 / 25


def test_costs_are_summed_where_they_were_noted(tmp_path):
    write_text(
        tmp_path / "benchmarks" / "probe" / "00000.tsv", "s\th:m:s\tmax_rss\tcpu_time\n2.5\t0:00:02\t100.5\t2.0\n"
    )
    write_text(tmp_path / "benchmarks" / "probe" / "00001.tsv", "s\th:m:s\tmax_rss\tcpu_time\n1.5\t0:00:01\t-\tNA\n")
    write_text(
        tmp_path / "costs" / "probe" / "00000.jsonl",
        '{"cpu_s":1,"id":"a","wall_s":0.5}\n{"cpu_s":1,"id":"b","wall_s":1.5}\n',
    )
    [step] = costs.collect(tmp_path, source_s=4.0)
    assert step == {
        "step": "probe",
        "jobs": 2,
        "wall_s": 4.0,
        "cpu_s": 2.0,
        "cpu_per_video_s": 0.5,
        "peak_mb": 100.5,
        "rows": 2,
        "row_wall_s": 1.0,
    }
    text = page.render_costs("demo", [step])
    assert not Reader(text).open and "4.0" in text
    assert "No times were recorded" in page.render_costs("demo", costs.collect(tmp_path / "nowhere"))
