"""From summary.json, images and videos to one HTML page that loads nothing; and the dataset card as Markdown.

A page shows only what is in its summary: numbers are written by the filter `num` as `<data value="...">`, charts are
drawn from lists in it. A test compares the two.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from latentsync.report import measures, plots, words
from latentsync.report.card import PROPERTIES, QUANTILES
from latentsync.report.words import plain, sentence

LOADER = FileSystemLoader(Path(__file__).parent)


def num(value: float, digits: int = 2, raw: float | None = None, factor: float = 1.0) -> Markup:
    """The number with its machine-readable value. In another unit: `raw` is in the summary, `value` = raw * factor."""
    assert raw is None or abs(raw * factor - value) <= 1e-6 * abs(value), (value, raw, factor)
    return Markup(f'<data value="{value if raw is None else raw!r}">{escape(plain(value, digits))}</data>')


def auto(value: float) -> Markup:
    """A number of unknown size: three significant digits."""
    return Markup(f'<data value="{value!r}">{escape(plots.number(float(f"{value:.3g}")))}</data>')


def duration(seconds: float | None) -> Markup:
    """A length of time in the unit that suits it, with its seconds as machine-readable value."""
    if seconds is None:
        return Markup("unknown")
    value, digits, unit = words.in_time(seconds)
    return num(value, digits, seconds, value / seconds if seconds else 1.0) + f" {unit}"


def as_yaml(values: Mapping[str, Any]) -> str:
    """The configuration as in a file, short lists on one line."""
    return yaml.safe_dump(dict(values), sort_keys=False, default_flow_style=None, allow_unicode=True, width=110)


def share(value: float, axis: tuple[float, float]) -> str:
    """Position of a value on an axis in percent, clamped to 0..100."""
    low, high = axis
    return f"{min(100.0, max(0.0, 100 * (value - low) / ((high - low) or 1))):.2f}"


def render(summary: Mapping[str, Any], media: Mapping[str, Any]) -> str:
    """The page. `media`: {"players": {file: {uri, poster, width, height}}, "images": {row id: data URI}}.

    An image that could not be made is a sentence instead: {"images": {row id: "the file cannot be decoded"}}.
    """
    environment = _environment(media["images"])
    environment.globals |= {"lines": plots.LINES, "curves": plots.curves, "trace": plots.trace, "forest": plots.forest}
    return environment.get_template("report.html.j2").render(s=summary, media=media)


def render_description(
    summary: Mapping[str, Any], shown: Mapping[str, str], clips: Mapping[str, Mapping[str, Any]]
) -> str:
    """The page of describe_clips. `shown`: row id -> data URI, or the sentence shown in its place; `clips`: row id ->
    {file, audio}, what a click on the image plays.
    """
    environment = _environment(shown, clips)
    environment.globals |= {"title_of": measures.title, "meaning_of": measures.meaning}
    return environment.get_template("describe.html.j2").render(s=summary, properties=PROPERTIES)


def render_card(card: Mapping[str, Any]) -> str:
    """The dataset card as README.md of a dataset repository: YAML head, then tables and sentences."""
    environment = Environment(loader=LOADER, undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    environment.filters |= {"quoted": lambda text: json.dumps(text, ensure_ascii=False), "grouped": "{:,}".format}
    environment.filters["hours"] = lambda hours: words.duration(None if hours is None else 3600 * hours)
    return environment.get_template("card.md.j2").render(c=card, properties=PROPERTIES, quantiles=list(QUANTILES))


def render_costs(run: str, steps: Sequence[Mapping[str, Any]]) -> str:
    """The small page of what each step cost."""
    environment = _environment({})
    environment.filters["known"] = lambda value, digits: "none" if value is None else plain(value, digits)
    walls = [step["wall_s"] or 0.0 for step in steps]
    rates = [step["cpu_per_video_s"] for step in steps if step["cpu_per_video_s"] is not None]
    return environment.get_template("costs.html.j2").render(
        run=run,
        steps=steps,
        longest_s=max(walls, default=0.0),
        wall_s=sum(walls),
        cpu_s=sum(step["cpu_s"] or 0.0 for step in steps),
        cpu_per_video_s=sum(rates) if rates else None,
    )


def _environment(shown: Mapping[str, str], clips: Mapping[str, Mapping[str, Any]] | None = None) -> Environment:
    def image(item: Mapping[str, Any]) -> Markup:
        found, path, clip = shown[item["id"]], escape(item["path"]), (clips or {}).get(item["id"])
        if not found.startswith("data:"):
            return Markup(f'<div class="blank">{escape(found)}</div>')
        frame = Markup(f'<img alt="Frame of {path}" title="{path}" src="{found}">')
        if clip is None:
            return frame
        mute = "" if clip["audio"] else " data-mute"
        return Markup(f'<a class="watch" href="{clip["file"]}" aria-label="Watch {path}"{mute}>{frame}</a>')

    environment = Environment(loader=LOADER, autoescape=True, undefined=StrictUndefined)
    environment.globals |= {"image": image, "histogram": plots.histogram}
    environment.filters |= {"num": num, "auto": auto, "plain": plain, "share": share, "duration": duration}
    environment.filters |= {"sentence": sentence, "as_yaml": as_yaml}
    return environment
