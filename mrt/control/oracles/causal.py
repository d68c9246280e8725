"""What can be known of a causal graph: the exact posterior over all graphs, and who reasons with it.

    do            names the node of the highest E[x_i | do(x_j = -5), data]
    associative   names the node of the highest E[x_i | x_j = -5, data]: right about effects, wrong about causes

Both average over every graph by its posterior. A linear graph with Gaussian noise makes Gaussians, so that likelihoods
and expectations are exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from mrt.control.agent import ScriptedAgent, Seen
from mrt.control.envs.causal import QUIZ_AT, SET_TO, VARIANCE, CausalGraphs, weights_of
from mrt.control.oracles.bounds import Bounds, floor_and_ceiling
from mrt.errors import ConfigError

MOST_NODES = 4  # 729 graphs; five make 59,049


class GraphTables:
    """Of all G graphs: how the M seen nodes are distributed where nothing is set (index 0) or node t is (1 + t).

    `mean` (1 + M, G, M) and `covariance` (1 + M, G, M, M) where a node is set to `SET_TO`; a mean is linear in it.
    """

    def __init__(self, env: CausalGraphs) -> None:
        if env.nodes > MOST_NODES:
            raise ConfigError(
                f"{3 ** (env.nodes * (env.nodes - 1) // 2)} graphs are too many to list: nodes at most {MOST_NODES}"
            )
        edges = torch.cartesian_prod(*[torch.tensor([-1, 0, 1])] * (env.nodes * (env.nodes - 1) // 2))
        self.edges = edges.reshape(-1, env.nodes * (env.nodes - 1) // 2)
        self.weights = weights_of(self.edges, env.nodes).double()
        first, eye = int(env.hidden), torch.eye(env.nodes, dtype=torch.float64)
        means, covariances = [], []
        for node in (-1, *range(first, env.nodes)):
            free = torch.ones(env.nodes, dtype=torch.float64)
            if node >= 0:
                free[node] = 0.0
            spread = torch.linalg.inv(eye - free[:, None] * self.weights)  # (G, N, N)
            means.append((spread[..., node] * SET_TO if node >= 0 else 0 * spread[..., 0])[:, first:])
            covariances.append((VARIANCE * spread * free @ spread.mT)[:, first:, first:])
        self.mean, self.covariance = torch.stack(means), torch.stack(covariances)

    def log_likelihood(self, values: Tensor, node: Tensor) -> Tensor:
        """(B, G) of seen values (B, M) with `node` (B,) set, -1 for none; up to a constant."""
        found = torch.zeros(len(values), len(self.edges), dtype=torch.float64)
        for option in range(len(self.mean)):
            rows = node == option - 1
            if not bool(rows.any()):
                continue
            kept = [i for i in range(values.shape[1]) if i != option - 1]
            gap = values[rows][:, None, kept].double() - self.mean[option][:, kept]  # (b, G, m)
            factor = torch.linalg.cholesky(self.covariance[option][:, kept][:, :, kept])
            solved = torch.linalg.solve_triangular(factor, gap.permute(1, 2, 0), upper=False)
            spread = factor.diagonal(dim1=1, dim2=2).log().sum(1)
            found[rows] = (-0.5 * solved.square().sum(1) - spread[:, None]).T
        return found

    def quiz_means(self, associative: bool) -> Tensor:
        """(M, G, M): what each node is expected to be when node j is -5, set to it or seen at it."""
        if not associative:
            return self.mean[1:] * (QUIZ_AT / SET_TO)
        covariance = self.covariance[0]
        slopes = covariance / covariance.diagonal(dim1=1, dim2=2)[:, None, :]  # (G, i, j): of x_i on x_j
        return QUIZ_AT * slopes.permute(2, 0, 1)


class CausalReasoner(ScriptedAgent):
    """Sets every seen node in turn, keeps the posterior over graphs, and answers by `do` or by association."""

    def __init__(self, env: CausalGraphs, rule: Literal["do", "associative"] = "do") -> None:
        self.tables, self.seen = GraphTables(env), env.seen
        self.answers = self.tables.quiz_means(rule == "associative")

    def start(self, rows: int) -> dict[str, Any]:
        return {"log_posterior": torch.zeros(rows, len(self.tables.edges), dtype=torch.float64), "step": 0}

    def learn(self, seen: Seen, state: dict[str, Any]) -> dict[str, Any]:
        values, chosen = seen["observation"][:, : self.seen], seen["observation"][:, self.seen : 2 * self.seen]
        node = torch.where(chosen.amax(1) > 0, chosen.argmax(1), -1)
        log = state["log_posterior"] + self.tables.log_likelihood(values, node)
        return {**state, "log_posterior": log, "step": state["step"] + 1}

    def choose(self, observation: Tensor, state: dict[str, Any]) -> Tensor:
        turn = torch.full((len(observation),), state["step"] % self.seen)
        expected = torch.einsum(
            "bg,bgi->bi",
            state["log_posterior"].softmax(1),
            self.answers[observation[:, 2 * self.seen : 3 * self.seen].argmax(1)],
        )
        return torch.where(observation[:, -1] > 0, expected.argmax(1), turn)


@floor_and_ceiling.register
def _causal(env: CausalGraphs, params: Mapping[str, Tensor]) -> Bounds:
    """Floor: a random answer. Ceiling: that of who knows the graph. Both are exact, the mean over the quiz's nodes."""
    edges = params["edges"].cpu()
    weights = weights_of(edges, env.nodes).double()
    eye, first, floor, ceiling = torch.eye(env.nodes, dtype=torch.float64), int(env.hidden), [], []
    for node in range(first, env.nodes):
        free = torch.ones(env.nodes, dtype=torch.float64)
        free[node] = 0.0
        expected = torch.linalg.inv(eye - free[:, None] * weights)[..., node][:, first:] * QUIZ_AT
        floor.append(expected.mean(1))
        ceiling.append(expected.amax(1))
    found = [torch.stack(one).mean(0).float().to(params["edges"].device) for one in (floor, ceiling)]
    return Bounds(*found)
