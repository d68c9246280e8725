"""A distilled learner: what a Bayes-optimal or a classical algorithm does, put into the same policy by imitation.

RL2 (Duan et al. 2016, 1611.02779, section 3.1) asks whether it is the network or the reinforcement learning that falls
short of Gittins at n = 500, and trains the same policy by supervised learning on trajectories of the Gittins index:

    min over theta of  -E_M E_(history ~ teacher) [ sum_t log pi_theta(a_t | history) ]

The teacher sees what the policy sees, never the task. The critic learns the teacher's return to go, so that
reinforcement learning can go on from what was distilled (`model: RUN/model` in another recipe).

The teacher plays; its reward is the `reward` of the log. `student/reward` is the policy's own on the same tasks and
`agreement` the share of steps at which its mode is the teacher's act.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from classic_metarl.black_box.defaults import with_policy
from classic_metarl.black_box.rl2 import POLICY
from mrt.control.distributions import Categorical, Distribution
from mrt.control.envs import EnvTasks
from mrt.control.envs.base import Step, TensorEnv
from mrt.control.oracles import Policy, floor_and_ceiling, mdps
from mrt.control.oracles import bandit_policies as bandits
from mrt.control.policy import Heads
from mrt.control.rollout import rollout
from mrt.control.trainer import TARGETS, WEIGHTS, ControlConfig, ControlTrainer
from mrt.credit.returns import reward_to_go
from mrt.errors import ConfigError, nearest
from mrt.runs.recipe import Recipe
from mrt.trials import Trials

TEACHERS: dict[str, tuple[str, Callable[[Any], Policy]]] = {
    "gittins": ("bernoulli-bandit", lambda env: bandits.Gittins(env.spec.actions, env.spec.trial_steps)),
    "greedy": ("bernoulli-bandit", lambda env: bandits.Greedy(env.spec.actions)),
    "ucb1": ("bernoulli-bandit", lambda env: bandits.UCB1(env.spec.actions)),
    "thompson": ("bernoulli-bandit", lambda env: bandits.Thompson(env.spec.actions)),
    "gaussian-thompson": ("gaussian-bandit", lambda env: bandits.GaussianThompson(env.spec.actions, env.deviation)),
    "dependent-bayes": ("dependent-bandit", lambda env: bandits.DependentBayes()),
    "informative-bayes": ("informative-bandit", lambda env: bandits.InformativeBayes()),
    "restless-bayes": ("restless-bandit", lambda env: bandits.RestlessBayes(env.volatility)),
    "two-step-bayes": ("two-step", lambda env: bandits.TwoStepBayes()),
    "posterior-mean": ("tabular-mdp", lambda env: mdps.PosteriorMean(env.spec)),
    "psrl": ("tabular-mdp", lambda env: mdps.PSRL(env.spec)),
}
"""Name -> the environment it is for, and how it is made for one. The first of an environment is its best."""


@dataclass
class DistilledConfig(ControlConfig):
    """Behaviour cloning of a teacher over whole trials."""

    learning_rate: float = 3e-3
    teacher: str = field(
        default="", metadata={"help": "gittins, dependent-bayes, ...; the environment's best if empty"}
    )
    gamma: float = 0.99
    value_weight: float = 0.05


class DistilledTrainer(ControlTrainer):
    """Supervised learning of a teacher's acts, on the same record and policy as RL2.

    Raises:
        ConfigError: for a teacher that is none, or is for another environment.
    """

    args: DistilledConfig

    def __init__(self, model: Any, args: DistilledConfig, tasks: EnvTasks, **kwargs: Any) -> None:
        super().__init__(model, args, tasks, **kwargs)
        self._teacher = make_teacher(args.teacher, tasks.env)

    @classmethod
    def args_class(cls) -> type:
        return DistilledConfig

    @classmethod
    def make_policy(cls, recipe: Recipe, tasks: EnvTasks) -> Any:
        return super().make_policy(with_policy(recipe, POLICY), tasks)

    def play(self, indices: Sequence[int]) -> Trials:
        """One trial of the teacher on each task."""
        env, params = self.tasks.env, self.tasks.batch(self.args.seed, indices)
        seed = int(torch.randint(2**31, (1,)))
        trials = rollout(env, Teaching(self._teacher, env.spec.actions), params, seed=seed)
        if self.state.global_step % max(int(self.args.logging_steps), 1) == 0:
            own = rollout(env, self.policy, params, seed=seed)
            self.log_metric("student/reward", float(own.returns.mean()))
        privileged: dict[str, Tensor] = {}
        if self.args.bounds:
            bounds = floor_and_ceiling(env, params)
            privileged = {
                "oracle": bounds.ceiling / env.spec.episodes,
                "floor": bounds.floor / env.spec.episodes,
            }
        keys = env.task_keys(params, len(indices), self.rows_written or 0)
        return dataclasses.replace(trials, privileged=privileged, task_keys=keys)

    def _weighed(self, trials: Trials) -> Trials:
        """Every act of the teacher counts alike."""
        targets = reward_to_go(trials, gamma=self.args.gamma)
        self._rescale(targets[trials.mask])
        learnt = {WEIGHTS: trials.mask.float(), TARGETS: targets}
        return dataclasses.replace(trials, privileged={**trials.privileged, **learnt})

    def losses(self, trials: Trials, weights: Tensor) -> dict[str, Tensor]:
        heads: Heads = self.model_wrapped(trials.inputs)
        mask, distribution = trials.mask, self.policy.distribution
        nll = -(weights * distribution.logprob(heads.logits, trials.actions))[mask].mean()
        error = ((heads.values - trials.privileged[TARGETS])[mask] / self.policy.value_std).square().mean()
        with torch.no_grad():
            agrees = distribution.mode(heads.logits) == trials.actions
            self.log_metric("agreement", float(agrees[mask].float().mean()))
            self.log_metric("nll", float(nll))
        return {"policy": nll + self.args.value_weight * error}


def make_teacher(name: str, env: TensorEnv) -> Policy:
    """The teacher `name` for this environment, or its best one for "".

    Raises:
        ConfigError: naming the teachers that there are for it.
    """
    fitting = [teacher for teacher, (of, _) in TEACHERS.items() if of == env.name]
    if not fitting:
        raise ConfigError(
            f"no teacher is known for {env.name}; there are some for {sorted({of for of, _ in TEACHERS.values()})}"
        )
    if not name:
        name = fitting[0]
    if name not in fitting:
        raise ConfigError(f"teacher='{name}' is none for {env.name}; {nearest(name, fitting)}")
    return TEACHERS[name][1](env)


class Teaching:
    """A written-down policy as `rollout` takes a learned one: its act has all the probability, its values are 0.

    Written-down policies keep their memory on the CPU, wherever the environment is; so do the acts in the state.
    """

    distribution: Distribution = Categorical()

    def __init__(self, policy: Policy, actions: int) -> None:
        self.policy, self.actions = policy, actions

    def init_state(self, rows: int) -> None:
        """A trial begins."""
        self.policy.reset(rows)

    def step(self, seen: Mapping[str, Tensor], state: Tensor | None) -> tuple[Heads, Tensor]:
        """What came of the acts before, `state` (B,), then the next: heads (B, ...) and those acts."""
        if state is not None:
            fresh = seen["action"] < 0
            done, nothing = seen["done"] > 0.5, torch.zeros_like(fresh)
            self.policy.update(state, Step(seen["observation"], seen["reward"], done, nothing, fresh, nothing))
        acts = self.policy.act(seen["observation"])
        logits = seen["done"].new_full((len(acts), self.actions), -torch.inf)
        said = logits.scatter(1, acts.to(logits.device)[:, None], 0.0)
        return Heads(said, torch.zeros_like(seen["done"])), acts
