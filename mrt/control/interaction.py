"""The one loop: an agent meets an environment, step by step. Rollouts stack what comes out, oracles sum it, probes stop
after one episode.

    for moment in interact(env, agent, params, seed=0): ...

The memory phi is born with a trial and dies with it. This is the one place that holds it: an `Interaction` makes the
state, keeps it over the ends of episodes, lets the agent adapt it at its cadence, and does not step beyond the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from mrt.control.agent import Agent, Choice
from mrt.control.envs.base import Spec, Step, TensorEnv

Look = Callable[[TensorEnv, Tensor], Any]
"""(environment before the step, actions) -> whatever the caller wants to know of that moment."""
I = TypeVar("I", bound="Interaction")  # noqa: E741


def first_inputs(spec: Spec, observation: Tensor) -> dict[str, Tensor]:
    """What an agent sees at the start of a trial: no previous action, no reward, nothing done. observation (B, D)."""
    rows, device = len(observation), observation.device
    nothing = torch.full((rows,), -1, device=device) if spec.actions else observation.new_zeros(rows, spec.action_size)
    zeros = torch.zeros(rows, device=device)
    return {"observation": observation, "action": nothing, "reward": zeros, "done": zeros}


def next_inputs(spec: Spec, actions: Tensor, step: Step) -> dict[str, Tensor]:
    """What an agent sees after `actions` led to `step`. Fresh rows begin an episode: what they did was ignored."""
    action = torch.where(step.fresh, -1, actions) if spec.actions else torch.where(step.fresh[:, None], 0.0, actions)
    done = (step.terminated | step.truncated).float()
    return {"observation": step.observation, "action": action, "reward": step.reward, "done": done}


class Moment(NamedTuple):
    """One step of B rows: what was seen, what was done and what came of it."""

    seen: Mapping[str, Tensor]  # {name: (B, ...)} the agent's inputs
    acting: Tensor  # (B,) bool: the action counts; False in closing rows and after the end of a trial
    episode: Tensor  # (B,) int64, that of the action
    choice: Choice
    step: Step
    finished: Tensor  # (B,) bool: who ended an episode by this step
    looked: Any = None  # what `look` returned


class Interaction:
    """B trials under way; resumable: `advance(n)` takes n steps of all rows, whenever it is called.

    Args:
        params: {name: (B, ...)} as from `EnvTasks.batch`.
        seed: of the environment's noise. Actions are drawn from `generator`, or from torch's own.
        greedy: the agent's best actions instead of draws.
        look: called before every step of the environment.
    """

    def __init__(
        self,
        env: TensorEnv,
        agent: Agent,
        params: Mapping[str, Tensor],
        *,
        seed: int = 0,
        greedy: bool = False,
        generator: torch.Generator | None = None,
        look: Look | None = None,
    ) -> None:
        self.env, self.agent, self.greedy, self.generator, self.look = env, agent, greedy, generator, look
        self.seen: Mapping[str, Tensor] = first_inputs(env.spec, env.reset(params, seed))
        rows = len(self.seen["done"])
        self.state: Any = agent.init_state(rows)
        self.over = torch.zeros(rows, dtype=torch.bool, device=env.device)  # whose trial has ended
        self.all_over = False
        self.noise: Callable[[], Tensor] | None = None  # replaces what the environment draws in a step

    def step(self) -> Moment:
        """One step of all rows. Rows whose trial is over go on stepping and count for nothing.

        Raises:
            RuntimeError: when every trial is over: a memory never crosses the end of its trial.
        """
        if self.all_over:
            raise RuntimeError("every trial is over, and the memory with it: begin another Interaction")
        env, seen = self.env, self.seen
        choice = self.agent.act(seen, self.state, self.greedy, self.generator)
        if choice.actions.device != env.device:
            choice = _to(choice, env.device)
        acting, episode = ~self.over & ~env.waiting, env.episode
        looked = self.look(env, choice.actions) if self.look else None
        step = env.step(choice.actions, self.noise()) if self.noise else env.step(choice.actions)
        finished = (step.terminated | step.truncated) & acting
        self.over = self.over | (step.trial_over & acting)
        self.all_over = bool(self.over.all())
        self.state, self.seen = choice.state, next_inputs(env.spec, choice.actions, step)
        if self.agent.cadence == "episode" and bool(finished.any()):
            self.state = self.agent.adapt(self.seen, self.state, finished)
        return Moment(seen, acting, episode, choice, step, finished, looked)

    def advance(self, steps: int) -> list[Moment]:
        """The next `steps` steps, fewer where every trial ends before."""
        moments: list[Moment] = []
        while len(moments) < steps and not self.all_over:
            moments.append(self.step())
        return moments

    def __iter__(self) -> Iterator[Moment]:
        """Every step up to the end of the last trial."""
        while not self.all_over:
            yield self.step()

    def branch(self: I, rows: Tensor) -> I:
        """An independent interaction of the rows at these indices (B',) int64 that goes on from here; repeats make
        branches. Its environment draws the same noise until its generator is seeded anew.
        """
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.env = self.env.select(rows)
        other.state = self.agent.fork(self.state, rows)
        other.seen = {name: value[rows] for name, value in self.seen.items()}
        other.over, other.all_over = self.over[rows], False
        return other


def _to(choice: Choice, device: torch.device) -> Choice:
    """The same choice with what is recorded of it on `device`; the memory stays where the agent is."""
    extras = {name: value.to(device) for name, value in choice.extras.items()}
    actions, logprobs, values = (part.to(device) for part in choice[:3])
    return Choice(actions, logprobs, values, choice.state, extras)


def interact(env: TensorEnv, agent: Agent, params: Mapping[str, Tensor], **options: Any) -> Iterator[Moment]:
    """Plays one trial of each task to its end, a `Moment` a step; arguments as for `Interaction`."""
    return iter(Interaction(env, agent, params, **options))


def play(
    env: TensorEnv, agent: Agent, params: Mapping[str, Tensor], seed: int = 0, score: Look | None = None
) -> Tensor:
    """Plays one trial of each task to its end.

    Args:
        params: {name: (B, ...)} as from `EnvTasks.batch`.
        seed: of the environment's noise; one seed and one task give common random numbers to all agents.
        score: replaces the reward: (environment before the step, actions) -> (B,).

    Returns:
        (B, episodes) undiscounted return of each episode, float64, on the CPU.
    """
    returns: Tensor | None = None
    for moment in interact(env, agent, params, seed=seed, look=score):
        if returns is None:
            returns = torch.zeros(len(moment.acting), env.spec.episodes, dtype=torch.float64, device=env.device)
        gained = moment.step.reward if score is None else moment.looked
        episode = moment.episode.clamp(max=env.spec.episodes - 1)[:, None]
        returns.scatter_add_(1, episode, torch.where(moment.acting, gained, 0.0).double()[:, None])
    assert returns is not None
    return returns.cpu()
