"""From transitions to a belief about the task: whatever the order (a product of Gaussians), or in their order (a GRU).

    q(z | c) is proportional to  prod_n N(z; mu(c_n), sigma^2(c_n))          Rakelly et al. 2019, 1903.08254, equation 2

mu and sigma^2 come from one network of each transition c_n = (s, a, r); the prior is no factor, as in the authors' code
(their divergence keeps the posterior near it). Nothing met means the prior N(0, I).

Each encoder reads a whole context at once (`forward`, to learn; `before`, for the belief at every step of it) or a
transition at a time (`begin`, `step`, `belief`, to act), and comes to the same belief. That is where the recurrent
encoder of the authors' code fails, by their own account: here it reads trials in the order of time from a fresh memory,
in training as in use, and its memory lasts a trial.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrt.control.latents import Latent, product
from mrt.control.replay_trainer import feed_forward

LEAST_VARIANCE = 1e-7


class Belief(NamedTuple):
    """Of B trials: what is known so far, and whether anything was met yet (B,) bool."""

    latent: Latent
    met: Tensor


class Recalled(NamedTuple):
    """Of B trials: the hidden state (B, H), and whether anything was met yet (B,) bool."""

    hidden: Tensor
    met: Tensor


class ProductEncoder(nn.Module):
    """One Gaussian factor a transition, multiplied.

    Args:
        width: numbers of a transition.
        latent: size of z.
        size, layers: of the network.
    """

    def __init__(self, width: int, latent: int, size: int, layers: int) -> None:
        super().__init__()
        self.latent = latent
        self.net = feed_forward(width, *[size] * layers, 2 * latent)

    def factors(self, x: Tensor) -> Latent:
        """The factors (..., latent) of transitions x (..., width)."""
        return _gaussian(self.net(x))

    def forward(self, x: Tensor, mask: Tensor) -> Latent:
        """The beliefs (M, latent) after the transitions x (M, n, width) that count, mask (M, n) bool."""
        return product(self.factors(x), mask)

    def before(self, x: Tensor, mask: Tensor) -> Latent:
        """The belief (M, n, latent) before each transition of x (M, n, width), after those before it that count."""
        factors = self.factors(x)
        precision = torch.where(mask[..., None], (-factors.log_variance).exp(), 0.0)
        sums = (part.cumsum(1) for part in (precision, precision * factors.mean))
        total, weighed = (torch.cat([torch.zeros_like(part[:, :1]), part[:, :-1]], 1) for part in sums)
        met = (mask.long().cumsum(1) > mask)[..., None]
        total = torch.where(met, total, 1.0)
        return Latent(torch.where(met, weighed / total, 0.0), -total.log())

    def begin(self, rows: int) -> Belief:
        """Before anything was met."""
        some = next(self.parameters())
        nothing = torch.zeros(rows, dtype=torch.bool, device=some.device)
        return Belief(Latent.unit(some.new_zeros(rows, self.latent)), nothing)

    def step(self, x: Tensor, state: Belief, rows: Tensor) -> Belief:
        """After one transition each (B, width) of the `rows` (B,) bool."""
        both = (torch.stack(pair, -2) for pair in zip(state.latent, self.factors(x), strict=True))
        return Belief(product(Latent(*both), torch.stack([state.met, rows], -1)), state.met | rows)

    def belief(self, state: Belief) -> Latent:
        """(B, latent)."""
        return state.latent


class RecurrentEncoder(nn.Module):
    """A GRU over the transitions of a trial; arguments as those of `ProductEncoder`."""

    def __init__(self, width: int, latent: int, size: int, layers: int) -> None:
        super().__init__()
        self.embed = feed_forward(width, *[size] * max(layers - 1, 1))
        self.memory = nn.GRU(size, size, batch_first=True)
        self.head = nn.Linear(size, 2 * latent)

    def forward(self, x: Tensor, mask: Tensor) -> Latent:
        """The beliefs (M, latent) after those of the transitions x (M, n, width), in order, that `mask` marks."""
        count = mask.sum(1, keepdim=True)
        return Latent(*(part[:, 0] for part in self._after(x, mask, count)))

    def before(self, x: Tensor, mask: Tensor) -> Latent:
        """As that of `ProductEncoder`."""
        return self._after(x, mask, mask.long().cumsum(1) - mask.long())

    def _after(self, x: Tensor, mask: Tensor, counts: Tensor) -> Latent:
        """The beliefs (M, k, latent) after the first `counts` (M, k) of the transitions that `mask` marks."""
        order = (~mask).long().argsort(dim=1, stable=True)  # what counts to the front
        hidden, _ = self.memory(F.relu(self.embed(x)).take_along_dim(order[..., None], 1))
        last = hidden.take_along_dim((counts - 1).clamp(min=0)[..., None], 1)
        return self.belief(Recalled(last, counts > 0))

    def begin(self, rows: int) -> Recalled:
        """Before anything was met."""
        zeros = self.head.weight.new_zeros(rows, self.memory.hidden_size)
        return Recalled(zeros, torch.zeros(rows, dtype=torch.bool, device=zeros.device))

    def step(self, x: Tensor, state: Recalled, rows: Tensor) -> Recalled:
        """After one transition each (B, width) of the `rows` (B,) bool."""
        _, hidden = self.memory(F.relu(self.embed(x))[:, None], state.hidden[None].contiguous())
        return Recalled(torch.where(rows[:, None], hidden[0], state.hidden), state.met | rows)

    def belief(self, state: Recalled) -> Latent:
        """(..., latent)."""
        found = _gaussian(self.head(state.hidden))
        return Latent(*(torch.where(state.met[..., None], value, 0.0) for value in found))


ENCODERS: dict[str, Any] = {"product": ProductEncoder, "recurrent": RecurrentEncoder}


def _gaussian(out: Tensor) -> Latent:
    mean, raw = out.chunk(2, -1)
    return Latent(mean, F.softplus(raw).clamp(min=LEAST_VARIANCE).log())
