"""ProMP, proximal meta-policy search: several meta-updates on what was collected once.

    max over theta of  mean_i J^CLIP(phi_i) - eta KL(pi_theta_o, pi_theta)        phi_i = theta + alpha grad J^LR(theta)

Rothfuss, Lee, Clavera, Asfour & Abbeel 2019, 1810.06784, equations 9 to 11. theta_o acted, in every stage. The inner
step is taken again from the current theta in every update, on likelihood ratios to theta_o: at theta = theta_o its
derivative is that of the low variance curvature estimator. The outer objective is PPO's with clip, the penalty keeps
the pre-update policy close to the one whose episodes are used.

Deviations: the divergence is estimated from the recorded actions (`estimators.behaviour_kl`), the coefficient is fixed
(as in the authors' point runs), and several inner steps weigh their penalties equally.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from classic_metarl.inner import estimators
from classic_metarl.inner.stages import stage, task_means
from classic_metarl.trainers.meta_rl import GradientRLTrainer
from classic_metarl.trainers.meta_rl_config import GradientRLConfig
from mrt.training.collection import Batch
from mrt.trials import Trials


@dataclass
class ProMPConfig(GradientRLConfig):
    """The authors' point runs: Adam at 1e-3, five updates a collection, clip 0.3, eta 5e-4."""

    learning_rate: float = 1e-3
    epochs: int = 5
    surrogate: str = "likelihood_ratio"
    max_grad_norm: float = 0.0
    clip: float = field(default=0.3, metadata={"help": "ratios of the adapted policies count within 1 +- clip"})
    penalty: float = field(default=5e-4, metadata={"help": "eta, weight of the divergence of the inner policies"})


class ProMPTrainer(GradientRLTrainer):
    """ProMP, by the optimiser of the arguments."""

    args: ProMPConfig

    @classmethod
    def args_class(cls) -> type:
        return ProMPConfig

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Minus the clipped objective of the adapted policies, and the penalty on those before."""
        k = self.args.inner_steps
        last = stage(batch, k)

        def objective() -> Tensor:
            phis, net = self.adapted(batch), self.learner.net
            logprobs = net.logprobs(phis[k], last.trials)
            each = estimators.clipped(logprobs, last.weights, last.trials, self.args.clip)
            kl = torch.stack([self._divergence(phis[j], stage(batch, j).trials) for j in range(k)]).mean()
            with torch.no_grad():
                self.log_metric("kl/inner", float(kl))
                self.log_metric("kl/outer", float(estimators.behaviour_kl(logprobs, last.trials).mean()))
            return self.args.penalty * kl - task_means(each, last.trials).mean()

        return {"policy": self.model_wrapped(objective)}

    def _divergence(self, phi: dict[str, Tensor], trials: Trials) -> Tensor:
        return estimators.behaviour_kl(self.learner.net.logprobs(phi, trials), trials).mean()
