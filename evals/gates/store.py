"""Where results lie, which of them count, and what a gate's rows are: evals/results/gates/GATE/SYSTEM-seedN.json.

A result counts while its configuration is that of the table. An option that the code had not yet when the result was
made is no difference as long as nobody states it: it stands at its default, and the hash of the code tells that the
code is another. Results of other code count, and are marked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evals.gates.table import Bar, Gate

ROOT = Path(__file__).resolve().parents[1] / "results"
GATES = ROOT / "gates"
PASSED, MISSED, FEW, LOW = "passed", "missed", "too few seeds", "bar too low"
SAME, CHANGED, UNKNOWN = "same", "changed since", "unknown"
SHARE = 2 / 3  # of the seeds has to be in the band by itself


class Store:
    """The stored results of a folder."""

    def __init__(self, root: Path = GATES) -> None:
        self.root = root

    def path(self, gate: Gate, seed: int) -> Path:
        """Where the result of one seed lies."""
        return self.root / gate.name / f"{gate.system}-seed{seed}.json"

    def read(self, gate: Gate, seed: int) -> dict[str, Any]:
        """The result of one seed; {} where there is none that counts."""
        path = self.path(gate, seed)
        result = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return result if result and counts(result, gate, seed) else {}

    def results(self, gate: Gate) -> dict[int, dict[str, Any]]:
        """Every stored result that counts, by seed, tuning seeds among them."""
        names = (path.name for path in (self.root / gate.name).glob(f"{gate.system}-seed*.json"))
        matches = (re.fullmatch(rf"{re.escape(gate.system)}-seed(\d+)\.json", name) for name in names)
        found = {seed: self.read(gate, seed) for seed in sorted(int(match[1]) for match in matches if match)}
        return {seed: result for seed, result in found.items() if result}

    def minutes(self, gate: Gate) -> float | None:
        """Mean minutes of a seed, training and measuring, whatever configuration it had; None where none is stored."""
        paths = (self.root / gate.name).glob(f"{gate.system}-seed*.json")
        found = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
        return float(np.mean([one["minutes"] + one["measure_minutes"] for one in found])) if found else None


def counts(result: Mapping[str, Any], gate: Gate, seed: int) -> bool:
    """Whether a stored result is of today's configuration."""
    if result.get("digest") == gate.digest(seed):
        return True
    then, now = _flat(result.get("configuration") or {}), _flat(gate.configuration(seed))
    new = now.keys() - then.keys()
    return (
        bool(then)
        and all(now.get(k, _GONE) == v for k, v in then.items())
        and not new & _flat(gate.stated(seed)).keys()
    )


_GONE = object()


def _flat(content: Mapping[str, Any], above: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    flat: dict[tuple[str, ...], Any] = {}
    for key, value in content.items():
        flat |= _flat(value, (*above, key)) if isinstance(value, Mapping) and value else {(*above, key): value}
    return flat


def rows(gate: Gate, store: Store) -> list[dict[str, Any]]:
    """One row a measure, over the stored seeds on which nothing was tuned; tuning seeds stand beside.

    The error is the larger of that between seeds and that of the tasks. A measure without a bar has no verdict. Where
    tuning seeds are all there is, they can miss, but not pass.
    """
    results = store.results(gate)
    tuned = {seed: one for seed, one in results.items() if seed in gate.tuning_seeds}
    counted = {seed: one for seed, one in results.items() if seed not in gate.tuning_seeds}
    code = _code_mark(gate, list((counted or tuned).values()))
    return [
        _row(gate, name, counted, tuned) | {"code": code}
        for name in (gate.measures if results else ())
        if all(name in one["scores"] for one in results.values())
    ]


def _row(gate: Gate, name: str, counted: Mapping[int, Any], tuned: Mapping[int, Any]) -> dict[str, Any]:
    shown = list((counted or tuned).values())
    scores = [one["scores"][name] for one in counted.values()]
    mean, se = mean_and_error(scores)
    bar, (trivial, named) = gate.bars.get(name), _trivial(gate, name, shown)
    held = sum(bar.holds_one(s["mean"], s["se"], s["floor"]) for s in scores) if bar else None
    verdict = None
    if bar:
        beyond = None if gate.negative_control else trivial
        verdict = verdict_of(bar, scores or [one["scores"][name] for one in shown], gate.seeds, beyond)
        verdict = FEW if verdict == PASSED and not scores else verdict
    return {
        "gate": gate.number,
        "system": gate.system,
        "measure": f"{name}_{gate.variant}" if gate.variant else name,
        "mean": _rounded(mean),
        "se": _rounded(se),
        "seeds": [_rounded(score["mean"]) for score in scores],
        "seed_numbers": list(counted),
        "declared_seeds": gate.seeds,
        "seeds_in_band": held,
        "tuning_seeds": {seed: _rounded(one["scores"][name]["mean"]) for seed, one in tuned.items()},
        "floor": _rounded(shown[0]["scores"][name]["floor"]),
        "ceiling": _rounded(shown[0]["scores"][name]["ceiling"]),
        "trivial": _rounded(trivial),
        "trivial_name": named,
        "paper": gate.paper.get(name),
        "band": list(bar.band) if bar else None,
        "verdict": verdict,
        "passed": None if verdict is None else verdict == PASSED,
        "failures": sorted({failure for one in shown for failure in one["failures"]}),
        "steps": shown[0]["steps"],
        "minutes": round(float(np.mean([one["minutes"] for one in shown])), 2),
    }


def mean_and_error(scores: Sequence[Mapping[str, Any]]) -> tuple[float | None, float | None]:
    """Mean over seeds, and its error: between seeds, or that of the tasks where it is larger; None without a seed."""
    if not scores:
        return None, None
    means = np.array([score["mean"] for score in scores])
    se = float(np.sqrt(np.mean([score["se"] ** 2 for score in scores]) / len(scores)))
    return float(means.mean()), max(se, float(means.std(ddof=1) / len(means) ** 0.5)) if len(means) > 1 else se


def verdict_of(bar: Bar, scores: Sequence[Mapping[str, Any]], declared: int, trivial: float | None) -> str:
    """What a bar says of the seeds: passed only if the mean and two thirds of the seeds are inside, all of the
    declared seeds are there, and the trivial baseline is outside. Seeds that miss say so however few they are.
    """
    mean, se = mean_and_error(scores)
    if mean is None or se is None:
        return FEW
    held = sum(bar.holds_one(score["mean"], score["se"], score["floor"]) for score in scores)
    if not bar.passed(mean, se, scores[0]["floor"]) or held < SHARE * len(scores) - 1e-9:
        return MISSED
    if trivial is not None and not bar.excludes(trivial) and not bar.check:
        return LOW
    return PASSED if len(scores) >= declared else FEW


def _trivial(gate: Gate, name: str, shown: Sequence[Mapping[str, Any]]) -> tuple[float | None, str]:
    """The best trivial baseline of a measure and its name: stated, or the mean of what was measured beside."""
    one = gate.trivial.get(name)
    if one is None:
        return None, ""
    if one.value is not None:
        return one.value, one.name
    return float(np.mean([result["scores"][one.measure]["mean"] for result in shown])), one.name


def _code_mark(gate: Gate, results: Sequence[Mapping[str, Any]]) -> str:
    codes = {result.get("code") for result in results}
    if None in codes or not codes:
        return UNKNOWN
    return SAME if codes == {gate.code()} else CHANGED


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 4)
