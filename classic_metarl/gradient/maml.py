"""MAML: an initialisation from which one gradient step on a few examples of a task goes far.

    phi_i = theta - alpha grad L_i(theta; D_i)            theta <- theta - beta grad_theta sum_i L_i(phi_i; D'_i)

Finn, Abbeel & Levine 2017, 1703.03400, algorithm 2. The outer gradient goes through the inner one (second order).

Deviations: new tasks in every update instead of an epoch over a fixed set; the outer loss is the mean over the
meta-batch instead of the sum; as in the paper, and unlike the command in the authors' README, alpha is 0.01.
"""

from __future__ import annotations

from typing import Any

from classic_metarl.trainers.few_shot import FewShotTrainer, MetaLearner, inner_loop


class MAMLTrainer(FewShotTrainer):
    """MAML, second order."""

    @classmethod
    def build(cls, family: Any, args: Any) -> MetaLearner:
        net = family.network(args.hidden, args.activation)
        return MetaLearner(net, family, inner_loop(net, family, args, "second"))
