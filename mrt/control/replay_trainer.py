"""`OffPolicyTrainer`: learning from what was played before, whatever learns.

    play       trials on new tasks, by random play first and then by the policy      -> replay
    sample     transitions or whole trials of the replay                             -> losses(batch)
    follow     after a step of a learner its target: theta' <- (1 - tau) theta' + tau theta

A subclass gives `losses` and `learners`, and says what is stored and drawn: SAC transitions (`mrt.control.off_policy`),
memory-based control and in-context agents whole trials (`classic_metarl.black_box`).

Trials are played whole, several side by side, and the updates that they are worth follow them, so that nothing of an
episode has to be saved for a resume.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from mrt.control.agent import Agent, RandomAgent
from mrt.control.envs import EnvTasks
from mrt.control.loading import FromRecipe
from mrt.control.rollout import rollout
from mrt.errors import ConfigError
from mrt.optim.learners import Learner
from mrt.replay import Replay
from mrt.trainer import TrialConfig, TrialTrainer
from mrt.trials import Trials


@dataclass
class OffPolicyConfig(TrialConfig):
    """Arguments of an `OffPolicyTrainer`. `per_device_train_batch_size` counts trials that are played side by side."""

    random_steps: int = field(default=1000, metadata={"help": "environment steps of random play before any update"})
    updates_per_env_step: float = field(default=1.0, metadata={"help": "updates for every environment step after them"})
    batch_size: int = field(default=256, metadata={"help": "transitions, or whole trials, that an update learns from"})
    capacity: int = field(default=1_000_000, metadata={"help": "steps that the replay holds"})
    gamma: float = field(default=0.99, metadata={"help": "discount"})
    tau: float = field(default=0.005, metadata={"help": "how far the targets follow their learners in an update"})
    learning_rate: float = field(default=3e-4, metadata={"help": "of every learner (Adam)"})
    max_grad_norm: float = field(default=0.0, metadata={"help": "each learner's gradient is clipped to it; 0: not"})

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"batch_size={self.batch_size} must be at least 1")
        if self.updates_per_env_step <= 0:
            raise ConfigError(f"updates_per_env_step={self.updates_per_env_step} must be above 0")
        if not 0 < self.tau <= 1:
            raise ConfigError(f"tau={self.tau} must be above 0 and at most 1")
        super().__post_init__()


class OffPolicyTrainer(FromRecipe, TrialTrainer):
    """Replay, warm-up, exact resume and targets. A subclass gives `policy_class`, `losses` and `learners`.

    Args:
        model: a `policy_class`; its targets are in `model.targets`.
        tasks: p(M) as `EnvTasks`; it is moved to the device of the arguments, where the policy goes too.
    """

    args: OffPolicyConfig
    tasks: EnvTasks
    rows_written = 8
    facts: tuple[str, ...] = ()
    """What the environment is asked for after every step, for the replay to keep; see `rollout`."""
    told: tuple[str, ...] = ()
    """Names in `known`."""

    def __init__(self, model: Any, args: OffPolicyConfig, tasks: EnvTasks, **kwargs: Any) -> None:
        model.targets.requires_grad_(False)  # which loading does not know
        super().__init__(model, args, tasks.to(args.device), **kwargs)
        self.replay = Replay(args.capacity, args.device, keep=(*self.facts, *self.told))
        self.played, self.due = 0, 0.0  # environment steps of this process; updates that they are still worth
        self.register_state("replay", self.replay)
        self.register_state("off_policy", (self._progress, self._set_progress))

    @classmethod
    def args_class(cls) -> type:
        return OffPolicyConfig

    @property
    def policy(self) -> Any:
        """The policy itself, out of whatever wraps it for training."""
        return self.unwrapped

    # What a system may say otherwise.

    def sample(self) -> Any:
        """What an update learns from: here `batch_size` whole trials."""
        return self.replay.rows(self.args.batch_size)

    def stored(self, trials: Trials) -> Trials:
        """The trials as the replay keeps them: here without what the policy said of them when it acted."""
        return dataclasses.replace(trials, logprobs=None, values=None)

    def player(self) -> Agent:
        """Who plays after the random play: here the policy, drawing its actions."""
        return self.policy

    def known(self, params: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """{name: (B, ...)} of the tasks `params` {name: (B, ...)}: what learners are told and the policy is not, stored
        with every step; here nothing.
        """
        return {}

    def player_on(self, known: Mapping[str, Tensor]) -> Agent:
        """Who plays after the random play on tasks of which that is `known`; here whoever plays on any."""
        return self.player()

    def numbers(self, indices: Sequence[int], number: int) -> list[int]:
        """The tasks of round `number` of a call; rounds after the first have tasks of their own."""
        size = self.args.num_tasks
        return [(i + number * len(indices)) % size if size else i + (number << 32) for i in indices]

    # Playing.

    def next_batch(self, indices: Sequence[int]) -> Any:
        """A sample of the replay; before that, trials on the tasks at `indices` where no update is due any more."""
        number = 0
        while self.due < 1:
            self._play(indices, number)
            number += 1
        self.due -= 1
        return self.sample()

    def _play(self, indices: Sequence[int], number: int) -> None:
        """One trial on each task."""
        env, args, index = self.tasks.env, self.args, self.numbers(indices, number)
        seeds = torch.randint(2**31, (2,)).tolist()
        begun = self.played >= args.random_steps
        params = self.tasks.batch(args.seed, index)
        known = self.known(params)
        agent: Agent = self.player_on(known) if begun else RandomAgent(env.spec, seeds[1])
        keys = env.task_keys(params, len(index), self.rows_written or 0)
        task = torch.tensor(index, device=env.device)
        trials = rollout(env, agent, params, seed=seeds[0], task=task, keys=keys, facts=self.facts)
        self.record(trials)
        self.replay.add(_with(self.stored(trials), known))
        before, self.played = self.played, self.played + int(trials.mask.sum())
        self.due += args.updates_per_env_step * max(0, self.played - max(before, args.random_steps))

    # Learning.

    def adam(self, parameters: Iterable[nn.Parameter], *follows: tuple[nn.Module, nn.Module]) -> Learner:
        """A learner of these parameters; after each of its steps the first module of every pair follows the second."""
        optimizer = torch.optim.Adam(parameters, lr=self.args.learning_rate, fused=True)
        for target, source in follows:
            pair = list(target.parameters()), list(source.parameters())
            optimizer.register_step_post_hook(lambda *_, pair=pair: self._follow(*pair))
        return Learner(optimizer)

    @torch.no_grad()
    def _follow(self, targets: list[Tensor], sources: list[Tensor]) -> None:
        get_ema_multi_avg_fn(1 - self.args.tau)(targets, sources, 0)

    # What is kept over a resume.

    def _progress(self) -> dict[str, float]:
        return {"played": self.played, "due": self.due}

    def _set_progress(self, state: Mapping[str, Any]) -> None:
        self.played, self.due = state["played"], state["due"]


def _with(trials: Trials, known: Mapping[str, Tensor]) -> Trials:
    """The trials with what is known of their tasks (B, ...) at every step."""
    steps = trials.mask.shape[1]
    facts = {name: value[:, None].expand(-1, steps, *value.shape[1:]) for name, value in known.items()}
    return dataclasses.replace(trials, privileged={**trials.privileged, **facts})


def feed_forward(first: int, *sizes: int) -> nn.Sequential:
    """Linear layers of these widths with ReLU between."""
    parts: list[nn.Module] = []
    for width, size in zip((first, *sizes[:-1]), sizes, strict=True):
        parts += [nn.Linear(width, size), nn.ReLU()]
    return nn.Sequential(*parts[:-1])
