"""What gates measure of episodic control: what is kept of the best episode so far, where it ends up, and whether it
takes a bad gamble.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from classic_metarl.memory.mfec import MFEC
from classic_metarl.memory.nec import NEC
from classic_metarl.problems.episodic_tasks import Gamble
from evals.gates.measures import Score
from mrt.control.agent import Agent, RandomAgent
from mrt.control.envs import EnvTasks, make_tasks
from mrt.control.evaluation.run import HELD_OUT
from mrt.control.loading import load_agent
from mrt.control.oracles import mean_and_se, task_bounds
from mrt.control.probes import ExploitProbe
from mrt.control.rollout import rollout
from mrt.runs.recipe import Recipe
from mrt.tasks import own_draws
from mrt.training.records import episode_returns
from mrt.trials import Trials


def maze(run: Path, recipe: Recipe, tasks: int, measures: Sequence[str]) -> dict[str, Score]:
    """`kept`: share of episodes after which a greedy one returns no less than the best so far, `least`, the worst
    difference (where nothing is random 1 and 0), `last`, the return of a greedy episode after the last one; `_mfec`,
    `_untrained` and `_random`: the same of MFEC with 11 neighbours, of an embedding that was never trained, and of
    random play.
    """
    torch.set_num_threads(1)
    held_out = make_tasks(**{**recipe.tasks, "split": "test"})
    bounds = task_bounds(held_out.env, held_out.batch(HELD_OUT, range(tasks)))
    floor, ceiling = (float(side.mean()) / held_out.env.spec.episodes for side in bounds)
    spec = held_out.env.spec
    makers: dict[str, Callable[[], Agent]] = {
        "": lambda: load_agent(run),
        "mfec": lambda: MFEC.for_spec(spec, limit=False, epsilon=0.1),
        "untrained": lambda: NEC.for_spec(spec, **recipe.policy),
        "random": lambda: RandomAgent(spec, HELD_OUT),
    }
    found = {}
    for name in dict.fromkeys(measure.partition("_")[2] for measure in measures):
        with own_draws(HELD_OUT + recipe.seed, torch.device("cpu")):
            played = _played(held_out, makers[name](), tasks)
        assert played.stop_values is not None
        gap = played.stop_values[:, 1:] - episode_returns(played).cummax(1).values
        end = f"_{name}" if name else ""
        found[f"kept{end}"] = Score(*mean_and_se((gap >= -1e-6).double().mean(1)), None, 1.0)
        found[f"least{end}"] = Score(float(gap.min()), 0.0)
        found[f"last{end}"] = Score(*mean_and_se(played.stop_values[:, -1].double()), floor, ceiling)
    return {name: found[name] for name in measures}


def gamble(run: Path, recipe: Recipe, tasks: int, measures: Sequence[str]) -> dict[str, Score]:
    """`risky`: share of the last quarter of the episodes in which the gamble is taken, where chance actions take it in
    half of their share; `paid`: mean return of an episode there.
    """
    torch.set_num_threads(1)
    held_out = make_tasks(**recipe.tasks)
    env = held_out.env
    assert isinstance(env, Gamble)
    params = held_out.batch(HELD_OUT, range(tasks))
    with own_draws(HELD_OUT + recipe.seed, torch.device("cpu")):
        trials = rollout(env, load_agent(run), params, seed=HELD_OUT + recipe.seed)
    late = trials.mask & (trials.episode >= 3 * env.spec.episodes // 4)
    each = late.sum(1).double()
    risky = ((trials.actions == params["risky"][:, None]) & late).sum(1) / each
    paid: Tensor = (trials.rewards * late).sum(1) / each
    mean = 2 * env.win - 1
    found = {"risky": Score(*mean_and_se(risky), 0.5, float(mean > 0))}
    found |= {"paid": Score(*mean_and_se(paid), mean / 2, max(mean, 0.0))}
    return {name: found[name] for name in measures}


def _played(held_out: EnvTasks, agent: Agent, tasks: int) -> Trials:
    """Trials on held-out tasks with a greedy episode after each."""
    params = held_out.batch(HELD_OUT, range(tasks))
    return rollout(held_out.env, agent, params, seed=HELD_OUT, probe=ExploitProbe(1))
