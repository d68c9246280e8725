"""Stop values of control: J_j is the return of one exploitation episode that is played after episode j.

The exploitation episode is played in a copy: environment and memory are branched at the boundary, the policy acts
greedily, and nothing of it comes back into the trial. The same measurement as a forced answer in a trace.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mrt.control.envs.base import TensorEnv
from mrt.control.policy import ControlPolicy
from mrt.trials import PROVERS


class ExploitProbe:
    """Plays `samples` exploitation episodes at every boundary of every trial and averages them.

    Args:
        samples: episodes a boundary; their noise differs, their memory does not.
        greedy: the mode of the policy instead of a draw.
    """

    def __init__(self, policy: ControlPolicy, samples: int = 1, greedy: bool = True) -> None:
        self.policy, self.samples, self.greedy = policy, samples, greedy
        self.values: Tensor | None = None

    @torch.no_grad()
    def boundary(self, env: TensorEnv, seen: Mapping[str, Tensor], state: Any, rows: Tensor) -> None:
        """Measures J of the boundary that `rows` (B,) bool have reached."""
        if self.values is None:
            self.values = torch.full((len(rows), env.spec.episodes + 1), torch.nan, device=rows.device)
            self.errors, self.steps = self.values.clone(), torch.zeros(len(rows), dtype=torch.long, device=rows.device)
        index = torch.nonzero(rows)[:, 0]
        repeated = index.repeat_interleave(self.samples)
        begun = bool(env.clock[index].any()) or bool(env.episode[index].any())
        branch = env.select(repeated).with_spec(episodes=env.spec.episodes + 1)
        branch.waiting = torch.full_like(branch.waiting, begun)
        branch.generator.manual_seed(int(torch.randint(2**31, (1,))))
        memory = self.policy.fork(state, repeated)
        returns, steps = self._episode(branch, {name: value[repeated] for name, value in seen.items()}, memory, begun)
        returns, steps = returns.view(-1, self.samples), steps.view(-1, self.samples)
        column = env.episode[index] + int(begun)
        self.values[index, column] = returns.mean(1)
        if self.samples > 1:
            self.errors[index, column] = returns.std(1) / self.samples**0.5
        self.steps[index] += steps.sum(1)

    def result(self) -> dict[str, Tensor]:
        """stop_values (B, K+1), their standard errors (NaN for one sample), the prover, and what it cost."""
        assert self.values is not None
        prover = torch.full((len(self.values),), PROVERS["forced"], dtype=torch.int8, device=self.values.device)
        return {
            "stop_values": self.values,
            "stop_value_se": self.errors,
            "prover": prover,
            "probe_steps": self.steps,
        }

    def _episode(self, env: TensorEnv, seen: dict[str, Tensor], state: Any, closing: bool) -> tuple[Tensor, Tensor]:
        """Return and length (B',) of one episode; `closing`: the rows stand at the closing row of the one before."""
        from mrt.control.rollout import next_inputs

        act = self.policy.distribution.mode if self.greedy else self.policy.distribution.sample
        over = torch.zeros_like(env.waiting)
        returns, steps = torch.zeros(len(over), device=over.device), torch.zeros_like(env.clock)
        while not bool(over.all()):
            heads, state = self.policy.step(seen, state)
            actions = act(heads.logits)
            step = env.step(actions)
            counts = ~over & ~step.fresh
            returns, steps = returns + torch.where(counts, step.reward, 0.0), steps + counts
            over = over | ((step.terminated | step.truncated) & counts)
            seen = next_inputs(env.spec, actions, step)
        return returns, steps
