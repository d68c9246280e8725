"""Noise that is looked up: SplitMix64 itself, the Gumbel law, and draws that are coupled and keep their law."""

import math

import pytest
import torch

from mrt.reasoning.engines.base import Branch
from mrt.reasoning.engines.noise import STEP, Noise, gumbel, mix, states
from mrt.reasoning.engines.sampling import SLICE, Sampling, draw
from mrt.reasoning.engines.transformers import TransformersEngine
from mrt.reasoning.engines.unshared import UnsharedEngine
from mrt.reasoning.models.tiny import build_model, build_tokenizer

CPU = torch.device("cpu")
CHI2 = {3: 27.9, 5: 32.0, 7: 36.0}  # quantiles at 1 - 4e-6 or more: degrees of freedom -> bound


def chi_square(tokens, exact):
    """Pearson's statistic over the tokens that have any probability, and its degrees of freedom."""
    seen = torch.bincount(tokens, minlength=len(exact)).double()
    kept = exact > 0
    assert seen[~kept].sum() == 0
    expected = exact[kept].double() * len(tokens)
    return float(((seen[kept] - expected) ** 2 / expected).sum()), int(kept.sum()) - 1


def test_it_is_splitmix64():
    """The first outputs of the published generator with seed 1234567."""
    first = mix(1234567 + torch.arange(1, 4) * STEP)
    assert [one % 2**64 for one in first.tolist()] == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_noise_is_gumbel_and_independent_between_samples_positions_and_seeds():
    streams = [Noise(seed, sample, start) for seed in range(5) for sample in range(4) for start in range(5)]
    noise = gumbel(states(streams, 0, CPU), 1000)
    assert abs(float(noise.mean()) - 0.5772157) < 4 * 1.2825 / math.sqrt(1e5)
    assert abs(float(noise.var()) - math.pi**2 / 6) < 0.06
    share = (noise < 1.0).double().mean()  # exp(-exp(-1))
    assert abs(float(share) - math.exp(-math.exp(-1))) < 4 * 0.5 / math.sqrt(1e5)
    together = torch.corrcoef(noise) - torch.eye(100)
    assert float(together.abs().max()) < 6 / math.sqrt(1000)
    later = states([Noise(3, 2, 1)], 4, CPU)
    assert torch.equal(later, states([Noise(3, 2).behind(5)], 0, CPU))


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.6), Sampling(0.8, 0.9, 6), Sampling(1.3, 1.0, 4)])
def test_the_law_of_a_coupled_draw_is_that_of_an_independent_one(sampling):
    """10^5 draws, Pearson's chi-square; top-k, top-p and temperature as an independent draw applies them."""
    logits = torch.tensor([2.0, 1.5, 1.0, 0.5, 0.0, -0.5, -1.0, -2.0]).expand(100_000, 8)
    begin = states([Noise(7, sample) for sample in range(len(logits))], 3, CPU)
    token, logprob = draw(logits, sampling, begin)
    alone, said = draw(logits, sampling)
    law = torch.zeros(8)
    law[alone] = said.exp()
    assert float(law.sum()) == pytest.approx(1.0, abs=1e-5)
    statistic, freedom = chi_square(token, law)
    assert statistic < CHI2[freedom]
    assert torch.allclose(logprob.exp(), law[token])
    assert draw(logits[:3], Sampling(0), begin[:3])[0].tolist() == [0, 0, 0]


def test_equal_noise_draws_the_same_token_whatever_runs_beside_it():
    vocabulary = SLICE // 4  # four rows at a time
    logits = torch.randn(11, vocabulary, generator=torch.Generator().manual_seed(0))
    logits[[2, 5, 10]] = logits[0].clone()
    streams = [Noise(1, row % 2 if row not in (2, 5, 10) else 0) for row in range(11)]
    begin = states(streams, 0, CPU)
    token, _ = draw(logits, Sampling(), begin)
    assert len(set(token[[0, 2, 5, 10]].tolist())) == 1
    assert torch.equal(draw(logits[3:5], Sampling(), begin[3:5])[0], token[3:5])


@pytest.mark.parametrize("kind", [TransformersEngine, UnsharedEngine])
def test_an_engine_draws_equal_answers_from_equal_prefixes_and_noise(kind):
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, hidden=32, layers=2, heads=2)
    engine = kind(model, tokenizer.pad_token_id)
    row = torch.randint(5, 60, (14,)).tolist()
    branches = [Branch(0, 9, (5, 6)), Branch(1, 9, (5, 6)), Branch(0, 4, (5, 6))]
    noise = [[Noise(1, 0), Noise(1, 1), Noise(1, 2)]] * 3
    prefix = engine.prefill([row, [*row[:9], 7]], purpose="probed")
    answers = engine.answers(prefix, branches, 3, 6, [3], noise=noise)
    assert answers[0].ids == answers[1].ids  # the distribution is the same: so are the answers
    assert len({tuple(ids) for ids in answers[0].ids}) == 3
    assert answers[2].ids != answers[0].ids
    (alone,) = engine.answers(prefix, branches[:1], 1, 6, [3], noise=[[Noise(1, 2)]])
    assert alone.ids == answers[0].ids[2:]
    (rest,) = engine.answers(
        engine.prefill([[*row[:9], 5, 6, *alone.ids[0][:2]]], purpose="probed"),
        [Branch(0, 12, tuple(alone.ids[0][1:2]))], 1, 4, [3], noise=[[Noise(1, 2).behind(2)]],
    )  # fmt: skip
    assert rest.ids[0] == alone.ids[0][2:]


@pytest.mark.parametrize("kind", [TransformersEngine, UnsharedEngine])
def test_scores_can_be_those_of_the_distribution_drawn_from(kind):
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    engine = kind(build_model(tokenizer, hidden=32, layers=2, heads=2), tokenizer.pad_token_id)
    prefix, branch, how = (
        engine.prefill([[5, 9, 11, 7]], purpose="probed"),
        Branch(0, 4, (6, 8)),
        Sampling(0.7, 0.9, 40),
    )
    (answer,) = engine.answers(prefix, [branch], 6, 3, [3], sampling=how)
    (score,) = engine.score(prefix, [branch], [answer.ids], sampling=how)
    assert score.tolist() == pytest.approx([sum(one) for one in answer.logprobs], abs=1e-4)
    (plain,) = engine.score(prefix, [branch], [answer.ids])
    assert all(plain < score)
