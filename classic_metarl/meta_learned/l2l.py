"""L2L: the update rule itself is an LSTM, the same for every coordinate of what it optimises.

    theta_(t+1) = theta_t + g_t       g_t, h_(t+1) = m(grad f(theta_t), h_t; phi)       L(phi) = E_f sum_t f(theta_t)

Andrychowicz et al. 2016, 1606.04474, equations 2 and 3: two LSTM layers of 20 units, gradients given as (log |g| / p,
sign g) with p = 10 (appendix A), truncated backpropagation over 20 of 100 steps, gradients grad f taken as constants.

On random quadratics f(theta) = |W theta - y|^2, 10 dimensions, entries of W and y standard normal, theta_0 = 0,
f(theta_0) is 10 on average. After 100 steps tuned SGD (0.015) is at 0.85, tuned Adam (0.3) at 0.33: what a learned
rule has to beat. It was trained for 100 steps and does not work well beyond them.

Deviations: W and y Gaussian as in the paper's text (its code draws them from [0, 1]); the meta-batch is one batch of
functions, coordinates and functions folded into the rows of the LSTM.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from classic_metarl.problems.quadratics import Quadratics, quadratic
from mrt.errors import ConfigError
from mrt.runs.recipe import Recipe
from mrt.tasks import Task
from mrt.trainer import TrialConfig, TrialTrainer
from mrt.training.codec import tree_to
from mrt.training.collection import Batch
from mrt.trials import Trials

States = list[tuple[Tensor, Tensor]]  # of each layer: hidden and cell (M D, H)


def log_sign(gradient: Tensor, p: float = 10.0) -> Tensor:
    """(..., 2): (log |g| / p, sign g) where |g| >= e^-p, else (-1, e^p g), so that small gradients stay apart."""
    size = gradient.abs()
    large = size >= torch.e**-p
    first = torch.where(large, size.clamp(min=1e-38).log() / p, -1.0)
    return torch.stack([first, torch.where(large, gradient.sign(), torch.e**p * gradient)], -1)


class LearnedOptimizer(nn.Module):
    """m: two LSTM layers and a linear map to the update of one coordinate, which starts at `scale` times small."""

    def __init__(self, hidden: int = 20, layers: int = 2, scale: float = 0.1) -> None:
        super().__init__()
        sizes = [2, *[hidden] * layers]
        self.cells = nn.ModuleList(nn.LSTMCell(a, b) for a, b in pairwise(sizes))
        self.out, self.scale = nn.Linear(hidden, 1), scale

    def start(self, rows: int) -> States:
        """Initial states of `rows` coordinates."""
        zeros = [next(self.parameters()).new_zeros(rows, self.out.in_features) for _ in self.cells]
        return [(zero, zero) for zero in zeros]

    def step(self, gradient: Tensor, states: States) -> tuple[Tensor, States]:
        """gradient (M, D) -> update (M, D) and the states."""
        x, new = log_sign(gradient.detach()).flatten(0, 1), []
        for cell, state in zip(self.cells, states, strict=True):
            x, memory = cell(x, state)
            new.append((x, memory))
        return self.scale * self.out(x)[..., 0].view_as(gradient), new

    def forward(self, matrix: Tensor, target: Tensor, theta: Tensor, states: States, steps: int) -> Any:
        """Optimises for `steps` steps: losses (M, steps) behind each, theta (M, D) and the states."""
        losses = []
        for _ in range(steps):
            _, gradient = quadratic(matrix, target, theta.detach())
            update, states = self.step(gradient, states)
            theta = theta + update
            losses.append(quadratic(matrix, target, theta)[0])
        return torch.stack(losses, 1), theta, states


@dataclass
class L2LConfig(TrialConfig):
    """Arguments of `L2LTrainer`."""

    horizon: int = field(default=100, metadata={"help": "steps for which a function is optimised"})
    unroll: int = field(default=20, metadata={"help": "steps between two updates of the optimiser"})
    write_trials: bool = field(default=False, metadata={"help": "write every function to trials.jsonl"})

    def __post_init__(self) -> None:
        if self.unroll < 1 or self.horizon % self.unroll:
            raise ConfigError(f"horizon={self.horizon} must be a multiple of unroll={self.unroll}")
        super().__post_init__()


class L2LTrainer(TrialTrainer):
    """One update is one unrolled stretch; after horizon / unroll of them come new functions."""

    args: L2LConfig
    model: LearnedOptimizer
    tasks: Quadratics

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.run: dict[str, Any] = {}
        self.register_state("run", (lambda: dict(self.run), self._load_run))

    @classmethod
    def args_class(cls) -> type:
        return L2LConfig

    @classmethod
    def from_recipe(cls, recipe: Recipe, output_dir: Path) -> L2LTrainer:
        """The trainer of a recipe; `problems` is {name: quadratics, dimensions: 10}."""
        args = recipe.build_args(L2LConfig, output_dir)
        options = dict(recipe.problems)
        if options.pop("name", "quadratics") != "quadratics" or set(options) - {"dimensions"}:
            raise ConfigError(f"{recipe.trainer} optimises problems: {{name: quadratics, dimensions: 10}}")
        torch.manual_seed(args.seed)
        return cls(LearnedOptimizer(), args, Quadratics(**options))

    def collect(self, tasks: Sequence[Task]) -> Trials:
        """The functions and where their optimisation stands: one row a function, one step a stretch."""
        if not self.run or self.run["steps"] >= self.args.horizon:
            matrix, target = (part.to(self.args.device) for part in self.tasks.batch(tasks))
            states = [list(pair) for pair in self.model.start(target.numel())]
            keys = [task.key for task in tasks]
            start = {"matrix": matrix, "target": target, "theta": torch.zeros_like(target), "states": states}
            self.run.update(start | {"keys": keys, "steps": 0})
        run, rows = self.run, len(self.run["theta"])
        value, _ = quadratic(run["matrix"], run["target"], run["theta"])
        self.log_metric(f"f/{run['steps']}", float(value.mean()))
        return Trials(
            actions=run["theta"][:, None],
            rewards=-value[:, None],
            mask=torch.ones(rows, 1, dtype=torch.bool, device=value.device),
            episode=torch.zeros(rows, 1, dtype=torch.long, device=value.device),
            group=torch.arange(rows, device=value.device),
            inputs={"matrix": run["matrix"][:, None], "target": run["target"][:, None]},
            cost={"gradients": torch.full((rows,), self.args.unroll, device=value.device)},
            task_keys=tuple(run["keys"]),
        )

    def _load_run(self, state: Any) -> None:
        self.run.update(tree_to(state, self.args.device))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The mean of f over the stretch; what it leads to is kept for the next."""
        run, steps = self.run, self.args.unroll
        states = [(hidden, cell) for hidden, cell in run["states"]]
        losses, theta, states = self.model_wrapped(run["matrix"], run["target"], run["theta"], states, steps)
        kept = [[part.detach() for part in pair] for pair in states]
        self.run.update({"theta": theta.detach(), "states": kept, "steps": run["steps"] + steps})
        return {"policy": (losses.mean(1) * batch.weights[:, 0]).mean()}


@torch.no_grad()
def optimise(rule: Callable[[int, Tensor], Tensor], matrix: Tensor, target: Tensor, steps: int) -> Tensor:
    """(M, steps + 1) f along the way of any rule (step, gradient (M, D)) -> update (M, D)."""
    theta = torch.zeros_like(target)
    values = []
    for step in range(steps + 1):
        value, gradient = quadratic(matrix, target, theta)
        values.append(value)
        theta = theta + rule(step, gradient)
    return torch.stack(values, 1)


def learned_rule(model: LearnedOptimizer, rows: int) -> Callable[[int, Tensor], Tensor]:
    """A trained optimiser as a rule, its states kept between the calls; rows = M D."""
    states = model.start(rows)

    def rule(step: int, gradient: Tensor) -> Tensor:
        nonlocal states
        update, states = model.step(gradient, states)
        return update

    return rule


def sgd_rule(rate: float = 0.015) -> Callable[[int, Tensor], Tensor]:
    """Gradient descent."""
    return lambda step, gradient: -rate * gradient


def adam_rule(rate: float = 0.3, beta1: float = 0.9, beta2: float = 0.999) -> Callable[[int, Tensor], Tensor]:
    """Adam (Kingma & Ba 2015, 1412.6980, algorithm 1)."""
    moments: list[Tensor] = []

    def rule(step: int, gradient: Tensor) -> Tensor:
        first, second = moments or [torch.zeros_like(gradient)] * 2
        first = beta1 * first + (1 - beta1) * gradient
        second = beta2 * second + (1 - beta2) * gradient**2
        moments[:] = [first, second]
        mean, square = first / (1 - beta1 ** (step + 1)), second / (1 - beta2 ** (step + 1))
        return -rate * mean / (square.sqrt() + 1e-8)

    return rule
