"""Stop values of control: J_j is the return of one exploitation episode that is played after episode j.

The exploitation episode is played in a copy: environment and memory are branched at the boundary, the agent acts
greedily, and nothing of it comes back into the trial. It is an episode that pays, also where the next one of the trial
would explore for free. The same measurement as a forced answer in a trace. Where the value of stopping is known exactly
(`mrt.control.oracles.stopping`) no episode has to be played.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from mrt.control.envs.base import TensorEnv
from mrt.control.interaction import Interaction, Moment
from mrt.control.oracles.stopping import Knowledge, knowledge_of
from mrt.trials import PROVERS


class StopProbe(ABC):
    """Keeps J of every boundary, its standard error, and what measuring it cost.

    Args:
        last: also measure behind the last episode, after which nothing follows that knowing more could help.
    """

    def __init__(self, last: bool = True) -> None:
        self.last = last
        self.values: Tensor | None = None

    def step(self, moment: Moment) -> None:
        """What every step of the trials brought; nothing is made of it here."""
        return

    @torch.no_grad()
    def boundary(self, interaction: Interaction, rows: Tensor) -> None:
        """Measures J of the boundary that `rows` (B,) bool have reached."""
        env = interaction.env
        if self.values is None:
            self.values = torch.full((len(rows), env.spec.episodes + 1), torch.nan, device=rows.device)
            self.errors, self.steps = self.values.clone(), torch.zeros(len(rows), dtype=torch.long, device=rows.device)
            self.start(env)
        index = torch.nonzero(rows)[:, 0]
        begun = bool(env.clock[index].any()) or bool(env.episode[index].any())
        column = env.episode[index] + int(begun)
        if not self.last:
            index, column = index[column < env.spec.episodes], column[column < env.spec.episodes]
        if len(index):
            self.measure(interaction, index, column, begun)

    @abstractmethod
    def start(self, env: TensorEnv) -> None:
        """Before the first boundary, with the trials as they begin."""

    @abstractmethod
    def measure(self, interaction: Interaction, index: Tensor, column: Tensor, begun: bool) -> None:
        """Writes J of the rows at `index` (B',) int64 into their `column` (B',) of `values`, `errors` and `steps`.

        `begun`: the rows stand at the closing row of an episode; else before their first one.
        """

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


class ExploitProbe(StopProbe):
    """Plays `samples` exploitation episodes at every boundary of every trial and averages them.

    Args:
        samples: episodes a boundary; their noise differs, their memory does not.
        greedy: the mode of the policy instead of a draw.
        common: the noise of sample i of a row is the same at all boundaries, so that progress, a difference of two J,
            is exactly 0 where what the policy does has not changed; each J keeps its law. Where environments of another
            kind are stepped, their noise cannot be set, and it is fresh.
    """

    def __init__(self, samples: int = 1, greedy: bool = True, common: bool = False, last: bool = True) -> None:
        super().__init__(last)
        self.samples, self.greedy, self.common = samples, greedy, common

    def start(self, env: TensorEnv) -> None:
        """Seeds the noise that all boundaries have in common."""
        self.seed = int(torch.randint(2**31, (1,))) if self.common and env.on_tensors else None

    def measure(self, interaction: Interaction, index: Tensor, column: Tensor, begun: bool) -> None:
        assert self.values is not None
        branches = index.repeat_interleave(self.samples)
        branch = exploitation(interaction, branches, begun)
        branch.greedy = self.greedy
        if self.seed is not None:
            copies = torch.arange(self.samples, device=index.device).repeat(len(index))
            _share_noise(branch, self.seed, branches * self.samples + copies, len(self.values) * self.samples, begun)
        returns, steps = (part.view(-1, self.samples) for part in _one_episode(branch))
        self.values[index, column] = returns.mean(1)
        if self.samples > 1:
            self.errors[index, column] = returns.std(1) / self.samples**0.5
        self.steps[index] += steps.sum(1)


class ExactProbe(StopProbe):
    """J by the exact posterior of the tasks: no environment step, no error; see `mrt.control.oracles.stopping`.

    Raises:
        ConfigError: for an environment where it is not known.
    """

    def __init__(self, env: TensorEnv, last: bool = True) -> None:
        super().__init__(last)
        self.knowledge: Knowledge = knowledge_of(env)

    def start(self, env: TensorEnv) -> None:
        self.knowledge.begin(len(env.clock), env.device)

    def step(self, moment: Moment) -> None:
        self.knowledge.learn(moment)

    def measure(self, interaction: Interaction, index: Tensor, column: Tensor, begun: bool) -> None:
        assert self.values is not None
        self.values[index, column] = self.knowledge.values()[index]
        self.errors[index, column] = 0.0


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


def _share_noise(branch: Interaction, seed: int, which: Tensor, total: int, begun: bool) -> None:
    """Gives row i of the branch the noise `which[i]` of `total`, the same from the same seed on, its start included."""
    env = branch.env
    generator = torch.Generator(env.device).manual_seed(seed)
    width = max(env.step_draws, env.start_draws)

    def draw() -> Tensor:
        return torch.rand(total, width, generator=generator, device=env.device)[which]

    branch.noise = draw
    if not begun:  # the start is drawn already; elsewhere the first step of the branch draws it
        env.state = env.begin_episode(draw()[:, : env.start_draws])
        branch.seen = {**branch.seen, "observation": env.observe()}


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
