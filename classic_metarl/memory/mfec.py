"""MFEC, model-free episodic control: the best that ever followed from a situation is what it is worth.

    Q(s, a) <- max(Q(s, a), R)            R: the discounted return from (s, a) to the end of the episode   equation 1
    Q(s, a)  = mean_i Q(s_i, a)           over the k nearest keys, where (s, a) was never met              equation 2

Blundell et al. 2016, 1606.04460, "Model-free episodic control". Keys are the observation, or a random projection of it.

Where nothing is random, an episode that went well is repeated at once: the greedy episode after it returns no less.
Where chance decides, one lucky win is worth as much as a sure one, so that a bad gamble looks good for ever: +1 with
chance 0.4, else -1, is taken although it costs 0.2 on average, and doing nothing is free (gate T44).

`neighbours: 0` is the table alone: an action never tried is worth `unknown`. Only that one is sure to repeat, for what
a neighbour across a wall returned may mislead.

Deviations: a table lives for one trial, and none is carried over to the next; `limit: false` does not write episodes
that the time limit ends. Nothing is learned across tasks, so that `mrt train` plays and records.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from classic_metarl.memory.dictionary import SAME, Table
from classic_metarl.memory.episodic_control import EpisodicConfig, EpisodicControl, n_step_returns
from classic_metarl.trainers.lifelong import LifelongTrainer


class MFECConfig(EpisodicConfig):
    """`EpisodicConfig`, and `projection`: numbers of the random projection that makes a key; 0 for the observation."""

    model_type = "mrt-mfec"

    def __init__(self, *args: Any, projection: int = 0, **kwargs: Any) -> None:
        self.projection = projection
        super().__init__(*args, **kwargs)


class MFEC(EpisodicControl):
    """The agent. Its one tensor, the projection, is drawn once and never learned."""

    config_class: type[Any] = MFECConfig

    def __init__(self, config: MFECConfig) -> None:
        super().__init__(config)
        width = config.projection or 1
        drawn = torch.randn(config.observation, width) / width**0.5  # distances are kept on average
        self.projection = nn.Parameter(drawn, requires_grad=False)
        self.post_init()

    def key(self, observation: Tensor) -> Tensor:
        return observation @ self.projection if self.config.projection else observation

    def estimate(self, table: Table, distance: Tensor) -> Tensor:
        nearest = distance.min(-1)
        known = nearest.values < SAME
        exact = table.values.gather(-1, nearest.indices[..., None])[..., 0]
        guess = torch.full_like(exact, self.config.unknown)
        if self.config.neighbours:
            few = distance.topk(min(self.config.neighbours, distance.shape[-1]), -1, largest=False)
            there = few.values.isfinite()
            total = torch.where(there, table.values.gather(-1, few.indices), 0.0).sum(-1)
            guess = torch.where(there.any(-1), total / there.sum(-1).clamp(min=1), guess)
        return torch.where(known, exact, guess)

    def followed(self, rewards: Tensor, best: Tensor, episode: Tensor) -> Tensor:
        return n_step_returns(rewards, best, episode, rewards.shape[1], self.config.gamma)

    def merge(self, old: Tensor, new: Tensor) -> Tensor:
        return torch.maximum(old, new)


class MFECTrainer(LifelongTrainer):
    """Plays MFEC on new tasks."""

    policy_class = MFEC
