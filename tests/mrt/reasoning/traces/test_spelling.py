"""J of an answer does not depend on how its braces are spelt in tokens."""

import math

import pytest
import torch

from mrt.reasoning.engines.base import Answers, Branch
from mrt.reasoning.engines.sampling import Sampling
from mrt.reasoning.engines.transformers import TransformersEngine
from mrt.reasoning.models.tiny import build_tokenizer
from mrt.reasoning.probes.answers import AnswerRequest, forced_answers
from mrt.reasoning.probes.base import Trace
from mrt.reasoning.probes.gold import Gold
from mrt.reasoning.traces.prompts import answer_end, answer_text, think_format
from mrt.reasoning.traces.spelling import spellings
from tests.support.latex_tokenizer import ANSWERS, ENDINGS, latex_tokenizer, small_llama

TOKENIZER = latex_tokenizer()
FMT = think_format(TOKENIZER)
LEAD = "\n\n**Final Answer**\n\\boxed"


def encode(text):
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


def test_the_vocabulary_merges_braces_as_qwens_does():
    for merged in ("{\\", "{-", "{(", "}$", "}}", "}."):
        assert len(encode(merged)) == 1, merged
    assert len(encode("42")) == 2


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("ending", ENDINGS)
def test_whatever_is_written_behind_the_lead_in_is_one_of_the_spellings(answer, ending):
    """The lead-in ends where a token ends, and exactly one spelling begins what the vocabulary makes of the text."""
    ids = encode(f"{LEAD}{{{answer}}}{ending}")
    lead = list(FMT.answer_lead_ids)
    assert ids[: len(lead)] == lead
    rest = ids[len(lead) :]
    matching = [one for one in spellings(answer, FMT) if rest[: len(one)] == one]
    assert len(matching) == 1


@pytest.mark.parametrize("answer", ANSWERS)
def test_no_spelling_begins_another_and_all_say_the_same(answer):
    found = [tuple(one) for one in spellings(answer, FMT)]
    assert len(set(found)) == len(found)
    for one in found:
        assert not any(one[:n] in found for n in range(1, len(one)))
        assert answer_text(one, FMT) == answer
        assert answer_end(one, FMT) == len(one)


def test_the_tiny_vocabulary_has_one_spelling():
    tokenizer = build_tokenizer()
    fmt = think_format(tokenizer)
    assert fmt.brace_ids == ()
    assert spellings("3+5", fmt) == [tokenizer("3+5}", add_special_tokens=False)["input_ids"]]


class Writer:
    """An engine that writes one text behind every branch, in the tokens that the vocabulary has for it."""

    def __init__(self, written):
        self.ids = encode(LEAD + written)[len(FMT.answer_lead_ids) :]
        self.positions, self.calls, self.max_positions = {"probed": 0}, 0, 10**6

    def chunks(self, lengths, rows_each=1):
        yield list(range(len(lengths)))

    def prefill(self, sequences, purpose="sampled"):
        return sequences

    def score(self, prefix, branches, continuations, tolerance=0.0):
        certain = [[0.0 if self.ids[: len(one)] == one else -math.inf for one in group] for group in continuations]
        return [torch.tensor(one, dtype=torch.float64) for one in certain]

    def answers(self, prefix, branches, n, max_new_tokens, stop_ids, sampling, purpose="probed", keep=False):
        self.calls += 1
        found = []
        for branch in branches:
            lead = len(FMT.forced_ids) if branch.suffix[: len(FMT.forced_ids)] == FMT.forced_ids else len(FMT.empty_ids)
            rest = self.ids[len(branch.suffix) - lead :][:max_new_tokens]
            stop = next((i for i, token in enumerate(rest) if token in stop_ids), None)
            ids = rest if stop is None else rest[: stop + 1]
            found.append(Answers([list(ids)] * n, [[-1.0] * len(ids)] * n, [stop is not None] * n))
        return found


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("ending", ENDINGS)
def test_j_of_a_certain_answer_is_one_however_it_is_spelt(answer, ending):
    trace = Trace((0,), tuple(encode("Wait")), (0, 1), {"solution": answer})
    (result,) = Gold()(Writer(f"{{{answer}}}{ending}"), FMT, [trace], None)
    assert result.values == (1.0, 1.0)
    (result,) = Gold()(Writer("{7}"), FMT, [trace], None)
    assert result.values == (0.0, 0.0)


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_sampled_answer_stops_at_its_brace(answer):
    """Nothing is decoded behind the token with the brace that closes the box, however many braces are inside."""
    engine = Writer(f"{{{answer}}}$. Then we go on and on")
    branch = Branch(0, 1, FMT.forced_ids)
    (found,) = forced_answers(engine, [[0]], [branch], FMT, AnswerRequest(3, 128, Sampling()))
    assert len(found.ids) == 3
    for ids, logprobs in zip(found.ids, found.logprobs, strict=True):
        assert answer_text(ids, FMT) == answer
        assert answer_end(ids, FMT) == len(ids) == len(logprobs)
    assert found.stopped == [True] * 3
    assert engine.calls == 1 + sum("}" in TOKENIZER.decode([i]) for i in found.ids[0][:-1])


def test_an_answer_that_never_closes_ends_at_its_room():
    (found,) = forced_answers(Writer("{\\frac{1}{2} and {1} and {2}"), [[0]], [Branch(0, 1, FMT.forced_ids)], FMT,
                              AnswerRequest(1, 9, Sampling()))  # fmt: skip
    assert len(found.ids[0]) == 9
    assert found.stopped == [False]


def test_the_sum_over_spellings_is_the_share_of_samples_that_say_it():
    """A model that was trained on one answer with many endings: gold agrees with 4,000 samples."""
    torch.manual_seed(0)
    model = small_llama(TOKENIZER)
    texts = [f"{{{answer}}}{ending}" for answer in (r"\frac{1}{2}", "-3") for ending in ("$", ".", "\n", "$$")]
    lead = [5, *FMT.empty_ids]
    rows = [lead + encode(LEAD + text)[len(FMT.answer_lead_ids) :] for text in texts]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    labels = ids.masked_fill(torch.arange(width) >= torch.tensor([len(row) for row in rows])[:, None], -100)
    labels[:, : len(lead)] = -100
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(80):
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    engine = TransformersEngine(model.eval(), TOKENIZER.pad_token_id)
    (gold,) = Gold()(engine, FMT, [Trace((5,), (), (0,), {"solution": "-3"})], None)
    assert 0.3 < gold.values[0] < 0.7
    branch = Branch(0, 1, FMT.empty_ids)
    asked = AnswerRequest(4000, 24, Sampling())
    (found,) = forced_answers(engine, engine.prefill([[5]]), [branch], FMT, asked)
    share = sum(answer_text(one, FMT) == "-3" for one in found.ids) / 4000
    assert abs(share - gold.values[0]) < 3 * 0.5 / math.sqrt(4000)
