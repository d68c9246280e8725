"""The report's part on test-time compute: regret by cut-off, pass@k, votes, extrapolation, calibration, heat maps.

Every number comes from results.json and problems.json as they stand; an arm without a part is left out of it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from mrt.report.data import Arm, Estimate, number, read_json
from mrt.report.plots import Series, band_figure, bar_figure, compact

HEAT_ROWS = 120  # problems of a heat map; of more, every so-many-th in their order is shown


@dataclass(frozen=True)
class Card:
    """One figure with what a reader has to know about it."""

    title: str
    svg: str
    note: str


@dataclass(frozen=True)
class Heat:
    """One arm's accuracy of problem by budget: rows shown of how many, as SVG."""

    arm: Arm
    svg: str
    shown: int
    total: int
    budgets: Sequence[float]


def compute_cards(arms: Sequence[Arm]) -> list[Card]:
    """The figures that the results allow, in reading order."""
    budget = "budget, thinking tokens (log scale)"
    cards = [
        (
            "Normalised regret by cut-off",
            _regret_bars(arms),
            "1 minus the area under J up to C₀, over C₀: 0 is right from the first token, 1 never right.",
        ),
        (
            "pass@k",
            band_figure("pk", _series(arms, "pass_at_k", "k"), "samples k (log scale)", log=True, percent=True),
            "The chance that k samples drawn without replacement hold a right one; unbiased (Chen et al. 2021).",
        ),
        (
            "maj@k",
            band_figure("mk", _series(arms, "maj_at_k", "k"), "samples k (log scale)", log=True, percent=True),
            "The chance that the most frequent answer of k samples is right, over all subsets; ties broken evenly.",
        ),
        (
            "Votes after each episode",
            band_figure("me", _votes(arms), "episodes before the forced answers", percent=True, whole=True),
            "[maj@p]ⱼ: p answers forced after episode j, the largest p that was sampled; dashed: p = 1.",
        ),
        (
            "Beyond the training budget",
            _extrapolation(arms, budget),
            "Solid: thinking stopped at the budget. Dashed: continue cues where the thought ended; none is longer than "
            "its budget.",
        ),
        (
            "Linearized",
            band_figure("li", _series(arms, "linearized", "budget"), budget, log=True, percent=True),
            "Only the last few episodes stay in context as a trial continues.",
        ),
        (
            "Calibration of J",
            band_figure("ca", _reliability(arms), "J, the forecast", percent=True, diagonal=True),
            "Right answers among the traces whose J after their last episode fell into a bin; dotted: as forecast. "
            + _errors(arms),
        ),
    ]
    return [Card(title, svg, note) for title, svg, note in cards if svg]


def thinking_table(arms: Sequence[Arm]) -> list[tuple[Arm, list[Estimate]]]:
    """For every arm with these figures: overthinking, underthinking, reached, overthinking-adjusted accuracy."""
    rows = []
    for arm in arms:
        found = arm.results.get("thinking")
        if isinstance(found, Mapping):
            names = ("overthinking", "underthinking", "reached")
            cells = [Estimate.read(found.get(name)) for name in names]
            rows.append((arm, [*cells, Estimate.read(arm.results.get("overthinking_adjusted"))]))
    return rows


def contamination_rows(arms: Sequence[Arm]) -> list[tuple[Arm, Mapping[str, Any], list[tuple[str, float, str]]]]:
    """(arm, its report, the problems with most overlap as (key, overlap, where))."""
    rows = []
    for arm in arms:
        found = arm.results.get("contamination")
        if isinstance(found, Mapping) and {"n", "files", "rows", "checked", "contaminated"} <= set(found):
            hits = found.get("problems") if isinstance(found.get("problems"), Mapping) else {}
            worst = [
                (str(key), number(one.get("overlap")) or 0.0, str(one.get("where") or ""))
                for key, one in (hits or {}).items()
                if isinstance(one, Mapping)
            ]
            rows.append((arm, found, sorted(worst, key=lambda one: -one[1])[:50]))
    return rows


def heat_maps(arms: Sequence[Arm]) -> list[Heat]:
    """A heat map for each arm with a problems.json; one order of the problems for all, by the first arm's mean."""
    found = [(arm, read_json(arm.folder / "problems.json")) for arm in arms]
    tables = [(arm, _table(stored), _grid(stored)) for arm, stored in found if stored]
    tables = [(arm, table, grid) for arm, table, grid in tables if table and grid]
    if not tables:
        return []
    first = tables[0][1]
    keys = dict.fromkeys(key for _, table, _ in tables for key in table)
    order = sorted(keys, key=lambda key: -_mean(first.get(key, [])))
    step = max(1, math.ceil(len(order) / HEAT_ROWS))
    maps = []
    for arm, table, grid in tables:
        shown = [key for key in order[::step] if key in table]
        maps.append(Heat(arm, _heat_svg(shown, table, grid), len(shown), len(table), grid))
    return maps


def environments(arms: Sequence[Arm]) -> list[tuple[str, list[str]]]:
    """(name, one value per arm) of what the evaluations ran with: commit, machine, versions."""
    stored = [arm.results.get("environment") for arm in arms]
    flat: list[dict[str, str]] = []
    for one in stored:
        one = one if isinstance(one, Mapping) else {}
        versions = one.get("versions") if isinstance(one.get("versions"), Mapping) else {}
        facts = {key: one.get(key) for key in ("commit", "machine")} | dict(versions or {})
        flat.append({str(key): str(value) for key, value in facts.items() if value is not None})
    names = dict.fromkeys(name for facts in flat for name in facts)
    return [(name, [facts.get(name, "–") for facts in flat]) for name in names]


def _lines(arm: Arm, name: str) -> list[Mapping[str, Any]]:
    rows = arm.results.get(name)
    return [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []


def _one(colour: int, rows: Sequence[Mapping[str, Any]], x: str, dashed: bool = False) -> Series:
    points = [(number(row.get(x)), Estimate.read(row)) for row in rows]
    kept = [(at, one) for at, one in points if at is not None and one.mean is not None]
    mean, low, high = ([_or_nan(getattr(one, part)) for _, one in kept] for part in ("mean", "low", "high"))
    return Series(colour, [at for at, _ in kept], mean, low, high, dashed=dashed)


def _series(arms: Sequence[Arm], name: str, x: str) -> list[Series]:
    return [_one(arm.colour, _lines(arm, name), x) for arm in arms]


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _regret_bars(arms: Sequence[Arm]) -> str | None:
    cuts = sorted({at for arm in arms for row in _lines(arm, "regret_at_budget") if (at := number(row.get("budget")))})
    if len(cuts) > 8:  # as many as stay readable, the full budget among them
        cuts = [cuts[round(i * (len(cuts) - 1) / 7)] for i in range(8)]
    rows = []
    for arm in arms:
        placed = [
            {**row, "at": cuts.index(number(row.get("budget")) or 0.0)}
            for row in _lines(arm, "regret_at_budget")
            if number(row.get("budget")) in cuts
        ]
        rows.append(_one(arm.colour, placed, "at"))
    return (
        bar_figure("rb", rows, "cut-off C₀, thinking tokens", labels=[compact(cut) for cut in cuts]) if cuts else None
    )


def _votes(arms: Sequence[Arm]) -> list[Series]:
    series = []
    for arm in arms:
        stored = arm.results.get("maj_after_episode")
        curves = stored.get("curves") if isinstance(stored, Mapping) else None
        known = (
            [one for one in curves if isinstance(one, Mapping) and isinstance(one.get("curve"), list)] if curves else []
        )
        for one in {id(one): one for one in (known[:1] + known[-1:])}.values():
            alone = one is known[0] and len(known) > 1
            series.append(_one(arm.colour, [row for row in one["curve"] if isinstance(row, Mapping)], "episode", alone))
    return series


def _extrapolation(arms: Sequence[Arm], label: str) -> str | None:
    series = []
    for arm in arms:
        beyond = _lines(arm, "extrapolation")
        if not beyond:
            continue
        budgets = arm.results.get("budgets")
        within = zip(budgets if isinstance(budgets, list) else [], _lines(arm, "accuracy_at_budget"), strict=False)
        rows = [{**row, "budget": budget} for budget, row in within]
        series += [_one(arm.colour, rows, "budget"), _one(arm.colour, [*rows[-1:], *beyond], "budget", dashed=True)]
    return band_figure("ex", series, label, log=True, percent=True) if series else None


def _calibrated(arm: Arm) -> Mapping[str, Any]:
    stored = arm.results.get("calibration")
    found = stored.get("at_end") if isinstance(stored, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _reliability(arms: Sequence[Arm]) -> list[Series]:
    series = []
    for arm in arms:
        curve = _calibrated(arm).get("curve")
        rows = [row for row in curve if isinstance(row, Mapping)] if isinstance(curve, list) else []
        series.append(_one(arm.colour, [{**row, "mean": row.get("outcome"), "low": None} for row in rows], "forecast"))
    return series


def _errors(arms: Sequence[Arm]) -> str:
    parts = []
    for arm in arms:
        found = _calibrated(arm)
        ece, brier = Estimate.read(found.get("ece")).mean, Estimate.read(found.get("brier")).mean
        if ece is not None and brier is not None:
            parts.append(f"{arm.name}: expected calibration error {ece:.3f}, Brier score {brier:.3f}")
    return "; ".join(parts) + "." if parts else ""


def _table(stored: Mapping[str, Any]) -> dict[str, list[float]]:
    rows = stored.get("problems")
    found = {}
    for row in rows if isinstance(rows, list) else []:
        if isinstance(row, Mapping) and isinstance(row.get("accuracy"), list):
            found[str(row.get("key"))] = [_or_nan(number(value)) for value in row["accuracy"]]
    return found


def _grid(stored: Mapping[str, Any]) -> list[float]:
    budgets = stored.get("budgets")
    return [value for value in map(number, budgets if isinstance(budgets, list) else []) if value is not None]


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else -1.0


def _heat_svg(keys: Sequence[str], table: Mapping[str, Sequence[float]], grid: Sequence[float]) -> str:
    """One row per problem, one column per budget; equal neighbours share a rectangle, empty ones have none."""
    width, height = 100.0, 3.0
    column = width / len(grid)
    parts = [f'<svg class="heat" viewBox="0 0 {width:g} {height * len(keys):g}" preserveAspectRatio="none">']
    for place, key in enumerate(keys):
        values = [*table[key], *([math.nan] * len(grid))][: len(grid)]
        told = ", ".join(
            f"{compact(at)}: {'–' if math.isnan(v) else f'{v:.2f}'}" for at, v in zip(grid, values, strict=True)
        )
        parts.append(f"<g><title>{escape(key)} ({told})</title>")
        start = 0
        while start < len(values):
            end = start + 1
            while end < len(values) and _same(values[end], values[start]):
                end += 1
            left, wide = start * column, (end - start) * column
            box = f'x="{left:.3f}" y="{place * height:g}" width="{wide:.3f}" height="{height:g}"'
            value = values[start]
            paint = 'class="gap"' if math.isnan(value) else f'fill-opacity="{value:.2f}"'
            parts.append(f"<rect {box} {paint}/>")
            start = end
        parts.append("</g>")
    return "".join([*parts, "</svg>"])


def _same(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b))
