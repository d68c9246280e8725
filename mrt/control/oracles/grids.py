"""Exact values for environments with few states: known-task optimum, random policy, and Bayes-optimal values.

Every number is an undiscounted return. The first two come by backward induction over an environment's own `move`, so
they hold for whatever size or reward it was built with. The best of an agent that must find out its task is known for
GridNavi and for the first episode in a dark room; `hallway` and `buses` hold two more.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mrt.control.envs.grids import DarkRoom, FiniteEnv, GridNavi, Room, midpoints
from mrt.control.oracles.bounds import Bounds, floor_and_ceiling
from mrt.errors import ConfigError

ROWS = 1 << 20  # states x actions x tasks in memory at once


def known_task(env: FiniteEnv, params: Mapping[str, Tensor] | None = None) -> float:
    """Return of one episode when the task is known: mean over `params` {name: (B, ...)}, or over all tasks."""
    return float(episode_values(env, env.all_tasks() if params is None else params).mean())


def episode_values(
    env: FiniteEnv,
    params: Mapping[str, Tensor],
    policy: Literal["optimal", "random"] = "optimal",
    actions: Sequence[int] | None = None,
) -> Tensor:
    """Expected return of one episode in each task of `params` {name: (B, ...)}, (B,) float64, by backward induction.

    Free exploration episodes are skipped: it is the first one that counts. Starts that are drawn are averaged over.

    Args:
        policy: the best one for the known task, or uniformly random actions.
        actions: the actions that may be used; all of them when left out.
    """
    allowed = range(env.spec.actions) if actions is None else actions
    states = {name: column for name, column in zip(env.ranges, _listed(env.ranges).T.to(env.device), strict=True)}
    each = max(1, ROWS // (len(next(iter(states.values()))) * len(allowed)))
    tasks = len(next(iter(params.values())))
    parts = [{name: value[i : i + each] for name, value in params.items()} for i in range(0, tasks, each)]
    return torch.cat([_chunk_values(env, part, states, policy, allowed) for part in parts])


@floor_and_ceiling.register
def _finite(env: FiniteEnv, params: Mapping[str, Tensor]) -> Bounds:
    """Of all the episodes that count."""
    paid = env.spec.episodes - env.spec.free_episodes
    return Bounds(paid * episode_values(env, params, "random"), paid * episode_values(env, params))


def _chunk_values(
    env: FiniteEnv,
    params: Mapping[str, Tensor],
    states: Mapping[str, Tensor],
    policy: str,
    actions: Sequence[int],
) -> Tensor:
    tasks, count = len(next(iter(params.values()))), len(next(iter(states.values())))
    shape = (tasks, count, len(actions))
    tiled = {name: value.repeat(tasks).repeat_interleave(len(actions)) for name, value in states.items()}
    worker = _placed(env, params, count * len(actions), tiled)
    chosen = torch.tensor(list(actions), device=env.device).repeat(tasks * count)
    values = torch.zeros(tasks, count, dtype=torch.float64, device=env.device)
    for left in range(1, env.spec.episode_steps + 1):
        if left == 1 or env.timed:
            worker.clock = torch.full_like(chosen, env.spec.episode_steps - left)
            following, reward, over = worker.move(chosen, torch.zeros(len(chosen), 0, device=env.device))
            place = _number(following, env.ranges).view(tasks, -1)
        ahead = values.gather(1, place).view(shape)
        returns = reward.view(shape).double() + torch.where(over.view(shape), 0.0, ahead)
        values = returns.amax(2) if policy == "optimal" else returns.mean(2)
    starts = midpoints(env.start_choices).to(env.device)
    begun = _placed(env, params, len(starts), {}).begin_episode(starts.repeat(tasks, 1))
    return values.gather(1, _number(begun, env.ranges).view(tasks, -1)).mean(1)


def _placed(env: FiniteEnv, params: Mapping[str, Tensor], times: int, state: dict[str, Tensor]) -> FiniteEnv:
    """The environment with every task `times` times, in the first episode that counts."""
    worker = copy.copy(env)
    worker.params = {name: value.to(env.device).repeat_interleave(times, 0) for name, value in params.items()}
    rows = len(next(iter(worker.params.values())))
    worker.state, worker.clock = state, torch.zeros(rows, dtype=torch.long, device=env.device)
    worker.episode = torch.full_like(worker.clock, env.spec.free_episodes)
    worker.waiting = torch.zeros_like(worker.clock, dtype=torch.bool)
    return worker


def _listed(ranges: Mapping[str, int]) -> Tensor:
    return torch.cartesian_prod(*[torch.arange(n) for n in ranges.values()]).reshape(-1, len(ranges))


def _number(state: Mapping[str, Tensor], ranges: Mapping[str, int]) -> Tensor:
    number = torch.zeros_like(next(iter(state.values())))
    for name, n in ranges.items():
        number = number * n + state[name]
    return number


# ---- searching a room


class Bayes(NamedTuple):
    """Bayes-optimal returns: of the first episode, of each later one; `path`: the cells to enter in the first one."""

    first: float
    later: float
    path: tuple[int, ...]

    def total(self, episodes: int) -> float:
        """Of a trial of `episodes` episodes."""
        return self.first + (episodes - 1) * self.later


def first_episode_bound(env: GridNavi | DarkRoom) -> float:
    """What no policy can beat in its first episode: a step looks into one cell, so it rules out one goal at most.

    The i-th cell that may hold the goal is entered at step e_i = max(e_(i-1) + 1, its distance) at the earliest, cells
    taken in the order of their distances (1 for the cell of the start: stay). Goals found at step e_i, then held to the
    end, those left over missed. Reached wherever `sweep` finds a path.
    """
    candidates = _candidates(env)
    looked = [step for step in _earliest(env, candidates) if step <= env.spec.episode_steps]
    missed = (len(candidates) - len(looked)) * _found_at(env, env.spec.episode_steps + 1)
    return (sum(_found_at(env, step) for step in looked) + missed) / len(candidates)


def sweep(env: GridNavi | DarkRoom, one_path_left: bool = False) -> tuple[int, ...] | None:
    """A path, cells entered at steps 1..T, that reaches `first_episode_bound`; None where there is none.

    With `one_path_left` the cells that it leaves out lie on one shortest path from the start: then an agent that walks
    along it in the second episode is at each of them as early as one who knows.
    """
    candidates = set(_candidates(env))
    due = set(_earliest(env, sorted(candidates)))
    ends = env.ends.view(env.cells, -1)[:, [0, 1, 3, 2, 4]].tolist()  # up and down first: rows are swept one by one
    start = _start(env)

    def extend(path: list[int], left: set[int]) -> Iterator[list[int]]:
        if len(path) == env.spec.episode_steps:
            if not one_path_left or _on_one_path(env, start, left):
                yield path
            return
        for cell in ends[path[-1] if path else start]:
            if cell in left or len(path) + 1 not in due:
                yield from extend([*path, cell], left - {cell})

    found = next(extend([], candidates), None)
    return None if found is None else tuple(found)


def grid_navi_bayes(env: GridNavi) -> Bayes:
    """The exact Bayes-optimal returns of GridNavi: 4.000, then 11.071 an episode, for VariBAD's 5x5.

    No first episode beats `first_episode_bound`, no later one the optimum of a known goal. `sweep` finds a path that
    reaches the first bound and leaves goals on one shortest path alone: whether the goal was seen or not, every later
    episode reaches the second. So both bounds hold at once, and their sum is the optimum of the whole trial.

    Raises:
        ValueError: for a room where no such path exists.
    """
    path = sweep(env, one_path_left=True)
    if path is None:
        raise ValueError(f"no sweep of a {env.size}x{env.size} room in {env.spec.episode_steps} steps is optimal twice")
    return Bayes(first_episode_bound(env), known_task(env), path)


def _candidates(env: GridNavi | DarkRoom) -> list[int]:
    return env.goals if isinstance(env, GridNavi) else list(range(env.cells))


def _found_at(env: GridNavi | DarkRoom, step: int) -> float:
    """Return of an episode that first reaches the goal at that step, and stays."""
    before, after = step - 1, env.spec.episode_steps - step + 1
    if isinstance(env, GridNavi):
        return after - 0.1 * before
    return float(after if env.pays == "every" else after > 0)


def _start(env: Room) -> int:
    if env.start in ("random", "task"):
        raise ConfigError(f"start='{env.start}': only a room with one start for all tasks can be swept")
    return int(env.begin_episode(torch.zeros(1, 0))["cell"])


def _apart(env: Room, a: int, b: int) -> int:
    return int((env.xy[a] - env.xy[b]).abs().sum())


def _earliest(env: GridNavi | DarkRoom, candidates: Sequence[int]) -> list[int]:
    steps: list[int] = []
    for away in sorted(max(1, _apart(env, _start(env), cell)) for cell in candidates):
        steps.append(max(away, steps[-1] + 1) if steps else away)
    return steps


def _on_one_path(env: Room, start: int, cells: set[int]) -> bool:
    chain = [start, *sorted(cells, key=lambda cell: _apart(env, start, cell))]
    legs = sum(_apart(env, a, b) for a, b in pairwise(chain))
    return legs == _apart(env, start, chain[-1])
