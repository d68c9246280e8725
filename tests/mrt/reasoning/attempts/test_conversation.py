"""Turns behind one cache, and through the protocol of other engines: the same distributions, every token once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from mrt.reasoning.attempts.conversation import Conversation, Talk, open_talk
from mrt.reasoning.engines.sampling import Sampling
from mrt.reasoning.engines.transformers import TransformersEngine
from mrt.reasoning.engines.turns import Turns
from mrt.reasoning.engines.unshared import UnsharedEngine
from mrt.reasoning.engines.vllm import VLLMEngine
from tests.support.vllm_standin import MODEL, TOKENIZER, Standin

ONE = Sampling()
FEW = Sampling(temperature=0.7, allowed=(130, 131, 132))
OPENINGS = [[40, 41, 42], [40, 41, 42], [50, 51, 52, 53, 54]]
PAD = TOKENIZER.pad_token_id


def full(ids: Sequence[int], sampling: Sampling) -> Tensor:
    """Log-probabilities of all next tokens at every position, by one plain pass."""
    with torch.no_grad():
        logits = MODEL(torch.tensor([list(ids)])).logits[0].double() / sampling.temperature
    if sampling.allowed:
        outside = torch.ones(logits.shape[1], dtype=torch.bool)
        outside[list(sampling.allowed)] = False
        logits = logits.masked_fill(outside, -torch.inf)
    return logits.log_softmax(-1)


def engine(kind: str) -> Any:
    return {"turns": TransformersEngine, "kept": TransformersEngine, "unshared": UnsharedEngine}.get(
        kind, lambda *_: VLLMEngine(Standin())
    )(MODEL, PAD)


def talk_of(kind: str, openings: Sequence[Sequence[int]] = OPENINGS) -> Talk:
    return (Turns if kind == "turns" else Conversation)(engine(kind), openings)


@pytest.mark.parametrize("sampling", [ONE, FEW], ids=["free", "few"])
@pytest.mark.parametrize("kind", ["turns", "kept", "unshared", "vllm"])
def test_logprobs_are_those_of_a_plain_pass(kind, sampling):
    torch.manual_seed(3)
    talk, drawn = talk_of(kind), []
    stops = tuple(range(60, 140))
    for rows in ([0, 1, 2], [0, 2], [0, 1, 2]):
        for row, answer in zip(rows, talk.write(rows, 3, stops, sampling=sampling), strict=True):
            ids = answer.ids[0]
            drawn.append((row, len(talk.ids[row]) - len(ids), ids, answer.logprobs[0]))
            assert answer.stopped[0] == (ids[-1] in stops)
            assert talk.ids[row][-len(ids) :] == ids
            talk.read(row, [100 + row, 77])
    for row, start, ids, logprobs in drawn:
        table = full(talk.ids[row], sampling)
        expected = [float(table[start + i - 1, token]) for i, token in enumerate(ids)]
        assert logprobs == pytest.approx(expected, abs=1e-5)
        assert not sampling.allowed or set(ids) <= set(sampling.allowed)


@pytest.mark.parametrize("kind", ["turns", "kept", "vllm"])
def test_scores_are_those_of_a_plain_pass(kind):
    torch.manual_seed(1)
    talk = talk_of(kind)
    for turn in range(2):
        single = talk.score([0, 2], [[[130], [131]], [[132]]], sampling=ONE)
        longer = talk.score([0, 2], [[[130, 5], [131]], [[132, 6, 7]]], sampling=ONE)
        for row, found, group in (
            (0, single[0], [[130], [131]]),
            (2, single[1], [[132]]),
            (0, longer[0], [[130, 5], [131]]),
            (2, longer[1], [[132, 6, 7]]),
        ):
            for value, tokens in zip(found.tolist(), group, strict=True):
                table, start = full([*talk.ids[row], *tokens], ONE), len(talk.ids[row]) - 1
                expected = sum(float(table[start + i, token]) for i, token in enumerate(tokens))
                assert value == pytest.approx(expected, abs=1e-5), (kind, turn, row)
        for row, answer in zip([0, 2], talk.write([0, 2], 2, (131,), sampling=ONE), strict=True):
            talk.read(row, [90 + len(answer.ids[0])])


def test_every_token_goes_through_once():
    talk = talk_of("turns")
    run = talk.engine.positions  # type: ignore[attr-defined]
    talk.write([0, 1, 2], 1, (), sampling=ONE)
    assert run["sampled"] == 3 + 5, "rows that begin alike run once, and what was drawn has not run yet"
    for row in range(3):
        talk.read(row, [77, 78])
    talk.score([0, 1, 2], [[[130]]] * 3, sampling=ONE)
    talk.write([0, 1, 2], 4, (), sampling=ONE)
    talk.write([0, 1, 2], 1, (), sampling=ONE)
    assert run["sampled"] == 8 + sum(len(ids) - 1 for ids in talk.ids) - (3 + 3 + 5)
    assert run["probed"] == 0, "a score of single tokens looks at the pass that was needed anyway"


def test_through_the_protocol_only_new_tokens_run():
    talk = talk_of("kept")
    run = talk.engine.positions  # type: ignore[attr-defined]
    talk.write([0, 1, 2], 1, (), sampling=ONE)
    for row in range(3):
        talk.read(row, [77, 78])
    talk.write([0, 1, 2], 1, (), sampling=ONE)
    assert run["sampled"] == (3 + 5) + 3 + 3 * 2 + 3, "openings, the token drawn, the reply, the token drawn"


def test_vllm_finds_the_beginning_in_its_own_cache():
    backend = Standin()
    talk = Conversation(VLLMEngine(backend), [list(range(40, 52))])
    talk.write([0], 1, (), sampling=ONE)
    talk.read(0, [77] * 6)
    before = talk.engine.positions["sampled"]
    talk.write([0], 1, (), sampling=ONE)
    assert talk.engine.positions["sampled"] - before < 12, "whole blocks of the opening are not computed again"


def test_copies_and_rows_that_leave_change_nothing():
    torch.manual_seed(0)
    talk = talk_of("turns")
    talk.write([0, 1, 2], 2, (), sampling=ONE)
    for row in range(3):
        talk.read(row, [77])
    fork = talk.fork([2, 0, 2])
    fork.write([0, 1, 2], 3, (), sampling=ONE)
    assert fork.ids[0][: len(talk.ids[2])] == talk.ids[2]
    talk.release([0, 1])
    assert talk._place == [-1, -1, 0]  # type: ignore[attr-defined]
    (answer,) = talk.write([2], 2, (), sampling=ONE)
    for one, row, logprobs in ((talk, 2, answer.logprobs[0]),):
        table = full(one.ids[row], ONE)
        start = len(one.ids[row]) - 2
        assert logprobs == pytest.approx(
            [float(table[start + i - 1, one.ids[row][start + i]]) for i in range(2)], abs=1e-5
        )
    (again,) = fork.write([1], 1, (), sampling=ONE)
    table = full(fork.ids[1], ONE)
    assert again.logprobs[0] == pytest.approx([float(table[-2, fork.ids[1][-1]])], abs=1e-5)


def test_the_best_way_that_an_engine_has():
    small = TransformersEngine(MODEL, PAD, max_positions=20)
    assert isinstance(open_talk(engine("turns"), OPENINGS, 10), Turns)
    assert isinstance(open_talk(small, OPENINGS, 10), Conversation), "it does not fit at one time"
    assert isinstance(open_talk(engine("vllm"), OPENINGS, 10), Conversation)
