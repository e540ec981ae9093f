"""The page shows what stands in summary.json and nothing else, loads nothing, and says in words what is missing."""

import json
import math
import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from latentsync import config, records
from latentsync.media.read import frame_times
from latentsync.media.write import VideoWriter
from latentsync.ops import selection
from latentsync.report import costs, curation, evaluation, figures, page, pictures, plots, training
from latentsync.steps import report, select_clips

VERDICTS = ("too_short", "small_face", "low_quality", "low_sync", "large_offset")
SCORES = {"too_short": 9.0, "small_face": 8.0, "low_quality": 7.0, "low_sync": 1.2, "large_offset": 9.5}


def film(path: Path, width: int, height: int, n: int, tint: int, sound: bool = True) -> None:
    """One of a few small videos; each is encoded once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(filmed(width, height, n, tint % 4, sound))


@cache
def filmed(width: int, height: int, n: int, tint: int, sound: bool) -> bytes:
    """A face-like disc whose mouth opens and closes, with a tone that does the same."""
    y, x = np.mgrid[:height, :width]
    t = np.arange(n * 640) / 16_000
    audio = (0.3 * np.sin(2 * np.pi * 220 * t) * np.abs(np.sin(2 * np.pi * t))).astype(np.float32) if sound else None
    with TemporaryDirectory() as folder:
        path = Path(folder, "film.mp4")
        with VideoWriter(path, 25, width, height, crf=20, audio=audio) as writer:
            for k in range(n):
                rgb = np.full((height, width, 3), (230, 226, 214), np.uint8)
                face = (x - width / 2) ** 2 + (y - height / 2) ** 2 < (0.42 * min(width, height)) ** 2
                rgb[face] = (216, 140 + 20 * tint, 120)
                opening = 0.08 * abs(math.sin(2 * math.pi * k / 25)) * height
                rgb[((x - width / 2) / (0.16 * width)) ** 2 + ((y - 0.64 * height) / (opening + 1)) ** 2 < 1] = (
                    60,
                    18,
                    24,
                )
                for side in (0.36, 0.64):
                    rgb[(x - side * width) ** 2 + (y - 0.4 * height) ** 2 < (0.05 * width) ** 2] = (30, 34, 40)
                writer.write(rgb)
        return path.read_bytes()


def clip_rows(number: int, reason: str | None) -> list[records.Row]:
    """Rows of one video as score_sync leaves them; a face with `reason` will be judged so by select_clips."""
    path = f"take {number:02d}.mp4" if number % 5 else f"day 1/ä & <b>{number:02d}.mp4"
    source = records.source_id(path)
    base = {"source_id": source, "path": path, "status": "ok", "reason": None, "detail": "", "sha256": f"{number:064x}"}
    base |= {"fps": 25.0, "duration_s": 2.0, "n_frames": 50}
    if reason == "unreadable":
        return [
            records.rejected(
                base | {"id": source, "kind": "source", "duration_s": None}, reason, "the file ends in a frame"
            )
        ]
    segment = records.segment_id(source, 0, 50)
    if reason == "no_face":
        row = base | {"id": segment, "kind": "segment", "start_tick": 0, "end_tick": 50}
        return [records.rejected(row, reason, "no face was found in 50 frames")]
    end = 20 if reason == "too_short" else 50
    clip = base | {"id": records.clip_id(source, 0, end, 0), "kind": "clip", "segment_id": segment, "track": 0}
    clip |= {
        "start_tick": 0,
        "end_tick": end,
        "crop_file": f"align_faces/media/{number % 3}.mp4",
        "audio_file": "a.flac",
    }
    clip |= {
        "resolution": 64,
        "face_px": 40.0 if reason == "small_face" else 82.0 + number,
        "face_share": 1.0,
        "n_faces": 1,
    }
    if reason == "no_audio":
        return [records.rejected(clip | {"audio_file": None}, reason, "the file has no sound track")]
    clip |= {
        "sync_confidence": SCORES.get(reason, 7.5 + number / 10),
        "sync_backend": "envelope",
        "quality_backend": "piqe",
    }
    clip |= {"sync_offset_frames": 14 if reason == "large_offset" else number % 9 - 4}
    return [clip | {"quality": 21.5 if reason == "low_quality" else 60.0 + number}]


def curate(root: Path, numbers: range, faults: tuple[str, ...]) -> None:
    """What curation leaves in results/<run>: made videos, and the real select_clips over made ledgers."""
    reasons = [None] * len(numbers) + list(faults)
    rows = [row for number, reason in enumerate(reasons) for row in clip_rows(number, reason)]
    for name in ("score_sync", "score_quality"):
        records.write_ledger(root / name / "00000.jsonl", rows)
    for row in rows:
        if row["reason"] != "unreadable":
            film(root / "videos" / row["path"], 96, 128, 50, sum(map(ord, row["path"])), row["reason"] != "no_audio")
    for number in range(3):
        film(root / "align_faces" / "media" / f"{number}.mp4", 64, 64, 50, 20 * number)
    cfg = config.SelectClips(min_s=1.5, min_face_px=70, min_quality=40, max_offset_frames=10, test_share=0.3)
    names = ("train", "val", "test", "pairs")
    outputs = {name: root / "select_clips" / f"{name}.jsonl" for name in names}
    outputs |= {"rejected": root / "select_clips" / "rejected.csv", "summary": root / "select_clips" / "summary.json"}
    inputs = {name: [root / name / "00000.jsonl"] for name in ("score_sync", "score_quality")}
    select_clips.run(cfg, inputs, outputs, None)


def generate(root: Path, fail: str | None = None) -> list[records.Row]:
    """What generate leaves for the pairs of select_clips; the pair whose id is `fail` was rejected."""
    rows = []
    for pair in records.read_ledger(root / "select_clips" / "pairs.jsonl"):
        for system in ("ours", "untrained") if pair["kind"] == "cross" else ("ours",):
            ident = pair["id"] + ("-untrained" if system == "untrained" else "")
            row = pair | {
                "id": ident,
                "pair_id": pair["id"],
                "system": system,
                "status": "ok",
                "reason": None,
                "detail": "",
            }
            row |= {
                "stand_ins": ["pictures were encoded by a small VAE trained in this run"],
                "unet": "ab12",
                "vae": "cd34",
            }
            if pair["id"] == fail:
                rows.append(records.rejected(row, "no_audio", "the sound cannot be read"))
                continue
            file = f"generate/media/{ident}.mp4"
            film(root / file, 96, 128, 50, len(ident) + 40 * len(rows))
            rows.append(row | {"video_file": file, "n_frames": 50, "n_generated": 48, "passed_through": {"no_face": 2}})
    records.write_ledger(root / "enhance" / "enhanced.jsonl", rows)
    return rows


def evaluate(root: Path, rows: list[records.Row], known: bool) -> None:
    """metrics.json and items.jsonl as evaluate writes them; `known`: there is truth."""
    from latentsync.ops import scores

    rng, times, items = np.random.default_rng(0), np.arange(50) / 25, []
    opening = np.abs(np.sin(2 * np.pi * times)) * np.clip(np.sin(2.2 * np.pi * times) + 0.6, 0, 1)

    def video(row: records.Row, system: str, r: float) -> dict:
        measured = 0.3 * opening + 0.1 * (1 - r) * rng.standard_normal(50)
        trace = [None if k < 3 else float(value) for k, value in enumerate(measured)]
        item = {
            name: row[name]
            for name in ("pair_id", "picture_id", "picture_path", "picture_group", "sound_id", "sound_path")
        }
        item |= {"id": f"{row['pair_id']}-{system}", "kind": "video", "system": system, "drive": row["kind"]}
        item |= {
            "mouth_r": r if known else None,
            "mouth_r_known": known,
            "mouth_r_picture": 0.07 * r if known else None,
        }
        item |= {"psnr_outside_db": None if system == "ground_truth" else 51.3 + r, "mask_share": 0.1234}
        item |= {
            "outside": {"squared_error": 4e5, "count": 10**6},
            "outside_copy": {"squared_error": 3e5, "count": 10**6},
        }
        item |= {"sync_confidence": 4 + 5 * r, "sync_offset_frames": 0}
        return item | {
            "trace": {"times_s": times.tolist(), "measured": trace, "true": opening.tolist() if known else None}
        }

    for number, row in enumerate(row for row in rows if row["status"] == "ok"):
        items.append(video(row, row["system"], (0.82 if row["system"] == "ours" else 0.1) - 0.03 * number))
        if row["kind"] == "own":
            items.append(video(row, "ground_truth", 0.97))
        elif row["system"] == "ours":
            items.append(video(row, "copy", 0.04))
    interval = scores.Bootstrap(100, 0)
    reason = "real footage: nobody wrote down what is true of it"
    names = "offset_within_1 faults_right_reason good_rejected mouth_r mouth_r_shuffled".split()
    figures = dict.fromkeys(names, scores.unknown(reason))
    if known:
        figures = {"offset_within_1": scores.figure(0.977, 44, (0.93, 1.0), "missed: 1 good")}
        figures |= {
            "faults_right_reason": scores.figure(1, 27),
            "good_rejected": scores.figure(2, 44, note="a.mp4: low_sync"),
        }
        figures |= scores.mouth_figures(items, interval)
    figures |= {
        "syncnet_accuracy_5f": scores.figure(0.931, 600, (0.9, 0.95), "threshold 0.512 of the cosine"),
        "syncnet_accuracy_at_0.5": scores.figure(0.921, 600, (0.89, 0.94), "published threshold"),
        "syncnet_auc": scores.figure(0.981, 600, note="needs no threshold"),
        "syncnet_accuracy_shuffled": scores.figure(0.503, 600, (0.46, 0.53)),
    }
    figures |= scores.outside_figures([item for item in items if item["psnr_outside_db"]], interval)
    failed = [{name: row[name] for name in ("id", "reason", "detail")} for row in rows if row["status"] != "ok"]
    lost = {
        key: sum((row["system"], row["kind"]) == key and row["status"] != "ok" for row in rows)
        for key in scores.SYSTEMS
    }
    metrics = {"figures": figures, "table": scores.table(items, lost, interval), "passed_through": {"no_face": 14}}
    metrics |= {
        "cut": [{"id": row["id"], "cut_s": 30.0} for row in rows[:2]],
        "failed": failed,
        "stand_ins": rows[0]["stand_ins"] if rows else [],
        "evaluators": {"syncnet": "9f00aa"},
    }
    records.write_json(root / "evaluate" / "metrics.json", metrics)
    records.write_ledger(root / "evaluate" / "items.jsonl", items)


def train(root: Path, *steps: str) -> None:
    """Loss curves as training/loop.py writes them: blanks where a row has no such figure."""
    columns = {
        "train_vae": ("loss", "l1", "mse", "kl", "val_psnr_db", "val_masked_psnr_db"),
        "train_syncnet": ("loss", "sync", "val_sync", "val_accuracy", "val_best"),
        "train_unet_stage1": ("loss", "recon", "val_recon", "val_recon_other_sound"),
        "train_unet_stage2": (
            "loss",
            "recon",
            "sync",
            "lpips",
            "trepa",
            "grad_recon",
            "grad_sync",
            "grad_lpips",
            "grad_trepa",
        ),
    }
    rng = np.random.default_rng(1)
    for step in steps:
        lines = [",".join(["step", *columns[step]])]
        for k in range(10, 1001, 10):
            cells = [f"{(0.1 + math.exp(-k / 200)) * (1 + 0.1 * rng.standard_normal()):.6g}" for _ in columns[step]]
            held_out = [name.startswith("val") and k % 100 > 0 for name in columns[step]]
            if step in ("train_syncnet", "train_unet_stage1"):
                cells[0] = cells[1]
            lines.append(
                ",".join([str(k), *("" if blank else cell for cell, blank in zip(cells, held_out, strict=True))])
            )
        records.write_text(root / step / "curve.csv", "\n".join(lines) + "\n")


def make_run(root: Path, *, known: bool = True, empty: bool = False, fail_first: bool = False) -> dict[str, list[Path]]:
    """A finished run in `root`; returns the inputs of report. `empty`: nothing was generated, no VAE was trained."""
    curate(root, range(12), () if empty else ("unreadable", "no_face", "no_audio", *VERDICTS, "no_face"))
    if empty:
        records.write_text(root / "select_clips" / "pairs.jsonl", "")
    pairs = records.read_ledger(root / "select_clips" / "pairs.jsonl")
    rows = generate(root, pairs[0]["id"] if fail_first else None)
    evaluate(root, rows, known)
    steps = [step for step in training.STEPS if not (empty and step == "train_vae")]
    train(root, *steps)
    inputs = {name: [root / "select_clips" / f"{name}.jsonl"] for name in ("train", "val", "test")}
    inputs |= {
        "summary": [root / "select_clips" / "summary.json"],
        "rejected": [root / "select_clips" / "rejected.csv"],
    }
    inputs |= {"score_sync": [root / "score_sync" / "00000.jsonl"], "generate": [root / "enhance" / "enhanced.jsonl"]}
    records.write_json(root / "config.json", config.Config().model_dump(mode="json"))
    inputs |= {"config": [] if empty else [root / "config.json"]}
    inputs |= {"metrics": [root / "evaluate" / "metrics.json"], "items": [root / "evaluate" / "items.jsonl"]}
    return inputs | {step: [root / step / "curve.csv"] for step in steps}


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


class Reader(HTMLParser):
    """What a browser sees: open elements (each must be closed), addresses, ids, values of <data>, and plain text."""

    VOID = frozenset("meta link br img input".split())

    def __init__(self, text: str):
        super().__init__()
        self.open, self.addresses, self.ids, self.numbers, self.words = [], [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.addresses += [
            given[name] for name in ("src", "href", "poster", "data", "action", "xlink:href") if given.get(name)
        ]
        self.ids += [given["id"]] if "id" in given else []
        self.numbers += [float(given["value"])] if tag == "data" else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, (tag, self.open[-4:], self.getpos())

    def handle_data(self, data):
        if not {"style", "script", "data", "svg", "code", "pre", "sup"} & set(self.open):
            self.words.append(data)


def flat(value) -> list:
    """All numbers and strings below a value of JSON."""
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in flat(item)]
    if isinstance(value, list):
        return [leaf for item in value for leaf in flat(item)]
    return [value]


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
    sentences = " ".join(str(leaf) for leaf in leaves if isinstance(leaf, str)) + str(page.READING)
    fixed = {"95", "0", "16"}  # 95 % interval, report.players is 0, 16 frames
    loose = {token for words in seen.words for token in re.findall(r"\d+(?:\.\d+)?", words)}
    assert {token for token in loose if token not in sentences} <= fixed


def test_names_of_the_figures_stand_at_the_top(demo):
    _, inputs, _, summary = demo
    measured = json.loads(inputs["metrics"][0].read_text())["figures"]
    for name in figures.NAMES:
        assert summary[name] == measured[name]["value"] is not None
        assert summary["n"][name] == measured[name]["n"] > 0
    assert summary["stand_ins"] == [
        "pictures were encoded by a small VAE trained in this run",
        "sync was scored by the correlation of mouth opening and loudness, not by SyncNet",
        "picture quality was scored by PIQE, which needs no weights, not by HyperIQA",
    ]


def test_same_inputs_same_bytes_and_no_place_or_clock(demo):
    root, inputs, text, _ = demo
    write_report(root, inputs, "again")
    for name in ("index.html", "summary.json"):
        assert (root / "report" / name).read_bytes() == (root / "again" / name).read_bytes()
        assert str(root.parent) not in (root / "report" / name).read_text()
    assert len(text) < 12e6


def test_foreign_names_are_escaped(demo):
    _, _, text, _ = demo
    assert "day 1/ä &amp; &lt;b&gt;" in text
    assert "<b>10" not in text and "<b>20" not in text


def test_what_is_missing_is_said_in_words(tmp_path):
    """Real footage: no truth, one video failed."""
    root = tmp_path / "real"
    text, summary = write_report(root, make_run(root, known=False, fail_first=True))
    assert not Reader(text).open
    assert summary["mouth_r"] is None and "nobody wrote down what is true" in summary["reasons"]["mouth_r"]
    assert text.count("not measured</span>") == 4
    assert text.count("Real footage: nobody wrote down what is true of it.") >= 4
    assert "there is no sound, so nothing can be said about sync. the sound cannot be read" in text
    assert summary["headline"]["judged"] == 2 and summary["headline"]["failed"] == 1
    assert summary["evaluation"]["failed"][0]["detail"] == "the sound cannot be read"


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
    rows = [row for row in records.read_ledger(inputs["score_sync"][0]) if row["status"] == "ok"]
    ran = config.SelectClips.model_validate(summary["curation"]["thresholds"])
    tried = 0
    for table in summary["curation"]["what_if"]:
        assert sum(row["now"] for row in table["rows"]) == 1
        for row in table["rows"]:
            cfg = ran.model_copy(update={table["key"]: row["at"]})
            left = [clip for clip in rows if not selection.judge(clip, cfg)]
            assert (row["clips"], row["seconds"]) == (len(left), sum(curation.length_s(clip) for clip in left))
            tried += row["clips"] != summary["headline"]["clips"]
    assert tried >= 8


def test_histograms_hold_every_clip(demo):
    _, _, _, summary = demo
    for chart in summary["curation"]["histograms"]:
        assert sum(chart["kept"]) == chart["kept_n"] == 12
        assert sum(chart["lost"]) == chart["lost_n"] in (5, 6)
        assert len(chart["edges"]) == len(chart["kept"]) + 1
        assert chart["marks"] and all(chart["edges"][0] <= mark["at"] <= chart["edges"][-1] for mark in chart["marks"])


def measured(**values) -> dict:
    """Figures with these values and enough items, the others not measured."""
    blank = {"value": None, "low": None, "high": None, "n": 0, "reason": "why", "note": ""}
    known = {name: blank | {"value": value, "n": 600, "reason": None} for name, value in values.items()}
    return {name: known.get(name, blank) for name in figures.NAMES}


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ({"mouth_r": 0.7, "mouth_r_shuffled": 0.2}, "pass"),
        ({"mouth_r": 0.7, "mouth_r_shuffled": 0.31}, "fail"),
        ({"mouth_r": 0.59, "mouth_r_shuffled": 0.0}, "fail"),
        ({"mouth_r": 0.7}, "unknown"),
        ({"mouth_r_shuffled": 0.2}, "unknown"),
        ({"syncnet_accuracy_5f": 0.9, "syncnet_accuracy_shuffled": 0.55}, "pass"),
        ({"syncnet_accuracy_5f": 0.9, "syncnet_accuracy_shuffled": 0.56}, "fail"),
        ({"syncnet_accuracy_5f": 0.8499, "syncnet_accuracy_shuffled": 0.5}, "fail"),
        ({"good_rejected": 0}, "pass"),
        ({"good_rejected": 1}, "fail"),
        ({"psnr_outside_db": 45.0}, "pass"),
    ],
)
def test_verdicts(values, verdict):
    cards = {card["key"]: card for card in figures.judge(measured(**values))}
    key = next(name for name in (*values, "mouth_r") if name in cards)
    assert cards[key]["verdict"] == verdict


def test_too_few_items_do_not_pass():
    few = measured(mouth_r=0.7, mouth_r_shuffled=0.0)
    few["mouth_r"]["n"] = 7
    card = next(card for card in figures.judge(few) if card["key"] == "mouth_r")
    assert card["verdict"] == "fail" and "8" in card["words"]


def test_long_and_foreign_videos_are_shown_small(tmp_path):
    """A film of 14 s and 271 pixels becomes 12 s of 256 that every browser plays; a small mp4 stays as it is."""
    film(tmp_path / "small.mp4", 96, 128, 50, 1)
    assert pictures.preview(tmp_path / "small.mp4")["uri"] == pictures.data_uri(
        filmed(96, 128, 50, 1, True), "video/mp4"
    )
    with VideoWriter(tmp_path / "long.mp4", 5, 301, 271, audio=np.zeros(14 * 16_000, np.float32)) as writer:
        for level in range(70):
            writer.write(np.full((271, 301, 3), 3 * level, np.uint8))
    shown = pictures.preview(tmp_path / "long.mp4")
    import base64

    (tmp_path / "shown.mp4").write_bytes(base64.b64decode(shown["uri"].split(",")[1]))
    times, end = frame_times(tmp_path / "shown.mp4")
    assert shown["cut"] == 12 and len(times) == 60 and end == pytest.approx(12)
    info = pictures.probe_media(tmp_path / "shown.mp4")
    assert (info.width, info.height, info.pix_fmt, info.has_audio) == (284, 256, "yuv420p", True)


def test_a_long_trace_is_thinned_and_a_cut_video_is_named(demo):
    _, _, text, summary = demo
    assert summary["evaluation"]["cut"] == {"videos": 2, "seconds": 60.0}
    assert "of which only the beginning was generated: 2;" in text
    times = [k / 25 for k in range(90_000)]
    item = {"trace": {"times_s": times, "measured": times, "true": None}, "mouth_r": 0.5}
    column = evaluation._column("a", "b", "", None, None, item)
    assert len(column["times_s"]) == len(column["measured"]) == 2000 and column["times_s"][1] == 45 / 25


def test_curve_leaves_out_blanks_and_thins(tmp_path):
    lines = ["step,loss,val_recon", *(f"{k},{2 * k},{'' if k % 2 else k}" for k in range(1, 1001)), "1001,nan,"]
    (tmp_path / "curve.csv").write_text("\n".join(lines))
    curve = training.read_curve(tmp_path / "curve.csv")
    assert len(curve["loss"]) == 1000 and curve["val_recon"][0] == (2, 2.0)
    steps, values = training.thin(curve["loss"])
    assert len(steps) == 334 and steps[0] == 3 and values[0] == 4.0
    (tmp_path / "none.csv").write_text("step,loss\n")
    assert training.summarise("train_unet_stage1", tmp_path / "none.csv")["reason"] == "The curve is empty."


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-0.3, 0.95), (3, 1250), (0.0012, 0.0031), (5, 5)])
def test_ticks_are_few_round_and_inside(low, high):
    ticks = plots.nice_ticks(low, high)
    assert 1 <= len(ticks) <= 11 and all(low <= tick <= high for tick in ticks)
    assert all(len(plots.number(tick)) <= 7 for tick in ticks)


def test_numbers_on_the_page():
    assert page.num(0.98749, 2) == '<data value="0.98749">0.99</data>'
    assert (
        page.plain(-0.001, 2) == "0.00"
        and page.plain(-3.14159, 2) == "−3.14"
        and page.plain(12345.6, 0) == "12\u202f346"
    )
    assert page.share(7, (0, 10)) == "70.00" and page.share(12, (0, 10)) == "100.00"


def test_costs_are_summed_where_they_were_noted(tmp_path):
    records.write_text(
        tmp_path / "benchmarks" / "probe" / "00000.tsv", "s\th:m:s\tmax_rss\tcpu_time\n2.5\t0:00:02\t100.5\t2.0\n"
    )
    records.write_text(
        tmp_path / "benchmarks" / "probe" / "00001.tsv", "s\th:m:s\tmax_rss\tcpu_time\n1.5\t0:00:01\t-\tNA\n"
    )
    records.write_text(
        tmp_path / "costs" / "probe" / "00000.jsonl",
        '{"cpu_s":1,"id":"a","wall_s":0.5}\n{"cpu_s":1,"id":"b","wall_s":1.5}\n',
    )
    [step] = costs.collect(tmp_path)
    assert step == {
        "step": "probe",
        "jobs": 2,
        "wall_s": 4.0,
        "cpu_s": 2.0,
        "peak_mb": 100.5,
        "rows": 2,
        "row_wall_s": 1.0,
    }
    text = page.render_costs("demo", [step])
    assert not Reader(text).open and "4.0" in text
    assert "No step left a note" in page.render_costs("demo", costs.collect(tmp_path / "nowhere"))


def test_scores_without_a_threshold_have_histograms_too():
    """Real footage switches thresholds off: no marks to fit in."""
    edges = curation._edges("sync_confidence", np.array([0.9, 1.4, 2.8]), [])
    assert edges[0] <= 0.9 and edges[-1] >= 2.8 and (np.diff(edges) > 0).all()
