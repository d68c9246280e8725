"""An agent that plans in a model of the dynamics, and the trainer of the model: what GrBAL, ReBAL and MOLe share.

At every step the last transition goes into the memory phi, which makes a model of the present task; the planner acts
by it. The model predicts how the observation changes; what the planner wants is the environment's `planned_reward`. An
environment may say what of an observation actions move (`predicted`) and what that depends on (`sees`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from classic_metarl.model_based.planning import Model, Planner, Reward
from mrt.control.agent import Agent, Choice, RandomAgent, Seen, Shape
from mrt.control.envs import EnvTasks, Spec, make_env
from mrt.control.loading import FromRecipe, load_control_policy
from mrt.control.rollout import rollout
from mrt.errors import ConfigError, nearest
from mrt.runs.recipe import Recipe
from mrt.trainer import TrialConfig, TrialTrainer
from mrt.training.collection import Batch, Collection
from mrt.trials import Trials


class ModelConfig(PreTrainedConfig):
    """Shapes as in `Spec`; networks of `layers` hidden layers of `hidden_size`; `planner` are options of `Planner`.

    The model predicts the first `predicted` numbers of an observation, from those at `sees` and the action: places are
    left out where nothing depends on where one is.
    """

    model_type = "mrt-dynamics"

    def __init__(
        self,
        observation: int = 1,
        action_size: int = 1,
        *,
        hidden_size: int = 32,
        layers: int = 2,
        predicted: int = 0,
        sees: Sequence[int] | None = None,
        planner: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.observation, self.action_size = observation, action_size
        self.hidden_size, self.layers, self.predicted = hidden_size, layers, predicted
        self.sees = list(range(observation)) if sees is None else list(sees)
        self.planner = dict(planner or {})
        super().__init__(**kwargs)


class Transition(NamedTuple):
    """One step of B tasks: observation (B, D), action (B, A) and how the predicted numbers changed (B, P); `there` (B,)
    says for whom there is one.
    """

    observation: Tensor
    action: Tensor
    change: Tensor
    there: Tensor


class Planning(NamedTuple):
    """State of B trials: `memory` of the model, `plan` (B, H, A), and the last observation (B, D) and action (B, A)."""

    memory: Any
    plan: Tensor
    observation: Tensor
    action: Tensor
    steps: Tensor


class ModelAgent(PreTrainedModel, Agent):
    """A subclass gives `begin`, `learn` and `changes`. It plans for `reward`, which whoever loads it sets."""

    config_class: type[Any] = ModelConfig
    base_model_prefix = "policy"
    main_input_name = "observation"
    reward: Reward | None = None

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.shape = Shape(config.observation, 0, config.action_size)
        self.width = len(config.sees) + config.action_size
        try:
            self.planner = Planner(**config.planner)
        except TypeError as error:
            raise ConfigError(f"policy.planner={config.planner}: {error}") from error

    def _init_weights(self, module: nn.Module) -> None:
        """Parts come initialised."""

    @classmethod
    def for_spec(cls, spec: Spec, **options: Any) -> Any:
        """A fresh agent for an environment.

        Raises:
            ConfigError: for discrete actions, and for an option that there is none of.
        """
        if spec.actions:
            raise ConfigError("planning draws continuous actions, this environment has discrete ones")
        kind = cls.config_class
        known = set(kind().to_dict()) - set(PreTrainedConfig().to_dict()) - {"observation", "action_size"}
        for name in options:
            if name not in known:
                raise ConfigError(f"policy has no option '{name}'; {nearest(name, known)}")
        return cls(kind(spec.observation, spec.action_size, **{"predicted": spec.observation, **options}))

    def inputs(self, observation: Tensor, action: Tensor) -> Tensor:
        """(..., width) what the model sees of observations (..., D) and actions (..., A)."""
        return torch.cat([observation[..., self.config.sees], action], -1)

    @abstractmethod
    def begin(self, rows: int) -> Any:
        """The memory of the model at the start of `rows` trials."""

    @abstractmethod
    def learn(self, memory: Any, step: Transition) -> Any:
        """The memory after a step."""

    @abstractmethod
    def changes(self, memory: Any) -> Model:
        """(observations (B, N, D), actions (B, N, A)) -> predicted changes (B, N, P), by the present task's model."""

    def error(self, memory: Any, step: Transition) -> Tensor:
        """(B,) squared error of what the model says of a step."""
        found = self.changes(memory)(step.observation[:, None], step.action[:, None])[:, 0]
        return (found - step.change).square().sum(-1)

    def init_state(self, rows: int) -> Planning:
        config = self.config
        observation = torch.zeros(rows, config.observation, device=self.device)
        plan = torch.zeros(rows, self.planner.horizon, config.action_size, device=self.device)
        steps = torch.zeros(rows, dtype=torch.long, device=self.device)
        return Planning(self.begin(rows), plan, observation, torch.zeros_like(plan[:, 0]), steps)

    @torch.no_grad()
    def act(
        self, seen: Seen, state: Planning, greedy: bool = False, generator: torch.Generator | None = None
    ) -> Choice:
        """`greedy` or not, the planner's first action; it draws candidates from `generator`."""
        if self.reward is None:
            raise ConfigError("the planner does not know what is paid: set agent.reward, or load the agent of a run")
        observation, width = seen["observation"].to(self.device), self.config.predicted
        change = (observation - state.observation)[:, :width]
        step = Transition(state.observation, state.action, change, state.steps > 0)
        told = self.error(state.memory, step)  # before it is learned from
        memory = self.learn(state.memory, step) if bool(step.there.any()) else state.memory
        changes = self.changes(memory)

        def model(now: Tensor, actions: Tensor) -> Tensor:
            moved = now[..., :width] + changes(now, actions)
            return torch.cat([moved, now[..., width:]], -1)

        plan = self.planner(model, self.reward, observation, state.plan, generator)
        action = plan[:, 0]
        moved_on = torch.cat([plan[:, 1:], torch.zeros_like(plan[:, :1])], 1)
        nothing = torch.zeros(len(action), device=action.device)
        following = Planning(memory, moved_on, observation, action, state.steps + 1)
        return Choice(action, nothing, nothing + torch.nan, following, {"model_error": told})


def network(width: int, config: ModelConfig) -> nn.Sequential:
    """From `width` numbers to the predicted changes."""
    parts: list[nn.Module] = []
    for _ in range(config.layers):
        parts += [nn.Linear(width, config.hidden_size), nn.Tanh()]
        width = config.hidden_size
    return nn.Sequential(*parts, nn.Linear(width, config.predicted))


@dataclass
class ModelArguments(TrialConfig):
    """Arguments of a `ModelTrainer`. `per_device_train_batch_size` counts the trials of random play in a collection."""

    epochs: int = field(default=10, metadata={"help": "updates on a collection of trials"})
    windows: int = field(default=8, metadata={"help": "places in each trial that an update predicts from"})
    ahead: int = field(default=4, metadata={"help": "K, steps behind each place that are predicted"})

    def __post_init__(self) -> None:
        if min(self.epochs, self.windows, self.ahead) < 1:
            raise ConfigError(f"epochs={self.epochs}, windows={self.windows}, ahead={self.ahead} must be at least 1")
        super().__post_init__()


class ModelTrainer(FromRecipe, TrialTrainer):
    """Random play on new tasks, and the model's loss on it. A subclass gives `policy_class` and `model_loss`."""

    args: ModelArguments
    tasks: EnvTasks
    rows_written = 8

    def __init__(self, model: Any, args: Any, tasks: EnvTasks, **kwargs: Any) -> None:
        if not hasattr(tasks.env, "planned_reward"):
            raise ConfigError(f"{tasks.name} has no planned_reward(observation, actions, after), which a planner needs")
        super().__init__(model, args, tasks.to(args.device), **kwargs)
        self.collection = Collection(args.device)
        self.register_state("collection", self.collection)

    @classmethod
    def args_class(cls) -> type:
        return ModelArguments

    @classmethod
    def make_policy(cls, recipe: Recipe, tasks: EnvTasks) -> Any:
        """A fresh agent that predicts what actions move, or a saved one."""
        if not recipe.model:
            env: Any = tasks.env
            facts = {name: getattr(env, name) for name in ("predicted", "sees") if hasattr(env, name)}
            return cls.policy_class.for_spec(env.spec, **{**facts, **recipe.policy})
        return load_control_policy(recipe.model, cls.policy_class)

    @classmethod
    def agent_of(cls, run: Path, recipe: Recipe) -> Agent:
        """The agent that the run of a recipe left behind, with what its environment pays."""
        agent = load_control_policy(run, cls.policy_class)
        env: Any = make_env(**{key: value for key, value in recipe.tasks.items() if key != "split"})
        agent.reward = env.planned_reward
        return agent

    def next_batch(self, indices: Sequence[int]) -> Batch:
        """The last trials again, or new ones once they have been seen `epochs` times."""
        if not self.collection:
            env, params = self.tasks.env, self.tasks.batch(self.args.seed, indices)
            seeds = torch.randint(2**31, (2,)).tolist()
            keys = env.task_keys(params, len(indices), self.rows_written or 0)
            trials = rollout(
                env, RandomAgent(env.spec, seeds[0]), params, seed=seeds[1], task=torch.tensor(indices), keys=keys
            )
            self.collection.fill(self._recorded(trials), self.args.epochs)
        return self.collection.next()

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        return {"model": self.model_loss(batch.trials)}

    @abstractmethod
    def model_loss(self, trials: Trials) -> Tensor:
        """What the model descends; its first pass goes through `model_wrapped`."""


def transitions(trials: Trials, predicted: int) -> tuple[Tensor, Tensor, Tensor]:
    """Observations (B, T, D), actions (B, T, A) and changes (B, T, P) of trials of one episode, no closing row."""
    seen = trials.inputs["observation"]
    return seen[:, :-1], trials.actions[:, :-1], (seen[:, 1:] - seen[:, :-1])[..., :predicted]
