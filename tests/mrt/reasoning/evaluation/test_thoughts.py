"""A thought and the answer behind it have a room each."""

from dataclasses import replace

import pytest

from mrt.reasoning.engines.base import Answers
from mrt.reasoning.evaluation.config import EvalConfig
from mrt.reasoning.evaluation.thoughts import Thinker
from mrt.reasoning.traces.prompts import think_format
from mrt.reasoning.traces.segmentation import make_segmenter
from tests.support.latex_tokenizer import latex_tokenizer

TOKENIZER = latex_tokenizer()
FMT = think_format(TOKENIZER)
FULL = 40


def encode(text):
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


class Scripted:
    """An engine that goes on with one text, wherever it is asked to."""

    max_positions = 10**6

    def __init__(self, prompt, ids, keeps):
        self.prompt, self.ids, self.keeps, self.restored = prompt, ids, keeps, 0

    def prefill(self, sequences, purpose="sampled"):
        return [len(one) - len(self.prompt) for one in sequences]

    def restore(self, kept):
        self.restored += 1
        return list(kept)

    def answers(self, prefix, branches, n, max_new_tokens, stop_ids, sampling, purpose="probed", keep=False):
        found = []
        for branch in branches:
            at = branch.cut + len(branch.suffix) - len(self.prompt)
            ids = self.ids[at : at + max_new_tokens]
            stop = next((i + 1 for i, one in enumerate(ids) if one in stop_ids), len(ids))
            ids = ids[:stop]
            kept = [at + len(ids)] * n if keep and self.keeps else []
            found.append(Answers([list(ids) for _ in range(n)], [[-1.0] * len(ids)] * n, [stop < len(ids)] * n, kept))
        return found


def think(text, keeps=True, context=None, **options):
    prompt, ids = [1, 2, 3], encode(text)
    engine = Scripted(prompt, ids, keeps)
    config = EvalConfig("m", "files", n=2, budgets=(0, FULL), **options)
    fmt = replace(FMT, max_answer_tokens=config.answer_tokens or FMT.max_answer_tokens)  # as the evaluator does
    thinker = Thinker(engine, fmt, make_segmenter("blocks"), config, context)
    return engine, ids, thinker([prompt])


@pytest.mark.parametrize("keeps", [True, False])
def test_a_long_answer_behind_a_thought_near_the_cap_is_not_cut(keeps):
    """The explanation alone is longer than the 128 tokens of a forced answer."""
    text = "1" * (FULL - 2) + "</think>\n\n" + "We add them. " * 40 + "So \\boxed{42}.<|im_end|>"
    engine, ids, trials = think(text, keeps)
    assert len(ids) > FULL + 200
    for trial in trials:
        assert trial.completion == ids
        assert trial.closed
        assert len(trial.thought) == FULL - 2
    assert engine.restored == int(keeps)


def test_an_answer_ends_at_its_own_room_and_at_the_context():
    text = "1" * 10 + "</think>" + "2" * 400
    _, _, (trial, _) = think(text, own_answer_tokens=200)
    assert len(trial.completion) == 10 + len(FMT.close_ids) + 200
    _, _, (trial, _) = think(text, context=3 + 10 + 1 + 180)
    assert len(trial.completion) == 10 + 1 + 180
    _, _, (trial, _) = think(text, answer_tokens=20)  # as it was asked for: both rooms are small
    assert len(trial.completion) == FULL + 1 + 20


def test_a_thought_beyond_the_cap_is_cut_and_asked_for_nothing_more():
    engine, _, (trial, _) = think("1" * (FULL + 5) + "</think>" + "2" * 400)
    assert len(trial.thought) == FULL
    assert not trial.closed
    assert engine.restored == 0
