"""The report's figures: matplotlib drawings as inline SVG whose colours and fonts come from the page's style sheet.

No text of a user's enters a drawing (names stand in HTML beside it), so nothing has to be escaped here and no `$` is
taken for mathematics. Colours are placeholders that become CSS variables, which is what lets one drawing serve the
light and the dark page. matplotlib is imported on first use.
"""

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mrt.report.data import COLOURS, number

_MARKERS = "os^DvPX"  # as .chip in templates/report.css draws them
_INK, _GRID = "#0b0001", "#0b0002"
_COST_KEYS = ("cost", "cost/total", "cost/positions")
_CLOCK_KEYS = ("wall_clock", "time")
_FIRST_KEYS = ("reward", "completions/mean_length")
_FIRST_PREFIXES = ("progress/", "regret/")
_MAX_PANELS = 36


@dataclass(frozen=True)
class Series:
    """One curve: `x`, `mean`, `low` and `high` of one length; NaN where there is no interval."""

    colour: int
    x: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """One logged quantity of the training runs: the same curve over every axis that the logs allow."""

    key: str
    primary: bool
    views: Mapping[str, str] = field(default_factory=dict)


def compact(value: float) -> str:
    """1500 -> '1.5k', 2e6 -> '2M', 0.25 -> '0.25': an axis label of at most five characters or so."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}".replace("-", "−")
    return f"{value:.3g}".replace("-", "−")


def _colour(index: int) -> str:
    return f"#0a00{index % COLOURS:02x}"


def _inline(svg: str, name: str) -> str:
    """A matplotlib SVG file made fit to stand inside the page: unique ids, CSS colours, the page's font."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.S)
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.S)  # it would restyle the whole page
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"| version="1.1"', "", svg)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # groups are never referred to; clip paths and markers are
    svg = re.sub(r'\bid="', f'id="{name}-', svg).replace("url(#", f"url(#{name}-")
    svg = svg.replace('xlink:href="#', f'href="#{name}-')
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    svg = re.sub(r"#0a00(\d\d)", lambda found: f"var(--arm-{int(found[1])})", svg)
    svg = svg.replace(_INK, "var(--muted)").replace(_GRID, "var(--grid)")
    return re.sub(r"\s*\n\s*", " ", svg).replace("> <", "><").strip()


def _figure(name: str, draw: Callable[[Any], None], x_label: str, percent: bool = False) -> str:
    """One set of axes of 4.8 by 3.1 inches, small enough that its labels can still be read on a phone."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,  # the same report, byte for byte, from the same data
        "font.size": 10.5,
        "axes.edgecolor": _INK,
        "axes.labelcolor": _INK,
        "xtick.color": _INK,
        "ytick.color": _INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "axes.axisbelow": True,
        "grid.color": _GRID,
        "ytick.major.size": 0,
        "path.simplify": True,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(4.8, 3.1))
        axes = figure.add_axes((0.105, 0.15, 0.875, 0.82))
        figure.patch.set_visible(False)
        axes.patch.set_visible(False)
        axes.set_xlabel(x_label)
        numbers = FuncFormatter(lambda value, _: compact(value))
        axes.xaxis.set_major_formatter(numbers)
        axes.yaxis.set_major_formatter(
            FuncFormatter(lambda value, _: f"{compact(100 * value)}%") if percent else numbers
        )
        draw(axes)
        target = io.StringIO()
        figure.savefig(target, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return _inline(target.getvalue(), name)


def _points(series: Series, positive: bool = False) -> list[tuple[float, float, float, float]]:
    low = series.low or [math.nan] * len(series.x)
    high = series.high or [math.nan] * len(series.x)
    rows = zip(series.x, series.mean, low, high, strict=True)
    return [row for row in rows if math.isfinite(row[0]) and math.isfinite(row[1]) and (row[0] > 0 or not positive)]


def band_figure(
    name: str,
    series: Sequence[Series],
    x_label: str,
    *,
    log: bool = False,
    percent: bool = False,
    whole: bool = False,
    diagonal: bool = False,
) -> str | None:
    """Lines with their intervals as bands; None without points. `log` leaves out x <= 0; `whole`: x are counts;
    `diagonal` draws the line of x itself, over [0, 1]."""
    found = [(one.colour, _points(one, positive=log), one.dashed) for one in series]
    rows = [(colour, points, dashed) for colour, points, dashed in found if points]
    if not rows or (log and len({point[0] for _, points, _ in rows for point in points}) < 2):
        return None

    def draw(axes: Any) -> None:
        from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

        for colour, points, dashed in rows:
            x, mean, low, high = (list(column) for column in zip(*points, strict=True))
            axes.fill_between(x, low, high, color=_colour(colour), alpha=0.18, linewidth=0)
            style = {"marker": _MARKERS[colour % len(_MARKERS)], "markersize": 4.5, "ls": "--" if dashed else "-"}
            axes.plot(x, mean, color=_colour(colour), lw=1.8, **style)
        if diagonal:
            axes.plot([0, 1], [0, 1], color=_INK, lw=0.8, ls=":")
        top = max(point[i] for _, points, _ in rows for point in points for i in (1, 3) if math.isfinite(point[i]))
        if percent:
            axes.set_ylim(0, min(1.02, top * 1.08) or 1)
        if log:
            axes.set_xscale("log", base=2)
            span = [point[0] for _, points, _ in rows for point in points]
            first, last = math.floor(math.log2(min(span))), math.ceil(math.log2(max(span)))
            every = max(1, (last - first) // 7)
            axes.xaxis.set_major_locator(FixedLocator([2.0**power for power in range(first, last + 1, every)]))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(lambda value, _: compact(value))
        elif whole:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    return _figure(name, draw, x_label, percent)


def bar_figure(name: str, series: Sequence[Series], x_label: str, labels: Sequence[str] = ()) -> str | None:
    """Bars side by side, one group for each x, with their intervals as error bars; the values are shares of one. With
    `labels` x are their places."""
    rows = [(one.colour, _points(one)) for one in series]
    rows = [(colour, points) for colour, points in rows if points]
    if not rows:
        return None
    width = 0.8 / len(rows)

    def draw(axes: Any) -> None:
        from matplotlib.ticker import MaxNLocator

        for place, (colour, points) in enumerate(rows):
            x = [point[0] + (place - (len(rows) - 1) / 2) * width for point in points]
            mean = [point[1] for point in points]
            below = [max(0.0, point[1] - point[2]) if math.isfinite(point[2]) else 0.0 for point in points]
            above = [max(0.0, point[3] - point[1]) if math.isfinite(point[3]) else 0.0 for point in points]
            axes.bar(x, mean, width * 0.92, color=_colour(colour), linewidth=0)
            cap = min(3.0, 9 * width)
            axes.errorbar(x, mean, yerr=[below, above], fmt="none", ecolor=_INK, elinewidth=1, capsize=cap)
        axes.axhline(0, color=_INK, linewidth=0.8)
        if labels:
            axes.set_xticks(range(len(labels)), labels)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    return _figure(name, draw, x_label, percent=True)


def _binned(points: Sequence[tuple[float, float]], limit: int = 240) -> list[tuple[float, float]]:
    """At most `limit` points: neighbours averaged in equal bins, so that a long run costs no more than a short one."""
    size = math.ceil(len(points) / limit)
    bins = [points[start : start + size] for start in range(0, len(points), size)] if size > 1 else []
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in bins] or list(points)


def _smooth(values: Sequence[float], reach: int) -> list[float]:
    """Centred running mean over 2 * reach + 1 values, fewer at the ends."""
    windows = [values[max(0, i - reach) : i + reach + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]


def line_figure(name: str, series: Sequence[Series], x_label: str) -> str | None:
    """Training curves: the logged values faint, their running mean over a twentieth of the run strong."""
    rows = [(one.colour, _binned([point[:2] for point in _points(one)])) for one in series]
    rows = [(colour, points) for colour, points in rows if points]
    if not rows:
        return None

    def draw(axes: Any) -> None:
        for colour, points in rows:
            x, y = ([point[i] for point in points] for i in (0, 1))
            mean = _smooth(y, len(y) // 40)
            if mean != y:
                axes.plot(x, y, color=_colour(colour), linewidth=0.8, alpha=0.35)
            short = {"marker": _MARKERS[colour % len(_MARKERS)], "markersize": 4} if len(x) < 12 else {}
            axes.plot(x, mean, color=_colour(colour), linewidth=1.8, **short)

    return _figure(name, draw, x_label)


def _number(value: Any) -> float:
    found = number(value)
    return math.nan if found is None else found


def _axis(rows: Sequence[Mapping[str, Any]], axis: str) -> list[float]:
    """Where each logged row stands on `axis`: optimiser steps, positions through the model, minutes since the start."""
    if axis == "step":
        return [_number(row.get("step")) for row in rows]
    names = _COST_KEYS if axis == "cost" else _CLOCK_KEYS
    values = [next((_number(row[name]) for name in names if name in row), math.nan) for row in rows]
    if axis == "cost":
        return values
    start = next((value for value in values if math.isfinite(value)), 0.0)
    if start < 1e8:  # seconds since the start already; seconds since 1970 are counted from the first row
        start = 0.0
    return [(value - start) / 60 for value in values]


AXES = {"step": "optimiser steps", "cost": "positions through the model", "minutes": "minutes"}


def training_panels(runs: Sequence[tuple[int, Sequence[Mapping[str, Any]]]]) -> tuple[list[Panel], int]:
    """A panel for every quantity logged at least twice in some run, and how many were left out beyond the first 36.

    `runs` holds a colour and the rows of metrics.jsonl for each run. Reward, length, progress and regret come first.
    """
    skipped = {"step", "epoch", *_COST_KEYS, *_CLOCK_KEYS}
    counts: dict[str, int] = {}
    for _, rows in runs:
        for key in {key for row in rows for key in row} - skipped:
            logged = sum(math.isfinite(_number(row.get(key))) for row in rows)
            counts[key] = max(counts.get(key, 0), logged)
    keys = [key for key in _FIRST_KEYS if counts.get(key, 0) > 1]
    for prefix in _FIRST_PREFIXES:
        keys += sorted(key for key, count in counts.items() if key.startswith(prefix) and count > 1)
    first = len(keys)
    keys += sorted(key for key, count in counts.items() if key not in keys and count > 1)
    places = {axis: [_axis(rows, axis) for _, rows in runs] for axis in AXES}
    panels = []
    for place, key in enumerate(keys[:_MAX_PANELS]):
        values = [[_number(row.get(key)) for row in rows] for _, rows in runs]
        views = {}
        for axis, label in AXES.items():
            drawn = zip(runs, places[axis], values, strict=True)
            svg = line_figure(f"t{place}{axis}", [Series(run[0], x, y) for run, x, y in drawn], label)
            if svg:
                views[axis] = svg
        if views:
            panels.append(Panel(key, place < first, views))
    return panels, max(0, len(keys) - _MAX_PANELS)
