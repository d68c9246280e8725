"""GrBAL, gradient-based adaptive learner: a model of the dynamics that a gradient step on the last M steps adapts.

    theta' = theta - psi grad (1/M) sum_(t-M <= i < t) |f_theta(s_i, a_i) - (s_(i+1) - s_i)|^2
    min over theta, psi of the same error of theta' over the next K steps

and a planner acts by f_theta'. Nagabandi, Clavera, Liu, Fearing, Abbeel, Levine & Finn 2019, 1803.11347, "Learning to
adapt in dynamic, real-world environments through meta-reinforcement learning": a Gaussian likelihood of fixed variance
is the squared error.

M is short here (1): the window crosses a change, and old steps in it speak for what was. Where a step tells everything,
as in `sign-flip`, the model is right from the second step after a change on.

Deviations: psi is learned, one for each tensor and step (the released code has a constant); data come from random play
alone, not from rounds of the agent's own; inputs are not normalised.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from classic_metarl.inner.gradient_steps import GradientSteps, Initial, Tree, rates_like
from classic_metarl.model_based.model_agent import (
    ModelAgent,
    ModelConfig,
    ModelTrainer,
    Transition,
    network,
    transitions,
)
from classic_metarl.model_based.planning import Model
from mrt.trials import Trials


class GrBALConfig(ModelConfig):
    """`ModelConfig`, and `window`, M; `steps` gradient steps, whose step sizes begin at `rate`."""

    model_type = "mrt-grbal"

    def __init__(self, *args: Any, window: int = 1, steps: int = 1, rate: float = 0.3, **kwargs: Any) -> None:
        self.window, self.steps, self.rate = window, steps, rate
        super().__init__(*args, **kwargs)


class GrBAL(ModelAgent):
    """The agent; `initial` holds theta and psi."""

    config_class: type[Any] = GrBALConfig

    def __init__(self, config: GrBALConfig) -> None:
        super().__init__(config)
        net = network(self.width, config)
        rates = [rates_like(dict(net.named_parameters()), config.rate, "tensor") for _ in range(config.steps)]
        self.initial = Initial(net, rates)
        self.inner = GradientSteps(self._task_loss, steps=config.steps)
        self.post_init()

    def predict(self, phi: Tree, observation: Tensor, action: Tensor) -> Tensor:
        """(..., P) by the parameters of one task."""
        return functional_call(self.initial.net, phi, (self.inputs(observation, action),))

    def _task_loss(self, phi: Tree, data: tuple[Tensor, ...]) -> Tensor:
        observation, action, change = data
        return (self.predict(phi, observation, action) - change).square().sum(-1).mean()

    def forward(self, support: tuple[Tensor, ...], query: tuple[Tensor, ...]) -> Tensor:
        """(R,) error on `query` (R, K, ...) after a step on `support` (R, M, ...)."""
        theta = self.initial.theta
        phi = self.inner.adapt(theta, self.inner.init(theta), support)
        return vmap(self._task_loss)(phi, query)

    def begin(self, rows: int) -> Any:
        config = self.config
        sizes = (config.observation, config.action_size, config.predicted)
        seen, acted, change = (torch.zeros(rows, config.window, size, device=self.device) for size in sizes)
        return Transition(seen, acted, change, torch.zeros(rows, config.window, dtype=torch.bool, device=self.device))

    def learn(self, memory: Any, step: Transition) -> Any:
        parts = (torch.cat([old[:, 1:], new[:, None]], 1) for old, new in zip(memory, step, strict=True))
        return Transition(*parts)

    def changes(self, memory: Any) -> Model:
        theta = self.initial.theta
        there = memory.there.float()[..., None]
        # A place that nothing stands in yet asks what is predicted there, and moves nothing.
        own = vmap(self.predict, in_dims=(None, 0, 0))(theta.parameters, memory.observation, memory.action)
        change = there * memory.change + (1 - there) * own
        phi = self.inner.adapt(theta, self.inner.init(theta), (memory.observation, memory.action, change))
        phi = {name: value.detach() for name, value in phi.items()}
        return lambda now, actions: vmap(self.predict)(phi, now, actions)


class GrBALTrainer(ModelTrainer):
    """Learns where to start from, and how far to step."""

    policy_class: type[Any] = GrBAL

    def model_loss(self, trials: Trials) -> Tensor:
        config, args = self.unwrapped.config, self.args
        data = transitions(trials, config.predicted)
        rows, steps = data[0].shape[:2]
        last = steps - args.ahead - config.window + 1
        start = torch.randint(last, (rows, args.windows), device=data[0].device)
        row = torch.arange(rows, device=start.device)[:, None, None]

        def cut(first: Tensor, length: int) -> tuple[Tensor, ...]:
            at = first[..., None] + torch.arange(length, device=start.device)
            return tuple(part[row, at].flatten(0, 1) for part in data)

        return self.model_wrapped(cut(start, config.window), cut(start + config.window, args.ahead)).mean()
