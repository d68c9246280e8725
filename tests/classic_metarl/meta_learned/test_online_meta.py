"""Meta-gradients: the scalar of gate T41 by hand, the two worlds of E1, learned rewards, and resume."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from classic_metarl.problems.roads import Roads
from classic_metarl.trainers.online_meta import lambda_returns
from mrt.control.envs import EnvTasks
from mrt.control.interaction import play
from mrt.errors import ConfigError
from mrt.runs.recipe import import_trainer, load_recipe
from mrt.training.collection import Batch
from mrt.trials import Stop, Trials

pytestmark = pytest.mark.training

QUICK = ("args.disable_tqdm=true", "args.report_to=none", "args.save_strategy=no", "args.max_steps=2")


def trainer_of(name: str, folder: Path, *overrides: str) -> Any:
    recipe = load_recipe(f"meta_learned/{name}", [*QUICK, *overrides])
    return import_trainer(recipe.trainer).from_recipe(recipe, folder)


def episode(rewards: list[float], width: int, stop: Stop = Stop.TERMINATED) -> Trials:
    """One episode of one row with these rewards, at the first cells of a one-hot observation."""
    steps = len(rewards)
    return Trials(
        actions=torch.zeros(1, steps + 1, dtype=torch.long),
        rewards=torch.tensor([[*rewards, 0.0]]),
        mask=torch.tensor([[True] * steps + [False]]),
        episode=torch.zeros(1, steps + 1, dtype=torch.long),
        group=torch.zeros(1, dtype=torch.long),
        inputs={"observation": torch.eye(max(width, steps + 1))[None, : steps + 1, :width]},
        stop=torch.full((1, 1), int(stop), dtype=torch.int8),
    )


def test_lambda_returns_by_hand() -> None:
    """Rewards 1, 2, 4, values 10, 20, 30, gamma 1/2: lambda 0 looks one step ahead, lambda 1 to the end."""
    trials, values = episode([1.0, 2.0, 4.0], 3), torch.tensor([[10.0, 20.0, 30.0, 99.0]])
    for lam, wanted in ((0.0, [11.0, 17.0, 4.0]), (1.0, [3.0, 4.0, 4.0]), (0.5, [8.625, 10.5, 4.0])):
        found = lambda_returns(trials, trials.rewards, values, 0.5, lam)
        assert found[0, :3].tolist() == pytest.approx(wanted)


def test_the_scalar_of_t41(tmp_path: Path) -> None:
    """theta = 0, alpha = 0.1, bootstrap 2, gamma = 1/2, reference return 3: theta' = 0.2 and dJ'/dgamma = -0.56.

    The second step of the inner episode holds the bootstrap (its value 2 has weight elsewhere); a mean over two steps
    halves alpha, so that 0.2 is asked for.
    """
    options = ("args.value_weight=1.0", "args.policy_weight=0.0", "args.entropy=0.0", "args.learning_rate=0.2")
    trainer = trainer_of("meta_gradient", tmp_path, *options, "policy.gamma=0.5", "policy.lam=1.0e-6", "tasks.steps=2")
    trainer.create_optimizer()
    model = trainer.unwrapped
    with torch.no_grad():
        model.theta.heads.weight[-1, 1] = 2.0
    first = trainer.losses(Batch(episode([1.0, 2.0], 3), torch.ones(1, 3)))
    assert set(first) == {"theta"}
    slope = torch.autograd.grad(first["theta"], model.theta.heads.weight)[0]
    with torch.no_grad():
        model.theta.heads.weight -= 0.2 * slope
    assert model.theta.heads.weight[-1, 0].item() == pytest.approx(0.2, abs=1e-5)
    second = trainer.losses(Batch(episode([3.0], 3), torch.ones(1, 2)))
    found = torch.autograd.grad(second["eta"], model.eta.raw)[0][0]
    assert found.item() / 0.25 == pytest.approx(-0.56, abs=1e-5)  # d gamma / d raw = gamma (1 - gamma)


@pytest.mark.parametrize(("name", "raw"), [("meta_gradient", "raw"), ("intrinsic_rewards", "net.heads.weight")])
def test_the_gradient_of_eta_is_that_of_finite_differences(name: str, raw: str, tmp_path: Path) -> None:
    """Of both systems, through the real step on theta, in double precision."""
    rate = 0.3
    trainer = trainer_of(name, tmp_path, f"args.learning_rate={rate}", "tasks.kind=noise", "tasks.steps=4")
    trainer.create_optimizer()
    model = trainer.unwrapped
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    batches = [trainer.next_batch(range(8 * i, 8 * i + 8)).trials for i in range(2)]
    model.double()
    first, second = (_double(batch) for batch in batches)
    start = {k: v.detach().clone() for k, v in model.theta.named_parameters()}
    eta = dict(model.eta.named_parameters())[raw]

    def stepped() -> dict[str, Tensor]:
        theta = {k: v.clone().requires_grad_() for k, v in start.items()}
        grads = torch.autograd.grad(trainer.inner_loss(theta, first), [*theta.values()], allow_unused=True)
        return {k: v - rate * (0 if g is None else g) for (k, v), g in zip(theta.items(), grads, strict=True)}

    led = {k: v.detach().requires_grad_() for k, v in stepped().items()}
    grads = torch.autograd.grad(trainer.outer_loss(led, second), [*led.values()])
    slopes = dict(zip(led, grads, strict=True))  # values in returns and advantages count as constants

    def judged(shift: Tensor) -> float:
        with torch.no_grad():
            eta.add_(shift)
        value = sum((slopes[key] * moved).sum().item() for key, moved in stepped().items())
        with torch.no_grad():
            eta.sub_(shift)
        return value

    trainer.losses(Batch(first, first.mask.double()))
    for key, value in stepped().items():
        dict(model.theta.named_parameters())[key].data.copy_(value.detach())
    found = torch.autograd.grad(trainer.losses(Batch(second, second.mask.double()))["eta"], eta)[0]
    for index in ((0,), (1,)) if eta.ndim == 1 else ((0, 0), (1, 0)):
        shift = torch.zeros_like(eta)
        shift[index] = 1e-5
        slope = (judged(shift) - judged(-shift)) / 2e-5
        assert found[index].item() == pytest.approx(slope, rel=1e-4), index
        assert abs(slope) > 1e-7, index


def _double(trials: Trials) -> Trials:
    inputs = {name: value.double() if value.is_floating_point() else value for name, value in trials.inputs.items()}
    return replace(trials, rewards=trials.rewards.double(), inputs=inputs)


def test_roads_pay_what_they_say() -> None:
    for kind, returns in (("late", (0.3, 1.0)), ("noise", (0.3, 0.0))):
        env = Roads(kind, steps=5, noise=0.0)  # type: ignore[arg-type]
        seen = env.reset(EnvTasks(env).batch(0, range(2)))
        assert seen.argmax(1).tolist() == [0, 0]
        total = torch.zeros(2)
        for t in range(5):
            step = env.step(torch.tensor([0, 1]) if t == 0 else torch.tensor([1, 0]))
            total = total + step.reward
            if t < 4:
                assert step.observation.argmax(1).tolist() == [t + 1, t + 5]
        assert total.tolist() == pytest.approx(returns)
        assert bool(step.trial_over.all())


@pytest.mark.parametrize(("kind", "start"), [("late", 0.5), pytest.param("noise", 0.6, marks=pytest.mark.slow)])
def test_gamma_follows_the_world(kind: str, start: float, tmp_path: Path, learning: Any) -> None:
    trainer = trainer_of(
        "meta_gradient",
        tmp_path,
        f"tasks.kind={kind}",
        "tasks.steps=4",
        f"policy.gamma={start}",
        f"args.max_steps={4 if kind == 'late' else 16}",
        "args.meta_rate=0.05",
        "args.logging_steps=4",
        f"seed={learning.seed(0)}",
    )
    trainer.train()
    gamma = trainer.unwrapped.eta.gamma.item()
    if kind == "late":
        learning.check("gamma", gamma, above=0.7)
        returns = play(trainer.tasks.env, trainer.unwrapped, trainer.tasks.batch(9, range(200)), seed=1)
        learning.check("return", returns.mean().item(), above=0.7)
    else:
        learning.check("gamma", gamma, below=0.5)


def test_a_resumed_run_ends_bit_for_bit(tmp_path: Path) -> None:
    for name in ("meta_gradient", "intrinsic_rewards"):
        options = ("args.max_steps=4", "args.save_strategy=steps", "args.save_steps=2", "args.updates_per_step=2")
        whole = trainer_of(name, tmp_path / name / "whole", *options)
        whole.train()
        resumed = trainer_of(name, tmp_path / name / "resumed", *options)
        resumed.train(resume_from_checkpoint=str(tmp_path / name / "whole" / "checkpoint-2"))
        pairs = list(zip(whole.model.parameters(), resumed.model.parameters(), strict=True))
        assert all(torch.equal(a, b) for a, b in pairs), name
        assert any(bool(a.detach().abs().sum() > 0) for a, _ in pairs)


def test_mistakes_in_a_recipe_are_told(tmp_path: Path) -> None:
    for override, message in (
        ("args.max_grad_norm=1.0", "cannot be clipped"),
        ("args.meta_rate=-1", "at least 0"),
        ("policy.gamma=1.0", "between 0 and 1"),
        ("policy.lambda=0.5", "no option 'lambda'"),
        ("tasks.kind=early", "late or noise"),
    ):
        with pytest.raises(ConfigError, match=message):
            trainer_of("meta_gradient", tmp_path, override)
