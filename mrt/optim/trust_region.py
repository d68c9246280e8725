"""The trust-region step: conjugate gradient, Fisher-vector products and a line search, written once.

    x = F^-1 g by conjugate gradient        theta' = theta + sqrt(2 delta / x' F x) x, halved until it holds

Schulman et al. 2015, 1502.05477, appendix C. g is the gradient of a surrogate, F the Hessian of the mean KL divergence
at theta, reached through products only. In MAML-TRPO both are functions of the adapted policies: the closure below goes
through adaptation, and the step does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mrt.errors import ConfigError

Evaluation = Callable[[], tuple[Tensor, Tensor]]  # -> surrogate to maximise, mean KL to the policy that acted


def conjugate_gradient(
    product: Callable[[Tensor], Tensor], b: Tensor, iterations: int = 10, tolerance: float = 1e-10
) -> Tensor:
    """x with A x = b, A symmetric positive definite and known by `product(v)` = A v; b and x are (P,).

    Ends when the squared residual is below `tolerance`, or after `iterations` (exact after P without rounding).
    """
    x, residual = torch.zeros_like(b), b.clone()
    direction, square = residual.clone(), residual @ residual
    for _ in range(iterations):
        if square < tolerance:
            break
        image = product(direction)
        length = square / (direction @ image)
        x, residual = x + length * direction, residual - length * image
        new = residual @ residual
        direction, square = residual + (new / square) * direction, new
    return x


def fisher_product(kl: Tensor, parameters: Sequence[Tensor], damping: float = 0.0) -> Callable[[Tensor], Tensor]:
    """v (P,) -> (H + damping) v, H the Hessian of `kl` in the parameters; the graph of its gradient is built once."""
    slopes = flat(torch.autograd.grad(kl, parameters, create_graph=True))

    def product(vector: Tensor) -> Tensor:
        image = torch.autograd.grad(slopes @ vector, parameters, retain_graph=True)
        return flat(image) + damping * vector

    return product


@dataclass(frozen=True)
class TrustRegion:
    """The settings of a step.

    Args:
        max_kl: delta. damping: added to the Fisher matrix. shrink: factor of each backtracking step.
        backtracks: how many are tried before theta is left as it is.
    """

    max_kl: float = 0.01
    damping: float = 1e-5
    iterations: int = 10
    shrink: float = 0.8
    backtracks: int = 15

    def __post_init__(self) -> None:
        if self.max_kl <= 0 or not 0 < self.shrink < 1:
            raise ConfigError(f"max_kl={self.max_kl}, shrink={self.shrink}: max_kl above 0, shrink between 0 and 1")

    def step(
        self, parameters: Sequence[Tensor], evaluate: Evaluation, curvature: Callable[[], Tensor] | None = None
    ) -> dict[str, float]:
        """Moves `parameters` in place to a larger surrogate within max_kl, or leaves them.

        Args:
            evaluate: surrogate and divergence; the line search calls it without gradients.
            curvature: another divergence for the Fisher matrix, on a part of the data, say.

        Returns:
            surrogate and kl before and after, `accepted` (1 or 0), `backtracks`, and `expected`, the linear gain.
        """
        surrogate, kl = evaluate()
        slope = flat(torch.autograd.grad(surrogate, parameters, retain_graph=True)).detach()
        facts = {"surrogate_before": surrogate.item(), "surrogate": surrogate.item(), "kl": kl.item()}
        product = fisher_product(kl if curvature is None else curvature(), parameters, self.damping)
        direction = conjugate_gradient(product, slope, self.iterations).detach()
        steepness = float(direction @ product(direction))
        if not steepness > 0 or not bool(torch.isfinite(direction).all()):
            return facts | {"accepted": 0.0, "backtracks": 0.0, "expected": 0.0}
        full = (2 * self.max_kl / steepness) ** 0.5 * direction
        start = flat(parameters).detach().clone()
        facts["expected"] = float(slope @ full)
        for number in range(self.backtracks):
            assign(parameters, start + self.shrink**number * full)
            with torch.no_grad():
                after, distance = (value.item() for value in evaluate())
            if after > facts["surrogate_before"] and distance <= self.max_kl:
                return facts | {"surrogate": after, "kl": distance, "accepted": 1.0, "backtracks": float(number)}
        assign(parameters, start)
        return facts | {"accepted": 0.0, "backtracks": float(self.backtracks)}


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """(P,) all entries in order."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


@torch.no_grad()
def assign(parameters: Sequence[Tensor], vector: Tensor) -> None:
    """Writes `vector` (P,) into the parameters, in place."""
    offset = 0
    for parameter in parameters:
        parameter.copy_(vector[offset : offset + parameter.numel()].view_as(parameter))
        offset += parameter.numel()
