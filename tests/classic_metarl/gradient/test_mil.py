"""Meta-imitation: the task needs the demonstration, the two heads do what they are for, every policy trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from classic_metarl.problems.reaching import STEP, Reaching, observation, towards
from mrt.errors import ConfigError
from mrt.runs.recipe import import_trainer, load_recipe

pytestmark = pytest.mark.training

QUICK = ("args.disable_tqdm=true", "args.report_to=none", "args.save_strategy=no", "args.logging_steps=10")


def trainer_of(name: str, folder: Path, *overrides: str) -> Any:
    recipe = load_recipe(f"gradient/{name}", [*QUICK, *overrides])
    return import_trainer(recipe.trainer).from_recipe(recipe, folder)


def test_demonstrations_end_at_the_target_of_the_tasks_colour() -> None:
    family = Reaching(noise=0.0)
    tasks = [family.sample(0, index) for index in range(200)]
    for number in (0, 1):
        targets, colours, right = family.scene(tasks, number)
        wanted = torch.stack([t.data["colours"][0] for t in tasks])
        assert torch.equal(colours[torch.arange(200), right], wanted), "the right colour is the same in both scenes"
        seen, done = family.demonstration(tasks, number)
        end = seen[:, -1, :2] + done[:, -1]
        assert torch.allclose(end, targets[torch.arange(200), right], atol=1e-5)
        assert done.norm(dim=-1).max() <= STEP + 1e-6
        assert 60 < right.sum() < 140
    assert not torch.equal(family.scene(tasks, 0)[0], family.scene(tasks, 1)[0])
    gap = torch.stack([t.data["colours"] for t in tasks]).diff(dim=1).abs()
    assert gap.min() >= 0.4


def test_only_the_demonstration_tells_the_targets_apart() -> None:
    """An oracle reaches all; whoever goes to a fixed place or the brighter colour, one half."""
    family = Reaching()
    tasks = [family.sample(1, index) for index in range(1000)]
    targets, colours, right = family.scene(tasks, 1)
    rows = torch.arange(1000)

    def walk(which: torch.Tensor) -> tuple[float, float]:
        goal = targets[rows, which]
        reached, wrong = family.reached(tasks, lambda x: towards(x[:, 0, :2], goal)[:, None])
        return reached.float().mean().item(), wrong.float().mean().item()

    assert walk(right)[0] == 1
    for guess in (torch.zeros_like(right), colours.argmax(1), colours.abs().argmin(1)):
        assert walk(guess)[0] == pytest.approx(0.5, abs=0.07)
    assert observation(targets[:1, 0], targets[:1], colours[:1]).shape == (1, 8)
    right_first = torch.stack([task.data["colours"] for task in tasks])
    cells = ((right_first + 1) * 2).long().clamp(max=3)  # either colour could be the right one: pairs can be exchanged
    counts = torch.bincount(cells[:, 0] * 4 + cells[:, 1], minlength=16).view(4, 4).double()
    assert ((counts - counts.T).abs() < 4.5 * (counts + counts.T).sqrt().clamp(min=1)).all()


@pytest.mark.parametrize(("loss", "heads"), [("actions", True), ("video", True), ("actions", False)])
def test_the_inner_step_is_the_gradient_of_the_head_it_should_be(loss: str, heads: bool, tmp_path: Path) -> None:
    chosen = ["args.inner_rate=0.1", f"args.inner_loss={loss}", f"args.two_heads={str(heads).lower()}"]
    trainer = trainer_of("mil", tmp_path, *chosen)
    learner, family = trainer.model, trainer.family
    tasks = [family.sample(0, index) for index in range(2)]
    first, second = (family.demonstration(tasks, number) for number in (0, 1))
    phi = learner.adapted(first)
    net = learner.net
    one = {name: p.detach()[None].clone().requires_grad_() for name, p in net.named_parameters()}
    said = net.of_tasks(one, first[0][:1], "before")
    inner = (said if loss == "video" else said - first[1][:1]).square().sum(-1).mean()
    slopes = torch.autograd.grad(inner, list(one.values()), allow_unused=True)
    for (name, value), slope in zip(one.items(), slopes, strict=True):
        moved = value[0] if slope is None else (value - 0.1 * slope.clamp(-10, 10))[0]
        assert torch.allclose(phi[name][0], moved, atol=1e-5), name
    outer = learner([first], second).mean()
    grads = dict(zip(one, torch.autograd.grad(outer, list(net.parameters()), allow_unused=True), strict=True))
    if heads:
        assert grads["before.weight"].abs().sum() > 0, "the learned loss is trained through the step"
    assert grads["bias"].abs().sum() > 0


def test_without_actions_the_loss_sees_none(tmp_path: Path) -> None:
    trainer = trainer_of("mil", tmp_path, "args.inner_loss=video")
    tasks = [trainer.family.sample(0, index) for index in range(2)]
    seen, done = trainer.family.demonstration(tasks, 0)
    same = trainer.model.adapted((seen, done)), trainer.model.adapted((seen, -3 * done))
    assert all(torch.equal(same[0][name], same[1][name]) for name in same[0])


@pytest.mark.parametrize("reader", ["contextual", "lstm", "attention"])
@pytest.mark.parametrize("loss", ["actions", "video"])
def test_baselines_read_the_demonstration(reader: str, loss: str, tmp_path: Path, learning: Any) -> None:
    settings = (f"args.reader={reader}", f"args.inner_loss={loss}", "args.max_steps=80", "args.learning_rate=0.003")
    trainer = trainer_of("mil_baseline", tmp_path, *settings, f"seed={learning.seed()}")
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    learning.check("last loss over the first", losses[-1] / losses[0], below=1)
    tasks = [trainer.family.sample(0, index) for index in range(3)]
    (seen, done), (x, _) = (trainer.family.demonstration(tasks, number) for number in (0, 1))
    acts = trainer.model.act((seen, done), x)
    assert not torch.allclose(trainer.model.act((seen.roll(1, 0), done.roll(1, 0)), x), acts)
    deaf = torch.allclose(trainer.model.act((seen, -done), x), acts)
    assert deaf == (loss == "video")


def test_mistakes_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not sinusoid"):
        trainer_of("mil", tmp_path, "problems={name: sinusoid}")
