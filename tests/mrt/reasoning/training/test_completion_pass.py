"""Shared prompts, and a head on completions only, change neither log-probabilities nor gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM
from trl.trainer.utils import add_fused_lm_head

from mrt.reasoning.training.completion_pass import CompletionRows, completion_logprobs

VOCABULARY, PROMPT, WIDTH = 40, 9, 7
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


def build(kind: str) -> Any:
    torch.manual_seed(0)
    if kind == "sliding":
        model: Any = MistralForCausalLM(MistralConfig(sliding_window=4, **SHAPE))
    else:
        model = LlamaForCausalLM(LlamaConfig(**SHAPE))
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    if kind == "adapter":
        model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    return model.train()


def batch(rows: int = 20, prompts: int = 3) -> CompletionRows:
    """Rows of some prompts of 3 to 9 tokens, in no order."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(VOCABULARY, (rows, PROMPT + WIDTH), generator=generator)
    mask = torch.ones_like(ids)
    owner = torch.randint(prompts, (rows,), generator=generator)
    starts = torch.randint(0, PROMPT - 2, (prompts,), generator=generator)
    mask[:, :PROMPT] = torch.arange(PROMPT) >= starts[owner][:, None]
    ids[:, :PROMPT] = ids[owner, :PROMPT] * mask[:, :PROMPT]
    mask[:, PROMPT:] = torch.arange(WIDTH) < torch.randint(1, WIDTH + 1, (rows,), generator=generator)[:, None]
    return CompletionRows(ids * mask, mask, WIDTH)


def by_trl(model: Any, rows: CompletionRows) -> tuple[torch.Tensor, torch.Tensor]:
    """What `GRPOTrainer._get_per_token_logps_and_entropies` does."""
    labels = rows.ids.masked_fill(rows.mask == 0, -100)
    labels[:, :-WIDTH] = -100
    out = model(input_ids=rows.ids, attention_mask=rows.mask, labels=labels, fused_lm_head=True)
    return out.log_probs[:, -WIDTH:], out.entropy[:, -WIDTH:]


@contextmanager
def positions(model: Any) -> Iterator[list[int]]:
    """Positions that run through the first layer, a number a pass, then those through the head."""
    seen: list[int] = []
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    layer = inner.model.layers[0]
    hook = layer.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[0] * args[0].shape[1]))
    yield seen
    hook.remove()


@pytest.mark.parametrize("kind", ["full", "sliding", "adapter"])
@pytest.mark.parametrize("how", ["shared", "apart", "one pass", "recomputed"])
def test_it_agrees_with_trl(kind: str, how: str) -> None:
    rows = batch(prompts=20 if how == "apart" else 3)
    if how == "apart":
        rows = CompletionRows(torch.cat([torch.arange(20)[:, None], rows.ids[:, 1:]], 1), rows.mask, WIDTH)
    model = build(kind)
    if how == "recomputed":
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    grid = torch.rand(len(rows.ids), WIDTH) * rows.mask[:, PROMPT:]
    found = []
    for ours in (True, False):
        model.zero_grad()
        logps, entropies = (
            completion_logprobs(model, rows, 20, one_pass=how == "one pass") if ours else by_trl(model, rows)
        )
        assert entropies is not None
        (logps * grid).sum().backward()
        grads = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        found.append((logps * rows.mask[:, PROMPT:], entropies * rows.mask[:, PROMPT:], grads))
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, atol=1e-5, rtol=1e-4)


def test_a_shared_prompt_runs_once() -> None:
    model, rows = build("full"), batch()
    with positions(model) as seen:
        completion_logprobs(model, rows, 100)
    lengths = sorted(int(n) for n in rows.lengths)
    assert seen == [3 * (PROMPT - 1), 16 * lengths[15], 4 * lengths[-1]]
    with positions(model) as seen:
        completion_logprobs(model, rows, 100, one_pass=True)
    assert seen == [20 * (PROMPT + WIDTH)]


def test_the_head_sees_completions_only(monkeypatch: pytest.MonkeyPatch) -> None:
    from trl.trainer import utils

    model, rows, seen = build("full"), batch(), []
    function = utils._ChunkedLogProbFunction

    class Watched:
        @staticmethod
        def apply(hidden: torch.Tensor, *args: Any) -> Any:
            seen.append(len(hidden))
            return function.apply(hidden, *args)

    monkeypatch.setattr(utils, "_ChunkedLogProbFunction", Watched)
    completion_logprobs(model, rows, 100, one_pass=True)
    assert seen == [len(rows.ids) * WIDTH]
