"""Playing whole trials with a policy: the memory is kept over the ends of episodes and dies with the trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from mrt.control.distributions import Distribution
from mrt.control.envs.base import Spec, Step, TensorEnv
from mrt.control.policy import ControlPolicy, Heads
from mrt.trials import Stop, Trials


class Probe(Protocol):
    """Looks at the trials at every boundary between episodes; see `mrt.control.probes`."""

    def boundary(self, env: TensorEnv, seen: Mapping[str, Tensor], state: Any, rows: Tensor) -> None:
        """`rows` (bool) are before their first episode, or have just ended one."""

    def result(self) -> dict[str, Tensor]:
        """Fields for `Trials`."""


class Actor(Protocol):
    """What is played: a `ControlPolicy`, or whatever acts as one."""

    distribution: Distribution

    def init_state(self, rows: int) -> Any:
        """The memory at the start of `rows` trials."""

    def step(self, seen: Mapping[str, Tensor], state: Any) -> tuple[Heads, Any]:
        """Inputs (B, ...) and the state -> heads (B, ...) and the next state."""


def first_inputs(spec: Spec, observation: Tensor) -> dict[str, Tensor]:
    """What a policy sees at the start of a trial: no previous action, no reward, nothing done. observation (B, D)."""
    rows, device = len(observation), observation.device
    nothing = torch.full((rows,), -1, device=device) if spec.actions else observation.new_zeros(rows, spec.action_size)
    zeros = torch.zeros(rows, device=device)
    return {"observation": observation, "action": nothing, "reward": zeros, "done": zeros}


def next_inputs(spec: Spec, actions: Tensor, step: Step) -> dict[str, Tensor]:
    """What a policy sees after `actions` led to `step`. Fresh rows begin an episode: what they did was ignored."""
    action = torch.where(step.fresh, -1, actions) if spec.actions else torch.where(step.fresh[:, None], 0.0, actions)
    done = (step.terminated | step.truncated).float()
    return {"observation": step.observation, "action": action, "reward": step.reward, "done": done}


@torch.no_grad()
def rollout(
    env: TensorEnv,
    policy: Actor,
    params: Mapping[str, Tensor],
    *,
    seed: int = 0,
    greedy: bool = False,
    group: Tensor | None = None,
    keys: Sequence[str] = (),
    probe: Probe | None = None,
    generator: torch.Generator | None = None,
) -> Trials:
    """One trial of each task, to its end.

    Args:
        params: {name: (B, ...)} as from `EnvTasks.batch`.
        seed: of the environment's noise. Actions are drawn from `generator`, or from torch's own.
        greedy: the mode of the policy's distribution instead of a draw.
        group: (B,) which rows share a task; every row is its own group when it is left out.
        probe: measures stop values at the boundaries.

    Returns:
        `Trials` with one row a task: every episode ends with a closing row, `values` and `logprobs` are the policy's,
        `stop` says how episodes ended. The end of a trial is TERMINATED where its last episode ended by itself and
        BUDGET elsewhere: nothing follows it, so that nothing is bootstrapped from it.
    """
    spec, distribution = env.spec, policy.distribution
    act = distribution.mode if greedy else partial(distribution.sample, generator=generator)
    seen = first_inputs(spec, env.reset(params, seed))
    rows = len(seen["done"])
    record = _Record(rows, spec, env.device)
    state: Any = policy.init_state(rows)
    if probe is not None:
        probe.boundary(env, seen, state, ~record.over)
    while not bool(record.over.all()):
        heads, state = policy.step(seen, state)
        actions = act(heads.logits)
        acting, episode = ~record.over & ~env.waiting, env.episode
        step = env.step(actions)
        logprobs = distribution.logprob(heads.logits, actions)
        finished = record.add(seen, acting, episode, actions, logprobs, heads.values, step)
        seen = next_inputs(spec, actions, step)
        if probe is not None and bool(finished.any()):
            probe.boundary(env, seen, state, finished)
    record.close(seen, env.episode)
    measured = probe.result() if probe is not None else {}
    return record.trials(torch.arange(rows, device=env.device) if group is None else group, keys, measured)


class _Record:
    """The steps of a batch of trials as they come; `over` (B,) says whose trial has ended."""

    def __init__(self, rows: int, spec: Spec, device: torch.device) -> None:
        self.last = spec.episodes - 1
        self.over = torch.zeros(rows, dtype=torch.bool, device=device)
        self.closed = torch.zeros_like(self.over)  # its closing row is recorded as well: nothing is left to say
        self.stop = torch.full((rows, spec.episodes), int(Stop.PADDING), dtype=torch.int8, device=device)
        self.steps: list[dict[str, Tensor]] = []

    def add(
        self,
        seen: Mapping[str, Tensor],
        acting: Tensor,
        episode: Tensor,
        actions: Tensor,
        logprobs: Tensor,
        values: Tensor,
        step: Step,
    ) -> Tensor:
        """One step; returns (B,) which rows ended an episode by it."""
        episode = episode.clamp(max=self.last)
        row = {f"inputs/{name}": value for name, value in seen.items()}
        row |= {"mask": acting, "episode": torch.where(self.closed, -1, episode), "actions": actions}
        row |= {"rewards": torch.where(acting, step.reward, 0.0), "logprobs": logprobs, "values": values}
        self.steps.append(row)
        finished = (step.terminated | step.truncated) & acting
        how = torch.where(step.terminated, int(Stop.TERMINATED), int(Stop.TRUNCATED)).to(torch.int8)
        column = episode[:, None]
        self.stop.scatter_(1, column, torch.where(finished[:, None], how[:, None], self.stop.gather(1, column)))
        self.closed = self.over.clone()
        self.over = self.over | (step.trial_over & acting)
        return finished

    def close(self, seen: Mapping[str, Tensor], episode: Tensor) -> None:
        """The closing row of whoever has none yet. Nothing is asked of the policy there."""
        last = self.steps[-1]
        row = {name: torch.zeros_like(last[name]) for name in ("mask", "actions", "rewards", "logprobs")}
        row |= {f"inputs/{name}": value for name, value in seen.items()}
        row["episode"] = torch.where(self.closed, -1, episode.clamp(max=self.last))
        row["values"] = torch.full_like(last["values"], torch.nan)
        self.steps.append(row)

    def trials(self, group: Tensor, keys: Sequence[str], measured: Mapping[str, Tensor]) -> Trials:
        stacked: dict[str, Any] = {name: torch.stack([row[name] for row in self.steps], 1) for name in self.steps[0]}
        inputs = {name.split("/")[1]: stacked.pop(name) for name in list(stacked) if name.startswith("inputs/")}
        ended_by_itself = self.stop[:, -1] == int(Stop.TERMINATED)
        trial_stop = torch.where(ended_by_itself, int(Stop.TERMINATED), int(Stop.BUDGET)).to(torch.int8)
        fields: dict[str, Any] = dict(measured)
        cost = {"env_steps": stacked["mask"].sum(1)}
        cost |= {"probe_steps": fields.pop("probe_steps")} if "probe_steps" in fields else {}
        ends: dict[str, Any] = {"stop": self.stop, "trial_stop": trial_stop}
        return Trials(inputs=inputs, group=group, task_keys=tuple(keys), cost=cost, **ends, **stacked, **fields)


class LearnedPolicy:
    """A `ControlPolicy` as `mrt.control.oracles.play` takes it, to stand beside oracles on the same random numbers.

    It may be on another device than the environment.
    """

    def __init__(self, policy: ControlPolicy, greedy: bool = False, seed: int = 0) -> None:
        self.policy, self.greedy = policy, greedy
        self.generator = torch.Generator(policy.device).manual_seed(0x51ED2701 ^ (seed << 16))
        self.state: Any = None
        self.seen: dict[str, Tensor] | None = None

    def reset(self, rows: int) -> None:
        self.state, self.seen = self.policy.init_state(rows), None

    @torch.no_grad()
    def act(self, observation: Tensor) -> Tensor:
        config = self.policy.config
        if self.seen is None:
            shape = Spec(config.observation, 1, 1, config.actions, config.action_size)
            self.seen = first_inputs(shape, observation.to(self.policy.device))
        heads, self.state = self.policy.step(self.seen, self.state)
        if self.greedy:
            return self.policy.distribution.mode(heads.logits)
        return self.policy.distribution.sample(heads.logits, self.generator)

    def update(self, actions: Tensor, step: Step) -> None:
        config = self.policy.config
        step = Step(*(part.to(self.policy.device) for part in step))
        self.seen = next_inputs(Spec(config.observation, 1, 1, config.actions, config.action_size), actions, step)
