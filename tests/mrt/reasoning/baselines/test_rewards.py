"""What each rival pays, with numbers worked by hand."""

import math

import pytest
import torch

from mrt.errors import ConfigError
from mrt.reasoning.baselines.adapt_think import preferred
from mrt.reasoning.baselines.l1 import L1Config, length_reward, with_targets
from mrt.reasoning.baselines.length_penalty import LengthPenaltyConfig, efficient
from mrt.reasoning.baselines.s_grpo import decayed
from mrt.reasoning.baselines.spae import potential
from mrt.reasoning.baselines.spo import cut_ends
from mrt.reasoning.probes.forced import Forced

NAN = float("nan")


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_length_penalty_by_hand():
    """Right answers of 10 and 20 tokens: mean 15, standard deviation 5, z -1 and 1; the wrong 90 is not in it."""
    rewards = torch.tensor([1.0, 0.0, 1.0, NAN])
    paid = efficient(rewards, torch.tensor([10.0, 90.0, 20.0, 40.0]), size=4, alpha=0.4)
    assert paid[:3].tolist() == pytest.approx([1 - 0.4 * sigmoid(-1), 0.0, 1 - 0.4 * sigmoid(1)], abs=1e-5)
    assert math.isnan(paid[3])
    # One right answer, and right answers of one length: half of alpha.
    alone = efficient(torch.tensor([1.0, 0.0, 1.0, 1.0]), torch.tensor([7.0, 3.0, 5.0, 5.0]), size=2, alpha=0.4)
    assert alone.tolist() == pytest.approx([0.8, 0.0, 0.8, 0.8], abs=1e-5)
    assert efficient(rewards[:3], torch.ones(3), size=3, alpha=0.0).tolist() == [1.0, 0.0, 1.0]
    with pytest.raises(ConfigError, match="length_alpha=1"):
        LengthPenaltyConfig(length_alpha=1.0, use_cpu=True)


def test_lcpo_by_hand():
    rewards, lengths, targets = torch.tensor([1.0, 0.0, 1.0, NAN]), torch.tensor([50.0, 30.0, 10.0, 5.0]), 30.0
    exact = L1Config(length_alpha=0.01, use_cpu=True)
    paid = length_reward(rewards, lengths, torch.full((4,), targets), exact)
    assert paid[:3].tolist() == pytest.approx([1 - 0.2, 0.0, 1 - 0.2])
    assert math.isnan(paid[3])
    most = L1Config(length_mode="max", length_alpha=0.01, length_delta=0.5, use_cpu=True)
    paid = length_reward(rewards, lengths, torch.full((4,), targets), most)
    assert paid[:3].tolist() == pytest.approx([0.3, 0.0, 0.7])  # too long by 20, wrong, short by 20
    far = length_reward(torch.ones(2), torch.tensor([500.0, 0.0]), torch.tensor([10.0, 400.0]), most)
    assert far.tolist() == [0.0, 1.0]
    for wrong in ({"length_mode": "min"}, {"length_low": 9, "length_high": 3}, {"length_prompt": "be short"}):
        with pytest.raises(ConfigError):
            L1Config(use_cpu=True, **wrong)


def test_the_prompt_asks_for_a_length_that_stays_with_the_problem():
    from datasets import Dataset

    args = L1Config(length_low=20, length_high=29, length_prompt=",{tokens}", use_cpu=True)
    rows = Dataset.from_list([{"key": f"k{i}", "prompt": [{"role": "user", "content": f"{i}->5"}]} for i in range(200)])
    found = with_targets(rows, args)
    assert found[3]["prompt"][0]["content"] == f"3->5,{found[3]['target_tokens']}"
    assert sorted(set(found["target_tokens"])) == list(range(20, 30))  # both ends are drawn
    assert with_targets(rows.select([3]), args)["target_tokens"][0] == found[3]["target_tokens"]
    plain = with_targets(Dataset.from_list([{"prompt": "3->5"}]), args)
    assert plain[0]["prompt"] == f"3->5,{plain[0]['target_tokens']}"


def test_early_right_exits_are_paid_most():
    rewards = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0, NAN] + [0.0] * 6)
    paid = decayed(rewards, size=6)
    assert paid[:5].tolist() == [0.0, 1.0, 0.5, 0.0, 0.25]
    assert math.isnan(paid[5])
    assert paid[6:].tolist() == [0.0] * 6


def test_not_thinking_is_preferred_where_it_costs_nothing():
    """The thinking half of the first group is right in 1 of 2; in the second both are."""
    rewards = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0, 1.0])
    paid = preferred(rewards, size=4, delta=0.1)
    assert paid.tolist() == pytest.approx([0.6, -0.4, 0.5, -0.5, -0.9, 0.1, 0.0, 0.0])


def test_segments_end_behind_every_second_doubt():
    low, high = math.log(0.5), math.log(0.95)
    assert cut_ends([low, high, low, high, low, low, high], 0.9, 2) == [3, 6, 7]
    assert cut_ends([high, high], 0.9, 2) == [2]
    assert cut_ends([high, low], 0.9, 1) == [2]


def test_the_potential_by_hand():
    """Confidence (.25^(1/2) + .81^(1/2)) / 2 = .7, accuracy 1/2."""
    answers = [Forced("a", [], (1, 2), 0.25), Forced("b", [], (1, 3), 0.81)]
    value, error = potential(answers, [0.0, 1.0])
    assert value == pytest.approx(1.5 * 0.5 * 0.7 + 0.5 * 0.5 - 0.7)
    assert error == pytest.approx((1.5 * 0.7 + 0.5) * 0.5)
    sure = [Forced("a", [], (1,), 1.0)] * 2
    assert potential(sure, [1.0, 1.0])[0] == pytest.approx(1.0)
    assert potential(sure, [0.0, 0.0])[0] == pytest.approx(-1.0)
    assert math.isnan(potential(answers, [None, None])[0])
