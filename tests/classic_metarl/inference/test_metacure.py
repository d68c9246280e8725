"""MetaCURE: beliefs at every step, who acts when, what the explorer is paid, which gradient reaches what, resume."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from classic_metarl.inference.metacure import MetaCUREPolicy
from classic_metarl.inference.pearl import transitions
from classic_metarl.trainers.beliefs import TASK
from classic_metarl.trainers.context_encoders import ENCODERS
from mrt.control.agent import Entrant
from mrt.control.envs import make_tasks
from mrt.control.loading import load_control_policy
from mrt.control.oracles.beliefs import task_features
from mrt.control.rollout import rollout
from mrt.errors import ConfigError
from mrt.optim.learners import accumulate_own
from mrt.runs.recipe import import_trainer, load_recipe
from mrt.trials import Trials
from tests.support.compare import assert_same_run, interrupted
from tests.support.policies import randomised

pytestmark = pytest.mark.training

RECIPE = "inference/metacure-sparse"
QUICK = ["args.use_cpu=true", "args.disable_tqdm=true", "args.report_to=none", "args.logging_steps=1",
         "tasks.steps=3", "tasks.episodes=4", "policy.explore_episodes=2", "args.per_device_train_batch_size=4",
         "args.random_steps=48", "args.train_tasks=6", "args.meta_batch=3", "args.batch_size=8",
         "args.explorer_batch=5", "policy.hidden_size=8", "policy.encoder_size=8", "policy.latent=2",
         "args.updates_per_step=2", "args.updates_per_env_step=0.2", "args.max_steps=3"]  # fmt: skip
SMALL = {"hidden_size": 8, "latent": 2, "encoder_size": 8, "encoder_layers": 2, "task_size": 2}


def build(folder: Path, *changed: str) -> Any:
    recipe = load_recipe(RECIPE, [*QUICK, "args.save_strategy=no", *changed])
    return import_trainer(recipe.trainer).from_recipe(recipe, folder)


def filled(folder: Path, *changed: str) -> tuple[Any, dict[str, Any]]:
    """A trainer in double precision whose networks and targets all differ, and a batch in which goals are found."""
    trainer = build(folder, *changed)
    trainer.numbers = lambda indices, number: [0, 1, 2, 3]
    trainer.tasks.env.radius = 2.0  # everywhere is near the goal: rewards are not all 0
    for _ in range(2):
        trainer._play([0, 1, 2, 3], 0)
    batch = trainer.sample()
    randomised(trainer.policy.double(), seed=1)
    return trainer, {name: _double(value) for name, value in batch.items()}


def _double(value: Any) -> Any:
    if isinstance(value, Trials):
        inputs, known = ({k: v.double() for k, v in part.items()} for part in (value.inputs, value.privileged))
        new = {"actions": value.actions.double(), "rewards": value.rewards.double()}
        return dataclasses.replace(value, inputs=inputs, privileged=known, **new)
    return value.double() if value.is_floating_point() else value


@pytest.mark.parametrize("encoder", sorted(ENCODERS))
def test_the_belief_before_a_step_is_that_of_the_steps_before(encoder: str) -> None:
    torch.manual_seed(0)
    net = ENCODERS[encoder](5, 2, 8, 2)
    x, mask = torch.randn(3, 7, 5), torch.rand(3, 7) < 0.6
    found = net.before(x, mask)
    for t in range(7):
        torch.testing.assert_close(found.mean[:, t], net(x[:, : t + 1], _first(mask, t)).mean)
        torch.testing.assert_close(found.log_variance[:, t], net(x[:, : t + 1], _first(mask, t)).log_variance)


def _first(mask: Tensor, count: int) -> Tensor:
    return mask[:, : count + 1] & (torch.arange(count + 1) < count)


@torch.no_grad()
def test_the_explorer_acts_on_its_belief_and_the_exploiter_on_z() -> None:
    """Step by step in use, at once in training: the same beliefs, and the same actions."""
    tasks = make_tasks("sparse-semicircle", episodes=4, steps=3, radius=2.0)
    policy = randomised(MetaCUREPolicy.for_spec(tasks.env.spec, explore_episodes=2, **SMALL))
    trials = rollout(tasks.env, Entrant(policy, True, seed=3), tasks.batch(0, range(20)), seed=1)
    observation = trials.inputs["observation"]
    belief = policy.encoder.before(transitions(observation, trials.actions, trials.rewards), trials.mask)
    mode = policy.distribution.mode
    explored = mode(policy.explorer.actor(torch.cat([observation, *belief], -1)))
    exploited = mode(policy.actor(torch.cat([observation, trials.inputs["z"]], -1)))
    first = trials.mask & (trials.episode < 2)
    torch.testing.assert_close(trials.actions[first], explored[first], atol=1e-4, rtol=1e-4)
    later = trials.mask & (trials.episode >= 2)
    torch.testing.assert_close(trials.actions[later], exploited[later])
    assert int(first.sum()) == int(later.sum()) == 20 * 6


def handed_over(trainer: Any, trials: Trials) -> dict[str, Tensor]:
    """The transitions that the explorer learns from."""
    handed: list[dict[str, Tensor]] = []
    trainer.sac_losses = lambda policy, batch, prefix: handed.append(batch) or {}
    trainer.explorer_losses(trials)
    return handed[0]


def test_the_explorer_is_paid_for_what_the_task_would_have_told(tmp_path: Path) -> None:
    """Step by step: what was earned and eta times the difference of two squared errors; and what follows it."""
    trainer, batch = filled(tmp_path, "args.intrinsic=3")
    trials, policy = batch["trials"], trainer.policy
    own = handed_over(trainer, trials)
    x = transitions(trials.inputs["observation"], trials.actions, trials.rewards)
    at = [
        (b, t) for b in range(5) for t in range(trials.mask.shape[1]) if trials.mask[b, t] and trials.episode[b, t] < 2
    ]
    assert len(at) == len(own["reward"]) == 5 * 6
    for i, (b, t) in enumerate(at):
        counted = trials.mask[b : b + 1] & (torch.arange(x.shape[1]) < t)
        seen = torch.cat(
            [trials.inputs["observation"][b, t], *(part[0] for part in policy.encoder(x[b : b + 1], counted))]
        )
        torch.testing.assert_close(own["observation"][i], seen)
        said = policy.predictions(seen, trials.actions[b, t], trials.privileged[TASK][b, t])
        r, (on_belief, on_task) = float(trials.rewards[b, t]), (float(one.detach()) for one in said)
        gain = (on_belief - r) ** 2 - (on_task - r) ** 2
        assert float(own["reward"][i]) == pytest.approx(r + 3 * gain, rel=1e-6)
        last = i + 1 == len(at) or at[i + 1][0] != b
        assert bool(own["terminated"][i]) == last, "only the end of the exploration ends it"
        if not last:
            torch.testing.assert_close(own["next_observation"][i], own["observation"][i + 1])


def test_information_gain_is_the_variance_that_the_task_explains(tmp_path: Path) -> None:
    """Rewards of 0 and 1 with chances 1/4 and 3/4 that the task tells: predicted by 3/4 the gain is 3/16 on average;
    noise that nobody can predict pays nothing.
    """
    trainer, batch = filled(tmp_path)
    trials = batch["trials"]
    drawn = (torch.rand(trials.mask.shape, generator=torch.Generator().manual_seed(0)) < 0.75).double()
    trials = dataclasses.replace(trials, rewards=drawn)
    for known, expected in ((trials.rewards, 3 / 16), (torch.full_like(trials.rewards, 0.75), 0.0)):
        trainer.policy.predictions = lambda seen, action, task, known=known: (torch.full_like(known, 0.75), known)
        trainer.args.intrinsic = 1.0
        own = handed_over(trainer, trials)
        acted = trials.mask & (trials.episode < 2)
        gain = float((own["reward"] - drawn[acted]).mean())
        share = float(drawn[acted].mean())
        by_hand = share * 0.25**2 + (1 - share) * 0.75**2  # 3/16 at a share of 3/4
        assert gain == pytest.approx(by_hand if expected else 0.0, abs=1e-9)
        assert gain == pytest.approx(expected, abs=0.12)


def reached(loss: Tensor, part: Any) -> bool:
    parameters = [part] if isinstance(part, Tensor) else [p for p in part.parameters() if p.requires_grad]
    grads = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return any(grad is not None and float(grad.abs().max()) > 0 for grad in grads)


def test_every_loss_moves_what_it_should_and_nothing_else(tmp_path: Path) -> None:
    trainer, batch = filled(tmp_path)
    policy, losses = trainer.policy, trainer.losses(batch)
    encoder_by = {name for name, loss in losses.items() if reached(loss, policy.encoder)}
    assert encoder_by == {"critics"}
    predictors = torch.nn.ModuleList([policy.on_belief, policy.on_task])
    assert {name for name, loss in losses.items() if reached(loss, predictors)} == {"predictors"}
    assert {name for name, loss in losses.items() if reached(loss, policy.explorer.actor)} == {"explorer_actor"}
    learners = trainer.learners()
    assert learners.keys() == losses.keys()
    accumulate_own(losses, learners, lambda grad: grad)
    owned = {id(p) for learner in learners.values() for p in learner.parameters()}
    frozen = {id(p) for part in (policy.targets, policy.explorer.targets) for p in part.parameters()}
    assert owned == {id(p) for p in policy.parameters()} - frozen
    assert all(p.grad is None for part in (policy.targets, policy.explorer.targets) for p in part.parameters())


def test_contexts_end_anywhere_before_the_last_episode_and_tasks_are_told(tmp_path: Path) -> None:
    trainer, batch = filled(tmp_path)
    counts = {int(n) for _ in range(60) for n in trainer.shown(batch["trials"]).sum(1)}
    assert counts == set(range(1, 10))
    trials = trainer.replay.rows(6)
    params = trainer.tasks.batch(trainer.args.seed, trials.task.tolist())
    assert torch.equal(trials.privileged[TASK][:, 0], task_features(trainer.tasks.env, params))
    assert TASK not in trials.inputs


def test_a_resumed_run_equals_one_left_alone(tmp_path: Path) -> None:
    changed = ["args.save_strategy=steps", "args.save_steps=2", "args.auto_resume=true", "args.max_steps=5"]
    alone = build(tmp_path / "alone", *changed)
    alone.train()
    assert_same_run(alone, interrupted(lambda: build(tmp_path / "parts", *changed), [3]))


def test_a_policy_comes_back_from_disk(tmp_path: Path) -> None:
    policy = MetaCUREPolicy.for_spec(make_tasks("sparse-semicircle").env.spec, explore_episodes=1, **SMALL)
    policy.save_pretrained(tmp_path)
    back = load_control_policy(tmp_path, MetaCUREPolicy)
    assert back.config.explore_episodes == 1
    assert all(torch.equal(v, back.state_dict()[name]) for name, v in policy.state_dict().items())


def test_mistakes_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="explore_episodes=4 of 4 episodes"):
        build(tmp_path, "policy.explore_episodes=4")
    for wrong in ("intrinsic=-1", "explorer_batch=0"):
        with pytest.raises(ConfigError, match=r"intrinsic=.* must not be negative"):
            build(tmp_path, f"args.{wrong}")
