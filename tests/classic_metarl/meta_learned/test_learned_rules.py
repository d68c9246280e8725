"""Learned optimisers, the meta-learner LSTM, and evolution over what learning starts from."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from classic_metarl.gradient.baldwin import lifetime_losses
from classic_metarl.inner.gradient_steps import Theta
from classic_metarl.meta_learned.l2l import LearnedOptimizer, adam_rule, learned_rule, log_sign, optimise, sgd_rule
from classic_metarl.problems.quadratics import Quadratics, quadratic
from classic_metarl.problems.sinusoid import Sinusoids
from classic_metarl.trainers.loss_curves import loss_curve, summarise
from mrt.errors import ConfigError
from mrt.runs.recipe import import_trainer, load_recipe

pytestmark = pytest.mark.training

QUICK = ("args.disable_tqdm=true", "args.report_to=none", "args.save_strategy=no")


def trainer_of(name: str, folder: Path, *overrides: str) -> Any:
    recipe = load_recipe(f"gradient/{name}", [*QUICK, *overrides])
    return import_trainer(recipe.trainer).from_recipe(recipe, folder)


# ---- L2L


def functions(count: int) -> tuple[Tensor, Tensor]:
    family = Quadratics()
    return family.batch([family.sample(5, index) for index in range(count)])


def test_quadratics_and_tuned_baselines() -> None:
    """f(0) = 10 on average; after 100 steps SGD stands at .85 and Adam at .33 (heavy tails: 2,000 functions)."""
    matrix, target = functions(2000)
    theta = torch.randn(2000, 10).requires_grad_()
    value, slope = quadratic(matrix, target, theta)
    assert torch.allclose(torch.autograd.grad(value.sum(), theta)[0], slope, atol=1e-3)
    curves = {name: optimise(rule, matrix, target, 100) for name, rule in (("sgd", sgd_rule()), ("adam", adam_rule()))}
    assert curves["sgd"][:, 0].mean().item() == pytest.approx(10, abs=4 * math.sqrt(20 / 2000))
    assert curves["sgd"][:, 100].mean().item() == pytest.approx(0.85, abs=0.12)
    assert curves["adam"][:, 100].mean().item() == pytest.approx(0.33, abs=0.1)


def test_adam_is_torchs() -> None:
    matrix, target = functions(3)
    theta = torch.zeros(3, 10).requires_grad_()
    optimizer = torch.optim.Adam([theta], lr=0.3)
    values = []
    for _ in range(6):
        optimizer.zero_grad()
        value, _ = quadratic(matrix, target, theta)
        values.append(value.detach())
        value.sum().backward()
        optimizer.step()
    assert torch.allclose(optimise(adam_rule(), matrix, target, 5), torch.stack(values, 1), rtol=1e-3, atol=1e-4)


def test_gradients_are_shown_by_size_and_sign() -> None:
    shown = log_sign(torch.tensor([1.0, -(math.e**5), math.e**-12, 0.0]))
    expected = [[0, 1], [0.5, -1], [-1, math.e**-2], [-1, 0]]
    assert torch.allclose(shown, torch.tensor(expected), atol=1e-6)


def test_a_rule_treats_coordinates_alike_and_gradients_as_constants() -> None:
    torch.manual_seed(0)
    model, slope = LearnedOptimizer(), torch.randn(2, 10).requires_grad_()
    update, states = model.step(slope, model.start(20))
    order = torch.randperm(10)
    turned, _ = model.step(slope[:, order], model.start(20))
    assert torch.allclose(turned, update[:, order])
    assert torch.autograd.grad(update.sum(), slope, allow_unused=True)[0] is None
    again, _ = model.step(slope, states)
    assert not torch.allclose(again, update), "it remembers"


def test_stretches_follow_one_another_and_new_functions_come(tmp_path: Path) -> None:
    settings = ("args.max_steps=4", "args.horizon=6", "args.unroll=2", "args.per_device_train_batch_size=3")
    trainer = trainer_of("l2l", tmp_path, *settings, "args.learning_rate=0", "args.logging_steps=1")
    trainer.train()
    logged = {k: v for row in trainer.state.log_history for k, v in row.items() if k.startswith("f/")}
    assert set(logged) == {"f/0", "f/2", "f/4"}
    assert trainer.run["steps"] == 2
    family, model = Quadratics(), trainer.model
    matrix, target = family.batch([family.sample(0, index) for index in (9, 10, 11)])
    curve = optimise(learned_rule(model, 30), matrix, target, 2)
    assert torch.allclose(quadratic(matrix, target, trainer.run["theta"])[0], curve[:, 2], rtol=1e-4)
    with pytest.raises(ConfigError, match="a multiple of unroll=4"):
        trainer_of("l2l", tmp_path, "args.horizon=6", "args.unroll=4")


def test_a_resumed_optimiser_goes_on_within_a_function(tmp_path: Path) -> None:
    options = ("args.max_steps=4", "args.horizon=6", "args.unroll=2", "args.per_device_train_batch_size=3")
    options += ("args.save_strategy=steps", "args.save_steps=2")
    whole, resumed = (trainer_of("l2l", tmp_path / name, *options) for name in ("whole", "resumed"))
    whole.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    pairs = zip(whole.model.parameters(), resumed.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert torch.equal(whole.run["theta"], resumed.run["theta"])


# ---- the meta-learner LSTM


def test_the_gates_start_at_gradient_descent(tmp_path: Path) -> None:
    trainer = trainer_of("meta_lstm", tmp_path, "args.hidden=[6]", "args.inner_steps=3")
    learner = trainer.model
    for gate, bias in ((learner.forget, 100.0), (learner.input, math.log(0.01 / 0.99))):
        torch.nn.init.zeros_(gate.weight)
        torch.nn.init.constant_(gate.bias, bias)
    support = (torch.randn(4, 10, 1), torch.randn(4, 10, 1))
    theta = Theta({n: p for n, p in learner.net.named_parameters()})
    plain = learner.inner.adapt(theta, learner.inner.init(theta), support)
    ours = learner.trajectory(support)
    assert len(ours) == 4
    assert all(torch.allclose(ours[-1][name], plain[name], atol=1e-6) for name in plain)


@pytest.mark.parametrize("name", ["meta_lstm", "baldwin", "reptile", "maml"])
def test_what_is_frozen_stays_through_a_lifetime_and_through_training(name: str, tmp_path: Path) -> None:
    trainer = trainer_of(name, tmp_path, "args.hidden=[6]", "args.max_steps=2")
    first = trainer.model.net.layers[0].requires_grad_(False)
    before, head = first.weight.detach().clone(), trainer.model.net.layers[1].weight.detach().clone()
    trainer.train()
    assert torch.equal(first.weight, before)
    assert not torch.equal(trainer.model.net.layers[1].weight, head)
    if name == "meta_lstm":
        support = (torch.randn(4, 10, 1), torch.randn(4, 10, 1))
        phi = trainer.model.trajectory(support)[-1]
        assert torch.equal(phi["layers.0.weight"], before.expand(4, 6, 1))
        assert not torch.allclose(phi["layers.1.weight"], head.expand(4, 1, 6))


def test_the_meta_learner_lstm_learns(tmp_path: Path, learning: Any) -> None:
    settings = ("args.hidden=[20]", "args.max_steps=160", "args.learning_rate=0.01", "args.logging_steps=20")
    trainer = trainer_of("meta_lstm", tmp_path, *settings, f"seed={learning.seed()}")
    start = [p.detach().clone() for p in trainer.model.parameters()]
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    learning.check("last loss over the first", losses[-1] / losses[0], below=1)
    moved = [not torch.equal(a, b) for a, b in zip(start, trainer.model.parameters(), strict=True)]
    assert all(moved), "theta_0 and every gate learn"


# ---- Baldwin


@pytest.mark.parametrize("over", ["fold", "vmap", "loop"])
def test_an_individuals_fitness_is_its_loss_after_its_own_learning(tmp_path: Path, over: str) -> None:
    trainer = trainer_of("baldwin", tmp_path, "args.hidden=[5]", "args.inner_rate=0.05", f"args.over={over}")
    genome, torch_state = trainer.model, torch.manual_seed(0)
    assert torch_state is not None
    people = [p.detach() + 0.1 * torch.randn(4, *p.shape) for p in genome.parameters()]
    tasks = [trainer.tasks.sample(0, index) for index in range(3)]
    stages, query = trainer.sets(trainer.collect(tasks))
    found = lifetime_losses(genome, people, stages, query)
    names = [name for name, _ in genome.named_parameters()]
    for person in range(4):
        genes = {name: value[person] for name, value in zip(names, people, strict=True)}
        genome.load_state_dict(genes)
        phi = genome.steps.adapt(genome.theta, genome.steps.init(genome.theta), stages[0])
        alone = genome.family.losses(genome.predict(phi, query[0]), query[1]).mean()
        assert found[person].item() == pytest.approx(alone.item(), rel=1e-4)


def test_every_update_has_a_population_of_its_own_and_a_dead_individual_does_no_harm(tmp_path: Path) -> None:
    options = ("args.max_steps=2", "args.updates_per_step=2", "args.population=4", "args.hidden=[3]")
    trainer = trainer_of("baldwin", tmp_path, *options)
    batch = trainer.next_batch([0, 1, 2])
    gradients = []
    for _ in range(2):
        trainer.losses(batch)["policy"].backward()
        gradients.append(trainer.model.net.layers[0].weight.grad.clone())
        trainer.model.zero_grad()
    assert not torch.allclose(gradients[0], gradients[1]), "the second update of a step draws again"
    trainer.args.sigma = 1e4  # step sizes of exp(10,000)
    loss = trainer.losses(batch)["policy"]
    loss.backward()
    assert all(bool(p.grad.isfinite().all()) for p in trainer.model.parameters())


def test_evolution_lowers_the_loss_after_learning(tmp_path: Path, learning: Any) -> None:
    """The loss after a gradient step, on 400 tasks that were not trained on."""
    settings = ("args.max_steps=80", "args.hidden=[20]", "args.population=32", "args.learning_rate=0.03")
    settings += ("args.logging_steps=10", "args.inner_rate=0.01", f"seed={learning.seed()}")
    trainer = trainer_of("baldwin", tmp_path, *settings)

    def measured() -> float:
        return summarise(loss_curve(trainer.model, Sinusoids(shots=10, queries=10), 400, 1))["mean"][1]

    before, untrained = trainer.model.theta.rates[0]["layers.0.weight"].item(), measured()
    trainer.train()
    learning.check("loss over the untrained", measured() / untrained, below=0.95)
    assert trainer.model.theta.rates[0]["layers.0.weight"].item() != before, "step sizes evolve"
    with pytest.raises(ConfigError, match="population=5 must be even"):
        trainer_of("baldwin", tmp_path, "args.population=5")
