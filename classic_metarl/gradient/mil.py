"""MIL: one-shot imitation by a gradient step on one demonstration, with an inner loss that may itself be learned.

    phi = theta - alpha grad L_inner(theta; demonstration)     theta <- theta - beta grad sum_i L_BC(phi_i; second demo)

    L_BC    = mean_t |pi_phi(o_t) - a_t|^2
    L_inner = mean_t |W h_t + b - a_t|^2      two heads: (W, b) serve before the step only, so they make a learned loss
    L_inner = mean_t |W h_t + b|^2            the same without the demonstrator's actions ("video only")
    h       = W1 x + W2 z, z learned          bias transformation: the bias's gradient is uncoupled from the weights'

Finn, Yu, Zhang, Abbeel & Levine 2017, 1709.04905, sections 4.1 to 4.3; layer normalisation behind every hidden layer,
as in the authors' code, and inner gradients clipped to +-10 there.

The task (`Reaching`): two coloured targets in the plane, and which colour to go to is only in the demonstration; the
positions of the second scene are new. An agent without adaptation reaches the right one half of the time.

Deviations: states instead of images, hence no convolutions; fully connected layers of 64; the video-only loss sees the
demonstration's states, in which the demonstrator moves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from classic_metarl.inner.gradient_steps import GradientSteps, Theta, Tree, parameters_of
from classic_metarl.problems.reaching import Reaching
from classic_metarl.trainers.few_shot import FewShotConfig, FewShotLearner, FewShotTrainer, Set
from mrt.errors import ConfigError
from mrt.training.codec import tree_to

INNER_CLIP = 10.0


class TwoHeads(nn.Module):
    """Hidden layers with a bias transformation and layer normalisation, and a head for before and one for after.

    Args:
        inputs, hidden, actions: widths. bias: width of z, 0 for none. two_heads: else one head serves both.
    """

    def __init__(
        self, inputs: int, hidden: Sequence[int], actions: int, bias: int = 10, two_heads: bool = True
    ) -> None:
        super().__init__()
        widths = [inputs + bias, *hidden]
        self.bias = nn.Parameter(torch.zeros(bias)) if bias else None
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.after = nn.Linear(hidden[-1], actions)
        self.before = nn.Linear(hidden[-1], actions) if two_heads else None

    def of_tasks(self, parameters: Tree, x: Tensor, head: Literal["before", "after"] = "after") -> Tensor:
        """x (M, n, inputs) -> actions (M, n, actions) with weights (M, ...)."""
        if self.bias is not None:
            z = parameters["bias"]
            x = torch.cat([x, z[:, None].expand(-1, x.shape[1], -1)], -1)
        for i in range(len(self.layers)):
            x = self._linear(parameters, f"layers.{i}", x)
            x = F.layer_norm(x, x.shape[-1:]).relu()
        return self._linear(parameters, head if self.before is not None else "after", x)

    def _linear(self, parameters: Tree, name: str, x: Tensor) -> Tensor:
        return torch.baddbmm(parameters[f"{name}.bias"][:, None], x, parameters[f"{name}.weight"].mT)


@dataclass
class MILConfig(FewShotConfig):
    """Arguments of MIL; `inner_rate` is alpha."""

    hidden: list[int] = field(default_factory=lambda: [64, 64], metadata={"help": "sizes of the hidden layers"})
    inner_loss: Literal["actions", "video"] = field(default="actions", metadata={"help": "what the inner loss may see"})
    two_heads: bool = field(default=True, metadata={"help": "a last layer of its own for the inner loss"})
    bias_transformation: int = field(default=10, metadata={"help": "width of the learned input z; 0 for none"})


class MIL(FewShotLearner):
    """theta with its heads; adapts to one demonstration."""

    def __init__(self, family: Reaching, args: Any) -> None:
        super().__init__()
        self.family = family  # type: ignore[assignment]
        self.net = TwoHeads(family.inputs, args.hidden, 2, args.bias_transformation, args.two_heads)
        net, video = self.net, args.inner_loss == "video"

        def inner(phi: Tree, data: Set) -> Tensor:
            said = net.of_tasks(phi, data[0], "before")
            return (said if video else said - data[1]).square().sum(-1).mean(-1)

        self.steps = GradientSteps(inner, args.inner_rate, args.inner_steps, over="fold", clip=INNER_CLIP)

    def adapted(self, demonstration: Set) -> Tree:
        """phi (M, ...) after the demonstration: observations (M, T, inputs), actions (M, T, 2)."""
        theta = Theta(parameters_of(self.net))
        return self.steps.adapt(theta, self.steps.init(theta), demonstration)

    def forward(self, stages: Sequence[Set], query: Set) -> Tensor:
        return self.family.losses(self.net.of_tasks(self.adapted(stages[0]), query[0]), query[1])

    @torch.no_grad()
    def curve(self, stages: Sequence[Set], query: Set, steps: int | None = None) -> Tensor:
        """(M, 2, q) minus the squared error of the actions, before and after the demonstration."""
        shared = {n: p.expand(len(query[0]), *p.shape) for n, p in self.net.named_parameters()}
        phis = (shared, self.adapted(stages[0]))
        return torch.stack([self.family.scores(self.net.of_tasks(phi, query[0]), query[1]) for phi in phis], 1)

    @torch.no_grad()
    def policy(self, demonstration: Set) -> Any:
        """f(observations (M, n, inputs)) -> actions (M, n, 2) of the adapted agents, on the learner's device."""
        device = self.net.after.weight.device
        phi = self.adapted(tree_to(demonstration, device))
        return lambda x: self.net.of_tasks(phi, x.to(device))


class MILTrainer(FewShotTrainer):
    """Meta-imitation learning on `problems: {name: reaching}`."""

    @classmethod
    def args_class(cls) -> type:
        return MILConfig

    @classmethod
    def build(cls, family: Any, args: Any) -> MIL:
        if not isinstance(family, Reaching):
            raise ConfigError(f"MIL imitates demonstrations: problems: {{name: reaching}}, not {family.name}")
        return MIL(family, args)
