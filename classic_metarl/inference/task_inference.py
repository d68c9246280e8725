"""Meta reinforcement learning as task inference (Humplik, Galashov, Hasenclever, Ortega, Teh and Heess 2019, arXiv
1905.06424).

Whoever trains knows the tasks. A recurrent network is taught to name the task from what was seen, which is supervised
learning: trials of any policy serve, however little they earned. Its belief is what the policy acts on (sections 3
and 4.1):

    min over phi, theta of   E sum_t [ -log p(task | z_t) + beta KL(q(z_t | tau_:t) || N(0, I)) ],   z_t ~ q(z | tau_:t)
    max over psi of          E sum_t gamma^t r_t,        pi(a | s_t, belief features at t)

The first sum is minimised by the posterior over tasks. beta is the information bottleneck of section 4.3 (0: none, and
the latent is its mean). The task is told by its number where tasks can be listed, by its parameters elsewhere; it
stands in `Trials.privileged`, and the policy never sees it.

Deviations: the paper's agent learns off-policy (SVG(0)) with an LSTM in the policy as well, here it is PPO on (s, mu,
log sigma^2), as in the code released with VariBAD.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from classic_metarl.trainers.beliefs import (
    TASK,
    BeliefConfig,
    BeliefPolicy,
    BeliefPolicyConfig,
    BeliefTrainer,
    TaskDecoder,
    mean_over_steps,
)
from mrt.control.latents import Latent
from mrt.errors import ConfigError
from mrt.trials import Trials


class TaskInferencePolicyConfig(BeliefPolicyConfig):
    """Nothing beside what all beliefs have."""

    model_type = "mrt-task-inference"

    def __init__(self, **kwargs: Any) -> None:  # transformers would write one of its own
        super().__init__(**kwargs)


class TaskInferencePolicy(BeliefPolicy):
    """The belief network, and the policy on its features."""

    config_class = TaskInferencePolicyConfig

    def __init__(self, config: TaskInferencePolicyConfig) -> None:
        super().__init__(config)
        self.tasks = TaskDecoder(config)

    def decoded(self, latent: Latent) -> Tensor | None:
        """The task's probabilities."""
        return self.tasks(latent.mean).softmax(-1) if self.tasks.listed else None


@dataclass
class TaskInferenceConfig(BeliefConfig):
    """PPO's numbers and the bottleneck's."""

    bottleneck: float = field(default=0.0, metadata={"help": "beta, weight of the divergence from N(0, I); 0: none"})

    def __post_init__(self) -> None:
        if self.bottleneck < 0:
            raise ConfigError(f"bottleneck={self.bottleneck} must not be negative")
        super().__post_init__()


class TaskInferenceTrainer(BeliefTrainer):
    """PPO on beliefs that are taught the task."""

    args: TaskInferenceConfig
    policy_class = TaskInferencePolicy

    @classmethod
    def args_class(cls) -> type:
        return TaskInferenceConfig

    def inference_loss(self, trials: Trials) -> Tensor:
        """The mean of -log p(task | z_t) and of the bottleneck over all steps of the trials."""
        latent, beta = self.policy.encode(trials.inputs), self.args.bottleneck
        z = latent.sample() if beta else latent.mean
        surprise = -mean_over_steps(self.policy.tasks.logprob(z, trials.privileged[TASK]), trials)
        self.log_metric("surprise", float(surprise.detach()))
        if not beta:
            return surprise
        information = mean_over_steps(latent.kl_unit(), trials)
        self.log_metric("information", float(information.detach()))
        return surprise + beta * information
