"""Small decision tasks on tensors: the two-step task, object choice, cue recall, and random tabular MDPs.

Sources: Wang et al. 2016, arXiv 1611.05763, sections 3.1.5 and 3.2; Harlow 1949; Heess et al. 2015, arXiv 1512.04455;
Duan et al. 2016, arXiv 1611.02779, section 3.2.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from mrt.control.envs.bandits import State, normal
from mrt.control.envs.base import Spec, TensorEnv


class TwoStep(TensorEnv):
    """Daw's two-step task as in Wang et al. 2016: action i of the first stage leads to second-stage state i with
    probability `common`, else to the other one. One of the two, fixed in a task, pays 1 with probability `high`, the
    other with 1 - `high`.

    A choice takes two steps, the second one without effect of the action. Observation: one-hot (3) of first stage and
    the two second-stage states. Random is 0.5 a choice, with the task known common * high + (1 - common) * (1 - high).
    """

    name = "two-step"
    step_draws = 1

    def __init__(
        self, choices: int = 100, common: float = 0.75, high: float = 0.9, device: str | torch.device = "cpu"
    ) -> None:
        super().__init__(Spec(observation=3, episode_steps=2 * choices, episodes=1, actions=2), device)
        self.choices, self.common, self.high = choices, common, high

    def task_params(self, u: Tensor) -> State:
        return {"rich": (u[:, 0] >= 0.5).long()}

    def begin_episode(self, u: Tensor) -> State:
        return {"stage": torch.zeros_like(self.clock)}

    def move(self, actions: Tensor, u: Tensor) -> tuple[State, Tensor, Tensor]:
        stage = self.state["stage"]
        reached = torch.where(u[:, 0] < self.common, actions, 1 - actions) + 1
        chance = torch.where(stage - 1 == self.params["rich"], self.high, 1 - self.high)
        reward = ((stage > 0) & (u[:, 0] < chance)).float()
        return {"stage": torch.where(stage == 0, reached, 0)}, reward, torch.zeros_like(self.waiting)

    def observe(self) -> Tensor:
        return (self.state["stage"][:, None] == torch.arange(3, device=self.device)).float()


class ObjectChoice(TensorEnv):
    """Harlow's task without the pixels: two new objects, one of them always rewarded, shown on random sides (Harlow
    1949; Wang et al. 2016, section 3.2.2, where a problem lasts six choices).

    An object is a vector of `features` numbers ~ U[-1, 1]. Action 0 takes the left one, 1 the right one; reward 1 or
    0. Observation: left vector, right vector. The first choice can only be a guess: at best choices - 1/2.
    """

    name = "object-choice"
    start_draws = 1
    step_draws = 1

    def __init__(self, choices: int = 6, features: int = 8, device: str | torch.device = "cpu") -> None:
        super().__init__(Spec(observation=2 * features, episode_steps=choices, episodes=1, actions=2), device)
        self.task_draws = 2 * features

    def task_params(self, u: Tensor) -> State:
        return {"objects": (2 * u - 1).view(len(u), 2, -1)}  # the first one is rewarded

    def task_ranges(self) -> dict[str, tuple[float, float]]:
        return {"objects": (-1.0, 1.0)}

    def begin_episode(self, u: Tensor) -> State:
        return {"side": (u[:, 0] >= 0.5).long()}  # where the rewarded object lies

    def move(self, actions: Tensor, u: Tensor) -> tuple[State, Tensor, Tensor]:
        reward = (actions == self.state["side"]).float()
        return self.begin_episode(u), reward, torch.zeros_like(self.waiting)

    def observe(self) -> Tensor:
        objects = self.params["objects"]
        swapped = self.state["side"][:, None, None] == 1
        return torch.where(swapped, objects.flip(1), objects).flatten(1)


class CueRecall(TensorEnv):
    """A number c ~ U[-1, 1] is shown in the first step; after `delay` blank steps the action a has to be that number,
    reward -(a - c)^2 in the last step and 0 before (after the memory tasks of Heess et al. 2015).

    Observation (2): c or 0, and whether it is shown. Optimum 0; without memory the best is a = 0 with -Var(c) = -1/3.
    Actions outside [-1, 1] are clipped.
    """

    name = "cue-recall"

    def __init__(self, delay: int = 10, device: str | torch.device = "cpu") -> None:
        super().__init__(Spec(observation=2, episode_steps=delay + 1, episodes=1, action_size=1), device)

    def task_params(self, u: Tensor) -> State:
        return {"cue": 2 * u[:, 0] - 1}

    def task_ranges(self) -> dict[str, tuple[float, float]]:
        return {"cue": (-1.0, 1.0)}

    def begin_episode(self, u: Tensor) -> State:
        return {}

    def move(self, actions: Tensor, u: Tensor) -> tuple[State, Tensor, Tensor]:
        error = actions.float().view(-1).clamp(-1, 1) - self.params["cue"]
        last = self.clock == self.spec.episode_steps - 1
        return {}, torch.where(last, -error.square(), 0.0), torch.zeros_like(self.waiting)

    def observe(self) -> Tensor:
        shown = (self.clock == 0).float()
        return torch.stack([self.params["cue"] * shown, shown], 1)


class TabularMDP(TensorEnv):
    """Random MDPs (Duan et al. 2016, section 3.2): 10 states, 5 actions, episodes of 10 steps that begin in state 0.

    Transitions P(. | s, a) ~ Dirichlet(1, ..., 1), mean rewards R(s, a) ~ N(1, 1), rewards N(R(s, a), 1). Observation:
    one-hot of the state. Parameters: "rewards" (B, S, A), "transitions" (B, S, A, S).
    """

    name = "tabular-mdp"
    step_draws = 2

    def __init__(
        self,
        states: int = 10,
        actions: int = 5,
        episode_steps: int = 10,
        episodes: int = 10,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__(Spec(states, episode_steps, episodes, actions=actions), device)
        self.states, self.actions = states, actions
        self.task_draws = states * actions * (1 + states)

    def task_params(self, u: Tensor) -> State:
        table = u.view(-1, self.states, self.actions, 1 + self.states)
        waits = -torch.log1p(-table[..., 1:].double())  # exponential numbers, normalised, are Dirichlet(1)
        transitions = (waits / waits.sum(-1, keepdim=True)).float()
        return {"rewards": 1 + normal(table[..., 0]), "transitions": transitions}

    def begin_episode(self, u: Tensor) -> State:
        return {"place": torch.zeros_like(self.clock)}

    def move(self, actions: Tensor, u: Tensor) -> tuple[State, Tensor, Tensor]:
        rows, place = torch.arange(len(actions), device=self.device), self.state["place"]
        chances = self.params["transitions"][rows, place, actions].cumsum(1)
        reached = (u[:, :1] >= chances).sum(1).clamp(max=self.states - 1)
        reward = self.params["rewards"][rows, place, actions] + normal(u[:, 1])
        return {"place": reached}, reward, torch.zeros_like(self.waiting)

    def observe(self) -> Tensor:
        return (self.state["place"][:, None] == torch.arange(self.states, device=self.device)).float()

    def task_key(self, params: Mapping[str, Tensor], row: int) -> str:
        """A hash of the 550 numbers: written out they would fill pages."""
        digest = hashlib.sha256()
        for name in ("rewards", "transitions"):
            digest.update(params[name][row].contiguous().cpu().numpy().tobytes())
        return f"{self.name}:{digest.hexdigest()[:24]}"
