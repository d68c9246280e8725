"""Learning to learn using gradient descent (Hochreiter, Younger and Conwell 2001, ICANN).

An LSTM reads the examples of a task one after the other, each with the label of the one before, and predicts:

    min over theta of  E_task sum_t (LSTM_theta(x_t, y_(t-1); h_(t-1)) - y_t)^2        y_0 = 0, h_0 = 0

Its weights are then frozen: the learning algorithm is what its state does. That the label comes one step late is what
makes it learn to learn; shown at once, it would copy.

A task is a trial, an example an episode of one step; J_k is minus the squared error with k examples seen.

Deviations: Adam instead of plain gradient descent with momentum; the loss counts every example of a sequence alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from classic_metarl.problems.families import problem_family
from classic_metarl.problems.functions import VARIANCE, QuadraticFunctions, best_linear_errors, terms
from mrt.errors import ConfigError
from mrt.metrics.regret import cumulative_regret
from mrt.runs.recipe import Recipe
from mrt.runs.rundir import trained_weights
from mrt.trainer import TrialConfig, TrialTrainer
from mrt.training.collection import Batch
from mrt.trials import Trials


@dataclass
class HochreiterConfig(TrialConfig):
    """`per_device_train_batch_size` counts functions."""

    hidden_size: int = field(default=64, metadata={"help": "units of the LSTM"})
    learning_rate: float = 3e-3
    write_trials: bool = field(default=False, metadata={"help": "write every task to trials.jsonl"})


class SequenceLearner(nn.Module):
    """An LSTM over (x_t, y_(t-1)) and a linear output."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.lstm, self.out = nn.LSTM(inputs + 1, hidden, batch_first=True), nn.Linear(hidden, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Predictions (M, T, 1) of labels y (M, T, 1) at x (M, T, D); label t goes in at step t + 1."""
        before = torch.cat([torch.zeros_like(y[:, :1]), y[:, :-1]], 1)
        return self.out(self.lstm(torch.cat([x, before], -1))[0])


class HochreiterTrainer(TrialTrainer):
    """Backpropagation through the whole sequence of examples.

    Raises:
        ConfigError: for problems other than functions that are read example by example.
    """

    args: HochreiterConfig
    model: SequenceLearner
    tasks: QuadraticFunctions

    @classmethod
    def args_class(cls) -> type:
        return HochreiterConfig

    @classmethod
    def from_recipe(cls, recipe: Recipe, output_dir: Path) -> HochreiterTrainer:
        """The trainer of a recipe; `problems` is {name: quadratic-functions, examples: 12}."""
        args = recipe.build_args(cls.args_class(), output_dir)
        torch.manual_seed(args.seed)
        return cls(SequenceLearner(2, args.hidden_size), args, functions_of(recipe))

    def next_batch(self, indices: Sequence[int]) -> Batch:
        """The examples of new functions, drawn all at once; J_0..J_(T-1) in updates that are logged."""
        x, y = self.tasks.draw(self.args.seed, indices)
        with torch.no_grad():
            trials = self._trials(x, y, tuple(f"{self.args.seed}:{i}" for i in indices))
        if self.log_is_due() or self.args.write_trials:
            return self._recorded(trials)
        self.spend(trials)
        return Batch(trials, trials.mask.float())

    def _trials(self, x: Tensor, y: Tensor, keys: tuple[str, ...]) -> Trials:
        rows, steps = y.shape[:2]
        x, y = x.to(self.args.device), y.to(self.args.device)
        rewards, values = torch.zeros(rows, steps), torch.full((rows, steps + 1), torch.nan)
        if self.log_is_due():
            rewards = -(self.model(x, y) - y).square()[..., 0].cpu()
            values[:, :steps] = rewards
            self._log_regret(x.cpu(), rewards)
        return Trials(
            actions=y,
            rewards=rewards.to(y.device),
            mask=torch.ones(rows, steps, dtype=torch.bool, device=y.device),
            episode=torch.arange(steps, device=y.device).expand(rows, steps),
            group=torch.arange(rows, device=y.device),
            inputs={"x": x},
            stop_values=values.to(y.device),
            stop_value_se=torch.zeros_like(values).to(y.device),
            cost={"examples": torch.full((rows,), steps, device=y.device)},
            task_keys=keys,
        )

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The mean squared error over all examples."""
        trials = batch.trials
        error = (self.model_wrapped(trials.inputs["x"], trials.actions) - trials.actions).square()[..., 0]
        return {"policy": (batch.weights * error).sum() / batch.weights.sum()}

    def _log_regret(self, x: Tensor, rewards: Tensor) -> None:
        """Regret to the best linear estimate, as a share of that of the predictor 0."""
        table, oracle = rewards.double().numpy(), -best_linear_errors(x).numpy()
        floor = -(VARIANCE * terms(x).square().sum(-1)).double().numpy()
        lost, span = (float(np.sum(cumulative_regret(one, oracle))) for one in (table, floor))
        self.log_metric("regret/stop", lost / span)
        for k in (0, 3, 6, 10):
            if k < rewards.shape[1]:
                self.log_metric(f"mse/{k}", -float(rewards[:, k].mean()))


def functions_of(recipe: Recipe) -> QuadraticFunctions:
    """The problems of a recipe.

    Raises:
        ConfigError: for others, and for a model or adapter, which this system builds itself.
    """
    if recipe.model or recipe.peft is not None:
        raise ConfigError(f"{recipe.trainer} builds its own network (args.hidden_size): leave out model and peft")
    family = problem_family(**recipe.problems)
    if not isinstance(family, QuadraticFunctions):
        raise ConfigError(f"{recipe.trainer} reads problems: {{name: quadratic-functions}}, not {family.name}")
    return family


def load_sequence_learner(run: Path, recipe: Recipe) -> SequenceLearner:
    """The trained learner of a run directory. Raises ConfigError where no trained model lies there."""
    from safetensors.torch import load_model

    args: Any = recipe.build_args(HochreiterConfig, run)
    learner = SequenceLearner(2, args.hidden_size)
    load_model(learner, trained_weights(run))
    return learner.eval()
