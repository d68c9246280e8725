"""Policies whose weights may differ by task, and episodes played with them: M tasks are one batched product.

Letters: M tasks, n episodes of each, B = M n rows in the order of the tasks, T steps. Weights of one task for all, or
(M, ...) of each; a row b belongs to task b // n.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from classic_metarl.inner.gradient_steps import Tree, parameters_of
from classic_metarl.inner.task_networks import MLP
from mrt.control.agent import Agent, Choice, Seen
from mrt.control.distributions import Categorical, Distribution, Gaussian
from mrt.control.envs.base import Spec, TensorEnv
from mrt.control.rollout import rollout
from mrt.errors import ConfigError
from mrt.trials import Trials

Std = Literal["free", "state"]


class TaskPolicy(nn.Module):
    """A memoryless MLP policy, categorical or Gaussian as the environment asks; weights as in rllab, Glorot and 0.

    Args:
        spec: of the environment.
        hidden, activation: of the network; relu or tanh.
        std: `free`: one log standard deviation an action, the same in every state; `state`: the network's own.
        init_std: where a free standard deviation starts.
        min_std: a free standard deviation is never less, whatever is learned (rllab's `min_std`).
        extra: numbers that `encode` adds to the observation.

    Raises:
        ConfigError: for an invalid standard deviation, or an unknown kind of it.
    """

    def __init__(
        self,
        spec: Spec,
        hidden: Sequence[int] = (64, 64),
        activation: str = "tanh",
        *,
        std: Std = "free",
        init_std: float = 1.0,
        min_std: float = 1e-6,
        extra: int = 0,
    ) -> None:
        super().__init__()
        if std not in ("free", "state") or not 0 < min_std <= init_std:
            raise ConfigError(
                f"std={std!r}, init_std={init_std}, min_std={min_std}: std must be 'free' or 'state', min_std above 0, "
                "init_std at least min_std"
            )
        own = std == "state"
        width = spec.actions or spec.action_size * (2 if own else 1)
        self.net = MLP([spec.observation + extra, *hidden, width], activation)
        for layer in self.net.layers:
            nn.init.xavier_uniform_(layer.weight)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        self.log_min_std = math.log(min_std)
        free = not spec.actions and not own
        self.log_std = nn.Parameter(torch.full((spec.action_size,), math.log(init_std))) if free else None
        self.distribution: Distribution = Categorical() if spec.actions else Gaussian()

    def of_tasks(self, parameters: Tree, inputs: Mapping[str, Tensor]) -> Tensor:
        """Logits (M, q, W) of inputs {name: (M, q, ...)}; parameters without (M,) are shared by the tasks."""
        net = {name.removeprefix("net."): value for name, value in parameters.items() if name.startswith("net.")}
        logits = self.net.of_tasks(net, self.encode(parameters, inputs))
        if self.log_std is None:
            return logits
        log_std = parameters["log_std"].clamp(min=self.log_min_std)
        log_std = log_std if log_std.ndim == 1 else log_std[:, None]
        return torch.cat([logits, log_std.expand_as(logits)], -1)

    def encode(self, parameters: Tree, inputs: Mapping[str, Tensor]) -> Tensor:
        """(M, q, ...) what the network is fed. Here the observation."""
        return inputs["observation"]

    def draw(self, parameters: Tree, rows: int) -> dict[str, Tensor]:
        """What a row draws once for an episode, {name: (rows, ...)}; it is recorded among the inputs. Here nothing."""
        return {}

    def tasks_of(self, parameters: Tree) -> int | None:
        """M, or None where the weights are shared."""
        own = parameters_of(self)
        sizes = {value.shape[0] for name, value in parameters.items() if value.ndim > own[name].ndim}
        return sizes.pop() if sizes else None

    def logits(self, parameters: Tree, trials: Trials) -> Tensor:
        """(B, T, W) of recorded steps, whose rows are in the order of the tasks."""
        tasks, steps = self.tasks_of(parameters) or 1, trials.mask.shape[1]
        inputs = {name: v.flatten(0, 1).unflatten(0, (tasks, -1)) for name, v in trials.inputs.items()}
        return self.of_tasks(parameters, inputs).flatten(0, 1).unflatten(0, (-1, steps))

    def logprobs(self, parameters: Tree, trials: Trials) -> Tensor:
        """(B, T) log-probabilities of the recorded actions."""
        return self.distribution.logprob(self.logits(parameters, trials), trials.actions)


class TaskAgent(Agent):
    """M sets of weights as an agent; what an episode draws is its memory, and is recorded with every step."""

    def __init__(self, policy: TaskPolicy, parameters: Tree) -> None:
        self.policy, self.parameters = policy, parameters
        self.tasks = policy.tasks_of(parameters) or 1

    def init_state(self, rows: int) -> dict[str, Tensor]:
        """What each row's episode draws."""
        return self.policy.draw(self.parameters, rows)

    @torch.no_grad()
    def act(
        self, seen: Seen, state: dict[str, Tensor], greedy: bool = False, generator: torch.Generator | None = None
    ) -> Choice:
        """Each row by its task's weights. There is no critic: values are fitted afterwards."""
        inputs = {"observation": seen["observation"], **state}
        folded = {name: value.unflatten(0, (self.tasks, -1)) for name, value in inputs.items()}
        logits = self.policy.of_tasks(self.parameters, folded).flatten(0, 1)
        distribution = self.policy.distribution
        actions = distribution.mode(logits) if greedy else distribution.sample(logits, generator)
        logprobs = distribution.logprob(logits, actions)
        return Choice(actions, logprobs, torch.full_like(logprobs, torch.nan), state, state)


@torch.no_grad()
def play(env: TensorEnv, policy: TaskPolicy, parameters: Tree, params: Mapping[str, Tensor], episodes: int) -> Trials:
    """`episodes` episodes of each of the M tasks `params` {name: (M, ...)}, all at once.

    A row is an episode, `group` numbers the tasks from 0; `inputs` are the observation and what the episode drew. Draws
    come from torch's own generator.
    """
    once = env.with_spec(episodes=1, free_episodes=0)
    many = {name: value.repeat_interleave(episodes, 0) for name, value in params.items()}
    rows = len(next(iter(many.values())))
    group = torch.arange(rows // episodes, device=env.device).repeat_interleave(episodes)
    agent = TaskAgent(policy, parameters)
    trials = rollout(once, agent, many, seed=int(torch.randint(2**31, (1,))), group=group)
    kept = {name: value for name, value in trials.inputs.items() if name not in ("action", "reward", "done")}
    return replace(trials, values=None, inputs=kept)
