"""The engine on a vLLM, with a stand-in for vLLM that computes with transformers: it says the same.

test_vllm.py asks the real one.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from mrt.errors import ConfigError
from mrt.reasoning.engines.base import Branch, Counts, Engine
from mrt.reasoning.engines.noise import Noise
from mrt.reasoning.engines.sampling import Sampling
from mrt.reasoning.engines.transformers import TransformersEngine
from mrt.reasoning.engines.vllm import VLLMEngine
from mrt.reasoning.engines.vllm_backends import MOST_WANTED, Colocated, Request, Served
from mrt.reasoning.training.mismatch import gathered_mismatch
from tests.support.vllm_standin import MODEL, TOKENIZER, Standin, serving

GREEDY = Sampling(temperature=0)


ROWS = [[9, 10, 11, 12, 13, 14, 15, 16, 17], [20, 21, 22, 23, 24], [30, 31]]
BRANCHES = [Branch(0, 4, (7, 3)), Branch(0, 9, (7, 3)), Branch(1, 5, (7,)), Branch(2, 1, (7, 3, 5))]
CONTINUATIONS = [[4, 5, 6], [4, 5, 7], [4, 8], [9], [4, 5, 6, 10, 11]]


def both() -> tuple[VLLMEngine, TransformersEngine]:
    return VLLMEngine(Standin()), TransformersEngine(MODEL, TOKENIZER.pad_token_id)


def test_both_engines_say_the_same() -> None:
    ours, theirs = both()
    for one in (ours, theirs):
        engine: Engine = one
        scores = engine.score(engine.prefill(ROWS), BRANCHES, [CONTINUATIONS] * 4)
        answers = engine.answers(engine.prefill(ROWS), BRANCHES, 2, 5, [1, 2], sampling=GREEDY)
        tokens = engine.token_logprobs(ROWS)
        found = (torch.stack(scores), [answer.ids for answer in answers], torch.cat(tokens))
        if one is ours:
            first = found
    assert torch.allclose(first[0], found[0], atol=1e-5)
    assert first[1] == found[1]
    assert torch.allclose(first[2], found[2], atol=1e-5)
    assert [len(one) for one in tokens] == [8, 4, 1]


def test_tokens_are_counted_by_hand() -> None:
    """Transformers: rows 9 + 5 + 2, suffixes 2 + 2 + 1 + 3; asked 6 + 11 + 6 + 4 for each of 3 answers."""
    vllm, own = both()
    own.answers(own.prefill(ROWS), BRANCHES, 3, 4, [])
    assert own.counts == Counts(asked=3 * 27, prefilled=16 + 8, decoded=4 * 3 * 4)
    assert own.counts.reused == 81 - 24
    assert own.counts.metrics() == {"engine/prefilled": 24, "engine/reused": 57, "engine/decoded": 48}
    # Four tokens of (6), eight of (11) from the first row, four of (6), nothing of (4 <= one block): the first answer
    # of a branch pays what is new, the others the rest of their last block.
    vllm.answers(vllm.prefill(ROWS), BRANCHES, 3, 4, [])
    cached = (0 + 4 + 4) + (4 + 8 + 8) + (0 + 4 + 4) + 0
    assert vllm.counts == Counts(asked=81, prefilled=81 - cached, decoded=48)
    assert vllm.positions == {"sampled": 0, "probed": 81 - cached + 12 * 3}
    before = replace(own.counts)
    own.score(own.prefill(ROWS[:1]), BRANCHES[:1], [CONTINUATIONS])
    # 4 + 2 + (continuation - 1) for each of five; the row 9, the suffix 2, four nodes of the trie behind it
    assert own.counts.asked - before.asked == 5 * 6 + (2 + 2 + 1 + 0 + 4)
    assert own.counts.prefilled - before.prefilled == 9 + 2 + 4


def test_samples_have_seeds_of_their_own_from_torchs_generator() -> None:
    vllm, _ = both()
    torch.manual_seed(3)
    first = vllm.answers(vllm.prefill(ROWS), BRANCHES[:1], 8, 6, [])[0]
    again = vllm.answers(vllm.prefill(ROWS), BRANCHES[:1], 8, 6, [])[0]
    torch.manual_seed(3)
    same = vllm.answers(vllm.prefill(ROWS), BRANCHES[:1], 8, 6, [])[0]
    assert first.ids == same.ids != again.ids
    assert len({tuple(ids) for ids in first.ids}) > 1
    assert first.kept == []
    with pytest.raises(RuntimeError, match="prefill the rows"):
        vllm.restore([None])


def test_coupled_answers_are_requests_of_one_seed_where_a_seed_decides() -> None:
    vllm, _ = both()
    same = [Branch(0, 4, (7, 3)), Branch(0, 9, (7, 3)), Branch(0, 4, (7, 3))]
    noise = [[Noise(2**61 + 5, sample) for sample in range(3)]] * 3
    found = vllm.answers(vllm.prefill(ROWS), same, 3, 6, [], noise=noise)
    assert found[0].ids == found[2].ids
    seeds = [request.seed for request in vllm.backend.seen]  # type: ignore[attr-defined]
    assert seeds[:3] == seeds[3:6] == seeds[6:]
    assert len(set(seeds)) == 3
    vllm.answers(vllm.prefill(ROWS), same[:1], 1, 2, [], noise=[[noise[0][0].behind(2)]])
    assert vllm.backend.seen[-1].seed not in seeds  # type: ignore[attr-defined]  # an answer that goes on is not repeated
    with serving() as (url, _), pytest.raises(ConfigError, match=r"VLLM_USE_V2_MODEL_RUNNER=0.*probe='pooled'"):
        VLLMEngine(Served(url)).answers([(5, 6)], [Branch(0, 2, (7,))], 1, 2, [], noise=[[Noise(1, 0)]])
    with pytest.raises(ConfigError, match="no hidden states"):
        vllm.answers(vllm.prefill(ROWS), same[:1], 1, 2, [], states=True)


def test_many_wanted_tokens_are_asked_for_in_parts() -> None:
    vllm, own = both()
    many = [[token] for token in range(4, 4 + MOST_WANTED + 20)]
    ours = vllm.score(vllm.prefill(ROWS), BRANCHES[:1], [many])[0]
    assert [len(request.wanted) for request in vllm.backend.seen] == [MOST_WANTED, 20]  # type: ignore[attr-defined]
    assert torch.allclose(ours, own.score(own.prefill(ROWS), BRANCHES[:1], [many])[0], atol=1e-5)


def test_parameters_of_a_request() -> None:
    params = Request((1, 2), 5, Sampling(0.7, 0.9, 0), (3, 4), 11).params()
    assert params == {
        "max_tokens": 5, "temperature": 0.7, "top_p": 0.9, "top_k": -1, "seed": 11, "stop_token_ids": [3, 4],
        "ignore_eos": True, "logprobs": 0,
    }  # fmt: skip
    assert Request((1, 2), wanted=(7, 8)).params()["logprob_token_ids"] == [7, 8]
    assert Request((1, 2), whole=True).params()["prompt_logprobs"] == 0


def test_without_vllm_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ConfigError, match=r"needs vLLM.*pip install 'mrt-rl\[vllm\]'"):
        Colocated(None)


@pytest.fixture
def server() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    with serving() as found:
        yield found


def test_a_server_says_the_same(server: tuple[str, list[dict[str, Any]]]) -> None:
    url, asked = server
    served, own = VLLMEngine(Served(url + "/")), both()[1]
    scores = served.score(served.prefill(ROWS), BRANCHES, [CONTINUATIONS] * 4)
    expected = own.score(own.prefill(ROWS), BRANCHES, [CONTINUATIONS] * 4)
    assert torch.allclose(torch.stack(scores), torch.stack(expected), atol=1e-5)
    answers = served.answers(served.prefill(ROWS), BRANCHES, 2, 5, [1, 2], sampling=GREEDY)
    same = own.answers(own.prefill(ROWS), BRANCHES, 2, 5, [1, 2], sampling=GREEDY)
    assert [one.ids for one in answers] == [one.ids for one in same]
    assert [one.stopped for one in answers] == [one.stopped for one in same]
    assert torch.allclose(torch.cat(served.token_logprobs(ROWS)), torch.cat(own.token_logprobs(ROWS)), atol=1e-5)
    assert served.counts.reused > 0
    assert {content["model"] for content in asked} == {"tiny"}
    with pytest.raises(ConfigError, match=r"refused /v1/completions \(400\).*max_tokens is too large"):
        served.answers(served.prefill(ROWS), BRANCHES[:1], 1, 51, [])


def test_a_server_that_is_not_there_is_told_at_once() -> None:
    with pytest.raises(ConfigError, match=r"did not answer /v1/models .*start `vllm serve MODEL`"):
        Served("http://127.0.0.1:9", timeout=2)


def test_mismatch_by_hand() -> None:
    """Ratios 2 and 1/2, a masked token and an unknown one: ((2 - 1 - ln 2) + (1/2 - 1 + ln 2)) / 2 = 0.25."""
    sampled = torch.tensor([[-1.0, -1.0, -9.0, torch.nan]])
    trained = torch.tensor([[-1.0 + math.log(2), -1.0 - math.log(2), 0.0, -1.0]])
    mask = torch.tensor([[1, 1, 0, 1]])
    output = {"sampling_per_token_logps": sampled, "old_per_token_logps": trained, "completion_mask": mask}
    found = gathered_mismatch(output)
    assert found["mismatch/kl"] == pytest.approx(0.25)
    assert found["mismatch/ess"] == pytest.approx(2.5**2 / (2 * 4.25))
    assert math.isnan(gathered_mismatch({**output, "completion_mask": mask * 0})["mismatch/kl"])
    twice = gathered_mismatch(output | {"tool_mask": mask}, lambda sums: torch.cat([sums, sums]))
    assert twice == pytest.approx(found), "sums of two processes, not a mean of ratios"
    assert gathered_mismatch({"completion_mask": mask, "sampling_per_token_logps": sampled}) == {}
