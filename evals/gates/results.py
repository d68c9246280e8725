"""evals/RESULTS.md, written from what is stored: every gate by perspective, and the study of Countdown."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evals.gates.store import FEW, LOW, MISSED, PASSED, ROOT, Store, rows
from evals.gates.table import Bar, Gate, gates
from evals.reasoning import countdown_search, countdown_study, suites, word_problems_study
from evals.reasoning.study import WARM_START
from evals.reasoning.study_figures import read_stored, summarise, table

RESULTS = ROOT.parent / "RESULTS.md"
PERSPECTIVES = {
    "black_box": "Black box",
    "gradient": "Gradient-based",
    "meta_learned": "Meta-learned rules",
    "inference": "Inference of the task",
    "model_based": "Model-based",
    "memory": "Memory",
    "task_distributions": "Task distributions",
    "emergent": "Emergent",
    "baselines": "Baselines",
    "control": "Black box",
}
"""The folder of a trainer -> the heading of its systems; policies of mrt.control learn in context, as a black box."""
HEAD = (
    *("gate", "system", "measure", "mean ± SE", "each seed", "seeds", "on tuning seeds", "asked", "verdict", "floor"),
    *("ceiling", "best trivial baseline", "paper", "code", "minutes a seed"),
)
REASONING = "## Reasoning: Countdown"
SUITES = """## Reasoning: every suite on a small model

That each suite runs on its published file, and what a model of 135 million parameters is worth on it: the first
problems of each, one greedy sample, a thought of few tokens. Accuracy counts the answer forced at the budget where the
thought was not closed; *by itself* counts such a problem as unsolved. 95 % intervals over problems."""
INTRODUCTION = """# Results

Written by `python -m evals.gates --results` from what is stored under `evals/results/`; a test holds that the two
agree. Do not edit.

A row is a measure of a system at a gate ([table.yaml](gates/table.yaml)), on held-out tasks. It is **passed** when the
mean is in its band, at least two thirds of the seeds are in the band each by itself, the declared number of seeds is
there, and the best trivial baseline lies outside. Seeds on which settings were tuned stand in a column of their own;
they can miss, but not pass. Floor: random play, or what knows nothing; ceiling: the exact optimum where it is known.
Code: *same* as now, *changed since* (the figures are of older code), or *unknown* (stored before hashes of the code
were). A negative control passes by failing at the task."""


def write(store: Store, path: Path = RESULTS) -> None:
    """Writes the page."""
    path.write_text(page(store), encoding="utf-8")


def page(store: Store) -> str:
    """The page as text."""
    return "\n\n".join([gates_part(store), REASONING, *_countdown(), *_word_problems(), *_suites()]) + "\n"


def gates_part(store: Store) -> str:
    """The page down to the last table of gates."""
    groups: dict[str, list[str]] = {}
    counted = dict.fromkeys((PASSED, MISSED, FEW, LOW), 0)
    for gate in gates():
        lines = _lines(gate, store)
        groups.setdefault(perspective(gate), []).extend(line for line, _ in lines)
        for _, verdict in lines:
            counted[verdict] += 1
    summary = ", ".join(f"{number} {verdict}" for verdict, number in counted.items())
    parts = [INTRODUCTION, f"Of {sum(counted.values())} bars: {summary}."]
    for title in sorted(groups, key=list(PERSPECTIVES.values()).index):
        parts.append(f"## {title}\n\n{_table(groups[title])}")
    return "\n\n".join(parts)


def perspective(gate: Gate) -> str:
    """The heading under which a gate's system stands: the folder of its trainer."""
    folder = gate.load(0, Path("run")).trainer.split(":")[0].split(".")[1]
    return PERSPECTIVES[folder]


def asked(bar: Bar) -> str:
    """A bar in words."""
    low, high = bar.band
    said = ["random ± 3 SE"] if bar.chance else []
    if low is not None or high is not None:
        one_side = f"at most {high:g}" if low is None else f"at least {low:g}"
        said.append(one_side if None in bar.band else f"{low:g} to {high:g}")
    if bar.above is not None and bar.above != low:
        said.append(f"mean - 2 SE above {bar.above:g}")
    return ", ".join(said)


def _table(lines: Sequence[str]) -> str:
    return "\n".join([f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|", *lines])


def _lines(gate: Gate, store: Store) -> list[tuple[str, str]]:
    """A line and its verdict for each bar of a gate; one that has no result has too few seeds."""
    found = {_measure(gate, row): row for row in rows(gate, store)}
    title = re.sub(r" \([A-Z][a-z]+[^)]* et al[^)]*\)", "", gate.title).split(";")[0]
    kind = " (negative control)" if gate.negative_control else ""
    lines = []
    for name, bar in gate.bars.items():
        row = found.get(name) or _nothing(gate, name)
        cells = [f"{gate.number} {title}{kind}", gate.system, name.replace("_", " "), *_cells(row, bar)]
        lines.append((f"| {' | '.join(cells)} |", row["verdict"]))
    return lines


def _measure(gate: Gate, row: Mapping[str, Any]) -> str:
    return row["measure"].removesuffix(f"_{gate.variant}") if gate.variant else row["measure"]


def _nothing(gate: Gate, name: str) -> dict[str, Any]:
    trivial = gate.trivial.get(name)
    empty = dict.fromkeys(("mean", "se", "floor", "ceiling", "minutes"))
    return empty | {
        "seeds": [],
        "declared_seeds": gate.seeds,
        "seeds_in_band": 0,
        "tuning_seeds": {},
        "trivial": trivial.value if trivial else None,
        "trivial_name": trivial.name if trivial else "",
        "paper": gate.paper.get(name),
        "verdict": FEW,
        "code": "",
    }


def _cells(row: Mapping[str, Any], bar: Bar) -> list[str]:
    have, declared, held = len(row["seeds"]), row["declared_seeds"], row["seeds_in_band"]
    mean = "" if row["mean"] is None else f"{row['mean']:.4g} ± {row['se']:.2g}"
    verdict = f"**{PASSED}**" if row["verdict"] == PASSED else row["verdict"]
    trivial = f"{_figure(row['trivial'])} {row['trivial_name']}".strip()
    return [
        mean,
        ", ".join(_figure(value) for value in row["seeds"]),
        f"{have} of {declared}" + (f", {held} in the band" if held != have else ""),
        ", ".join(f"{seed}: {_figure(value)}" for seed, value in row["tuning_seeds"].items()),
        asked(bar),
        verdict,
        *(_figure(row[key]) for key in ("floor", "ceiling")),
        trivial,
        _figure(row["paper"]),
        row["code"],
        "" if row["minutes"] is None else f"{row['minutes']:.1f}",
    ]


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _suites() -> list[str]:
    """The reasoning suites as stored, a table a model."""
    stored = suites.read_stored()
    parts = [SUITES] if stored else []
    for model in dict.fromkeys(row["model"] for row in stored):
        rows = [row for row in stored if row["model"] == model]
        kinds = ", ".join(dict.fromkeys(row["dtype"] for row in rows))
        asked = f"`python -m evals.reasoning.suites --model {model} --cached` ({kinds})"
        parts.append(f"{asked}\n\n{suites.table(rows)}")
    return parts


def _countdown() -> list[str]:
    """The stored arms of the study and of the search, as their programs print them; nothing is trained."""
    parts = []
    for family in countdown_study.FAMILIES:
        study = countdown_study.Study(family, store=ROOT / "countdown_study")
        seeds = [0, 1, 2]
        if found := read_stored(study, seeds, list(countdown_study.ARMS)):
            shown = table(summarise(study, found, seeds))
            parts.append(
                f"`python -m evals.reasoning.countdown_study --family {family} --cached`\n\n```text\n{shown}\n```"
            )
        search = countdown_search.Search(family, store=ROOT / "countdown_search", extra=countdown_search.settings())
        if any((search.store / family).glob("seed*/*.json")):
            lines = countdown_search.lines(search, [WARM_START, *countdown_search.settings()])
            shown = countdown_search.table(lines, family)
            parts.append(
                f"`python -m evals.reasoning.countdown_search --family {family} --cached`\n\n```text\n{shown}\n```"
            )
    return [re.sub(r" +$", "", part, flags=re.MULTILINE) for part in parts]


def _word_problems() -> list[str]:
    """The arms on word problems, as their program prints them, where all seeds of some arm are stored."""
    study = word_problems_study.Study(store=ROOT / "word_problems")
    seeds = word_problems_study.SEEDS
    found = word_problems_study.read_stored(study, seeds, list(word_problems_study.ARMS))
    if not found:
        return []
    shown = word_problems_study.table(word_problems_study.summarise(study, found, seeds))
    return [f"`python -m evals.reasoning.word_problems_study --cached`\n\n```text\n{shown}\n```"]
