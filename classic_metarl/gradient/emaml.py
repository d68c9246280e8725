"""E-MAML: MAML whose initial policy also answers for the episodes that adaptation is given.

    grad E_tau E_tau'[R(tau')] = MAML's term + E[R(tau') grad sum_j log pi_(phi_j)(tau_j)]        j < k

Stadie et al. 2018, 1803.01118, equation 4: tau are the episodes with theta, tau' those with phi = theta + alpha grad
U(theta; tau). MAML takes tau for given; the second term prefers what leads to a better phi: exploration.

As in the code of ProMP's authors, which compares the two, R(tau') is the task's mean return after adaptation, less the
mean over the tasks and divided by their deviation, log-probabilities are averaged over the steps of the task, and the
meta-update is TRPO's.

Deviations from the paper: TRPO instead of PPO.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from classic_metarl.gradient.maml_trpo import MAMLTRPOConfig, MAMLTRPOTrainer
from classic_metarl.inner import estimators
from classic_metarl.inner.gradient_steps import Tree
from classic_metarl.inner.stages import stage, task_means
from mrt.credit.grouping import group_mean
from mrt.training.collection import Batch
from mrt.trials import Trials


@dataclass
class EMAMLConfig(MAMLTRPOConfig):
    """MAML-TRPO's, and the weight of what it leaves out."""

    sampling: float = field(default=1.0, metadata={"help": "weight of the sampling term; 0 is MAML"})


class EMAMLTrainer(MAMLTRPOTrainer):
    """MAML-TRPO with the sampling term."""

    args: EMAMLConfig

    @classmethod
    def args_class(cls) -> type:
        return EMAMLConfig

    def meta_objective(self, phis: list[Tree], batch: Batch) -> Tensor:
        """MAML's, and the sampling term of every stage that adaptation saw."""
        gain = super().meta_objective(phis, batch)
        earned = standardised(stage(batch, self.args.inner_steps).trials)
        for number in range(self.args.inner_steps):
            seen = stage(batch, number).trials
            logprobs = self.learner.net.logprobs(phis[number], seen)
            each = estimators.sampling_term(logprobs, seen, earned)
            gain = gain + self.args.sampling * task_means(each, seen).mean()
        return gain


def standardised(trials: Trials) -> Tensor:
    """(M,) mean return of each task's rows, to mean 0 and deviation 1 over the tasks; 0 for a single one."""
    returns = group_mean(trials.returns, trials.group)
    deviation = returns.std() if len(returns) > 1 else torch.ones(())
    return (returns - returns.mean()) / (deviation + 1e-8)
