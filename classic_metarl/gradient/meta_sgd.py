"""Meta-SGD: initialisation and step sizes are learned together, one step size for every entry of the weights.

    phi_i = theta - alpha * grad L_i(theta; D_i)     (theta, alpha) <- (theta, alpha) - beta grad sum_i L_i(phi_i; D'_i)

Li, Zhou, Chen & Li 2017, 1707.09835, algorithm 1. alpha is as large as theta and may turn negative.

Deviations: alpha starts at `inner_rate` everywhere, as MAML's does, instead of uniformly in [0.005, 0.1], so that the
two differ in nothing else; Adam as everywhere here.
"""

from __future__ import annotations

from typing import Any

from classic_metarl.inner.gradient_steps import parameters_of, rates_like
from classic_metarl.trainers.few_shot import FewShotTrainer, MetaLearner, inner_loop


class MetaSGDTrainer(FewShotTrainer):
    """MAML with a learned step size for every entry.

    Trained for the very number of steps it takes: with more, its step sizes overshoot (see `loss_curves.py` for what
    diverged).
    """

    @classmethod
    def build(cls, family: Any, args: Any) -> MetaLearner:
        net = family.network(args.hidden, args.activation)
        rates = rates_like({n: p.detach() for n, p in parameters_of(net).items()}, args.inner_rate)
        return MetaLearner(net, family, inner_loop(net, family, args, "second"), [rates])
