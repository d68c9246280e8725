"""NEC, neural episodic control: a table of values that is read by similarity under a learned embedding.

    Q(s, a) = sum_i w_i Q_i             w_i by the kernel of `dictionary.py` over the p nearest keys h = f(s)
    Q_i <- Q_i + alpha (Q^N - Q_i)      where the key is stored already, else a new entry
    Q^N_t = sum_(j<N) gamma^j r_(t+j) + gamma^N max_a Q(s_(t+N), a)
    L(f) = (Q(s, a) - Q^N)^2            through the weights, into the key that asks and the keys that answer

Pritzel et al. 2017, 1703.01988, equations 1 to 5. Values are averaged, not maximised: unlike MFEC it lets a bad gamble
alone (gate T44).

The table dies with its trial, so that f is what is learned across tasks. A batch of trials is learned from as a whole:
for every step, the entries that its table held then are the earlier episodes' steps with the same action, all with the
present f. That is the paper's loss without stale keys.

Deviations: entries are written at the end of an episode instead of N steps later; stored keys and values are recomputed
in the loss, never moved by its gradient; there alpha is 1 / n, the plain average. The embedding is a small network on
vectors, not a convolutional one on frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from classic_metarl.memory.dictionary import Table, kernel_weights
from classic_metarl.memory.episodic_control import EpisodicConfig, EpisodicControl, n_step_returns
from classic_metarl.trainers.lifelong import LifelongTrainer
from mrt.errors import ConfigError
from mrt.trainer import TrialConfig
from mrt.training.collection import Batch, Collection
from mrt.trials import Trials


class NECConfig(EpisodicConfig):
    """`EpisodicConfig`, and of the embedding `hidden` widths and `key_size`; `n_steps` of a target; `rate`, alpha."""

    model_type = "mrt-nec"

    def __init__(
        self,
        *args: Any,
        hidden: Sequence[int] = (32,),
        key_size: int = 8,
        n_steps: int = 10,
        rate: float = 0.1,
        neighbours: int = 50,
        **kwargs: Any,
    ) -> None:
        self.hidden, self.key_size, self.n_steps, self.rate = list(hidden), key_size, n_steps, rate
        super().__init__(*args, neighbours=neighbours, **kwargs)


class NEC(EpisodicControl):
    """The agent: an embedding f, and the table of its trial."""

    config_class: type[Any] = NECConfig

    def __init__(self, config: NECConfig) -> None:
        super().__init__(config)
        parts: list[nn.Module] = []
        for width, size in pairwise((config.observation, *config.hidden)):
            parts += [nn.Linear(width, size), nn.ReLU()]
        last = config.hidden[-1] if config.hidden else config.observation
        self.embed = nn.Sequential(*parts, nn.Linear(last, config.key_size))
        self.post_init()

    def key(self, observation: Tensor) -> Tensor:
        return self.embed(observation)

    def estimate(self, table: Table, distance: Tensor) -> Tensor:
        values = (kernel_weights(distance, self.config.neighbours) * table.values).sum(-1)
        return torch.where(distance.isfinite().any(-1), values, self.config.unknown)

    def followed(self, rewards: Tensor, best: Tensor, episode: Tensor) -> Tensor:
        return n_step_returns(rewards, best, episode, self.config.n_steps, self.config.gamma)

    def merge(self, old: Tensor, new: Tensor) -> Tensor:
        return old + self.config.rate * (new - old)

    def forward(self, trials: Trials, targets: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Q(s_t, a_t) (B, q) of the steps at `steps` (B, q) int64, and whether anything stored then says something.

        targets (B, T): Q^N, which are also the values that are read.
        """
        keys = self.key(trials.inputs["observation"])
        rows = torch.arange(len(trials), device=keys.device)[:, None]
        apart = (keys[rows, steps][:, :, None] - keys[:, None]).square().sum(-1)  # (B, q, T)
        before = trials.episode[:, None] < trials.episode[rows, steps][..., None]
        same = trials.actions[:, None] == trials.actions[rows, steps][..., None]
        readable = before & same & trials.mask[:, None]
        weight = kernel_weights(apart.masked_fill(~readable, torch.inf), self.config.neighbours)
        return (weight * targets[:, None]).sum(-1), readable.any(-1)


@dataclass
class NECArguments(TrialConfig):
    """Arguments of `NECTrainer`. `per_device_train_batch_size` counts the trials of a collection."""

    epochs: int = field(default=4, metadata={"help": "updates on a collection of trials"})
    queries: int = field(default=256, metadata={"help": "steps of each trial that an update asks about"})

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.queries < 1:
            raise ConfigError(f"epochs={self.epochs} and queries={self.queries} must be at least 1")
        super().__post_init__()


class NECTrainer(LifelongTrainer):
    """Learns the embedding across trials."""

    args: NECArguments
    policy_class = NEC

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.collection = Collection(self.args.device)
        self.register_state("collection", self.collection)

    @classmethod
    def args_class(cls) -> type:
        return NECArguments

    def next_batch(self, indices: Sequence[int]) -> Batch:
        """The last trials again, or new ones on the tasks at `indices` once they have been seen `epochs` times."""
        if not self.collection:
            batch = super().next_batch(indices)
            trials, config = batch.trials, self.unwrapped.config
            episode = torch.where(trials.mask, trials.episode, -1)
            best = trials.values.nan_to_num()  # type: ignore[union-attr]
            targets = n_step_returns(trials.rewards, best, episode, config.n_steps, config.gamma)
            self.collection.fill(Batch(trials, batch.weights, {"q": targets}), self.args.epochs)
        return self.collection.next()

    def update(self, batch: Batch) -> bool:
        """The embedding is learned by its loss."""
        return False

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The squared error of what the table said, over steps of which it knew something."""
        trials, targets = batch.trials, batch.targets["q"]
        chance = trials.mask.float() + 1e-9  # rows with fewer steps than `queries` ask about padding, which is masked
        count = min(self.args.queries, trials.mask.shape[1])
        steps = chance.multinomial(count)
        found, told = self.model_wrapped(trials, targets, steps)
        rows = torch.arange(len(trials), device=steps.device)[:, None]
        counts = told & trials.mask[rows, steps]
        error = torch.where(counts, found - targets[rows, steps], 0.0).square()
        return {"policy": error.sum() / counts.sum().clamp(min=1)}
