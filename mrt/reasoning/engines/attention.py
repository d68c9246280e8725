"""What a model's attention may look back at, read from its configuration; masks by position, not by place in a cache.

Keys of one row lie in the cache with gaps (padding, other branches). A window of w positions counted over places of the
cache would count those too, so every mask here is built from positions: a query at position p sees a key at position q
of its own past where p - q < w (sliding), or where p and q lie in one chunk (chunked).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mrt.errors import ConfigError

FULL, SLIDING, CHUNKED = "full_attention", "sliding_attention", "chunked_attention"
MASKED = ("create_causal_mask", "create_sliding_window_causal_mask")  # what a model's module masks with
IMPLEMENTATIONS = ("sdpa", "eager")  # take a mask of any shape


@dataclass(frozen=True)
class Attention:
    """The kinds of a model's layers, each with the size of its window or chunk (0: full attention)."""

    kinds: Mapping[str, int]

    def mask(self, sees: Tensor, asking: Tensor, asked: Tensor, dtype: torch.dtype) -> Tensor | dict[str, Tensor]:
        """What a model takes as `attention_mask`: one additive mask (rows, 1, queries, keys), or one for each kind.

        Args:
            sees: (rows, queries, keys), whether a key belongs to the query's past.
            asking: (rows, queries) positions.
            asked: (rows, keys) positions.
        """
        masks = {}
        for kind, size in self.kinds.items():
            near = sees
            if kind == SLIDING:
                near = sees & (asking[:, :, None] - asked[:, None] < size)
            elif kind == CHUNKED:
                near = sees & (asking[:, :, None] // size == asked[:, None] // size)
            masks[kind] = _additive(near, dtype)
        return next(iter(masks.values())) if len(masks) == 1 else masks


def _additive(sees: Tensor, dtype: torch.dtype) -> Tensor:
    bias = torch.zeros(sees.shape, dtype=dtype, device=sees.device)
    return bias.masked_fill_(~sees, torch.finfo(dtype).min)[:, None]


def attention_of(model: Any) -> Attention | None:
    """The attention of a causal LM whose past is its keys and values at known positions; None for any other model.

    None: recurrent states (Mamba, Qwen3-Next, LFM2), sparse attention behind an indexer, positions that are no
    argument (ALiBi), and whatever else is not known to be right.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = inner.config.get_text_config(decoder=True)
    module = sys.modules[type(inner).__module__]
    sliding, chunked = getattr(config, "sliding_window", None), getattr(config, "attention_chunk_size", None)
    if getattr(inner, "_is_stateful", False) or not any(hasattr(module, name) for name in MASKED):
        return None
    if hasattr(module, "build_alibi_tensor") or "local" in (getattr(config, "attention_layers", None) or ()):
        return None
    types = getattr(config, "layer_types", None)
    if types is None:
        types = [FULL]
        if sliding and hasattr(module, "create_sliding_window_causal_mask"):
            types = [SLIDING]
    sizes = {FULL: 0, SLIDING: sliding, CHUNKED: chunked}
    if any(sizes.get(kind) is None for kind in types):
        return None
    return Attention({kind: int(sizes[kind] or 0) for kind in dict.fromkeys(types)})


def check_text_model(model: Any) -> None:
    """Raises ConfigError, naming the model, for one that is no decoder of text with a head over its vocabulary."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    name = type(inner).__name__
    if getattr(inner.config, "is_encoder_decoder", False):
        raise ConfigError(f"{name} has an encoder: take a causal language model (decoder only)")
    if any(one.is_prompt_learning for one in getattr(model, "peft_config", {}).values()):
        raise ConfigError(f"{name} has an adapter of virtual tokens, behind which nothing can be cached: take LoRA")
    if inner.get_output_embeddings() is None:
        raise ConfigError(f"{name} has no head over its vocabulary: take a causal language model")


def unshareable(model: Any) -> str:
    """Why nothing of a model's past can be shared, naming its attention."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = inner.config.get_text_config(decoder=True)
    kinds = ", ".join(dict.fromkeys(getattr(config, "layer_types", None) or [str(config.model_type)]))
    return f"{type(inner).__name__} ({kinds}) keeps more of its past than keys and values at known positions"
