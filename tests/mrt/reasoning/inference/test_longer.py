"""Thinking beyond the budget on a tiny model: no thought passes its budget, no episode in sight is lost."""

import pytest
import torch

from mrt.errors import ConfigError
from mrt.reasoning.engines.base import Answers
from mrt.reasoning.engines.sampling import Sampling
from mrt.reasoning.engines.transformers import TransformersEngine
from mrt.reasoning.inference.longer import Extension, Window, extend, go_on, linearize
from mrt.reasoning.models.loading import load_model, pad_id
from mrt.reasoning.models.tiny import WAIT
from mrt.reasoning.traces.prompts import render, think_format
from mrt.reasoning.traces.segmentation import make_segmenter

PROMPTS = ("3 5 7->22", "1 2 3->6", "4 5 6->30")


class Script:
    """An engine that says what it is told, in turn, whatever the prefix; it keeps the contexts that it was given."""

    def __init__(self, sayings):
        self.sayings, self.contexts = list(sayings), []

    def chunks(self, lengths, rows_each=1):
        yield list(range(len(lengths)))

    def prefill(self, sequences, purpose="sampled"):
        self.contexts.append([list(one) for one in sequences])
        return sequences

    def answers(self, prefix, branches, n, max_new_tokens, stop_ids, sampling, purpose):
        said = [self.sayings.pop(0)[:max_new_tokens] for _ in branches]
        return [Answers(ids=[ids]) for ids in said]


@pytest.fixture(scope="module")
def tiny(tiny_dir):
    model, tokenizer = load_model(str(tiny_dir))
    return TransformersEngine(model, pad_id(tokenizer)), think_format(tokenizer), tokenizer


def ids_of(tokenizer, text):
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def test_every_extension_begins_with_its_cue_and_keeps_its_budget(tiny):
    engine, fmt, tokenizer = tiny
    torch.manual_seed(0)
    prefixes = [render(tokenizer, [{"role": "user", "content": prompt}]) for prompt in PROMPTS]
    thoughts = [ids_of(tokenizer, text) for text in ("3+5=8,8+7=15", "", "4*5=20")]
    stops = extend(engine, fmt, prefixes, thoughts, Extension(12, (1, 3), 6, ("Wait", "Hmm")))
    (cue,) = ids_of(tokenizer, WAIT)  # "Hmm" cannot be written, so every cue is this one
    for thought, (first, third) in zip(thoughts, stops, strict=True):
        assert (first.budget, third.budget) == (12 + 6, 12 + 18)
        assert first.tokens == len(first.thought) <= len(thought) + 6
        assert third.tokens == len(third.thought) <= len(thought) + 18
        assert list(first.thought[: len(thought) + 1]) == [*thought, cue]
        assert third.thought[: len(first.thought) + 1] == (*first.thought, cue)
        assert fmt.close_ids[0] not in third.thought


def test_extensions_by_a_script(tiny):
    _, fmt, tokenizer = tiny
    say = lambda text: ids_of(tokenizer, text)  # noqa: E731
    engine = Script([say("1+2</think>"), say("4+5=9,9+1=10"), [*say("6"), fmt.end_ids[0]]])
    (stops,) = extend(engine, fmt, [[7, 7]], [say("8")], Extension(1, (1, 2, 3), 6, ("Wait",)))
    cue = say(WAIT)
    first = [*say("8"), *cue, *say("1+2")]
    second = [*first, *cue, *say("4+5=9")]  # five tokens are left behind the cue
    third = [*second, *cue, *say("6")]
    assert [list(stop.thought) for stop in stops] == [first, second, third]
    assert [(stop.closed, stop.cut) for stop in stops] == [(True, False), (False, True), (False, False)]
    assert [stop.budget for stop in stops] == [7, 13, 19]
    assert engine.contexts[1][0] == [7, 7, *first, *cue]


def test_cues_that_nobody_can_write_are_named(tiny):
    engine, fmt, _ = tiny
    with pytest.raises(ConfigError, match="none of the continue cues"):
        extend(engine, fmt, [[1]], [[]], Extension(4, (1,), 4, ("Hmm",)))
    with pytest.raises(ConfigError, match="no room behind the cue"):
        extend(engine, fmt, [[1]], [[]], Extension(4, (1,), 1, ("Wait",)))


def test_the_window_slides_by_whole_episodes(tiny):
    _, fmt, tokenizer = tiny
    say = lambda text: ids_of(tokenizer, text)  # noqa: E731
    segment = make_segmenter("cues", min_paragraphs=0)
    one, two, three = say("1+2=3"), say(WAIT + "4+5=9"), say(WAIT + "6+7=13")
    engine = Script([one, two, three, [*say(WAIT + "8"), *fmt.close_ids]])
    reach = len(two)
    (stops,) = linearize(engine, fmt, [[7]], segment, Window([4 * reach, 9 * reach], 2, reach))
    first, second = stops[0], None if len(stops) == 1 else stops[1]
    assert second is None  # it ended by itself within the first budget
    assert engine.contexts[3][0] == [7, *two, *three]  # the first episode is out of sight
    assert list(first.thought) == [*two, *three, *say(WAIT + "8")]
    assert first.tokens == len([*one, *two, *three, *say(WAIT + "8")])
    assert (first.closed, first.cut, first.budget) == (True, False, 4 * reach)


def test_a_trial_that_goes_on_is_stopped_at_every_budget(tiny):
    engine, fmt, tokenizer = tiny
    torch.manual_seed(1)
    segment = make_segmenter("cues", min_paragraphs=0)
    prefixes = [render(tokenizer, [{"role": "user", "content": prompt}]) for prompt in PROMPTS]
    stops = linearize(engine, fmt, prefixes, segment, Window([0, 8, 20], 1, 6))
    for trial in stops:
        assert [stop.budget for stop in trial] == [0, 8, 20][: len(trial)]
        assert all(stop.tokens <= stop.budget for stop in trial)
        assert all(stop.cut for stop in trial[:-1])
        assert all(stop.tokens == stop.budget for stop in trial if stop.cut)


def test_what_ends_a_thought_is_not_part_of_it(tiny):
    _, fmt, tokenizer = tiny
    three = ids_of(tokenizer, "3")
    engine = Script([[*three, *fmt.close_ids], [*three, fmt.end_ids[0]], three])
    found = go_on(engine, fmt, [[1], [2], [3]], 5, Sampling())
    assert found == [(three, True, True), (three, False, True), (three, False, False)]
