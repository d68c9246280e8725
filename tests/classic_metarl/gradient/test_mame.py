"""MAME: what an explored step was worth, the explorer's gradient, who is moved by what, who plays when, resume."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from classic_metarl.gradient.mame import COUNTED, ExplorerAgent, MAMETrainer, counted, n_step, usefulness
from classic_metarl.inner import estimators
from classic_metarl.inner.gradient_steps import parameters_of
from classic_metarl.inner.stages import stage, task_means
from classic_metarl.trainers.return_curves import adaptation_returns
from mrt.control.interaction import Interaction
from mrt.errors import ConfigError
from mrt.optim.learners import accumulate_own
from mrt.runs.recipe import load_recipe
from mrt.training.collection import Batch
from mrt.trials import Trials
from tests.support import bandit
from tests.support.compare import assert_same_files, interrupted
from tests.support.policies import randomised

pytestmark = pytest.mark.training

RECIPE = "gradient/rl/mame"
QUICK = ["args.disable_tqdm=true", "args.report_to=none", "args.logging_steps=1", "args.curve_tasks=0",
         "args.per_device_train_batch_size=3", "args.episodes=4", "args.hidden=[6]", "args.latent=2", "args.horizon=3",
         "args.max_steps=3"]  # fmt: skip
ARMS = "tasks={name: dependent-bandit, kind: easy, pulls: 4}"


def build(folder: Path, *changed: str) -> MAMETrainer:
    short = [] if any(one.startswith("tasks=") for one in changed) else ["tasks.steps=6"]
    recipe = load_recipe(RECIPE, [*QUICK, *short, "args.save_strategy=no", *changed])
    return MAMETrainer.from_recipe(recipe, folder)


def collected(folder: Path, *changed: str) -> tuple[MAMETrainer, Batch]:
    """A trainer in double precision with weights of its own, and a collection of its."""
    trainer = build(folder, *changed)
    randomised(trainer.learner.double(), seed=1)
    trainer.learner.to(torch.float32)
    batch = trainer.next_batch(range(3))
    trainer.learner.double()
    trials = batch.trials
    new: dict[str, Any] = {name: getattr(trials, name).double() for name in ("rewards", "logprobs")}
    if trials.actions.is_floating_point():
        new["actions"] = trials.actions.double()
    inputs = {name: value.double() for name, value in trials.inputs.items()}
    trials = dataclasses.replace(trials, **new, inputs=inputs)
    return trainer, Batch(trials, batch.weights.double())


def outcome(trainer: MAMETrainer, batch: Batch, counts: Tensor) -> Tensor:
    """J after the gradient step in which the examples count `counts` (B, T) times."""
    first, last = stage(batch, 0), stage(batch, 1)
    inputs = {**first.trials.inputs, COUNTED: counts}
    first = dataclasses.replace(first, trials=dataclasses.replace(first.trials, inputs=inputs))
    phi, net = trainer.learner.adapt(trainer.learner.start(), 0, first), trainer.learner.net
    each = estimators.clipped(net.logprobs(phi, last.trials), last.weights, last.trials, trainer.args.clip)
    return task_means(each, last.trials).mean()


def shares(trainer: MAMETrainer, batch: Batch) -> tuple[Trials, Tensor]:
    """The explored episodes, and d J / d w_t."""
    first = counted(stage(batch, 0))
    counts = first.trials.inputs[COUNTED]
    (share,) = torch.autograd.grad(outcome(trainer, batch, counts), [counts])
    return first.trials, share


def test_returns_of_n_steps_by_hand() -> None:
    rewards = torch.tensor([[1.0, 2.0, 4.0, 8.0, 0.0], [1.0, 1.0, 0.0, 0.0, 0.0]])
    mask = torch.tensor([[True] * 4 + [False], [True] * 2 + [False] * 3])
    trials = Trials(torch.zeros(2, 5), rewards, mask, torch.where(mask, 0, -1), torch.arange(2))
    assert n_step(trials, 2, 0.5)[0].tolist() == pytest.approx([2.0, 4.0, 8.0, 8.0, 0.0])
    assert n_step(trials, 2, 0.5)[1].tolist() == pytest.approx([1.5, 1.0, 0.0, 0.0, 0.0])
    assert n_step(trials, 9, 1.0)[0].tolist() == pytest.approx([15.0, 14.0, 12.0, 8.0, 0.0])


def test_usefulness_stands_where_the_example_is_complete() -> None:
    mask = torch.tensor([[True] * 4 + [False]])
    trials = Trials(torch.zeros(1, 5), torch.zeros(1, 5), mask, torch.where(mask, 0, -1), torch.arange(1))
    share = torch.tensor([[1.0, 2.0, 4.0, 8.0, 99.0]])
    assert usefulness(share, trials, 1).tolist() == [[1.0, 2.0, 4.0, 8.0, 0.0]]
    assert usefulness(share, trials, 3).tolist() == [[0.0, 0.0, 1.0, 14.0, 0.0]]


def test_a_step_is_worth_what_counting_it_more_would_change(tmp_path: Path) -> None:
    trainer, batch = collected(tmp_path)
    trials, share = shares(trainer, batch)
    assert float(share[~trials.mask].abs().max()) == 0
    ones, size = torch.ones_like(share), 1e-5
    order = share.abs().flatten().argsort(descending=True)[:4].tolist()
    for at in order:
        up, down = ones.clone(), ones.clone()
        up.view(-1)[at] += size
        down.view(-1)[at] -= size
        slope = (outcome(trainer, batch, up) - outcome(trainer, batch, down)) / (2 * size)
        assert float(slope.detach()) == pytest.approx(float(share.view(-1)[at]), rel=1e-4)


@pytest.mark.parametrize("horizon", [1, 3])
def test_the_explorers_gradient_is_what_dices_box_passes_on(horizon: int, tmp_path: Path) -> None:
    """exp(log mu - sg(log mu)) of all actions that an example hangs on, put on w_t and differentiated as it stands."""
    trainer, batch = collected(tmp_path, f"args.horizon={horizon}")
    explorer = trainer.learner.explorer
    trials, share = shares(trainer, batch)
    logprobs = torch.where(trials.mask, explorer.logprobs(parameters_of(explorer), trials), 0.0)
    total = logprobs.cumsum(1)
    place = (torch.arange(total.shape[1]) + horizon - 1).clamp(max=total.shape[1] - 1)
    box = (total[:, place] - total[:, place].detach()).exp()
    parameters = list(explorer.parameters())
    expected = torch.autograd.grad(outcome(trainer, batch, box), parameters, retain_graph=True)
    to_go = usefulness(share, trials, horizon).flip(1).cumsum(1).flip(1)
    found = torch.autograd.grad((logprobs * to_go).sum(), parameters)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-12)
    assert max(float(one.abs().max()) for one in found) > 1e-8


def reached(loss: Tensor, part: nn.Module) -> bool:
    grads = torch.autograd.grad(loss, list(part.parameters()), retain_graph=True, allow_unused=True)
    return any(grad is not None and float(grad.abs().max()) > 0 for grad in grads)


def test_every_loss_moves_what_it_should_and_nothing_else(tmp_path: Path) -> None:
    trainer, batch = collected(tmp_path, "args.model_weight=0")
    learner, losses = trainer.learner, trainer.losses(batch)
    parts = {"net": learner.net.net, "model": learner.net.model, "rates": learner.rates, "explorer": learner.explorer}
    assert {name for name, part in parts.items() if reached(losses["policy"], part)} == {"net", "model", "rates"}
    assert {name for name, part in parts.items() if reached(losses["explorer"], part)} == {"explorer"}
    (z,) = torch.autograd.grad(losses["policy"], [learner.net.z], retain_graph=True)
    assert float(z.abs().max()) > 0
    learners = trainer.learners()
    accumulate_own(losses, learners, lambda grad: grad)
    owned = {id(p) for one in learners.values() for p in one.parameters()}
    assert owned == {id(p) for p in learner.parameters()}


def test_only_the_latent_adapts_and_the_explorer_plays_until_then(tmp_path: Path) -> None:
    trainer, batch = collected(tmp_path)
    learner = trainer.learner
    before, after = learner.start(), trainer.learner.adapt(learner.start(), 0, stage(batch, 0))
    moved = {name for name, value in after.items() if not torch.equal(value, before[name].expand_as(value))}
    assert moved == {"z"}
    first, last = stage(batch, 0).trials, stage(batch, 1).trials
    said = learner.explorer.logprobs(parameters_of(learner.explorer), first)
    torch.testing.assert_close(said[first.mask], first.logprobs[first.mask], atol=1e-4, rtol=1e-4)
    said = learner.net.logprobs(after, last)
    torch.testing.assert_close(said[last.mask], last.logprobs[last.mask], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("tasks", [ARMS, "tasks={name: four-corners, steps: 4, episodes: 1}"], ids=["arms", "corners"])
def test_an_agent_explores_for_as_many_episodes_as_in_training(tasks: str, tmp_path: Path) -> None:
    trainer = build(tmp_path, tasks, "args.episodes=2")
    randomised(trainer.learner, seed=1)
    learner, env = trainer.learner, trainer.tasks.env.with_spec(episodes=4)
    agent = ExplorerAgent(learner, env.spec, episodes=2, credit=trainer.args.make_credit(), gamma=0.9, normalise=True)
    params = trainer.tasks.batch(1, range(5))
    for moment in Interaction(env, agent, params, seed=1):
        observation = {"observation": moment.seen["observation"][:, None]}
        logits = {
            True: learner.explorer.of_tasks(parameters_of(learner.explorer), observation),
            False: learner.net.of_tasks(moment.choice.state["phi"], observation),
        }
        for row in moment.acting.nonzero()[:, 0].tolist():
            exploring = int(moment.episode[row]) < 2
            expected = learner.net.distribution.logprob(logits[exploring][row, 0], moment.choice.actions[row])
            assert float(moment.choice.logprobs[row]) == pytest.approx(float(expected.detach()), abs=1e-4)
    returns = adaptation_returns(learner, trainer.tasks.test, trainer.args, count=3, steps=2, episodes=2)
    assert returns.shape == (3, 3)


def test_without_an_explorer_the_policy_explores(tmp_path: Path) -> None:
    trainer, batch = collected(tmp_path, "args.explorer=false")
    assert set(trainer.losses(batch)) == set(trainer.learners()) == {"policy"}
    assert trainer.learner.player(trainer.learner.start(), 0)[0] is trainer.learner.net


def test_a_killed_run_goes_on_exactly(tmp_path: Path) -> None:
    """Checkpoints fall inside a collection, of which five updates are taken."""
    changed = [ARMS, "args.save_strategy=steps", "args.save_steps=3", "args.auto_resume=true", "args.max_steps=8"]
    whole = build(tmp_path / "whole", *changed)
    whole.train()
    parts = interrupted(lambda: build(tmp_path / "parts", *changed), (4,))
    assert bandit.digest(parts) == bandit.digest(whole)
    assert_same_files(tmp_path / "whole", tmp_path / "parts")


def test_mistakes_are_told(tmp_path: Path) -> None:
    for wrong, message in (("latent=0", "latent=0 must be"), ("horizon=0", "horizon=0 must be"),
                           ("model_weight=-1", "must not be negative")):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            build(tmp_path, f"args.{wrong}")


def test_it_learns_to_adapt_from_what_the_explorer_played(tmp_path: Path, learning: Any) -> None:
    """Two arms that pay with 0.1 and 0.9: 2 of four pulls at random, 3.6 for whoever knows which. Better than 2 before
    the step would be a leak.
    """
    trainer = build(
        *(tmp_path, ARMS, "args.per_device_train_batch_size=12", "args.episodes=6", "args.hidden=[8]"),
        *("args.horizon=1", "args.max_steps=120", "args.learning_rate=0.02", "args.explorer_rate=0.02"),
        *("args.logging_steps=1000", f"seed={learning.seed(1)}"),
    )

    def measured() -> list[float]:
        args = trainer.args
        found = adaptation_returns(trainer.learner, trainer.tasks.test, args, count=200, steps=1, episodes=6)
        return found.mean(0).tolist()

    untrained = measured()
    trainer.train()
    before, after = measured()
    learning.check("untrained, after the step", untrained[1], below=2.6)
    learning.check("before the step", before, above=1.7, below=2.3)
    learning.check("after the step", after, above=3.1, below=3.8)
