"""A latent state model of trials: what is seen and what is earned are observations of a hidden state z_t.

    z_t = (z1_t, z2_t)

    prior       p(z1_t | z2_(t-1), a_(t-1))    p(z2_t | z1_t, z2_(t-1), a_(t-1))
    posterior   q(z1_t | o_t, r_(t-1), z2_(t-1), a_(t-1))    and p(z2_t | ...) again
    likelihood  p(o_t | z_t)  p(r_(t-1) | z_t)

    ELBO_t = log p(o_t | z_t) + w log p(r_(t-1) | z_t) - KL(q(z1_t) || p(z1_t)),       z ~ q along the trial

The model of SLAC (Lee, Nagabandi, Abbeel & Levine 2020, 1907.00953) with the reward as an observation (MELD,
2010.13957). All factors are diagonal Gaussians, every log density is whole, its constants included: with w = 1 the sum
over t is a lower bound of log p(o, r) in nats. The first step of a trial, and of an episode, goes through the same
networks, with no action and no reward, and told so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mrt.control.latents import Latent
from mrt.control.replay_trainer import feed_forward
from mrt.errors import ConfigError

LOG_VARIANCE = (-10.0, 4.0)


class States(NamedTuple):
    """Of a step (B, ...), or of whole trials (B, T, ...)."""

    prior: Latent  # of z1
    posterior: Latent  # of z1
    second: Latent  # of z2
    z1: Tensor
    z2: Tensor

    @property
    def belief(self) -> Tensor:
        """(..., 2 (d1 + d2)): mean and log variance of z1 and z2 after what was seen."""
        return torch.cat([*self.posterior, *self.second], -1)


class Normal(nn.Module):
    """N(mean, sigma^2) of `out` numbers from x (..., width), by one network."""

    def __init__(self, width: int, size: int, out: int) -> None:
        super().__init__()
        self.net = feed_forward(width, size, size, 2 * out)

    def forward(self, *x: Tensor) -> Latent:
        mean, log_variance = self.net(torch.cat(x, -1)).chunk(2, -1)
        return Latent(mean, log_variance.clamp(*LOG_VARIANCE))


class LatentStates(nn.Module):
    """The model. `config` has observation, action_size, first (d1), second (d2), model_size, side (of pictures; 0:
    vectors) and observation_std (0: learned).

    Raises:
        ConfigError: for pictures that are no square of the observation, or whose side is no multiple of 8.
    """

    encode: Any  # networks; another model may have functions in their places
    prior: Any
    posterior: Any
    follow: Any
    decode: Any
    earn: Any
    observation_log_std: Tensor
    reward_log_std: Tensor

    def __init__(self, config: Any) -> None:
        super().__init__()
        size, side, first, second = config.model_size, config.side, config.first, config.second
        if side and (side * side != config.observation or side % 8):
            raise ConfigError(
                f"side={side}: pictures have side x side = {config.observation} numbers, and a side divisible by 8"
            )
        self.second_size = second
        moved = config.action_size + 1  # the action, and whether there was one
        self.encode = picture_encoder(side, size) if side else feed_forward(config.observation, size, size)
        self.prior = Normal(second + moved, size, first)
        self.posterior = Normal(size + 1 + second + moved, size, first)  # beside the picture, the reward
        self.follow = Normal(first + second + moved, size, second)
        latent = first + second
        self.decode = (
            picture_decoder(latent, side, size) if side else feed_forward(latent, size, size, config.observation)
        )
        self.earn = feed_forward(latent, size, size, 1)
        std = config.observation_std
        log_std = torch.tensor(math.log(std or 0.5))
        if std:
            self.register_buffer("observation_log_std", log_std)
        else:
            self.observation_log_std = nn.Parameter(log_std)
        self.reward_log_std = nn.Parameter(torch.tensor(math.log(0.5)))

    def begin(self, rows: int) -> Tensor:
        """(B, d2) z2 before a trial."""
        return self.reward_log_std.new_zeros(rows, self.second_size)

    def inputs(self, seen: Mapping[str, Tensor], acted: Tensor) -> tuple[Tensor, Tensor]:
        """Of steps (...): what the posterior reads of them (..., F), and what led there (..., A + 1).

        Args:
            seen: {observation (..., D), action (..., A), reward (...)}, what a policy sees.
            acted: (...) bool: an action led here; else an episode begins.
        """
        told = acted[..., None].to(self.reward_log_std.dtype)
        moved = torch.cat([seen["action"] * told, told], -1)
        return torch.cat([self.encode(seen["observation"]), seen["reward"][..., None] * told], -1), moved

    def step(self, read: Tensor, moved: Tensor, z2: Tensor, generator: torch.Generator | None = None) -> States:
        """One step of B trials from z2 (B, d2) of the step before; `read` and `moved` as from `inputs`."""
        prior, posterior = self.prior(z2, moved), self.posterior(read, z2, moved)
        z1 = posterior.sample(generator)
        second = self.follow(z1, z2, moved)
        return States(prior, posterior, second, z1, second.sample(generator))

    def forward(self, seen: Mapping[str, Tensor], acted: Tensor) -> States:
        """Whole trials: {name: (B, T, ...)} and acted (B, T)."""
        read, moved = self.inputs(seen, acted)
        z2, found = self.begin(len(read)), []
        for t in range(read.shape[1]):
            found.append(self.step(read[:, t], moved[:, t], z2))
            z2 = found[-1].z2
        return States(*(_stacked(some) for some in zip(*found, strict=True)))

    def terms(self, states: States, seen: Mapping[str, Tensor], acted: Tensor) -> dict[str, Tensor]:
        """{observation, reward, kl}: (B, T) each, of steps that the model went along."""
        z = torch.cat([states.z1, states.z2], -1)
        shown = gaussian(seen["observation"], self.decode(z), self.observation_log_std).sum(-1)
        earned = gaussian(seen["reward"], self.earn(z)[..., 0], self.reward_log_std)
        return {
            "observation": shown,
            "reward": torch.where(acted, earned, 0.0),
            "kl": states.posterior.kl(states.prior),
        }


def _stacked(steps: tuple[Any, ...]) -> Any:
    """Tensors or Gaussians (B, ...) of T steps as (B, T, ...)."""
    if isinstance(steps[0], Latent):
        return Latent(*(torch.stack(part, 1) for part in zip(*steps, strict=True)))
    return torch.stack(steps, 1)


def gaussian(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """(...) log N(x; mean, exp(log_std)^2) of each number."""
    return -0.5 * ((x - mean) * (-log_std).exp()).square() - log_std - 0.5 * math.log(2 * math.pi)


def picture_encoder(side: int, size: int) -> nn.Sequential:
    """(..., side * side) -> (..., size): three convolutions that halve the side."""
    layers: list[nn.Module] = [Flat((1, side, side))]
    for before, after in ((1, 16), (16, 32), (32, 32)):
        layers += [nn.Conv2d(before, after, 4, 2, 1), nn.ReLU()]
    return nn.Sequential(Around(nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * (side // 8) ** 2, size))))


def picture_decoder(width: int, side: int, size: int) -> nn.Sequential:
    """(..., width) -> (..., side * side): the encoder the other way round."""
    small = side // 8
    layers: list[nn.Module] = [nn.Linear(width, size), nn.ReLU(), nn.Linear(size, 32 * small * small), nn.ReLU()]
    layers += [Flat((32, small, small))]
    for before, after in ((32, 32), (32, 16)):
        layers += [nn.ConvTranspose2d(before, after, 4, 2, 1), nn.ReLU()]
    return nn.Sequential(Around(nn.Sequential(*layers, nn.ConvTranspose2d(16, 1, 4, 2, 1), nn.Flatten())))


class Flat(nn.Module):
    """(N, ...) in another shape (N, *shape)."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(-1, *self.shape)


class Around(nn.Module):
    """A network of single rows, for any number of dimensions in front."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.reshape(-1, x.shape[-1])).unflatten(0, x.shape[:-1])
