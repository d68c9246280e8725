"""LOLA-DiCE: the estimator against exact values of the game, what the players find, and resume."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from classic_metarl.gradient import lola
from mrt.errors import ConfigError
from mrt.runs.recipe import import_trainer, load_recipe

pytestmark = pytest.mark.training

QUICK = ("args.disable_tqdm=true", "args.report_to=none", "args.save_strategy=no")
PAYOFFS = lola.Game().payoffs.double()
NEVER, ALWAYS = -40.0, 40.0


def trainer_of(folder: Path, *overrides: str) -> Any:
    recipe = load_recipe("gradient/lola", [*QUICK, *overrides])
    return import_trainer(recipe.trainer).from_recipe(recipe, folder)


def logits(*chances: float) -> Tensor:
    return torch.logit(torch.tensor(chances, dtype=torch.float64))


def enumerated(first: Tensor, second: Tensor, steps: int) -> tuple[lola.Trials, Tensor]:
    """Every play of so many steps, one a row, and its chance (a constant)."""
    outcomes = torch.tensor(list(itertools.product(range(4), repeat=steps)))
    state = torch.cat([torch.zeros(len(outcomes), 1, dtype=torch.long), outcomes[:, :-1] + 1], 1)
    drawn = lola.play(first, second, PAYOFFS, len(outcomes), steps)
    paid = PAYOFFS[outcomes]
    actions = torch.stack([outcomes // 2, outcomes % 2], -1)
    privileged = {"payoffs": paid}
    trials = replace(drawn, actions=actions, inputs={"state": state}, rewards=paid.mean(-1), privileged=privileged)
    return trials, lola.logprobs(first, second, trials).sum(1).exp().detach()


def finite_value(first: Tensor, second: Tensor, gamma: float, steps: int) -> Tensor:
    """(2,) by pushing the distribution over outcomes forward, as a check of both others."""
    table = lola.chances(first, second)
    at, total = table[0], torch.zeros(2, dtype=torch.float64)
    for t in range(steps):
        total = total + gamma**t * (at @ PAYOFFS)
        at = at @ table[1:]
    return total


def random_pair() -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(0)
    return tuple(torch.randn(5, dtype=torch.float64, generator=source).requires_grad_() for _ in range(2))  # type: ignore[return-value]


# ---- the game


def test_exact_values_of_known_pairs() -> None:
    """Mutual defection -2, mutual cooperation -1, a defector against a cooperator 0 and -3; tit for tat pays -1."""
    always, never = torch.full((5,), ALWAYS).double(), torch.full((5,), NEVER).double()
    tit_for_tat = torch.tensor([ALWAYS, ALWAYS, NEVER, ALWAYS, NEVER]).double()
    for pair, payoffs in (
        ((never, never), (-2, -2)),
        ((always, always), (-1, -1)),
        ((never, always), (0, -3)),
        ((tit_for_tat, tit_for_tat), (-1, -1)),
    ):
        assert ((1 - 0.96) * lola.exact_values(*pair, PAYOFFS, 0.96)).tolist() == pytest.approx(payoffs, abs=1e-9)
    # against a defector tit for tat is exploited once: -3 + 0.96 * -2 / 0.04
    assert lola.exact_values(tit_for_tat, never, PAYOFFS, 0.96)[0].item() == pytest.approx(-3 - 2 * 0.96 / 0.04)


def test_the_second_player_sees_its_own_action_first() -> None:
    """After (C, D) player two is where player one is after (D, C): exploiting, whoever exploits."""
    one, two = logits(0.5, 0.5, 0.5, 0.5, 0.5), logits(0.5, 0.5, 0.9, 0.1, 0.5)
    table = lola.chances(one, two)
    assert (table[2, 0] + table[2, 2]).item() == pytest.approx(0.1)  # state CD: two defected alone, its state DC
    assert (table[3, 0] + table[3, 2]).item() == pytest.approx(0.9)


def test_plays_follow_the_chances() -> None:
    torch.manual_seed(0)
    first, second = random_pair()
    trials = lola.play(first, second, PAYOFFS, 40_000, 3)
    state, actions = trials.inputs["state"], trials.actions
    assert torch.equal(state[:, 1:], 1 + 2 * actions[:, :-1, 0] + actions[:, :-1, 1])
    table = lola.chances(first, second)
    for at in range(5):
        seen = state == at
        outcome = (2 * actions[..., 0] + actions[..., 1])[seen]
        found = outcome.bincount(minlength=4) / len(outcome)
        assert torch.allclose(found.double(), table[at], atol=4 * 0.5 / len(outcome) ** 0.5)
    assert torch.equal(trials.privileged["payoffs"], PAYOFFS[2 * actions[..., 0] + actions[..., 1]])


# ---- the estimator


@pytest.mark.parametrize("player", [0, 1])
def test_dice_is_the_exact_value_with_its_derivatives(player: int) -> None:
    """By enumerating the 256 plays of four steps: value, both gradients, and the mixed Hessian that LOLA rests on."""
    first, second = random_pair()
    gamma, steps = 0.7, 4
    trials, weight = enumerated(first, second, steps)
    mine = replace(trials, rewards=trials.privileged["payoffs"][..., player])
    ours = (weight * lola.dice(lola.logprobs(first, second, trials), mine, gamma)).sum()
    true = finite_value(first, second, gamma, steps)[player]
    assert ours.item() == pytest.approx(true.item(), abs=1e-12)
    slopes = [torch.autograd.grad(v, (first, second), create_graph=True) for v in (ours, true)]
    for found, wanted in zip(*slopes, strict=True):
        assert torch.allclose(found, wanted, atol=1e-12)
    for i in range(5):
        mixed = [torch.autograd.grad(slope[1][i], first, retain_graph=True)[0] for slope in slopes]
        assert torch.allclose(*mixed, atol=1e-10)
    assert mixed[0].abs().max() > 1e-3


def test_the_closed_form_is_the_limit_of_long_plays() -> None:
    first, second = random_pair()
    for player in (0, 1):
        values = lola.exact_values(first, second, PAYOFFS, 0.9), finite_value(first, second, 0.9, 400)
        slopes = [torch.autograd.grad(v[player], (first, second), create_graph=True) for v in values]
        assert values[0][player].item() == pytest.approx(values[1][player].item(), abs=1e-12)
        assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(*slopes, strict=True))


def test_sampled_gradients_agree_with_the_exact_value() -> None:
    """Loaded DiCE with its baseline and DiCE without: unbiased, and the baseline lowers the spread."""
    torch.manual_seed(0)
    first, second = random_pair()
    exact = torch.autograd.grad(lola.exact_values(first, second, PAYOFFS, 0.8)[0], (first, second))
    spread = {}
    for baseline in (False, True):
        found = []
        for _ in range(40):
            trials = lola.play(first, second, PAYOFFS, 256, 50)
            value = lola.surrogate(first, second, trials, 0, gamma=0.8, baseline=baseline)
            found.append(torch.cat(torch.autograd.grad(value, (first, second))))
        each = torch.stack(found)
        error = each.std(0) / len(each) ** 0.5
        assert ((each.mean(0) - torch.cat(exact)).abs() < 4 * error + 1e-3).all(), baseline
        spread[baseline] = each.std(0).mean().item()
    assert spread[True] < 0.7 * spread[False]


# ---- learning


@pytest.mark.parametrize(("lookahead", "low", "high"), [(1, -1.3, -0.95), (0, -2.05, -1.8)])
def test_exact_lookahead_finds_reciprocity_and_naive_learning_does_not(
    lookahead: int, low: float, high: float, tmp_path: Path, learning: Any
) -> None:
    options = ("args.estimator=exact", "args.max_steps=100", "args.logging_steps=50", "args.learning_rate=0.1")
    small = ("args.per_device_train_batch_size=4", "args.steps=10", f"seed={learning.seed(1)}")
    trainer = trainer_of(tmp_path, f"args.lookahead={lookahead}", *options, *small)
    trainer.train()
    found = 0.04 * lola.exact_values(trainer.model.one, trainer.model.two, PAYOFFS, 0.96)
    learning.check("value", found.mean().item(), above=low, below=high)


def test_the_players_move_by_their_own_losses_alone(tmp_path: Path) -> None:
    """Naive players: each loss's gradient is that of its own value at the present pair."""
    trainer = trainer_of(
        tmp_path, "args.lookahead=0", "args.estimator=exact", "args.max_steps=1", "args.learning_rate=0.2"
    )
    pair = [trainer.model.one.detach().double(), trainer.model.two.detach().double()]
    trainer.train()
    for player, name in enumerate(lola.PLAYERS):
        mine = pair[player].clone().requires_grad_()
        value = lola.exact_values(*(mine if i == player else p for i, p in enumerate(pair)), PAYOFFS, 0.96)[player]  # type: ignore[call-arg]
        slope = torch.autograd.grad(value, mine)[0]
        moved = getattr(trainer.model, name).detach() - pair[player]  # Adam's first step is the sign, times the rate
        assert torch.allclose(moved, 0.2 * slope.sign(), atol=1e-3)


def test_a_resumed_run_ends_bit_for_bit(tmp_path: Path) -> None:
    options = ("args.max_steps=4", "args.save_strategy=steps", "args.save_steps=2", "args.steps=10")
    whole = trainer_of(tmp_path / "whole", *options)
    whole.train()
    resumed = trainer_of(tmp_path / "resumed", *options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    pairs = zip(whole.model.parameters(), resumed.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    logged = [row for row in whole.state.log_history if "payoff/one" in row][-1]
    assert {"payoff/two", "value/joint", "regret/return", "cost/env_steps"} <= set(logged)


def test_mistakes_in_a_recipe_are_told(tmp_path: Path) -> None:
    for override, message in (
        ("problems.name=prisoner-dilemma", "did you mean 'prisoners-dilemma'"),
        ("args.lookahead=-1", "no negative"),
        ("args.gamma=1", "discount"),
        ("model=tiny", "neither model nor peft"),
    ):
        with pytest.raises(ConfigError, match=message):
            trainer_of(tmp_path, override)
