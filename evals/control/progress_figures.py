"""The figures of the study of progress credit, from what is stored: who explores, steps to the threshold, regret."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evals.reasoning.study_parts import shown
from mrt.errors import ConfigError

EXPLORES = 0.5  # share of the held-out trials from which on a seed counts as exploring
T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Student's t, 97.5 %, for 1 to 9 degrees of freedom."""
HEAD = (
    *("environment", "arm", "alpha", "seeds", "explore", "reach the threshold", "steps to it (median)", "return"),
    *("regret, 0 oracle, 1 random", "minus `{plain}`, paired", "probe steps", "minutes"),
)


def summarise(paths: Sequence[Path], settings: Mapping[str, Any], plain: str) -> dict[str, Any]:
    """{environment: {floor, oracle, threshold, without, steps, arms: {arm: figures}}} of what is stored at `paths`.

    Raises:
        ConfigError: where nothing is.
    """
    found: dict[str, dict[str, dict[int, Any]]] = {}
    for path in paths:
        if path.is_file():
            one = json.loads(path.read_text(encoding="utf-8"))
            found.setdefault(one["env"], {}).setdefault(one["arm"], {})[one["seed"]] = one
    if not found:
        raise ConfigError("nothing is stored for these environments, arms and seeds: run the study")
    return {env: _environment(arms, settings[env], plain) for env, arms in found.items()}


def _environment(arms: Mapping[str, Mapping[int, Any]], setting: Any, plain: str) -> dict[str, Any]:
    some = next(iter(next(iter(arms.values())).values()))
    base = arms.get(plain, {})
    return {
        "floor": some["floor"],
        "oracle": some["oracle"],
        "threshold": setting.threshold,
        "without": setting.without,
        "steps": setting.steps,
        "arms": {
            arm: figures(by_seed, setting.threshold) | ({} if arm == plain else {"over_plain": paired(by_seed, base)})
            for arm, by_seed in arms.items()
        },
    }


def figures(by_seed: Mapping[int, Mapping[str, Any]], threshold: float) -> dict[str, Any]:
    """What one arm came to on its seeds; mean and standard error over them."""
    runs = [by_seed[seed] for seed in sorted(by_seed)]
    when = [steps_to(run["curve"], threshold) for run in runs]
    last = [run["curve"][-1] for run in runs]
    regret = [regret_of(run) for run in runs]
    return {
        "alpha": runs[0]["alpha"],
        "seeds": sorted(by_seed),
        "explore": sum(point["explores"] >= EXPLORES for point in last),
        "reached": sum(steps is not None for steps in when),
        "steps_to_threshold": when,
        "return": mean_and_error([point["value"] for point in last]),
        "regret": mean_and_error(regret),
        "regret_by_seed": [round(value, 4) for value in regret],
        "probe_share": float(np.mean([p["probe_steps"] / (p["env_steps"] + p["probe_steps"]) for p in last])),
        "minutes": float(np.mean([run["minutes"] for run in runs])),
    }


def steps_to(curve: Sequence[Mapping[str, float]], threshold: float) -> int | None:
    """Environment and probe steps at the first measurement of at least `threshold`; None where there is none."""
    for point in curve:
        if point["value"] >= threshold:
            return int(point["env_steps"] + point["probe_steps"])
    return None


def regret_of(run: Mapping[str, Any]) -> float:
    """Normalised regret at the end of a run: 0 plays as the oracle, 1 as random play."""
    return float((run["oracle"] - run["curve"][-1]["value"]) / (run["oracle"] - run["floor"]))


def paired(by_seed: Mapping[int, Any], base: Mapping[int, Any]) -> dict[str, Any] | None:
    """Difference of the final regrets on the seeds that both have: mean and 95 % interval by Student's t, for a
    bootstrap of five seeds is too narrow. None below two seeds.
    """
    both = sorted(set(by_seed) & set(base))
    if len(both) < 2:
        return None
    by = np.array([regret_of(by_seed[seed]) - regret_of(base[seed]) for seed in both])
    width = T_975[min(len(both) - 1, len(T_975)) - 1] * by.std(ddof=1) / len(both) ** 0.5
    return {"mean": float(by.mean()), "low": float(by.mean() - width), "high": float(by.mean() + width)}


def mean_and_error(values: Sequence[float]) -> dict[str, float | None]:
    """Mean and standard error, the latter None for one value."""
    error = float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "se": error}


def table(summary: Mapping[str, Any]) -> str:
    """The study as Markdown: a line an arm, floor, oracle and threshold of each environment above its lines."""
    plain = next(
        (arm for one in summary.values() for arm, line in one["arms"].items() if "over_plain" not in line), "-"
    )
    lines = [f"| {' | '.join(HEAD)} |".format(plain=plain), "|---" * len(HEAD) + "|"]
    for env, one in summary.items():
        levels = (
            f"random {one['floor']:.2f}, without exploring {one['without']:.2f}, threshold {one['threshold']:.2f}, "
            f"oracle {one['oracle']:.2f}; {one['steps'] / 1e3:,.0f}k steps"
        )
        lines.append(f"| **{env}** | {levels} |" + " |" * (len(HEAD) - 2))
        lines += [_line(env, arm, line) for arm, line in one["arms"].items()]
    return "\n".join(lines)


def _line(env: str, arm: str, line: Mapping[str, Any]) -> str:
    count = len(line["seeds"])
    reached = [steps for steps in line["steps_to_threshold"] if steps is not None]
    half = 2 * len(reached) > count  # a median over all seeds, those that never came counting as later than all others
    median = sorted(reached)[(count - 1) // 2] if half and len(reached) > (count - 1) // 2 else None
    cells = [
        *(env, f"`{arm}`", "-" if line["alpha"] is None else f"{line['alpha']:g}", str(count)),
        *(f"{line['explore']} of {count}", f"{len(reached)} of {count}"),
        "-" if median is None else f"{median / 1e3:,.0f}k",
        *(_with_error(line["return"], 2), _with_error(line["regret"], 3), shown(line.get("over_plain"))),
        *(f"{100 * line['probe_share']:.0f} %", f"{line['minutes']:.1f}"),
    ]
    return f"| {' | '.join(cells)} |"


def _with_error(value: Mapping[str, float | None], digits: int) -> str:
    error = "" if value["se"] is None else f" ± {value['se']:.{digits}f}"
    return f"{value['mean']:.{digits}f}{error}"
