"""Causal graphs to find out about, then to use (Dasgupta, Wang, Chiappa, Mitrovic, Ortega, Raposo, Hughes, Battaglia,
Botvinick and Kurth-Nelson 2019, "Causal reasoning from meta-reinforcement learning", arXiv 1901.08162).

A task is a graph over N nodes in topological order, every weight w_ji of an edge from j to i > j one of -1, 0, 1:

    x_i = sum_(j < i) w_ji x_j + e_i,    e_i ~ N(0, 0.1)

In each of the first N - 1 steps the agent names a node. Under `interventional` data this node is set to 5 and the
others follow; under `observational` data the choice does nothing and a sample of the untouched graph is shown. In the
last step another node, drawn at random, is set to -5, and the reward is the value of the node that the agent names
then.

Deviations: the paper has a penalty of -10 for actions of the other phase; here both phases share their actions, and the
phase is shown.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mrt.control.envs.bandits import normal
from mrt.control.envs.base import Spec, TensorEnv
from mrt.control.envs.grids import pick
from mrt.errors import ConfigError

Data = Literal["interventional", "observational"]
VARIANCE = 0.1
SET_TO, QUIZ_AT = 5.0, -5.0


def weights_of(edges: Tensor, nodes: int) -> Tensor:
    """(..., N, N) with w[i, j] of the edge from j to i, from the edges (..., N (N - 1) / 2), row by row."""
    row, column = torch.tril_indices(nodes, nodes, -1, device=edges.device)
    weights = torch.zeros(*edges.shape[:-1], nodes, nodes, device=edges.device)
    weights[..., row, column] = edges.float()
    return weights


class CausalGraphs(TensorEnv):
    """Observation (3 M + 1) of the M nodes that are seen: the values of the last sample, which node was set in it, the
    node that the quiz sets, one-hot, and whether the quiz is on.

    Args:
        nodes: N.
        hidden: the first node, a root, is never seen and never set: a common cause that confounds.
        data: what the first steps show.

    Raises:
        ConfigError: for fewer than two nodes to see, and unknown data.
    """

    name = "causal"

    def __init__(
        self,
        nodes: int = 3,
        hidden: bool = False,
        data: Data = "interventional",
        device: str | torch.device = "cpu",
    ) -> None:
        self.nodes, self.hidden, self.data, self.seen = nodes, hidden, data, nodes - hidden
        if self.seen < 2:
            raise ConfigError(f"nodes={nodes} leaves fewer than two to see")
        if data not in ("interventional", "observational"):
            raise ConfigError(f"data={data!r} must be interventional or observational")
        spec = Spec(observation=3 * self.seen + 1, episode_steps=nodes, episodes=1, actions=self.seen)
        super().__init__(spec, device)
        self.task_draws = nodes * (nodes - 1) // 2
        self.start_draws, self.step_draws = 1, nodes

    def task_params(self, u: Tensor) -> dict[str, Tensor]:
        return {"edges": pick(u, 3) - 1}

    def begin_episode(self, u: Tensor) -> dict[str, Tensor]:
        nothing = torch.zeros(len(u), self.seen, device=self.device)
        return {"values": nothing, "set": nothing.clone(), "quiz": pick(u[:, 0], self.seen)}

    def move(self, actions: Tensor, u: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        quiz, over = self.quizzed(), torch.zeros_like(self.waiting)
        node = torch.where(quiz, self.state["quiz"], actions)
        at = torch.where(quiz, QUIZ_AT, SET_TO)
        touched = quiz | (self.data == "interventional")
        values = self.sample(torch.where(touched, node, -1), at, u)
        shown = torch.nn.functional.one_hot(node, self.seen) * touched[:, None]
        reward = torch.where(quiz, values.gather(1, actions[:, None])[:, 0], 0.0)
        return {"values": values, "set": shown.float(), "quiz": self.state["quiz"]}, reward, over

    def observe(self) -> Tensor:
        quiz = self.quizzed()[:, None]
        target = torch.nn.functional.one_hot(self.state["quiz"], self.seen) * quiz
        return torch.cat([self.state["values"], self.state["set"], target.float(), quiz.float()], 1)

    def quizzed(self) -> Tensor:
        """(B,) bool: the step to come is the quiz."""
        return self.clock == self.nodes - 1

    def sample(self, node: Tensor, at: Tensor, u: Tensor) -> Tensor:
        """(B, M) values of the seen nodes, `node` (B,) of them set to `at` (B,), none where it is -1; u (B, N)."""
        weights, noise = weights_of(self.params["edges"], self.nodes), VARIANCE**0.5 * normal(u)
        given = torch.where(node >= 0, node + self.hidden, -1)
        values = torch.zeros_like(noise)
        for i in range(self.nodes):
            free = (weights[:, i] * values).sum(1) + noise[:, i]
            values[:, i] = torch.where(given == i, at, free)
        return values[:, int(self.hidden) :]
