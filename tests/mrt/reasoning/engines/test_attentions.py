"""Acting, tree-masked and pruned scores and kept rows equal a fresh pass over the whole text, whatever the attention:
full, sliding (window 8), chunked, latent, and recurrent states, which share nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from mrt.errors import ConfigError
from mrt.reasoning.engines.attention import attention_of
from mrt.reasoning.engines.base import Branch
from mrt.reasoning.engines.opening import engine_on
from mrt.reasoning.engines.transformers import TransformersEngine
from mrt.reasoning.engines.unshared import UnsharedEngine

pytestmark = pytest.mark.training

VOCABULARY = 40
WIDTHS = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
          "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256,
          "initializer_range": 0.15, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}  # fmt: skip
WINDOW = {"sliding_window": 8}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
TURNS = {"layer_types": ["sliding_attention", "full_attention"] * 2}
LATENT = {"kv_lora_rank": 8, "q_lora_rank": 12, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 6,
          "num_key_value_heads": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
          "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "head_dim": 4}  # fmt: skip
LINEAR = {"initializer_range": 0.06, "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8,
          "linear_value_head_dim": 8, "layer_types": ["linear_attention", "full_attention"] * 2}  # fmt: skip

SHARED: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "qwen3_moe": EXPERTS,
    "mistral": WINDOW,
    "mixtral": WINDOW | {"num_local_experts": 4},
    "phi3": WINDOW,
    "starcoder2": WINDOW,
    "gemma2": WINDOW | TURNS | {"query_pre_attn_scalar": 8},
    "gemma3_text": WINDOW | TURNS | {"query_pre_attn_scalar": 8},
    "gpt_oss": WINDOW | TURNS | {"num_local_experts": 4},
    "cohere2": WINDOW | TURNS,
    "olmo3": WINDOW | TURNS,
    "exaone4": WINDOW | TURNS,
    "smollm3": {},
    "granite": {"logits_scaling": 3.0},
    "gpt_neox": {},
    "gpt2": {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 256},
    "llama4_text": {"attention_chunk_size": 8, "num_local_experts": 2, "intermediate_size_mlp": 48,
                    "layer_types": ["chunked_attention", "full_attention"] * 2},
    "deepseek_v2": LATENT | {"topk_method": "greedy"},
    "deepseek_v3": LATENT,
}  # fmt: skip
UNSHARED: dict[str, dict[str, Any]] = {
    "qwen3_next": LINEAR | EXPERTS | {"shared_expert_intermediate_size": 16, "num_experts": 4},
    "qwen3_5_text": LINEAR,
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2, "block_auto_adjust_ff_dim": False},
    "bloom": {"n_layer": 2, "n_head": 4},
    "mamba2": {"num_heads": 8, "state_size": 8, "n_groups": 1, "expand": 2, "chunk_size": 8},
}


def build(kind: str, **facts: Any) -> Any:
    """A tiny random model of an architecture, float32."""
    config = AutoConfig.for_model(kind, **{**WIDTHS, **facts})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


ROWS = [torch.randint(1, VOCABULARY, (n,), generator=torch.Generator().manual_seed(n)).tolist() for n in (31, 44, 19)]
# Several boundaries of a row, some far back: a window counted over places of the cache would begin elsewhere.
BRANCHES = [
    Branch(0, 4, (7, 3)),
    Branch(0, 28, (7, 3)),
    Branch(1, 44, (7, 3, 5)),
    Branch(1, 17, (7,)),
    Branch(2, 12, (9,)),
]
CONTINUATIONS = [[4, 5, 6], [4, 5, 7], [4, 8], [9], [4, 5, 6, 10, 11, 12, 13, 14, 15, 16, 17]]


def fresh(model: Any, given: list[int], more: list[int]) -> list[float]:
    with torch.no_grad():
        table = model(torch.tensor([[*given, *more]]), use_cache=False).logits[0].double().log_softmax(-1)
    return [float(table[len(given) + i - 1, token]) for i, token in enumerate(more)]


def given(branch: Branch) -> list[int]:
    return [*ROWS[branch.row][: branch.cut], *branch.suffix]


def agree(engine: Any, model: Any) -> None:
    """Everything that an engine says of its branches against a pass over the whole text each."""
    prefix = engine.prefill(ROWS)
    expected = [[sum(fresh(model, given(b), one)) for one in CONTINUATIONS] for b in BRANCHES]
    for tolerance in (0.0, 1e-300):
        for score, want in zip(engine.score(prefix, BRANCHES, [CONTINUATIONS] * 5, tolerance), expected, strict=True):
            assert score.tolist() == pytest.approx(want, abs=1e-5)
    torch.manual_seed(1)
    for length in (12, 60):  # short answers share a row, long ones have a row each
        answers = engine.answers(prefix, BRANCHES, 3, length, [1])
        for branch, answer in zip(BRANCHES, answers, strict=True):
            for ids, logprobs in zip(answer.ids, answer.logprobs, strict=True):
                assert logprobs == pytest.approx(fresh(model, given(branch), ids), abs=1e-5)
    starts = [Branch(row, len(ids)) for row, ids in enumerate(ROWS)] if hasattr(prefix, "last") else []
    acted = engine.answers(prefix, starts, 2, 14, [1], keep=True)
    texts = [[*ROWS[row], *ids] for row, answer in enumerate(acted) for ids in answer.ids]
    kept = [one for answer in acted for one in answer.kept]
    cuts = [Branch(i, len(text) - 6, (7, 3)) for i, text in enumerate(texts)]
    for score, cut in zip(
        engine.score(engine.restore(kept), cuts, [CONTINUATIONS] * 6) if kept else [], cuts, strict=True
    ):
        want = [sum(fresh(model, [*texts[cut.row][: cut.cut], *cut.suffix], one)) for one in CONTINUATIONS]
        assert score.tolist() == pytest.approx(want, abs=1e-5)
    for row, logprobs in zip(ROWS, engine.token_logprobs(ROWS), strict=True):
        assert logprobs.tolist() == pytest.approx(fresh(model, row[:1], row[1:]), abs=1e-5)


@pytest.mark.parametrize("kind", SHARED)
def test_keys_and_values_are_shared(kind: str) -> None:
    model = build(kind, **SHARED[kind])
    engine = engine_on(model, 0)
    assert isinstance(engine, TransformersEngine)
    agree(engine, model)


@pytest.mark.parametrize("kind", UNSHARED)
def test_other_states_are_read_anew(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    model = build(kind, **UNSHARED[kind])
    engine = engine_on(model, 0)
    assert isinstance(engine, UnsharedEngine)
    agree(engine, model)
    with pytest.raises(ConfigError, match=type(model).__name__):
        TransformersEngine(model, 0)


@pytest.mark.parametrize("kind", ["qwen3", "gemma3_text"])
@pytest.mark.parametrize("how", ["weights", "autocast"])
def test_half_precision_differs_by_its_rounding(kind: str, how: str) -> None:
    """bfloat16 weights, and float32 ones under autocast as accelerate wraps a model: keys and values may then differ in
    dtype."""
    model = build(kind, **SHARED[kind])
    expected = [[sum(fresh(model, given(b), one)) for one in CONTINUATIONS] for b in BRANCHES]
    if how == "weights":
        model = model.bfloat16()
    else:
        model.forward = torch.autocast("cpu", dtype=torch.bfloat16)(model.forward)
    engine = engine_on(model, 0)
    prefix = engine.prefill(ROWS)
    for tolerance in (0.0, 1e-300):
        for score, want in zip(engine.score(prefix, BRANCHES, [CONTINUATIONS] * 5, tolerance), expected, strict=True):
            assert score.tolist() == pytest.approx(want, abs=0.2)
    kept = engine.answers(prefix, BRANCHES, 2, 5, [1], keep=True)
    engine.restore([one for answer in kept for one in answer.kept])


def test_windows_are_read_from_the_configuration() -> None:
    kinds = {kind: dict(attention_of(build(kind, **SHARED[kind])).kinds) for kind in ("llama", "mistral", "gemma2")}  # type: ignore[union-attr]
    assert kinds["llama"] == {"full_attention": 0}
    assert kinds["mistral"] == {"sliding_attention": 8}
    assert kinds["gemma2"] == {"sliding_attention": 8, "full_attention": 0}


def test_models_that_are_no_causal_language_models_are_refused_by_name() -> None:
    from transformers import AutoModelForSeq2SeqLM, T5Config

    config = T5Config(vocab_size=40, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    with pytest.raises(ConfigError, match="T5ForConditionalGeneration has an encoder"):
        engine_on(AutoModelForSeq2SeqLM.from_config(config), 0)
