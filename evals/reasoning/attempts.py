"""A language model in several attempts at tasks that it was not trained on.

    python -m evals.reasoning.attempts RUN [--count 1000] [--tasks attempts=4 split=test] [--out FILE.json]
    python -m evals.reasoning.attempts MODEL --recipe attempts/countdown

RUN is what `mrt train attempts/...` left; its recipe says how the model acts. Tasks are those of seed 1,000,003, with
Countdown of the split `test`; a task is one trial. Where tasks can be solved the figures are the share that is solved
after attempt 1, 2, ...; elsewhere what each attempt earns. With bounds, regret: the sum over attempts of what an oracle
that knows the task earns, less what the model earns (of bandits in means of the arms, which takes most of the noise
out), beside that of random play, the classical players and exact values. Intervals are 95 %, over tasks.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from mrt.control.envs.text import EnvInText
from mrt.control.loading import recipe_of
from mrt.control.oracles.bandit_policies import regret
from mrt.control.oracles.references import exact_values, players
from mrt.errors import ConfigError
from mrt.metrics.intervals import interval
from mrt.reasoning.attempts.form import Form
from mrt.reasoning.attempts.manner import Manner, make_manner
from mrt.reasoning.attempts.rollout import AttemptRollout
from mrt.reasoning.engines.opening import Opened, open_engine
from mrt.reasoning.models.loading import pad_id
from mrt.report.tables import estimate, format_table
from mrt.runs.recipe import Recipe, load_recipe
from mrt.runs.rundir import write_json
from mrt.text_tasks import TextTasks, make_text_tasks
from mrt.training.records import episode_returns
from mrt.trials import Stop, Trials

SEED = 1_000_003
AT_ONCE = 256  # trials side by side


def tasks_of(recipe: Recipe, changed: Mapping[str, Any]) -> TextTasks:
    """The tasks of a recipe, of its test split where it names a split or has one to name."""
    options = dict(recipe.tasks)
    if options.get("env", "").endswith(":CountdownAttempts"):
        options["split"] = "test"
    return make_text_tasks({**options, **changed})


def manner_of(recipe: Recipe, opened: Opened, tasks: TextTasks, temperature: float | None = None) -> Manner:
    """How the model of a recipe acts; `temperature` in place of the one it learned at."""
    args = recipe.args
    return make_manner(
        Form(opened.tokenizer, args.get("style", "chat"), args.get("thinking", False)),
        tasks,
        choose=args.get("choose", False),
        temperature=float(args.get("temperature", 1.0)) if temperature is None else temperature,
        limit=args.get("action_tokens", 64),
        context=opened.context,
    )


def measure(opened: Opened, tasks: TextTasks, manner: Manner, count: int, seed: int = SEED) -> dict[str, Any]:
    """The figures above over `count` tasks."""
    rollout = AttemptRollout(opened.engine, manner, None, pad_id(opened.tokenizer))
    found: list[dict[str, Tensor]] = []
    for start in range(0, count, AT_ONCE):
        drawn = [tasks.sample(seed, index) for index in range(start, min(count, start + AT_ONCE))]
        torch.manual_seed(seed + start)
        trials = rollout(tasks, drawn, seed=seed + start)
        found.append(_figures(trials, tasks, manner))
    table = {name: torch.cat([_wide(part[name], tasks.attempts) for part in found]).numpy() for name in found[0]}
    solved = table.pop("solved_at")[:, 0]
    results: dict[str, Any] = {
        "tasks": count,
        "attempts": tasks.attempts,
        "unread": float(table["unread"][:, 0].mean()),
    }
    results["reward"] = interval(np.nansum(table["earned"], 1))
    if np.isfinite(solved).any() or not tasks.choices:
        each = range(1, tasks.attempts + 1)
        results["solved_after"] = {str(k): interval((solved <= k).astype(float)) for k in each}
    if "lost" in table:
        results["regret"] = interval(np.nansum(table["lost"], 1))
        results["lost"] = [float(value) for value in np.nanmean(table["lost"], 0)]
    return results


def _figures(trials: Trials, tasks: TextTasks, manner: Manner) -> dict[str, Tensor]:
    """Of each trial: what its attempts earned (B, K), what they lost, the attempt that solved the task (NaN: none)."""
    earned = episode_returns(trials)
    over = trials.trial_stop == int(Stop.TERMINATED)
    solved_at = torch.where(over, trials.episodes.double(), torch.nan)
    found = {"earned": earned, "solved_at": solved_at[:, None], "unread": trials.privileged["unread"][:, None]}
    if "oracle" in trials.privileged:
        payoffs = tasks.payoffs() if manner.choices else None
        worth = earned if payoffs is None else _means(trials, manner, tasks.choices, payoffs)
        found["lost"] = trials.privileged["oracle"][:, None] - worth
    return found


def _means(trials: Trials, manner: Manner, choices: Sequence[str], payoffs: Sequence[Mapping[str, float]]) -> Tensor:
    """(B, K) what each attempt was expected to earn by what was chosen in it, where an attempt is one choice."""
    table = torch.tensor([[row.get(text, 0.0) for text in choices] for row in payoffs])
    rows, columns = trials.mask.nonzero(as_tuple=True)
    number = (trials.actions[rows, columns][:, None] == torch.tensor(manner.choices)).long().argmax(1)
    worth = torch.full((len(trials), int(trials.episodes.max())), torch.nan)
    worth[rows, trials.episode[rows, columns]] = table[rows, number]
    return worth


def _wide(values: Tensor, width: int) -> Tensor:
    """(B, K) in float64, padded to `width` with NaN; one column stays one."""
    more = width - values.shape[1] if values.shape[1] > 1 else 0
    return torch.nn.functional.pad(values.double(), (0, max(0, more)), value=torch.nan)


def beside(tasks: TextTasks, count: int, seed: int = SEED) -> dict[str, Any]:
    """Regret of random play, of classical players and by exact values, on the same tasks; {} where none is known."""
    if not isinstance(tasks, EnvInText) or not tasks.is_bandit:
        return {}
    env, params = tasks.env, tasks.tasks.batch(seed, range(count))
    means = params.get("means", None)
    found: dict[str, Any] = {}
    if means is not None:
        found["random"] = interval((means.amax(1) - means.mean(1)).double().numpy() * tasks.attempts)
    for name, player in players(env).items():
        found[name] = interval(regret(env, player(params, seed), params, seed).double().numpy())  # type: ignore[arg-type]
    return found | {f"{name}, exact": values["regret"] for name, values in exact_values(env).items()}


def show(results: Mapping[str, Any]) -> str:
    """The figures as tables."""
    lines = [
        f"{results['tasks']} tasks, up to {results['attempts']} attempts; unreadable actions {results['unread']:.3f}"
    ]
    lines += [f"reward of a trial {estimate(results['reward'], '{:.3f}')}"]
    if "solved_after" in results:
        rows = [[name, estimate(value, "{:.3f}")] for name, value in results["solved_after"].items()]
        lines += ["", format_table([["attempt", "solved by then"], *rows])]
    if "regret" in results:
        rows = [["this model", estimate(results["regret"], "{:.3f}")]]
        rows += [[name, estimate(value, "{:.3f}")] for name, value in results.get("beside", {}).items()]
        lines += ["", format_table([["who", "regret of a trial"], *rows])]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Parses, measures, prints; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="a run of mrt train, or a model with --recipe")
    parser.add_argument("--recipe", help="how the model acts, where it is not in a run of its own")
    parser.add_argument("--tasks", nargs="*", default=[], help="other options of the tasks, name=value (attempts=4)")
    parser.add_argument("--count", type=int, default=1000, help="tasks")
    parser.add_argument("--temperature", type=float, help="in place of the one that the model learned at")
    parser.add_argument("--engine", default="transformers", help="transformers | vllm | the address of a server")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    ns = parser.parse_args(argv)
    try:
        recipe = load_recipe(ns.recipe) if ns.recipe else recipe_of(ns.model)
        if recipe is None:
            raise ConfigError(f"{ns.model} is no run of mrt train: say how it acts with --recipe attempts/countdown")
        folder = Path(ns.model) / "model"
        opened = open_engine(str(folder if folder.is_dir() else ns.model), ns.engine)
        changed = {name: yaml.safe_load(value) for name, _, value in (one.partition("=") for one in ns.tasks)}
        tasks = tasks_of(recipe, changed)
        results = measure(opened, tasks, manner_of(recipe, opened, tasks, ns.temperature), ns.count)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    results["beside"] = beside(tasks, ns.count)
    results |= {"model": ns.model, "seed": SEED, "task_options": {**recipe.tasks, **changed}}
    if ns.out:
        write_json(ns.out, results)
    print(show(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
