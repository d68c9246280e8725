"""The return across attempts, by hand."""

from __future__ import annotations

import pytest
import torch

from mrt.credit.attempts import attempt_returns
from mrt.credit.table import make_credit
from mrt.errors import ConfigError
from mrt.trials import Trials


def trials(**changed) -> Trials:
    """Two rows of a group: 0, 1 and (longer) 0, 0, 1; a step each chosen, one reply behind it, one opening step."""
    episode = torch.tensor([[-1, 0, 0, 1, 1, -1, -1], [-1, 0, 0, 1, 1, 2, 2]])
    mask = torch.tensor([[0, 1, 0, 1, 0, 0, 0], [0, 1, 0, 1, 0, 1, 0]]).bool()
    rewards = torch.tensor([[0, 0, 0, 1.0, 0, 0, 0], [0, 0, 0, 0, 0, 1.0, 0]])
    fields = {"actions": torch.zeros(2, 7, dtype=torch.long), "rewards": rewards, "mask": mask, "episode": episode}
    return Trials(**{**fields, "group": torch.tensor([4, 4]), **changed})


def test_by_hand():
    # to go at gamma 0.5: (0.5, 1) and (0.25, 0.5, 1); means of those who have the attempt 0.375, 0.75, 1
    weights = attempt_returns(trials(), gamma=0.5, scale="none")
    expected = torch.tensor([[0, 0.125, 0, 0.25, 0, 0, 0], [0, -0.125, 0, -0.25, 0, 0.0, 0]])
    assert torch.allclose(weights, expected)
    # root mean square of the five differences: sqrt((2 * 0.125^2 + 2 * 0.25^2) / 5)
    deviation = (0.15625 / 5) ** 0.5
    for scale in ("group", "batch"):
        assert torch.allclose(attempt_returns(trials(), 0.5, scale, eps=0.0), expected / deviation)


def test_ends_of_the_discount():
    last, whole = (attempt_returns(trials(), gamma, "none") for gamma in (0.0, 1.0))
    assert last[0].tolist() == [0, 0, 0, 0.5, 0, 0, 0], "each attempt for itself"
    assert whole[:, 1].tolist() == [0, 0], "both earn 1 in all"


def test_a_correction_is_paid_and_a_spoilt_answer_costs():
    """SCoRe: attempts earn (0, 1) and (0, 0, 1); with correction 2, twice the change on top: (0, 3) and (0, 0, 3)."""
    weights = attempt_returns(trials(), 0.0, "none", correction=2.0)
    assert weights[:, 3].tolist() == [1.5, -1.5]
    assert weights[:, 5].tolist() == [0.0, 0.0]  # alone in having a third
    spoilt = torch.tensor([[0, 1.0, 0, 0, 0, 0, 0], [0, 1.0, 0, 1.0, 0, 0, 0]])
    weights = attempt_returns(trials(rewards=spoilt), 0.0, "none", correction=2.0)
    assert weights[:, 1].tolist() == [0.0, 0.0]
    assert weights[:, 3].tolist() == [-1.5, 1.5]  # 0 - 2 and 1 + 0, against their mean -0.5


def test_unscorable_rows_and_other_groups_take_no_part():
    alone = attempt_returns(trials(scored=torch.tensor([True, False])), 0.5, "none")
    assert not alone.any()
    assert not attempt_returns(trials(group=torch.tensor([0, 1])), 0.5, "none").any()


def test_the_scale_of_a_batch_is_that_of_all_processes():
    twice = attempt_returns(trials(), 0.5, "batch", eps=0.0, gather=lambda x: torch.cat([x, 3 * x]))
    assert torch.allclose(twice, attempt_returns(trials(), 0.5, "batch", eps=0.0)), "sums and counts grow alike"


def test_options_are_checked():
    with pytest.raises(ConfigError, match=r"gamma=1\.5"):
        attempt_returns(trials(), gamma=1.5)
    with pytest.raises(ConfigError, match="scale='loud'"):
        attempt_returns(trials(), scale="loud")
    with pytest.raises(ConfigError, match="every group has one row"):
        make_credit("attempt_returns")(trials(group=torch.tensor([0, 1])))
