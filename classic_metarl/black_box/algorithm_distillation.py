"""Algorithm distillation (Laskin, Wang, Oh, Parisotto, Spencer, Steigerwald, Strouse, Hansen, Filos, Brooks, Gazeau,
Sahni, Singh and Mnih 2022, arXiv 2210.14215).

A reinforcement learner is let loose on every task, and all that it did while it learned is its learning history. A
transformer is trained to continue such histories:

    min over theta of  -sum over tasks and steps of log P_theta(a_t | h_(t-1), o_t),      h: (o, a, r) of many episodes

A context of several episodes shows the learner getting better, so that predicting its next action means to get better,
too: what is distilled is the algorithm, not the policy that it ends with. Acting needs no gradient.

Every `skip`-th episode of a history is kept (section 4.3 of the paper: histories are subsampled), so that a trial of H
episodes shows H * skip episodes of learning; what is distilled then learns that much faster than its source.

The source is tabular Q-learning with optimistic values, one table a task, all tasks at once; where a reward of the room
is found it goes on for the rest of the history. `source/last` is what it earns in its last episode.

Deviations: Q-learning on a table where the paper has A3C; whole subsampled histories are the context instead of windows
cut from longer ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from classic_metarl.black_box.defaults import with_policy
from mrt.control.agent import ScriptedAgent, Seen, fresh
from mrt.control.envs import EnvTasks
from mrt.control.envs.grids import Room
from mrt.control.rollout import rollout
from mrt.control.trainer import ControlConfig, ControlTrainer
from mrt.errors import ConfigError
from mrt.runs.recipe import Recipe
from mrt.training.collection import Batch
from mrt.trials import Trials

POLICY = {"memory": "transformer", "hidden_size": 64, "memory_options": {"layers": 2, "heads": 4}}


@dataclass
class ADConfig(ControlConfig):
    """Imitation of learning histories. `epochs` and `minibatches`: how often a collection of histories is learned from.

    Raises:
        ConfigError: for a history without episodes, or a source that cannot learn.
    """

    learning_rate: float = 1e-3
    skip: int = field(default=4, metadata={"help": "every so many-th episode of a learning history is kept"})
    source_rate: float = field(default=0.5, metadata={"help": "step size of the source's Q-learning"})
    source_gamma: float = field(default=0.9, metadata={"help": "its discount"})
    optimism: float = field(default=0.1, metadata={"help": "its first values: what it expects where it never was"})
    epsilon: float = field(default=0.05, metadata={"help": "share of its actions that are random"})

    def __post_init__(self) -> None:
        if self.skip < 1:
            raise ConfigError(f"skip={self.skip} must be at least 1")
        if not 0 < self.source_rate <= 1 or not 0 <= self.source_gamma < 1 or not 0 <= self.epsilon <= 1:
            raise ConfigError("source_rate must be in (0, 1], source_gamma in [0, 1) and epsilon in [0, 1]")
        super().__post_init__()


class ADTrainer(ControlTrainer):
    """A policy that continues the learning histories of Q-learners.

    Raises:
        ConfigError: for an environment that is no room of cells.
    """

    args: ADConfig

    def __init__(self, model: Any, args: ADConfig, tasks: EnvTasks, **kwargs: Any) -> None:
        super().__init__(model, args, tasks, **kwargs)
        if not isinstance(self.tasks.env, Room):
            raise ConfigError(f"the source is a table over the cells of a room, {tasks.name} is none")

    @classmethod
    def args_class(cls) -> type:
        return ADConfig

    @classmethod
    def make_policy(cls, recipe: Recipe, tasks: EnvTasks) -> Any:
        return super().make_policy(with_policy(recipe, POLICY), tasks)

    def play(self, indices: Sequence[int]) -> Trials:
        """The subsampled learning history of one source a task."""
        args, env = self.args, self.tasks.env
        whole = env.with_spec(episodes=env.spec.episodes * args.skip)
        assert isinstance(whole, Room)
        params = self.tasks.batch(args.seed, indices)
        seed, noise = torch.randint(2**31, (2,)).tolist()
        source = QLearner(whole, rate=args.source_rate, gamma=args.source_gamma, optimism=args.optimism, seed=seed)
        source.epsilon = args.epsilon
        keys = env.task_keys(params, len(indices), self.rows_written or 0)
        history = rollout(whole, source, params, seed=noise, task=torch.tensor(indices, device=env.device), keys=keys)
        kept = every(history, args.skip)
        last = kept.episode == kept.episode.amax(1, keepdim=True)
        self.log_metric("source/last", float((kept.rewards * last).sum(1).mean()))
        return kept

    def weighed(self, trials: Trials) -> Batch:
        """Every action of the source counts alike."""
        return Batch(trials, trials.mask.float())

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The negative log-likelihood of what the source did."""
        trials, distribution = batch.trials, self.policy.distribution
        logits = self.model_wrapped(trials.inputs).logits
        loss = -(distribution.logprob(logits, trials.actions) * batch.weights).sum() / batch.weights.sum()
        self.log_metric("nll", float(loss.detach()))
        return {"policy": loss}


class QLearner(ScriptedAgent):
    """Tabular Q-learning in a room, one table (cells, actions) a row, kept over the episodes of the trial.

        Q(s, a) <- Q(s, a) + rate (r + gamma max Q(s', .) - Q(s, a))        (Watkins 1989)

    Args:
        optimism: the first values. Above what is usually found they send it to where it has not been.
        epsilon: share of random actions.
    """

    on_cpu = False

    def __init__(
        self,
        env: Room,
        *,
        rate: float = 0.5,
        gamma: float = 0.9,
        optimism: float = 0.1,
        epsilon: float = 0.05,
        seed: int = 0,
    ) -> None:
        self.env, self.rate, self.gamma, self.optimism, self.epsilon = env, rate, gamma, optimism, epsilon
        self.generator = torch.Generator().manual_seed(seed)

    def start(self, rows: int) -> dict[str, Any]:
        shape = (rows, self.env.cells, self.env.spec.actions)
        return {"q": torch.full(shape, self.optimism, device=self.env.device)}

    def learn(self, seen: Seen, state: dict[str, Any]) -> dict[str, Any]:
        q = state["q"]
        rows, before, now = torch.arange(len(q), device=q.device), self._cell(seen["last"]), self.env.state["cell"]
        begun = fresh(seen)
        action = seen["action"].clamp(min=0)
        old = q[rows, before, action]
        target = seen["reward"] + self.gamma * q[rows, now].amax(1)
        new = q.clone()
        new[rows, before, action] = torch.where(begun, old, old + self.rate * (target - old))
        return {**state, "q": new}

    def choose(self, observation: Tensor, state: dict[str, Any]) -> Tensor:
        q = state["q"]
        rows, actions = len(q), q.shape[2]
        values = q[torch.arange(rows, device=q.device), self.env.state["cell"]]
        ties = 1e-6 * torch.rand(rows, actions, generator=self.generator).to(q.device)
        drawn = torch.randint(actions, (rows,), generator=self.generator).to(q.device)
        explore = (torch.rand(rows, generator=self.generator) < self.epsilon).to(q.device)
        return torch.where(explore, drawn, (values + ties).argmax(1))

    def _cell(self, observation: Tensor) -> Tensor:
        return torch.cdist(observation, self.env.views).argmin(1)


def every(trials: Trials, skip: int) -> Trials:
    """The episodes 0, skip, 2 skip, ... of each trial, as a trial of its own; episodes are of one length in all rows.

    Raises:
        ValueError: where they are not.
    """
    wanted = (trials.episode % skip == 0) & (trials.episode >= 0)
    columns = wanted.any(0)
    if not bool((wanted == columns).all()):
        raise ValueError("episodes of different lengths cannot be subsampled together: play with pays=every or once")
    inputs = {name: value[:, columns] for name, value in trials.inputs.items()}
    stop = None if trials.stop is None else trials.stop[:, ::skip]
    return dataclasses.replace(
        trials,
        actions=trials.actions[:, columns],
        rewards=trials.rewards[:, columns],
        mask=trials.mask[:, columns],
        episode=trials.episode[:, columns] // skip,
        logprobs=None,
        values=None,
        inputs=inputs,
        stop=stop,
    )
