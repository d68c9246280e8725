"""`TrialTrainer`: it learns a toy between its floor and its ceiling, and says what goes wrong."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mrt.credit.table import make_credit
from mrt.errors import ConfigError, MRTError
from mrt.optim.learners import CompositeOptimizer, Learner, accumulate_own
from mrt.trainer import TrialConfig, TrialTrainer
from mrt.training.collection import Batch
from mrt.training.records import check_groups, episode_returns, trial_metrics
from mrt.trials import Trials
from tests.support import bandit
from tests.support.compare import interrupted

pytestmark = pytest.mark.training


@cache
def bayes_optimum(a: int, b: int, c: int, d: int, left: int) -> float:
    """Largest expected reward of `left` pulls when the arms have posteriors Beta(a, b) and Beta(c, d), by recursion."""
    if left == 0:
        return 0.0
    first, second = a / (a + b), c / (c + d)
    return max(
        first * (1 + bayes_optimum(a + 1, b, c, d, left - 1)) + (1 - first) * bayes_optimum(a, b + 1, c, d, left - 1),
        second * (1 + bayes_optimum(a, b, c + 1, d, left - 1)) + (1 - second) * bayes_optimum(a, b, c, d + 1, left - 1),
    )


def test_the_bandit_is_learnt(tmp_path: Path, learning: Any) -> None:
    """Random play earns 5.0 of 10, the Bayes-optimal policy 6.02; on unseen tasks the learner stands between them."""
    # With larger steps one run in three ends on a constant arm, whatever the batch.
    options: dict[str, Any] = {"max_steps": 200, "per_device_train_batch_size": 16, "learning_rate": 0.005}
    options |= {"save_strategy": "no", "logging_steps": 50, "seed": learning.seed(42)}
    trainer = bandit.build(tmp_path, **options)
    trainer.train()
    tasks = [bandit.Bandits().sample(7, index) for index in range(1000)]
    with torch.no_grad():
        returns = trainer.collect(tasks).returns.view(len(tasks), -1).mean(1)
    error = returns.std() / math.sqrt(len(tasks))
    ceiling = bayes_optimum(1, 1, 1, 1, bandit.PULLS)
    assert abs(ceiling - 6.0217857) < 1e-6
    learning.check("return", returns.mean(), above=5.4, below=ceiling + 3 * error)
    regret = [row["regret/return"] for row in trainer.state.log_history if "regret/return" in row]
    learning.check("regret at first", regret[0], above=0.75, below=1.1)
    learning.check("regret at last", regret[-1], below=0.75)


def test_tasks_are_new_in_every_step_or_go_round(tmp_path: Path) -> None:
    def keys(**options: Any) -> list[int]:
        trainer = bandit.build(tmp_path / str(options), max_steps=3, save_strategy="no", **options)
        trainer.train()
        rows = (tmp_path / str(options) / "trials.jsonl").read_text().splitlines()
        return [int(row.split('"42:')[1].split('"')[0]) for row in rows[:: bandit.TRIALS]]

    assert keys() == list(range(24))
    around = keys(num_tasks=16)
    assert sorted(around[:16]) == list(range(16))
    assert around[:16] != list(range(16))
    with pytest.raises(ConfigError, match="num_tasks=0 draws new tasks in every step and needs max_steps"):
        TrialConfig(output_dir=str(tmp_path))


def trials_of(**changed: Any) -> Trials:
    """Two rows of one group: episodes of two steps, the second row one episode only."""
    fields: dict[str, Any] = {
        "actions": torch.zeros(2, 4, dtype=torch.long),
        "rewards": torch.tensor([[1.0, 0.0, 1.0, 1.0], [0.0, 1.0, 5.0, 5.0]]),
        "mask": torch.tensor([[True] * 4, [True, True, False, False]]),
        "episode": torch.tensor([[0, 0, 1, 1], [0, 0, -1, -1]]),
        "group": torch.zeros(2, dtype=torch.long),
    }
    return Trials(**fields | changed)


def test_metrics_by_hand() -> None:
    plain = trials_of()
    assert trial_metrics(plain) == {"reward": (3 + 11) / 2}
    returns = episode_returns(plain)
    assert returns[0].tolist() == [1, 2]
    assert returns[1, 0] == 1
    assert returns[1, 1].isnan()
    stops = torch.tensor([[0.25, 0.5, 0.25], [0.5, 0.75, torch.nan]])
    known = trials_of(stop_values=stops, privileged={"oracle": torch.tensor([1.0, 3.0])})
    metrics = trial_metrics(known)
    assert metrics["progress/mean"] == pytest.approx((0.25 - 0.25 + 0.25) / 3)
    assert metrics["progress/negative_rate"] == pytest.approx(1 / 3)
    assert metrics["regret/stop"] == pytest.approx((0.5 + 0.75 + 2.25) / 2)  # gaps after episodes, J_0 left out
    assert metrics["regret/return"] == pytest.approx((0 - 1 + 2) / 2)
    floor = trials_of(privileged={"oracle": torch.tensor([2.0, 2.0]), "floor": torch.tensor([0.0, 1.0])})
    assert trial_metrics(floor)["regret/return"] == pytest.approx((1 + 0 + 1) / (2 + 2 + 1))
    none = trials_of(scored=torch.tensor([True, False]))
    assert trial_metrics(none)["reward"] == 3, "an unscorable row is left out"


def test_the_default_loss_by_hand(tmp_path: Path) -> None:
    class Fixed(bandit.BanditTrainer):
        def logprobs(self, trials: Trials) -> Tensor:
            return torch.tensor([[-1.0, -2.0, -3.0, -4.0], [-5.0, -6.0, -7.0, -8.0]])

    trainer = bandit.build(tmp_path, Fixed)
    weights = torch.tensor([[1.0, 0.5, 0.0, -1.0], [2.0, 0.0, 9.0, 9.0]])
    loss = trainer.losses(Batch(trials_of(), weights))
    assert loss == {"policy": pytest.approx((1 * 1 + 0.5 * 2 - 1 * 4 + 2 * 5) / 6)}


def test_a_credit_is_told_how_far_training_has_come(tmp_path: Path) -> None:
    trainer = bandit.build(tmp_path)
    trainer.credit = make_credit("progress", alpha=1.0, alpha_end=0.0, scale="none")
    stops = torch.tensor([[0.0, 0.5, 0.5], [0.0, 0.0, torch.nan]])
    trials = trials_of(stop_values=stops, prover=torch.ones(2, dtype=torch.int8))
    trainer.state.max_steps, trainer.state.global_step = 10, 5
    weights = trainer.weigh(
        trials
    )  # returns 3 and 11, mean 7; alpha is 0.5 half way; progress 0.5 in episode 0 of row 0
    assert weights[0].tolist() == [-3.75, -3.75, -4, -4]
    trainer.credit = None
    with pytest.raises(ConfigError, match="was given no credit"):
        trainer.weigh(trials)


def test_groups_are_whole(tmp_path: Path) -> None:
    check_groups(torch.tensor([4, 4, 9, 9]), 2)
    with pytest.raises(ConfigError, match=r"group 9 has 2 rows .* instead of 4: .* 6 rows are \[1, 2, 3, 6\]"):
        check_groups(torch.tensor([4, 4, 4, 4, 9, 9]), 4)
    with pytest.raises(ConfigError, match="group 0 has 8 rows in this process instead of 3"):
        bandit.build(tmp_path, group_size=3).train()


class Evolution(bandit.BanditTrainer):
    """No loss: moves the parameters by itself, now and then to nowhere."""

    bad_steps: tuple[int, ...] = ()

    def update(self, batch: Batch) -> bool:
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.add_(torch.nan if self.state.global_step in self.bad_steps else 1.0)
        return True


def test_update_sets_the_parameters_and_the_optimiser_leaves_them(tmp_path: Path) -> None:
    trainer = bandit.build(tmp_path, Evolution, max_steps=4, save_steps=2, weight_decay=0.5)
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    trainer.bad_steps = (1,)
    trainer.train()
    for old, new in zip(before, trainer.model.parameters(), strict=True):
        assert torch.allclose(new, old + 3), "three good updates, one put back, no decay"
    assert trainer._guard().skipped == 1
    assert trainer.optimizer.state_dict()["state"] == {}
    trainer = bandit.build(tmp_path / "bad", Evolution, max_skipped_steps=2)
    trainer.bad_steps = (0, 1)
    with pytest.raises(MRTError, match="2 consecutive updates"):
        trainer.train()


def test_what_a_system_has_to_define_is_said(tmp_path: Path) -> None:
    class Nothing(TrialTrainer):
        pass

    with pytest.raises(NotImplementedError, match=r"Nothing has to define collect\(tasks\)"):
        bandit.build(tmp_path, Nothing).train()
    assert Nothing.args_class() is TrialConfig


def two_layers() -> tuple[nn.Linear, nn.Linear, CompositeOptimizer]:
    torch.manual_seed(0)
    actor, critic = nn.Linear(2, 2), nn.Linear(2, 1)
    learners = {
        "actor": Learner(torch.optim.Adam(actor.parameters(), lr=0.1)),
        "critic": Learner(torch.optim.SGD(critic.parameters(), lr=0.1), max_grad_norm=0.5),
    }
    return actor, critic, CompositeOptimizer(learners)


def test_each_loss_moves_its_own_learner_only_and_only_when_due() -> None:
    actor, critic, optimizer = two_layers()
    x = torch.ones(3, 2)
    through = critic(actor(x)).mean()  # the actor's loss passes through the critic
    accumulate_own({"actor": -through, "critic": through * 0}, optimizer.learners, lambda grad: grad)
    assert all(bool((parameter.grad == 0).all()) for parameter in critic.parameters())
    expected = torch.autograd.grad(-critic(actor(x)).mean(), list(actor.parameters()))
    assert all(torch.equal(p.grad, g) for p, g in zip(actor.parameters(), expected, strict=True))
    before = critic.weight.clone(), actor.weight.clone()
    critic.weight.grad.fill_(1.0)
    optimizer.due = {"actor"}
    optimizer.step()
    assert torch.equal(critic.weight, before[0])
    assert not torch.equal(actor.weight, before[1])
    assert optimizer.due == set()
    with pytest.raises(ConfigError, match=r"losses for \['q'\], but the learners are \['actor', 'critic'\]"):
        accumulate_own({"q": through}, optimizer.learners, lambda grad: grad)


def test_each_learner_is_clipped_by_its_own_norm() -> None:
    actor, critic, optimizer = two_layers()
    for parameter in (*actor.parameters(), *critic.parameters()):
        parameter.grad = torch.full_like(parameter, 2.0)
    norm = optimizer.clip(1.0)
    assert norm == pytest.approx(math.sqrt(4 * 9))  # nine entries of 2
    assert math.sqrt(sum(float(p.grad.square().sum()) for p in actor.parameters())) == pytest.approx(1.0, abs=1e-5)
    assert math.sqrt(sum(float(p.grad.square().sum()) for p in critic.parameters())) == pytest.approx(0.5, abs=1e-5)


def test_a_composite_is_an_optimiser_to_schedulers_and_checkpoints() -> None:
    actor, critic, optimizer = two_layers()
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    critic(actor(torch.ones(1, 2))).sum().backward()
    optimizer.due = {"actor", "critic"}
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())  # gives every part new groups: the schedule has to follow
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.05]
    assert len(optimizer.state) == 2, "Adam keeps moments of two tensors, plain SGD none"
    optimizer.zero_grad()
    assert actor.weight.grad is None
    with pytest.raises(ConfigError, match=r"the state is of the learners \['actor'\]"):
        optimizer.load_state_dict({"actor": {}})
    shared = Learner(torch.optim.SGD(actor.parameters(), lr=0.1))
    with pytest.raises(ConfigError, match="learners 'a' and 'b' share a parameter"):
        CompositeOptimizer({"a": shared, "b": shared})


@pytest.mark.parametrize("flag", ["is_fsdp_enabled", "is_deepspeed_enabled"])
def test_several_learners_are_refused_where_one_optimiser_is_sharded(flag: str, tmp_path: Path) -> None:
    trainer = bandit.build(tmp_path, bandit.TwoLearners)
    setattr(trainer, flag, True)
    with pytest.raises(ConfigError, match="several learners cannot train under FSDP, DeepSpeed or fp16"):
        trainer.create_optimizer()


class Counting(bandit.BanditTrainer):
    """Remembers which tasks each update met."""

    def next_batch(self, indices: Any) -> Batch:
        self.__dict__.setdefault("met", []).append(list(indices))
        return super().next_batch(indices)


def test_several_updates_in_one_step_of_the_outer_loop(tmp_path: Path) -> None:
    """Three steps of four updates are twelve updates: the same tasks, weights and costs as twelve steps of one."""
    many = bandit.build(tmp_path / "many", Counting, max_steps=3, updates_per_step=4, logging_steps=1)
    many.train()
    single = bandit.build(tmp_path / "single", Counting, max_steps=12)
    single.train()
    assert many.met == single.met
    assert many.state.global_step == 3
    for part in ("model", "optimizer"):
        states = [bandit.digest_of(getattr(one, part).state_dict()) for one in (many, single)]
        assert states[0] == states[1], part
    assert many.cost.total == single.cost.total
    assert [row["cost/env_steps"] for row in many.state.log_history if "cost/env_steps" in row] == [
        step * 4 * 8 * bandit.TRIALS * bandit.PULLS for step in (1, 2, 3)
    ]


def test_an_update_inside_a_step_that_is_not_finite_is_dropped(tmp_path: Path) -> None:
    class Spoilt(Counting):
        def losses(self, batch: Batch) -> dict[str, Tensor]:
            scale = torch.nan if len(self.met) == 6 else 1.0
            return {name: loss * scale for name, loss in super().losses(batch).items()}

    trainer = bandit.build(tmp_path, Spoilt, max_steps=3, updates_per_step=4)
    trainer.train()
    assert trainer._guard().skipped == 1
    assert all(bool(torch.isfinite(parameter).all()) for parameter in trainer.model.parameters())
    assert len(trainer.met) == 12


def test_several_updates_a_step_resume_exactly(tmp_path: Path) -> None:
    options = {"max_steps": 6, "save_steps": 2, "updates_per_step": 3}
    whole = bandit.build(tmp_path / "whole", **options)
    whole.train()
    parts = interrupted(lambda: bandit.build(tmp_path / "parts", **options), (3, 5))
    assert bandit.digest(parts) == bandit.digest(whole)


def test_several_updates_a_step_have_limits(tmp_path: Path) -> None:
    for options, message in (
        ({"updates_per_step": 0}, "updates_per_step=0 must be at least 1"),
        ({"updates_per_step": 2, "num_tasks": 5}, "num_tasks=0 and gradient_accumulation_steps=1"),
    ):
        with pytest.raises(ConfigError, match=message):
            bandit.build(tmp_path, **options)
