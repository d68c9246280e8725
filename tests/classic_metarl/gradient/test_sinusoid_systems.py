"""MAML, FOMAML, ANIL, Meta-SGD and Reptile: update rules by hand, algebra, learning, resume."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from classic_metarl.inner.gradient_steps import GradientSteps, Theta
from classic_metarl.problems.sinusoid import Sinusoids
from classic_metarl.trainers.loss_curves import loss_curve, summarise
from mrt.errors import ConfigError
from mrt.runs.recipe import import_trainer, load_recipe

pytestmark = pytest.mark.training

QUICK = ("args.disable_tqdm=true", "args.report_to=none", "args.save_strategy=no")


def trainer_of(name: str, folder: Path, *overrides: str) -> Any:
    recipe = load_recipe(f"gradient/{name}", [*QUICK, *overrides])
    return import_trainer(recipe.trainer).from_recipe(recipe, folder)


# ---- the algebra


def quadratic(phi: dict[str, Tensor], data: tuple[Tensor, Tensor]) -> Tensor:
    """(M,) (phi - c)' A (phi - c) / 2."""
    matrix, centre = data
    apart = phi["w"] - centre
    return 0.5 * torch.einsum("mi,mij,mj->m", apart, matrix, apart)


def direction(system: str, rate: float, first: Any, second: Any, theta: Tensor) -> Tensor:
    """What two minibatches move theta by, over the pairs (M,)."""
    steps = GradientSteps(quadratic, rate=rate, over="fold", order="second" if system == "MAML" else "first")
    tree = Theta({"w": theta})
    if system == "Reptile":
        return ((theta - steps.trajectory(tree, [first, second])[-1]["w"]) / rate).mean(0)
    loss = quadratic(steps.adapt(tree, steps.init(tree), first), second).mean()
    return torch.autograd.grad(loss, theta)[0]


@pytest.mark.parametrize(
    ("system", "gradients", "inner"), [("MAML", 1, -2.0), ("FOMAML", 1, -1.0), ("Reptile", 2, -1.0)]
)
def test_average_gradient_and_inner_product_coefficients(system: str, gradients: int, inner: float) -> None:
    """Nichol et al. 2018, equations 31 to 33 with k = 2: direction = a AvgGrad + b alpha AvgGradInner + O(alpha^2).

    The losses are quadratic and both are averaged over ordered pairs of minibatches; the direction is a polynomial of
    degree at most two in alpha, so central differences give its first two coefficients exactly.
    """
    torch.manual_seed(0)
    root, centres = torch.randn(4, 3, 3).double(), torch.randn(4, 3).double()
    matrices = root @ root.mT + torch.eye(3).double()
    pairs = torch.tensor([(i, j) for i in range(4) for j in range(4) if i != j])
    first, second = ((matrices[column], centres[column]) for column in pairs.T)
    theta = torch.randn(3).double().requires_grad_()
    slope = [matrices[i] @ (theta.detach() - centres[i]) for i in range(4)]
    average = sum(slope) / 4
    product = sum(matrices[j] @ slope[i] for i, j in pairs.tolist()) / len(pairs)
    h = 0.01
    plus, minus = (direction(system, rate, first, second, theta).detach() for rate in (h, -h))
    at_zero = (plus + minus) / 2
    if system == "MAML":  # the one with a term in alpha^2: A_1 A_2 A_1 (theta - c_1)
        at_zero = at_zero - h**2 * sum(matrices[i] @ matrices[j] @ slope[i] for i, j in pairs.tolist()) / len(pairs)
    assert torch.allclose(at_zero, gradients * average, atol=1e-6)
    assert torch.allclose((plus - minus) / (2 * h), inner * product, atol=1e-6)


# ---- the problems


def test_what_a_predictor_without_the_task_can_reach() -> None:
    """Zero: E[A^2] / 2. Best: that less (E[A] 2 / pi)^2 E[cos^2 x], found here by averaging sinusoids on a grid."""
    zero = (5**3 - 0.1**3) / (3 * 4.9) / 2
    best = zero - (2.55 * 2 / math.pi) ** 2 * (0.5 + math.sin(10) / 20)
    assert (round(zero, 3), round(best, 3)) == (4.252, 3.006)
    family = Sinusoids(shots=1, queries=200)
    tasks = [family.sample(3, index) for index in range(4000)]
    x, y = family.examples(tasks)
    error = float(y.square().mean((1, 2)).std()) / math.sqrt(len(tasks))
    assert float(y.square().mean()) == pytest.approx(zero, abs=4 * error)
    guess = -2.55 * 2 / math.pi * torch.cos(x)
    assert float((y - guess).square().mean()) == pytest.approx(best, abs=4 * error)


def test_tasks_are_pure_functions_of_seed_and_index_and_keep_to_their_ranges() -> None:
    family = Sinusoids(shots=3, queries=4, stages=2, frequency=(0.8, 1.2))
    task, again, other = family.sample(0, 5), family.sample(0, 5), family.sample(1, 5)
    assert task.key == "0:5"
    assert torch.equal(task.data["x"], again.data["x"])
    assert not torch.equal(task.data["x"], other.data["x"])
    x, y = family.examples([family.sample(0, index) for index in range(500)])
    waves = torch.stack([family.sample(0, index).data["wave"] for index in range(500)])
    assert x.shape == y.shape == (500, 10, 1)
    assert x.abs().max() <= 5
    low, high = waves.amin(0), waves.amax(0)
    assert (low >= torch.tensor([0.1, 0, 0.8])).all()
    assert (high <= torch.tensor([5.0, math.pi, 1.2])).all()
    assert (high - low > 0.9 * torch.tensor([4.9, math.pi, 0.4])).all()
    assert torch.allclose(y[7, :, 0], waves[7, 0] * torch.sin(waves[7, 2] * x[7, :, 0] - waves[7, 1]))
    with pytest.raises(ConfigError, match="queries=0"):
        Sinusoids(queries=0)


# ---- the systems


def test_a_batch_is_a_batch_of_trials(tmp_path: Path) -> None:
    """Support sets are episodes, queries the answer; J_j is the score after j steps, here recomputed one by one."""
    trainer = trainer_of("reptile", tmp_path, "problems.shots=3", "problems.stages=2", "problems.queries=4")
    trainer.args.logging_steps = 1  # J is measured where it is logged
    tasks = [trainer.tasks.sample(0, index) for index in range(5)]
    with torch.no_grad():
        trials = trainer.collect(tasks)
    assert trials.episode[0].tolist() == [0, 0, 0, 1, 1, 1, -1, -1, -1, -1]
    assert trials.mask[0].tolist() == [False] * 6 + [True] * 4
    assert trials.stop_values.shape == (5, 3)
    net = trainer.model.net
    weights = [p.detach().clone().requires_grad_() for p in net.parameters()]
    names = [name for name, _ in net.named_parameters()]
    x, y = trials.inputs["x"][2], trials.actions[2]

    def error(part: slice) -> Tensor:
        return (torch.func.functional_call(net, dict(zip(names, weights, strict=True)), (x[part],)) - y[part]).square()

    values = [-error(slice(6, 10)).mean().item()]
    for part in (slice(0, 3), slice(3, 6)):
        slopes = torch.autograd.grad(error(part).mean(), weights)
        weights = [(w - 0.02 * s).detach().requires_grad_() for w, s in zip(weights, slopes, strict=True)]
        values.append(-error(slice(6, 10)).mean().item())
    assert trials.stop_values[2].tolist() == pytest.approx(values, abs=1e-5)
    assert trials.returns[2].item() == pytest.approx(values[-1], abs=1e-5)
    trainer.args.logging_steps = 2  # the log comes one update later: nothing is measured
    assert trainer.collect(tasks).stop_values is None


def test_reptile_moves_towards_the_mean_of_where_the_tasks_lead(tmp_path: Path) -> None:
    settings = ("args.max_steps=2", "args.per_device_train_batch_size=3", "args.learning_rate=0.5")
    trainer = trainer_of("reptile", tmp_path, *settings, "args.logging_steps=1", "args.lr_scheduler_type=linear")
    theta = trainer.model.theta.parameters
    expected = {name: value.detach().clone() for name, value in theta.items()}
    for step, rate in ((0, 0.5), (1, 0.25)):
        tasks = [trainer.tasks.sample(trainer.args.seed, 3 * step + i) for i in range(3)]
        stages, _ = trainer.sets(trainer.collect(tasks))
        phi = trainer.model.steps.trajectory(Theta(expected), stages)[-1]
        expected = {n: v + rate * (phi[n].mean(0) - v) for n, v in expected.items()}
    trainer.train()
    assert all(torch.allclose(theta[name], expected[name], atol=1e-6) for name in expected)


def test_anil_moves_the_head_alone_and_meta_sgd_learns_its_rates(tmp_path: Path) -> None:
    anil = trainer_of("anil", tmp_path / "a").model
    stages = [(torch.randn(2, 5, 1), torch.randn(2, 5, 1))]
    phi = anil.steps.trajectory(anil.theta, stages)[-1]
    moved = {name for name in phi if not torch.equal(phi[name][0], anil.theta.parameters[name])}
    assert moved == {"layers.2.weight", "layers.2.bias"}
    trainer = trainer_of("meta_sgd", tmp_path / "b", "args.max_steps=5", "args.logging_steps=1")
    rates = [rate.detach().clone() for rate in trainer.model.rates.parameters()]
    assert sum(rate.numel() for rate in rates) == sum(p.numel() for p in trainer.model.net.parameters())
    assert all((rate == 0.01).all() for rate in rates)
    trainer.train()
    assert all(not torch.equal(a, b) for a, b in zip(rates, trainer.model.rates.parameters(), strict=True))


@pytest.mark.parametrize(("name", "bound"), [("maml", 2.4), pytest.param("meta_sgd", 2.4, marks=pytest.mark.slow)])
def test_it_learns_to_adapt_and_knows_nothing_before(name: str, bound: float, tmp_path: Path, learning: Any) -> None:
    settings = ("args.max_steps=600", "args.learning_rate=0.005", "args.logging_steps=200")
    trainer = trainer_of(name, tmp_path, *settings, f"seed={learning.seed()}")
    trainer.train()
    curve = summarise(loss_curve(trainer.model, Sinusoids(shots=10, queries=50), 400, 1))
    learning.check("median loss after a step", curve["median"][1], below=bound)
    learning.check("gain of a step", curve["mean"][0] - curve["mean"][1], above=1)
    # below it is better than the best predictor without the task: it has seen the answers
    learning.check("mean loss before", curve["mean"][0], above=2.8)
    logged = [row for row in trainer.state.log_history if "regret/stop" in row]
    learning.check("progress at the end", logged[-1]["progress/mean"], above=0.3)
    learning.check("regret at the end", logged[-1]["regret/stop"], below=0.8)


@pytest.mark.parametrize("name", ["maml", "meta_sgd", "reptile"])
def test_a_resumed_run_ends_bit_for_bit(name: str, tmp_path: Path) -> None:
    options = ("args.max_steps=6", "args.logging_steps=2", "args.save_strategy=steps", "args.save_steps=3")
    whole = trainer_of(name, tmp_path / "whole", *options)
    whole.train()
    resumed = trainer_of(name, tmp_path / "resumed", *options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    pairs = zip(whole.model.state_dict().values(), resumed.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_summaries_survive_a_task_that_diverged() -> None:
    losses = torch.ones(200, 2)
    losses[0, 1], losses[1, 1] = 1e18, torch.nan
    found = summarise(losses)
    assert found["mean"] == [1, math.inf]
    assert (found["median"][1], found["trimmed"][1], found["diverged"][1]) == (1, 1, 0.01)


def test_mistakes_in_a_recipe_are_told(tmp_path: Path) -> None:
    for override, message in (
        ("problems.shotz=3", "has no option 'shotz'; did you mean 'shots'"),
        ("problems.name=sinus", "did you mean 'sinusoid'"),
        ("args.activation=rely", "did you mean 'relu'"),
        ("model=tiny", "builds its own network"),
    ):
        with pytest.raises(ConfigError, match=message):
            trainer_of("maml", tmp_path, override)


def test_examples_drawn_for_a_whole_step_are_those_of_single_tasks(tmp_path: Path) -> None:
    """Updates draw for the step ahead; what an update meets are the tasks at its indices, whatever came before."""
    family = Sinusoids(shots=3, queries=4, stages=2, frequency=(0.8, 1.2))
    single, drawn = family.examples([family.sample(1, index) for index in (4, 9, 2)]), family.draw(1, [4, 9, 2])
    assert all(torch.equal(one, many) for one, many in zip(single, drawn, strict=True))
    settings = ("args.max_steps=2", "args.updates_per_step=3", "args.per_device_train_batch_size=2")
    trainer = trainer_of("maml", tmp_path, *settings, "args.logging_steps=1")
    for indices in ([0, 1], [2, 3], [4, 5], [6, 7], [2, 3], [9, 1]):
        trials = trainer.next_batch(indices).trials
        x, y = trainer.family.examples([trainer.family.sample(trainer.args.seed, index) for index in indices])
        assert torch.equal(trials.inputs["x"], x)
        assert torch.equal(trials.actions, y)
        assert trials.task_keys == tuple(f"{trainer.args.seed}:{index}" for index in indices)


def test_j_is_measured_in_the_last_update_of_a_step_that_is_logged(tmp_path: Path) -> None:
    settings = ("args.max_steps=4", "args.updates_per_step=3", "args.logging_steps=2")
    trainer = trainer_of("maml", tmp_path, *settings)
    measured = []
    original = trainer._stop_values
    trainer._stop_values = lambda x, y: measured.append((trainer.state.global_step, trainer._number)) or original(x, y)
    trainer.train()
    assert measured == [(1, 2), (3, 2)]
    assert all("regret/stop" in row and "reward" in row for row in trainer.state.log_history if "loss" in row)
