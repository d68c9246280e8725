"""ANIL: almost no inner loop. Only the last layer adapts, the features below it are shared by all tasks.

    phi_i = (theta_body, theta_head - alpha grad_head L_i(theta; D_i))      outer gradient as in MAML, through both

Raghu, Raghu, Bengio & Vinyals 2020, 1909.09157, section 4.

Deviations: those of `maml.py`.
"""

from __future__ import annotations

from typing import Any

from classic_metarl.trainers.few_shot import FewShotTrainer, MetaLearner, inner_loop


class ANILTrainer(FewShotTrainer):
    """MAML whose inner loop moves the head alone."""

    @classmethod
    def build(cls, family: Any, args: Any) -> MetaLearner:
        net = family.network(args.hidden, args.activation)
        return MetaLearner(net, family, inner_loop(net, family, args, "second", adapted=(net.head,)))
