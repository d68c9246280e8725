"""The sync canary: twenty ways in which a synchronisation can go wrong, and two hundred that went well."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from mrt.errors import SyncError
from mrt.reasoning.engines.transformers import TransformersEngine
from mrt.reasoning.models.tiny import build_model, build_tokenizer
from mrt.reasoning.training.canary import EXACT, SyncCanary, canary_sequences, tolerance_for

pytestmark = pytest.mark.training

TOKENIZER = build_tokenizer()
VOCABULARY = len(TOKENIZER)
Weights = dict[str, torch.Tensor]


def tiny(seed: int = 1) -> Any:
    return build_model(TOKENIZER, hidden=32, layers=3, heads=2, seed=seed)


def step(model: Any, rate: float = 1e-3) -> None:
    """One update of every weight that is trained, by Adam's first step: the sign of its gradient."""
    ids = torch.randint(4, VOCABULARY, (4, 20))
    model(ids, labels=ids).loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= rate * parameter.grad.sign()
                parameter.grad = None


def engine(model: Any) -> TransformersEngine:
    return TransformersEngine(model, TOKENIZER.pad_token_id)


def canary() -> SyncCanary:
    return SyncCanary(canary_sequences(VOCABULARY, [[9, 10, 11, 12]]), EXACT)


LAYER = "model.layers.1."
ATTENTION, MLP = LAYER + "self_attn.", LAYER + "mlp."


def keep_old(*parts: str) -> Callable[[Weights, Weights], None]:
    def corrupt(new: Weights, old: Weights) -> None:
        names = [name for name in new if any(part in name for part in parts)]
        assert names
        new.update({name: old[name] for name in names})

    return corrupt


def change(name: str, how: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Weights, Weights], None]:
    return lambda new, old: new.update({name: how(new[name])})


def swap(one: str, other: str) -> Callable[[Weights, Weights], None]:
    return lambda new, old: new.update({one: new[other], other: new[one]})


def exchange_layers(new: Weights, old: Weights) -> None:
    for name in [name for name in new if name.startswith("model.layers.0.")]:
        other = name.replace("layers.0", "layers.1")
        new[name], new[other] = new[other], new[name]


def zero_row(value: torch.Tensor) -> torch.Tensor:
    value = value.clone()
    value[77] = 0
    return value


def poison(value: torch.Tensor) -> torch.Tensor:
    value = value.clone()
    value[0, 0] = torch.nan
    return value


def half(new: Weights, old: Weights) -> None:
    new.update({name: value.bfloat16().float() for name, value in new.items()})


EMBEDDING = "model.embed_tokens.weight"
FULL = {
    "nothing was transferred": keep_old(""),
    "a layer was skipped": keep_old(LAYER),
    "all MLPs were skipped": keep_old(".mlp."),
    "one projection was skipped": keep_old(MLP + "down_proj"),
    "one small projection was skipped": keep_old(ATTENTION + "k_proj"),
    "the embedding is stale": keep_old("embed_tokens", "lm_head"),
    "the last norm is stale": keep_old("model.norm.weight"),
    "gate and up are swapped": swap(MLP + "gate_proj.weight", MLP + "up_proj.weight"),
    "query and key are swapped": swap(ATTENTION + "q_proj.weight", ATTENTION + "k_proj.weight"),
    "two layers are exchanged": exchange_layers,
    "a tensor is scaled by 1.01": change(ATTENTION + "v_proj.weight", lambda value: value * 1.01),
    "a norm is scaled by 1.001": change(LAYER + "input_layernorm.weight", lambda value: value * 1.001),
    "a tensor is transposed": change(ATTENTION + "o_proj.weight", lambda value: value.T.contiguous()),
    "a tensor is shifted by one row": change(MLP + "down_proj.weight", lambda value: value.roll(1, 0)),
    "a tensor is zero": change(ATTENTION + "o_proj.weight", torch.zeros_like),
    "one row of the embedding is zero": change(EMBEDDING, zero_row),
    "everything was rounded to bfloat16": half,
    "one entry is NaN": change(MLP + "up_proj.weight", poison),
}
ADAPTER = {
    "the adapter is stale": lambda new, old: old,
    "the adapter was left out": lambda new, old: {k: v * 0 if "lora_B" in k else v for k, v in new.items()},
    "the adapter was merged twice": lambda new, old: {k: v * 2 if "lora_B" in k else v for k, v in new.items()},
    "one module's adapter is stale": lambda new, old: new | {k: v for k, v in old.items() if "layers.2" in k},
}


@pytest.mark.parametrize("fault", FULL)
def test_a_fault_in_a_transfer_is_caught_at_once(fault: str) -> None:
    torch.manual_seed(0)
    trained = tiny()
    copied = copy.deepcopy(trained)
    watch = canary()
    watch.check(engine(copied), engine(trained), 0)
    old = copy.deepcopy(trained.state_dict())
    step(trained)
    new = dict(copy.deepcopy(trained.state_dict()))
    FULL[fault](new, old)
    new["lm_head.weight"] = new[EMBEDDING]  # tied
    copied.load_state_dict(new)
    with pytest.raises(SyncError, match=r"after the synchronisation at step 7|moved by .* up to step 7"):
        watch.check(engine(copied), engine(trained), 7)


@pytest.mark.parametrize("fault", ADAPTER)
def test_a_fault_in_an_adapter_is_caught_at_once(fault: str) -> None:
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM")
    trained = get_peft_model(tiny(), config)
    for _ in range(3):  # B starts at zero
        step(trained)
    watch = canary()
    merged = copy.deepcopy(trained).merge_and_unload()
    watch.check(engine(merged), engine(trained), 0)
    old = copy.deepcopy(trained.state_dict())
    step(trained)
    clean = copy.deepcopy(trained).merge_and_unload()
    assert watch.check(engine(clean), engine(trained), 1)["sync/difference"] < EXACT
    broken = copy.deepcopy(trained)
    broken.load_state_dict(ADAPTER[fault](dict(trained.state_dict()), old))
    with pytest.raises(SyncError):
        watch.check(engine(broken.merge_and_unload()), engine(trained), 2)


def test_there_are_at_least_twenty_faults() -> None:
    assert len(FULL) + len(ADAPTER) >= 20


def test_clean_syncs_raise_no_alarm() -> None:
    """200 updates, every one followed by a right transfer into a copy that computes its attention another way."""
    torch.manual_seed(0)
    trained = tiny()
    copied = copy.deepcopy(trained)
    copied.set_attn_implementation("eager")
    watch = canary()
    largest = 0.0
    for number in range(200):
        step(trained, rate=1e-4)
        copied.load_state_dict(trained.state_dict())
        largest = max(largest, watch.check(engine(copied), engine(trained), number)["sync/difference"])
    assert watch.syncs == 200
    assert 0 < largest < EXACT / 2, "room to the tolerance, and the two do compute differently"
    watch.check(engine(copied), engine(trained), 200)  # no update in between: nothing has to move


def test_an_engine_that_does_not_follow_is_caught_within_a_wide_tolerance() -> None:
    """In half precision a small update stays within what two kernels differ by: the movement tells."""
    torch.manual_seed(0)
    trained = tiny()
    copied = copy.deepcopy(trained)
    watch = SyncCanary(canary_sequences(VOCABULARY), tolerance=0.5)
    watch.check(engine(copied), engine(trained), 0)
    step(trained)
    with pytest.raises(SyncError, match="still samples from older weights"):
        watch.check(engine(copied), engine(trained), 1)


def test_a_prefix_cache_that_was_not_emptied_is_caught() -> None:
    """The engine has the new weights, but keys and values of the fixed sequences from before the update."""
    torch.manual_seed(0)
    trained = tiny()
    watch = canary()
    watch.check(engine(trained), engine(trained), 0)

    class Cached(TransformersEngine):
        def prefill(self, sequences: Any, purpose: str = "sampled") -> Any:
            return kept

    kept = engine(trained).prefill(watch.sequences)
    step(trained)
    with pytest.raises(SyncError, match="prefix cache"):
        watch.check(Cached(trained, TOKENIZER.pad_token_id), engine(trained), 1)


def test_sequences_are_fixed_and_tolerances_follow_the_precision() -> None:
    first, second = canary_sequences(500, [[1, 2, 3]] * 9), canary_sequences(500, [[1, 2, 3]] * 9)
    assert first == second
    assert [len(one) for one in first] == [24, 24, 24, 144, 3, 3, 3, 3]
    assert max(len(one) for one in canary_sequences(500, longest=60)) == 60
    assert tolerance_for(torch.float32) < tolerance_for(torch.float32, "cuda") < tolerance_for(torch.bfloat16)
