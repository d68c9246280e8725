"""From stored samples to the parts of results.json that say what test-time compute bought, each with its interval."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mrt.metrics.bootstrap import FloatArray
from mrt.metrics.intervals import interval, plain
from mrt.metrics.regret import trace_regrets
from mrt.reasoning.evaluation.measures import (
    boundary_at,
    calibration,
    maj_at_k_curve,
    majority_after_episodes,
    pass_at_k_curve,
    powers,
    thinking_of,
    thinking_summary,
)
from mrt.reasoning.evaluation.stored import by_episode

if TYPE_CHECKING:
    from mrt.reasoning.evaluation.stored import Samples

Graded = Mapping[str, Any]


def parts_of(samples: Samples) -> dict[str, Any]:
    """Everything below by its name in results.json; a part that was not measured is left out."""
    final = [answer_at(row, samples.budgets[-1]) for row in samples.rows]
    groups: dict[str, list[Graded]] = {}
    for key, answer in zip(samples.keys, final, strict=True):
        groups.setdefault(key, []).append(answer)
    ks = powers(min(map(len, groups.values())))
    rewards = [[answer["reward"] for answer in group] for group in groups.values()]
    parts = {
        "pass_at_k": pass_at_k_curve(rewards, ks),
        "maj_at_k": maj_at_k_curve(list(groups.values()), ks),
        "regret_at_budget": regrets(samples),
        "thinking": thinking(samples),
        "calibration": calibrations(samples),
        "verdicts_at_budget": [
            {"budget": budget, **Counter(answer_at(row, budget)["verdict"] for row in samples.rows)}
            for budget in samples.budgets
        ],
        "maj_after_episode": votes_after_episodes(samples),
        "extrapolation": beyond(samples, "extended"),
        "linearized": beyond(samples, "linearized"),
        "contamination": contamination(samples),
        "by_set": by_set(samples, final),
    }
    return {name: plain(part) for name, part in parts.items() if part}


def by_set(samples: Samples, final: Sequence[Graded]) -> dict[str, Any] | None:
    """Accuracy at the full budget of every set of a mixture, with its number of problems; None for another set."""
    found: dict[str, dict[str, list[float]]] = {}
    for row, answer in zip(samples.rows, final, strict=True):
        if (label := row.get("data", {}).get("set")) is not None and answer["reward"] is not None:
            found.setdefault(label, {}).setdefault(row["key"], []).append(float(answer["reward"]))
    means = {label: [float(np.mean(rewards)) for rewards in one.values()] for label, one in found.items()}
    return {label: {"problems": len(one), **interval(np.array(one))} for label, one in means.items()} or None


def answer_at(row: Graded, budget: float) -> Graded:
    """The graded answer that counts at a budget: its own where the thought ended by itself by then, else the one forced
    there; a thought that never ended and was never made to answer is truncated."""
    forced = {item["budget"]: item for item in row["forced"]}
    if budget in forced:
        return forced[budget]
    return row if row["thinking_tokens"] <= budget else {"answer": None, "verdict": "truncated", "reward": None}


def regrets(samples: Samples) -> list[dict[str, Any]]:
    """Normalised regret at every cut-off C_0 of the grid (Qu et al. 2025, figure 9)."""
    cuts = [budget for budget in samples.budgets if budget > 0]
    return [
        {"budget": cut, **interval(samples.by_problem(trace_regrets(samples.ends, samples.stop_values, cut)))}
        for cut in cuts
    ]


def thinking(samples: Samples) -> dict[str, Any] | None:
    """Over- and underthinking of the traces whose J was measured and whose answer at the full budget was scored."""
    at_full = samples.at_budget[:, -1]
    known = [
        i for i, values in enumerate(samples.stop_values) if not np.isnan(values).any() and not np.isnan(at_full[i])
    ]
    if not known:
        return None
    drawn = answers_behind(samples)
    traces = [
        thinking_of(
            samples.ends[i],
            samples.stop_values[i],
            bool(at_full[i] > 0.5),
            float(samples.thinking[i]),
            answers=drawn[i] if drawn else None,
        )
        for i in known
    ]
    return {"level": 0.5, **thinking_summary(traces, [samples.keys[i] for i in known])}


def answers_behind(samples: Samples) -> list[list[list[float]]] | None:
    """For every sample and boundary the rewards of the answers that J was estimated from; None where J is exact (no
    answers were kept, or no estimate has an error).
    """
    errors = [error for row in samples.rows for error in row.get("stop_value_se") or ()]
    if not any(errors) or not all(row.get("votes") for row in samples.rows):
        return None
    return [
        [[one["reward"] for one in group if one["reward"] is not None] for group in row["votes"]]
        for row in samples.rows
    ]


def calibrations(samples: Samples) -> dict[str, Any] | None:
    """J after the last episode against the answer that the model then gave by itself (`at_end`), and J held at every
    budget against the answer forced there (`at_budgets`)."""
    whole = ~samples.truncated
    drawn = answers_behind(samples)
    last = np.array([values[-1] if values else np.nan for values in samples.stop_values])
    behind = [group[-1] if group else None for group in drawn] if drawn else None
    end = calibration(np.where(whole, last, np.nan), samples.own, samples.keys, answers=behind)
    forecasts, outcomes, keys, held_answers = [], [], [], list[Sequence[float] | None]()
    for i, row in enumerate(samples.rows):
        for item in row["forced"]:
            j = boundary_at(samples.ends[i], item["budget"])
            forecasts.append(np.nan if j is None else samples.stop_values[i][j])
            outcomes.append(np.nan if item["reward"] is None else float(item["reward"]))
            keys.append(samples.keys[i])
            held_answers.append(drawn[i][j] if drawn and j is not None else None)
    held = calibration(forecasts, outcomes, keys, answers=held_answers if drawn else None) if keys else None
    found = {"at_end": end, "at_budgets": held}
    return {name: part for name, part in found.items() if part} or None


def votes_after_episodes(samples: Samples) -> dict[str, Any] | None:
    """[maj@p]_j for every p up to the number of answers forced at a boundary; a trace that ended keeps its last
    value."""
    votes = [row.get("votes") for row in samples.rows]
    most = min((len(group) for row in votes if row for group in row), default=0)
    if not most or not all(votes):
        return None
    curves = []
    for p in powers(most):
        values = [majority_after_episodes(row, p) for row in votes if row]
        curves.append({"p": p, "curve": by_episode(samples, values, 0, hold=True)})
    return {"curves": curves}


def beyond(samples: Samples, name: str) -> list[dict[str, Any]]:
    """Accuracy at every budget past (or, linearized, throughout) the training budget; `cut` is the share of trials that
    were still going on there. A trial that ended keeps its answer."""
    stored = [row.get(name) for row in samples.rows]
    budgets = sorted({item["budget"] for items in stored if items for item in items})
    lines = []
    for budget in budgets:
        last = [_latest(items or [], budget) for items in stored]
        rewards = [np.nan if item is None or item["reward"] is None else float(item["reward"]) for item in last]
        tokens: FloatArray = np.array([np.nan if item is None else float(item["thinking_tokens"]) for item in last])
        lines.append(
            {
                "budget": budget,
                **interval(samples.by_problem(np.array(rewards))),
                "tokens": interval(samples.by_problem(tokens))["mean"],
                "cut": float(np.mean([item is not None and item["cut"] and item["budget"] == budget for item in last])),
            }
        )
    return lines


def contamination(samples: Samples) -> dict[str, Any] | None:
    """What contamination.json says of these problems, and the accuracy without the contaminated ones."""
    path = samples.folder / "contamination.json"
    if not path.is_file():
        return None
    report = json.loads(path.read_text(encoding="utf-8"))
    keys = list(dict.fromkeys(samples.keys))
    clean = np.array([report["problems"].get(key, {}).get("overlap", 0) == 0 for key in keys])
    accuracy = samples.by_problem(samples.at_budget[:, -1])
    hit = {key: one for key in keys if (one := report["problems"].get(key)) and one["overlap"] > 0}
    return {
        "n": report["n"],
        "files": report["files"],
        "rows": report["rows"],
        "checked": len(keys),
        "contaminated": len(hit),
        "accuracy_clean": interval(accuracy[clean] if clean.any() else [np.nan]),
        "accuracy_contaminated": interval(accuracy[~clean] if (~clean).any() else [np.nan]),
        "problems": hit,
    }


def _latest(items: Sequence[Graded], budget: float) -> Graded | None:
    return next((item for item in reversed(items) if item["budget"] <= budget), None)
