"""The figures: what is drawn, what is left out, and that the SVG can stand inside a page."""

import math
import xml.etree.ElementTree as ElementTree

import pytest

from mrt.report.plots import Series, band_figure, bar_figure, compact, line_figure, training_panels

pytestmark = pytest.mark.training

ONE = Series(1, [0, 8, 16], [0.1, 0.3, 0.4], [0.05, 0.2, 0.3], [0.15, 0.4, math.nan])


def texts(svg: str | None) -> list[str]:
    assert svg is not None
    return ["".join(node.itertext()).strip() for node in ElementTree.fromstring(svg).iter("text")]


def test_band_figure_is_inline_svg_in_the_pages_colours() -> None:
    svg = band_figure("x", [ONE, Series(0, [0, 16], [0.2, 0.3])], "budget", percent=True)
    assert svg is not None
    assert svg.startswith("<svg")
    assert "var(--arm-1)" in svg
    assert "var(--arm-0)" in svg
    assert "var(--grid)" in svg
    assert "xmlns" not in svg
    assert "<style" not in svg
    assert "font-family" not in svg
    assert "#0" not in svg
    assert set(texts(svg)) >= {"budget", "0%", "20%", "40%"}


def test_the_logarithmic_axis_leaves_out_zero() -> None:
    assert {"8", "16"} <= set(texts(band_figure("x", [ONE], "budget", log=True)))
    assert "0.1" not in texts(band_figure("x", [Series(1, [0, 8, 16], [0.1, 0.3, 0.4])], "budget", log=True))
    assert band_figure("x", [Series(1, [0, 8], [0.1, 0.3])], "budget", log=True) is None  # a single point is no curve


def test_nothing_to_draw_is_none() -> None:
    empty = [Series(0, [], []), Series(1, [1.0], [math.nan])]
    assert band_figure("x", empty, "") is None
    assert bar_figure("x", empty, "") is None
    assert line_figure("x", empty, "") is None
    assert training_panels([]) == ([], 0)


def test_ids_are_the_figures_own() -> None:
    first, second = (band_figure(name, [ONE], "budget") for name in ("a", "b"))
    ids = [{node.get("id") for node in ElementTree.fromstring(svg or "").iter()} - {None} for svg in (first, second)]
    assert ids[0]
    assert not ids[0] & ids[1]


def test_bars_carry_their_sign() -> None:
    assert {"−5%", "5%"} <= set(
        texts(bar_figure("x", [Series(2, [1, 2], [0.08, -0.08], [0.05, -0.09], [0.1, -0.07])], "e"))
    )


@pytest.mark.parametrize(("value", "shown"), [(1500, "1.5k"), (2e6, "2M"), (0.25, "0.25"), (-3e9, "−3G"), (0, "0")])
def test_compact(value: float, shown: str) -> None:
    assert compact(value) == shown


def test_training_panels_order_axes_and_count() -> None:
    rows = [
        {"step": s, "loss": 1 / s, "progress/mean": 0.1, "reward": s, "once": 1 if s == 3 else None}
        for s in range(1, 6)
    ]
    panels, left_out = training_panels([(1, rows)])
    assert [(panel.key, panel.primary) for panel in panels] == [
        ("reward", True),
        ("progress/mean", True),
        ("loss", False),
    ]
    assert list(panels[0].views) == ["step"]
    assert left_out == 0
    timed = [row | {"time": 1.7e9 + 60 * row["step"], "cost": 1000 * row["step"]} for row in rows]
    panels, _ = training_panels([(1, timed)])
    assert list(panels[0].views) == ["step", "cost", "minutes"]
    assert {"0", "4"} <= set(texts(panels[0].views["minutes"]))  # counted from the first row, in minutes
    assert {"2k", "4k"} <= set(texts(panels[0].views["cost"]))
    many = [{"step": step} | {f"k{place}": step for place in range(40)} for step in (1, 2)]
    panels, left_out = training_panels([(1, many)])
    assert (len(panels), left_out) == (36, 4)


def test_a_long_run_costs_no_more_than_a_short_one() -> None:
    long = Series(1, range(100_000), [math.sin(x / 9000) for x in range(100_000)])
    svg = line_figure("x", [long], "step")
    assert svg is not None
    assert len(svg) < 40_000
