"""Floor and ceiling of each task: uniformly random play, and the best that an agent can do that knows the task.

Both are expected returns of a whole trial, in closed form or by dynamic programming, never by sampling.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache, singledispatch
from typing import NamedTuple

import torch
from torch import Tensor

from mrt.control.envs.bandits import Bandit, InformativeBandit, MovingBandits, RestlessBandit
from mrt.control.envs.base import TensorEnv
from mrt.control.envs.decisions import CueRecall, ObjectChoice, TabularMDP, TwoStep
from mrt.control.envs.grids import FiniteEnv
from mrt.control.envs.told import ToldTask
from mrt.control.oracles.mdps import random_values, value_iteration


class Bounds(NamedTuple):
    """(B,) each: expected undiscounted return of a trial of random play, and of the optimum that knows the task; on
    the device of the tasks.
    """

    floor: Tensor
    ceiling: Tensor


@singledispatch
def floor_and_ceiling(env: TensorEnv, params: Mapping[str, Tensor]) -> Bounds:
    """Bounds of each of the tasks `params` {name: (B, ...)}; the mean over p(M) is the mean over a batch of them.

    Raises:
        NotImplementedError: for an environment without known bounds. Others add theirs by
            `floor_and_ceiling.register`.
    """
    raise NotImplementedError(f"no bounds are known for {type(env).__name__}")


def episode_bounds(env: TensorEnv, params: Mapping[str, Tensor], each: int = 1) -> dict[str, Tensor]:
    """What `Trials.privileged` holds of the tasks, each repeated `each` times: `oracle` and `floor` (B,), the bounds of
    one episode that pays, and `free_episodes` (B,), how many first ones do not. {} where no bounds are known.
    """
    try:
        bounds = task_bounds(env, params)
    except NotImplementedError:
        return {}
    spec = env.spec
    paid = spec.episodes - spec.free_episodes
    found = {"oracle": bounds.ceiling / paid, "floor": bounds.floor / paid}
    if spec.free_episodes:
        found["free_episodes"] = torch.full_like(bounds.floor, spec.free_episodes, dtype=torch.long)
    return {name: value.repeat_interleave(each, 0) for name, value in found.items()}


def task_bounds(env: TensorEnv, params: Mapping[str, Tensor]) -> Bounds:
    """`floor_and_ceiling`, computed once for each task that occurs where tasks are whole numbers (`FiniteEnv`): a batch
    of GridNavi has 21 of them, not thousands.
    """
    if not isinstance(env, FiniteEnv):
        return floor_and_ceiling(env, params)
    flat = [value.reshape(len(value), -1) for value in params.values()]
    table, which = torch.unique(torch.cat(flat, 1), dim=0, return_inverse=True)
    rows = torch.arange(len(which) - 1, -1, -1, device=which.device)
    first = torch.empty(len(table), dtype=torch.long, device=which.device).scatter_(0, which.flip(0), rows)
    bounds = floor_and_ceiling(env, {name: value[first] for name, value in params.items()})
    which = which.to(bounds.floor.device)
    return Bounds(bounds.floor[which], bounds.ceiling[which])


@floor_and_ceiling.register
def _told(env: ToldTask, params: Mapping[str, Tensor]) -> Bounds:
    """What is seen changes neither."""
    return task_bounds(env.env, params)


@floor_and_ceiling.register
def _bandit(env: Bandit, params: Mapping[str, Tensor]) -> Bounds:
    """n times the mean of the arms, and n times the best of them."""
    means, pulls = params["means"], env.spec.trial_steps
    return Bounds(pulls * means.mean(1), pulls * means.amax(1))


@floor_and_ceiling.register
def _informative(env: InformativeBandit, params: Mapping[str, Tensor]) -> Bounds:
    pulls, clue = env.spec.trial_steps, (params["target"] + 1) / 10
    return Bounds(pulls * (5 + 9 + clue) / 11, torch.full_like(clue, 5.0 * pulls))


@floor_and_ceiling.register
def _restless(env: RestlessBandit, params: Mapping[str, Tensor]) -> Bounds:
    """The optimum sees p_t before every pull: sum_t E[max(p_t, 1 - p_t)].

    A reflected walk is a free one folded afterwards, and max(fold(x), 1 - fold(x)) is a triangle wave of period 1,
    3/4 + 2/pi^2 sum over odd k of cos(2 pi k x) / k^2, of which a Gaussian of variance t v^2 damps the k-th term by
    q^t, q = exp(-2 pi^2 k^2 v^2): a geometric series in t.
    """
    pulls = env.spec.trial_steps
    start, volatility = (params[name].double()[:, None] for name in ("start", "volatility"))
    odd = torch.arange(1, 200, 2, dtype=torch.float64, device=start.device)
    q = torch.exp(-2 * (math.pi * odd * volatility) ** 2)
    waves = torch.cos(2 * math.pi * odd * start) * (1 - q**pulls) / (1 - q)
    total = 0.75 * pulls + (2 / (math.pi * odd) ** 2 * waves).sum(1)
    return Bounds(torch.full_like(total, 0.5 * pulls).float(), total.float())


@floor_and_ceiling.register
def _moving(env: MovingBandits, params: Mapping[str, Tensor]) -> Bounds:
    """Expected over the places of each episode, hence the same for all tasks."""
    floor, ceiling = _moving_episode(env.spec.episode_steps)
    rows, episodes = torch.ones_like(params["right"], dtype=torch.float32), env.spec.episodes
    return Bounds(rows * floor * episodes, rows * ceiling * episodes)


@lru_cache(maxsize=8)
def _moving_episode(steps: int, cells: int = 200) -> tuple[float, float]:
    """Averages over a grid of places in the square, one quarter standing for all four (the start is in the middle).

    From the start the point reaches offset (i, j), in steps, after |i| + |j| of them; the optimum goes to the nearest
    offset that is close enough to the place, is paid from the step on that ends there, and stays.
    """
    step, radius, half = MovingBandits.STEP, MovingBandits.RADIUS, MovingBandits.SIDE / 2
    axis = (torch.arange(cells, dtype=torch.float64) + 0.5) * half / cells  # distance from the middle
    reach = torch.arange(-steps, steps + 1, dtype=torch.float64)
    gap = (step * reach[:, None] - axis).square()  # (2n+1, cells)
    chance = torch.zeros(len(reach), len(reach), dtype=torch.float64)
    chance[steps, steps] = 1.0
    visits = torch.zeros_like(chance)
    for _ in range(steps):
        moved = chance.clone()
        for shift, dim in ((1, 0), (-1, 0), (1, 1), (-1, 1)):
            moved += chance.roll(shift, dim)
        chance = moved / 5
        visits += chance
    floor, best = 0.0, torch.full((cells, cells), math.inf, dtype=torch.float64)
    near = int((half + radius) // step) + 1
    for i in range(max(steps - near, 0), min(steps + near, 2 * steps) + 1):
        for j in range(max(steps - near, 0), min(steps + near, 2 * steps) + 1):
            inside = gap[i][:, None] + gap[j][None, :] < radius**2
            floor += float(visits[i, j]) * float(inside.double().mean())
            needed = abs(i - steps) + abs(j - steps)
            best = torch.where(inside, best.clamp(max=needed), best)
    paid = (steps + 1 - best.clamp(min=1)).clamp(min=0)
    return floor, float(paid.mean())


@floor_and_ceiling.register
def _two_step(env: TwoStep, params: Mapping[str, Tensor]) -> Bounds:
    rows = torch.ones_like(params["rich"], dtype=torch.float32)
    best = env.common * env.high + (1 - env.common) * (1 - env.high)
    return Bounds(rows * 0.5 * env.choices, rows * best * env.choices)


@floor_and_ceiling.register
def _object_choice(env: ObjectChoice, params: Mapping[str, Tensor]) -> Bounds:
    objects = params["objects"]
    rows = objects.new_full((len(objects),), float(env.spec.trial_steps))
    return Bounds(rows / 2, rows)


@floor_and_ceiling.register
def _cue_recall(env: CueRecall, params: Mapping[str, Tensor]) -> Bounds:
    """Random a ~ U[-1, 1] is wrong by Var(a) + c^2."""
    cue = params["cue"]
    return Bounds(-env.spec.episodes * (1 / 3 + cue.square()), torch.zeros_like(cue))


@floor_and_ceiling.register
def _tabular_mdp(env: TabularMDP, params: Mapping[str, Tensor]) -> Bounds:
    model = params["rewards"], params["transitions"], env.spec.episode_steps
    start = (random_values(*model)[:, 0, 0].mean(1), value_iteration(*model)[:, 0, 0].amax(1))
    return Bounds(*(env.spec.episodes * value for value in start))
