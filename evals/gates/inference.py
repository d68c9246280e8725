"""What gates measure of learned beliefs: beside the exact posterior of the same trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from classic_metarl.inference.meld import MELDPolicy, led_here
from classic_metarl.problems.linear_gaussian import LinearGaussian, kalman
from evals.gates.measures import Score
from mrt.control.agent import Agent, Entrant, ScriptedAgent
from mrt.control.envs import EnvTasks, make_tasks
from mrt.control.envs.bandits import DependentBandit
from mrt.control.envs.grids import GridNavi
from mrt.control.evaluation.run import HELD_OUT
from mrt.control.loading import load_agent
from mrt.control.oracles import mean_and_se
from mrt.control.oracles.beliefs import BELIEF, RoomSearch, TwoHypotheses
from mrt.control.rollout import rollout
from mrt.runs.recipe import Recipe
from mrt.trials import Trials

CHUNK = 2000


def exact_belief(exact: ScriptedAgent, inputs: Mapping[str, Tensor]) -> Tensor:
    """(B, T, N) what an exact agent would believe at every step of the trials of another, `inputs` (B, T, ...)."""
    rows, steps = inputs["done"].shape
    state, found = exact.init_state(rows), []
    for t in range(steps):
        if t:
            seen = {name: value[:, t] for name, value in inputs.items()}
            state = exact.learn({**seen, "last": inputs["observation"][:, t - 1]}, state)
        found.append(exact.extras(state)[BELIEF])
    return torch.stack(found, 1)


def log_odds(agent: Agent, tasks: EnvTasks, count: int) -> Tensor:
    """(count,) mean error over the pulls of a trial of the log-odds that the agent has after each, the last left out:
    |log b(0) / b(1) - (s - f) log(p / (1 - p))|.
    """
    env = tasks.env
    assert isinstance(env, DependentBandit)
    trials = _played(agent, tasks, range(count))
    believed = slice(1, env.spec.episode_steps)  # before the second pull, ..., before the last
    both = (trials.inputs[BELIEF], exact_belief(TwoHypotheses(env), trials.inputs))
    said, true = (belief[:, believed, 0].double().logit() for belief in both)
    return (said - true).abs().mean(1)


def two_hypotheses(run: Path, recipe: Recipe, tasks: int, measures: Sequence[str]) -> dict[str, Score]:
    """`error` of `log_odds`; its floor is that of whoever believes in the prior for ever, its ceiling 0."""
    torch.set_num_threads(1)
    drawn, agent = make_tasks(**recipe.tasks), load_agent(run)
    assert isinstance(drawn.env, DependentBandit)
    prior = log_odds(_Prior(drawn.env), drawn, tasks)
    found = {"error": Score(*mean_and_se(log_odds(agent, drawn, tasks)), float(prior.mean()), 0.0)}
    return {name: found[name] for name in measures}


def grid_beliefs(run: Path, recipe: Recipe, tasks: int, measures: Sequence[str]) -> dict[str, Score]:
    """Of what is believed in GridNavi, scaled to sum to 1: `distance`, the total variation to the exact posterior, mean
    over all steps; `entropy` in nats once the goal was seen; `visited`, the most that is left on a cell ruled out.
    """
    torch.set_num_threads(1)
    drawn, agent = make_tasks(**recipe.tasks), load_agent(run)
    env = drawn.env
    assert isinstance(env, GridNavi)
    parts = [_beliefs(_played(agent, drawn, range(i, min(i + CHUNK, tasks))), env) for i in range(0, tasks, CHUNK)]
    return {name: Score(*mean_and_se(torch.cat([part[name] for part in parts]))) for name in measures}


def _beliefs(trials: Trials, env: GridNavi) -> dict[str, Tensor]:
    said, exact = trials.inputs[BELIEF].double(), exact_belief(RoomSearch(env), trials.inputs).double()
    if said.shape[-1] == env.cells:
        said = said[..., env.goals]
    said, inside = said / said.sum(-1, keepdim=True).clamp(min=1e-12), trials.mask
    known, weight = inside & (exact.amax(-1) == 1), inside / inside.sum(1, keepdim=True)
    entropy = torch.special.entr(said).sum(-1)
    ruled_out = torch.where(exact == 0, said, 0.0).amax(-1)
    return {
        "distance": (0.5 * (said - exact).abs().sum(-1) * weight).sum(1),
        "entropy": ((entropy * known).sum(1) / known.sum(1))[known.any(1)],
        "visited": (ruled_out * weight).sum(1),
    }


def kalman_gap(run: Path, recipe: Recipe, tasks: int, measures: Sequence[str]) -> dict[str, Score]:
    """Of a latent state model where the exact filter is known, on trials of its own policy: `gap`, Kalman's
    log-likelihood of a step less the ELBO, in nats; `goal`, how far what the belief says of the task is from Kalman's
    mean. The belief is read by least squares, fitted to the tasks themselves on the first half of the trials: the best
    that can be read from it is the posterior mean. The floor of `goal` is that of whoever stays with the prior.
    """
    torch.set_num_threads(1)
    drawn, agent = make_tasks(**recipe.tasks), load_agent(run)
    env = drawn.env
    assert isinstance(env, LinearGaussian)
    assert isinstance(agent, MELDPolicy)
    params = drawn.batch(HELD_OUT, range(tasks))
    trials = rollout(env, Entrant(agent), params, seed=1)
    exact = kalman(env, *(trials.inputs[name] for name in ("observation", "action", "reward")))
    acted = led_here(trials)
    with torch.no_grad():
        states = agent.states(trials.inputs, acted)
        terms = agent.states.terms(states, trials.inputs, acted)
    elbo = terms["observation"] + terms["reward"] - terms["kl"]
    belief, known = states.belief.double(), exact.mean[..., 1]
    x = torch.cat([belief, belief.square(), torch.ones_like(belief[..., :1])], -1)
    half, goals = tasks // 2, params["goal"].double()[:, None].expand_as(known)
    weights = torch.linalg.lstsq(x[:half].flatten(0, 1), goals[:half].reshape(-1, 1), driver="gelsd").solution
    away = ((x[half:] @ weights)[..., 0] - known[half:]).abs().mean(1)
    found = {
        "gap": Score(*mean_and_se((exact.loglik - elbo).mean(1)), None, 0.0),
        "goal": Score(*mean_and_se(away), float(known[half:].abs().mean()), 0.0),
    }
    return {name: found[name] for name in measures}


class _Prior(ScriptedAgent):
    """Believes in both tasks alike, whatever it sees."""

    def __init__(self, env: DependentBandit) -> None:
        self.env = env

    def choose(self, observation: Tensor, state: dict) -> Tensor:
        return torch.zeros(len(observation), dtype=torch.long)

    def extras(self, state: dict) -> Mapping[str, Tensor]:
        return {BELIEF: torch.full((state["rows"], 2), 0.5)}


def _played(agent: Agent, tasks: EnvTasks, indices: range) -> Trials:
    return rollout(tasks.env, Entrant(agent, greedy=True), tasks.batch(HELD_OUT, indices), seed=indices.start)
