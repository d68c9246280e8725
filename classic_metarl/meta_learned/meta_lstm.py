"""Meta-learner LSTM: the weights of the learner are the cell state of an LSTM that sees gradients and losses.

    theta_t = f_t * theta_(t-1) + i_t * (-grad L_t)
    f_t = sigma(W_F [h_t, theta_(t-1), f_(t-1)] + b_F)        i_t = sigma(W_I [h_t, theta_(t-1), i_(t-1)] + b_I)

h_t is the output of an ordinary LSTM on (grad L_t, L_t), each as (log, sign); all coordinates share the meta-learner,
theta_0 is learned. Ravi & Larochelle 2017, "Optimization as a model for few-shot learning", section 3.2. f starts
near 1 and i near `inner_rate`, that is, at gradient descent. Gradients count as constants (section 3.4).

Deviations: the whole support set at every step; no batch normalisation in the learner, so none of its statistics leak.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from classic_metarl.inner.gradient_steps import GradientSteps, Theta, Tree, check_adaptable, frozen_in, parameters_of
from classic_metarl.meta_learned.l2l import log_sign
from classic_metarl.trainers.few_shot import FewShotLearner, FewShotTrainer, Set, inner_loop, predict
from mrt.errors import ConfigError


class MetaLSTM(FewShotLearner):
    """theta_0 and the gates. Coordinates of all tasks are the rows of the LSTM: its weights are shared by all."""

    def __init__(self, net: nn.Module, family: Any, inner: GradientSteps, *, steps: int, rate: float, hidden: int = 20):
        super().__init__()
        check_adaptable(net)
        self.net, self.family, self.inner, self.number = net, family, inner, steps
        self.cell = nn.LSTMCell(4, hidden)
        self.forget, self.input = nn.Linear(hidden + 2, 1), nn.Linear(hidden + 2, 1)
        for gate, bias in ((self.forget, 6.0), (self.input, math.log(rate / (1 - rate)))):
            nn.init.normal_(gate.weight, std=0.01)
            nn.init.constant_(gate.bias, bias)

    def trajectory(self, support: Set) -> list[Tree]:
        """phi_0..phi_k, each (M, ...) by name."""
        theta, tasks = Theta(parameters_of(self.net)), len(support[0])
        phi = {name: value.expand(tasks, *value.shape) for name, value in theta.parameters.items()}
        frozen = frozen_in(theta)
        state: tuple[Tensor, Tensor] | None = None
        gates: tuple[Tensor, Tensor] | None = None
        phis = [phi]
        for _ in range(self.number):
            slope = flat(self.inner.gradient(phi, support, frozen)).detach()
            loss = self.inner.loss(phi, support).detach()
            seen = torch.cat([log_sign(slope), log_sign(loss)[:, None].expand(-1, slope.shape[1], -1)], -1)
            state = self.cell(seen.flatten(0, 1), state)
            moving = self.inner.moving(phi, frozen)
            now = flat(moving)
            old = gates or (torch.ones_like(now), torch.zeros_like(now))
            hidden = state[0].view(*now.shape, -1)
            keep, move = (
                torch.sigmoid(gate(torch.cat([hidden, now[..., None], last[..., None]], -1)))[..., 0]
                for gate, last in zip((self.forget, self.input), old, strict=True)
            )
            gates = (keep, move)
            phi = {**phi, **unflat(keep * now - move * slope, moving)}
            phis.append(phi)
        return phis

    def forward(self, stages: Sequence[Set], query: Set) -> Tensor:
        phi = self.trajectory(stages[0])[-1]
        return self.family.losses(predict(self.net, phi, query[0]), query[1])

    @torch.no_grad()
    def curve(self, stages: Sequence[Set], query: Set, steps: int | None = None) -> Tensor:
        """(M, k+1, q) along the steps of training; more than those are not defined by what was learned."""
        phis = self.trajectory(stages[0])
        return torch.stack([self.family.scores(predict(self.net, phi, query[0]), query[1]) for phi in phis], 1)


class MetaLSTMTrainer(FewShotTrainer):
    """The meta-learner LSTM; `inner_steps` is how long it learns."""

    @classmethod
    def build(cls, family: Any, args: Any) -> MetaLSTM:
        net = family.network(args.hidden, args.activation)
        if args.over != "fold":
            raise ConfigError(f"over={args.over!r}: the LSTM reads all tasks as one batch: set over=fold")
        inner = inner_loop(net, family, args, "first")
        return MetaLSTM(net, family, inner, steps=args.inner_steps, rate=args.inner_rate)


def flat(tree: Tree) -> Tensor:
    """(M, P) all entries of per-task parameters."""
    return torch.cat([value.flatten(1) for value in tree.values()], 1)


def unflat(rows: Tensor, like: Tree) -> Tree:
    """The tree that `flat` made (M, P) of."""
    parts = rows.split([value[0].numel() for value in like.values()], 1)
    return {name: part.view_as(value) for (name, value), part in zip(like.items(), parts, strict=True)}
