"""What is measured of a policy on tasks: one number a trial, by name, and the curves of a trial.

N tasks, one trial each; K episodes; U units of a curve: pulls or choices where a trial is one episode of them, else
episodes. Rewards of free exploration episodes count in no measure but those of that episode.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mrt.control.agent import Agent
from mrt.control.envs.bandits import Bandit, MovingBandits
from mrt.control.envs.base import TensorEnv
from mrt.control.envs.decisions import ObjectChoice, TwoStep
from mrt.control.envs.grids import FiniteEnv, KeyToDoor
from mrt.control.interaction import Moment, interact
from mrt.control.oracles.beliefs import BELIEF
from mrt.control.oracles.bounds import Bounds
from mrt.errors import ConfigError, nearest


@dataclass(frozen=True)
class Outcomes:
    """What a player got on N tasks, float64, on the CPU.

    `lost` (N, U) is the regret of each unit: the best arm's mean minus the pulled arm's where arms have means, which
    takes most of the noise out; else the known-task optimum's share of the unit minus what was earned. None where no
    bounds are known.
    """

    returns: Tensor  # (N, K)
    steps: Tensor  # (N, K) environment steps of each episode
    first_paid: Tensor  # (N, K) the step, from 1, of the first reward above 0; `episode_steps` where there was none
    reached: Tensor  # (N, K) 1 where an episode reached what it was to reach, see `success`
    earned: Tensor  # (N, U)
    lost: Tensor | None
    span: Tensor | None  # (N,) known-task optimum minus random play, of a trial
    choices: int
    free: int

    @property
    def total(self) -> Tensor:
        """(N,) undiscounted return of a trial."""
        return self.returns[:, self.free :].sum(1)


def unit_of(env: TensorEnv) -> str:
    """Name of a curve's unit."""
    if has_means(env):
        return "pull"
    return "choice" if isinstance(env, TwoStep | ObjectChoice) else "episode"


def has_means(env: TensorEnv) -> bool:
    """Whether every action is an arm with a mean of its own."""
    return isinstance(env, Bandit) and not isinstance(env, MovingBandits)


def has_goal(env: TensorEnv) -> bool:
    """Whether a reward above 0 says that something was found."""
    return isinstance(env, FiniteEnv | MovingBandits) or getattr(env, "reward", "") == "sparse"


def choices_of(env: TensorEnv) -> int:
    """Decisions that a trial is counted in: choices of the two-step task (two steps each), steps elsewhere."""
    return env.choices if isinstance(env, TwoStep) else env.spec.trial_steps


class Watch:
    """What an interaction came to: `add` every moment of it, then ask for the `outcomes`.

    Args:
        keep: also keep state, actions, rewards and beliefs of each step, for a picture; see
            `mrt.control.evaluation.scenes`.
    """

    def __init__(self, env: TensorEnv, keep: bool = False) -> None:
        self.env, self.keep = env, keep
        self.states: list[dict[str, Tensor]] = []
        self.actions: list[Tensor] = []
        self.worth: list[Tensor] = []
        self.rewards: list[Tensor] = []
        self.short: list[Tensor] = []
        self.episodes: list[Tensor] = []
        self.acting: list[Tensor] = []
        self.beliefs: list[Tensor] = []  # of agents that say what they believe

    def look(self, env: TensorEnv, actions: Tensor) -> None:
        """Before a step: what the actions miss is noted where arms have means, and the state for a picture."""
        if has_means(env):
            means = env.arm_means()  # type: ignore[attr-defined]
            pulled = means.gather(1, actions[:, None])[:, 0]
            self.short.append(means.amax(1) - pulled)
            if self.keep:  # 1 for the best arm, 0 for the worst
                self.worth.append((pulled - means.amin(1)) / (means.amax(1) - means.amin(1)).clamp(min=1e-9))
        if self.keep:
            self.states.append({name: value.clone() for name, value in env.state.items()})
            self.actions.append(actions)

    def add(self, moment: Moment) -> None:
        """After a step."""
        self.acting.append(moment.acting)
        self.episodes.append(moment.episode.clamp(max=self.env.spec.episodes - 1))
        self.rewards.append(torch.where(moment.acting, moment.step.reward, 0.0))
        if self.keep and BELIEF in moment.choice.extras:
            self.beliefs.append(moment.choice.extras[BELIEF])

    def end(self) -> None:
        """After the last step: the picture's last state."""
        if self.keep:
            self.states.append({name: value.clone() for name, value in self.env.state.items()})

    def outcomes(self, bounds: Bounds | None) -> Outcomes:
        """What the trials came to."""
        env, spec = self.env, self.env.spec
        acting, reward = torch.stack(self.acting, 1), torch.stack(self.rewards, 1).double()
        episode = torch.stack(self.episodes, 1)
        zeros = torch.zeros(len(reward), spec.episodes, dtype=torch.float64, device=reward.device)
        returns = zeros.scatter_add(1, episode, reward)
        steps = zeros.scatter_add(1, episode, acting.double())
        paying = (reward > 0).double()
        paid = zeros.scatter_add(1, episode, paying)
        clock = acting.cumsum(1).double() - (steps.cumsum(1) - steps).gather(1, episode)
        when = torch.where(paying > 0, clock, float(spec.episode_steps))
        first = torch.full_like(zeros, float(spec.episode_steps)).scatter_reduce(1, episode, when, "amin")
        span = None if bounds is None else (bounds.ceiling - bounds.floor).double().cpu()
        earned, lost = self._curves(reward, returns, bounds)
        return Outcomes(
            returns=returns.cpu(),
            steps=steps.cpu(),
            first_paid=first.cpu(),
            reached=(paid >= (2 if isinstance(env, KeyToDoor) else 1)).double().cpu(),
            earned=earned.cpu(),
            lost=None if lost is None else lost.cpu(),
            span=span,
            choices=choices_of(env),
            free=spec.free_episodes,
        )

    def _curves(self, reward: Tensor, returns: Tensor, bounds: Bounds | None) -> tuple[Tensor, Tensor | None]:
        if unit_of(self.env) == "episode":
            earned = returns[:, self.env.spec.free_episodes :]
        else:
            played = torch.stack(self.acting, 1).any(0)  # closing rows are no choices; trials of choices go in step
            earned = reward[:, played].view(len(reward), choices_of(self.env), -1).sum(2)
        if self.short:
            return earned, torch.stack(self.short, 1).double()[:, played]
        if bounds is None:
            return earned, None
        return earned, bounds.ceiling.double().to(earned.device)[:, None] / earned.shape[1] - earned


def watch(
    env: TensorEnv,
    agent: Agent,
    params: Mapping[str, Tensor],
    *,
    seed: int = 0,
    bounds: Bounds | None = None,
    keep: bool = False,
) -> tuple[Outcomes, Watch]:
    """Plays one trial of each task `params` {name: (N, ...)} with this noise and says what it came to."""
    watched = Watch(env, keep)
    for moment in interact(env, agent, params, seed=seed, look=watched.look):
        watched.add(moment)
    watched.end()
    return watched.outcomes(bounds), watched


# ---- one number a trial


def total(outcomes: Outcomes) -> Tensor:
    """Return of a trial."""
    return outcomes.total


def regret(outcomes: Outcomes) -> Tensor:
    """What the known-task optimum gets of a trial and this player does not; against the best arm's mean in bandits."""
    if outcomes.lost is None:
        raise ConfigError("regret needs floor_and_ceiling of the environment, and none are known for this one")
    return outcomes.lost.sum(1)


def per_trial(outcomes: Outcomes) -> Tensor:
    """Return a choice of the two-step task, which the papers call a trial; a step elsewhere."""
    return outcomes.total / outcomes.choices


def last_episode(outcomes: Outcomes) -> Tensor:
    """Return of the last episode: what is left after adapting."""
    return outcomes.returns[:, -1]


def success(outcomes: Outcomes) -> Tensor:
    """Whether the last episode had a step that paid more than 0 (key-to-door: two, the key and the door)."""
    return outcomes.reached[:, -1]


def steps_to_goal(outcomes: Outcomes) -> Tensor:
    """Steps of the last episode until the first reward above 0, counted from 1; all its steps where there is none."""
    return outcomes.first_paid[:, -1]


MEASURES: dict[str, Callable[[Outcomes], Tensor]] = {
    "total": total,
    "regret": regret,
    "per_trial": per_trial,
    "last_episode": last_episode,
    "success": success,
    "steps_to_goal": steps_to_goal,
}
"""Name -> function of `Outcomes` to (N,). Beside them for each episode k from 1: episode_k, success_k, steps_k."""

_OF_EPISODE = {"episode": "returns", "success": "reached", "steps": "first_paid"}


def measure_of_name(name: str, episodes: int) -> Callable[[Outcomes], Tensor]:
    """The measure `name` of trials of that many episodes: one of `MEASURES`, or episode_k (return), success_k,
    steps_k of episode k = 1, 2, ...

    Raises:
        ConfigError: for an unknown name, or an episode that trials do not have.
    """
    if name in MEASURES:
        return MEASURES[name]
    found = re.fullmatch(r"(episode|success|steps)_(\d{1,6})", name)
    if not found:
        valid = {*MEASURES, "episode_1", "success_1", "steps_1"}
        raise ConfigError(f"unknown measure '{name}'; {nearest(name, valid)}")
    field, number = _OF_EPISODE[found[1]], int(found[2])
    if not 1 <= number <= episodes:
        raise ConfigError(f"measure '{name}': a trial has the episodes 1 to {episodes}")
    return lambda outcomes: getattr(outcomes, field)[:, number - 1]


def measure(name: str, outcomes: Outcomes) -> Tensor:
    """(N,) the measure `name`, see `measure_of_name`."""
    return measure_of_name(name, outcomes.returns.shape[1])(outcomes)


def measures_of(env: TensorEnv, bounds: bool) -> list[str]:
    """The measures that say something of this environment."""
    names = ["total", *(["regret"] if bounds else []), *(["per_trial"] if isinstance(env, TwoStep) else [])]
    if unit_of(env) != "episode":
        return names
    goal = has_goal(env)
    kinds = ("episode", "success", "steps") if goal else ("episode",)
    shown = range(1, env.spec.episodes + 1 if env.spec.episodes <= 10 else 1)
    names += [f"{kind}_{k}" for kind in kinds for k in shown]
    return [*names, "last_episode", *(["success", "steps_to_goal"] if goal else [])]


class Moments:
    """Number, mean and summed squared deviation of rows, (U,) or (); two join exactly (Chan et al. 1979)."""

    def __init__(self, n: int, mean: Tensor, m2: Tensor) -> None:
        self.n, self.mean, self.m2 = n, mean, m2

    @classmethod
    def of(cls, values: Tensor) -> Moments:
        """Of (N,) or (N, U)."""
        values = values.double()
        mean = values.mean(0)
        return cls(len(values), mean, (values - mean).square().sum(0))

    @classmethod
    def read(cls, n: int, row: Any) -> Moments:
        """From what `to_json` wrote."""
        mean, m2 = (torch.tensor(part, dtype=torch.float64) for part in row)
        return cls(n, mean, m2)

    def to_json(self) -> list[Any]:
        """[mean, m2]."""
        return [self.mean.tolist(), self.m2.tolist()]

    def __add__(self, other: Moments) -> Moments:
        n = self.n + other.n
        apart = other.mean - self.mean
        return Moments(
            n, self.mean + apart * (other.n / n), self.m2 + other.m2 + apart.square() * (self.n * other.n / n)
        )

    @property
    def se(self) -> Tensor:
        """Standard error of the mean; NaN for a single row."""
        if self.n < 2:
            return torch.full_like(self.mean, torch.nan)
        return (self.m2 / (self.n - 1) / self.n).sqrt()
