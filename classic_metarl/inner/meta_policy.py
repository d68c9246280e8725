"""theta of gradient-based meta-RL: a policy to adapt from, and its gradient step on a task's episodes.

    phi_(j+1) = phi_j + alpha_j grad U(phi_j; D_j)            D_j: episodes of the task with phi_j

U is one of `SURROGATES`, those of `estimators.py` averaged over the acting steps of a task, so that step sizes are the
papers'.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from classic_metarl.inner import estimators
from classic_metarl.inner.gradient_steps import GradientSteps, Initial, Order, Theta, Tree
from classic_metarl.inner.stages import as_batch, as_data, task_means
from classic_metarl.inner.task_policy import TaskPolicy
from mrt.training.collection import Batch
from mrt.trials import Trials

Surrogate = Callable[[Tensor, Tensor, Trials], Tensor]  # log-probabilities, weights, trials -> (B,) to maximise
SURROGATES: dict[str, Surrogate] = {
    "naive": estimators.naive,
    "dice": lambda logprobs, weights, trials: estimators.dice(logprobs, trials),
    "loaded_dice": estimators.loaded_dice,
    "lvc": estimators.lvc,
    "likelihood_ratio": estimators.likelihood_ratio,
}


class MetaPolicy(Initial):
    """theta: a policy to adapt from, the inner step, and learned step sizes where there are any."""

    net: TaskPolicy

    def __init__(self, net: TaskPolicy, steps: GradientSteps, inner_rates: Sequence[float], rates: Sequence[Tree] = ()):
        super().__init__(net, rates)
        self.steps, self.inner_rates = steps, list(inner_rates)

    def forward(self, objective: Callable[[], Tensor]) -> Tensor:
        """objective(), entered here so that several processes synchronise its gradients."""
        return objective()

    def start(self, tasks: Tensor | None = None) -> Tree:
        """phi_0 of the training tasks numbered `tasks` (M,), or of tasks never met. Here theta for all of them."""
        return self.steps.init(self.theta)

    def player(self, phi: Tree, number: int) -> tuple[TaskPolicy, Tree]:
        """Who plays stage `number`, and by what weights: here the policy with phi."""
        return self.net, phi

    def adapt(self, phi: Tree, number: int, batch: Batch, order: Order | None = None) -> Tree:
        """phi after gradient step `number` (from 0) on the episodes of one stage, (M, ...)."""
        theta = self.theta
        chosen = theta.rates[min(number, len(theta.rates) - 1) :][:1] if theta.rates else ()
        rate = self.inner_rates[min(number, len(self.inner_rates) - 1)]
        steps = replace(self.steps, rate=rate, order=order or self.steps.order)
        return steps.adapt(Theta(theta.parameters, chosen), phi, as_data(batch))


def surrogate_of(name: str, gamma: float) -> Surrogate:
    """The inner objective `name` of `SURROGATES`; DiCE sums rewards itself and discounts them by `gamma`."""
    if name == "dice":
        return lambda logprobs, weights, trials: estimators.dice(logprobs, trials, gamma)
    return SURROGATES[name]


def inner_loop(
    net: TaskPolicy, surrogate: str, order: Order = "second", gamma: float = 1.0, **options: Any
) -> GradientSteps:
    """Gradient steps on minus the surrogate of each task, tasks folded into one batch."""
    function = surrogate_of(surrogate, gamma)

    def loss(phi: Tree, data: Tree) -> Tensor:
        batch = as_batch(data)
        trials = batch.trials
        return -task_means(function(net.logprobs(phi, trials), batch.weights, trials), trials)

    return GradientSteps(loss, order=order, over="fold", **options)
