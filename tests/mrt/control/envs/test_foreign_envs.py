"""Environments of others in recipes: by a Gymnasium id, or by a class of one's own where code is allowed."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("gymnasium", reason="the extra [control] is not installed")

from classic_metarl.problems.paired import paired_tasks
from mrt.cli.main import main
from mrt.control.envs import SPLITS, make_env, make_tasks
from mrt.control.envs.variation import Variation
from mrt.errors import ConfigError
from mrt.runs.recipe import load_recipe
from mrt.tasks import split_of

pytestmark = pytest.mark.training

PENDULUM = {"gymnasium": "Pendulum-v1", "vary": {"g": [5, 15]}, "episodes": 2, "episode_steps": 10}
RECIPE = """
trainer: mrt.control.trainer:ControlTrainer
tasks: {tasks}
policy: {{memory: gru, hidden_size: 8}}
args: {{max_steps: 2, per_device_train_batch_size: 4, bounds: false, use_cpu: true, save_strategy: "no"}}
"""
OWN = """
import gymnasium, numpy
from mrt.control.envs import Spec, TensorEnv
import torch

class Slide(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-9, 9, (1,), numpy.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, goal=0.0, size=4):
        self.goal, self.size, self.friction = goal, size, 0.0

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.place = 0.0
        return numpy.zeros(1, numpy.float32), {}

    def step(self, action):
        self.place += (2 * action - 1) * (1 - self.friction)
        return numpy.array([self.place], numpy.float32), -abs(self.place - self.goal), False, False, {}

class Guess(TensorEnv):
    name = "guess"

    def __init__(self, steps=3, device="cpu"):
        super().__init__(Spec(1, steps, 1, actions=2), device)

    def task_params(self, u):
        return {"side": (u[:, 0] >= 0.5).long()}

    def begin_episode(self, u):
        return {}

    def move(self, actions, u):
        return {}, (actions == self.params["side"]).float(), torch.zeros_like(self.waiting)

    def observe(self):
        return torch.zeros(len(self.waiting), 1)

def factory():
    return Slide()
"""


@pytest.fixture
def own_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `slides.py` in it, where commands are run."""
    (tmp_path / "slides.py").write_text(OWN, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "slides", raising=False)
    return tmp_path


def test_a_varied_argument_reaches_the_constructor() -> None:
    tasks = make_tasks(**PENDULUM)
    params = tasks.batch(0, range(3))
    tasks.env.reset(params)
    gravities = [slot.env.unwrapped.g for slot in tasks.env.lease.vector.envs]  # type: ignore[attr-defined]
    assert gravities == [5 + 10 * u for u in params["u"][:, 0].tolist()]
    assert tasks.env.task_key(params, 0) == f"Pendulum-v1:g={gravities[0]:.9g}"


def test_what_the_constructor_does_not_take_is_an_attribute() -> None:
    tasks = make_tasks(gymnasium="Pendulum-v1", vary={"m": [1, 3]}, l=2.0, g=4.0, episode_steps=5)
    params = tasks.batch(1, range(2))
    tasks.env.reset(params)
    for slot, u in zip(tasks.env.lease.vector.envs, params["u"][:, 0].tolist(), strict=True):  # type: ignore[attr-defined]
        inner = slot.env.unwrapped
        assert (inner.m, inner.l, inner.g) == (1 + 2 * u, 2.0, 4.0)


def test_splits_are_disjoint_and_full() -> None:
    found = {}
    for split in ("train", "test"):
        tasks = make_tasks(split=split, **PENDULUM)
        params = tasks.batch(0, range(60))
        found[split] = set(tasks.env.task_keys(params, 60, 60))
    assert not found["train"] & found["test"]
    assert all(len(keys) == 60 for keys in found.values())


def test_paired_tasks_take_them_too() -> None:
    tasks = paired_tasks(**PENDULUM, test={"episode_steps": 20})
    assert (tasks.env.spec.episode_steps, tasks.test.env.spec.episode_steps) == (10, 20)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"gymnasium": "Pendulm-v1"}, "did you mean 'Pendulum-v1'"),
        ({"gymnasium": "no_such_package:Thing-v0"}, "allow it with --allow-code"),
        ({"env": "no_such_package:Thing"}, "allow it with --allow-code"),
        ({"env": "os:system"}, "neither a gymnasium.Env nor a TensorEnv"),
        ({"env": "mrt.control.envs.grids:GridNavy"}, "did you mean 'GridNavi'"),
        ({"env": "mrt.control.envs.grids:GridNavi", "vary": {"size": [3, 4]}}, "draws its own tasks"),
        ({"env": "mrt.control.envs.grids:GridNavi", "step": 3}, "has no option 'step'; did you mean 'steps'"),
        ({**PENDULUM, "vary": {"gg": [5, 15]}}, "takes no 'gg'; did you mean 'g'"),
        ({**PENDULUM, "maximal_speed": 3}, "takes no 'maximal_speed'; did you mean 'max_speed'"),
        ({**PENDULUM, "g": 3}, "'g' of 'Pendulum-v1' is fixed and varied too"),
        ({**PENDULUM, "task": 3}, "'task' of 'Pendulum-v1' has another meaning"),
        ({**PENDULUM, "episodes": 0}, "tasks.episodes=0 must be an integer of at least 1"),
        ({**PENDULUM, "vary": [5]}, "should map parameters"),
        ({**PENDULUM, "name": "grid-navi"}, "need one of name"),
        ({}, "need one of name"),
    ],
)
def test_mistakes_are_named(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_env(**options)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"range": [3, 1]}, "the lower one first"),
        ({"range": [1, float("inf")]}, "two finite numbers"),
        ({"integers": [1, 2.5]}, "two integers"),
        ({"chocies": [1]}, "did you mean 'choices'"),
        ([], "a list of choices"),
        (3, "a list of choices"),
    ],
)
def test_values_of_another_form_are_named(values: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Variation({"g": values})


def test_each_form_of_values() -> None:
    task = Variation(
        {"a": [1, 3], "b": ["x", "y"], "c": {"integers": [2, 4]}, "d": {"choices": [1, 9]}, "e": [5, 6, 7]}
    )
    assert task.draws == 5
    assert task([0.0, 0.0, 0.0, 0.0, 0.0]) == {"a": 1.0, "b": "x", "c": 2, "d": 1, "e": 5}
    assert task([0.5, 0.6, 0.5, 0.6, 0.5]) == {"a": 2.0, "b": "y", "c": 3, "d": 9, "e": 6}
    assert task([1 - 2**-24] * 5)["c"] == 4


def test_small_changes_keep_to_ranges_and_leave_choices() -> None:
    tasks = make_tasks(gymnasium="Pendulum-v1", vary={"g": [5, 15], "m": {"choices": [1.0, 2.0]}}, split="train")
    params = tasks.batch(0, range(50))
    changed = tasks.mutate(params, 7, range(50), size=0.05)
    moved = (changed["u"] - params["u"])[:, 0].abs()
    assert float(moved.max()) <= 0.05 + 1e-6
    assert float(moved.min()) > 0
    assert torch.equal(changed["u"][:, 1], params["u"][:, 1])
    inside = {key for key in tasks.env.task_keys(changed, 50, 50) if split_of(key, SPLITS) == "train"}
    assert len(inside) == 50
    assert torch.equal(tasks.mutate(params, 7, range(50), size=0.05)["u"], changed["u"])
    fixed = make_tasks(gymnasium="Pendulum-v1", vary={"g": [1, 2, 3]})
    with pytest.raises(ConfigError, match="no parameter of these tasks has a range"):
        fixed.mutate(fixed.batch(0, range(2)), 0, range(2))


def write(folder: Path, tasks: str) -> str:
    (folder / "recipe.yaml").write_text(RECIPE.format(tasks=tasks), encoding="utf-8")
    return str(folder / "recipe.yaml")


def test_a_recipe_trains_on_a_gymnasium_id(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, "{gymnasium: Pendulum-v1, vary: {g: [5, 15]}, episodes: 2, episode_steps: 5, split: train}")
    assert main(["train", path, f"output_dir={tmp_path / 'run'}"]) == 0
    assert (tmp_path / "run" / "model" / "config.json").is_file()


@pytest.mark.parametrize(
    "tasks", ["{env: slides:Slide, vary: {goal: [-2, 2]}, episode_steps: 4}", "{env: slides:Guess}"]
)
def test_a_recipe_trains_on_a_class_of_ones_own(
    own_package: Path, capsys: pytest.CaptureFixture[str], tasks: str
) -> None:
    path = write(own_package, tasks)
    assert main(["train", path, "output_dir=run"]) == 2
    assert "allow it with --allow-code" in capsys.readouterr().err
    assert "slides" not in sys.modules
    assert main(["train", path, "output_dir=run", "--allow-code"]) == 0
    assert (own_package / "run" / "model" / "config.json").is_file()


def test_code_is_imported_by_permission_only(own_package: Path) -> None:
    for tasks in ("{env: slides:Slide}", "{gymnasium: 'slides:Slide-v0'}"):
        with pytest.raises(ConfigError, match="--allow-code"):
            load_recipe(write(own_package, tasks))
        assert "slides" not in sys.modules
    with pytest.raises(ConfigError, match="no such class"):
        load_recipe(write(own_package, "{env: slides:Slip}"), allow_code=True)
    load_recipe(write(own_package, "{env: slides:factory}"), allow_code=True)
    with pytest.raises(ConfigError, match="neither a gymnasium"):
        make_env(env="slides:factory")


def test_tasks_say_where_they_come_from_once(tmp_path: Path) -> None:
    for tasks in ("{vary: {g: [1, 2]}}", "{gymnasium: 3}", "{name: grid-navi, gymnasium: Pendulum-v1}"):
        with pytest.raises(ConfigError, match=r"tasks needs a name .* or one of gymnasium and env"):
            load_recipe(write(tmp_path, tasks))


def test_without_gymnasium_a_recipe_names_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("mrt.control.envs.gym")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(ConfigError, match=r"pip install 'mrt-rl\[control\]'"):
        make_env(gymnasium="Pendulum-v1")


def test_gradient_systems_train_on_them_and_draw_a_curve_without_bounds(tmp_path: Path) -> None:
    tasks = "tasks={gymnasium: Pendulum-v1, vary: {g: [5, 15]}, episode_steps: 5}"
    quick = ["args.max_steps=1", "args.per_device_train_batch_size=2", "args.curve_tasks=3", "args.episodes=2"]
    assert main(["train", "gradient/rl/promp", tasks, *quick, f"output_dir={tmp_path / 'run'}"]) == 0
    assert (tmp_path / "run" / "report.html").is_file()
