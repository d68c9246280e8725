"""ReBAL, recurrence-based adaptive learner: a model of the dynamics with a memory of the steps before.

    h_t = GRU(h_(t-1), (s_(t-1), a_(t-1), s_t - s_(t-1)))        prediction f(s_t, a_t, h_t)

Its weights are trained on the error of every step, through time; a planner acts by it with h as it is. Nagabandi et al.
2019, 1803.11347: the update rule of GrBAL is replaced by a learned recurrence.

Deviations: as for GrBAL (random play, no normalisation).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from classic_metarl.model_based.model_agent import (
    ModelAgent,
    ModelConfig,
    ModelTrainer,
    Transition,
    network,
    transitions,
)
from classic_metarl.model_based.planning import Model
from mrt.trials import Trials


class ReBALConfig(ModelConfig):
    """`ModelConfig`, and `memory_size`, numbers of h."""

    model_type = "mrt-rebal"

    def __init__(self, *args: Any, memory_size: int = 16, **kwargs: Any) -> None:
        self.memory_size = memory_size
        super().__init__(*args, **kwargs)


class ReBAL(ModelAgent):
    """The agent; its memory is h (B, size)."""

    config_class: type[Any] = ReBALConfig

    def __init__(self, config: ReBALConfig) -> None:
        super().__init__(config)
        self.gru = nn.GRU(self.width + config.predicted, config.memory_size, batch_first=True)
        self.net = network(self.width + config.memory_size, config)
        self.post_init()

    def forward(self, observation: Tensor, action: Tensor, change: Tensor) -> Tensor:
        """(B, T, P) predictions of steps (B, T, ...), each from h of those before it."""
        seen = self.inputs(observation, action)
        outputs, _ = self.gru(torch.cat([seen, change], -1))
        before = torch.cat([torch.zeros_like(outputs[:, :1]), outputs[:, :-1]], 1)
        return self.net(torch.cat([seen, before], -1))

    def begin(self, rows: int) -> Tensor:
        return torch.zeros(rows, self.config.memory_size, device=self.device)

    def learn(self, memory: Tensor, step: Transition) -> Tensor:
        seen = torch.cat([self.inputs(step.observation, step.action), step.change], -1)[:, None]
        hidden = self.gru(seen, memory[None].contiguous())[1][0]
        return torch.where(step.there[:, None], hidden, memory)

    def changes(self, memory: Tensor) -> Model:
        def predicted(now: Tensor, actions: Tensor) -> Tensor:
            kept = memory[:, None].expand(-1, now.shape[1], -1)
            return self.net(torch.cat([self.inputs(now, actions), kept], -1))

        return predicted


class ReBALTrainer(ModelTrainer):
    """Learns the recurrence and the prediction."""

    policy_class: type[Any] = ReBAL

    def model_loss(self, trials: Trials) -> Tensor:
        data = transitions(trials, self.unwrapped.config.predicted)
        return (self.model_wrapped(*data) - data[2]).square().sum(-1).mean()
