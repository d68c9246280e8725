"""Targets of temporal differences on whole trials, against a recursion in numpy, and rewards that do not count."""

from __future__ import annotations

import numpy as np
import torch

from mrt.credit.targets import next_act, one_step, without_free
from mrt.trials import Trials

# Two trials: episodes of 2 and 3 acts with a closing row each, and one of 4 acts that is padded.
MASK = torch.tensor([[1, 1, 0, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0, 0]]).bool()
EPISODE = torch.tensor([[0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, -1, -1]])


def made() -> Trials:
    drawn = torch.Generator().manual_seed(0)
    rewards = torch.randn(2, 7, generator=drawn, dtype=torch.float64) * MASK
    return Trials(torch.zeros(2, 7).long(), rewards, MASK, EPISODE, torch.arange(2), inputs={"reward": rewards + 1})


def by_hand(rewards: np.ndarray, mask: np.ndarray, values: np.ndarray, gamma: float) -> np.ndarray:
    """From the end of each row: what follows an act is the value at the act after it, whatever lies between."""
    target = np.zeros_like(rewards)
    for row in range(len(rewards)):
        ahead = 0.0
        for t in reversed(range(rewards.shape[1])):
            if mask[row, t]:
                target[row, t] = rewards[row, t] + gamma * ahead
                ahead = values[row, t]
    return target


def test_targets_of_several_discounts_are_those_of_the_recursion() -> None:
    trials, gammas = made(), torch.tensor([0.0, 0.9, 1.0], dtype=torch.float64)
    values = torch.randn(2, 7, 3, dtype=torch.float64)
    target = one_step(trials, values, gammas)
    for i, gamma in enumerate(gammas.tolist()):
        expected = by_hand(trials.rewards.numpy(), MASK.numpy(), values[..., i].numpy(), gamma)
        np.testing.assert_allclose(target[..., i].numpy(), expected, rtol=0, atol=1e-12)
        np.testing.assert_allclose(one_step(trials, values[..., i], gamma).numpy(), expected, rtol=0, atol=1e-12)


def test_closing_rows_are_stepped_over_and_nothing_follows_the_end() -> None:
    values = torch.arange(14.0).view(2, 7)
    after = next_act(MASK, values)
    assert after[0].tolist() == [1, 3, 3, 4, 5, 0, 0], (
        "the value of the next episode's first act follows the second one"
    )
    assert after[1].tolist() == [8, 9, 10, 0, 0, 0, 0]


def test_free_episodes_earn_nothing_and_are_still_seen() -> None:
    trials = made()
    counted = without_free(trials, 1)
    assert (counted.rewards[EPISODE == 0] == 0).all()
    assert torch.equal(counted.rewards[EPISODE == 1], trials.rewards[EPISODE == 1])
    assert torch.equal(counted.inputs["reward"], trials.inputs["reward"])
    assert without_free(trials, 0) is trials
