"""Few-shot regression on sinusoids, the toy on which gradient-based meta-learning is checked.

y = A sin(w x - p): A ~ U[0.1, 5], p ~ U[0, pi], x ~ U[-5, 5], w = 1 (Finn et al. 2017, 1703.03400, section 5.1).
Reptile draws the phase from [0, 2 pi] (1803.02999, section 2), Meta-SGD also the frequency (1707.09835, section 4.1).

What a learner can be held to, as mean squared errors: 0 after adaptation, since two unknowns are left; 4.252 for the
predictor 0; 3.006 for the best predictor that knows nothing of the task, E[A] E[sin(x - p)] = -2.55 (2/pi) cos x. A
learner that is better than that before its first step has seen the answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from classic_metarl.inner.task_networks import MLP
from mrt.errors import ConfigError
from mrt.tasks import Task, uniforms

LOW, HIGH = -5.0, 5.0
AMPLITUDE = (0.1, 5.0)


@dataclass(frozen=True)
class Sinusoids:
    """p(M), and what the supervised trainer asks of a family of few-shot problems.

    Args:
        shots: points of each support set. queries: points that the outer loss sees. stages: support sets of a task.
        phase_high: phases are uniform in [0, phase_high].
        frequency: range of w.
    """

    shots: int = 10
    queries: int = 10
    stages: int = 1
    phase_high: float = math.pi
    frequency: tuple[float, float] = (1.0, 1.0)
    name: str = "sinusoid"

    def __post_init__(self) -> None:
        if min(self.shots, self.queries, self.stages) < 1:
            raise ConfigError(
                f"sinusoid: shots={self.shots}, queries={self.queries}, stages={self.stages} must be at least 1"
            )

    def sample(self, seed: int, index: int) -> Task:
        """Task `index` of `seed`: amplitude, phase, frequency, and the places x (stages * shots + queries,)."""
        wave, x = self._drawn(seed, [index])
        return Task(key=f"{seed}:{index}", data={"wave": wave[0], "x": x[0]})

    def examples(self, tasks: Sequence[Task]) -> tuple[Tensor, Tensor]:
        """x (M, T, 1) and y (M, T, 1), the support sets first."""
        return self._points(torch.stack([t.data["wave"] for t in tasks]), torch.stack([t.data["x"] for t in tasks]))

    def draw(self, seed: int, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The examples of the tasks at `indices`, without making each of them a `Task`."""
        return self._points(*self._drawn(seed, indices))

    def _drawn(self, seed: int, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """(M, 3) amplitude, phase and frequency, and the places (M, T)."""
        u = uniforms(seed, indices, 3 + self.stages * self.shots + self.queries)
        scale = torch.tensor([AMPLITUDE[1] - AMPLITUDE[0], self.phase_high, self.frequency[1] - self.frequency[0]])
        wave = u[:, :3] * scale + torch.tensor([AMPLITUDE[0], 0.0, self.frequency[0]])
        return wave, u[:, 3:] * (HIGH - LOW) + LOW

    def _points(self, waves: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        amplitude, phase, frequency = waves[:, :, None].unbind(1)
        return x[..., None], (amplitude * torch.sin(frequency * x - phase))[..., None]

    def network(self, hidden: Sequence[int], activation: str) -> nn.Module:
        """The learner: 40-40 with ReLU in the paper."""
        return MLP([1, *hidden, 1], activation)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(..., n) squared errors of outputs (..., n, 1)."""
        return (outputs - targets).square().squeeze(-1)

    def scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(..., n) what stop values are made of, the higher the better: minus the squared error."""
        return -self.losses(outputs, targets)

    def bounds(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """(M,) oracle and floor of the mean score on targets (M, n, 1): no error, and that of the predictor 0."""
        floor = -targets.square().mean((1, 2))
        return torch.zeros_like(floor), floor
