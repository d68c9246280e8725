"""Gumbel noise that is looked up and not stored: common random numbers for answers at different boundaries.

A token drawn as the argmax of log p + Gumbel noise has the law p. Where the noise is a function of (seed, sample,
position), two streams with the same three numbers draw the same token wherever their distributions agree, and answers
that differ do so because the distributions do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

STEP = -7046029254386353131  # 2^64 / golden ratio, odd: the increment of SplitMix64
FIRST, SECOND = (
    -4658895280553007687,
    -7723592293110705685,
)  # its two multipliers (Steele et al. 2014; Stafford's mix 13)
BITS = 40  # of a draw: float32 keeps 24 of them however small the number is
BELOW_ONE = 1.0 - 2.0**-24


@dataclass(frozen=True)
class Noise:
    """What one stream draws with: the stream of numbers of `sample` under `seed`, from token `start` on."""

    seed: int
    sample: int
    start: int = 0

    def behind(self, tokens: int) -> Noise:
        """The same noise for a stream that goes on behind so many tokens."""
        return replace(self, start=self.start + tokens)


def states(noise: Sequence[Noise], step: int, device: torch.device) -> Tensor:
    """(streams,) int64: where each stream's numbers begin, `step` tokens after its first."""
    seeds, samples, starts = (
        torch.tensor([_signed(getattr(one, name)) for one in noise], device=device)
        for name in ("seed", "sample", "start")
    )
    return mix(mix(mix(seeds) + STEP * (samples + 1)) + STEP * (starts + step + 1))


def gumbel(begin: Tensor, size: int) -> Tensor:
    """(n, size) float32 standard Gumbel noise, a function of `begin` (n,) alone: SplitMix64 from there on."""
    counter = torch.arange(1, size + 1, device=begin.device) * STEP
    bits = _shift(mix(begin[:, None] + counter), 64 - BITS)
    uniform = bits.float().add_(0.5).mul_(2.0**-BITS).clamp_(max=BELOW_ONE)
    return uniform.neg_().log1p_().neg_().log_().neg_()


def mix(state: Tensor) -> Tensor:
    """The output function of SplitMix64, elementwise on int64, which wraps around as unsigned numbers do."""
    state = (state ^ _shift(state, 30)).mul_(FIRST)
    state = (state ^ _shift(state, 27)).mul_(SECOND)
    return state ^ _shift(state, 31)


def _shift(state: Tensor, bits: int) -> Tensor:
    """A shift to the right that fills with zeros."""
    return (state >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _signed(number: int) -> int:
    number &= 2**64 - 1
    return number - 2**64 if number >= 2**63 else number
