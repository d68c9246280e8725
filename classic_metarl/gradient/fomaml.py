"""FOMAML: MAML whose inner gradients count as constants.

    theta <- theta - beta sum_i grad L_i(phi_i; D'_i), taken at phi_i = theta - alpha [grad L_i(theta; D_i)]

Finn, Abbeel & Levine 2017, 1703.03400, section 5.2 ("first-order approximation"); Nichol, Achiam & Schulman 2018,
1803.02999, section 3. To first order in alpha its gradient is AvgGrad - alpha AvgGradInner, MAML's AvgGrad - 2 alpha
AvgGradInner: half of the pull towards steps that agree between batches.

Deviations: those of `maml.py`.
"""

from __future__ import annotations

from typing import Any

from classic_metarl.trainers.few_shot import FewShotTrainer, MetaLearner, inner_loop


class FOMAMLTrainer(FewShotTrainer):
    """MAML, first order."""

    @classmethod
    def build(cls, family: Any, args: Any) -> MetaLearner:
        net = family.network(args.hidden, args.activation)
        return MetaLearner(net, family, inner_loop(net, family, args, "first"))
