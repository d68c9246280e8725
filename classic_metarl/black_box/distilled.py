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

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from classic_metarl.black_box.defaults import with_policy
from classic_metarl.black_box.rl2 import POLICY
from mrt.control.agent import Agent
from mrt.control.envs import EnvTasks
from mrt.control.envs.base import TensorEnv
from mrt.control.oracles import bandit_policies as bandits
from mrt.control.oracles import mdps
from mrt.control.policy import Heads
from mrt.control.trainer import VALUE, ControlConfig, ControlTrainer
from mrt.credit.returns import reward_to_go
from mrt.errors import ConfigError, nearest
from mrt.runs.recipe import Recipe
from mrt.tasks import own_draws
from mrt.training.collection import Batch
from mrt.trials import Trials

TEACHERS: dict[str, tuple[str, Callable[[Any], Agent]]] = {
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
        ConfigError: for an unknown teacher, or one of another environment.
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
        """The trials of the teacher; the student's own returns on the same tasks are logged beside."""
        seed = int(torch.randint(2**31, (1,)))  # of the noise, for both
        if self.log_is_due(self.args.epochs * self.args.minibatches):
            with own_draws(seed, self.args.device):
                own = self.play_as(self.policy, indices, seed)
            self.log_metric("student/reward", float(own.returns.mean()))
        return self.play_as(self._teacher, indices, seed)

    def weighed(self, trials: Trials) -> Batch:
        """Every action of the teacher counts alike."""
        targets = reward_to_go(trials, gamma=self.args.gamma)
        self._rescale(targets[trials.mask])
        return Batch(trials, trials.mask.float(), {VALUE: targets})

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        trials = batch.trials
        heads: Heads = self.model_wrapped(trials.inputs)
        mask, distribution = trials.mask, self.policy.distribution
        nll = -(batch.weights * distribution.logprob(heads.logits, trials.actions))[mask].mean()
        error = ((heads.values - batch.targets[VALUE])[mask] / self.policy.value_std).square().mean()
        with torch.no_grad():
            agrees = distribution.mode(heads.logits) == trials.actions
            self.log_metric("agreement", float(agrees[mask].float().mean()))
            self.log_metric("nll", float(nll))
        return {"policy": nll + self.args.value_weight * error}


def make_teacher(name: str, env: TensorEnv) -> Agent:
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
        raise ConfigError(f"teacher='{name}' does not teach {env.name}; {nearest(name, fitting)}")
    return TEACHERS[name][1](env)
