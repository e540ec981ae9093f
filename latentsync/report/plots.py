"""Charts as inline SVG, each drawn from an entry of summary.json.

Sizes are in CSS pixels of a card about 320 wide (curves: 240). Colours come from the page's style sheet, so that a
chart works in light and dark mode. Every chart has an aria-label that describes it in words. Coordinates have one
decimal, so the same numbers give the same bytes.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

Scale = Callable[[float], float]  # a value -> its pixel

WIDTH, HEIGHT = 320, 180
NARROW, LOW = 240, 150  # loss curves, four in a row
LEFT, RIGHT, TOP, BOTTOM = 38, 8, 22, 34  # room for tick labels and for the labels of marks above the plot
LINES = ("first", "second", "third", "fourth")  # css classes of the lines of a panel, in order
FEW = 20  # a line of at most so many points shows them, and no running mean
SMOOTHED = 0.06  # window of a running mean, as a share of the points


def number(value: float) -> str:
    """A short label for an axis: four digits at most, a real minus sign."""
    if value == 0:
        return "0"
    if abs(value) >= 100_000 or abs(value) < 0.001:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}".replace("-", "−")
    return f"{value:.4g}".replace("-", "−")


def round_step(least: float, factors: Sequence[float]) -> float:
    """The smallest step of at least `least` (to one part in a thousand) that is a factor times a power of ten."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * factor for factor in factors if power * factor >= least * 0.999)


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers within [low, high]."""
    if not high > low:
        return [low]
    step = round_step((high - low) / count, (1, 2, 5, 10))
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def scale(low: float, high: float, start: float, end: float) -> Scale:
    """The linear map from values in [low, high] to pixels in [start, end]."""
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def svg(label: str, body: str, width: int = WIDTH, height: int = HEIGHT, css: str = "chart") -> Markup:
    """The outer element; `label` describes the chart in words."""
    return Markup(
        f'<svg class="{css}" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">{body}</svg>'
    )


def text(x: float, y: float, content: str, css: str = "tick", anchor: str = "middle") -> str:
    """A text element."""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{css}" text-anchor="{anchor}">{escape(content)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    """A straight line."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{css}"/>'


def circle(x: float, y: float, radius: float, css: str) -> str:
    """A dot."""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" class="{css}"/>'


def path(xs: Sequence[float], ys: Sequence[float | None], css: str) -> str:
    """A line through the points; a None breaks it."""
    parts, pen_down = [], False
    for x, y in zip(xs, ys, strict=True):
        if y is None:
            pen_down = False
            continue
        parts.append(f"{'L' if pen_down else 'M'}{x:.1f} {y:.1f}")
        pen_down = True
    return f'<path d="{"".join(parts)}" class="{css}"/>' if parts else ""


def x_axis(ticks: Sequence[float], x: Scale, base: float, title: str, right: float) -> str:
    """Base line, tick labels and the axis' name below."""
    marks = "".join(text(x(tick), base + 14, number(tick)) for tick in ticks)
    return line(LEFT, base, right, base, "axis") + marks + text((LEFT + right) / 2, base + 29, title, "axis-title")


def y_axis(ticks: Sequence[float], y: Scale, right: float, name: Callable[[float], str] = number) -> str:
    """Grid lines with their labels on the left."""
    return "".join(
        line(LEFT, y(tick), right, y(tick), "grid") + text(LEFT - 6, y(tick) + 4, name(tick), anchor="end")
        for tick in ticks
    )


def vertical_mark(x: float, words: str, base: float, middle: float, css: str = "") -> str:
    """A line with words above it, which are on the side of the line that is nearer to the middle of the plot."""
    gap, anchor = (4, "start") if x < middle else (-4, "end")
    return line(x, TOP - 6, x, base, f"mark{css}") + text(x + gap, TOP - 8, words, f"mark-text{css}", anchor)


def histogram(item: Mapping[str, Any]) -> Markup:
    """Stacked bars, clips selected and rejected over one score, with its thresholds as vertical lines."""
    edges, right, base = item["edges"], WIDTH - RIGHT, HEIGHT - BOTTOM
    x = scale(edges[0], edges[-1], LEFT, right)
    top = max(map(sum, zip(item["kept"], item["lost"], strict=True)), default=0) or 1
    y = scale(0, top * 1.05, base, TOP)
    body = y_axis([tick for tick in nice_ticks(0, top, 3) if tick == int(tick)], y, right)
    floor = [0] * len(item["kept"])
    for css in ("kept", "lost"):
        for index, count in enumerate(item[css]):
            if count:
                x0, x1 = x(edges[index]) + 0.7, x(edges[index + 1]) - 0.7
                y0, y1 = y(floor[index]), y(floor[index] + count)
                body += (
                    f'<rect x="{x0:.1f}" y="{y1:.1f}" width="{max(x1 - x0, 0.8):.1f}" height="{y0 - y1:.1f}" '
                    f'class="{css}"><title>{number(edges[index])} to {number(edges[index + 1])}: {count}</title></rect>'
                )
            floor[index] += count
    body += x_axis(nice_ticks(edges[0], edges[-1]), x, base, item["axis"], right)
    for mark in item["marks"]:
        body += vertical_mark(x(mark["at"]), mark["words"], base, (LEFT + right) / 2)
    for off in item["off"]:
        body += vertical_mark(LEFT if off["least"] else right, off["words"], base, (LEFT + right) / 2, " off")
    counts = f"{item['kept_n']} selected and {item['lost_n']} rejected clips"
    limits = "".join(f"; {mark['words']}" for mark in (*item["marks"], *item["off"]))
    return svg(f"Histogram of {item['title']}: {counts}{limits}", body)


def curves(step: Mapping[str, Any], panel: Mapping[str, Any]) -> Markup:
    """Values over training steps, from 0; long series faint, under their running mean. No mark on a log axis."""
    log, mark = panel["log"], panel["mark"]
    series: list[tuple[str, Sequence[float], Sequence[float]]] = []  # css class, xs, ys
    for css, each in zip(LINES, panel["lines"], strict=False):
        values = each["values"]
        if len(values) > FEW:
            series.append((f"{css} raw", each["steps"], values))
            values = smooth(values)
        series.append((css, each["steps"], values))
    if log:
        series = [(css, xs, [math.log10(value) for value in ys]) for css, xs, ys in series]
    drawn = [value for _, _, ys in series for value in ys] + ([mark["at"]] if mark and not log else [])
    low, high = min(drawn), max(drawn)
    if not log and 0 <= low < 0.6 * high:
        low = 0.0
    pad = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
    low, high = (low if low == 0 else low - pad), high + pad
    end = max(x for _, xs, _ in series for x in xs)
    right, base = NARROW - RIGHT, LOW - BOTTOM
    x, y = scale(0, end, LEFT, right), scale(low, high, base, TOP if mark else 6)
    ticks = [tick for tick in nice_ticks(low, high, 3) if tick == int(tick)] if log else nice_ticks(low, high, 3)
    if log and len(ticks) < 2:
        ticks = [low + pad, high - pad]
    body = y_axis(ticks, y, right, (lambda tick: number(float(f"{10.0**tick:.2g}"))) if log else number)
    if mark and not log:
        body += line(LEFT, y(mark["at"]), right, y(mark["at"]), "mark")
        body += text(right - 2, y(mark["at"]) - 4, mark["words"], "mark-text", "end")
    for css, xs, ys in series:
        body += path([x(value) for value in xs], [y(value) for value in ys], css)
        if len(xs) <= FEW:
            body += "".join(circle(x(a), y(b), 2.4, f"point {css}") for a, b in zip(xs, ys, strict=True))
    body += x_axis(nice_ticks(0, end, 3), x, base, "step", right)
    ends = (f"{each['name']} from {number(each['first'])} to {number(each['last'])}" for each in panel["lines"])
    return svg(f"{step['title']}, {panel['title']}: {'; '.join(ends)}", body, NARROW, LOW)


def smooth(values: Sequence[float]) -> list[float]:
    """Running mean over a window of SMOOTHED of the points, centred, shorter at the ends."""
    half = max(1, round(len(values) * SMOOTHED / 2))
    windows = [values[max(0, index - half) : index + half + 1] for index in range(len(values))]
    return [sum(window) / len(window) for window in windows]


def trace(column: Mapping[str, Any]) -> Markup:
    """Mouth opening over time, measured and true, each in its own range; the page's script moves the play head."""
    width, height, pad, times_s = 320, 76, 4, column["times_s"]
    duration_s = max(times_s[-1] + (times_s[-1] - times_s[0]) / max(1, len(times_s) - 1), 1e-9)
    x, base = scale(0, duration_s, pad, width - pad), height - 18
    body = line(pad, base, width - pad, base, "axis")
    for tick in nice_ticks(0, duration_s, 5):
        anchor = "start" if tick == 0 else "end" if x(tick) > width - 14 else "middle"
        body += text(x(tick), height - 4, f"{number(tick)} s", anchor=anchor)
    for css in ("true", "measured"):
        known = [value for value in column[css] if value is not None]
        if known:
            y = scale(min(known), max(known), base - 2, 6)
            body += path([x(time) for time in times_s], [None if v is None else y(v) for v in column[css]], css)
    body += (
        f'<line x1="{pad}" y1="2" x2="{pad}" y2="{base}" class="playhead" data-span="{width - 2 * pad}" '
        f'data-seconds="{duration_s:.3f}"/>'
    )
    truth = " and true opening of the audio" if any(value is not None for value in column["true"]) else ""
    r = "" if column["r"] is None else f", correlation {column['r']:.2f}"
    label = f"{column['title']}: measured mouth opening{truth} over time{r}"
    return svg(label, body, width, height, "chart trace")


def forest(systems: Sequence[Mapping[str, Any]], axis: str, bar: float) -> Markup:
    """Means of mouth_r as dots with intervals and single videos as faint dots, one row for each system that has any."""
    rows = [(row, row["cells"]["mouth_r"]) for row in systems if row["cells"]["mouth_r"]["value"] is not None]
    if not rows:
        return Markup("")
    step, left, right = 28, 124, WIDTH - RIGHT
    base = TOP + step * len(rows)
    ends = [v for row, cell in rows for v in (cell["value"], cell["low"], cell["high"], *row["each_mouth_r"])]
    known = [0.0, bar, *(value for value in ends if value is not None)]
    low, high = min(known), max(known)
    pad = (high - low) * 0.04 or 1.0
    x = scale(low - pad, high + pad, left, right)
    ticks = nice_ticks(low - pad, high + pad, 4)
    body = "".join(line(x(t), TOP, x(t), base, "grid") + text(x(t), base + 14, number(t)) for t in ticks)
    body += text((left + right) / 2, base + 29, axis, "axis-title")
    body += vertical_mark(x(bar), f"bar {number(bar)}", base, (left + right) / 2)
    for index, (row, cell) in enumerate(rows):
        y, css = TOP + step * (index + 0.5), "ours" if row["ours"] else ""
        body += text(left - 8, y + 4, row["short"], "row-name", "end")
        body += "".join(circle(x(value), y + 5, 2.2, f"single {css}") for value in row["each_mouth_r"])
        if cell["low"] is not None and cell["high"] is not None:
            body += line(x(cell["low"]), y, x(cell["high"]), y, f"whisker {css}")
        body += circle(x(cell["value"]), y, 4.5, f"dot {css}")
    means = "; ".join(f"{row['short']} {cell['value']:.2f}" for row, cell in rows)
    return svg(f"{axis}: {means}", body, WIDTH, base + BOTTOM)
