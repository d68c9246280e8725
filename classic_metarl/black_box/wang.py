"""Learning to reinforcement learn (Wang, Kurth-Nelson, Tirumala, Soyer, Leibo, Munos, Blundell, Kumaran and Botvinick
2016, arXiv 1611.05763).

An LSTM reads x_t = (observation, a_(t-1), r_(t-1), t) and is trained by advantage actor-critic on whole trials drawn
from p(M); its weights are then frozen, and what it does in a new task is an RL algorithm of its own (section 2.3):

    grad = grad log pi(a_t) (R_t - V_t) + beta_e grad H(pi)          critic: beta_v (R_t - V_t)^2

R_t is the discounted return to the end of the trial (the unroll is the whole trial, lambda = 1 here). 48 units,
beta_v = 0.05, beta_e annealed from 1 to 0.

Deviations: one learner on a batch of trials (A2C) with Adam where the paper has asynchronous workers with RMSProp; the
discount is 0.9, for which it learns within minutes. With 0.99 and lambda 0.3 it ends on a constant arm, whose return is
that of random play (`mrt.control.failures`). t is given as a fraction of the trial.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from classic_metarl.black_box.defaults import with_policy
from mrt.control.encoder import ALL_INPUTS
from mrt.control.envs import EnvTasks
from mrt.control.trainer import ControlConfig, ControlTrainer
from mrt.errors import ConfigError
from mrt.runs.recipe import Recipe

POLICY = {"memory": "lstm", "hidden_size": 48, "see": list(ALL_INPUTS)}


@dataclass
class WangConfig(ControlConfig):
    """A2C: one update a collection, no clip, advantages as they are.

    Raises:
        ConfigError: for several updates a collection, which A2C's gradient does not allow.
    """

    learning_rate: float = 3e-3
    gamma: float = 0.9
    lam: float = 1.0
    clip: float | None = None
    entropy: float = 1.0
    entropy_end: float | None = 0.0
    value_weight: float = 0.05
    normalise: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clip is None and self.epochs * self.minibatches > 1:
            raise ConfigError(
                f"epochs={self.epochs}, minibatches={self.minibatches}: after one update the trials are of another "
                "policy. Keep both at 1, or set clip (PPO)"
            )


class WangTrainer(ControlTrainer):
    """A2C with an annealed entropy bonus on whole trials; an LSTM of 48 units that sees the time."""

    args: WangConfig

    @classmethod
    def args_class(cls) -> type:
        return WangConfig

    @classmethod
    def make_policy(cls, recipe: Recipe, tasks: EnvTasks) -> Any:
        return super().make_policy(with_policy(recipe, POLICY), tasks)
