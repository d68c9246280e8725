"""What training left behind, ready to act: any agent of a run, and a policy for loops that are not ours.

policy = load_policy("runs/x")
state = policy.reset()
action, state = policy.act(observation, state, reward, done)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from mrt.control.agent import Agent, Shape
from mrt.control.envs import EnvTasks, Spec, make_env, make_tasks
from mrt.control.policy import ControlPolicy
from mrt.errors import ConfigError
from mrt.runs.code import import_environments
from mrt.runs.fields import field_types
from mrt.runs.recipe import Recipe, import_trainer
from mrt.runs.rundir import read_run

T = TypeVar("T", bound="FromRecipe")


def recipe_of(path: str | Path) -> Recipe | None:
    """The recipe of the run that a path is, or lies in; None where there is none."""
    for folder in (Path(path), Path(path).parent):
        found = read_run(folder).get("recipe")
        if found and "trainer" in found:
            return Recipe(**{name: found[name] for name in field_types(Recipe) if name in found})
    return None


def load_agent(path: str | Path, allow_code: bool = False) -> Agent:
    """The trained agent of a run directory, or of the folder of a saved `ControlPolicy`.

    Raises:
        ConfigError: where nothing that acts lies there, or the run's trainer is code from outside and not allowed.
    """
    recipe = recipe_of(path)
    run = Path(path).parent if Path(path).name == "model" else Path(path)
    if recipe is not None:
        if allow_code:
            import_environments(recipe.tasks, allow_code)
        trainer = import_trainer(recipe.trainer, allow_code)
        if not hasattr(trainer, "agent_of"):
            raise ConfigError(f"{path} holds no policy: what {recipe.trainer} trains does not act in environments")
        return trainer.agent_of(run, recipe)
    return load_control_policy(path)


class FromRecipe:
    """What trainers of control share: how a recipe becomes a trainer, and a run the agent that it left behind."""

    policy_class: type[Any]  # of a fresh policy, and of one that is loaded

    @classmethod
    def from_recipe(cls: type[T], recipe: Recipe, output_dir: Path) -> T:
        """The trainer that a recipe describes: its tasks, and a fresh policy or one to go on from (`model`).

        Raises:
            ConfigError: without tasks, and for what the arguments, tasks and policies say of themselves.
        """
        trainer: Any = cls
        if not recipe.tasks:
            raise ConfigError("control needs tasks in the recipe (tasks: {name: grid-navi, episodes: 4})")
        args = recipe.build_args(trainer.args_class(), output_dir)
        tasks = make_tasks(**recipe.tasks)
        torch.manual_seed(recipe.seed)
        return trainer(trainer.make_policy(recipe, tasks), args, tasks)

    @classmethod
    def make_policy(cls, recipe: Recipe, tasks: EnvTasks) -> Any:
        """The policy of a recipe: `model` names a saved one, `policy` describes a fresh one."""
        return recipe_policy(recipe, tasks.env.spec, cls.policy_class)

    @classmethod
    def agent_of(cls, run: Path, recipe: Recipe) -> Agent:
        """The policy that the run of a recipe left behind."""
        return load_control_policy(run, cls.policy_class)


def recipe_policy(recipe: Recipe, spec: Spec, kind: type[Any]) -> Any:
    """The policy of a recipe: `model` names a saved one of this `kind`, `policy` describes a fresh one.

    Raises:
        ConfigError: for both, a saved policy that is not there, and options that `kind` does not have.
    """
    if not recipe.model:
        return kind.for_spec(spec, **recipe.policy)
    if recipe.policy:
        raise ConfigError("a recipe has a model to go on from or a policy to build, not both")
    return load_control_policy(recipe.model, kind)


def load_control_policy(path: str | Path, kind: type[Any] = ControlPolicy) -> Any:
    """A saved `ControlPolicy`, or another `kind` of pretrained policy: its own folder, or a run's (RUN/model).

    Raises:
        ConfigError: when there is none, or the folder holds something else.
    """
    folder = Path(path) / "model" if (Path(path) / "model").is_dir() else Path(path)
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"{path} holds no policy: a folder with config.json and model.safetensors, or a run, is needed"
        )
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
        if found != kind.config_class.model_type:  # transformers would only warn, and draw fresh weights
            raise ValueError(f"it holds a model of type {found!r}, not {kind.config_class.model_type!r}")
        return kind.from_pretrained(folder, local_files_only=True).eval()
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{folder} does not load as a policy: {error}") from error


class Acting(NamedTuple):
    """Where a trial stands: the agent's memory, and what it did last."""

    memory: Any
    action: Tensor | None
    rows: int | None


class LoadedPolicy:
    """An agent for loops that are not ours. Memory lasts from `reset` on, over the ends of episodes: reset once a task.

    Args:
        greedy: the best action instead of a draw.
        space: the action space of a Gymnasium environment; actions are then its own. Without one continuous actions
            are in [-1, 1].
    """

    def __init__(self, agent: Agent, greedy: bool = True, space: Any = None) -> None:
        if agent.shape is None:
            raise ConfigError(f"{type(agent).__name__} does not say what it sees and does")
        self.agent, self.greedy, self.space = agent, greedy, space
        self.shape: Shape = agent.shape

    def reset(self, rows: int | None = None) -> Acting:
        """The state at the start of a trial: of one environment, or of `rows` side by side."""
        return Acting(self.agent.init_state(rows or 1), None, rows)

    @torch.no_grad()
    def act(self, observation: Any, state: Acting, reward: Any = 0.0, done: Any = False) -> tuple[Any, Acting]:
        """One step.

        Args:
            observation: (D,), or (rows, D): what the environment shows now, an array or a tensor.
            reward, done: what the last step brought; leave them out in the first step of an episode.

        After the last step of an episode call it once more, with the last observation and `done=True`: the action is
        not used, and the memory learns how the episode ended. Then reset the environment and go on with the same state.

        Returns:
            The action, a number or an array (with rows in front, as the state was reset), and the next state.

        Raises:
            ConfigError: for an observation of another size than the policy was trained on.
        """
        count = state.rows or 1
        seen = {"observation": torch.as_tensor(np.asarray(observation), dtype=torch.float32).reshape(count, -1)}
        if seen["observation"].shape[1] != self.shape.observation:
            raise ConfigError(
                f"the observation has {seen['observation'].shape[1]} numbers, the policy sees {self.shape.observation}"
            )
        ended = torch.as_tensor(np.asarray(done), dtype=torch.float32).reshape(-1).expand(count)
        seen |= {"reward": torch.as_tensor(np.asarray(reward), dtype=torch.float32).reshape(-1).expand(count)}
        seen |= {"done": ended, "action": self._nothing(count) if state.action is None else state.action}
        memory = state.memory
        if self.agent.cadence == "episode" and bool(ended.any()):
            memory = self.agent.adapt(seen, memory, ended > 0.5)
        choice = self.agent.act(seen, memory, self.greedy)
        actions = choice.actions.cpu()
        over = ended > 0.5
        last = torch.where(over if not actions.is_floating_point() else over[:, None], self._nothing(count), actions)
        return self._outside(actions, state.rows), Acting(choice.state, last, state.rows)

    def _nothing(self, rows: int) -> Tensor:
        if self.shape.actions:
            return torch.full((rows,), -1)
        return torch.zeros(rows, self.shape.action_size)

    def _outside(self, actions: Tensor, rows: int | None) -> Any:
        found = actions.numpy()
        if self.space is not None:
            from mrt.control.envs.gym_spaces import own_actions

            found = own_actions(self.space, found)
        if rows is not None:
            return found
        return int(found[0]) if self.shape.actions else found[0]


def load_policy(path: str | Path, greedy: bool = True, allow_code: bool = False) -> LoadedPolicy:
    """The trained policy of a run, of any kind, to act in any environment.

    Raises:
        ConfigError: as `load_agent`.
    """
    recipe, space = recipe_of(path), None
    agent = load_agent(path, allow_code)
    if recipe is not None and {"gymnasium", "env"} & set(recipe.tasks):
        space = make_env(**{k: v for k, v in recipe.tasks.items() if k != "split"}).action_space  # type: ignore[attr-defined]
    return LoadedPolicy(agent, greedy, space)
