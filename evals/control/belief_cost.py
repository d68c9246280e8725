"""What a learned belief costs beside the exact one, on the same held-out tasks.

    python -m evals.control.belief_cost RUN [RUN ...]          a table
    python -m evals.control.belief_cost RUN --json --tasks 2000

return       of each episode, and the exact belief's less that: what is lost by believing, and acting on it, less well.
             The agent on the exact belief is that of `mrt.control.oracles.references` (Bayes-optimal in GridNavi and in
             the two-hypothesis bandit; elsewhere it acts by a rule).
nats         E log b*(M) / b(M) over the steps of the agent's own trials, M the task, b* the exact posterior of the same
             history: the expected divergence of the belief b. Only for agents that record a belief over listed tasks.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evals.gates.inference import exact_belief
from mrt.control.agent import Agent, Entrant, ScriptedAgent
from mrt.control.envs import EnvTasks, make_tasks
from mrt.control.evaluation.run import HELD_OUT
from mrt.control.loading import load_agent, recipe_of
from mrt.control.oracles import mean_and_se
from mrt.control.oracles.beliefs import BELIEF, task_numbers
from mrt.control.oracles.references import players
from mrt.control.rollout import rollout
from mrt.errors import ConfigError, MRTError
from mrt.trials import Trials

EXACT = ("exact belief", "Bayes-optimal")  # names of players that act on the exact posterior
LEAST = 1e-6  # a probability is never less, or one cell ruled out by mistake costs infinitely much


def cost(agent: Agent, tasks: EnvTasks, count: int) -> dict[str, Any]:
    """{episodes: [{learned, exact, lost, se}], nats: {mean, se} or None}.

    Raises:
        ConfigError: for an environment in which no agent acts on the exact belief.
    """
    env, params = tasks.env, tasks.batch(HELD_OUT, range(count))
    make = next((found for name, found in players(env).items() if name in EXACT), None)
    if make is None:
        raise ConfigError(f"no agent is known that acts on the exact belief about {env.name}")
    exact = make(params, 0)
    both = [rollout(env, Entrant(one, True), params, seed=HELD_OUT) for one in (agent, exact)]
    returns = [_returns(trials, env.spec.episodes) for trials in both]
    lost = [mean_and_se(returns[1][:, k] - returns[0][:, k]) for k in range(env.spec.episodes)]
    episodes = [
        {"learned": float(returns[0][:, k].mean()), "exact": float(returns[1][:, k].mean()), "lost": mean, "se": se}
        for k, (mean, se) in enumerate(lost)
    ]
    found: dict[str, Any] = {"episodes": episodes, "nats": None}
    if BELIEF in both[0].inputs and isinstance(exact, ScriptedAgent):
        mean, se = mean_and_se(divergence(both[0], exact, task_numbers(env, params)))
        found["nats"] = {"mean": mean, "se": se}
    return found


def divergence(trials: Trials, exact: ScriptedAgent, number: Tensor) -> Tensor:
    """(B,) mean over the steps of each trial of log b*(M) - log b(M), M the tasks' numbers (B,).

    A belief over cells (..., C) counts for those where the goal may be.
    """
    said, true = trials.inputs[BELIEF].double(), exact_belief(exact, trials.inputs).double()
    if said.shape[-1] != true.shape[-1]:
        env: Any = exact.room  # type: ignore[attr-defined]
        said = said[..., env.goals]
    said = (said / said.sum(-1, keepdim=True).clamp(min=LEAST)).clamp(min=LEAST)
    place = number[:, None, None].expand(-1, said.shape[1], 1)
    away = (true.clamp(min=LEAST).log() - said.log()).gather(-1, place)[..., 0]
    return (torch.where(trials.mask, away, 0.0).sum(1) / trials.mask.sum(1)).cpu()


def _returns(trials: Trials, episodes: int) -> Tensor:
    """(B, K) of every episode, float64."""
    each = [torch.where(trials.episode == k, trials.rewards, 0.0).double().sum(1) for k in range(episodes)]
    return torch.stack(each, 1).cpu()


def table(results: dict[str, Any]) -> str:
    """A line an episode of each run."""
    lines = ["| run | episode | learned belief | exact belief | lost | nats a step |", "|---|---|---|---|---|---|"]
    for name, one in results.items():
        nats = "-" if one["nats"] is None else f"{one['nats']['mean']:.3f} ± {one['nats']['se']:.3f}"
        for k, row in enumerate(one["episodes"], 1):
            numbers = f"{row['learned']:.3f} | {row['exact']:.3f} | {row['lost']:.3f} ± {row['se']:.3f}"
            lines.append(f"| {name} | {k} | {numbers} | {nats} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code (2: a user's mistake)."""
    described = (__doc__ or "").split("\n")[0]
    options = argparse.ArgumentParser(prog="python -m evals.control.belief_cost", description=described)
    options.add_argument("runs", nargs="+", type=Path, help="run directories")
    options.add_argument("--json", action="store_true")
    options.add_argument("--tasks", type=int, default=1000, help="held-out tasks")
    ns = options.parse_args(argv)
    found = {}
    try:
        for path in ns.runs:
            recipe = recipe_of(path)
            if recipe is None:
                raise ConfigError(f"{path} is no run: it has no recipe in it")
            found[str(path)] = cost(load_agent(path), make_tasks(**recipe.tasks), ns.tasks)
    except MRTError as error:
        print(f"belief_cost: {error}", file=sys.stderr)
        return 2
    print(json.dumps(found, indent=2) if ns.json else table(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
