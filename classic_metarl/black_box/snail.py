"""SNAIL, a simple neural attentive meta-learner (Mishra, Rohaninejad, Chen and Abbeel 2018, arXiv 1707.03141).

Temporal convolutions gather what is near, attention picks what is far, and every block's output is laid beside its
input (DenseNet), so that later blocks read all earlier ones. With X (B, T, C):

    DenseBlock(X, d, D)       [X, tanh(F) * sigmoid(G)],  (F, G)_t = W_0 X_t + W_1 X_(t-d) + b, D filters each
    TCBlock(X, T, D)          DenseBlocks with dilations d = 1, 2, 4, ..., until they cover T steps
    AttentionBlock(X, K, V)   [X, softmax(Q K^T / sqrt(K)) V], causal; Q, K, V affine in X

(section 3, figure 2). For bandits and tabular MDPs the paper has 32 filters and keys and values of 32 behind a layer
of 32; the layers in front are the policy's embedding here.

Deviations: a last affine map brings the features to the width of the policy's heads. The paper's pseudocode starts
dilations at 2, its text and figure at 1, which is what reaches every step. Acting does not re-read the history: one
ring of past features serves all convolutions, ceil(log2 T) reads a block and step; keys and values are cached.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrt.control.memories import Inputs, Memory
from mrt.errors import ConfigError
from mrt.kv_cache import GrowingLayer


class DenseBlock(nn.Module):
    """One gated causal convolution of kernel 2, written as two linear maps: `width` features in, `filters` new ones."""

    def __init__(self, width: int, filters: int, dilation: int) -> None:
        super().__init__()
        self.width, self.dilation = width, dilation
        self.now, self.past = nn.Linear(width, 2 * filters), nn.Linear(width, 2 * filters, bias=False)

    def of(self, now: Tensor, past: Tensor) -> Tensor:
        """(..., width) features of step t and of step t - dilation (zeros before the first) -> (..., filters)."""
        value, gate = (self.now(now) + self.past(past)).chunk(2, -1)
        return torch.tanh(value) * torch.sigmoid(gate)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, width) -> (B, T, filters)."""
        return self.of(x, F.pad(x, (0, 0, self.dilation, 0))[:, : x.shape[1]])


class AttentionBlock(nn.Module):
    """One head of causal attention over all steps so far."""

    def __init__(self, width: int, keys: int, values: int) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(width, keys), nn.Linear(width, keys)
        self.value = nn.Linear(width, values)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, width) -> (B, T, values)."""
        return F.scaled_dot_product_attention(self.query(x), self.key(x), self.value(x), is_causal=True)

    def step(self, x: Tensor, cache: GrowingLayer | None) -> tuple[Tensor, GrowingLayer]:
        """(B, width) and what is cached of the steps before -> (B, values) and the cache with this step."""
        keys, values = self.key(x)[:, None, None], self.value(x)[:, None, None]  # as (B, one head, one step, width)
        if cache is None:
            cache = GrowingLayer(keys, values)
        else:
            keys, values = cache.update(keys, values)
        query = self.query(x)[:, None, None]
        return F.scaled_dot_product_attention(query, keys, values)[:, 0, 0], cache


@dataclass
class Past:
    """What SNAIL keeps of a trial: `ring` (B, span, features) of the last steps, and keys and values of all."""

    time: int = 0
    ring: Tensor | None = None
    caches: list[GrowingLayer | None] = field(default_factory=list)


class SNAIL(Memory):
    """Temporal convolutions and attention in turn.

    Args:
        steps: T that the convolutions cover, the length of a trial with its closing rows; attention reaches further.
        filters: D of every dense block.
        keys, values: widths of the attention blocks.
        blocks: pairs of a TC block and an attention block.

    Raises:
        ConfigError: for a number that is not positive.
    """

    def __init__(
        self, size: int, *, steps: int = 128, filters: int = 32, keys: int = 32, values: int = 32, blocks: int = 2
    ) -> None:
        super().__init__(size)
        for name, number in {"steps": steps, "filters": filters, "keys": keys, "values": values}.items():
            if number < 1:
                raise ConfigError(f"SNAIL: {name}={number} must be at least 1")
        self.blocks = nn.ModuleList()
        width, depth = size, max(math.ceil(math.log2(steps)), 1)
        for _ in range(blocks):
            for i in range(depth):
                self.blocks.append(DenseBlock(width, filters, 2**i))
                width += filters
            self.blocks.append(AttentionBlock(width, keys, values))
            width += values
        self.width, self.span = width, 2 ** (depth - 1)
        self.out = nn.Linear(width, size)

    def init_state(self, rows: int) -> Past:
        return Past(caches=[None] * len(self.blocks))

    def step(self, x: Tensor, seen: Inputs, state: Past) -> tuple[Tensor, Past]:
        ring = x.new_zeros(len(x), self.span, self.width) if state.ring is None else state.ring
        ring = ring.clone() if torch.is_grad_enabled() else ring  # autograd still needs what is overwritten
        features, caches = x, list(state.caches)
        for i, block in enumerate(self.blocks):
            if isinstance(block, DenseBlock):
                past = ring[:, (state.time - block.dilation) % self.span, : block.width]
                new = block.of(features, past)
            else:
                assert isinstance(block, AttentionBlock)
                new, caches[i] = block.step(features, caches[i])
            features = torch.cat([features, new], -1)
        ring[:, state.time % self.span] = features
        return self.out(features), Past(state.time + 1, ring, caches)

    def forward(self, x: Tensor, seen: Inputs) -> Tensor:
        for block in self.blocks:
            x = torch.cat([x, block(x)], -1)
        return self.out(x)

    def fork(self, state: Past, rows: Tensor) -> Past:
        caches = [
            None if cache is None else GrowingLayer(cache.keys[rows], cache.values[rows])  # type: ignore[index]
            for cache in state.caches
        ]
        return Past(state.time, None if state.ring is None else state.ring[rows], caches)
