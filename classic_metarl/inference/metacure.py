"""MetaCURE: an explorer that is paid for information, and an exploiter that samples the posterior (Zhang, Wang, Hu,
Chen, Chen, Fan & Zhang 2021, "MetaCURE: meta reinforcement learning with empowerment-driven exploration", 2006.08170).

The first `explore_episodes` episodes of a trial are the explorer's, the others the exploiter's. Both share the belief
b = (mu, log sigma^2) of one encoder:

    exploiter    PEARL (`pearl.py`): pi(a | s, z), z ~ b once an episode; its critics alone move the encoder
    explorer     soft actor-critic on (s, b_t), where b_t is the belief after the t steps before       b_t held fixed

                 r_t + eta [ (r_t - R(s_t, a_t, b_t))^2 - (r_t - R_M(s_t, a_t))^2 ]

The bracket is the information gain I(M; r_t | b_t) for Gaussian rewards of fixed variance: how much worse the reward is
predicted from what is believed (R) than by who knows the task (R_M). It pays where rewards tell tasks apart and are not
yet known, and nothing where they are noise to both, or have been seen. Both predictors learn by squared error.

At test nothing is told: R_M stays behind, the explorer acts on its belief alone. The exploiter's beliefs in training
end after a random number of steps of one recent trial, as the explorer meets them.

Deviations from the paper and its released code: R_M is one network that reads the task's features
(`mrt.control.oracles.beliefs.task_features`), where the code has a network for each training task; z holds for an
episode, where the code draws one a step; twin critics and learned temperatures (`mrt.control.off_policy`), so that eta
counts against unscaled rewards; transitions are not predicted (the code: an option); the explorer's horizon is the
whole exploration, over the ends of its episodes. `critic_reward: dense` is for the exploiter's critics, as in PEARL's
sparse point robot; the paper has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from classic_metarl.inference.pearl import (
    PEARLConfig,
    PEARLPolicy,
    PEARLPolicyConfig,
    PEARLTrainer,
    Posterior,
    transitions,
)
from classic_metarl.trainers.beliefs import TASK
from classic_metarl.trainers.informed import TaskFeatures
from mrt.control.agent import Choice, Seen
from mrt.control.envs import EnvTasks, Spec
from mrt.control.off_policy import SACPolicy, SACPolicyConfig
from mrt.control.replay_trainer import feed_forward
from mrt.credit.targets import next_act
from mrt.errors import ConfigError
from mrt.optim.learners import Learner
from mrt.trials import Trials


class MetaCUREPolicyConfig(PEARLPolicyConfig):
    """PEARL's, the explorer's episodes, and the number of a task's features. Explorer and exploiter are of one size."""

    model_type = "mrt-metacure"

    def __init__(self, *shapes: int, explore_episodes: int = 3, task_size: int = 1, **kwargs: Any) -> None:
        self.explore_episodes, self.task_size = explore_episodes, task_size
        super().__init__(*shapes, **kwargs)


class Trial(NamedTuple):
    """The memory of B trials: PEARL's, and the episode (B,) int64 under way."""

    posterior: Posterior
    episode: Tensor


class MetaCUREPolicy(PEARLPolicy):
    """The explorer on its belief in the first episodes, then a posterior sampler."""

    config_class = MetaCUREPolicyConfig
    options = (*PEARLPolicy.options, "explore_episodes", "task_size")

    def __init__(self, config: MetaCUREPolicyConfig) -> None:
        super().__init__(config)
        width, act = config.observation + 2 * config.latent, config.action_size
        sizes = [config.hidden_size] * config.layers
        own: dict[str, Any] = {"hidden_size": config.hidden_size, "layers": config.layers, "alpha": config.alpha}
        self.explorer = SACPolicy(SACPolicyConfig(width, act, **own))
        self.on_belief = feed_forward(width + act, *sizes, 1)
        self.on_task = feed_forward(config.observation + act + config.task_size, *sizes, 1)
        self.post_init()

    @classmethod
    def for_spec(cls, spec: Spec, **options: Any) -> Any:
        """As everywhere.

        Raises:
            ConfigError: also without an episode for each of explorer and exploiter.
        """
        policy = super().for_spec(spec, **options)
        explore = policy.config.explore_episodes
        if not 0 < explore < spec.episodes:
            raise ConfigError(
                f"explore_episodes={explore} of {spec.episodes} episodes: both explorer and exploiter need at least one"
            )
        return policy

    def init_state(self, rows: int) -> Any:
        episode = torch.zeros(rows, dtype=torch.long, device=self.device)
        return Trial(super().init_state(rows), episode)

    @torch.no_grad()
    def act(self, seen: Seen, state: Any, greedy: bool = False, generator: torch.Generator | None = None) -> Choice:
        choice = super().act(seen, state.posterior, greedy, generator)
        exploring = state.episode < self.config.explore_episodes
        if bool(exploring.any()):
            belief = self.encoder.belief(choice.state.belief)
            given = {"observation": torch.cat([seen["observation"].to(self.device), *belief], -1)}
            explored = self.explorer.act(given, None, greedy, generator)
            actions = torch.where(exploring[:, None], explored.actions, choice.actions)
            logprobs = torch.where(exploring, explored.logprobs, choice.logprobs)
            choice = choice._replace(actions=actions, logprobs=logprobs)
        return choice._replace(state=Trial(choice.state, state.episode))

    def adapt(self, seen: Seen, state: Any, ended: Tensor) -> Any:
        """PEARL's, and the count of episodes."""
        return Trial(super().adapt(seen, state.posterior, ended), state.episode + ended.to(self.device))

    def predictions(self, seen: Tensor, action: Tensor, task: Tensor) -> tuple[Tensor, Tensor]:
        """R and R_M, (...) each, of what the explorer saw (..., D + 2 latent), action (..., A), features (..., F)."""
        observation = seen[..., : self.config.observation]
        return (
            self.on_belief(torch.cat([seen, action], -1))[..., 0],
            self.on_task(torch.cat([observation, action, task], -1))[..., 0],
        )


@dataclass
class MetaCUREConfig(PEARLConfig):
    """PEARL's numbers; the explorer learns from `explorer_batch` whole explorations.

    Raises:
        ConfigError: for numbers that cannot be.
    """

    context: int = 0
    intrinsic: float = field(default=0.2, metadata={"help": "eta, weight of the information gain"})
    explorer_batch: int = field(default=16, metadata={"help": "trials whose explorations an update learns from"})

    def __post_init__(self) -> None:
        if self.intrinsic < 0 or self.explorer_batch < 1:
            raise ConfigError(
                f"intrinsic={self.intrinsic} must not be negative, explorer_batch={self.explorer_batch} at least 1"
            )
        super().__post_init__()


class MetaCURETrainer(TaskFeatures, PEARLTrainer):
    """PEARL's learners, the explorer's, and both predictors of rewards."""

    args: MetaCUREConfig
    policy_class = MetaCUREPolicy

    def __init__(self, model: MetaCUREPolicy, args: MetaCUREConfig, tasks: EnvTasks, **kwargs: Any) -> None:
        model.explorer.targets.requires_grad_(False)  # which loading does not know
        super().__init__(model, args, tasks, **kwargs)

    @classmethod
    def args_class(cls) -> type:
        return MetaCUREConfig

    def sample(self) -> dict[str, Any]:
        """PEARL's, and whole `trials` for the explorer."""
        return {**super().sample(), "trials": self.replay.rows(self.args.explorer_batch)}

    def shown(self, trials: Trials) -> Tensor:
        """The first steps of a trial, a random number of those before its last episode."""
        inside = trials.mask & (trials.episode < self.tasks.env.spec.episodes - 1)
        most = inside.sum(1, keepdim=True)
        count = 1 + (torch.rand(len(most), 1) * most.cpu()).long().to(most.device)
        return inside & (inside.long().cumsum(1) <= count)

    def losses(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Those of PEARL, and those of the explorer and the predictors."""
        return super().losses(batch) | self.explorer_losses(batch["trials"])

    def explorer_losses(self, trials: Trials) -> dict[str, Tensor]:
        """Soft actor-critic for what is earned and found out in the explorations of whole trials (B, T)."""
        policy, acted = self.policy, trials.mask & (trials.episode < self.policy.config.explore_episodes)
        observation = trials.inputs["observation"]
        with torch.no_grad():
            met = transitions(observation, trials.actions, trials.rewards)
            seen = torch.cat([observation, *policy.encoder.before(met, trials.mask)], -1)
        errors = [
            (said - trials.rewards).square()[acted]
            for said in policy.predictions(seen, trials.actions, trials.privileged[TASK])
        ]
        gain = (errors[0] - errors[1]).detach()
        own = {
            "observation": seen[acted],
            "action": trials.actions[acted],
            "reward": trials.rewards[acted] + self.args.intrinsic * gain,
            "next_observation": next_act(acted, seen)[acted],
            "terminated": next_act(acted, torch.ones_like(trials.rewards))[acted] == 0,
        }
        self.log_metric("information", float(gain.sum() / len(trials)))
        self.log_metric("error/belief", float(errors[0].detach().mean()))
        self.log_metric("error/task", float(errors[1].detach().mean()))
        losses = self.sac_losses(policy.explorer, own, "explorer_")
        return losses | {"predictors": errors[0].mean() + errors[1].mean()}

    def learners(self) -> dict[str, Learner]:
        """PEARL's, the explorer's, and the predictors'."""
        policy: Any = self.policy
        predictors: list[nn.Parameter] = [*policy.on_belief.parameters(), *policy.on_task.parameters()]
        mine = self.sac_learners(policy.explorer, "explorer_") | {"predictors": self.adam(predictors)}
        return super().learners() | mine
