"""Log-probabilities of completions for the loss: a prompt that rows share runs once, the head only on completions.

TRL's own pass runs every row from its first token, pads all to the longest, and where Triton is missing runs the head
over the prompts too. The figures here are the same up to rounding, gradients included: those of a shared prompt flow
back through its keys and values.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from mrt.kv_cache import passing_cache
from mrt.reasoning.engines.attention import IMPLEMENTATIONS, attention_of

BUCKET = 16  # rows of similar length that go through the loss together


@dataclass(frozen=True)
class CompletionRows:
    """Prompts and completions side by side: `ids` and `mask` (rows, prompt + width), prompts padded on the left, the
    `width` columns of completions on the right.
    """

    ids: Tensor
    mask: Tensor
    width: int

    @property
    def prompt(self) -> int:
        """Columns of the prompts."""
        return self.ids.shape[1] - self.width

    @property
    def lengths(self) -> Tensor:
        """(rows,) tokens of each completion."""
        return self.mask[:, self.prompt :].sum(1)

    def take(self, chosen: Tensor) -> CompletionRows:
        """These rows, cut behind the longest completion among them."""
        width = max(1, int(self.lengths[chosen].max()))
        end = self.prompt + width
        return CompletionRows(self.ids[chosen, :end], self.mask[chosen, :end], width)

    def labels(self) -> Tensor:
        """(rows, width) completions, -100 where there is padding."""
        return self.ids[:, self.prompt :].masked_fill(self.mask[:, self.prompt :] == 0, -100)


def completion_logprobs(
    model: Any, rows: CompletionRows, at_once: int, *, one_pass: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities and entropies (rows, width) of completions, 0 at padding; rows of similar length at a time.

    Args:
        model: a causal LM with TRL's fused head (`add_fused_lm_head`), wrapped or not; entropies are None where that
            head computes none.
        at_once: at most so many rows in one pass.
        one_pass: all rows in a single forward pass, as DDP and sharded weights need it.
    """
    base = unwrapped(model)
    if one_pass:
        return _score(model, base, rows, None)
    prompts = SharedPrompts.of(model, base, rows)
    order, results = rows.lengths.argsort(), []
    for chosen in order.split(min(BUCKET, at_once)) if len(order) > min(BUCKET, at_once) else (order,):
        part = rows.take(chosen)
        past = prompts.past(chosen) if prompts else None
        pair = _score(model, base, part, past)
        results.append([one if one is None else nn.functional.pad(one, (0, rows.width - part.width)) for one in pair])
    back = order.argsort()
    logps, entropies = ([pair[i] for pair in results] for i in (0, 1))
    found = None if entropies[0] is None else torch.cat(entropies)[back]  # type: ignore[arg-type]
    return torch.cat(logps)[back], found  # type: ignore[arg-type]


def _score(model: Any, base: Any, rows: CompletionRows, past: DynamicCache | None) -> tuple[Tensor, Tensor | None]:
    """One pass. Behind a `past` it begins at the last token of the prompts; the last of a completion need not run."""
    if past is None:
        with _only_completions(base, rows.width):
            out = model(input_ids=rows.ids, attention_mask=rows.mask, shift_labels=rows.labels(), fused_lm_head=True)
        return out.log_probs, out.entropy
    first = rows.prompt - 1
    out = model(
        input_ids=rows.ids[:, first:-1],
        attention_mask=rows.mask[:, :-1],
        past_key_values=past,
        shift_labels=rows.labels(),
        fused_lm_head=True,
    )
    return out.log_probs, out.entropy


@contextmanager
def _only_completions(base: Any, width: int) -> Iterator[None]:
    """The head sees the hidden states from which the last `width` tokens are predicted, and no others."""

    def cut(module: Any, args: Any, out: Any) -> Any:
        out.last_hidden_state = out.last_hidden_state[:, -width - 1 : -1]
        return out

    hook = base.base_model.register_forward_hook(cut)
    try:
        yield
    finally:
        hook.remove()


@dataclass(frozen=True)
class SharedPrompts:
    """Keys and values of the different prompts of a batch but for their last token, and the prompt of each row."""

    layers: list[tuple[Tensor, Tensor]]
    owner: Tensor

    @staticmethod
    def of(model: Any, base: Any, rows: CompletionRows) -> SharedPrompts | None:
        """None where no two rows have one prompt, or the model keeps more of its past than keys and values."""
        if rows.prompt < 2 or not shareable(base):
            return None
        both = torch.cat([rows.ids[:, : rows.prompt], rows.mask[:, : rows.prompt]], 1)
        different, owner = torch.unique(both, dim=0, return_inverse=True)
        if len(different) == len(both):
            return None
        ids, mask = different.split(rows.prompt, 1)
        cache = DynamicCache()  # of keys and values in full, whatever the model's window
        model(
            input_ids=ids[:, :-1], attention_mask=mask[:, :-1], past_key_values=cache, use_cache=True, logits_to_keep=1
        )
        layers: list[Any] = list(cache.layers)
        return SharedPrompts([(layer.keys, layer.values) for layer in layers], owner)

    def past(self, chosen: Tensor) -> DynamicCache:
        """What the rows `chosen` look back at."""
        owner = self.owner[chosen]
        return passing_cache([(keys[owner], values[owner]) for keys, values in self.layers])


def shareable(base: Any) -> bool:
    """Whether rows may look back at one prompt: keys and values are all of the past, and recomputation, which runs
    layers without a cache, is off.
    """
    recomputed = base.training and getattr(base, "is_gradient_checkpointing", False)
    return not recomputed and base.config._attn_implementation in IMPLEMENTATIONS and attention_of(base) is not None


def unwrapped(model: Any) -> Any:
    """The causal LM inside of DDP and adapters."""
    inner = getattr(model, "module", model)
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner
