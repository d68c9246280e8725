"""What an engine computes and keeps: logits where they are asked for, one copy of keys and values, nothing of the
vocabulary's size on the way to the CPU."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM

from mrt.reasoning.engines import transformers as transformers_engine
from mrt.reasoning.engines.base import Branch
from mrt.reasoning.engines.sampling import Sampling, draw
from mrt.reasoning.engines.transformers import TransformersEngine

pytestmark = pytest.mark.training

VOCABULARY = 512
TRACES = [
    torch.randint(1, VOCABULARY, (n,), generator=torch.Generator().manual_seed(n)).tolist() for n in (90, 100, 75, 96)
]
BRANCHES = [Branch(row, cut, (7, 3)) for row in range(4) for cut in (20, 30, 45, 60, 70)]
CONTINUATIONS = [[4, 5, 6], [4, 5, 7], [4, 8]]


@pytest.fixture(scope="module")
def model() -> Any:
    """Keys and values of a position are as large as its hidden states, so that copies of them show."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=8, num_attention_heads=4, intermediate_size=32,
        max_position_embeddings=1024,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@contextmanager
def logits_of(model: Any) -> Iterator[list[int]]:
    """Positions for which logits are computed, a number for each pass."""
    found: list[int] = []
    hook = model.lm_head.register_forward_hook(lambda module, args, out: found.append(out.numel() // out.shape[-1]))
    yield found
    hook.remove()


def test_logits_are_computed_where_they_are_asked_for(model: Any) -> None:
    engine = TransformersEngine(model, 0)
    with logits_of(model) as found:
        prefix = engine.prefill(TRACES)
        assert sum(found) == 0  # rows of four lengths: not even one position of each
        engine.answers(prefix, BRANCHES, 3, 4, [])
        assert sum(found) == len(BRANCHES) + 3 * 3 * len(BRANCHES)  # after the suffix, then one a stream and step
        found.clear()
        engine.score(prefix, BRANCHES, [CONTINUATIONS] * len(BRANCHES))
        assert sum(found) == 3 * len(BRANCHES)  # behind the suffix, behind 4, behind 5
        found.clear()
        engine.token_logprobs(TRACES)
        assert sum(found) == sum(map(len, TRACES)) - len(TRACES)


def peak(run: Callable[[], Any]) -> int:
    """Bytes that were allocated at one time while `run` ran, over what was there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        run()
    sizes = [one.nbytes() for one in watched.profiler.kineto_results.events() if one.name() == "[memory]"]
    return max(itertools.accumulate(sizes))


LONG = [torch.randint(1, VOCABULARY, (512,), generator=torch.Generator().manual_seed(n)).tolist() for n in range(8)]
CUTS = (60, 150, 240, 330, 420, 512)


def bytes_of(layers: Any) -> int:
    return sum(x.numel() * x.element_size() for pair in layers for x in pair)


@pytest.mark.parametrize("asked", ["answers", "score", "levels"])
def test_boundaries_share_the_keys_and_values_of_their_trace(
    model: Any, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prefill and probe of 8 traces at 6 boundaries: at most half as much again as the keys and values themselves. A
    copy for each boundary would be six times."""
    monkeypatch.setattr(transformers_engine, "PASS", 512)  # of what layers compute on the way, so that keys stand out
    engine = TransformersEngine(model, 0)
    branches = [Branch(row, cut, (7, 3)) for row in range(8) for cut in CUTS]
    values = bytes_of((layer.keys, layer.values) for layer in engine.prefill(LONG[:1]).cache.layers) * 8

    def probe() -> None:
        prefix = engine.prefill(LONG)
        if asked == "answers":
            engine.answers(prefix, branches, 4, 3, [])
        else:
            engine.score(prefix, branches, [CONTINUATIONS] * len(branches), 1e-9 if asked == "levels" else 0.0)

    assert peak(probe) < 1.5 * values


def test_kept_rows_are_joined_without_a_second_copy(model: Any) -> None:
    engine = TransformersEngine(model, 0)
    prefix = engine.prefill(LONG)
    answers = engine.answers(prefix, [Branch(row, 512) for row in range(8)], 1, 8, [], keep=True)
    kept = [one for answer in answers for one in answer.kept]
    values = sum(bytes_of(one.layers) for one in kept)
    again = engine.restore(kept)
    states = [(layer.keys, layer.values) for layer in again.cache.layers]
    assert {x.untyped_storage().data_ptr() for one in kept for pair in one.layers for x in pair} == {
        x.untyped_storage().data_ptr() for pair in states for x in pair
    }
    assert bytes_of(states) == values
    again = engine.restore(kept)  # rows that were joined once serve again
    branches = [Branch(row, cut, (7, 3)) for row in range(8) for cut in CUTS]
    before = [one.layers[0][0].clone() for one in kept]
    engine.answers(
        again, branches, 4, 60, []
    )  # outgrows the room behind the rows: they move, and the kept rows with them
    for one, states, row in zip(kept, before, range(8), strict=True):
        assert torch.equal(one.layers[0][0], states)
        assert one.layers[0][0].data_ptr() == again.cache.layers[0].keys[row].data_ptr()


def test_nothing_of_the_vocabularys_size_leaves_the_device(model: Any) -> None:
    """On a device without memory every number that is read is seen: only numbers of the size of an answer are."""
    engine = TransformersEngine(model, 0)
    read: list[int] = []

    class Reads(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            if "_to_copy" in str(func) and (kwargs or {}).get("device") is not None:
                read.append(out.shape[-1] if out.ndim else 1)
            return out

    with Reads():
        prefix = engine.prefill(LONG)
        engine.score(prefix, [Branch(0, 60, (7, 3))], [CONTINUATIONS])
        engine.token_logprobs(LONG)
    assert VOCABULARY not in read


def test_drawing_works_on_some_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 rows of 512 logits: the copies are of 4 rows, and every row is drawn from its own distribution."""
    logits = torch.zeros(64, VOCABULARY)
    logits[torch.arange(64), torch.arange(64)] = 50.0
    whole = peak(lambda: draw(logits, Sampling(0.5)))
    monkeypatch.setattr("mrt.reasoning.engines.sampling.SLICE", 4 * VOCABULARY)
    assert peak(lambda: draw(logits, Sampling(0.5))) < 0.3 * whole
    token, logprob = draw(logits, Sampling(0.5))
    assert token.tolist() == list(range(64))
    assert logprob.abs().max() < 1e-6
