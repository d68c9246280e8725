"""The likelihood of the reference answer: its spellings, its value, and the reward made of it."""

import math

import pytest
import torch

from mrt.errors import ConfigError
from mrt.reasoning.engines.base import Branch
from mrt.reasoning.engines.transformers import TransformersEngine
from mrt.reasoning.models.tiny import build_model, build_tokenizer
from mrt.reasoning.probes.base import Trace
from mrt.reasoning.probes.gold import Gold
from mrt.reasoning.probes.reference import LOWEST, Reference, canonical, reference_likelihood, reference_of
from mrt.reasoning.traces.prompts import think_format
from mrt.reasoning.traces.trial import Trial


def test_the_canonical_spellings_of_an_answer():
    assert canonical("1/2") == ["1/2", r"\frac{1}{2}"]
    assert canonical(r"-\frac{3}{4}") == [r"-\frac{3}{4}", "-3/4"]
    assert canonical("1234") == ["1234", "1,234", "1234.0"]
    assert canonical("1,234.00") == ["1,234.00", "1234", "1,234", "1234.0"]
    assert canonical("0.50") == ["0.50", "0.5"]
    assert canonical("x+1") == ["x+1"]


def test_it_is_the_log_of_what_gold_sums():
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    fmt, engine = think_format(tokenizer), TransformersEngine(build_model(tokenizer, hidden=32, layers=2, heads=2), 0)
    thought = tuple(tokenizer("3*5=15")["input_ids"])
    traces = [Trace((5, 9), thought, (0, len(thought)), {"solution": "3+5"})]
    (gold,), (reference,) = Gold()(engine, fmt, traces, None), Reference()(engine, fmt, traces, None)
    assert reference.errors == (0.0, 0.0)
    for mine, theirs in zip(reference.values, gold.values, strict=True):
        assert mine == pytest.approx(max(LOWEST, math.log(theirs)), abs=1e-4)
    both = [Trace((5, 9), thought, (0,), {"solution": "8"})]
    (one,) = Reference()(engine, fmt, both, None)
    texts = [[*tokenizer(text)["input_ids"], *tokenizer("}")["input_ids"]] for text in ("8",)]
    (score,) = engine.score(engine.prefill([[5, 9]]), [Branch(0, 2, both[0].suffix(0, fmt))], [texts])
    assert one.values[0] >= float(score[0]) - 1e-4  # 8.0 adds to it, if it can be written
    with pytest.raises(ConfigError, match="column 'solution'"):
        reference_of({"key": "x"})
    assert reference_of({"solutions": ["7", "8"]}) == "7"


def test_the_reward_is_the_last_measured_value():
    trials = [Trial([1]), Trial([1]), Trial([1])]
    trials[0].stop_values, trials[1].stop_values = [-9.0, -4.0, math.nan], [math.nan]
    assert reference_likelihood(trial=trials, prompts=[], completions=[]) == [-4.0, None, None]
