"""Policy-gradient estimators told apart by exact numbers, by enumerating what can happen."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from classic_metarl.inner import estimators as est
from classic_metarl.inner.gradient_steps import GradientSteps, Theta
from classic_metarl.inner.linear_baseline import features, linear_values
from mrt.credit.returns import reward_to_go
from mrt.trials import Trials

SIGMA = 1 / (1 + math.e**-1)


def trials_of(actions: Tensor, rewards: Tensor, **changed: Any) -> Trials:
    rows, steps = actions.shape
    fields: dict[str, Any] = {
        "actions": actions,
        "rewards": rewards.double(),
        "mask": torch.ones(rows, steps, dtype=torch.bool),
        "episode": torch.zeros(rows, steps, dtype=torch.long),
        "group": torch.arange(rows),
    }
    return Trials(**fields | changed)


def logprobs_of(logit: Tensor, actions: Tensor) -> Tensor:
    """(B, T) of a policy whose chance of action 1 is sigmoid(logit) everywhere."""
    return torch.nn.functional.logsigmoid(torch.where(actions == 1, logit, -logit))


# ---- T28: the chain of two steps


def chain() -> Trials:
    """Two actions share one logit; reward 1 after the second iff both are 1: J = sigma^2."""
    actions = torch.tensor([[1, 1], [1, 0], [0, 1], [0, 0]])
    return trials_of(actions, torch.tensor([[0, 1], [0, 0], [0, 0], [0, 0]]))


def expectation(surrogate: Callable[[Tensor, Trials], Tensor], logit: Tensor) -> Tensor:
    """The surrogate's mean over all four trajectories, each with its chance, which is a constant."""
    trials = chain()
    logprobs = logprobs_of(logit, trials.actions)
    return (logprobs.sum(1).exp().detach() * surrogate(logprobs, trials)).sum()


SURROGATES: dict[str, Callable[[Tensor, Trials], Tensor]] = {
    "dice": lambda logprobs, trials: est.dice(logprobs, trials),
    "loaded_dice": lambda logprobs, trials: est.loaded_dice(logprobs, reward_to_go(trials), trials),
    "lvc": lambda logprobs, trials: est.lvc(logprobs, reward_to_go(trials), trials),
    "naive": lambda logprobs, trials: est.naive(logprobs, reward_to_go(trials), trials),
}


@pytest.mark.parametrize(
    ("name", "hessian"), [("dice", 0.125), ("loaded_dice", 0.125), ("lvc", 0.0), ("naive", -0.125)]
)
def test_hessians_of_the_chain(name: str, hessian: float) -> None:
    """True J'' = +.125 at logit 0, where J = J' = .25."""
    logit = torch.zeros((), dtype=torch.float64, requires_grad=True)
    value = expectation(SURROGATES[name], logit)
    slope = torch.autograd.grad(value, logit, create_graph=True)[0]
    curvature = torch.autograd.grad(slope, logit)[0]
    assert slope.item() == pytest.approx(0.25, abs=1e-12)
    assert curvature.item() == pytest.approx(hessian, abs=1e-6)
    if name == "dice":
        assert value.item() == pytest.approx(0.25, abs=1e-12)


def test_dice_is_right_to_third_order_and_discounts_by_acting_steps() -> None:
    logit = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    ours, true = expectation(SURROGATES["dice"], logit), torch.sigmoid(logit) ** 2
    for _ in range(3):
        ours, true = (torch.autograd.grad(value, logit, create_graph=True)[0] for value in (ours, true))
        assert ours.item() == pytest.approx(true.item(), abs=1e-12)
    closing = torch.tensor([[True, False, True]])
    row = trials_of(torch.ones(1, 3, dtype=torch.long), torch.tensor([[2.0, 9.0, 4.0]]), mask=closing)
    assert est.dice(torch.full((1, 3), -1.0).double(), row, gamma=0.5).item() == 2 + 0.5 * 4


# ---- T27: E-MAML's bandit


def bandit(actions: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Post-update chance of the good arm (B,), one pull and one step of size 1 from logit theta; and the trials' term.

    Arm 1 pays 1, arm 0 nothing. theta' = theta + r grad log pi(a).
    """
    trials = trials_of(actions, actions.float())
    # vmap wants one task's loss: log pi(a) r, by the same surrogate on a batch of one row
    steps = GradientSteps(lambda phi, data: -(logprobs_of(phi["logit"], data[0]) * data[1]).sum(), rate=1.0)
    tree = Theta({"logit": theta})
    phi = steps.adapt(tree, steps.init(tree), (actions, trials.rewards))["logit"]
    earned = torch.sigmoid(phi)
    return earned, est.sampling_term(logprobs_of(theta, actions), trials, earned)


def test_emaml_is_mamls_gradient_and_the_sampling_term() -> None:
    """.243741 = .213126 + .030615: exactly by enumeration, and the closed form p s(1 - p) + (1 - p) s(0)."""
    theta = torch.zeros((), dtype=torch.float64, requires_grad=True)
    earned, term = bandit(torch.tensor([[1], [0]]), theta)
    maml = torch.autograd.grad(earned.mean(), theta, retain_graph=True)[0].item()  # each arm has chance 1/2
    sampling = torch.autograd.grad(term.mean(), theta)[0].item()
    assert (round(maml, 6), round(sampling, 6)) == (0.213126, 0.030615)
    p = torch.sigmoid(theta)
    exact = p * torch.sigmoid(theta + 1 - p) + (1 - p) * torch.sigmoid(theta)
    assert maml + sampling == pytest.approx(torch.autograd.grad(exact, theta)[0].item(), abs=1e-12)
    assert maml + sampling == pytest.approx(0.243741, abs=1e-6)


def test_emaml_by_sampling() -> None:
    generator = torch.Generator().manual_seed(0)
    theta = torch.zeros((), dtype=torch.float64, requires_grad=True)
    actions = torch.randint(2, (1_000_000, 1), generator=generator)
    earned, term = bandit(actions, theta)
    maml, both = (torch.autograd.grad(v.mean(), theta, retain_graph=True)[0].item() for v in (earned, earned + term))
    assert maml == pytest.approx(0.213126, abs=1e-3)
    assert both == pytest.approx(0.243741, abs=1e-3)
    baselined = est.sampling_term(
        logprobs_of(theta, actions), trials_of(actions, actions.float()), earned, baseline=True
    )
    assert torch.autograd.grad(baselined.mean(), theta)[0].item() == pytest.approx(0.030615, abs=1e-3)


# ---- T29: importance weights


def test_importance_weighted_adaptation_gradient() -> None:
    """E_phi[(pi_theta / pi_phi) grad log pi_theta R] = sigma'(0) = .25, whoever acted; without the ratio .366."""
    actions = torch.tensor([[1], [0]])
    behaviour, theta = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64, requires_grad=True)
    acted = logprobs_of(behaviour, actions)
    trials = trials_of(actions, actions.float(), logprobs=acted)
    logprobs = logprobs_of(theta, actions)
    chance = acted[:, 0].exp()
    weights = est.importance(logprobs, trials)
    each = est.naive(logprobs, trials.rewards, trials)
    weighted, plain = (
        torch.autograd.grad((chance * w * each).sum(), theta, retain_graph=True)[0].item() for w in (weights, 1.0)
    )
    assert weighted == pytest.approx(0.25, abs=1e-12)
    assert plain == pytest.approx(SIGMA / 2, abs=1e-6)
    assert round(plain, 3) == 0.366
    assert est.importance(logprobs, trials, most=1.0).max() == 1
    assert weights.tolist() == pytest.approx([0.5 / SIGMA, 0.5 / (1 - SIGMA)])


def test_effective_sample_size_by_hand() -> None:
    weights, group = torch.tensor([1.0, 3.0, 2.0, 2.0, 2.0]), torch.tensor([7, 7, 4, 4, 4])
    assert est.effective_sample_size(weights, group).tolist() == pytest.approx([3.0, 16 / 10])


# ---- ProMP


def two_rows() -> tuple[Tensor, Trials, Tensor]:
    torch.manual_seed(1)
    theta = torch.randn(4, dtype=torch.float64, requires_grad=True)
    actions = torch.randint(2, (6, 4))
    old = logprobs_of(theta.detach(), actions)
    return theta, trials_of(actions, torch.randn(6, 4), logprobs=old), torch.randn(6, 4).double()


def test_at_theta_old_promps_objectives_have_one_gradient() -> None:
    """Likelihood ratio, LVC, clipped and naive agree there to first order; LR and LVC also in the Hessian."""
    theta, trials, weights = two_rows()
    logprobs = logprobs_of(theta, trials.actions)
    values = {
        "lr": est.likelihood_ratio(logprobs, weights, trials),
        "lvc": est.lvc(logprobs, weights, trials),
        "clipped": est.clipped(logprobs, weights, trials),
        "naive": est.naive(logprobs, weights, trials),
    }
    slopes = {n: torch.autograd.grad(v.sum(), theta, create_graph=True)[0] for n, v in values.items()}
    for name in slopes:
        assert torch.allclose(slopes[name], slopes["lvc"], atol=1e-12), name
    hessians = {n: torch.autograd.grad(s.square().sum(), theta, retain_graph=True)[0] for n, s in slopes.items()}
    assert torch.allclose(hessians["lr"], hessians["lvc"], atol=1e-12)
    assert not torch.allclose(hessians["naive"], hessians["lvc"], atol=1e-3)
    assert est.behaviour_kl(logprobs, trials).tolist() == [0] * 6


def test_the_clip_and_the_divergence_by_hand() -> None:
    old = torch.tensor([[0.5, 0.5, 0.5, 0.5]]).double().log()
    new = torch.tensor([[0.8, 0.8, 0.2, 0.2]]).double().log()
    mask = torch.tensor([[True, True, True, True]])
    trials = trials_of(torch.zeros(1, 4, dtype=torch.long), torch.zeros(1, 4), logprobs=old, mask=mask)
    weights = torch.tensor([[1.0, -1.0, 1.0, -1.0]]).double()
    # ratios 1.6, 1.6, 0.4, 0.4 clipped to 1.3 and 0.7; the smaller of the two products
    assert est.clipped(new, weights, trials, clip=0.3).item() == pytest.approx(1.3 - 1.6 + 0.4 - 0.7)
    expected = (2 * (0.6 - math.log(1.6)) + 2 * (-0.6 - math.log(0.4))) / 4
    assert est.behaviour_kl(new, trials).item() == pytest.approx(expected)
    with pytest.raises(ValueError, match="needs the log-probabilities"):
        est.clipped(new, weights, trials_of(torch.zeros(1, 4, dtype=torch.long), torch.zeros(1, 4)))


def test_steps_outside_the_mask_count_for_nothing() -> None:
    theta, trials, weights = two_rows()
    mask = trials.mask.clone()
    mask[:, 2:] = False
    cut = trials_of(trials.actions, trials.rewards, logprobs=trials.logprobs, mask=mask)
    short = trials_of(trials.actions[:, :2], trials.rewards[:, :2], logprobs=trials.logprobs[:, :2])
    moved = logprobs_of(theta + 0.3, trials.actions)
    for function in (est.naive, est.loaded_dice, est.lvc, est.likelihood_ratio, est.clipped):
        assert torch.allclose(function(moved, weights, cut), function(moved[:, :2], weights[:, :2], short))
    assert torch.allclose(est.dice(moved, cut), est.dice(moved[:, :2], short))
    assert torch.allclose(est.importance(moved, cut), est.importance(moved[:, :2], short))


# ---- the baseline


def test_a_linear_baseline_recovers_each_tasks_own_values() -> None:
    """Targets that are exactly linear in the features, with other weights in every group."""
    torch.manual_seed(0)
    rows, steps = 12, 30
    observation = torch.randn(rows, steps, 2).double()
    mask = torch.ones(rows, steps, dtype=torch.bool)
    mask[:, -1] = False
    group = torch.arange(3).repeat(4)
    weights = torch.randn(3, 8).double()
    targets = torch.einsum("btf,bf->bt", features(observation, mask), weights[group])
    trials = trials_of(torch.zeros(rows, steps, dtype=torch.long), torch.zeros(rows, steps), mask=mask, group=group)
    values = linear_values(observation, targets, trials, ridge=1e-10)
    assert torch.allclose(values[:, :-1], targets[:, :-1], atol=1e-5)
    assert (values[:, -1] == 0).all()
    assert features(observation, mask)[0, 7, 4:].tolist() == pytest.approx([0.07, 0.07**2, 0.07**3, 1])
    constant = linear_values(observation * 0, torch.full((rows, steps), 3.0), trials)  # singular but for the ridge
    assert torch.allclose(constant[:, :-1], torch.tensor(3.0), atol=1e-4)
