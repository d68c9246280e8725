"""MAESN: exploration by a latent that holds for a whole episode, and that adapts with the weights.

    z ~ N(mu_i, sigma_i), once an episode; the policy sees (s, z)
    (mu, sigma, theta)_i' = (mu, sigma, theta)_i + alpha (.) grad U        alpha learned, one an entry
    max over theta, mu, sigma, alpha of  mean_i E[ratio A](phi_i') - lambda KL(N(mu_i, sigma_i), N(0, I))

Gupta, Mendonca, Liu, Abbeel & Levine 2018, 1802.07245, algorithm 1 and equation 4. Each training task has a mu_i and
sigma_i of its own, from which its trials start; the divergence (of these, before adaptation) keeps them near the prior
N(0, I), from which tasks of the test start. Their gradients go through z = mu + sigma eps, eps recorded. Rewards are
dense in training and sparse at test, declared with the tasks (`paired.py`). The meta-update is TRPO's.

Deviations: those of `maml_trpo.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from classic_metarl.gradient.functional import Tree
from classic_metarl.gradient.maml_trpo import MAMLTRPOConfig, MAMLTRPOTrainer
from classic_metarl.gradient.meta_policy import MetaPolicy, inner_loop
from classic_metarl.gradient.paired import PairedTasks
from classic_metarl.gradient.rl import learned_rates
from classic_metarl.gradient.stages import numbers_of
from classic_metarl.gradient.task_policy import Std, TaskPolicy, play
from mrt.control.envs.base import EnvTasks, Spec
from mrt.errors import ConfigError
from mrt.trials import Trials

MEAN, LOG_STD = "latent_mean", "latent_log_std"
NOISE = "noise"


class LatentPolicy(TaskPolicy):
    """A `TaskPolicy` that also sees z = mu + sigma eps; its own mu and sigma are those of the prior, 0 and 1."""

    def __init__(
        self,
        spec: Spec,
        hidden: Sequence[int] = (64, 64),
        activation: str = "tanh",
        std: Std = "free",
        init_std: float = 1.0,
        latent: int = 2,
    ) -> None:
        super().__init__(spec, hidden, activation, std, init_std, extra=latent)
        self.latent_mean, self.latent_log_std = (
            nn.Parameter(torch.zeros(latent), requires_grad=False) for _ in range(2)
        )

    def noise(self, rows: int) -> dict[str, Tensor]:
        """eps of every episode."""
        return {NOISE: torch.randn(rows, len(self.latent_mean), device=self.latent_mean.device)}

    def encode(self, parameters: Tree, inputs: Mapping[str, Tensor]) -> Tensor:
        """(M, q, observation + latent)."""
        mean, std = (v if v.ndim == 1 else v[:, None] for v in (parameters[MEAN], parameters[LOG_STD].exp()))
        return torch.cat([inputs["observation"], mean + std * inputs[NOISE]], -1)


class LatentMetaPolicy(MetaPolicy):
    """theta, and mu_i and log sigma_i (tasks, latent) of every training task."""

    def __init__(self, net: LatentPolicy, *args: Any, tasks: int, **kwargs: Any) -> None:
        super().__init__(net, *args, **kwargs)
        self.means, self.log_stds = (nn.Parameter(torch.zeros(tasks, len(net.latent_mean))) for _ in range(2))

    def start(self, tasks: Tensor | None = None) -> Tree:
        """phi_0: the latents of the training tasks `tasks` (M,), or the prior for tasks never met."""
        phi = super().start(tasks)
        return phi if tasks is None else {**phi, MEAN: self.means[tasks], LOG_STD: self.log_stds[tasks]}

    def divergence(self, tasks: Tensor) -> Tensor:
        """(M,) KL(N(mu_i, sigma_i), N(0, I)), before adaptation."""
        mean, log_std = self.means[tasks], self.log_stds[tasks]
        return (0.5 * (mean.square() + torch.exp(2 * log_std) - 1) - log_std).sum(-1)


@dataclass
class MAESNConfig(MAMLTRPOConfig):
    """`num_tasks` training tasks, each with a latent of its own.

    Raises:
        ConfigError: without a number of training tasks.
    """

    num_tasks: int = 100
    learn_rates: Literal["no", "tensor", "entry"] = "entry"
    latent: int = field(default=2, metadata={"help": "size of z"})
    penalty: float = field(default=0.1, metadata={"help": "lambda, weight of the divergence from the prior"})

    def __post_init__(self) -> None:
        if self.num_tasks < 1:
            raise ConfigError("MAESN keeps a latent for each training task: num_tasks says how many there are")
        super().__post_init__()


class MAESNTrainer(MAMLTRPOTrainer):
    """MAML-TRPO on a latent policy."""

    args: MAESNConfig

    @classmethod
    def args_class(cls) -> type:
        return MAESNConfig

    @classmethod
    def build(cls, tasks: PairedTasks, args: Any) -> MetaPolicy:
        net = LatentPolicy(tasks.env.spec, args.hidden, args.activation, args.std, args.init_std, args.latent)
        steps = inner_loop(net, args.surrogate, args.order)
        rates = learned_rates(net, args, args.inner_steps)
        return LatentMetaPolicy(net, steps, args.inner_rates, rates, tasks=args.num_tasks)

    def meta_objective(self, phis: list[Tree], trials: Trials) -> Tensor:
        """MAML's, less the divergence of the latents from the prior."""
        apart = self.learner.divergence(numbers_of(trials))
        return super().meta_objective(phis, trials) - self.args.penalty * apart.mean()


@torch.no_grad()
def structured_noise(learner: MetaPolicy, tasks: EnvTasks, zs: int = 50, repeats: int = 20) -> tuple[float, float]:
    """Variance of the end of an episode (a point, its coordinates summed) over z, and within one z: how much of the
    exploration of the prior holds for a whole episode. The first is that of the means over `repeats` episodes.
    """
    net = learner.net
    params = {name: value.expand(zs, *value.shape[1:]) for name, value in tasks.batch(0, [0]).items()}
    drawn = {name: value[:, None] for name, value in net.noise(zs).items()}
    held = _Held(
        net, {name: value.expand(-1, repeats, *value.shape[2:]).flatten(0, 1) for name, value in drawn.items()}
    )
    trials = play(tasks.env, held, learner.start(), params, repeats)  # type: ignore[arg-type]
    last = trials.mask.shape[1] - 1 - trials.mask.flip(1).long().argmax(1) + 1  # the closing row
    ends = trials.inputs["observation"][torch.arange(len(last)), last].unflatten(0, (zs, repeats))
    within = float(ends.var(1).sum(-1).mean())
    return float(ends.mean(1).var(0).sum()) - within / repeats, within


class _Held:
    """A policy whose noise is given: equal rows of it are one z in several episodes."""

    def __init__(self, net: TaskPolicy, drawn: dict[str, Tensor]) -> None:
        self.net, self.drawn, self.distribution = net, drawn, net.distribution
        self.of_tasks, self.tasks_of = net.of_tasks, net.tasks_of

    def noise(self, rows: int) -> dict[str, Tensor]:
        """What was given."""
        return self.drawn
