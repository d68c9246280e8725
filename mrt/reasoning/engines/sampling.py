"""How tokens are drawn from logits, with the log-probability of the distribution that was really sampled from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mrt.reasoning.engines.noise import Noise, gumbel, states

SLICE = 2**22  # logits that are worked on at one time
WIDE, BLOCK = 4096, 256  # tokens of a vocabulary from which on blocks are drawn, and those of a block


@dataclass(frozen=True)
class Sampling:
    """`temperature=0` is greedy; `top_k=0` and `top_p=1` switch those filters off. Where `allowed` names tokens, no
    others are drawn.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    allowed: tuple[int, ...] = ()


@dataclass(frozen=True)
class Draws:
    """Until when and how tokens are drawn: a stop token, or `max_new_tokens`; with `noise`, one a stream, by that."""

    max_new_tokens: int
    stop_ids: tuple[int, ...]
    sampling: Sampling = Sampling()
    noise: tuple[Noise, ...] = ()

    def begin(self, alive: Sequence[int], step: int, device: torch.device) -> Tensor | None:
        """(streams,) where the noise of the streams `alive` begins at this step; None where they have none."""
        return states([self.noise[i] for i in alive], step, device) if self.noise else None


def draw(logits: Tensor, sampling: Sampling, begin: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """One token (N,) of each row of `logits` (N, V) and its log-probability (N,) after temperature, top-k and top-p.

    Rows with the same `begin` (N,) share their Gumbel noise, and draw the same token from the same distribution.
    """
    if sampling.temperature == 0:
        best = only(logits, sampling.allowed).argmax(-1)
        return best, torch.zeros_like(logits[:, 0])
    rows = max(1, SLICE // logits.shape[1])
    if len(logits) > rows:  # each of the steps below makes a copy of what it is given
        starts = [None] * -(-len(logits) // rows) if begin is None else begin.split(rows)
        parts = [draw(part, sampling, start) for part, start in zip(logits.split(rows), starts, strict=True)]
        return torch.cat([tokens for tokens, _ in parts]), torch.cat([said for _, said in parts])
    logprobs = shaped(logits.float(), sampling).log_softmax(-1)
    if begin is None:
        token = pick(logprobs.exp())
    else:
        own, owner = begin.unique(return_inverse=True)
        token = gumbel(own, logits.shape[1])[owner].add_(logprobs).argmax(-1)
    return token, logprobs.gather(1, token[:, None])[:, 0]


def shaped(logits: Tensor, sampling: Sampling) -> Tensor:
    """`logits` (N, V) after temperature, top-k and top-p: what the tokens are drawn from."""
    logits = only(logits, sampling.allowed)
    if sampling.temperature != 1:
        logits = logits / sampling.temperature
    if sampling.top_k > 0 or sampling.top_p < 1:
        from transformers.generation.logits_process import TopKLogitsWarper, TopPLogitsWarper

        if sampling.top_k > 0:
            logits = TopKLogitsWarper(sampling.top_k)(None, logits)
        if sampling.top_p < 1:
            logits = TopPLogitsWarper(sampling.top_p)(None, logits)
    return logits


def only(logits: Tensor, allowed: Sequence[int]) -> Tensor:
    """`logits` (N, V), -inf for all but the tokens `allowed`; as they are where none are named."""
    if not allowed:
        return logits
    columns = torch.tensor(list(allowed), device=logits.device)
    return torch.full_like(logits, -torch.inf).index_copy(1, columns, logits[:, columns])


def pick(chances: Tensor) -> Tensor:
    """A column (N,) of each row of `chances` (N, V), in proportion to them.

    `multinomial` draws a number for every column, which on a CPU and a large vocabulary takes longer than a layer of a
    small model. There a block of columns is picked first, then a column of it: two numbers a row.
    """
    if chances.shape[1] <= WIDE or chances.device.type != "cpu":
        return torch.multinomial(chances, 1)[:, 0]
    blocks = torch.nn.functional.pad(chances, (0, -chances.shape[1] % BLOCK)).unflatten(1, (-1, BLOCK))
    block = _invert(blocks.sum(-1, dtype=torch.float64))
    return block * BLOCK + _invert(blocks[torch.arange(len(blocks)), block])


def _invert(weights: Tensor) -> Tensor:
    """The column in which a uniform share of the sum of each row lies; never one of weight 0."""
    sums = weights.cumsum(-1, dtype=torch.float64)
    share = torch.rand(len(sums), 1, dtype=torch.float64) * sums[:, -1:]
    last = sums.argmax(-1)  # the first column at which the whole sum is reached: rounding leads no further
    return torch.minimum(torch.searchsorted(sums, share, right=True)[:, 0], last)
