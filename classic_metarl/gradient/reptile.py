"""Reptile: move the initialisation towards where training on a task leads.

    phi_i = U^k_i(theta), k SGD steps on k minibatches of task i         theta <- theta + eps mean_i (phi_i - theta)

Nichol, Achiam & Schulman 2018, 1803.02999, algorithm 2. There is no outer loss: `update` sets the parameters. To first
order in the inner step size its direction is k AvgGrad - (k (k-1) / 2) alpha AvgGradInner; with k = 1 it is joint
training and nothing is meta-learned. `eps` (learning_rate) has to be annealed: lr_scheduler_type=linear.

Deviations: inner steps are plain SGD, without Adam's first moment, as in the paper's sinusoid.
"""

from __future__ import annotations

from typing import Any

import torch

from classic_metarl.trainers.few_shot import FewShotTrainer, MetaLearner, inner_loop
from mrt.training.collection import Batch


class ReptileTrainer(FewShotTrainer):
    """Reptile; `problems.stages` minibatches of `problems.shots` examples a task, `inner_steps` steps on each."""

    model: MetaLearner

    @classmethod
    def build(cls, family: Any, args: Any) -> MetaLearner:
        net = family.network(args.hidden, args.activation)
        return MetaLearner(net, family, inner_loop(net, family, args, "first"))

    def update(self, batch: Batch) -> bool:
        """theta <- theta + eps mean_i (phi_i - theta), eps the scheduled learning rate."""
        stages, _ = self.sets(batch.trials)
        theta = self.model.theta
        phi = self.model.steps.trajectory(theta, stages)[-1]
        rate = self._get_learning_rate()
        with torch.no_grad():
            for name, parameter in theta.parameters.items():
                if not parameter.requires_grad:
                    continue
                moved = phi[name].detach().mean(0) - parameter
                if self.args.world_size > 1:
                    moved = self.accelerator.reduce(moved, "mean")
                parameter.add_(moved, alpha=rate)
        return True
