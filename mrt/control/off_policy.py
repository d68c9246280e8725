"""Learning from what was played before: soft actor-critic (Haarnoja et al. 2018, 1812.05905) on a `Replay`.

One update draws transitions (s, a, r, s') and takes three steps, each learner by its own loss, all from the same
parameters, with a' and a~ drawn from the policy at s' and s:

    critics      sum_i 1/2 (Q_i(s, a) - y)^2                                             equations 5 and 6
                 y = r + gamma (1 - terminated) (min_i Q'_i(s', a') - alpha log pi(a'|s'))
    actor        alpha log pi(a~|s) - min_i Q_i(s, a~)                                   equations 7 to 9
    temperature  -alpha (log pi(a~|s) + target entropy)                                  equation 18

and then the targets follow, Q' <- (1 - tau) Q' + tau Q.

Deviations from the paper: trials are played whole, several side by side, and the updates that they are worth follow
them, so that nothing of an episode has to be saved for a resume. An episode that the time limit ends is bootstrapped.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from transformers import PreTrainedConfig, PreTrainedModel

from mrt.control.agent import Agent, Choice, RandomAgent, Seen, Shape
from mrt.control.distributions import SquashedGaussian
from mrt.control.envs import EnvTasks, Spec, make_tasks
from mrt.control.loading import load_control_policy
from mrt.control.rollout import rollout
from mrt.errors import ConfigError
from mrt.optim.learners import Learner
from mrt.replay import Replay
from mrt.runs.recipe import Recipe
from mrt.trainer import TrialConfig, TrialTrainer


class SACPolicyConfig(PreTrainedConfig):
    """Shapes as in `Spec`; networks of `layers` hidden layers of `hidden_size`; the temperature begins at `alpha`."""

    model_type = "mrt-sac"

    def __init__(
        self,
        observation: int = 1,
        action_size: int = 1,
        hidden_size: int = 256,
        layers: int = 2,
        alpha: float = 1.0,
        **kwargs: Any,
    ) -> None:
        self.observation, self.action_size = observation, action_size
        self.hidden_size, self.layers, self.alpha = hidden_size, layers, alpha
        super().__init__(**kwargs)


class SACPolicy(PreTrainedModel, Agent):
    """A squashed Gaussian over (-1, 1)^A, twin critics with their targets, and the log of the temperature.

    It sees the present observation alone and keeps no memory.
    """

    config_class: type[Any] = SACPolicyConfig
    base_model_prefix = "policy"
    main_input_name = "observation"
    options: tuple[str, ...] = ("hidden_size", "layers", "alpha")

    def __init__(self, config: SACPolicyConfig) -> None:
        super().__init__(config)
        sizes, width = [config.hidden_size] * config.layers, self.width(config)
        self.actor = mlp(width, *sizes, 2 * config.action_size)
        self.critics = nn.ModuleList(mlp(width + config.action_size, *sizes, 1) for _ in range(2))
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(config.alpha)))
        self.distribution = SquashedGaussian()
        self.shape = Shape(config.observation, 0, config.action_size)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Parts come initialised."""

    @staticmethod
    def width(config: Any) -> int:
        """Numbers that actor and critics see: those of an observation."""
        return config.observation

    @classmethod
    def for_spec(cls, spec: Spec, **options: Any) -> Any:
        """A fresh policy for an environment.

        Raises:
            ConfigError: for discrete actions, and for an option that there is none of.
        """
        if spec.actions:
            raise ConfigError(f"SAC needs continuous actions, this environment has {spec.actions} discrete ones")
        unknown = set(options) - set(cls.options)
        if unknown:
            raise ConfigError(f"policy has no option {sorted(unknown)}; there are {', '.join(cls.options)}")
        return cls(cls.config_class(spec.observation, spec.action_size, **options))

    def draw(self, observation: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """observation (B, D) -> actions (B, A) and their log-probabilities (B,), with gradients."""
        return self.distribution.draw(self.actor(observation), generator)

    def values(self, observation: Tensor, action: Tensor, target: bool = False) -> Tensor:
        """(2, B): both critics, or their targets, of observation (B, D) and action (B, A)."""
        x = torch.cat([observation, action], -1)
        return torch.stack([critic(x)[:, 0] for critic in (self.targets if target else self.critics)])

    def init_state(self, rows: int) -> Any:
        """No memory."""

    @torch.no_grad()
    def act(self, seen: Seen, state: Any, greedy: bool = False, generator: torch.Generator | None = None) -> Choice:
        observation = seen["observation"].to(self.device)
        if greedy:
            actions = self.distribution.mode(self.actor(observation))
            logprobs = actions.new_zeros(len(actions))
        else:
            actions, logprobs = self.draw(observation, generator)
        return Choice(actions, logprobs, torch.full_like(logprobs, torch.nan), state)


@dataclass
class SACConfig(TrialConfig):
    """Arguments of a `SACTrainer`. `per_device_train_batch_size` counts trials that are played side by side."""

    random_steps: int = field(default=1000, metadata={"help": "environment steps of random play before any update"})
    updates_per_env_step: float = field(default=1.0, metadata={"help": "updates for every environment step after them"})
    batch_size: int = field(default=256, metadata={"help": "transitions that an update learns from"})
    capacity: int = field(default=1_000_000, metadata={"help": "steps that the replay holds"})
    gamma: float = field(default=0.99, metadata={"help": "discount"})
    tau: float = field(default=0.005, metadata={"help": "how far the targets follow the critics in an update"})
    target_entropy: float | None = field(
        default=None, metadata={"help": "of the policy; null for minus the action size"}
    )
    learning_rate: float = field(default=3e-4, metadata={"help": "of actor, critics and temperature (Adam)"})
    max_grad_norm: float = field(default=0.0, metadata={"help": "each learner's gradient is clipped to it; 0: not"})

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"batch_size={self.batch_size} must be at least 1")
        if self.updates_per_env_step <= 0:
            raise ConfigError(f"updates_per_env_step={self.updates_per_env_step} must be above 0")
        if not 0 < self.tau <= 1:
            raise ConfigError(f"tau={self.tau} must be above 0 and at most 1")
        super().__post_init__()


class SACTrainer(TrialTrainer):
    """Soft actor-critic.

    Args:
        model: a `SACPolicy`.
        tasks: p(M) as `EnvTasks`; it is moved to the device of the arguments, where the policy goes too.
    """

    args: SACConfig
    tasks: EnvTasks
    rows_written = 8
    policy_class: type[SACPolicy] = SACPolicy
    facts: tuple[str, ...] = ()
    """What the environment is asked for after every step, for the replay to keep; see `rollout`."""

    def __init__(self, model: SACPolicy, args: SACConfig, tasks: EnvTasks, **kwargs: Any) -> None:
        model.targets.requires_grad_(False)  # which loading does not know
        super().__init__(model, args, tasks.to(args.device), **kwargs)
        self.replay = Replay(args.capacity, args.device, keep=self.facts)
        self.played, self.due = 0, 0.0  # environment steps of this process; updates that they are still worth
        self.register_state("replay", self.replay)
        self.register_state("off_policy", (self._progress, self._set_progress))

    @classmethod
    def args_class(cls) -> type:
        return SACConfig

    @classmethod
    def from_recipe(cls, recipe: Recipe, output_dir: Path) -> SACTrainer:
        """The trainer that a recipe describes: its tasks, and a fresh policy or one to go on from (`model`)."""
        if not recipe.tasks:
            raise ConfigError("control needs tasks in the recipe (tasks: {name: point-robot, show_goal: true})")
        args = recipe.build_args(cls.args_class(), output_dir)
        tasks = make_tasks(**recipe.tasks)
        torch.manual_seed(recipe.seed)
        if not recipe.model:
            return cls(cls.policy_class.for_spec(tasks.env.spec, **recipe.policy), args, tasks)
        if recipe.policy:
            raise ConfigError("a recipe has a model to go on from or a policy to build, not both")
        return cls(load_control_policy(recipe.model, cls.policy_class), args, tasks)

    @classmethod
    def agent_of(cls, run: Path, recipe: Recipe) -> Agent:
        """The policy that the run of a recipe left behind."""
        return load_control_policy(run, cls.policy_class)

    @property
    def policy(self) -> SACPolicy:
        """The policy itself, out of whatever wraps it for training."""
        return self.unwrapped

    # Playing.

    def next_batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Transitions of the replay; before that, trials on the tasks at `indices` where no update is due any more."""
        number = 0
        while self.due < 1:
            self._play(indices, number)
            number += 1
        self.due -= 1
        return self.drawn()

    def drawn(self) -> dict[str, Tensor]:
        """What an update learns from."""
        return self.replay.steps(self.args.batch_size)

    def numbers(self, indices: Sequence[int], number: int) -> list[int]:
        """The tasks of round `number` of a call; rounds after the first have tasks of their own."""
        size = self.args.num_tasks
        return [(i + number * len(indices)) % size if size else i + (number << 32) for i in indices]

    def _play(self, indices: Sequence[int], number: int) -> None:
        """One trial on each task."""
        env, args, index = self.tasks.env, self.args, self.numbers(indices, number)
        seeds = torch.randint(2**31, (2,)).tolist()
        begun = self.played >= args.random_steps
        agent: Agent = self.policy if begun else RandomAgent(env.spec, seeds[1])
        params = self.tasks.batch(args.seed, index)
        keys = env.task_keys(params, len(index), self.rows_written or 0)
        task = torch.tensor(index, device=env.device)
        trials = rollout(env, agent, params, seed=seeds[0], task=task, keys=keys, facts=self.facts)
        self.record(trials)
        # The rest of what is recorded is not learned from.
        inputs = {"observation": trials.inputs["observation"]}
        self.replay.add(dataclasses.replace(trials, inputs=inputs, logprobs=None, values=None))
        before, self.played = self.played, self.played + int(trials.mask.sum())
        self.due += args.updates_per_env_step * max(0, self.played - max(before, args.random_steps))

    # Learning.

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The three losses; see the top of the module. Whatever made the observation learns from the critics' alone."""
        policy, args = self.policy, self.args
        observation, alpha = batch["observation"].detach(), policy.log_temperature.exp()
        entropy = -float(policy.config.action_size) if args.target_entropy is None else args.target_entropy
        with torch.no_grad():
            action, logprob = policy.draw(batch["next_observation"])
            after = policy.values(batch["next_observation"], action, target=True).amin(0) - alpha * logprob
            target = batch["reward"] + args.gamma * torch.where(batch["terminated"], 0.0, after)
        values = policy.values(batch["observation"], batch["action"])
        action, logprob = policy.draw(observation)
        gain = policy.values(observation, action).amin(0) - alpha.detach() * logprob
        self.log_metric("q", float(values.detach().mean()))
        self.log_metric("q_error", float((values.detach() - target).square().mean()))
        self.log_metric("entropy", -float(logprob.detach().mean()))
        self.log_metric("temperature", float(alpha.detach()))
        return {
            "critics": 0.5 * (values - target).square().mean(1).sum(),
            "actor": -gain.mean(),
            "temperature": -(alpha * (logprob.detach() + entropy)).mean(),
        }

    def learners(self) -> dict[str, Learner]:
        """Critics, actor and temperature; the targets follow each step of the critics."""
        policy = self.policy
        parts = {"critics": policy.critics, "actor": policy.actor}
        groups = {name: list(part.parameters()) for name, part in parts.items()}
        groups["temperature"] = [policy.log_temperature]
        adams = {
            name: torch.optim.Adam(group, lr=self.args.learning_rate, fused=True) for name, group in groups.items()
        }
        adams["critics"].register_step_post_hook(lambda *_: self._follow())
        return {name: Learner(adam) for name, adam in adams.items()}

    @torch.no_grad()
    def _follow(self) -> None:
        average = get_ema_multi_avg_fn(1 - self.args.tau)
        average(list(self.policy.targets.parameters()), list(self.policy.critics.parameters()), 0)

    # What is kept over a resume.

    def _progress(self) -> dict[str, float]:
        return {"played": self.played, "due": self.due}

    def _set_progress(self, state: Mapping[str, Any]) -> None:
        self.played, self.due = state["played"], state["due"]


def mlp(first: int, *sizes: int) -> nn.Sequential:
    """Linear layers of these widths with ReLU between."""
    parts: list[nn.Module] = []
    for width, size in zip((first, *sizes[:-1]), sizes, strict=True):
        parts += [nn.Linear(width, size), nn.ReLU()]
    return nn.Sequential(*parts[:-1])
