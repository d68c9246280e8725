"""MOLe, meta-learning for online learning: a growing mixture of models, each for a task that has been met.

    P(T = i | s, a, s')  ~  N(s' - s; f_i(s, a), scale^2) P(i)        P(i) = n_i, and `concentration` for a new one
    theta_i <- theta_i - psi P(T = i | ...) grad |f_i(s, a) - (s' - s)|^2
    n_i     <- n_i + P(T = i | ...)

(a Chinese-restaurant prior). A step that a new model, which begins at GrBAL's theta, explains best opens a
component. The likeliest component plans. What was met before is recalled by one step instead of learned again.
Nagabandi, Finn & Levine 2019, 1812.07671, "Deep online learning via meta-learning: continual adaptation for model-based
RL".

Trained as GrBAL is: theta and psi are the same. Deviations: one gradient step a component and step of the environment,
on that step alone; at most `components`, and a new task then goes to the one that explains it best; the posterior is
that of the last step with the counts as prior, without a transition model of its own.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from classic_metarl.inner.gradient_steps import Tree
from classic_metarl.model_based.grbal import GrBAL, GrBALConfig, GrBALTrainer
from classic_metarl.model_based.model_agent import Transition
from classic_metarl.model_based.planning import Model


class MOLeConfig(GrBALConfig):
    """`GrBALConfig`, and the most `components`, the `concentration` of the prior and the `scale` of the likelihood."""

    model_type = "mrt-mole"

    def __init__(
        self, *args: Any, components: int = 4, concentration: float = 0.1, scale: float = 0.05, **kwargs: Any
    ) -> None:
        self.components, self.concentration, self.scale = components, concentration, scale
        super().__init__(*args, **kwargs)


class Mixture(NamedTuple):
    """Of B tasks and C components: their parameters `phi` {name: (B, C, ...)}, `counts` (B, C), 0 for one that is not
    there, and which one plans, `now` (B,).
    """

    phi: Tree
    counts: Tensor
    now: Tensor


class MOLe(GrBAL):
    """The agent."""

    config_class: type[Any] = MOLeConfig

    def begin(self, rows: int) -> Mixture:
        size = self.config.components
        theta = self.initial.theta.parameters
        phi = {name: value.detach().expand(rows, size, *value.shape).clone() for name, value in theta.items()}
        counts = torch.zeros(rows, size, device=self.device)
        return Mixture(phi, counts, torch.zeros(rows, dtype=torch.long, device=self.device))

    def learn(self, memory: Mixture, step: Transition) -> Mixture:
        config, phi, counts = self.config, memory.phi, memory.counts
        errors = self._errors(phi, step)  # (B, C); the slots without a component hold theta
        free = counts <= 0
        opens = free & (free.cumsum(1) == 1)  # the next slot stands for a new component
        prior = torch.where(opens, config.concentration, counts)
        score = prior.log() - errors / (2 * config.scale**2)
        posterior = torch.softmax(score, 1)
        chosen = posterior.argmax(1)
        new = opens & (torch.arange(config.components, device=chosen.device) == chosen[:, None])
        posterior = torch.where(free & ~new, 0.0, posterior)
        posterior = posterior / posterior.sum(1, keepdim=True)
        posterior = torch.where(step.there[:, None], posterior, 0.0)
        now = torch.where(step.there, chosen, memory.now)
        return Mixture(self._stepped(phi, step, posterior), counts + posterior, now)

    def changes(self, memory: Mixture) -> Model:
        rows = torch.arange(len(memory.now), device=memory.now.device)
        phi = {name: value[rows, memory.now] for name, value in memory.phi.items()}
        return lambda now, actions: vmap(self.predict)(phi, now, actions)

    def _errors(self, phi: Tree, step: Transition) -> Tensor:
        def of_one(own: Tree, observation: Tensor, action: Tensor, change: Tensor) -> Tensor:
            return (self.predict(own, observation, action) - change).square().sum(-1)

        each = vmap(of_one, in_dims=(0, None, None, None))
        return vmap(each)(phi, step.observation, step.action, step.change)

    def _stepped(self, phi: Tree, step: Transition, posterior: Tensor) -> Tree:
        """Every component after its gradient step, as long as its share says."""
        rates = self.initial.theta.rates[0]
        size = posterior.shape[1]
        data = tuple(part[:, None, None].expand(-1, size, 1, -1).flatten(0, 1) for part in step[:3])
        flat = {name: value.flatten(0, 1) for name, value in phi.items()}
        slopes = vmap(self.inner.gradient)(flat, data)
        weight = posterior.flatten()
        moved = {}
        for name, value in flat.items():
            share = weight.view(-1, *[1] * (value.ndim - 1))
            moved[name] = (value - share * rates[name] * slopes[name]).detach().view_as(phi[name])
        return moved


class MOLeTrainer(GrBALTrainer):
    """Trains theta and psi, as GrBAL's."""

    policy_class: type[Any] = MOLe
