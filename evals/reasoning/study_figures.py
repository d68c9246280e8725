"""The figures of a study, from what is stored: accuracy, regret and tokens at equal accuracy, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evals.reasoning.study import BASELINE, WARM_START, N, Study
from evals.reasoning.study_parts import check_same, read_results, shown
from mrt.errors import ConfigError
from mrt.metrics.regret import bootstrap_over_seeds, tokens_at_equal_accuracy_interval


def read_stored(study: Study, seeds: Sequence[int], arms: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """The stored results of the arms that have every one of these seeds, checked to be about the same problems."""
    found = read_results({arm: [study.stored(seed, arm) for seed in seeds] for arm in arms})
    check_same([one["keys_sha256"] for results in found.values() for one in results], study.store)
    return found


def summarise(study: Study, found: Mapping[str, list[dict[str, Any]]], seeds: Sequence[int]) -> dict[str, Any]:
    """Every figure of the study, each with mean, low and high (95 %, seeds and problems resampled)."""
    if not found:
        raise ConfigError(
            f"nothing is stored under {study.store / study.family} for seeds {list(seeds)}: run the study"
        )
    budgets = [int(b) for b in study.settings.budgets.split(",")]
    curves = {arm: np.array([one["correct"] for one in results]) / N for arm, results in found.items()}
    regrets = {arm: np.array([one["regret"] for one in results]) for arm, results in found.items()}

    def over(arms: Sequence[np.ndarray], statistic: Any) -> dict[str, float]:
        return vars(bootstrap_over_seeds(arms, statistic)).copy()

    lines: dict[str, Any] = {}
    for arm, results in found.items():
        lines[arm] = {
            "accuracy": over([curves[arm][:, :, -1]], lambda a: a),
            "normalised_regret": over([regrets[arm]], lambda a: a),
            "tokens": over([np.array([one["tokens"] for one in results])], lambda a: a),
            "accuracy_by_seed": [round(float(c[:, -1].mean()), 4) for c in curves[arm]],
            "accuracy_at_budget": [round(float(x), 4) for x in curves[arm].mean((0, 1))],
            "cost": [one["cost"].get("total") for one in results],
            "probed_over_sampled": [_share(one["cost"]) for one in results],
            "updates": [one["updates"] for one in results],
            "minutes": [one["minutes"] for one in results],
        }
        if arm != WARM_START and WARM_START in found:
            pair = [curves[arm][:, :, -1], curves[WARM_START][:, :, -1]]
            lines[arm]["accuracy_gain"] = over(pair, lambda a, b: a / b)
        if arm not in (WARM_START, BASELINE) and BASELINE in found:
            lines[arm] |= {
                "accuracy_minus_grpo": over([curves[arm][:, :, -1], curves[BASELINE][:, :, -1]], np.subtract),
                "regret_minus_grpo": over([regrets[arm], regrets[BASELINE]], np.subtract),
                "tokens_at_equal_accuracy": vars(
                    tokens_at_equal_accuracy_interval(curves[BASELINE], curves[arm], budgets)
                ).copy(),
            }
    ours = lines.get(study.ours, {})
    return {
        "title": study.title,
        "family": study.family,
        "seeds": list(seeds),
        "problems": len(next(iter(curves.values()))[0]),
        "budgets": budgets,
        "random_floor": study.floor(next(iter(found.values()))[0]),
        "oracle_ceiling": 1.0,
        "accuracy_gain": ours.get("accuracy_gain"),
        "normalised_regret": {arm: line["normalised_regret"] for arm, line in lines.items()},
        "regret_minus_grpo": ours.get("regret_minus_grpo"),
        "tokens_at_equal_accuracy": ours.get("tokens_at_equal_accuracy"),
        "arms": lines,
    }


def _share(cost: Mapping[str, float]) -> float | None:
    return round(cost["probed"] / cost["sampled"], 3) if cost.get("sampled") else None


def table(summary: Mapping[str, Any]) -> str:
    """The study as text: one line an arm, floor and ceiling on each."""

    floor, ceiling = summary["random_floor"], summary["oracle_ceiling"]
    lines = [
        f"{summary['title']}, family '{summary['family']}', seeds {summary['seeds']}, {summary['problems']} problems, "
        f"{N} samples; equal cost; random {floor:.3f} .. oracle {ceiling:.0f}",
        f"{'arm':<16}{'accuracy':<24}{'over warm start':<22}{'normalised regret':<24}{'minus GRPO':<26}"
        f"{'tokens at equal acc.':<22}{'M positions':<13}{'updates':<9}{'minutes':<8}",
    ]
    for arm, line in summary["arms"].items():
        cost = [c / 1e6 for c in line["cost"] if c]
        lines.append(
            f"{arm:<16}{shown(line['accuracy']):<24}{shown(line.get('accuracy_gain'), 2):<22}"
            f"{shown(line['normalised_regret']):<24}{shown(line.get('regret_minus_grpo')):<26}"
            f"{shown(line.get('tokens_at_equal_accuracy'), 2):<22}"
            f"{(f'{np.mean(cost):.1f}' if cost else '-'):<13}"
            f"{np.mean(line['updates']):<9.0f}{np.mean(line['minutes']):<8.1f}"
        )
    return "\n".join(lines)
