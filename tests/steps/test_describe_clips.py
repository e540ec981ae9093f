"""The page of curation and the dataset card: what stands on them, how much of it, and that it is true."""

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import escape

from latentsync import config
from latentsync.curation import selection
from latentsync.ledger.columns import REASONS
from latentsync.ledger.files import read_ledger, read_ledgers, write_json, write_ledger, write_text
from latentsync.ledger.rows import Row, rejected
from latentsync.ledger.superseded import superseded_media
from latentsync.media.audio import read_audio
from latentsync.media.probe import probe_media
from latentsync.media.read import read_clip
from latentsync.report import borderline, card, page, speakers
from latentsync.steps import describe_clips, select_clips
from tests.made_run import clip_rows, curate
from tests.page.server import browser
from tests.pages import Reader, flat

FAULTS = ("unreadable", "no_face", "no_audio", "too_short", "small_face", "low_quality", "low_sync", "large_offset")
OUTPUTS = {"page": "index.html", "summary": "summary.json", "card_json": "card.json", "card_md": "card.md"}


def describe(root: Path, name: str = "describe_clips", consent: tuple[Path, ...] = (), **section) -> Path:
    """Run the step on what `curate` left in `root`; the folder of its outputs."""
    selected = {split: [root / "select_clips" / f"{split}.jsonl"] for split in ("train", "val", "test")}
    inputs = selected | {"summary": [root / "select_clips/summary.json"]}
    inputs |= {"rejected": [root / "select_clips/rejected.csv"], "config": [root / "config.json"]}
    inputs |= {"score_sync": sorted((root / "score_sync").glob("0*.jsonl")), "consent": list(consent)}
    write_json(root / "config.json", config.Config().model_dump(mode="json"))
    outputs = {key: root / name / file for key, file in OUTPUTS.items()}
    describe_clips.run(config.DescribeClips(**section), inputs, outputs, root / "videos")
    return root / name


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """The run folder of a made curation, described."""
    root = tmp_path_factory.mktemp("describe") / "mine"
    curate(root, range(12), FAULTS)
    describe(root)
    return root


def parts(root: Path) -> tuple[str, dict, dict, str]:
    """Page, summary, card as JSON, card as Markdown."""
    page_text, summary, card_json, card_md = ((root / "describe_clips" / file).read_text() for file in OUTPUTS.values())
    return page_text, json.loads(summary), json.loads(card_json), card_md


def selected_rows(root: Path) -> list[Row]:
    return read_ledgers(root / "select_clips" / f"{split}.jsonl" for split in ("train", "val", "test"))


def test_page_is_whole_loads_nothing_and_shows_only_the_summary(run):
    text, summary, _, _ = parts(run)
    seen = Reader(text)
    assert not seen.open and len(seen.ids) == len(set(seen.ids))
    local = {address for address in seen.addresses if not address.startswith(("data:", "#"))}
    assert {address for address in local if not address.startswith("media/")} == {"costs.html", "card.md", "card.json"}
    assert {a[1:] for a in seen.addresses if a.startswith("#")} <= set(seen.ids)
    assert not re.search(r"https?:|@import|url\(", re.sub(r"data:[^\"]*", "", text))
    known = {float(leaf) for leaf in flat(summary) if isinstance(leaf, int | float)}
    assert len(seen.numbers) > 150
    assert [value for value in seen.numbers if value not in known] == []
    assert "day 1/ä &amp; &lt;b&gt;" in text and "<b>10" not in text
    assert text.count("data:image/jpeg") > 40


def test_every_tile_of_a_clip_plays_its_crop_with_its_audio_in_sync(run):
    text, summary, _, _ = parts(run)
    folder, crops = run / "describe_clips", {row["id"]: row for row in read_ledger(run / "score_sync/00000.jsonl")}
    listed = {row["id"]: row["preview_file"] for row in read_ledger(folder / "previews.jsonl")}
    assert listed.keys() == {ident for ident in describe_clips.shown_ids(summary) if crops[ident].get("crop_file")}
    assert {f"describe_clips/media/{path.name}" for path in (folder / "media").iterdir()} == set(listed.values())
    shifted = {row["id"]: row["offset_frames"] for row in selected_rows(run)}
    assert set(shifted.values()) > {0}
    for ident, file in listed.items():
        crop, played = crops[ident], read_clip(run / file, 0, 2)
        assert (played == read_clip(run / crop["crop_file"], 0, 2)).all()
        assert probe_media(run / file).has_audio == (crop["audio_file"] is not None)
        muted = f'aria-label="Watch {escape(crop["path"])}" data-mute>'
        link = text.partition(f'href="{file.removeprefix("describe_clips/")}" ')[2]
        assert link.startswith(muted) == (crop["audio_file"] is None)
    ident, offset = next((ident, offset) for ident, offset in shifted.items() if offset > 2 and ident in listed)
    heard = read_audio(run / listed[ident], 16_000)  # a late video: its audio is from earlier, and begins with silence
    assert abs(heard[: (offset - 1) * 640]).max() < 0.05 < abs(heard[(offset + 1) * 640 :]).max()
    # what is there already is not written again, and `latentsync clean` knows what the page names
    before = {path: path.stat().st_mtime_ns for path in (folder / "media").iterdir()}
    describe(run)
    assert {path: path.stat().st_mtime_ns for path in (folder / "media").iterdir()} == before
    (run / "sources").mkdir(exist_ok=True)
    (folder / "media/old.mp4").write_bytes(b"of an earlier page")
    assert superseded_media(run)[0][-1:] == [folder / "media/old.mp4"]
    (folder / "media/old.mp4").unlink()


def test_reasons_and_measures_are_in_words_and_thresholds_that_are_off_say_so(run):
    text, summary, _, _ = parts(run)
    seen = " ".join(Reader(text).words)
    named = [reason for reason in REASONS if "_" in reason and reason in seen]
    assert named == []
    assert "Low sync" in seen and "1 no audio" in re.sub(r"\s+", " ", re.sub("<[^>]*>", "", text))
    charts = {chart["score"]: chart for chart in summary["curation"]["histograms"]}
    for limit in selection.LIMITS:  # whatever limits there are
        assert charts[limit.column]["meaning"], limit.column
        off = limit.key in [each["key"] for each in charts[limit.column]["off"]]
        assert off == (summary["curation"]["thresholds"][limit.key] is None)
    assert all(chart["judged"] == (chart["score"] in selection.COLUMNS) for chart in charts.values())
    drawn = [chart for chart in charts.values() if chart["off"] and not chart["reason"]]
    assert text.count(": off</text>") == sum(len(chart["off"]) for chart in drawn)


def test_what_rejects_nothing_is_folded(run):
    text, summary, _, _ = parts(run)
    folded = "".join(re.findall(r"<details>.*?</details>", text, re.DOTALL))
    kept = re.sub(r"<details>.*?</details>", "", text, flags=re.DOTALL)
    for chart in summary["curation"]["histograms"]:
        heading, judges = f"<h4>{escape(chart['title'])}</h4>", bool(chart.get("marks"))
        assert (heading in kept, heading in folded) == (judges, not judges), chart["score"]
    for table in summary["curation"]["what_if"]:
        cell = f"<br><code>{table['key']}</code>"
        assert (cell in kept, cell in folded) == (not table["off"], table["off"]), table["key"]
    assert "<summary>Measures of the selected clips" in folded


def test_the_page_says_how_many_videos_share_footage(run):
    _, summary, _, _ = parts(run)
    images = dict.fromkeys(describe_clips.shown_ids(summary), "no image")
    for number, said in ((0, False), (7, True)):
        summary["curation"]["sources_with_shared_footage"] = number
        seen = page.render_description(summary, images, {})
        assert ('<data value="7">7</data> videos share footage with another one' in seen) == said


def test_a_reader_can_click_and_watch_at_any_width(run):
    """In a browser, from the disk: the tile plays in a window with its name, and no table is cut off at 400 px."""
    with browser() as chromium:
        page = chromium.new_page(viewport={"width": 400, "height": 800})
        faults = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto((run / "describe_clips/index.html").as_uri())
        page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        wide = "[document.documentElement, ...document.querySelectorAll('.scroll')]"
        assert page.evaluate(f"{wide}.filter((one) => one.scrollWidth > one.clientWidth + 1).length") == 0
        tile = page.locator("#clips figure:has(a.watch)").first
        assert tile.locator("figcaption b").inner_text() in {row["path"] for row in selected_rows(run)}
        tile.locator("a.watch").click()
        video = page.locator("dialog video")
        page.wait_for_function("document.querySelector('dialog video').currentTime > 0.1")
        assert video.get_attribute("src").startswith("file:") and video.bounding_box()["width"] > 250
        first = page.locator("dialog figcaption").inner_text()
        assert first == tile.locator("figcaption").inner_text()
        page.locator("dialog .after").click()
        assert page.locator("dialog figcaption").inner_text() != first
        page.keyboard.press("Escape")
        assert not video.is_visible() and video.get_attribute("src") is None and faults == []


def test_same_inputs_same_bytes_and_no_place(run):
    again = describe(run, "again")
    for file in OUTPUTS.values():
        content = (again / file).read_bytes()
        assert content == (run / "describe_clips" / file).read_bytes()
        assert str(run.parent).encode() not in content


def test_the_card_counts_what_the_ledgers_hold(run):
    _, summary, made, text = parts(run)
    rows = selected_rows(run)
    assert made == summary["card"]
    assert made["counts"]["clips"] == len(rows) == sum(split["clips"] for split in made["splits"].values()) == 12
    ticks = sum(row["end_tick"] - row["start_tick"] for row in rows)
    assert made["counts"]["hours"] == pytest.approx(ticks / 90_000, abs=1e-6)
    assert {reason: found["rows"] for reason, found in made["rejected"].items()} == dict.fromkeys(FAULTS, 1)
    assert made["rejected"]["too_short"]["hours"] == pytest.approx(20 / 90_000, abs=1e-6)
    assert made["rejected"]["unreadable"]["hours"] is None  # nobody knows how long a broken file would have been
    values = sorted(row["quality"] for row in rows)
    assert (made["measures"]["quality"]["min"], made["measures"]["quality"]["max"]) == (values[0], values[-1])
    assert made["crop_px"] == 256 and f"by **{made['face_detector']}**; crops of 256 x 256 pixels\n- " in text
    assert made["thresholds"]["min_face_px"] == 70 and "max_pairs" not in made["thresholds"]
    assert [scorer["name"] for scorer in made["scorers"]["score_sync"]] == ["envelope"]
    assert any("not by SyncNet" in limit for limit in made["limits"])
    assert all(f"`{reason}`" in text for reason in FAULTS)


def test_the_card_names_no_video_and_no_speaker(run):
    _, _, made, text = parts(run)
    for row in selected_rows(run):
        for name in (row["path"], row["source_id"], row["id"]):
            assert name not in text and name not in json.dumps(made, ensure_ascii=False)


def test_the_card_says_what_consent_the_clips_rest_on(run, tmp_path):
    paths = sorted({row["path"] for row in selected_rows(run)})
    grants = {path: {"training": {"until": None, "document": "ab" * 32, "ended": False}} for path in paths}
    grants[paths[0]]["training"] |= {"until": "2027-03-01", "document": "cd" * 32}
    write_json(tmp_path / "grants.json", grants)
    described = describe(run, "described_with_consent", (tmp_path / "grants.json",))
    words = "given for training for every video (2 signed documents named); the first ends on 2027-03-01"
    assert json.loads((described / "card.json").read_text())["consent"] == words
    assert f"Consent of the people shown: **{words}**" in (described / "card.md").read_text()
    assert json.loads((run / "describe_clips/card.json").read_text())["consent"] == "not stated"


def test_the_head_of_the_card_is_yaml_and_states_the_licence(run, tmp_path):
    def head(folder: Path) -> dict:
        return yaml.safe_load((folder / "card.md").read_text().split("---\n")[1])

    assert head(run / "describe_clips") == {
        "pretty_name": "mine",
        "license": "unknown",
        "size_categories": ["n<1K"],
        "tags": ["lip-sync", "talking-head", "audio-visual"],
    }
    assert "Licence of the footage: **not stated**" in (run / "describe_clips/card.md").read_text()
    terms = 'Contract 7: "in-house" only'
    stated = describe(run, "stated", licence=terms)
    assert head(stated)["license_name"] == terms and head(stated)["license"] == "other"
    assert json.loads((stated / "card.json").read_text())["licence"] == terms


def test_a_score_that_nobody_knew_shows_itself(run, tmp_path):
    """A column of a later version: histogram and quantiles under its own name; rows without it are left out."""
    root = tmp_path / "later"
    shutil.copytree(run, root)
    rows = read_ledger(root / "select_clips/train.jsonl")
    write_ledger(
        root / "select_clips/train.jsonl",
        [row | {"novelty_deg": n - 2.5, "odd": "x", "picture_hash": n} for n, row in enumerate(rows)],
    )
    selection = json.loads((root / "select_clips/summary.json").read_text())
    scores = selection["scores"]
    scores["selected"]["novelty_deg"], scores["rejected"]["novelty_deg"] = [1.0, 2.0], [None, 30.0]
    write_json(root / "select_clips/summary.json", selection)
    describe(root)
    text, summary, made, _ = parts(root)
    assert made["measures"]["novelty_deg"]["n"] == len(rows) < made["counts"]["clips"]
    assert made["measures"]["novelty_deg"]["min"] == -2.5 and not {"odd", "picture_hash"} & set(made["measures"])
    [chart] = [chart for chart in summary["curation"]["histograms"] if chart["score"] == "novelty_deg"]
    assert (chart["kept_n"], chart["lost_n"]) == (2, 1) and "Novelty deg" in text


def test_borders_show_the_nearest_of_either_side(run):
    _, summary, _, _ = parts(run)
    rows = selected_rows(run)
    sheets = {sheet["key"]: sheet for sheet in summary["borderline"]}
    in_force = summary["curation"]["thresholds"]
    assert set(sheets) == {limit.key for limit in selection.LIMITS if in_force[limit.key] is not None}
    quality = sheets["min_quality"]
    assert [item["value"] for item in quality["kept"]] == sorted(row["quality"] for row in rows)[:4]
    assert [item["value"] for item in quality["lost"]] == [21.5]
    assert [item["value"] for item in sheets["max_offset_frames"]["lost"]] == [14]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 20), st.floats(0, 100), st.integers(0, 3)), max_size=30))
def test_the_best_are_of_different_videos_and_nobody_beats_them_in_both(scores):
    rows = [
        {
            "id": f"{n:03d}",
            "path": f"{source}.mp4",
            "source_id": str(source),
            "sync_confidence": sync,
            "quality": picture,
        }
        for n, (sync, picture, source) in enumerate(scores)
    ]
    shown = borderline.best(rows, 3)
    paths = [item["path"] for item in shown]
    assert len(paths) == len(set(paths)) == min(3, len({source for *_, source in scores}))
    for row in rows:
        assert not shown or not (
            row["sync_confidence"] > shown[0]["sync_confidence"] and row["quality"] > shown[0]["quality"]
        )


def test_a_face_that_does_not_speak_is_never_among_the_best():
    """A still mouth (a photograph), digital silence, and the listener beside the speaker, whatever their scores."""

    def row(ident: str, sync: float, **facts) -> Row:
        facts = {"motion_hash": "ab", "speech_share": 0.9, "segment_id": ident} | facts
        return {"id": ident, "path": f"{ident}.mp4", "source_id": ident, "sync_confidence": sync, "quality": 50} | facts

    rows = [row("speaker", 3.0), row("still", 9.0, motion_hash=None), row("silence", 8.0, speech_share=0)]
    rows += [row("beside", 2.9, segment_id="speaker"), row("other", 1.0)]
    assert [item["id"] for item in borderline.best(rows)] == ["speaker", "other"]
    assert borderline.best(rows[1:3]) == []


def test_one_speaker_with_most_of_the_time_is_warned_about():
    def row(group: str, source: str, ticks: int) -> Row:
        return {"group": group, "source_id": source, "path": f"{source}.mp4", "start_tick": 0, "end_tick": ticks}

    uneven = speakers.summarise([row("Ada", "a", 300), row("Ada", "b", 300), row("c", "c", 400)])
    assert [(item["name"], item["clips"], item["share"]) for item in uneven["groups"]] == [
        ("Ada", 2, 0.6),
        ("c.mp4", 1, 0.4),
    ]
    assert "Ada speaks in 60% of the selected time" in uneven["warning"] and uneven["named_n"] == 1
    assert speakers.summarise([row("Ada", "a", 300), row("c", "c", 300)])["warning"] is None


def large(n: int) -> tuple[list[Row], list[Row], dict]:
    """n selected and n / 2 rejected clips, each of a video of its own, and what select_clips says of them."""
    rows = []
    for number in range(n + n // 2):
        [row] = clip_rows(number % 50, None)
        source = f"{number:016x}"
        row |= {"id": f"{source}-000000-000050-t0", "source_id": source, "path": f"{number}.mp4", "group": source}
        rows.append(row | {"length_s": 2.0, "quality": 40 + number % 60, "width": 8, "height": 8})
    kept = rows[:n]
    lost = [rejected(row, "low_quality", "low") | {"quality": row["quality"] - 40} for row in rows[n:]]
    split = {"clips": n, "sources": n, "hours": 11.1, "groups": [row["group"] for row in kept]}
    none = {"clips": 0, "sources": 0, "hours": 0.0, "groups": []}
    names = ("sync_confidence", "sync_offset_frames", "quality", "face_px", "length_s")
    stage = {"kind": "clip", "left": n, "hours": 11.1, "lost": {}}
    selection = {
        "funnel": [stage | {"stage": "found"}, stage | {"stage": "selected"}],
        "reasons": {},
        "splits": {"train": split, "val": none, "test": none},
        "offsets_applied": 0,
        "thresholds": config.SelectClips(min_face_px=70, min_s=1.5).model_dump(mode="json"),
        "backends": {"score_sync": ["envelope"], "score_quality": ["piqe"]},
        "stand_ins": [],
        "same_clips_in_all_splits": False,
        "speakers_without_source": 0,
        "sources_with_shared_footage": 0,
        "scores": {
            group: {name: [row[name] for row in members] for name in names}
            for group, members in (("selected", kept), ("rejected", lost))
        },
    }
    return kept, lost, selection


def test_a_large_run_makes_a_small_page():
    """20,000 clips: lists end with a count, images stay a few dozen, whatever the number of clips and speakers."""
    kept, lost, selection = large(20_000)
    summary = describe_clips.summarise("large", selection, kept, lost)
    summary["card"] = card.make(
        name="large",
        synthetic=False,
        selection=selection,
        selected=kept,
        rejected=lost,
        sources={row["source_id"]: {"fps": 25.0, "width": 8, "height": 8} for row in kept},
        speakers=summary["speakers"],
        sections={"align_faces": {"backend": "mediapipe"}},
        versions={},
        parts={},
        licence=None,
        coverage=None,
    )
    shown = describe_clips.shown_ids(summary)
    assert len(shown) < 120
    text = page.render_description(summary, dict.fromkeys(shown, "no picture"), {})
    assert len(text) < 300_000 and not Reader(text).open
    assert summary["speakers"]["groups_more"] == 19_980 and summary["curation"]["rejected_more"] == 9_600
    assert "No speakers are named" in text


@pytest.mark.slow
def test_30_000_clips_take_seconds_and_bounded_memory(tmp_path):
    """The whole step as its rule runs it, on ledgers of 30,000 clips with their sync curves; crops are not at hand."""
    kept, lost, selection = large(20_000)
    root = tmp_path / "large"
    curve = {"sync_curve": [0.1234 * shift for shift in range(31)], "geometry_file": "g" * 60}
    made = curve | {"offset_frames": 0}
    write_ledger(root / "select_clips/train.jsonl", [row | made | {"split": "train"} for row in kept])
    for split in ("val", "test"):
        write_ledger(root / f"select_clips/{split}.jsonl", [])
    write_text(root / "select_clips/rejected.csv", select_clips.rejected_csv(lost))
    write_json(root / "select_clips/summary.json", selection)
    write_json(root / "config.json", config.Config().model_dump(mode="json"))
    for shard in range(4):
        rows = [row | curve for row in [*kept, *lost][shard::4]]
        write_ledger(root / f"score_sync/{shard:05d}.jsonl", rows)
    code = "import sys; from latentsync.steps.__main__ import main; status = main(sys.argv[1:]); "
    code += "print(open('/proc/self/status').read()); sys.exit(status)"  # its own peak: rusage would count this process
    command = [sys.executable, "-c", code, "describe_clips", "--config", "{}", "--sources", root / "none"]
    for split in ("train", "val", "test"):
        command += ["--input", split, root / f"select_clips/{split}.jsonl"]
    command += ["--input", "rejected", root / "select_clips/rejected.csv", "--input", "config", root / "config.json"]
    command += ["--input", "summary", root / "select_clips/summary.json"]
    command += ["--input", "score_sync", *sorted((root / "score_sync").glob("*.jsonl"))]
    for name, file in OUTPUTS.items():
        command += ["--output", name, root / "describe_clips" / file]
    start = time.monotonic()
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True)
    wall_s, peak_mb = time.monotonic() - start, int(re.search(r"VmHWM:\s+(\d+) kB", done.stdout)[1]) / 1024
    print(f"describe_clips, 30,000 clips: {wall_s:.1f} s, {peak_mb:.0f} MB")
    assert wall_s < 60 and peak_mb < 350
    assert json.loads((root / "describe_clips/card.json").read_text())["counts"]["clips"] == 20_000
