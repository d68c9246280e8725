"""DIAYN, "Diversity is all you need" (Eysenbach, Gupta, Ibarz and Levine 2018, 1802.06070): skills without rewards.

A skill z is drawn for a whole episode and told to the policy; a discriminator guesses it from where the policy goes,
and the policy is paid for being told apart:

    r(s, a, s') = log q(z|s') - log p(z),    p(z) = 1/K uniform          discriminator: max E log q(z|s')

The most that a step can earn is log K. What is learned are behaviours for meta-RL to adapt, or rewards: the log D(z|s)
of a discriminator are the tasks of unsupervised meta-RL (Gupta, Eysenbach, Finn and Levine 2018, arXiv 1806.04640;
`discriminator-room`).

Deviations: PPO on whole trials where the paper has SAC (its entropy bonus is the paper's high entropy), and a linear
discriminator, which on one-hot cells is a table.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mrt.control.envs import EnvTasks
from mrt.control.envs.skills import SkillRoom
from mrt.control.policy import ControlPolicy, PolicyConfig
from mrt.control.trainer import ControlConfig, ControlTrainer
from mrt.errors import ConfigError
from mrt.optim.learners import Learner
from mrt.runs.recipe import Recipe
from mrt.training.collection import Batch
from mrt.trials import Trials


class SkillPolicyConfig(PolicyConfig):
    """A policy's, and the number of skills, which the observation ends with."""

    model_type = "mrt-skills"

    def __init__(self, observation: int = 2, actions: int = 2, *, skills: int = 1, **kwargs: Any) -> None:
        self.skills = skills
        super().__init__(observation, actions, **kwargs)


class SkillPolicy(ControlPolicy):
    """pi(a | s, z), and the discriminator q(z | s)."""

    config_class = SkillPolicyConfig

    def __init__(self, config: SkillPolicyConfig) -> None:
        super().__init__(config)
        self.discriminator = nn.Linear(config.observation - config.skills, config.skills)
        nn.init.zeros_(self.discriminator.weight)
        nn.init.zeros_(self.discriminator.bias)
        self.post_init()

    def discriminate(self, observation: Tensor) -> Tensor:
        """log q (..., K) of the states in observations (..., D)."""
        return self.discriminator(observation[..., : -self.config.skills]).log_softmax(-1)


@dataclass
class DIAYNConfig(ControlConfig):
    """PPO on episodes of one skill each."""

    discriminator_rate: float = field(default=0.03, metadata={"help": "learning rate of the discriminator"})
    bounds: bool = False
    normalise: bool = True


class DIAYNTrainer(ControlTrainer):
    """PPO on the discriminator's reward, and the discriminator on what PPO played.

    Raises:
        ConfigError: for tasks that are no skills.
    """

    args: DIAYNConfig
    policy_class = SkillPolicy

    def __init__(self, model: Any, args: DIAYNConfig, tasks: EnvTasks, **kwargs: Any) -> None:
        if not isinstance(tasks.env, SkillRoom):
            raise ConfigError(f"'{tasks.name}' has no skills to tell apart (tasks: {{name: skill-room, skills: 8}})")
        super().__init__(model, args, tasks, **kwargs)

    @classmethod
    def args_class(cls) -> type:
        return DIAYNConfig

    @classmethod
    def make_policy(cls, recipe: Recipe, tasks: EnvTasks) -> Any:
        if recipe.model or not isinstance(tasks.env, SkillRoom):
            return super().make_policy(recipe, tasks)
        own = {"skills": tasks.env.skills, "memory": "none", **recipe.policy}
        return super().make_policy(dataclasses.replace(recipe, policy=own), tasks)

    @torch.no_grad()
    def play(self, indices: Any) -> Trials:
        """Trials paid by the discriminator."""
        trials = super().play(indices)
        said = self.chosen(trials)
        sure = said.exp()[trials.mask]
        self.log_metric("pseudo_reward", float(said[trials.mask].mean()) + math.log(self.policy.config.skills))
        self.log_metric("chance_of_skill", float(sure.mean()))
        rewards = torch.where(trials.mask, said + math.log(self.policy.config.skills), 0.0)
        return dataclasses.replace(trials, rewards=rewards)

    def chosen(self, trials: Trials) -> Tensor:
        """(B, T) log q of the skill that was told, at the state that each step leads to; 0 behind the last."""
        seen = trials.inputs["observation"]
        skill = seen[:, :-1, -self.policy.config.skills :].argmax(-1)
        said = self.policy.discriminate(seen[:, 1:]).gather(-1, skill[..., None])[..., 0]
        return torch.nn.functional.pad(said, (0, 1))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        said = self.chosen(batch.trials)[batch.trials.mask]
        return {**super().losses(batch), "discriminator": -said.mean()}

    def learners(self) -> dict[str, Learner]:
        """The policy, and the discriminator, which the policy's reward is made of."""
        own = set(self.policy.discriminator.parameters())

        def others() -> Iterator[nn.Parameter]:
            return (parameter for parameter in self.policy.parameters() if parameter not in own)

        return {
            "policy": Learner(torch.optim.Adam(others(), lr=self.args.learning_rate)),
            "discriminator": Learner(torch.optim.Adam(own, lr=self.args.discriminator_rate), max_grad_norm=0.0),
        }
