"""What a policy remembers of its trial: a memory reads one vector a step and gives one back.

A memory has two ways through the same weights: `step`, with a state, for acting, and `forward`, over whole trials, for
learning. They agree (a test holds 1e-5). Its state is born with a trial and dies with it; the end of an episode does
not touch it. Other packages
bring theirs: a policy names them as `module:Class`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mrt.control.agent import rows_of
from mrt.control.recurrence import gru, weights_of
from mrt.errors import ConfigError, nearest
from mrt.runs.code import import_named

Inputs = Mapping[str, Tensor]
"""What was seen: observation (B, [T,] D), action (B, [T,] [A]) the previous one (-1: none), reward, done (B, [T])."""


class Memory(nn.Module, ABC):
    """Reads `size` numbers a step and gives `size` numbers back."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    @abstractmethod
    def init_state(self, rows: int) -> Any:
        """The state at the start of `rows` trials."""

    @abstractmethod
    def step(self, x: Tensor, seen: Inputs, state: Any) -> tuple[Tensor, Any]:
        """x (B, size), the inputs it was made of, and the state -> (B, size) and the next state."""

    @abstractmethod
    def forward(self, x: Tensor, seen: Inputs) -> Tensor:
        """x (B, T, size) from the start of the trials -> (B, T, size), causal."""

    def embedded_step(self, embed: nn.Module, x: Tensor, seen: Inputs, state: Any) -> tuple[Tensor, Any]:
        """`step` on embed(x); a memory that begins with a linear map of its own may take both at once."""
        return self.step(embed(x), seen, state)

    def embedded(self, embed: nn.Module, x: Tensor, seen: Inputs) -> Tensor:
        """`forward` on embed(x), in the same way."""
        return self.forward(embed(x), seen)

    def fork(self, state: Any, rows: Tensor) -> Any:
        """An independent state of the rows at these indices (B',) int64; repeats make branches.

        A subclass whose state is no tree of tensors (B, ...) says its own.
        """
        return rows_of(state, rows)


class Recurrent(Memory):
    """GRU or LSTM (Duan et al. 2016; Wang et al. 2016). State: a tuple of (B, layers, size)."""

    kind: type[nn.GRU] | type[nn.LSTM] = nn.GRU

    def __init__(self, size: int, layers: int = 1) -> None:
        super().__init__(size)
        self.cell = self.kind(size, size, num_layers=layers, batch_first=True)
        for name, weight in self.cell.named_parameters():
            if name.startswith("weight_hh"):
                for gate in weight.data.chunk(weight.shape[0] // size):
                    nn.init.orthogonal_(gate)

    def init_state(self, rows: int) -> tuple[Tensor, ...]:
        zeros = next(self.cell.parameters()).new_zeros(rows, self.cell.num_layers, self.size)
        return (zeros, zeros) if isinstance(self.cell, nn.LSTM) else (zeros,)

    def step(self, x: Tensor, seen: Inputs, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        before: Any = tuple(part.transpose(0, 1).contiguous() for part in state)
        out, after = self.cell(x[:, None], before if len(before) > 1 else before[0])
        parts = after if isinstance(after, tuple) else (after,)
        return out[:, 0], tuple(part.transpose(0, 1) for part in parts)

    def forward(self, x: Tensor, seen: Inputs) -> Tensor:
        return self.cell(x)[0]


class GRU(Recurrent):
    """The memory of RL2 (Duan et al. 2016, 1611.02779)."""

    cell: nn.GRU

    def embedded_step(self, embed: nn.Module, x: Tensor, seen: Inputs, state: Any) -> tuple[Tensor, Any]:
        linear = _linear(embed, x)
        if linear is None:
            return super().embedded_step(embed, x, seen, state)
        parts = []
        for layer, h in enumerate(state[0].unbind(1)):
            w_i, w_h, b_i, b_h = weights_of(self.cell, layer, None if layer else linear)
            x = torch.gru_cell(x, h, w_i, w_h, b_i, b_h)
            parts.append(x)
        return x, (torch.stack(parts, 1),)

    def embedded(self, embed: nn.Module, x: Tensor, seen: Inputs) -> Tensor:
        linear = _linear(embed, x)
        return super().embedded(embed, x, seen) if linear is None else gru(self.cell, x, linear)


def _linear(embed: nn.Module, x: Tensor) -> nn.Linear | None:
    """The linear map that `embed` is, where nothing wraps it and `x` is on the CPU, whose GRU is our own."""
    inside = embed[0] if isinstance(embed, nn.Sequential) and len(embed) == 1 else embed
    return inside if type(inside) is nn.Linear and x.device.type == "cpu" else None


class LSTM(Recurrent):
    """The memory of Wang et al. 2016 (1611.05763)."""

    kind = nn.LSTM


class Transformer(Memory):
    """A causal transformer: any decoder config of Hugging Face, fed with vectors, its keys and values cached.

    Args:
        backbone: the `model_type` of a decoder config of transformers.
        config: further fields of that config (`rope_theta`, `num_key_value_heads`, ...), which win.
    """

    def __init__(
        self,
        size: int,
        *,
        layers: int = 2,
        heads: int = 4,
        backbone: str = "qwen3",
        max_steps: int = 4096,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        from transformers import AutoConfig, AutoModel

        super().__init__(size)
        fields = {
            "hidden_size": size,
            "intermediate_size": 4 * size,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "head_dim": size // heads,
            "max_position_embeddings": max_steps,
            "vocab_size": 1,  # nothing is looked up: steps come as vectors
            "pad_token_id": None,
            "bos_token_id": None,
            "eos_token_id": None,
        }
        try:
            self.decoder = AutoModel.from_config(AutoConfig.for_model(backbone, **{**fields, **(config or {})}))
        except (ValueError, KeyError, AttributeError) as error:
            raise ConfigError(f"no transformer of backbone={backbone!r} with {dict(config or {})}: {error}") from error
        self.decoder.get_input_embeddings().requires_grad_(
            False
        )  # never used: DDP and TRPO would wait for its gradient

    def init_state(self, rows: int) -> Any:
        from transformers import DynamicCache

        return DynamicCache()

    def step(self, x: Tensor, seen: Inputs, state: Any) -> tuple[Tensor, Any]:
        from mrt.kv_cache import growing_cache

        out = self.decoder(inputs_embeds=x[:, None], past_key_values=state, use_cache=True)
        cache = out.past_key_values
        if cache.get_seq_length() == 1:  # from here on without a copy a step
            cache = growing_cache([(layer.keys, layer.values) for layer in cache.layers])
        return out.last_hidden_state[:, 0], cache

    def forward(self, x: Tensor, seen: Inputs) -> Tensor:
        return self.decoder(inputs_embeds=x, use_cache=False).last_hidden_state

    def fork(self, state: Any, rows: Tensor) -> Any:
        from transformers import DynamicCache

        from mrt.kv_cache import growing_cache

        if not state.get_seq_length():
            return DynamicCache()
        return growing_cache([(layer.keys[rows], layer.values[rows]) for layer in state.layers])


class Reactive(Memory):
    """None: sees the present step only. The ablation that no memory test may pass."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.layer = nn.Linear(size, size)

    def init_state(self, rows: int) -> None:
        return None

    def step(self, x: Tensor, seen: Inputs, state: None) -> tuple[Tensor, None]:
        return torch.tanh(self.layer(x)), None

    def forward(self, x: Tensor, seen: Inputs) -> Tensor:
        return torch.tanh(self.layer(x))


MEMORIES: dict[str, type[Memory]] = {"gru": GRU, "lstm": LSTM, "transformer": Transformer, "none": Reactive}
"""The memories of this module by name."""


def make_memory(name: str, size: int, **options: Any) -> Memory:
    """A memory of width `size`: one of `MEMORIES`, or another class of ours as `module:Class`
    (`classic_metarl.black_box.snail:SNAIL`).

    Raises:
        ConfigError: for an unknown name or option, or a class that is not a memory.
    """
    if ":" in str(name):
        kind = import_named(str(name), "memory")
    elif name in MEMORIES:
        kind = MEMORIES[name]
    else:
        raise ConfigError(
            f"unknown memory '{name}'; {nearest(str(name), set(MEMORIES))}. Others are named as module:Class, as in "
            "classic_metarl.black_box.snail:SNAIL"
        )
    if not (isinstance(kind, type) and issubclass(kind, Memory)):
        raise ConfigError(f"memory '{name}' is not a Memory of mrt.control.memories")
    try:
        return kind(size, **options)
    except TypeError as error:
        raise ConfigError(f"memory '{name}' with {options}: {error}") from error
