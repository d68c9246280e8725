"""MAML for reinforcement learning: a policy from which one policy-gradient step on a few episodes goes far.

    phi_i = theta + alpha grad U(theta; D_i)        max over theta of mean_i E[ratio A](phi_i; D'_i),  mean KL <= delta

Finn, Abbeel & Levine 2017, 1703.03400, algorithm 3: U is REINFORCE's surrogate with a linear-feature baseline fitted to
each task, D_i are episodes with theta, D'_i with phi_i; the meta-update is TRPO's (1502.05477), its gradient second
order, its divergence that of the adapted policies. `surrogate` chooses among the estimators of the inner step: `naive`,
as in the authors' code, misses the terms of the second derivative that `dice` and `lvc` hold (`estimators.py`).
`order: first` is FOMAML.

Deviations: Fisher-vector products are exact and not finite differences of gradients; they may be taken on a share of
each task's episodes (`curvature_share`); the line search still sees all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from classic_metarl.inner import estimators
from classic_metarl.inner.gradient_steps import Tree
from classic_metarl.inner.stages import stage, task_means
from classic_metarl.trainers.meta_rl import GradientRLTrainer
from classic_metarl.trainers.meta_rl_config import GradientRLConfig
from mrt.errors import ConfigError
from mrt.optim.trust_region import TrustRegion
from mrt.training.collection import Batch


@dataclass
class MAMLTRPOConfig(GradientRLConfig):
    """One trust-region step a collection; `learning_rate` has no part in it.

    Raises:
        ConfigError: for several updates a collection, or an invalid trust region.
    """

    max_kl: float = field(
        default=0.01, metadata={"help": "mean KL divergence of the adapted policies a step may reach"}
    )
    damping: float = field(default=1e-5, metadata={"help": "added to the Fisher matrix"})
    cg_iterations: int = field(default=10, metadata={"help": "conjugate-gradient iterations"})
    curvature_share: float = field(
        default=1.0, metadata={"help": "share of each task's episodes for the Fisher matrix"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epochs > 1:
            raise ConfigError(f"epochs={self.epochs}: TRPO takes one step on a whole collection")
        if not 0 < self.curvature_share <= 1:
            raise ConfigError(f"curvature_share={self.curvature_share} must be above 0 and at most 1")
        self.trust_region()

    def trust_region(self) -> TrustRegion:
        """The step that these arguments describe."""
        return TrustRegion(max_kl=self.max_kl, damping=self.damping, iterations=self.cg_iterations)


class MAMLTRPOTrainer(GradientRLTrainer):
    """MAML with TRPO. A system that differs in the outer objective alone overrides `meta_objective`.

    Raises:
        ConfigError: in several processes.
    """

    args: MAMLTRPOConfig

    def __init__(self, model: Any, args: Any, tasks: Any, **kwargs: Any) -> None:
        super().__init__(model, args, tasks, **kwargs)
        if args.world_size > 1:
            raise ConfigError("TRPO's step is taken in one process; ProMP trains in several")

    @classmethod
    def args_class(cls) -> type:
        return MAMLTRPOConfig

    def update(self, batch: Batch) -> bool:
        """A trust-region step on theta, and on step sizes where they are learned."""
        parameters = self.region()
        part = fewer(batch, self.args.episodes, self.args.curvature_share)
        with torch.no_grad():
            old, old_part = (self._adapted_logits(each) for each in (batch, part))

        def evaluate() -> tuple[Tensor, Tensor]:
            phis = self.adapted(batch, None if torch.is_grad_enabled() else "first")
            return self.meta_objective(phis, batch), self._divergence(phis, batch, old)

        def curvature() -> Tensor:
            return self._divergence(self.adapted(part), part, old_part)

        facts = self.args.trust_region().step(parameters, evaluate, None if part is batch else curvature)
        for name in ("kl", "accepted", "backtracks"):
            self.log_metric(f"trpo/{name}", facts[name])
        self.log_metric("trpo/gain", facts["surrogate"] - facts["surrogate_before"])
        return True

    def region(self) -> list[Any]:
        """The parameters that the step moves."""
        return [p for p in self.learner.parameters() if p.requires_grad]

    def meta_objective(self, phis: list[Tree], batch: Batch) -> Tensor:
        """What is maximised: the mean over tasks and steps of ratio times credit in the last stage."""
        last = stage(batch, self.args.inner_steps)
        logprobs = self.learner.net.logprobs(phis[-1], last.trials)
        return task_means(estimators.likelihood_ratio(logprobs, last.weights, last.trials), last.trials).mean()

    def _adapted_logits(self, batch: Batch) -> Tensor:
        return self.learner.net.logits(self.adapted(batch, "first")[-1], stage(batch, self.args.inner_steps).trials)

    def _divergence(self, phis: list[Tree], batch: Batch, old: Tensor) -> Tensor:
        """Mean KL divergence over the steps of the last stage, from the policies that acted to the adapted ones."""
        last, net = stage(batch, self.args.inner_steps).trials, self.learner.net
        return net.distribution.kl(old, net.logits(phis[-1], last))[last.mask].mean()


def fewer(batch: Batch, episodes: int, share: float) -> Batch:
    """The first share of each task's trials, at least one; the very same object for all of them."""
    kept = max(1, round(share * episodes))
    if kept == episodes:
        return batch
    rows = torch.arange(len(batch), device=batch.weights.device) % episodes < kept
    index = torch.nonzero(rows)[:, 0]
    part = batch.rows(index)
    return replace(part, trials=replace(part.trials, task_keys=()))
