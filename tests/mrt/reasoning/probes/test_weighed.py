"""Answers weighed by their probability: unbiased over draws from a known law, and less noisy where that is promised."""

import itertools
import math

import pytest
import torch

from mrt.errors import ConfigError
from mrt.reasoning.engines.base import Answers
from mrt.reasoning.models.tiny import build_tokenizer
from mrt.reasoning.probes.allocated import Allocated
from mrt.reasoning.probes.base import Trace
from mrt.reasoning.probes.forced import Forced, Sampled
from mrt.reasoning.probes.pooled import Pool, Pooled, estimates
from mrt.reasoning.probes.weights import horvitz_thompson, inclusion
from mrt.reasoning.traces.prompts import think_format

LAWS = torch.tensor(
    [
        [0.50, 0.20, 0.05, 0.02, 0.13, 0.10],
        [0.50, 0.20, 0.05, 0.02, 0.13, 0.10],
        [0.10, 0.60, 0.10, 0.05, 0.10, 0.05],
    ]
)
REWARDS = torch.tensor([0.0, 1.0, 1.0, 1.0, 0.0, 0.5])
TRUTH = LAWS @ REWARDS


class Urn:
    """Answers of one token each, drawn by the law of their boundary, which it can also score."""

    max_positions = 10**6

    def __init__(self, tokens):
        self.tokens = tokens
        self.place = {token: i for i, token in enumerate(tokens)}

    def chunks(self, lengths, rows_each=1):
        yield list(range(len(lengths)))

    def prefill(self, sequences, purpose):
        return sequences

    def answers(self, prefix, branches, n, max_new_tokens, stop_ids, sampling, purpose="probed", noise=None):
        found = []
        for branch in branches:
            drawn = torch.multinomial(LAWS[branch.cut - 1], n, replacement=True).tolist()
            ids = [[self.tokens[k], stop_ids[0]] for k in drawn]
            found.append(Answers(ids, [[float(LAWS[branch.cut - 1][k].log()), 0.0] for k in drawn], [True] * n))
        return found

    def score(self, prefix, branches, continuations, tolerance=0.0, *, sampling=None):
        laws = [LAWS[branch.cut - 1].double().log() for branch in branches]
        return [
            torch.tensor([float(law[self.place[ids[0]]]) for ids in group], dtype=torch.float64)
            for law, group in zip(laws, continuations, strict=True)
        ]


def measured(probe, problems, seed=0):
    """(problems, traces, boundaries) J of three traces a problem, two with the cuts 0 and 2, one with 0, 1 and 2."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    tokens = tokenizer("1 2 3 4 5 6")["input_ids"]
    worth = {str(k + 1): float(reward) for k, reward in enumerate(REWARDS)}

    def judge(rows, texts, ids):
        return [worth[text.rpartition("{")[2].rstrip("}")] for text in texts]

    traces = [Trace((p,), (tokens[0],) * 2, (0, 1, 2), {}) for p in range(problems)]
    found = probe(Urn(tokens), think_format(tokenizer), traces, judge)
    return torch.tensor([one.values for one in found]), torch.tensor([one.errors for one in found])


@pytest.mark.parametrize("probe", [Sampled(3, weights="horvitz_thompson"), Pooled(1), Pooled(3), Allocated(4)])
def test_the_mean_is_j_and_the_standard_error_is_that_of_the_values(probe):
    values, errors = measured(probe, 900)
    spread = values.std(0)
    assert torch.all((values.mean(0) - TRUTH).abs() < 4.5 * spread / math.sqrt(len(values)))
    assert torch.all(errors.square().mean(0).sqrt() > 0.8 * spread)  # not told smaller than it is


def test_answers_go_where_the_pilot_disagreed():
    traces = [Trace((0,), (1, 1), (0, 1, 2), {}, shared=(4, 1, 1)), Trace((1,), (1,), (1,), {})]
    early = [[[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]], [[1.0, 0.0]]]
    (first, second) = Allocated(6, pilot=2)._spread(traces, early)
    # wanted: 2 * .5, sqrt(5) / 6, sqrt(5) / 6, .5 of 4 * 4 answers
    total = 1.5 + math.sqrt(5) / 3
    few = round(16 * math.sqrt(5) / 6 / total)
    assert first.shared == (round(16 / total), few, few)
    assert second.shared == (round(8 / total),)
    with pytest.raises(ConfigError, match="at least 3"):
        Allocated(2)


def test_pooled_moves_only_where_j_does_and_is_less_noisy_than_counting():
    pooled, _ = measured(Pooled(2), 300)
    counted, _ = measured(Sampled(4), 300)
    assert torch.allclose(pooled[:, 0], pooled[:, 1])
    assert bool((counted[:, 0] != counted[:, 1]).any())
    gain = float(TRUTH[2] - TRUTH[1])
    errors = [float(((one[:, 2] - one[:, 1] - gain) ** 2).mean()) for one in (pooled, counted)]
    assert errors[0] < 0.5 * errors[1]


def test_what_is_left_out_of_a_pool_is_counted():
    values, _ = measured(Pooled(2, most=2), 600)
    assert torch.all((values.mean(0) - TRUTH).abs() < 0.05)  # which answers these are depends on the draws


def test_horvitz_thompson_by_enumeration():
    """Over all draws of three from a law of three answers: the mean is J, and the mean estimated variance its
    variance."""
    law, rewards = [0.6, 0.3, 0.1], [1.0, 0.0, 0.5]
    answers = [Forced("", [], (k,), p) for k, p in enumerate(law)]
    mean, square, variance = 0.0, 0.0, 0.0
    for drawn in itertools.product(range(3), repeat=3):
        chance = math.prod(law[k] for k in drawn)
        value, error = horvitz_thompson([answers[k] for k in drawn], [rewards[k] for k in drawn])
        mean, square, variance = mean + chance * value, square + chance * value**2, variance + chance * error**2
    assert mean == pytest.approx(0.65)
    assert variance >= square - mean**2 - 1e-12  # negative estimates count as 0
    assert all(map(math.isnan, horvitz_thompson(answers, [None] * 3)))
    assert inclusion(1.0, 2) == 1.0
    assert inclusion(1e-12, 3) == pytest.approx(3e-12)


def test_a_pool_by_hand():
    """Two boundaries with one draw each: pi = 1 - (1 - .2)(1 - .5) = .6, so J = (.2, .5) / .6."""
    pool = Pool()
    right, wrong = Forced("", [], (1,), 0.2), Forced("", [], (2,), 0.5)
    pool.add([right], [1.0])
    pool.add([wrong], [0.0])
    (first, _), (second, _) = estimates(torch.tensor([[0.2], [0.5]]).double().numpy(), pool, [(1,)], 1)
    assert (first, second) == pytest.approx((0.2 / 0.6, 0.5 / 0.6))
    assert estimates(torch.zeros(2, 0).numpy(), Pool(draws=2), [], 1) == [(0.0, 0.0)] * 2
    assert all(math.isnan(value) for value, _ in estimates(torch.zeros(2, 0).numpy(), Pool(2, 2), [], 1))
