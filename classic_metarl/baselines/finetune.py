"""Pretraining and fine-tuning: learn all training tasks jointly, then take gradient steps on the support set.

    theta <- theta - beta grad sum_i L_i(theta)        phi_i = theta - alpha grad L_i(theta; D_i), only at test

The "pretrained" rows of Finn et al. 2017, 1703.03400, and "fine-tuning baseline" of Ravi & Larochelle 2017: features
without meta-learning. In classification all training classes (with their rotations) share one softmax while training;
a task gets a head of its own, from zero, on features that stay (`adapt_body` moves them too).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from classic_metarl.inner.task_networks import embed, of_tasks
from classic_metarl.trainers.few_shot import FewShotConfig, FewShotTrainer, MetaLearner, Set, inner_loop
from mrt.tasks import Task
from mrt.training.collection import Batch
from mrt.trials import Trials


@dataclass
class FineTuneConfig(FewShotConfig):
    """`inner_rate` and `inner_steps` are those of fine-tuning."""

    adapt_body: bool = field(default=False, metadata={"help": "fine-tune the features too, not the head alone"})


class JointLearner(MetaLearner):
    """A network trained without adaptation; `joint` is the softmax over all training classes."""

    joint: nn.Linear | None = None

    def forward(self, stages: Sequence[Set], query: Set, classes: Tensor | None = None) -> Tensor:
        """(M, n) loss of all examples alike; `classes` (M, n) are their labels among all classes."""
        x, y = (torch.cat([*(s[part] for s in stages), query[part]], 1) for part in (0, 1))
        if self.joint is None:
            return self.family.losses(self.predict(self.theta.parameters, x), y)
        assert isinstance(self.net, TaskNet)
        assert classes is not None
        return self.family.losses(self.joint(embed(self.net.body, x)), classes)


class TaskNet(nn.Module):
    """Features, and a head from zero."""

    head = "top."

    def __init__(self, body: nn.Module, features: int, outputs: int) -> None:
        super().__init__()
        self.body, self.top = body, nn.Linear(features, outputs)
        nn.init.zeros_(self.top.weight)
        nn.init.zeros_(self.top.bias)

    def of_tasks(self, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        """(M, n, outputs); weights may be shared by the tasks."""
        inner = {name.removeprefix("body."): v for name, v in parameters.items() if name.startswith("body.")}
        hidden, (weight, bias) = of_tasks(self.body, inner, x), (parameters["top.weight"], parameters["top.bias"])
        shared = weight.ndim == 2
        return hidden @ weight.mT + (bias if shared else bias[:, None])


class FineTuneTrainer(FewShotTrainer):
    """Joint training, then fine-tuning."""

    model: JointLearner

    @classmethod
    def args_class(cls) -> type:
        return FineTuneConfig

    @classmethod
    def build(cls, family: Any, args: Any) -> JointLearner:
        if not hasattr(family, "embedding"):
            net = family.network(args.hidden, args.activation)
            return JointLearner(net, family, inner_loop(net, family, args, "first"))
        body = family.embedding(args.hidden, args.activation)
        net = TaskNet(body, body.features, family.ways)
        adapted = () if args.adapt_body else (net.head,)
        learner = JointLearner(net, family, inner_loop(net, family, args, "first", adapted=adapted))
        learner.joint = nn.Linear(body.features, family.all_classes)
        return learner

    def collect(self, tasks: Sequence[Task]) -> Trials:
        """As everywhere; with classes, also the label of every image among all classes."""
        trials = super().collect(tasks)
        if self.model.joint is not None:
            labels = torch.stack([self.family.class_ids(task) for task in tasks]).to(trials.actions.device)
            trials.inputs["classes"] = labels.gather(1, trials.actions)  # type: ignore[index]
        return trials

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The mean over all examples, support sets included."""
        each = self.model_wrapped(*self.sets(batch.trials), batch.trials.inputs.get("classes"))
        return {"policy": each.mean()}
