"""From summary.json and pictures to one HTML page that loads nothing.

The page shows only what stands in the summary: numbers are written by the filter `num` as `<data value="...">`, charts
are drawn from lists in it. So a test can hold the two against each other.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from latentsync.report import plots
from latentsync.report.card import PROPERTIES

HERE = Path(__file__).parent

READING = (
    (
        "SyncNet accuracy",
        "The SyncNet trained in this run sees 16 frames of the lower face and a stretch of sound, and says whether "
        "they belong together. Pairs come half from the same moment and half from elsewhere in the same clip. With "
        "shuffled sound it must fall to a coin's toss, or it has learned to know clips instead of lips.",
    ),
    (
        "Offsets found",
        "Every talking clip was given a known shift between picture and sound. A clip counts as found when the "
        "measured shift lies within one frame; a clip on which the scorer would not commit itself counts as a miss.",
    ),
    (
        "Mouth follows sound",
        "A face detector measures the mouth's opening in the written file, divided by the distance of the eyes. That "
        "curve is correlated with the true opening behind the sound that drove it. The control is the correlation "
        "of videos driven by other speech with the opening in their own original picture: what leaks around the mask.",
    ),
    (
        "Picture outside the mouth",
        "Luma error against the decoded source outside the pasted region, as PSNR. The control is the untouched "
        "source, encoded again in the same way: no model can do better than that.",
    ),
    (
        "Sync confidence and offset",
        "The scale belongs to the scorer named among the parts. An offset above zero means that the picture is late "
        "against the sound; one frame is a twenty-fifth of a second.",
    ),
    (
        "Copy input, untrained U-Net",
        "Controls. The first returns the video as it was, the second runs the whole pipeline with random weights. A "
        "measure on which they do well does not measure lip-sync.",
    ),
    (
        "Intervals",
        "Bootstrap over clips, 95 %. Few clips make wide intervals; rows whose intervals overlap are not told apart.",
    ),
    (
        "Rejected, error",
        "Errors are faults of a file, such as a broken one; rejections are judgements. Nothing is deleted: all rows "
        "are in the ledgers, and a changed threshold costs seconds.",
    ),
)
CURATION_TERMS = ("Sync confidence and offset", "Rejected, error")


def plain(value: float, digits: int) -> str:
    """A number in words of the page: fixed digits, no minus zero, a real minus sign, thin spaces from 10,000 on."""
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.removeprefix("-")
    whole, _, rest = text.partition(".")
    if len(whole.lstrip("-")) > 4:
        whole = f"{int(whole):,}".replace(",", "\u202f")
    return (whole + ("." + rest if rest else "")).replace("-", "−")


def num(value: float, digits: int = 2, raw: float | None = None, factor: float = 1.0) -> Markup:
    """The number with its machine-readable value. In another unit: `raw` stands in the summary, times `factor`."""
    assert raw is None or abs(raw * factor - value) <= 1e-6 * abs(value), (value, raw, factor)
    return Markup(f'<data value="{value if raw is None else raw!r}">{escape(plain(value, digits))}</data>')


def auto(value: float) -> Markup:
    """A number of unknown size: three significant digits."""
    return Markup(f'<data value="{value!r}">{escape(plots.number(float(f"{value:.3g}")))}</data>')


def sentence(words: str) -> str:
    """Words from elsewhere as a sentence: a capital letter and a full stop."""
    return words[:1].upper() + words[1:] + ("" if words.endswith((".", "!", "?")) else ".")


def as_yaml(values: Mapping[str, Any]) -> str:
    """The configuration as it stands in a file, short lists on one line."""
    return yaml.safe_dump(dict(values), sort_keys=False, default_flow_style=None, allow_unicode=True, width=110)


def share(value: float, axis: tuple[float, float]) -> str:
    """Where a value lies on an axis, in percent, kept inside it."""
    low, high = axis
    return f"{min(100.0, max(0.0, 100 * (value - low) / ((high - low) or 1))):.2f}"


def span(seconds: float | None) -> str:
    """A stretch of time in the unit that suits it, one decimal."""
    if seconds is None:
        return "none"
    unit, size = next((unit, size) for unit, size in (("h", 3600), ("min", 60), ("s", 0)) if seconds >= 1.5 * size)
    return f"{plain(seconds / (size or 1), 1)} {unit}"


def _trace(column: Mapping[str, Any]) -> Markup:
    known = any(value is not None for value in column["true"])
    series = ([("true", column["true"])] if known else []) + [("measured", column["measured"])]
    r = "" if column["r"] is None else f", correlation {column['r']:.2f}"
    what = "measured mouth opening and true opening of the sound" if known else "measured mouth opening"
    return plots.trace(f"{column['title']}: {what} over time{r}", column["times_s"], series)


def _histogram(item: Mapping[str, Any]) -> Markup:
    label = f"Histogram of {item['title']}: {item['kept_n']} selected and {item['lost_n']} rejected clips"
    marks = [(mark["at"], mark["words"]) for mark in item["marks"]]
    return plots.histogram(label, item["axis"], item["edges"], [("kept", item["kept"]), ("lost", item["lost"])], marks)


LINES = ("first", "second", "third", "fourth")  # css classes of the lines of a panel, in order


def _curve(step: Mapping[str, Any], panel: Mapping[str, Any]) -> Markup:
    series, said = [], []
    for css, line in zip(LINES, panel["lines"], strict=False):
        said.append(f"{line['name']} from {plots.number(line['first'])} to {plots.number(line['last'])}")
        many = len(line["values"]) > 20
        if many:
            series.append((f"{css} raw", line["steps"], line["values"]))
        series.append((css, line["steps"], plots.smooth(line["values"]) if many else line["values"]))
    mark = (panel["mark"]["at"], panel["mark"]["words"]) if panel["mark"] else None
    return plots.curves(f"{step['title']}, {panel['title']}: {'; '.join(said)}", "step", series, mark, panel["log"])


def _forest(section: Mapping[str, Any], name: str, axis: str, bar: float) -> Markup:
    rows = [
        ("ours" if row["ours"] else "", row["short"], cell["value"], cell["low"], cell["high"], row[f"each_{name}"])
        for row in section["systems"]
        if (cell := row["cells"][name])["value"] is not None
    ]
    if not rows:
        return Markup("")
    label = f"{axis}: " + "; ".join(f"{short} {value:.2f}" for _, short, value, *_ in rows)
    return plots.forest(label, axis, rows, (bar, f"bar {plots.number(bar)}"))


def render(summary: Mapping[str, Any], media: Mapping[str, Any]) -> str:
    """The page. `media`: {"players": {file: {uri, poster, width, height}}, "pictures": {row id: data URI}}.

    A picture that could not be made is a sentence instead: {"pictures": {row id: "the file cannot be decoded"}}.
    """

    environment = _environment(media["pictures"])
    environment.globals |= {"trace": _trace, "lines": LINES, "curve": _curve, "forest": _forest}
    return environment.get_template("report.html.j2").render(
        s=summary, media=media, reading=READING, style=_asset("style.css"), script=_asset("page.js")
    )


def render_description(summary: Mapping[str, Any], shown: Mapping[str, str]) -> str:
    """The page of describe_clips. `shown`: row id -> data URI, or the sentence that stands in its place."""
    reading = [(term, words) for term, words in READING if term in CURATION_TERMS]
    environment = _environment(shown)
    return environment.get_template("describe.html.j2").render(
        s=summary, reading=reading, properties=PROPERTIES, style=_asset("style.css")
    )


def render_costs(run: str, steps: Sequence[Mapping[str, Any]]) -> str:
    """The small page of what each step cost."""
    environment = _environment({})
    environment.filters["known"] = lambda value, digits: "none" if value is None else plain(value, digits)
    environment.filters["span"] = span
    walls = [step["wall_s"] or 0.0 for step in steps]
    rates = [step["cpu_per_video_s"] for step in steps if step["cpu_per_video_s"] is not None]
    return environment.get_template("costs.html.j2").render(
        run=run,
        steps=steps,
        longest_s=max(walls, default=0.0),
        wall_s=sum(walls),
        cpu_s=sum(step["cpu_s"] or 0.0 for step in steps),
        cpu_per_video_s=sum(rates) if rates else None,
        style=_asset("style.css"),
    )


def _environment(shown: Mapping[str, str]) -> Environment:
    def picture(item: Mapping[str, Any]) -> Markup:
        what = shown[item["id"]]
        if not what.startswith("data:"):
            return Markup(f'<div class="blank">{escape(what)}</div>')
        return Markup(f'<img alt="Frame of {escape(item["path"])}" title="{escape(item["path"])}" src="{what}">')

    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined)
    environment.globals |= {"picture": picture, "histogram": _histogram}
    environment.filters |= {"num": num, "auto": auto, "plain": plain, "share": share}
    environment.filters |= {"sentence": sentence, "as_yaml": as_yaml}
    return environment


def _asset(name: str) -> Markup:
    return Markup((HERE / name).read_text(encoding="utf-8"))
