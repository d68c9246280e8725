"""Stop values of control: J_j is the return of one exploitation episode that is played after episode j.

The exploitation episode is played in a copy: environment and memory are branched at the boundary, the agent acts
greedily, and nothing of it comes back into the trial. It is an episode that pays, also where the next one of the trial
would explore for free. The same measurement as a forced answer in a trace.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mrt.control.interaction import Interaction
from mrt.trials import PROVERS


class ExploitProbe:
    """Plays `samples` exploitation episodes at every boundary of every trial and averages them.

    Args:
        samples: episodes a boundary; their noise differs, their memory does not.
        greedy: the mode of the policy instead of a draw.
    """

    def __init__(self, samples: int = 1, greedy: bool = True) -> None:
        self.samples, self.greedy = samples, greedy
        self.values: Tensor | None = None

    @torch.no_grad()
    def boundary(self, interaction: Interaction, rows: Tensor) -> None:
        """Measures J of the boundary that `rows` (B,) bool have reached."""
        env = interaction.env
        if self.values is None:
            self.values = torch.full((len(rows), env.spec.episodes + 1), torch.nan, device=rows.device)
            self.errors, self.steps = self.values.clone(), torch.zeros(len(rows), dtype=torch.long, device=rows.device)
        index = torch.nonzero(rows)[:, 0]
        begun = bool(env.clock[index].any()) or bool(env.episode[index].any())
        branch = exploitation(interaction, index.repeat_interleave(self.samples), begun)
        branch.greedy = self.greedy
        returns, steps = (part.view(-1, self.samples) for part in _one_episode(branch))
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


def exploitation(interaction: Interaction, rows: Tensor, begun: bool) -> Interaction:
    """A branch of `rows` (B',) int64 that plays one episode more, with noise of its own, in an episode that pays.

    `begun`: the rows stand at the closing row of an episode; else before their first one.
    """
    branch = interaction.branch(rows)
    branch.generator = None  # the trial's own draws stay what they were
    spec = branch.env.spec
    env = branch.env = branch.env.with_spec(episodes=spec.episodes + 1)
    env.waiting = torch.full_like(env.waiting, begun)
    env.generator.manual_seed(int(torch.randint(2**31, (1,))))
    env.episode = env.episode.clamp(min=spec.free_episodes - int(begun))
    if not begun and spec.free_episodes:  # what is seen may tell whether an episode pays
        branch.seen = {**branch.seen, "observation": env.observe()}
    branch.over = torch.zeros_like(branch.over)
    return branch


def _one_episode(branch: Interaction) -> tuple[Tensor, Tensor]:
    """Return and length (B',) of the next episode of every row."""
    over = torch.zeros_like(branch.over)
    returns, steps = torch.zeros(len(over), device=over.device), torch.zeros_like(branch.env.clock)
    while not bool(over.all()):
        moment = branch.step()
        counts = moment.acting & ~over
        returns, steps = returns + torch.where(counts, moment.step.reward, 0.0), steps + counts
        over = over | (moment.finished & counts)
    return returns, steps
