"""J of an answer does not depend on how its braces are spelt in tokens."""

import math
from functools import lru_cache

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
from mrt.reasoning.traces.tags import PLAIN_TAGS
from mrt.reasoning.traces.templates import encode_behind
from tests.support.graded import reward
from tests.support.latex_tokenizer import ANSWERS, ENDINGS, TEMPLATES, small_llama, small_vocabulary, tokenizer_of
from tests.support.vocabularies import NAMES, vocabulary

SAID = (  # fractions, roots, negatives, tuples, percent, sets, powers, units, words
    *ANSWERS, r"\dfrac{7}{12}", r"-\sqrt{5}", r"\sqrt[3]{2}", r"x^{2}+1", r"120^\circ", r"\left(\frac{1}{2}, -3\right)",
    r"{1, 2}", "-1000", r"\pi", r"\$12", "(-\\infty, 0)",
)  # fmt: skip

LEAD = "\n\n**Final Answer**\n\\boxed"
REAL = [pytest.param(name, marks=[pytest.mark.pretrained, pytest.mark.timeout(1200)]) for name in NAMES]


@lru_cache
def made(name):
    """The format of a model with the small vocabulary of a kind, or with a published one."""
    tokenizer = tokenizer_of(
        vocabulary(name) if name in NAMES else small_vocabulary(name), ("<|im_start|>", "<|im_end|>"), PLAIN_TAGS
    )
    tokenizer.eos_token, tokenizer.pad_token = "<|im_end|>", "<|pad|>"
    tokenizer.chat_template = (TEMPLATES / "qwen3.jinja").read_text()
    return think_format(tokenizer)


FMT = made("bytes")
TOKENIZER = FMT.tokenizer


def encode(text, fmt=FMT):
    return encode_behind(fmt.tokenizer, [text])[0]


def ways(answer, ending, fmt):
    """The box in every way that a model may write it: braces merged with what follows or behind them, or alone."""
    for opened in (["{" + answer], ["{", answer]):
        for closed in (["}" + ending], ["}", ending]):
            parts = [*opened[:-1], opened[-1] + closed[0], *closed[1:]]
            yield [i for part in parts for i in encode(part, fmt)]


def test_the_vocabulary_merges_braces_as_qwens_does():
    for merged in ("{\\", "{-", "{(", "}$", "}}", "}."):
        assert len(encode(merged)) == 1, merged
    assert len(encode("42")) == 2


@pytest.mark.parametrize("name", ["bytes", "sentencepiece", *REAL])
def test_whatever_is_written_behind_the_lead_in_is_one_of_the_spellings(name):
    """The lead-in ends where a token ends, and exactly one spelling begins what the vocabulary makes of the text."""
    fmt = made(name)
    lead = list(fmt.answer_lead_ids)
    for answer in SAID:
        known = spellings(answer, fmt)
        for ending in ENDINGS:
            ids = encode(f"{LEAD}{{{answer}}}{ending}", fmt)
            assert ids[: len(lead)] == lead
            for rest in (ids[len(lead) :], *ways(answer, ending, fmt)):
                assert sum(rest[: len(one)] == one for one in known) == 1, (answer, ending)


@pytest.mark.parametrize("name", ["bytes", "sentencepiece", *REAL])
def test_no_spelling_begins_another_and_all_say_the_same(name):
    fmt = made(name)
    for answer in SAID:
        found = [tuple(one) for one in spellings(answer, fmt)]
        assert len(set(found)) == len(found)
        for one in found:
            assert not any(one[:n] in found for n in range(1, len(one)))
            assert answer_text(one, fmt) == answer
            assert answer_end(one, fmt) == len(one)


def test_the_tiny_vocabulary_has_one_spelling():
    tokenizer = build_tokenizer()
    fmt = think_format(tokenizer)
    assert fmt.brace_ids == ()
    assert spellings("3+5", fmt) == [tokenizer("3+5}", add_special_tokens=False)["input_ids"]]


class Writer:
    """An engine that writes behind every branch of row i the i-th of these texts, in the tokens that the vocabulary has
    for it, or the i-th of these ids.
    """

    def __init__(self, *written, fmt=FMT):
        lead = len(fmt.answer_lead_ids)
        self.rows = [encode(LEAD + one, fmt)[lead:] if isinstance(one, str) else one for one in written]
        self.positions, self.calls, self.max_positions, self.fmt = {"probed": 0}, 0, 10**6, fmt

    def chunks(self, lengths, rows_each=1):
        yield list(range(len(lengths)))

    def prefill(self, sequences, purpose="sampled"):
        return sequences

    def score(self, prefix, branches, continuations, tolerance=0.0):
        found = []
        for branch, group in zip(branches, continuations, strict=True):
            ids = self.rows[branch.row]
            found.append(torch.tensor([0.0 if ids[: len(one)] == one else -math.inf for one in group]))
        return found

    def answers(self, prefix, branches, n, max_new_tokens, stop_ids, sampling, purpose="probed", keep=False):
        self.calls += 1
        found = []
        for branch in branches:
            forced, empty = self.fmt.forced_ids, self.fmt.empty_ids
            lead = len(forced) if branch.suffix[: len(forced)] == forced else len(empty)
            rest = self.rows[branch.row][len(branch.suffix) - lead :][:max_new_tokens]
            stop = next((i for i, token in enumerate(rest) if token in stop_ids), None)
            ids = rest if stop is None else rest[: stop + 1]
            found.append(Answers([list(ids)] * n, [[-1.0] * len(ids)] * n, [stop is not None] * n))
        return found


@pytest.mark.parametrize("name", ["bytes", "sentencepiece", *REAL])
def test_j_of_a_certain_answer_is_one_however_it_is_spelt(name):
    """Exact J does not depend on how a model that is certain spells the braces."""
    fmt = made(name)
    words = tuple(encode("Wait", fmt))
    for answer in SAID:
        written = [ids for ending in ENDINGS for ids in ways(answer, ending, fmt)]
        traces = [Trace((0,), words, (0, len(words)), {"solution": answer})] * (len(written) + 1)
        *right, wrong = Gold()(Writer(*written, "{17}", fmt=fmt), fmt, traces, None)
        assert {result.values for result in right} == {(1.0, 1.0)}, answer
        assert wrong.values == (0.0, 0.0)


@pytest.mark.parametrize("name", ["bytes", "sentencepiece", *REAL])
def test_j_from_samples_does_not_depend_on_the_spelling_either(name):
    """A sampled answer stops at its brace, says the same and is graded alike, in whichever tokens it was written.

    Nothing is decoded behind the token with the brace that closes the box, however many braces are inside.
    """
    fmt = made(name)
    branch = Branch(0, 1, fmt.forced_ids)
    for answer in SAID:
        for rest in ways(answer, "$. Then we go on and on", fmt):
            engine = Writer(rest, fmt=fmt)
            (found,) = forced_answers(engine, [[0]], [branch], fmt, AnswerRequest(3, 128, Sampling()))
            assert len(found.ids) == 3
            for ids, logprobs in zip(found.ids, found.logprobs, strict=True):
                assert answer_text(ids, fmt) == answer
                assert answer_end(ids, fmt) == len(ids) == len(logprobs)
            assert found.stopped == [True] * 3
            assert engine.calls == 1 + sum("}" in fmt.tokenizer.decode([i]) for i in found.ids[0][:-1])
            assert reward(fmt, [*fmt.forced_ids, *found.ids[0]], gold=answer) == 1.0


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
