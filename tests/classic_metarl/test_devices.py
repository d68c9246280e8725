"""Where tensors lie: environments that move, trainers that move theirs, and every kind of system on a GPU.

What trains is trained by its own recipe, on the CPU always and on CUDA where there is one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor
from torch.utils._pytree import tree_leaves
from transformers import TrainingArguments

from classic_metarl.gradient.continuous import chain_returns
from classic_metarl.gradient.maesn import structured_noise
from classic_metarl.meta_learned.l2l import learned_rule, optimise
from classic_metarl.problems.paired import paired_tasks
from classic_metarl.trainers.loss_curves import TEST_SEED, loss_curve
from classic_metarl.trainers.meta_rl import GradientRLTrainer
from classic_metarl.trainers.return_curves import adaptation_returns
from mrt.control.agent import Entrant
from mrt.control.envs import ENVS, EnvTasks, make_env, make_tasks
from mrt.control.evaluation.run import evaluate_policy
from mrt.control.interaction import first_inputs
from mrt.control.oracles import task_bounds
from mrt.control.policy import ControlPolicy
from mrt.control.rollout import rollout
from mrt.control.trainer import ControlConfig, ControlTrainer
from mrt.runs.recipe import import_trainer, load_recipe
from mrt.training.collection import Batch

pytestmark = pytest.mark.training

CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"))
DEVICES = ["cpu", CUDA]
QUICK = ("max_steps=2", "logging_steps=1", "save_strategy=no", "disable_tqdm=true", "report_to=none")
BATCH = "args.per_device_train_batch_size"
EPISODES = ("args.episodes=3", f"{BATCH}=3", "args.curve_tasks=3", "args.curve_steps=1", "args.hidden=[8]")
NAVIGATION = ("tasks.steps=6", *EPISODES)
SHORT: dict[str, dict[str, Any]] = {  # trials that would take a GPU seconds, a step at a time
    **{key: {"pulls": 10} for key in ("gaussian-bandit", "dependent-bandit", "restless-bandit")},
    **{key: {"steps": 10} for key in ("navigation-2d", "four-corners", "maze")},
    "two-step": {"choices": 5},
    "tabular-mdp": {"episodes": 2},
    "fading-legs": {"stages": 3, "each": 1, "steps": 5},
    "sumo": {"rounds": 3, "steps": 10},
}
IMAGES = (f"{BATCH}=2", "problems.classes=6", "args.hidden=[4]")
CONTROL = {
    "control/rl2-bandit": (f"{BATCH}=8",),
    "control/rl2-grid-navi": (f"{BATCH}=8", "tasks.episodes=2", "args.probe_samples=2", "args.credit=progress"),
    "control/rl2_trpo-bandit": (f"{BATCH}=8",),
    "control/transformer-bandit": (f"{BATCH}=8",),
    "control/distilled-bandit": (f"{BATCH}=8",),
    "inference/varibad-grid-navi": (f"{BATCH}=8", "tasks.episodes=2", "args.updates_per_step=1"),
    "inference/task_inference-grid-navi": (f"{BATCH}=8", "tasks.episodes=2", "args.updates_per_step=1"),
}
INFERENCE = {
    "inference/pearl": ("tasks.steps=4", f"{BATCH}=4", "args.random_steps=24", "args.updates_per_step=2"),
    "inference/pearl-sparse": ("tasks.steps=4", f"{BATCH}=4", "args.random_steps=24", "args.updates_per_step=2"),
    "inference/metacure-sparse": ("tasks.steps=4", f"{BATCH}=4", "args.random_steps=24", "args.updates_per_step=2"),
    "inference/meld-linear-gaussian": (f"{BATCH}=4", "args.random_steps=40", "args.updates_per_step=2"),
    "inference/meld-pictures": (
        *("tasks.options={episodes: 2, steps: 3}", f"{BATCH}=2", "args.random_steps=12"),
        *("args.updates_per_step=2", "args.batch_size=4"),
    ),
    "inference/dream-bus": ("tasks.steps=4", f"{BATCH}=8", "args.random_steps=24", "args.updates_per_step=2"),
    "inference/import-bus": ("tasks.steps=4", f"{BATCH}=8", "args.random_steps=24", "args.updates_per_step=2"),
}
META_RL = {
    "gradient/rl/maml_trpo": (*NAVIGATION, "args.curvature_share=0.5"),
    "gradient/rl/emaml": NAVIGATION,
    "gradient/rl/promp": NAVIGATION,
    "gradient/rl/mame": NAVIGATION,
    "gradient/rl/maesn": (*NAVIGATION, "args.num_tasks=6"),
    "gradient/rl/corners_trpo": NAVIGATION,
    "gradient/continuous": ("tasks.steps=4", "tasks.each=3", "tasks.stages=3", *EPISODES),
}
FEW_SHOT = {
    "gradient/maml": (f"{BATCH}=3",),
    "gradient/reptile": (f"{BATCH}=3",),
    "gradient/meta_sgd": (f"{BATCH}=3",),
    "gradient/meta_lstm": (f"{BATCH}=3",),
    "gradient/baldwin": (f"{BATCH}=3", "args.population=4"),
    "gradient/mil": (f"{BATCH}=3", "args.hidden=[8]"),
    "gradient/mil_baseline": (f"{BATCH}=3", "args.hidden=[8]"),
    "gradient/strokes/maml": (*IMAGES, "problems.model=conv"),
    "gradient/strokes/matching": (*IMAGES, "problems.model=conv"),
    "gradient/strokes/finetune": IMAGES,
    "gradient/strokes/mann": IMAGES,
    "gradient/strokes/tcml": IMAGES,
}


@pytest.fixture(autouse=True)
def fresh_state() -> Iterator[None]:
    """Accelerate remembers the device of the trainer before."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def build(name: str, device: str, folder: Path, *overrides: str) -> Any:
    """The trainer of a recipe, on this device."""
    quick = [f"args.{item}" for item in QUICK]
    recipe = load_recipe(name, [*quick, f"args.use_cpu={str(device == 'cpu').lower()}", *overrides])
    return import_trainer(recipe.trainer).from_recipe(recipe, folder)


def trained(name: str, device: str, folder: Path, *overrides: str) -> Any:
    trainer = build(name, device, folder, *overrides)
    trainer.train()
    assert trainer.state.global_step == 2
    assert trainer.args.device.type == device
    assert {p.device.type for p in trainer.model.parameters()} == {device}
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert len(losses) == 2
    assert all(map(math.isfinite, losses))
    return trainer


def devices_of(tree: Any) -> set[str]:
    return {leaf.device.type for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)}


# ---- environments


@pytest.mark.parametrize("name", ENVS)
def test_every_tensor_of_an_environment_moves(name: str) -> None:
    tasks = make_tasks(name)
    env = tasks.env
    env.reset(tasks.batch(0, [0, 1]))
    assert env.to("cpu") is env
    assert tasks.to("cpu") is tasks
    there = env.to("meta")
    assert devices_of(vars(there)) == {"meta"}
    assert there.device.type == "meta"
    assert there.spec == env.spec
    assert devices_of(vars(env)) == {"cpu"}, "the first one stays where it was"
    assert devices_of(tasks.to("meta").batch(0, [0, 1])) == {"meta"}
    assert devices_of(vars(ENVS[name](device="meta"))) == {"meta"}, "built there, it is the same"


def test_what_moved_is_the_same() -> None:
    env: Any = make_env("maze", view="first_person", size=3)
    there: Any = env.to("meta")
    assert type(there.rays) is type(env.rays)
    assert [part.shape for part in there.rays] == [part.shape for part in env.rays]
    assert there.walls == env.walls
    assert there.ranges == env.ranges


def test_both_environments_of_paired_tasks_move() -> None:
    paired = paired_tasks("sparse-semicircle", reward="dense", test={"reward": "sparse"})
    there = paired.to("meta")
    assert type(there) is type(paired)
    assert there.env.device.type == there.test.env.device.type == "meta"
    assert there.test.env.reward == "sparse"
    assert paired.to("cpu") is paired
    plain = paired_tasks("sparse-semicircle", split="test").to("meta")
    assert plain.test == EnvTasks(plain.env, "test")
    assert plain.test_env is None


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ENVS)
def test_an_environment_plays_and_is_bounded_on_its_device(name: str, device: str) -> None:
    here = make_tasks(name, **SHORT.get(name, {}))
    tasks = here.to(torch.device(device))
    params, drawn = tasks.batch(3, range(2)), here.batch(3, range(2))
    assert all(params[key].cpu().equal(value) for key, value in drawn.items())
    policy = ControlPolicy.for_spec(tasks.env.spec, hidden_size=4, memory="none").to(device)
    trials = rollout(tasks.env, policy, params, seed=1)
    assert devices_of(dict(trials._tensors())) == {device}
    bounds = task_bounds(tasks.env, params)
    assert devices_of(tuple(bounds)) == {device}
    expected = task_bounds(here.env, drawn)
    assert torch.allclose(bounds.ceiling.cpu().double(), expected.ceiling.double(), atol=1e-4)


# ---- trainers


@pytest.mark.parametrize("name", [*CONTROL, *META_RL])
def test_a_trainer_moves_its_tasks(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = build(name, "cpu", tmp_path, *(CONTROL | META_RL)[name])
    assert trainer.tasks.env.device == trainer.args.device
    monkeypatch.setattr(TrainingArguments, "device", torch.device("meta"))
    moved = build(name, "cpu", tmp_path, *(CONTROL | META_RL)[name])
    assert moved.tasks.env.device == moved.args.device == torch.device("meta")
    assert devices_of(vars(moved.tasks.env)) == {"meta"}
    if isinstance(moved, GradientRLTrainer):
        assert moved.tasks.test.env.device.type == "meta"


@pytest.mark.parametrize("device", DEVICES)
def test_a_trainer_of_a_library_user_moves_its_tasks(device: str, tmp_path: Path) -> None:
    tasks = make_tasks("hallway", half=2, episodes=2)
    args = ControlConfig(
        output_dir=str(tmp_path), max_steps=1, use_cpu=device == "cpu", disable_tqdm=True, report_to="none"
    )
    trainer = ControlTrainer(ControlPolicy.for_spec(tasks.env.spec, hidden_size=4), args, tasks)
    assert trainer.tasks.env.device == trainer.args.device
    assert tasks.env.device.type == "cpu", "the user's own stay"
    trainer.train()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", CONTROL | INFERENCE)
def test_control_trains_and_is_evaluated(name: str, device: str, tmp_path: Path) -> None:
    trainer = trained(name, device, tmp_path, *(CONTROL | INFERENCE)[name])
    for tasks in (trainer.tasks, trainer.tasks.to("cpu")):
        found = evaluate_policy(trainer.policy, tasks, count=6, progress=False)
        assert math.isfinite(found["players"]["policy"]["measures"]["total"]["mean"])
    player = Entrant(trainer.policy.eval())
    seen = first_inputs(tasks.env.spec, torch.zeros(2, tasks.env.spec.observation))
    assert player.act(seen, player.init_state(2)).actions.device.type == device


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", META_RL)
def test_meta_rl_trains_and_is_evaluated(name: str, device: str, tmp_path: Path) -> None:
    trainer = trained(name, device, tmp_path, *META_RL[name])
    assert (tmp_path / "adaptation" / "results.json").is_file()
    before = torch.get_rng_state(), torch.cuda.get_rng_state() if device == "cuda" else torch.zeros(0)
    found = adaptation_returns(
        trainer.learner, trainer.tasks.test.to("cpu"), trainer.args, count=2, steps=1, episodes=3
    )
    assert found.device.type == "cpu"
    assert bool(found.isfinite().all())
    if "continuous" in name:
        assert bool(chain_returns(trainer.learner, trainer.tasks, trainer.args, 2, seed=1).isfinite().all())
    after = torch.get_rng_state(), torch.cuda.get_rng_state() if device == "cuda" else torch.zeros(0)
    assert all(one.equal(other) for one, other in zip(before, after, strict=True))
    if "maesn" in name:
        assert all(map(math.isfinite, structured_noise(trainer.learner, trainer.tasks.test, zs=3, repeats=2)))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", FEW_SHOT)
def test_few_shot_systems_train_and_are_evaluated(name: str, device: str, tmp_path: Path) -> None:
    trainer = trained(name, device, tmp_path, *FEW_SHOT[name])
    curve = loss_curve(trainer.model, trainer.family, 3, None)
    assert curve.device.type == "cpu"
    assert bool(curve[:, -1].isfinite().all())
    if "/mil" in name:
        tasks = [trainer.family.sample(TEST_SEED, i) for i in range(3)]
        right, _ = trainer.family.reached(tasks, trainer.model.policy(trainer.family.demonstration(tasks, 0)))
        assert right.shape == (3,)


@pytest.mark.parametrize("device", DEVICES)
def test_a_learned_optimiser_trains_and_is_evaluated(device: str, tmp_path: Path) -> None:
    trainer = trained("gradient/l2l", device, tmp_path, f"{BATCH}=3")
    matrix, target = (part.to(device) for part in trainer.tasks.batch([trainer.tasks.sample(1, i) for i in range(3)]))
    assert bool(optimise(learned_rule(trainer.model, target.numel()), matrix, target, 3).isfinite().all())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("estimator", ["dice", "exact"])
def test_two_players_train(estimator: str, device: str, tmp_path: Path) -> None:
    trained("gradient/lola", device, tmp_path, f"{BATCH}=4", "args.steps=5", f"args.estimator={estimator}")


# ---- what a resume brings back, and what a GPU computes


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("control/rl2-bandit", (f"{BATCH}=8",)),
        ("inference/varibad-grid-navi", (f"{BATCH}=8", "tasks.episodes=2", "args.updates_per_step=1")),
        ("gradient/rl/promp", NAVIGATION),
        ("gradient/l2l", (f"{BATCH}=3",)),
        ("gradient/lola", (f"{BATCH}=4", "args.steps=5")),
    ],
)
def test_a_resumed_run_goes_on_where_it_was(name: str, overrides: tuple[str, ...], device: str, tmp_path: Path) -> None:
    """Checkpoint 1 lies inside a collection, or a stretch: what was collected comes back to the device."""
    saving = (*overrides, "args.save_strategy=steps", "args.save_steps=1", "args.save_total_limit=3")
    whole = trained(name, device, tmp_path, *saving)
    again = build(name, device, tmp_path, *saving)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    pairs = zip(whole.model.parameters(), again.model.parameters(), strict=True)
    assert all(torch.allclose(one, other, atol=0 if device == "cpu" else 1e-4) for one, other in pairs)


def updated(name: str, device: str, folder: Path, trials: Any) -> tuple[Any, Tensor]:
    """One update of a fresh trainer on these trials, or on its own: the trials, and the parameters after it.

    So few episodes determine few directions: more steps of conjugate gradient would enlarge the rounding in the others.
    """
    few = ("args.cg_iterations=3",) if "trpo" in name else ()
    trainer = build(name, device, folder, *NAVIGATION, *few)
    if trials is None:
        trials = trainer.collect_on([0, 1, 2])
    given = Batch.from_tree(trials.to_tree(), trainer.args.device)
    if not trainer.update(given):
        trainer.losses(given)["policy"].backward()
        with torch.no_grad():
            for parameter in trainer.learner.parameters():
                parameter -= 0.1 * parameter.grad
    return trials, torch.cat([p.detach().cpu().flatten() for p in trainer.learner.parameters()])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["gradient/rl/maml_trpo", "gradient/rl/promp"])
def test_one_update_is_the_same_on_every_device(name: str, device: str, tmp_path: Path) -> None:
    trials, here = updated(name, "cpu", tmp_path, None)
    AcceleratorState._reset_state(reset_partial_state=True)
    _, there = updated(name, device, tmp_path, trials)
    assert float((here - there).abs().max()) < 1e-4
