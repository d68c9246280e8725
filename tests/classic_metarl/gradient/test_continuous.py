"""Continuous adaptation: equation 9 by hand, chains of tasks, the score term, resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from classic_metarl.gradient.continuous import ContinuousConfig, ContinuousTrainer, chain_returns, effective_share
from classic_metarl.inner import estimators
from classic_metarl.inner.stage_credit import with_credit
from classic_metarl.inner.stages import stage, task_means
from classic_metarl.inner.task_policy import play
from classic_metarl.problems.paired import paired_tasks
from mrt.credit.grouping import group_mean
from mrt.errors import ConfigError

pytestmark = pytest.mark.training

LEGS = {"name": "fading-legs", "stages": 4, "each": 4, "steps": 6, "start": "any"}
QUICK: dict[str, Any] = {
    "per_device_train_batch_size": 3,
    "episodes": 4,
    "hidden": [4],
    "normalise": False,
    "max_steps": 4,
    "logging_steps": 1,
    "save_strategy": "no",
    "use_cpu": True,
    "disable_tqdm": True,
    "report_to": "none",
}


def build(folder: Path, tasks: dict[str, Any] = LEGS, **changed: Any) -> Any:
    args = ContinuousConfig(output_dir=str(folder), **{**QUICK, **changed})
    return ContinuousTrainer.of(paired_tasks(**tasks), args)


def moved(phi: dict[str, torch.Tensor], by: float) -> dict[str, torch.Tensor]:
    """Weights of three tasks somewhere else."""
    source = torch.Generator().manual_seed(3)
    return {n: v.detach() + by * torch.randn(3, *v.shape, generator=source) for n, v in phi.items()}


def played(trainer: Any, phi: dict[str, torch.Tensor]) -> Any:
    params = trainer.tasks.batch(5, range(3))
    played = play(trainer.tasks.env, trainer.learner.net, phi, params, 4)
    return with_credit(played, trainer.args.make_credit(), trainer.args.gamma, trainer.args.normalise)


@pytest.mark.parametrize("importance", ["episode", "step", "none"])
def test_equation_nine_by_hand(importance: str, tmp_path: Path) -> None:
    """phi = theta + alpha grad of sum over episodes and steps of w log pi_theta A over the steps, whoever acted."""
    trainer = build(tmp_path, importance=importance, most=1.5, inner_rates=[0.7], surrogate="naive")
    learner = trainer.learner
    batch = played(trainer, moved(learner.start(), 0.1))
    trials = batch.trials
    found = learner.adapt(moved(learner.start(), 5.0), 0, batch)  # the last phi does not matter but for what it did
    theta = {name: p.detach().clone().requires_grad_() for name, p in learner.net.named_parameters()}
    logprobs = learner.net.logprobs(theta, trials)
    apart = (logprobs - trials.logprobs).detach() * trials.mask
    weights = {"episode": apart.sum(1, keepdim=True).exp(), "step": apart.exp(), "none": torch.ones(12, 1)}[importance]
    assert importance == "none" or (weights > 1.5).any()
    each = (weights.clamp(max=1.5) * logprobs * batch.weights * trials.mask).sum(1)
    for task in range(3):
        rows = slice(4 * task, 4 * task + 4)
        value = each[rows].sum() / trials.mask[rows].sum()
        slopes = torch.autograd.grad(value, [*theta.values()], retain_graph=True)
        for (name, start), slope in zip(theta.items(), slopes, strict=True):
            assert torch.allclose(found[name][task], start + 0.7 * slope, atol=1e-6), name


def test_without_a_restart_it_goes_on_from_the_last_policy(tmp_path: Path) -> None:
    trainer = build(tmp_path, restart=False)
    learner = trainer.learner
    phi = moved(learner.start(), 0.1)
    trials = played(trainer, phi)
    on, anew = learner.adapt(phi, 1, trials), build(tmp_path).learner.adapt(phi, 1, trials)
    for name, value in phi.items():
        assert (on[name] - value).abs().max() < (anew[name] - value).abs().max()
    still = build(tmp_path, adapt=False).learner
    assert still.adapt(phi, 0, trials) is phi
    assert not still.theta.rates


def test_the_next_task_comes_after_so_many_steps(tmp_path: Path) -> None:
    trainer = build(tmp_path, chain=3, steps_each=2)
    params = {"pair": torch.tensor([3]), "stage": torch.tensor([1])}
    assert trainer.args.inner_steps == 4
    assert [int(trainer.stage_params(params, number)["stage"]) for number in range(5)] == [1, 1, 2, 2, 3]
    assert len(trainer.learner.theta.rates) == 2
    batch = trainer.collect_on([0, 1, 2])
    assert int(batch.trials.episodes.max()) == 5
    assert len(trainer.adapted(batch)) == 5


def test_the_score_of_what_adaptation_saw_is_in_the_loss(tmp_path: Path) -> None:
    """Equation 8: the loss with the term less the loss without is minus mean log pi_theta times standard returns."""
    trainer = build(tmp_path, sampling=1.0, first=False)
    with torch.no_grad():
        batch = trainer.collect_on([0, 1, 2])
    whole = trainer.losses(batch)["policy"]
    trainer.args.sampling = 0.0
    rest = trainer.losses(batch)["policy"]
    before, after = stage(batch, 0).trials, stage(batch, 1).trials
    earned = group_mean(after.returns, after.group)
    earned = (earned - earned.mean()) / (earned.std() + 1e-8)
    logprobs = trainer.learner.net.logprobs(trainer.learner.start(), before)
    each = (logprobs * before.mask).sum(1) * earned[before.group]
    assert (whole - rest).item() == pytest.approx(-task_means(each, before).mean().item(), abs=1e-5)
    theta = [*trainer.learner.net.parameters()]
    gap = torch.autograd.grad(whole - rest, theta)
    hand = torch.autograd.grad(-task_means(each, before).mean(), theta)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(gap, hand, strict=True))


def test_effective_shares_by_hand() -> None:
    ratio, group = torch.tensor([1.0, 1.0, 3.0, 1.0]), torch.tensor([0, 0, 1, 1])
    assert effective_share(ratio, group).tolist() == pytest.approx([1.0, 16 / 10 / 2])
    assert torch.equal(estimators.effective_sample_size(ratio, group), 2 * effective_share(ratio, group))


def test_whole_chains_are_played_the_same_way_twice(tmp_path: Path) -> None:
    trainer = build(tmp_path, {**LEGS, "start": "first"})
    state = torch.get_rng_state()
    returns = [chain_returns(trainer.learner, trainer.tasks, trainer.args, 5, seed=9) for _ in range(2)]
    assert returns[0].shape == (5, 4)
    assert torch.equal(*returns)
    assert torch.equal(state, torch.get_rng_state())
    with pytest.raises(ConfigError, match="split evenly"):
        chain_returns(trainer.learner, trainer.tasks, build(tmp_path, steps_each=3).args, 5, seed=9)


def test_a_resumed_run_ends_bit_for_bit(tmp_path: Path) -> None:
    options: dict[str, Any] = {"epochs": 3, "save_strategy": "steps", "save_steps": 2}
    whole = build(tmp_path / "whole", **options)
    whole.train()
    resumed = build(tmp_path / "resumed", **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    pairs = zip(whole.model.state_dict().values(), resumed.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    logged = [row for row in whole.state.log_history if "return/1" in row]
    assert {"chain/effective", "regret/stop", "regret/return", "cost/env_steps"} <= set(logged[0])


def test_mistakes_are_told(tmp_path: Path) -> None:
    for changed, message in (
        ({"chain": 1}, "at least 2"),
        ({"importance": "trajectory"}, "episode, step or none"),
        ({"most": 0.0}, "above 0"),
        ({"chain": 5}, "has 4 stages"),
    ):
        with pytest.raises(ConfigError, match=message):
            build(tmp_path, **changed)
    with pytest.raises(ConfigError, match="needs tasks that change"):
        build(tmp_path, {"name": "navigation-2d"})


def test_the_first_task_counts_where_it_is_asked_to(tmp_path: Path) -> None:
    """With `first` the loss is the mean of both tasks' surrogates; the ratios are 1 where the policy has just acted."""
    trainer = build(tmp_path, sampling=0.0, first=True)
    with torch.no_grad():
        batch = trainer.collect_on([0, 1, 2])
    stages = [stage(batch, number) for number in (0, 1)]
    both = [task_means((one.weights * one.trials.mask).sum(1), one.trials).mean() for one in stages]
    found = trainer.losses(batch)["policy"].item()
    assert found == pytest.approx(-sum(both).item() / 2, abs=1e-5)
    trainer.args.first = False
    assert trainer.losses(batch)["policy"].item() == pytest.approx(-both[1].item(), abs=1e-5)


def test_only_what_is_named_adapts(tmp_path: Path) -> None:
    """`adapted: [net]` leaves the standard deviation to the outer loop; a name that is none is told."""
    trainer = build(tmp_path, adapted=["net"], restart=False, importance="none", inner_rates=[0.7])
    learner = trainer.learner
    phi = learner.adapt(learner.start(), 0, played(trainer, moved(learner.start(), 0.1)))
    start = {name: p.expand_as(phi[name]) for name, p in learner.net.named_parameters()}
    assert torch.equal(phi["log_std"], start["log_std"])
    assert all(not torch.equal(phi[name], start[name]) for name in phi if name.startswith("net."))
    with pytest.raises(ConfigError, match="adapted"):
        build(tmp_path, adapted=["nett"]).learner.adapt(phi, 0, played(trainer, phi))
