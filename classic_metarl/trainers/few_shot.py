"""The trainer that gradient-based systems share where the tasks are few-shot problems.

A task is a trial: its support sets are episodes 0, 1, ..., its query set is the answer (outside any episode, `mask`
True). J_j is the score on the query set after j gradient steps, so that progress and regret are those of every trial.
`actions` are the targets. One row a task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from classic_metarl.inner.gradient_steps import GradientSteps, Initial, Order, Over, Theta, Tree, apply
from classic_metarl.inner.task_networks import of_tasks
from classic_metarl.problems.families import problem_family
from mrt.errors import ConfigError
from mrt.metrics.regret import cumulative_regret
from mrt.runs.recipe import Recipe, import_trainer
from mrt.runs.rundir import trained_weights
from mrt.tasks import Task
from mrt.trainer import TrialConfig, TrialTrainer
from mrt.training.collection import Batch
from mrt.trials import Trials

Set = tuple[Tensor, Tensor]  # inputs (M, n, ...) and targets (M, n[, A])


class FewShot(Protocol):
    """A family of few-shot problems: p(M), and how a learner is built, fitted and judged."""

    shots: int  # examples of a support set
    queries: int
    stages: int  # support sets of a task
    name: str

    def sample(self, seed: int, index: int) -> Task: ...

    def examples(self, tasks: Sequence[Task]) -> Set:
        """Inputs (M, T, ...) and targets (M, T[, A]), T = stages * shots + queries, the support sets first."""

    def network(self, hidden: Sequence[int], activation: str) -> nn.Module: ...

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(..., n) loss of every example."""

    def scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(..., n) score of every example, the higher the better."""

    def bounds(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """(M,) mean scores of an oracle and of a learner that knows nothing."""


@dataclass
class FewShotConfig(TrialConfig):
    """Arguments of the supervised systems. `per_device_train_batch_size` is the meta-batch."""

    hidden: list[int] = field(default_factory=lambda: [40, 40], metadata={"help": "sizes of the hidden layers"})
    activation: str = field(default="relu", metadata={"help": "relu or tanh"})
    inner_steps: int = field(default=1, metadata={"help": "gradient steps on each support set"})
    inner_rate: float = field(default=0.01, metadata={"help": "alpha, the inner step size; its start where learned"})
    over: Literal["vmap", "fold", "loop"] = field(default="fold", metadata={"help": "how tasks are batched"})
    curve_steps: int = field(default=10, metadata={"help": "gradient steps up to which evaluation follows a task"})
    write_trials: bool = field(default=False, metadata={"help": "write every task to trials.jsonl"})


class FewShotLearner(nn.Module):
    """What a system trains. The forward pass is its meta-objective, so that DDP synchronises it."""

    family: FewShot

    def forward(self, stages: Sequence[Set], query: Set) -> Tensor:
        """(M, q) loss of every query, given the support sets."""
        raise NotImplementedError

    def curve(self, stages: Sequence[Set], query: Set, steps: int | None = None) -> Tensor:
        """(M, k+1, q) scores of the queries after 0..k steps of adaptation, without gradients; NaN where a system has
        no answer. `steps` on the first support set instead of those of training.
        """
        raise NotImplementedError


class EpisodicLearner(FewShotLearner):
    """A system that answers from the support set at once, without gradient steps: (M, q, ways) logits."""

    def __init__(self, family: FewShot) -> None:
        super().__init__()
        self.family = family

    def answer(self, support: Set, x: Tensor) -> Tensor:
        """Outputs (M, q, ways) for queries x (M, q, ...)."""
        raise NotImplementedError

    def forward(self, stages: Sequence[Set], query: Set) -> Tensor:
        return self.family.losses(self.answer(stages[0], query[0]), query[1])

    def curve(self, stages: Sequence[Set], query: Set, steps: int | None = None) -> Tensor:
        with torch.no_grad():
            scores = self.family.scores(self.answer(stages[0], query[0]), query[1])
        return torch.stack([torch.full_like(scores, torch.nan), scores], 1)


class MetaLearner(Initial, FewShotLearner):
    """theta, and the loss after adaptation by gradient steps.

    Args:
        net: the learner.
        steps: the inner loop; None where a subclass's forward is something else.
        rates: learned step sizes, one tree for each inner step.
    """

    def __init__(self, net: nn.Module, family: FewShot, steps: GradientSteps, rates: Sequence[Tree] = ()) -> None:
        super().__init__(net, rates)
        self.steps, self.family = steps, family

    def forward(self, stages: Sequence[Set], query: Set) -> Tensor:
        """(M, q) loss of every query after adaptation to the support sets in turn."""
        phi = self.steps.trajectory(self.theta, stages)[-1]
        return self.family.losses(self.predict(phi, query[0]), query[1])

    def curve(self, stages: Sequence[Set], query: Set, steps: int | None = None) -> Tensor:
        return score_curve(self, stages, query, steps)

    def predict(self, phi: Tree, x: Tensor) -> Tensor:
        """(M, q, ...) outputs of M adapted learners (or of one, where phi has no (M,) yet) on x (M, q, ...)."""
        return predict(self.net, phi, x)


def predict(net: nn.Module, phi: Tree, x: Tensor) -> Tensor:
    """Outputs of M learners phi on x (M, q, ...): as one batch where `net` knows how (`of_tasks`), else by vmap."""
    if hasattr(net, "of_tasks"):
        return of_tasks(net, phi, x)
    shared = next(iter(phi.values())).ndim == next(net.parameters()).ndim
    return torch.vmap(apply(net), in_dims=(None if shared else 0, 0))(phi, x)


def inner_loop(net: nn.Module, family: FewShot, args: FewShotConfig, order: Order, **options: Any) -> GradientSteps:
    """Gradient steps on the mean loss of a support set."""
    over: Over = args.over
    if over == "fold" and not hasattr(net, "of_tasks"):
        raise ConfigError(f"over='fold': {type(net).__name__} has no `of_tasks` for weights that differ; use over=vmap")

    def loss(phi: Tree, data: Set) -> Tensor:
        outputs = of_tasks(net, phi, data[0]) if over == "fold" else apply(net)(phi, data[0])
        return family.losses(outputs, data[1]).mean(-1)

    return GradientSteps(loss, rate=args.inner_rate, steps=args.inner_steps, order=order, over=over, **options)


class FewShotTrainer(TrialTrainer):
    """tasks -> support and query sets -> inner loop -> mean query loss. A system gives `build`, or `update` too."""

    args: FewShotConfig
    model: FewShotLearner
    _ahead: tuple[int, Tensor, Tensor] = (0, torch.empty(0), torch.empty(0))  # examples of tasks from a number on
    _plain: dict[str, Any] | None = None  # the fields that batches share in which nothing is measured

    @classmethod
    def args_class(cls) -> type:
        return FewShotConfig

    @classmethod
    def build(cls, family: FewShot, args: Any) -> FewShotLearner:
        """The system's learner for this family."""
        raise NotImplementedError(f"{cls.__name__} has to define build(family, args)")

    @classmethod
    def from_recipe(cls, recipe: Recipe, output_dir: Path) -> FewShotTrainer:
        """The trainer of a recipe: `problems` names the family (sinusoid, strokes, omniglot, miniimagenet)."""
        args = recipe.build_args(cls.args_class(), output_dir)
        if recipe.model or recipe.peft is not None:
            raise ConfigError(f"{recipe.trainer} builds its own network (args.hidden): leave out model and peft")
        return cls.of(problem_family(**recipe.problems), args)

    @classmethod
    def of(cls, family: Any, args: Any, **kwargs: Any) -> Any:
        """The trainer with a fresh learner, its weights drawn from `args.seed`."""
        torch.manual_seed(args.seed)
        return cls(cls.build(family, args), args, family, **kwargs)

    @property
    def family(self) -> Any:
        """The problems."""
        return self.tasks

    def next_batch(self, indices: Sequence[int]) -> Batch:
        """As everywhere; a family that can `draw` gives the examples of all updates of a step at once."""
        if not hasattr(self.family, "draw") or type(self).collect is not FewShotTrainer.collect:
            return super().next_batch(indices)
        return self._recorded(self._trials(self._drawn(indices), tuple(f"{self.args.seed}:{i}" for i in indices)))

    def _drawn(self, indices: Sequence[int]) -> Set:
        first, rows = indices[0], len(indices)
        if self.args.updates_per_step == 1 or list(indices) != list(range(first, first + rows)):
            return self.family.draw(self.args.seed, indices)
        start, x, y = self._ahead
        if not start <= first <= first + rows <= start + len(x):
            x, y = self.family.draw(self.args.seed, range(first, first + rows * self.args.updates_per_step))
            self._ahead = start, x, y = first, x, y
        return x[first - start :][:rows], y[first - start :][:rows]

    def collect(self, tasks: Sequence[Task]) -> Trials:
        """The support and query sets of the tasks. J_j is measured in updates that are logged."""
        return self._trials(self.family.examples(tasks), tuple(task.key for task in tasks))

    def _trials(self, examples: Set, keys: tuple[str, ...]) -> Trials:
        x, y = examples
        family, rows, steps = self.family, len(x), x.shape[1]
        if self._plain is None or self._plain["mask"].shape != (rows, steps):
            self._plain = _unmeasured(family, rows, steps)
        measured: dict[str, Any] = {}
        if self.log_is_due():
            values, scores = self._stop_values(x, y)
            rewards = torch.zeros(rows, steps)
            rewards[:, family.stages * family.shots :] = scores / family.queries
            measured = {"stop_values": values, "rewards": rewards, "scored": torch.ones(rows, dtype=torch.bool)}
        trials = Trials(**{**self._plain, **measured}, actions=y, inputs={"x": x}, task_keys=keys)
        return trials if self.args.device.type == "cpu" else trials.to(self.args.device)

    def record(self, trials: Trials) -> None:
        """As everywhere; where nothing was measured, only what it cost."""
        due = self.log_is_due() or self.args.write_trials
        return super().record(trials) if due else self.spend(trials)

    def sets(self, trials: Trials) -> tuple[list[Set], Set]:
        """The support sets and the query set of a batch."""
        return split(self.family, trials.inputs["x"], trials.actions)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The weighted mean of the query losses after adaptation."""
        each = self.model_wrapped(*self.sets(batch.trials))
        weights = batch.weights[:, -each.shape[1] :]
        return {"policy": (weights * each).sum() / weights.sum().clamp(min=1)}

    def _stop_values(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """J_0..J_k (M, k+1), and the scores (M, q) after the last step."""
        stages, query = split(self.family, x.to(self.args.device), y.to(self.args.device))
        curve = self.model.curve(stages, query)
        oracle, floor = (bound.cpu().double()[:, None].numpy() for bound in self.family.bounds(query[1]))
        table = curve.mean(-1).cpu().double().numpy()
        lost, span = cumulative_regret(table, oracle), cumulative_regret(np.broadcast_to(floor, table.shape), oracle)
        self.log_metric("regret/stop", float(lost.sum() / span.sum()))  # over the whole batch, as for every trial
        return curve.mean(-1).cpu(), curve[:, -1].cpu()


def _unmeasured(family: FewShot, rows: int, steps: int) -> dict[str, Any]:
    """The fields of `Trials` of any batch of this size in which no J is measured, but for inputs and actions."""
    position, zeros = torch.arange(steps), torch.zeros(rows, steps)
    mask = (position >= family.stages * family.shots).expand(rows, steps)
    episode = torch.where(mask, -1, position // family.shots)
    cost, scored = {"examples": torch.full((rows,), steps)}, torch.zeros(rows, dtype=torch.bool)
    example = Trials(zeros, zeros, mask, episode, torch.arange(rows), cost=cost, scored=scored)
    return {name: value for name, value in vars(example).items() if name not in ("actions", "inputs", "task_keys")}


def load_learner(run: Path, recipe: Recipe) -> Any:
    """The trained learner of a run directory, from `run/model`, with its family as `.family`.

    Raises:
        ConfigError: where no trained model lies there.
    """
    from safetensors.torch import load_model

    path, trainer = trained_weights(run), import_trainer(recipe.trainer)
    args = recipe.build_args(trainer.args_class(), run)
    learner = trainer.build(problem_family(**recipe.problems), args)  # type: ignore[attr-defined]
    load_model(learner, path)
    return learner.eval()


def split(family: FewShot, x: Tensor, y: Tensor) -> tuple[list[Set], Set]:
    """The support sets, each (M, shots, ...), and the query set (M, queries, ...) of x and y (M, T, ...)."""
    n, edge = family.shots, family.stages * family.shots
    stages = [(x[:, i : i + n], y[:, i : i + n]) for i in range(0, edge, n)]
    return stages, (x[:, edge:], y[:, edge:])


def score_curve(learner: MetaLearner, stages: Sequence[Set], query: Set, steps: int | None = None) -> Tensor:
    """`FewShotLearner.curve` by gradient steps: those of training, or `steps` on the first support set.

    Adaptation is first order here, which moves the parameters just as second order does. Needs no gradients enabled.
    """
    inner = replace(learner.steps, order="first", steps=1)
    sets = list(stages) if steps is None else [stages[0]]
    each = learner.steps.steps if steps is None else steps
    theta = learner.theta
    phi = inner.init(theta)
    scores = [learner.family.scores(learner.predict(phi, query[0]), query[1])]
    for data in sets:
        for number in range(each):
            rates = theta.rates[min(number, len(theta.rates) - 1) :][:1] if theta.rates else ()
            phi = inner.adapt(Theta(theta.parameters, rates), phi, data)
            scores.append(learner.family.scores(learner.predict(phi, query[0]), query[1]))
    return torch.stack(scores, 1).detach()
