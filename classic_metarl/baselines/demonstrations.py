"""What MIL is compared with: policies that are given the demonstration instead of being trained on it.

    contextual     pi(o, first and last observation of the demonstration)     feed-forward
    lstm           pi(o, h), h the last state of an LSTM over the demonstration
    attention      pi(o, c), c soft attention over the demonstration's steps, the query from o

Finn et al. 2017, 1709.04905, section 6 ("contextual", "LSTM"); attention as in Duan et al. 2017, 1703.07326, section
4.1, one head over time.

Deviations: the LSTM reads the demonstration only, and the same multilayer policy acts on its last state. With
`inner_loss: video` none of them sees the demonstrator's actions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from classic_metarl.inner.task_networks import MLP
from classic_metarl.problems.reaching import Reaching
from classic_metarl.trainers.few_shot import FewShotConfig, FewShotLearner, FewShotTrainer, Set
from mrt.errors import ConfigError
from mrt.training.codec import tree_to


@dataclass
class DemonstrationConfig(FewShotConfig):
    """Arguments of the policies that read a demonstration."""

    hidden: list[int] = field(default_factory=lambda: [64, 64], metadata={"help": "sizes of the hidden layers"})
    reader: Literal["contextual", "lstm", "attention"] = field(default="lstm", metadata={"help": "how it is read"})
    inner_loss: Literal["actions", "video"] = field(default="actions", metadata={"help": "what of it is seen"})


class DemonstrationPolicy(FewShotLearner):
    """A policy conditioned on a demonstration, trained by behavioural cloning of a second one."""

    def __init__(self, family: Reaching, args: Any, width: int = 64) -> None:
        super().__init__()
        self.family, self.reader, self.video = family, args.reader, args.inner_loss == "video"  # type: ignore[assignment]
        step = family.inputs + (0 if self.video else 2)
        self.lstm = nn.LSTM(step, width, batch_first=True) if args.reader == "lstm" else None
        attends = args.reader == "attention"
        self.query = nn.Linear(family.inputs, width) if attends else None
        self.key = nn.Linear(step, width) if attends else None
        self.value = nn.Linear(step, width) if attends else None
        context = 2 * step if args.reader == "contextual" else width
        self.acts = MLP([family.inputs + context, *args.hidden, 2])

    def act(self, demonstration: Set, x: Tensor) -> Tensor:
        """Actions (M, n, 2) at x (M, n, inputs)."""
        steps = demonstration[0] if self.video else torch.cat(demonstration, -1)
        if self.query is not None and self.key is not None and self.value is not None:
            scores = self.query(x) @ self.key(steps).mT / self.query.out_features**0.5
            context = scores.softmax(-1) @ self.value(steps)
        elif self.lstm is not None:
            context = self.lstm(steps)[0][:, -1:].expand(-1, x.shape[1], -1)
        else:
            context = torch.cat([steps[:, :1], steps[:, -1:]], -1).expand(-1, x.shape[1], -1)
        return self.acts(torch.cat([x, context], -1))

    def forward(self, stages: Sequence[Set], query: Set) -> Tensor:
        return self.family.losses(self.act(stages[0], query[0]), query[1])

    @torch.no_grad()
    def curve(self, stages: Sequence[Set], query: Set, steps: int | None = None) -> Tensor:
        """(M, 2, q): NaN, and minus the squared error given the demonstration."""
        scores = self.family.scores(self.act(stages[0], query[0]), query[1])
        return torch.stack([torch.full_like(scores, torch.nan), scores], 1)

    def policy(self, demonstration: Set) -> Any:
        """f(observations (M, n, inputs)) -> actions (M, n, 2), on the learner's device, of agents that saw the
        demonstration.
        """
        device = next(self.acts.parameters()).device
        seen = tree_to(demonstration, device)
        return torch.no_grad()(lambda x: self.act(seen, x.to(device)))


class DemonstrationTrainer(FewShotTrainer):
    """The baselines of MIL on `problems: {name: reaching}`."""

    @classmethod
    def args_class(cls) -> type:
        return DemonstrationConfig

    @classmethod
    def build(cls, family: Any, args: Any) -> DemonstrationPolicy:
        if not isinstance(family, Reaching):
            raise ConfigError(f"demonstrations come from problems: {{name: reaching}}, not {family.name}")
        return DemonstrationPolicy(family, args)
