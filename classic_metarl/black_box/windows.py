"""Windowed transformers: TrMRL's short working memory, and a long window whose keys are cached.

TrMRL (Melo 2022, arXiv 2206.06614): the working memories phi_(t-N+1), ..., phi_t of the last N steps, phi an embedding
of (s, a, r, done), go through a transformer encoder, and the policy reads the output of the latest (section 4):

    E_t = encoder(phi_(t-N+1:t) + position),   pi(. | E_t at the latest step)

Layers have no normalisation and T-Fixup initialisation (Huang et al. 2020, ICML), attention is causal inside the
window, positions are sinusoids counted from its oldest step: all as in the released code. A step is read again in every
window that it is in, so that nothing older than N steps reaches the policy, however deep the encoder: with N = 5, the
released setting, it adapts to what five steps tell.

`LongWindow` is the usual sliding window instead: every layer attends to the last N steps of the layer below, keys and
values are computed once, and `layers` layers reach layers * (N - 1) steps back.

Deviation: the embedding is the policy's, hence not scaled by T-Fixup's (9 layers)^(-1/4) but by itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache

from mrt.control.memories import Inputs, Memory, Transformer
from mrt.errors import ConfigError


class EncoderLayer(nn.Module):
    """Attention and a feed-forward pair with residuals and no normalisation."""

    def __init__(self, size: int, heads: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.heads = heads
        self.mixed, self.out = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.up, self.down = nn.Linear(size, hidden), nn.Linear(hidden, size)
        for linear, gain in ((self.mixed, math.sqrt(2)), (self.out, 1), (self.up, 1), (self.down, 1)):
            nn.init.xavier_uniform_(linear.weight, gain=gain)  # sqrt(2) over three blocks: each block's own bound
            nn.init.zeros_(linear.bias)
        scale = 0.67 * layers**-0.25  # T-Fixup, for the encoder: values, output and the feed-forward pair
        with torch.no_grad():
            for weight in (self.mixed.weight[2 * size :], self.out.weight, self.up.weight, self.down.weight):
                weight.mul_(scale)

    def forward(self, x: Tensor, allowed: Tensor) -> Tensor:
        """x (B', N, size); allowed (B' or 1, N, N) bool, from row to column."""
        shape = (*x.shape[:2], 3, self.heads, x.shape[-1] // self.heads)
        query, key, value = self.mixed(x).view(shape).permute(2, 0, 3, 1, 4)
        read = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed[:, None])
        x = x + self.out(read.transpose(1, 2).flatten(2))
        return x + self.down(F.relu(self.up(x)))


class ShortWindow(Memory):
    """TrMRL's working memory. State: the embeddings of the last `window` - 1 steps, (B, up to window - 1, size).

    Raises:
        ConfigError: where `heads` does not divide the width, or a number is not positive.
    """

    positions: Tensor

    def __init__(self, size: int, window: int = 5, layers: int = 4, heads: int = 4, hidden: int = 0) -> None:
        super().__init__(size)
        if window < 1 or layers < 1 or heads < 1 or size % heads:
            raise ConfigError(f"window={window}, layers={layers}, heads={heads} do not make a transformer of {size}")
        self.window = window
        self.layers = nn.ModuleList(EncoderLayer(size, heads, hidden or 4 * size, layers) for _ in range(layers))
        self.register_buffer("positions", sinusoids(window, size))

    def init_state(self, rows: int) -> Tensor:
        return next(self.parameters()).new_zeros(rows, 0, self.size)

    def step(self, x: Tensor, seen: Inputs, state: Tensor) -> tuple[Tensor, Tensor]:
        recent = torch.cat([state, x[:, None]], 1)
        steps = recent.shape[1]
        causal = torch.ones(1, steps, steps, dtype=torch.bool, device=x.device).tril()
        kept = recent[:, max(steps - self.window + 1, 0) :]
        return self._encode(recent + self.positions[:steps], causal)[:, -1], kept

    def forward(self, x: Tensor, seen: Inputs) -> Tensor:
        """Every window at once: (B T) of them, each with its latest step last read."""
        rows, steps, size = x.shape
        window = min(self.window, steps)
        time = torch.arange(steps, device=x.device)
        first = (time - self.window + 1).clamp(min=0)
        place = first[:, None] + torch.arange(window, device=x.device)  # (T, N): which step stands where
        inside = place <= time[:, None]
        gathered = x[:, place.clamp(max=steps - 1)] + self.positions[:window]
        causal = torch.ones(window, window, dtype=torch.bool, device=x.device).tril()
        allowed = (causal & inside[:, None, :]) | torch.eye(window, dtype=torch.bool, device=x.device)
        out = self._encode(gathered.flatten(0, 1), allowed.repeat(rows, 1, 1)).view(rows, steps, window, size)
        return out[:, time, time - first]

    def _encode(self, x: Tensor, allowed: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, allowed)
        return x


def sinusoids(steps: int, size: int) -> Tensor:
    """(steps, size) sines and cosines of Vaswani et al. 2017, section 3.5."""
    place = torch.arange(steps)[:, None]
    angle = place * torch.exp(torch.arange(0, size, 2) * (-math.log(10000.0) / size))
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)[:, :size]


class LongWindow(Transformer):
    """A causal transformer with a sliding window of `window` steps: a Mistral decoder of Hugging Face.

    Raises:
        ConfigError: for a window of fewer than two steps.
    """

    def __init__(
        self, size: int, window: int = 64, layers: int = 2, heads: int = 4, config: Mapping[str, Any] | None = None
    ) -> None:
        if window < 2:
            raise ConfigError(f"window={window}: a sliding window needs at least two steps")
        fields = {"sliding_window": window, **(config or {})}
        super().__init__(size, layers=layers, heads=heads, backbone="mistral", config=fields)

    def init_state(self, rows: int) -> Any:
        return DynamicCache(config=self.decoder.config)  # layers that drop what has left the window

    def step(self, x: Tensor, seen: Inputs, state: Any) -> tuple[Tensor, Any]:
        out = self.decoder(inputs_embeds=x[:, None], past_key_values=state, use_cache=True)
        return out.last_hidden_state[:, 0], out.past_key_values

    def fork(self, state: Any, rows: Tensor) -> Any:
        other: Any = DynamicCache(config=self.decoder.config)
        for mine, theirs in zip(state.layers, other.layers, strict=True):
            if mine.is_initialized:
                theirs.lazy_initialization(mine.keys, mine.values)
                theirs.keys, theirs.values = mine.keys[rows], mine.values[rows]
                theirs.cumulative_length = mine.cumulative_length
        return other
