"""`report.html`: what evaluations and training runs found, as one file that opens anywhere and fetches nothing.

Every statistic comes from results.json as it stands; only the figures, the tables and the problem browser are made
here. Model output is hostile text: it reaches the page through autoescaping or as JSON with `<`, `>` and `&` escaped,
and a content security policy lets no script run but the page's own.
"""

import base64
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from mrt.errors import ConfigError
from mrt.report.compute import compute_cards, contamination_rows, environments, heat_maps, thinking_table
from mrt.report.data import Arm, Estimate, embed, flatten, number, read_arms, read_runs, settings, stored_problems
from mrt.report.plots import AXES, Series, band_figure, bar_figure, training_panels
from mrt.runs.fields import redact

VERDICTS = ("correct", "wrong", "unparsed", "truncated", "timeout", "error")
_RARE = 0.02  # an episode that fewer of the traces reach is in the table but not in the figures


def write_report(
    out: Path,
    evals: Sequence[Path],
    runs: Sequence[Path] = (),
    *,
    title: str = "Evaluation report",
    note: str = "",
    baseline: str | None = None,
    comparisons: Sequence[Mapping[str, Any]] = (),
    problems: int = 200,
    seed: int = 0,
) -> Path:
    """Write one self-contained HTML file to `out` and return its path.

    `evals` hold eval.json, results.json and samples.jsonl, `runs` run.json and metrics.jsonl; a missing file leaves its
    part of the report out. `note` stands below the title. `baseline` names the arm that the others are set against (the
    first when None). `comparisons` are paired: {"a", "b", "accuracy", "normalised_regret" (both a minus b),
    "tokens_at_equal_accuracy" (tokens of b over tokens of a), "note"}, each statistic a {"mean", "low", "high"}. The
    problem browser holds every trace of `problems` problems drawn by `seed`.

    Raises DataError for a directory without an evaluation or a run in it, a broken file or line, or a newer schema;
    ConfigError for an unknown baseline or nothing to report on.
    """
    out = Path(out)
    if not evals and not runs:
        raise ConfigError("a report needs at least one evaluation or one training run.")
    if out.is_dir():
        raise ConfigError(f"{out} is a directory: name the file to write, such as {out / 'report.html'}.")
    arms, chosen = read_arms(evals, baseline)
    trainings = read_runs(runs, arms)
    stored, total = stored_problems(arms, problems, seed)
    head = embed({"arms": [{"name": arm.name, "colour": arm.colour} for arm in arms], "baseline": chosen})
    html = _render(
        title=redact(title),
        note=redact(note),
        arms=arms,
        runs=trainings,
        baseline=chosen,
        columns=headline(arms, comparisons, chosen),
        comparisons=[_compared(comparison, [*trainings, *arms]) for comparison in comparisons],
        stored=len(stored),
        total=total,
        seed=seed,
        traces=f'{head[:-1]},"problems":[{",".join(stored)}]}}',
        sections=[_settings("Evaluations", arms), _settings("Training runs", trainings)],
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    staged = out.with_name(out.name + ".part")
    staged.write_bytes(html.encode("utf-8", "replace"))  # a lone surrogate in a trace must not make it fail
    os.replace(staged, out)
    return out


def _render(arms: Sequence[Arm], runs: Sequence[Arm], traces: str, **content: Any) -> str:
    """The page from its template, style sheet and script. Only what is wrapped in Markup escapes autoescaping."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    templates = resources.files("mrt.report") / "templates"
    script = (templates / "report.js").read_text("utf-8")
    panels, left_out = training_panels([(run.colour, run.metrics) for run in runs])
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["show"] = show
    environment.filters["read"] = Estimate.read
    return environment.from_string((templates / "report.html.jinja").read_text("utf-8")).render(
        arms=arms,
        runs=runs,
        figures={name: Markup(svg) for name, svg in _figures(arms).items() if svg},
        tables=_tables(arms),
        cards=[(card, Markup(card.svg)) for card in compute_cards(arms)],
        thinking=thinking_table(arms),
        heats=[(heat, Markup(heat.svg)) for heat in heat_maps(arms)],
        contamination=contamination_rows(arms),
        environment=environments(arms),
        verdicts=[(arm, shares) for arm in arms if (shares := verdict_shares(arm.results))],
        panels=[(panel, {axis: Markup(svg) for axis, svg in panel.views.items()}) for panel in panels],
        left_out=left_out,
        axes={axis: label for axis, label in AXES.items() if any(axis in panel.views for panel in panels)},
        traces=Markup(traces),
        style=Markup((templates / "report.css").read_text("utf-8")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        **content,
    )


def show(value: float | None, kind: str) -> str:
    """A statistic as the tables print it; a dash where there is none."""
    if value is None:
        return "–"
    forms = {
        "percent": f"{100 * value:z.1f}%",
        "points": f"{100 * value:+z.1f}",
        "tokens": f"{value:,.1f}" if abs(value) < 1000 else f"{value:,.0f}",
        "regret": f"{value:z.3f}",
        "difference": f"{value:+z.3f}",
        "ratio": f"{value:.2f}×",
        "count": f"{value:,.0f}",
    }
    return forms[kind].replace("-", "−")


@dataclass(frozen=True)
class Column:
    """One statistic of the headline table, a cell for each arm, and the scale [low, high] that its whiskers share."""

    title: str
    hint: str
    kind: str
    cells: Sequence[Estimate]
    low: float
    high: float

    def place(self, value: float) -> float:
        """Where `value` stands on the scale, in percent."""
        return round(100 * (value - self.low) / (self.high - self.low), 2) if self.high > self.low else 50.0


def headline(arms: Sequence[Arm], comparisons: Sequence[Mapping[str, Any]], baseline: str) -> list[Column]:
    """The columns of the headline table; one without a single value is left out."""
    curves = [_rows(arm.results, "j_after_episode") for arm in arms]
    at_once = [next((row for row in curve if number(row.get("episode")) == 0), None) for curve in curves]
    floors = [arm.results.get("floor", floor) for arm, floor in zip(arms, at_once, strict=True)]
    ratios = [_ratio(arm.name, baseline, comparisons) for arm in arms]
    specs: list[tuple[str, str, str, list[Any]]] = [
        ("Accuracy at full budget", "higher is better", "percent", [arm.results.get("accuracy") for arm in arms]),
        ("Floor: J₀", "made to answer at once", "percent", floors),
        ("Ceiling", "as the evaluation states it", "percent", [arm.results.get("ceiling") for arm in arms]),
        ("Thinking tokens", "mean of a trace", "tokens", [arm.results.get("tokens") for arm in arms]),
        ("Normalised regret", "lower is better", "regret", [arm.results.get("normalised_regret") for arm in arms]),
        ("Tokens at equal accuracy", f"against {baseline}; higher is better", "ratio", ratios),
    ]
    columns = []
    for title, hint, kind, values in specs:
        cells = [value if isinstance(value, Estimate) else Estimate.read(value) for value in values]
        ends = [end for cell in cells for end in (cell.mean, cell.low, cell.high) if end is not None]
        if ends:
            margin = 0.06 * (max(ends) - min(ends))
            columns.append(Column(title, hint, kind, cells, min(ends) - margin, max(ends) + margin))
    return columns


def _ratio(name: str, baseline: str, comparisons: Sequence[Mapping[str, Any]]) -> Estimate:
    for comparison in comparisons:
        ratio = Estimate.read(comparison.get("tokens_at_equal_accuracy"))
        if (comparison.get("a"), comparison.get("b")) == (name, baseline):
            return ratio
        if (comparison.get("a"), comparison.get("b")) == (baseline, name):
            return ratio.inverse()
    return Estimate()


def _compared(comparison: Mapping[str, Any], arms: Sequence[Arm]) -> dict[str, Any]:
    """A paired comparison with what its intervals allow one to say: 'better', 'worse' or 'unclear' for a against b."""
    colours = {arm.name: arm.colour for arm in arms}
    cells = []
    statistics = (("accuracy", "points", 0.0, 1), ("normalised_regret", "difference", 0.0, -1))
    for name, kind, null, sign in (*statistics, ("tokens_at_equal_accuracy", "ratio", 1.0, 1)):
        cell = Estimate.read(comparison.get(name))
        verdict = "unclear"
        if cell.low is not None and cell.high is not None and not cell.low <= null <= cell.high:
            verdict = "better" if (cell.low > null) == (sign > 0) else "worse"
        cells.append((cell, kind, verdict if cell.low is not None else ""))
    names = [str(comparison.get(side, "")) for side in "ab"]
    return {"arms": [(name, colours.get(name)) for name in names], "cells": cells, "note": comparison.get("note") or ""}


def _rows(results: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """A list of objects in results.json; [] when it is missing or something else."""
    rows = results.get(name)
    return [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []


def _curve(arm: Arm, name: str) -> list[tuple[float, Estimate, float | None]]:
    """(x, estimate, number of traces) along one curve of results.json; x is a budget or an episode."""
    rows = _rows(arm.results, name)
    if name == "accuracy_at_budget":
        budgets = arm.results.get("budgets")
        places = budgets if isinstance(budgets, list) else []
        rows = [{"x": x, **row} for x, row in zip(places, rows, strict=False)]
    found = [(number(row.get("x", row.get("episode"))), Estimate.read(row), number(row.get("n"))) for row in rows]
    return [(x, estimate, n) for x, estimate, n in found if x is not None]


_CURVES = {"accuracy_at_budget": "Budget", "j_after_episode": "Episode", "progress": "Episode"}


def _figures(arms: Sequence[Arm]) -> dict[str, str | None]:
    series: dict[str, list[Series]] = {name: [] for name in _CURVES}
    for name in _CURVES:
        for arm in arms:
            points = _curve(arm, name)
            most = max((n for _, _, n in points if n is not None), default=0.0)
            points = [point for point in points if point[2] is None or point[2] >= _RARE * most]
            columns = [[getattr(estimate, part) for _, estimate, _ in points] for part in ("mean", "low", "high")]
            mean, low, high = ([math.nan if value is None else value for value in column] for column in columns)
            series[name].append(Series(arm.colour, [x for x, _, _ in points], mean, low, high))
    budget, after, progress = series.values()
    label = "budget, thinking tokens"
    return {
        "accuracy_linear": band_figure("al", budget, label, percent=True),
        "accuracy_log": band_figure("ag", budget, f"{label} (log scale)", log=True, percent=True),
        "j": band_figure("j", after, "episodes before the forced answer", percent=True, whole=True),
        "progress": bar_figure("p", progress, "episode"),
    }


def _tables(arms: Sequence[Arm]) -> dict[str, tuple[str, list[tuple[float, list[tuple[Estimate, float | None]]]]]]:
    """The numbers behind each curve: its x label and, for each x, (estimate, n) for every arm."""
    tables = {}
    for name, label in _CURVES.items():
        curves = [{x: (estimate, n) for x, estimate, n in _curve(arm, name)} for arm in arms]
        places = sorted({x for curve in curves for x in curve})
        if places:
            tables[name] = (label, [(x, [curve.get(x, (Estimate(), None)) for curve in curves]) for x in places])
    return tables


def verdict_shares(results: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """(verdict, share, count as stored) in the order of VERDICTS, others after them; counts and shares both do."""
    stored = results.get("verdicts")
    counts = {str(name): number(value) or 0.0 for name, value in stored.items()} if isinstance(stored, Mapping) else {}
    total = sum(counts.values())
    order = [*VERDICTS, *sorted(set(counts) - set(VERDICTS))]
    return [(name, counts[name] / total, counts[name]) for name in order if counts.get(name, 0) > 0]


def _settings(title: str, arms: Sequence[Arm]) -> dict[str, Any]:
    """One part of the configuration section: settings that differ, those that do not, and each file as stored."""
    stored = [settings(arm.config) for arm in arms]
    flat = [flatten(config) for config in stored]
    keys = dict.fromkeys(key for config in flat for key in config if key != "name")
    rows = [(key, [config.get(key, "") for config in flat]) for key in keys]
    files = [(arm, json.dumps(config, indent=2, ensure_ascii=False)) for arm, config in zip(arms, stored, strict=True)]
    return {
        "title": title,
        "files": files,
        "differing": [row for row in rows if len(set(row[1])) > 1],
        "shared": [(key, values[0]) for key, values in rows if len(set(values)) == 1],
    }
