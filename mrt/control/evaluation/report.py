"""`report.html` of a control evaluation: one file that opens anywhere and fetches nothing, made of results.json.

Environment and policy names come from files: they reach the page through autoescaping, and never a drawing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from mrt.control.evaluation.report_plots import belief_figure, choices_figure, curve_figure, path_figure
from mrt.errors import DataError
from mrt.report.data import COLOURS, read_json
from mrt.report.plots import Series

Z = 1.96  # bands are 95 % intervals of the mean over tasks


def write_report(folder: Path, out: Path | None = None) -> Path:
    """Writes the report of the evaluation in `folder` (results.json) and returns its path, FOLDER/report.html.

    Raises:
        DataError: when there is no finished control evaluation in it.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    results = read_json(folder / "results.json")
    if results.get("kind") != "control":
        raise DataError(f"{folder} holds no finished control evaluation: write one with `mrt eval SUITE --policy RUN`")
    templates = resources.files("mrt.report") / "templates"
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["show"] = show
    html = environment.from_string((templates / "control.html.jinja").read_text("utf-8")).render(
        results=results,
        style=Markup((templates / "report.css").read_text("utf-8")),
        parts=[part(name, place, found) for place, (name, found) in enumerate(results["environments"].items())],
        safe=Markup,
    )
    out = out or folder / "report.html"
    staged = out.with_name(out.name + ".part")
    staged.write_bytes(html.encode("utf-8", "replace"))
    os.replace(staged, out)
    return out


def show(value: float | None) -> str:
    """Four digits; a dash where there is nothing."""
    return "–" if value is None else f"{value:.4g}".replace("-", "−")


def part(name: str, place: int, found: Mapping[str, Any]) -> dict[str, Any]:
    """One environment's section: its table and its figures as SVG."""
    colours = colours_of(found["players"])
    shown, units = found["shown"], _units(found)
    rows, note = [], found.get("beside", "exact")
    for who, values in found["exact"].items():
        if any(key in values for key in shown):
            cells = [_cell(values.get(key)) for key in (*shown, "relative_regret")]
            rows.append({"name": who, "colour": None, "note": note, "cells": cells})
    for who, player in found["players"].items():
        cells = [_cell(player["measures"][key]["mean"], player["measures"][key]["se"]) for key in shown]
        unlike = found["unlike_training"].get(who, {})
        note = "; ".join(f"{option}: trained with {a}, measured with {b}" for option, (a, b) in unlike.items())
        relative = player.get("relative_regret", {})
        cells.append(_cell(relative.get("mean"), relative.get("se")))
        rows.append({"name": who, "colour": colours.get(who), "note": note or player["kind"], "cells": cells})
    bounds = [[found["bounds"].get(key, {}).get(side) for key in shown] for side in ("floor", "ceiling")]
    pictures = []
    for i, scene in enumerate(found["scenes"]):
        colour, label = colours.get(scene["player"], 0), f"e{place}s{i}"
        if scene["kind"] == "path":
            svg = path_figure(label, colour, scene)
        else:
            svg = choices_figure(label, colour, scene, found["unit"])
        pictures.append({"player": scene["player"], "colour": colour, "scene": scene, "svg": svg})
        if scene.get("believed"):
            svg = belief_figure(f"{label}b", colour, scene)
            pictures.append({"player": scene["player"], "colour": colour, "scene": {"kind": "belief"}, "svg": svg})
    return {
        "name": name,
        "found": found,
        "rows": rows,
        "bounds": bounds,
        "legend": list(colours.items()),
        "left_out": len(found["players"]) - len(colours),
        "units": units,
        "curve": _curve(f"e{place}c", found, colours) if units > 1 else None,
        "regret": _regret(f"e{place}r", found, colours) if units > 1 else None,
        "pictures": pictures,
    }


def colours_of(players: Mapping[str, Any]) -> dict[str, int]:
    """Grey for random play, a colour for each policy and for as many baselines as there are colours left."""
    order = sorted(players, key=lambda name: ("policy", "baseline", "random").index(players[name]["kind"]))
    drawn = [name for name in order if players[name]["kind"] != "random"][: COLOURS - 1]
    return {name: i for i, name in enumerate(drawn, 1)} | {name: 0 for name in players if name == "random"}


def _units(found: Mapping[str, Any]) -> int:
    return len(next(iter(found["players"].values()))["curve"]["mean"])


def _cell(mean: float | None, se: float | None = None) -> dict[str, float | None]:
    return {"mean": mean, "se": se}


def _series(found: Mapping[str, Any], colours: Mapping[str, int], key: str) -> list[Series]:
    drawn = []
    for name, colour in colours.items():
        curve = found["players"][name].get(key)
        if curve:
            mean, se = curve["mean"], [value or 0.0 for value in curve["se"]]
            low, high = ([m + sign * Z * s for m, s in zip(mean, se, strict=True)] for sign in (-1, 1))
            first = found.get("first", 1)
            drawn.append(Series(colour, list(range(first, first + len(mean))), mean, low, high))
    return drawn


def _curve(name: str, found: Mapping[str, Any], colours: Mapping[str, int]) -> str:
    units, bounds, first = _units(found), found["bounds"].get("total", {}), found.get("first", 1)
    levels = [[value / units] for side in ("floor", "ceiling") if (value := bounds.get(side)) is not None]
    word = {"episode": "episode", "gradient step": "step"}.get(found["unit"])
    best: Mapping[str, float] = next(iter(found["exact"].values()), {}) if word else {}
    exact = [best.get(f"{word}_{k}") for k in range(first, first + units)]
    return curve_figure(name, _series(found, colours, "curve"), found["unit"], levels, exact)


def _regret(name: str, found: Mapping[str, Any], colours: Mapping[str, int]) -> str | None:
    series = _series(found, colours, "regret_curve")
    if not series:
        return None
    best: Mapping[str, float] = next(iter(found["exact"].values()), {})
    exact = [*[None] * (len(series[0].x) - 1), best.get("regret")]
    return curve_figure(name, series, found["unit"], (), exact)
