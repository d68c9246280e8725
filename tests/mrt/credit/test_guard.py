"""The cancellation guard fires where a bonus is the outcome in disguise, and only there."""

import math

import pytest
import torch

from mrt.credit.grouping import check_group_size
from mrt.credit.guard import check_bonus, check_construction, effective_std
from mrt.credit.outcome import outcome
from mrt.credit.progress import progress_bonus
from mrt.errors import ConfigError
from mrt.trials import PROVERS, Trials


def rows(rewards, stop_values, groups=None) -> Trials:
    count, episodes = len(rewards), len(stop_values[0]) - 1
    reward = torch.zeros(count, episodes)
    reward[:, -1] = torch.tensor(rewards)
    return Trials(
        actions=torch.zeros(count, episodes, dtype=torch.long),
        rewards=reward,
        mask=torch.ones(count, episodes, dtype=torch.bool),
        episode=torch.arange(episodes).expand(count, episodes),
        group=torch.tensor(groups or [0] * count),
        stop_values=torch.tensor(stop_values),
        prover=torch.full((count,), PROVERS["forced"], dtype=torch.int8),
    )


@pytest.mark.parametrize("alpha", [0.1, 1.0, 7.0])
@pytest.mark.parametrize("c", [0.0, 0.25, 0.9])
def test_fires_for_any_alpha_and_c_in_a_same_prefix_group(alpha, c):
    """alpha (f_i - c): what the authors' first trainer added to groups that share one prefix."""
    rewards = [1.0, 1.0, 0.0, 1.0]
    trials = rows(rewards, [[c, c, f] for f in rewards])
    bonus = alpha * progress_bonus(trials, mode="trace")
    with pytest.raises(ConfigError, match=r"mixed group.*per-episode credit"):
        check_bonus(trials, outcome(trials), bonus)
    # and indeed such a bonus leaves the normalised advantage where it was
    total = outcome(trials, scale="none") + bonus
    scaled = (total - total.mean(0)) / total.std(0)
    assert torch.allclose(scaled, outcome(trials, eps=0.0), atol=1e-5)


def test_stays_quiet_for_per_episode_progress():
    rewards = [1.0, 1.0, 0.0, 1.0]
    trials = rows(rewards, [[0.2, 0.5, 1.0], [0.2, 0.1, 1.0], [0.2, 0.4, 0.0], [0.2, 0.9, 1.0]])
    left = check_bonus(trials, outcome(trials), progress_bonus(trials))
    assert left > 0.05


def test_residual_by_hand():
    """Bonus (0, 1, 0, 1) against outcome (1, 1, -1, -1): uncorrelated, so all of its deviation 0.5 remains."""
    trials = rows([1.0, 0.0], [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    left = effective_std(trials, torch.tensor([[1.0, 1.0], [-1.0, -1.0]]), torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
    assert float(left) == pytest.approx(0.5)


def test_one_group_that_can_tell_is_enough_and_constant_groups_do_not_count():
    values = [[0.1, 0.1, 1.0], [0.1, 0.1, 0.0], [0.1, 0.6, 1.0], [0.1, 0.2, 0.0]]
    trials = rows([1.0, 0.0, 1.0, 0.0], values, [0, 0, 1, 1])
    assert check_bonus(trials, outcome(trials), progress_bonus(trials)) > 0
    silent = rows([1.0, 1.0], [[0.1, 0.5, 1.0]] * 2)
    assert math.isnan(check_bonus(silent, outcome(silent), progress_bonus(silent)))  # cannot tell: no error
    assert effective_std(silent, outcome(silent), progress_bonus(silent)).isnan().all()


def test_the_known_case_is_refused_at_construction():
    with pytest.raises(ConfigError, match="mixed"):
        check_construction("trace", mixed=False)
    check_construction("trace", mixed=True)
    check_construction("immediate", mixed=False)


def test_group_size_error_lists_the_valid_sizes():
    with pytest.raises(ConfigError, match=r"\[2, 3, 4, 6, 12\]"):
        check_group_size(12, 5)
    check_group_size(12, 4)
