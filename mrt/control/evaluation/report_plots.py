"""The pictures of a control evaluation: adaptation, cumulative regret, paths and choices, as inline SVG.

Drawn by the functions of `mrt.report.plots`, so colours and fonts come from the page here as well. Only numbers and
our own words are in a drawing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mrt.report.plots import _GRID, _INK, _MARKERS, Series, _colour, _figure, _points

POINTS = 120  # of a curve at most
EPISODES = 4  # of a path at most: the first three and the last
MOMENTS = 6  # of an episode at which beliefs are drawn


def thinned(series: Series) -> Series:
    """The same curve with at most `POINTS` points, both ends among them."""
    count = len(series.x)
    if count <= POINTS:
        return series
    kept = sorted({round(i * (count - 1) / (POINTS - 1)) for i in range(POINTS)})
    columns = (series.x, series.mean, series.low, series.high)
    x, mean, low, high = ([values[i] for i in kept] if values else [] for values in columns)
    return Series(series.colour, x, mean, low, high)


def curve_figure(
    name: str,
    series: Sequence[Series],
    x_label: str,
    levels: Sequence[Sequence[float]] = (),
    exact: Sequence[float | None] = (),
) -> str:
    """Curves with bands; `levels` (floor, ceiling: a value for each x, or one for all) dashed, `exact` as crosses."""

    def draw(axes: Any) -> None:
        from matplotlib.ticker import MaxNLocator

        for one in map(thinned, series):
            x, mean, low, high = (list(column) for column in zip(*_points(one), strict=True))
            colour, few = _colour(one.colour), len(x) <= 20
            marker = {"marker": _MARKERS[one.colour % len(_MARKERS)], "markersize": 4.5} if few else {}
            axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
            axes.plot(x, mean, color=colour, lw=1.8, **marker)
        first, last = series[0].x[0], series[0].x[-1]
        for level in levels:
            at = [first, last] if len(level) == 1 else list(series[0].x)
            axes.plot(at, [level[0]] * 2 if len(level) == 1 else list(level), color=_INK, lw=1, linestyle=(0, (5, 3)))
        crosses = [(x, y) for x, y in zip(series[0].x, exact, strict=False) if y is not None]
        if crosses:
            axes.plot(*zip(*crosses, strict=True), color=_INK, marker="x", markersize=7, linestyle="none")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    return _figure(name, draw, x_label)


def path_figure(name: str, colour: int, scene: Mapping[str, Any]) -> str:
    """The first episodes and the last one side by side: ground, walls, marks by their first letter, and the path."""
    episodes = list(enumerate(scene["episodes"], 1))
    shown = episodes if len(episodes) <= EPISODES else [*episodes[: EPISODES - 1], episodes[-1]]
    left, right, bottom, top = _extent(scene)
    columns = 2 if right - left < 2.5 * (top - bottom) and len(shown) > 1 else 1
    wide, high = (right - left) * 1.12, (top - bottom) * 1.2 + (0.6 if "cells" in scene else 0.0)

    def draw(axes: Any) -> None:
        axes.set_axis_off()
        axes.set_position((0.0, 0.0, 1.0, 1.0))
        axes.set_aspect("equal")
        for place, (number, episode) in enumerate(shown):
            dx, dy = wide * (place % columns), -high * (place // columns)
            _ground(axes, scene, (left, right, bottom, top), dx, dy)
            text = f"episode {number}: {episode['return']:.3g}".replace("-", "−")
            axes.text(dx + left, dy + top, text, va="bottom", ha="left", color=_INK, fontsize=8)
            _walk(axes, episode, scene, colour=colour, dx=dx, dy=dy)
        axes.autoscale_view()

    return _figure(name, draw, "")


def belief_figure(name: str, colour: int, scene: Mapping[str, Any]) -> str:
    """A line of maps for each of the first two episodes, at six moments of it: the darker a cell, the likelier."""
    left, right, bottom, top = _extent(scene)
    wide, high = (right - left) * 1.1, (top - bottom) * 1.2

    def draw(axes: Any) -> None:
        from matplotlib.patches import Rectangle

        axes.set_axis_off()
        axes.set_position((0.0, 0.0, 1.0, 1.0))
        axes.set_aspect("equal")
        for line, episode in enumerate(scene["episodes"][:2]):
            last = len(episode["beliefs"]) - 1
            for place, step in enumerate(sorted({round(i * last / (MOMENTS - 1)) for i in range(MOMENTS)})):
                dx, dy = wide * place, -high * line
                frame = Rectangle((dx + left, dy + bottom), right - left, top - bottom, fill=False, ec=_GRID)
                axes.add_patch(frame)
                axes.text(dx + left, dy + top, f"{line + 1}: {step}", va="bottom", ha="left", color=_INK, fontsize=7)
                for (x, y), chance in zip(scene["believed"], episode["beliefs"][step], strict=True):
                    if chance >= 0.005:
                        shade = {"color": _colour(colour), "alpha": round(min(chance, 1.0) ** 0.5, 2), "linewidth": 0}
                        axes.add_patch(Rectangle((dx + x - 0.5, dy + y - 0.5), 1, 1, **shade))
                x, y = episode["path"][step]
                axes.plot([dx + x], [dy + y], color=_INK, marker="o", markersize=2.5)
        axes.autoscale_view()

    return _figure(name, draw, "")


def _extent(scene: Mapping[str, Any]) -> tuple[float, float, float, float]:
    if "limits" in scene:
        xs = [x for e in scene["episodes"] for x, _ in e["path"]] + scene["limits"][:2]
        ys = [y for e in scene["episodes"] for _, y in e["path"]] + scene["limits"][2:]
        return min(xs), max(xs), min(ys), max(ys)
    xs, ys = zip(*scene["cells"], strict=True)
    return min(xs) - 0.5, max(xs) + 0.5, min(ys) - 0.5, max(ys) + 0.5


def _ground(axes: Any, scene: Mapping[str, Any], extent: Sequence[float], dx: float, dy: float) -> None:
    from matplotlib.collections import LineCollection
    from matplotlib.patches import Rectangle

    left, right, bottom, top = extent
    if "cells" not in scene:
        axes.add_patch(Rectangle((dx + left, dy + bottom), right - left, top - bottom, fill=False, ec=_GRID))
        return
    for x, y in scene["cells"]:
        axes.add_patch(Rectangle((dx + x - 0.47, dy + y - 0.47), 0.94, 0.94, color=_GRID, alpha=0.6, linewidth=0))
    lines = [[(dx + x0, dy + y0), (dx + x1, dy + y1)] for x0, y0, x1, y1 in scene.get("walls", [])]
    axes.add_collection(LineCollection(lines, colors=_INK, linewidths=1.6))


def _walk(
    axes: Any, episode: Mapping[str, Any], scene: Mapping[str, Any], *, colour: int, dx: float, dy: float
) -> None:
    from matplotlib.patches import Circle

    for name, x, y in episode["marks"]:
        if scene.get("radius"):
            axes.add_patch(Circle((dx + x, dy + y), scene["radius"], color=_GRID, alpha=0.7, linewidth=0))
        letter = name[0].upper() + (name[-1] if name[-1].isdigit() else "")
        axes.text(dx + x, dy + y, letter, ha="center", va="center", color=_INK, fontsize=8)
    path = episode["path"]
    shift = 0.28 / max(len(path) - 1, 1) if "cells" in scene else 0.0  # what is walked twice stays visible
    xs = [dx + x + shift * (i - len(path) / 2) for i, (x, _) in enumerate(path)]
    ys = [dy + y + shift * (i - len(path) / 2) for i, (_, y) in enumerate(path)]
    axes.plot(xs, ys, color=_colour(colour), lw=1.3, alpha=0.85)
    axes.plot(xs[:1], ys[:1], color=_colour(colour), marker="o", markersize=4)
    axes.plot(xs[-1:], ys[-1:], color=_colour(colour), marker="s", markersize=9, fillstyle="none")


def choices_figure(name: str, colour: int, scene: Mapping[str, Any], unit: str) -> str:
    """A line a trial: full where the choice was the best one, faint where it lay in the better half, else empty."""

    def draw(axes: Any) -> None:
        from matplotlib.ticker import MaxNLocator

        rows = scene["rows"]
        for place, row in enumerate(rows):
            shades = [2 if worth >= 0.999 else int(worth >= 0.5) for worth in row]
            start = 0
            for i in range(1, len(shades) + 1):
                if i == len(shades) or shades[i] != shades[start]:
                    if shades[start]:
                        alpha = 0.95 if shades[start] == 2 else 0.3
                        bar = [(start + 0.5, i - start)]
                        axes.broken_barh(bar, (place - 0.42, 0.84), color=_colour(colour), alpha=alpha, linewidth=0)
                    start = i
        axes.set_xlim(0.5, max(len(row) for row in rows) + 0.5)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_yticks([])
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    return _figure(name, draw, unit)
