"""How tokens are drawn from logits, with the log-probability of the distribution that was really sampled from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mrt.reasoning.engines.noise import Noise, gumbel, states

SLICE = 2**22  # logits that are worked on at one time


@dataclass(frozen=True)
class Sampling:
    """`temperature=0` is greedy; `top_k=0` and `top_p=1` switch those filters off."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0


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
        best = logits.argmax(-1)
        return best, torch.zeros_like(logits[:, 0])
    rows = max(1, SLICE // logits.shape[1])
    if len(logits) > rows:  # each of the steps below makes a copy of what it is given
        starts = [None] * -(-len(logits) // rows) if begin is None else begin.split(rows)
        parts = [draw(part, sampling, start) for part, start in zip(logits.split(rows), starts, strict=True)]
        return torch.cat([tokens for tokens, _ in parts]), torch.cat([said for _, said in parts])
    logprobs = shaped(logits.float(), sampling).log_softmax(-1)
    if begin is None:
        token = torch.multinomial(logprobs.exp(), 1)[:, 0]
    else:
        own, owner = begin.unique(return_inverse=True)
        token = gumbel(own, logits.shape[1])[owner].add_(logprobs).argmax(-1)
    return token, logprobs.gather(1, token[:, None])[:, 0]


def shaped(logits: Tensor, sampling: Sampling) -> Tensor:
    """`logits` (N, V) after temperature, top-k and top-p: what the tokens are drawn from."""
    logits = logits / sampling.temperature
    if sampling.top_k > 0 or sampling.top_p < 1:
        from transformers.generation.logits_process import TopKLogitsWarper, TopPLogitsWarper

        if sampling.top_k > 0:
            logits = TopKLogitsWarper(sampling.top_k)(None, logits)
        if sampling.top_p < 1:
            logits = TopPLogitsWarper(sampling.top_p)(None, logits)
    return logits
