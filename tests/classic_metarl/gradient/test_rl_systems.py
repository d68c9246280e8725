"""MAML-TRPO, E-MAML, ProMP and MAESN: that they learn to adapt, resume exactly, and what is written of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from classic_metarl.gradient.emaml import EMAMLConfig, EMAMLTrainer
from classic_metarl.gradient.maesn import MAESNConfig, MAESNTrainer, structured_noise
from classic_metarl.gradient.maml_trpo import MAMLTRPOConfig, MAMLTRPOTrainer
from classic_metarl.gradient.promp import ProMPConfig, ProMPTrainer
from classic_metarl.inner.stages import stage
from classic_metarl.problems.paired import paired_tasks
from classic_metarl.trainers.return_curves import adaptation_returns, load_meta_policy
from evals.gates.gradient_rl import returns
from evals.gates.table import gates
from mrt.control.oracles.navigation import known_task, stay
from mrt.errors import ConfigError
from mrt.runs.recipe import import_trainer, load_recipe, recipe_names
from tests.support import bandit
from tests.support.compare import assert_same_files, interrupted
from tests.support.processes import run_module

pytestmark = pytest.mark.training

ARMS = {"name": "dependent-bandit", "kind": "easy", "pulls": 5}
RING = {"name": "sparse-semicircle", "reward": "dense", "episodes": 1, "test": {"reward": "sparse"}}
QUICK: dict[str, Any] = {
    "per_device_train_batch_size": 12,
    "episodes": 6,
    "hidden": [8],
    "use_cpu": True,
    "disable_tqdm": True,
    "report_to": "none",
    "curve_tasks": 0,
    "logging_steps": 1,
}
SYSTEMS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    # Policies that adapt fully are nearly deterministic, and their Fisher matrix nearly 0: only damping bounds a step.
    "maml-trpo": (MAMLTRPOTrainer, MAMLTRPOConfig, {"max_steps": 25, "damping": 1.0}),
    "emaml": (EMAMLTrainer, EMAMLConfig, {"max_steps": 25, "damping": 1.0, "sampling": 0.1}),
    "promp": (ProMPTrainer, ProMPConfig, {"max_steps": 60, "learning_rate": 0.03}),
}


def build(name: str, folder: Path, tasks: dict[str, Any] = ARMS, **changed: Any) -> Any:
    system, config, options = SYSTEMS[name]
    settings = {**QUICK, **options, "save_strategy": "no", "inner_rates": [0.5], **changed}
    return system.of(paired_tasks(**tasks), config(output_dir=str(folder), **settings))


@pytest.mark.parametrize("name", SYSTEMS)
def test_it_learns_to_adapt_and_knows_nothing_before(name: str, tmp_path: Path, learning: Any) -> None:
    """Two arms that pay with 0.1 and 0.9: 2.5 of five pulls at random, 4.5 for whoever knows which. Better than 2.5
    before the step would be a leak; the untrained policy's step is worth little.
    """
    trainer = build(name, tmp_path, per_device_train_batch_size=20, episodes=20, seed=learning.seed(42))

    def measured() -> list[float]:
        return (
            adaptation_returns(trainer.learner, trainer.tasks.test, trainer.args, count=200, steps=1, episodes=6)
            .mean(0)
            .tolist()
        )

    untrained = measured()
    trainer.train()
    before, after = measured()
    learning.check("untrained, after the step", untrained[1], below=3.6)
    learning.check("before the step", before, above=2.3, below=2.7)
    learning.check("after the step", after, above=4.05, below=4.6)
    learning.check("gain over the untrained", after - untrained[1], above=0.6)
    logged = [row for row in trainer.state.log_history if "regret/stop" in row]
    learning.check("progress at the end", logged[-1]["progress/mean"], above=0.8)
    learning.check("fall of the regret", logged[0]["regret/stop"] - logged[-1]["regret/stop"], above=0)
    learning.check("return/1 over return/0", logged[-1]["return/1"] - logged[-1]["return/0"], above=0.8)


@pytest.mark.parametrize("name", ["maml-trpo", "promp"])
def test_a_killed_run_goes_on_exactly(name: str, tmp_path: Path) -> None:
    """ProMP takes five updates of a collection: checkpoints after 3 and 6 of them fall inside."""
    options = {"max_steps": 8, "save_strategy": "steps", "save_steps": 3, "auto_resume": True}
    whole = build(name, tmp_path / "whole", **options)
    whole.train()
    parts = interrupted(lambda: build(name, tmp_path / "parts", **options), (4, 7))
    assert bandit.digest(parts) == bandit.digest(whole)
    assert_same_files(tmp_path / "whole", tmp_path / "parts")
    assert parts.cost.total == whole.cost.total
    collections = 2 if name == "promp" else 8
    assert whole.cost.total["env_steps"] == collections * 12 * 6 * 2 * 5
    assert len((tmp_path / "whole" / "trials.jsonl").read_text().splitlines()) == 8 * collections


def test_promp_learns_several_times_from_a_collection(tmp_path: Path) -> None:
    trainer = build("promp", tmp_path, epochs=3)
    first = [trainer.next_batch(range(12)) for _ in range(3)]
    assert all(part is first[0] for part in first)
    assert trainer.next_batch(range(12, 24)) is not first[0]


@pytest.mark.slow
def test_two_processes_keep_one_policy(tmp_path: Path) -> None:
    """Each plays tasks of its own, and the meta-gradient, through the inner step, is averaged over both."""
    done = run_module("tests.programs.meta_rl_ddp", tmp_path, processes=2, timeout=300)
    lines = done.stdout.replace("policy", "\npolicy").splitlines()
    said = sorted(line.split(maxsplit=3)[1:] for line in lines if line.startswith("policy "))
    assert len(said) == 2
    assert said[0][1] == said[1][1], "the same weights in both"
    assert said[0][2] != said[1][2], "other tasks in each"
    assert (tmp_path / "report.html").is_file()


# ---- MAESN


def maesn(folder: Path, **changed: Any) -> Any:
    settings = {**QUICK, "max_steps": 2, "save_strategy": "no", "num_tasks": 20, "inner_rates": [0.5], **changed}
    return MAESNTrainer.of(paired_tasks(**RING), MAESNConfig(output_dir=str(folder), **settings))


def test_a_latent_holds_for_an_episode(tmp_path: Path) -> None:
    """With theta fixed, the end of an episode varies at least five times as much over z as within one z; without the
    latent's weights it does not vary with z at all.
    """
    trainer = maesn(tmp_path, init_std=0.3)
    net = trainer.learner.net
    torch.manual_seed(0)
    over, within = structured_noise(trainer.learner, trainer.tasks.test, zs=60)
    assert over > 5 * within
    with torch.no_grad():
        net.net.layers[0].weight[:, 2:] = 0
    over, within = structured_noise(trainer.learner, trainer.tasks.test, zs=60)
    assert over < 0.2 * within
    trials = trainer.next_batch(range(12)).trials
    drawn = trials.inputs["noise"]
    assert drawn.shape == (72, trials.mask.shape[1], 2)
    half = trials.mask.shape[1] // 2
    assert (drawn[:, :half] == drawn[:, :1]).all(), "one draw an episode"
    assert (drawn[:, half:] == drawn[:, -1:]).all()
    assert not torch.equal(drawn[:, 0], drawn[:, -1]), "the episode after the step draws its own"


def test_latents_of_tasks_move_and_tests_start_from_the_prior(tmp_path: Path) -> None:
    trainer = maesn(tmp_path, curvature_share=0.5)
    learner = trainer.learner
    with torch.no_grad():
        learner.means[3], learner.log_stds[3] = torch.tensor([1.0, -2.0]), torch.tensor([0.0, 0.5])
    # KL(N(mu, s), N(0, 1)) = (mu^2 + s^2 - 1) / 2 - log s, summed
    by_hand = (1 + 0) / 2 + ((4 + 2.718281828 - 1) / 2 - 0.5)
    assert learner.divergence(torch.tensor([3, 4])).tolist() == pytest.approx([by_hand, 0.0], abs=1e-6)
    phi = learner.start(torch.tensor([4, 3]))
    assert phi["latent_mean"][1].tolist() == [1.0, -2.0]
    assert learner.start()["latent_mean"].tolist() == [0.0, 0.0]
    before = learner.means.detach().clone()
    trainer.train()
    moved = (learner.means - before).abs().sum(1) > 0
    assert moved.sum() == 20, "two updates of twelve tasks, of an epoch of twenty"
    assert learner.net.latent_mean.abs().sum() == 0, "the prior stays"
    trials = trainer.next_batch([7, 2, *range(8, 18)]).trials
    assert trials.task[::6].tolist() == [7, 2, *range(8, 18)]
    assert (trials.rewards <= 0).all(), "dense in training"
    assert trainer.tasks.test.env.reward == "sparse"
    assert (adaptation_returns(learner, trainer.tasks.test, trainer.args, count=4, steps=1, episodes=5) >= 0).all()


def test_the_latents_step_by_hand_and_nothing_else_moves(tmp_path: Path) -> None:
    """mu' = mu + alpha mean(A eps / sigma), log sigma' = log sigma + 0.3 alpha mean(A (eps^2 - 1)), A the standardised
    credit of the first step; half of it in the next step, which training does not take. The gradient is on z as it was
    drawn, and the network takes part only where it is asked to.
    """
    trainer = maesn(tmp_path, std_rate=0.3, decay=0.5)
    learner = trainer.learner
    with torch.no_grad():
        learner.means.normal_()
        learner.log_stds.normal_().mul_(0.2)
    trials = trainer.next_batch(range(12))
    first = stage(trials, 0)
    phi, after = trainer.adapted(trials, "first")
    eps = first.trials.inputs["noise"][:, 0].unflatten(0, (12, 6))
    credit = first.weights[:, 0].reshape(12, 6)
    credit = (credit - credit.mean(1, keepdim=True)) / credit.std(1, keepdim=True, correction=0)
    up = (credit[..., None] * eps).mean(1) / phi["latent_log_std"].exp()
    wider = (credit[..., None] * (eps.square() - 1)).mean(1)
    assert torch.allclose(after["latent_mean"], phi["latent_mean"] + 0.5 * up, atol=1e-5)
    assert torch.allclose(after["latent_log_std"], phi["latent_log_std"] + 0.15 * wider, atol=1e-5)
    later = learner.adapt(phi, 1, first, "first")
    assert torch.allclose(later["latent_mean"], phi["latent_mean"] + 0.25 * up, atol=1e-5)
    weights = [name for name in phi if not name.startswith("latent_")]
    assert all((after[name] == phi[name]).all() for name in weights)
    assert not [name for name in dict(learner.rates[0]) if not name.startswith("latent_")]

    trainer = maesn(tmp_path, adapt_weights=True)
    phi, after = trainer.adapted(trainer.next_batch(range(12)), "first")
    assert all((after[name] != phi[name]).any() for name in [*weights, "latent_mean"])


def test_step_sizes_are_learned_or_given(tmp_path: Path) -> None:
    for learned in ("entry", "no"):
        trainer = maesn(tmp_path, learn_rates=learned, std_rate=0.3)
        before = {name: rate.detach().clone() for name, rate in trainer.learner.rates[0].items()}
        assert float(before["latent_mean"].mean()) == pytest.approx(0.5)
        assert float(before["latent_log_std"].mean()) == pytest.approx(0.15)
        trainer.train()
        moved = [(rate != before[name]).all() for name, rate in trainer.learner.rates[0].items()]
        assert moved == [learned == "entry"] * 2


def test_a_killed_maesn_goes_on_exactly(tmp_path: Path) -> None:
    """The moments of the latents' own optimiser are in the checkpoint."""
    options = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2, "auto_resume": True}
    whole = maesn(tmp_path / "whole", **options)
    whole.train()
    parts = interrupted(lambda: maesn(tmp_path / "parts", **options), (3, 5))
    assert bandit.digest(parts) == bandit.digest(whole)
    assert torch.equal(parts.learner.means, whole.learner.means)
    assert_same_files(tmp_path / "whole", tmp_path / "parts")


# ---- what is written


def test_a_run_is_measured_and_drawn(tmp_path: Path) -> None:
    """results.json holds what is measured here anew; the page shows the steps from 0 on, and the paper's figures."""
    tasks = {"name": "navigation-2d", "steps": 10}
    options = {"curve_tasks": 5, "curve_steps": 2, "paper": [-40.4, -11.7], "max_steps": 1}
    trainer = build("maml-trpo", tmp_path, tasks, **options)
    trainer.train()
    trainer.save_model(str(tmp_path / "model"))
    found = json.loads((tmp_path / "adaptation" / "results.json").read_text())["environments"]["navigation-2d"]
    torch.rand(3)  # neither the state of the generator matters, nor is it touched
    state = torch.get_rng_state()
    expected = adaptation_returns(trainer.learner, trainer.tasks.test, trainer.args, count=5, steps=2)
    assert torch.equal(state, torch.get_rng_state())
    assert found["players"]["policy"]["curve"]["mean"] == pytest.approx(expected.mean(0).tolist(), abs=1e-5)
    error = (expected.std(0) / 5**0.5).tolist()
    assert found["players"]["policy"]["curve"]["se"] == pytest.approx(error, abs=1e-5)
    assert found["exact"]["the paper's own"] == {"step_0": -40.4, "step_1": -11.7}
    page = (tmp_path / "report.html").read_text()
    for text in ("of the episodes after each gradient step", "as printed", "step_2", "−40.4", "<svg"):
        assert text in page, text

    recipe = load_recipe("gradient/rl/maml_trpo", ["tasks.steps=10", "args.hidden=[8]", "args.episodes=6"])
    scores = returns(tmp_path, recipe, 5, ["return_1", "return_0"])
    learner, _, args = load_meta_policy(tmp_path, recipe)
    args.inner_rates = trainer.args.inner_rates
    assert learner.inner_rates == [0.5, 0.1]
    assert scores["return_0"].mean == pytest.approx(float(expected[:, 0].mean()), abs=1e-5)
    assert scores["return_0"].se == pytest.approx(error[0], abs=1e-5)
    assert scores["return_1"].mean == pytest.approx(float(expected[:, 1].mean()), abs=1e-5)
    assert scores["return_1"].floor < scores["return_1"].ceiling < 0
    with pytest.raises(ConfigError, match="train the recipe first"):
        load_meta_policy(tmp_path / "nowhere", recipe)


@pytest.mark.parametrize("name", [name for name in recipe_names() if name.startswith("gradient/rl/")])
def test_every_recipe_builds_its_trainer(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name, ["args.disable_tqdm=true", "args.report_to=none"])
    trainer = import_trainer(recipe.trainer).from_recipe(recipe, tmp_path)  # type: ignore[attr-defined]
    assert trainer.tasks.env.spec.episodes == 1
    assert any(gate.recipe == name for gate in gates(["T26", "T31", "maesn"]))


def test_mistakes_in_a_recipe_are_told(tmp_path: Path) -> None:
    for override, message in (("model=tiny", "builds its own policy"), ("tasks={}", "needs tasks")):
        recipe = load_recipe("gradient/rl/promp", [override])
        with pytest.raises(ConfigError, match=message):
            ProMPTrainer.from_recipe(recipe, tmp_path)


# ---- the gates, in full


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("name", "system"), [("T26", "maml-trpo"), ("T31", "maml-trpo")])
def test_gates_hold(name: str, system: str, tmp_path: Path) -> None:
    """Trains the recipe of the gate and measures it, beside standing still and going straight to the goal."""
    (gate,) = gates([name], [system])
    recipe = gate.load(0, tmp_path)
    trainer = import_trainer(recipe.trainer).from_recipe(recipe, tmp_path)  # type: ignore[attr-defined]
    trainer.train()
    trainer.save_model(str(tmp_path / "model"))
    scores = gate.score(tmp_path, 0)
    for measure, bar in gate.bars.items():
        assert bar.passed(scores[measure].mean, scores[measure].se, scores[measure].floor), (measure, scores)
    once = trainer.tasks.env.with_spec(episodes=1)
    assert stay(once) < scores["return_1"].mean < known_task(once) + 0.1
