"""`Agent`: the one acting protocol. Learned policies, oracles, planners and posterior samplers are all agents.

    state = agent.init_state(rows)                       phi at the start of a trial
    choice = agent.act(seen, state, greedy, generator)   one step of all rows; choice.state is the next phi
    state = agent.adapt(seen, choice.state, ended)       after rows ended an episode, which is what `seen` says now

`seen` {name: (B, ...)} is all that an agent may know: the observation, the previous action (-1 for none where actions
are discrete, 0 elsewhere), the previous reward, and whether an episode has just ended. Its memory is in `state`, so
that a trial can be forked; the state never crosses the end of a trial (`mrt.control.interaction` holds that).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mrt.adaptation import Cadence
from mrt.control.envs.base import Spec

Seen = Mapping[str, Tensor]
NO_EXTRAS: Mapping[str, Tensor] = {}


class Shape(NamedTuple):
    """Numbers of an observation, discrete actions, and numbers of a continuous action: as in `Spec`."""

    observation: int
    actions: int
    action_size: int

    @classmethod
    def of(cls, spec: Spec) -> Shape:
        """That of an environment."""
        return cls(spec.observation, spec.actions, spec.action_size)


class Choice(NamedTuple):
    """What an agent does in one step, for B rows.

    `actions` (B,) int64 or (B, A); `logprobs` (B,) of them under the distribution sampled from (0 where nothing was
    drawn); `values` (B,) of what is to come, NaN where there is no critic; `state` the next memory; `extras` {name:
    (B, ...)}: what else the agent wants to be recorded with the step (a latent, an option, a belief).
    """

    actions: Tensor
    logprobs: Tensor
    values: Tensor
    state: Any
    extras: Mapping[str, Tensor] = NO_EXTRAS


class Agent:
    """Whoever acts over whole trials. A subclass gives `init_state` and `act`."""

    shape: Shape | None = None
    """What it sees and does; None for whoever takes any environment."""
    cadence: Cadence = "step"
    """When it adapts: in every `act` (step), or in `adapt` after each episode (episode)."""

    @abstractmethod
    def init_state(self, rows: int) -> Any:
        """The memory at the start of `rows` trials."""
        raise NotImplementedError(f"{type(self).__name__} has to define init_state(rows)")

    @abstractmethod
    def act(self, seen: Seen, state: Any, greedy: bool = False, generator: torch.Generator | None = None) -> Choice:
        """One step of all rows. The state passed in is consumed: `fork` it to step twice from one point.

        Args:
            greedy: the best action instead of a draw.
            generator: where draws come from; torch's own where left out.
        """
        raise NotImplementedError(f"{type(self).__name__} has to define act(seen, state, greedy, generator)")

    def adapt(self, seen: Seen, state: Any, ended: Tensor) -> Any:
        """The memory after the rows `ended` (B,) bool finished an episode, with what the last step brought in `seen`;
        called with cadence `episode` only.
        """
        return state

    def fork(self, state: Any, rows: Tensor) -> Any:
        """An independent state of the rows at these indices (B',) int64; repeats make branches."""
        return rows_of(state, rows)


def rows_of(state: Any, rows: Tensor) -> Any:
    """The rows at these indices of a tree of tensors (B, ...); whatever is no tensor is shared by all rows."""
    if isinstance(state, Tensor):
        return state[rows.to(state.device)]
    if isinstance(state, Mapping):
        return {name: rows_of(value, rows) for name, value in state.items()}
    if isinstance(state, tuple | list):
        parts = [rows_of(value, rows) for value in state]
        return type(state)(*parts) if hasattr(state, "_fields") else type(state)(parts)
    return state


class ScriptedAgent(Agent):
    """An agent that is written, not learned: it follows its rule with certainty.

    A subclass gives `start`, the memory of its trials, `learn`, what it makes of the last step, and `choose`. It runs
    on the CPU, wherever the environment is, unless it reads the environment itself (`on_cpu = False`).
    """

    on_cpu = True

    def start(self, rows: int) -> dict[str, Any]:
        """The memory {name: (B, ...)} at the start of `rows` trials; `rows` itself is added. Here nothing."""
        return {}

    def learn(self, seen: Seen, state: dict[str, Any]) -> dict[str, Any]:
        """The memory after what came of the last action, taken at the observation `seen["last"]`.

        Not called before the first step of a trial. Rows with `fresh(seen)` have just begun an episode: nothing came of
        an action there.
        """
        return state

    def choose(self, observation: Tensor, state: dict[str, Any]) -> Tensor:
        """(B,) int64, or (B, A) in [-1, 1], from the present observation (B, ...)."""
        raise NotImplementedError(f"{type(self).__name__} has to define choose(observation, state)")

    def extras(self, state: dict[str, Any]) -> Mapping[str, Tensor]:
        """{name: (B, ...)} of the memory that is recorded with the step; here nothing."""
        return NO_EXTRAS

    def init_state(self, rows: int) -> dict[str, Any]:
        return {**self.start(rows), "rows": rows, "last": None}

    def act(
        self, seen: Seen, state: dict[str, Any], greedy: bool = False, generator: torch.Generator | None = None
    ) -> Choice:
        here = {name: value.cpu() for name, value in seen.items()} if self.on_cpu else seen
        if state["last"] is not None:
            state = self.learn({**here, "last": state["last"]}, state)
        actions = self.choose(here["observation"], state)
        zeros = torch.zeros(len(actions), device=actions.device)
        state = {**state, "last": here["observation"]}
        return Choice(actions, zeros, torch.full_like(zeros, torch.nan), state, self.extras(state))


def fresh(seen: Seen) -> Tensor:
    """(B,) whose previous discrete action was none: the first step of an episode."""
    return seen["action"] < 0


class RandomAgent(ScriptedAgent):
    """Uniform over the actions, or over [-1, 1]^A."""

    def __init__(self, spec: Spec, seed: int = 0) -> None:
        self.spec = spec
        # Its own stream: with the environment's seed, actions and noise would be the same numbers.
        self.generator = torch.Generator().manual_seed(0x9E3779B9 ^ (seed << 16))

    def choose(self, observation: Tensor, state: dict[str, Any]) -> Tensor:
        rows = len(observation)
        if self.spec.actions:
            return torch.randint(self.spec.actions, (rows,), generator=self.generator)
        return 2 * torch.rand(rows, self.spec.action_size, generator=self.generator) - 1


class Entrant(Agent):
    """An agent as it enters an evaluation: greedy or drawing, from a generator of its own."""

    def __init__(self, agent: Agent, greedy: bool = False, seed: int = 0) -> None:
        self.agent, self.greedy, self.cadence = agent, greedy, agent.cadence
        device = getattr(agent, "device", torch.device("cpu"))
        self.generator = torch.Generator(device).manual_seed(0x51ED2701 ^ (seed << 16))

    def init_state(self, rows: int) -> Any:
        return self.agent.init_state(rows)

    def act(self, seen: Seen, state: Any, greedy: bool = False, generator: torch.Generator | None = None) -> Choice:
        return self.agent.act(seen, state, self.greedy, self.generator)

    def adapt(self, seen: Seen, state: Any, ended: Tensor) -> Any:
        return self.agent.adapt(seen, state, ended)

    def fork(self, state: Any, rows: Tensor) -> Any:
        return self.agent.fork(state, rows)
