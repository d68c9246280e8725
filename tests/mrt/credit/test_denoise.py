"""What is done to stop values before they are credit: by hand, and against a filter and smoother written out."""

import math

import pytest
import torch

from mrt.credit.denoise import reliability, smooth
from mrt.credit.outcome import outcome
from mrt.credit.progress import progress
from mrt.credit.table import make_credit
from mrt.errors import ConfigError
from tests.mrt.credit.test_credit import NAN, reasoning


def test_watermark_pays_only_what_is_better_than_all_before():
    trials = reasoning([1.0, 0.0], [4, 3], [[0.1, 0.4, 0.2, NAN, 0.9], [0.5, 0.3, 0.5, 0.6]])
    bonus = progress(trials, mode="watermark", scale="none") - outcome(trials, scale="none")
    assert bonus[0, 1:9:2].tolist() == pytest.approx([0.3, 0.0, 0.0, 0.5], abs=1e-6)
    assert bonus[1, 1:7:2].tolist() == pytest.approx([0.0, 0.0, 0.1], abs=1e-6)


def test_tokens_behind_the_first_right_prefix_cost():
    trials = reasoning([1.0, 0.0], [3, 3], [[0.1, 0.95, 0.2, 0.3], [0.1, 0.2, 0.3, 1.0]])
    late = progress(trials, late=0.25, scale="none") - progress(trials, scale="none")
    assert late[0, 1:7:2].tolist() == pytest.approx([0.0, -0.25, -0.25], abs=1e-6)
    assert not late[1].any()
    alone = progress(trials, mode="none", late=0.25, scale="none") - outcome(trials, scale="none")
    assert torch.allclose(alone, late)


def test_the_scale_of_the_bonus_is_that_of_its_group():
    """Log-likelihoods of one problem move by 10 nats, of another by 0.1: both count alike."""
    values = [[-20.0, -10.0, -20.0], [-20.0, -20.0, -10.0], [-1.0, -0.9, -1.0], [-1.0, -1.0, -0.9]]
    trials = reasoning([1.0, 0.0] * 2, [2] * 4, values, group=[0, 0, 1, 1])
    bonus = progress(trials, bonus_scale="group", scale="none") - outcome(trials, scale="none")
    assert torch.allclose(bonus[:2], bonus[2:], atol=1e-4)
    assert bonus[0, 1:5:2].tolist() == pytest.approx([10 / math.sqrt(75), -10 / math.sqrt(75)], abs=1e-5)
    still = reasoning([1.0], [2], [[-3.0, -3.0, NAN]])
    assert not progress(still, bonus_scale="group", scale="none").any()


def test_maxrl_divides_by_the_mean():
    trials = reasoning([1.0, 0.0, 0.0, 0.0, 0.0, 0.0], [1] * 6, group=[0, 0, 0, 0, 1, 1])
    weights = outcome(trials, scale="mean")[:, 1]
    assert weights.tolist() == pytest.approx([3.0, -1.0, -1.0, -1.0, 0.0, 0.0], abs=1e-6)
    with pytest.raises(ConfigError, match="rewards of at least 0"):
        outcome(reasoning([1.0, -1.0], [1, 1]), scale="mean")


def walks(rows, steps, signal, noise, seed=0):
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randn(rows, steps, generator=generator).mul(signal).cumsum(1) + 0.5
    return truth, truth + noise * torch.randn(rows, steps, generator=generator)


def test_reliability_finds_the_share_of_signal():
    """Steps of variance .04 seen with errors of variance .01 at both ends: .04 / .06."""
    _, seen = walks(4000, 6, 0.2, 0.1)
    errors = torch.full_like(seen, 0.1)
    assert reliability(seen, errors) == pytest.approx(2 / 3, abs=0.02)
    assert reliability(torch.rand(3, 1), torch.zeros(3, 1)) == 1.0
    halves = [torch.tensor([]) for _ in range(2)]

    def gather(mine):  # two processes with the same batch
        halves[0] = torch.cat([mine, mine])
        return halves[0]

    assert reliability(seen, errors, gather) == pytest.approx(reliability(seen, errors), abs=1e-4)
    trials = reasoning([1.0, 0.0], [2, 2], [[0.2, 0.6, 0.3], [0.1, 0.2, 0.9]], stop_value_se=torch.full((2, 3), 0.1))
    share = reliability(trials.stop_values, trials.stop_value_se)
    plain = progress(trials, scale="none") - outcome(trials, scale="none")
    shrunk = progress(trials, scale="none", denoise="reliability") - outcome(trials, scale="none")
    assert 0 < share < 1
    assert torch.allclose(shrunk, share * plain, atol=1e-6)


def rauch_tung_striebel(values, r, q):
    """The textbook recursion for a random walk with a flat prior, NaN where nothing was seen."""
    means, variances, predicted = [], [], []
    mean, variance = 0.0, 1e9
    for k, value in enumerate(values):
        if k:
            variance += q
        predicted.append((mean, variance))
        if value == value:
            gain = variance / (variance + r[k])
            mean, variance = mean + gain * (value - mean), (1 - gain) * variance
        means.append(mean)
        variances.append(variance)
    found = [means[-1]]
    for k in reversed(range(len(values) - 1)):
        gain = variances[k] / predicted[k + 1][1]
        found.insert(0, means[k] + gain * (found[0] - predicted[k + 1][0]))
    return found


def test_smoothing_is_that_of_rauch_tung_and_striebel():
    values = torch.tensor([[0.2, 0.5, NAN, 0.9, 0.7], [0.1, 0.1, 0.4, NAN, NAN]])
    errors = torch.tensor([[0.1, 0.2, NAN, 0.1, 0.2], [0.05, 0.1, 0.2, NAN, NAN]])
    share = reliability(values, errors)
    noise = []
    for row, error in zip(values, errors, strict=True):
        square = error[~row.isnan()] ** 2
        noise += (square[1:] + square[:-1]).tolist()
    q = sum(noise) / len(noise) * share / (1 - share)
    mean = float((errors[~values.isnan()] ** 2).mean())
    found = smooth(values, errors)
    for row, error, smoothed in zip(values, errors, found, strict=True):
        last = int((~row.isnan()).nonzero().max()) + 1
        r = [(float(e) ** 2 + mean) / 2 if e == e else NAN for e in error]
        expected = rauch_tung_striebel(row[:last].tolist(), r, q)
        seen = ~row[:last].isnan()
        assert smoothed[:last][seen].tolist() == pytest.approx(torch.tensor(expected)[seen].tolist(), abs=1e-4)
        assert torch.equal(smoothed.isnan(), row.isnan())


def test_smoothing_takes_noise_out_of_progress():
    truth, seen = walks(500, 6, 0.1, 0.15)
    smoothed = smooth(seen, torch.full_like(seen, 0.15))
    errors = [float((one.diff(dim=1) - truth.diff(dim=1)).square().mean()) for one in (seen, smoothed)]
    assert errors[1] < 0.35 * errors[0]
    sure = torch.rand(3, 4)
    assert torch.equal(smooth(sure, torch.zeros_like(sure)), sure)


def test_options_of_progress_are_checked_and_reach_it_by_name():
    trials = reasoning([1.0, 0.0], [2, 2], [[0.2, 0.6, 0.3], [0.1, 0.2, 0.9]], stop_value_se=torch.full((2, 3), 0.1))
    for name in ("denoise", "bonus_scale"):
        with pytest.raises(ConfigError, match=name):
            progress(trials, **{name: "wrong"})
    with pytest.raises(ValueError, match="standard errors"):
        progress(reasoning([1.0], [1], [[0.0, 1.0]]), denoise="smooth")
    asked = []
    credit = make_credit("progress", denoise="reliability", mode="watermark", late=0.1, scale="none")
    weights = credit(trials, gather=lambda mine: (asked.append(1), mine)[1])
    assert asked  # the share is that of all processes
    expected = progress(trials, denoise="reliability", mode="watermark", late=0.1, scale="none")
    assert torch.allclose(weights, expected)
