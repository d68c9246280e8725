"""Decision-pretrained transformer (Lee, Xie, Pacchiano, Chandak, Finn, Nachum and Brunskill 2023, arXiv 2306.14892).

A transformer learns, by supervision alone, the best action at a state from what has been seen of the task:

    min over theta of  -E_M E_(D, s) log pi_theta(a*_M(s) | s, D)

D is made by a behaviour that does not know M. The minimiser is the posterior of a* given D and s, so that acting by
draws from it is posterior sampling (section 5); a greedy one exploits. Here a trial is the sequence of its steps: every
step asks about the state at hand, given all steps before it, so that one pass gives all prefixes of D.

Who makes D (`behaviour`): `random` draws uniformly at every step. `biased` prefers one action of its own throughout a
trial, as in the authors' bandits. `wander` walks to cells drawn at random, a room's equivalent of the authors' draws of
states. The share `own` of the trials is the policy's own, labelled with a* all the same, so that it also learns from
what it will see when it acts.

Deviations: transitions stay in their order (the authors shuffle them); steps are seen by the policy as everywhere here,
an embedding of (s_t, a_(t-1), r_(t-1), done), instead of whole transitions (s, a, s', r).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from classic_metarl.black_box.defaults import with_policy
from mrt.control.agent import Agent, RandomAgent, ScriptedAgent, Seen
from mrt.control.envs import EnvTasks
from mrt.control.envs.base import TensorEnv
from mrt.control.envs.grids import Room
from mrt.control.oracles.optimal import Labelled, best_actions, towards
from mrt.control.trainer import ControlConfig, ControlTrainer
from mrt.errors import ConfigError, nearest
from mrt.runs.recipe import Recipe
from mrt.training.collection import Batch
from mrt.trials import Trials, concatenate

POLICY = {"memory": "transformer", "hidden_size": 64, "memory_options": {"layers": 2, "heads": 4}}
BEHAVIOURS = ("random", "biased", "wander")


@dataclass
class DPTConfig(ControlConfig):
    """Supervised learning of a*. `epochs` and `minibatches` as in PPO: how often a collection is learned from.

    Raises:
        ConfigError: for an unknown behaviour, or a share that is none.
    """

    learning_rate: float = 1e-3
    behaviour: str = field(default="random", metadata={"help": "who makes D: random | biased | wander"})
    own: float = field(default=0.5, metadata={"help": "share of the trials that the policy plays itself"})

    def __post_init__(self) -> None:
        if self.behaviour not in BEHAVIOURS:
            raise ConfigError(f"behaviour={self.behaviour!r}; {nearest(self.behaviour, BEHAVIOURS)}")
        if not 0 <= self.own <= 1:
            raise ConfigError(f"own={self.own} is a share: it must be in [0, 1]")
        super().__post_init__()


class DPTTrainer(ControlTrainer):
    """Pretraining of a policy on the best actions of known tasks.

    Raises:
        ConfigError: where the best actions are not known, and for a behaviour that does not fit the environment.
    """

    args: DPTConfig

    def __init__(self, model: Any, args: DPTConfig, tasks: EnvTasks, **kwargs: Any) -> None:
        super().__init__(model, args, tasks, **kwargs)
        env = self.tasks.env
        env.reset(self.tasks.batch(args.seed, [0]))
        best_actions(env)
        make_behaviour(args.behaviour, env, 0)

    @classmethod
    def args_class(cls) -> type:
        return DPTConfig

    @classmethod
    def make_policy(cls, recipe: Recipe, tasks: EnvTasks) -> Any:
        return super().make_policy(with_policy(recipe, POLICY), tasks)

    def play(self, indices: Sequence[int]) -> Trials:
        """The first `own` of the tasks are played by the policy, the others by the behaviour."""
        env = self.tasks.env
        seed, noise = torch.randint(2**31, (2,)).tolist()
        mine = round(self.args.own * len(indices))
        parts = []
        if mine:
            parts.append(self.play_as(Labelled(self.policy, env), indices[:mine], noise))
            self.log_metric("own/reward", float(parts[0].returns.mean()))
        if mine < len(indices):
            behaviour = Labelled(make_behaviour(self.args.behaviour, env, seed), env)
            theirs = self.play_as(behaviour, indices[mine:], noise + 1)
            parts.append(dataclasses.replace(theirs, group=theirs.group + mine))
        return _labels_apart(concatenate(parts) if len(parts) > 1 else parts[0])

    def weighed(self, trials: Trials) -> Batch:
        """Every step counts alike."""
        return Batch(trials, trials.mask.float())

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The negative log-likelihood of the best action at every step."""
        trials, distribution = batch.trials, self.policy.distribution
        logits, best = self.model_wrapped(trials.inputs).logits, trials.privileged["best"]
        weight = batch.weights / batch.weights.sum()
        loss = -(distribution.logprob(logits, best) * weight).sum()
        with torch.no_grad():
            self.log_metric("agreement", float(((distribution.mode(logits) == best) * weight).sum()))
            self.log_metric("nll", float(loss))
        return {"policy": loss}


class Biased(ScriptedAgent):
    """Draws from probabilities of its own in each trial: a mixture of a Dirichlet draw and one action (Lee et al.)."""

    def __init__(self, actions: int, seed: int = 0) -> None:
        self.actions, self.generator = actions, torch.Generator().manual_seed(seed)

    def start(self, rows: int) -> dict[str, Any]:
        weights = -torch.rand(rows, self.actions, generator=self.generator).clamp(min=1e-9).log()  # Dirichlet(1)
        liked = torch.randint(self.actions, (rows,), generator=self.generator)
        share = torch.randint(11, (rows, 1), generator=self.generator) / 10
        one = torch.nn.functional.one_hot(liked, self.actions)
        return {"weights": (1 - share) * weights / weights.sum(1, keepdim=True) + share * one}

    def choose(self, observation: Tensor, state: dict[str, Any]) -> Tensor:
        return torch.multinomial(state["weights"], 1, generator=self.generator)[:, 0]


class Wander(ScriptedAgent):
    """Walks a room from one cell to the next, each drawn at random; it does not look at rewards.

    It reads where it stands off the environment, which every policy of a room sees too.
    """

    on_cpu = False

    def __init__(self, env: Room, seed: int = 0) -> None:
        self.env, self.generator = env, torch.Generator().manual_seed(seed)

    def start(self, rows: int) -> dict[str, Any]:
        return {"target": self._cells(rows)}

    def learn(self, seen: Seen, state: dict[str, Any]) -> dict[str, Any]:
        arrived = self.env.state["cell"] == state["target"]
        return {**state, "target": torch.where(arrived, self._cells(len(arrived)), state["target"])}

    def choose(self, observation: Tensor, state: dict[str, Any]) -> Tensor:
        first = torch.rand(len(observation), generator=self.generator).to(self.env.device) < 0.5
        return towards(self.env, state["target"], first)

    def _cells(self, rows: int) -> Tensor:
        return torch.randint(self.env.cells, (rows,), generator=self.generator).to(self.env.device)


def make_behaviour(name: str, env: TensorEnv, seed: int) -> Agent:
    """Who makes D in this environment.

    Raises:
        ConfigError: for `wander` outside a room, and `biased` without discrete actions.
    """
    if name == "wander":
        if not isinstance(env, Room):
            raise ConfigError(f"behaviour='wander' walks rooms, {env.name} is none: use random or biased")
        return Wander(env, seed)
    if name == "biased":
        if not env.spec.actions:
            raise ConfigError(f"behaviour='biased' needs discrete actions, {env.name} has none: use random")
        return Biased(env.spec.actions, seed)
    return RandomAgent(env.spec, seed)


def _labels_apart(trials: Trials) -> Trials:
    """The label is a fact of the task: it leaves what a policy sees."""
    inputs = dict(trials.inputs)
    return dataclasses.replace(trials, privileged={**trials.privileged, "best": inputs.pop("best")}, inputs=inputs)
