"""RL2, fast reinforcement learning via slow reinforcement learning (Duan, Schulman, Chen, Bartlett, Sutskever and
Abbeel 2016, arXiv 1611.02779).

A GRU reads (s_t, a_(t-1), r_(t-1), d_(t-1)); its state is kept over the ends of episodes and dies with the trial, and
the objective is the discounted return of the whole trial (section 2.2):

    max over theta of  E_M E [ sum over the steps of the trial of gamma^t r_t ],   gamma = 0.99, GAE

The paper's optimiser is TRPO (`RL2TRPOTrainer`); a GRU of its own is the baseline:

    max g' d  with  d' F d / 2 <= 0.01       g: gradient of the mean of ratio * advantage, F: Hessian of the mean KL

E-RL2 (Stadie et al. 2018, 1803.01118) is RL2 with `free_episodes` of a trial: their rewards are seen, but left out of
the objective, so that what is done there is paid by the later episodes alone.

`RL2Trainer` is what RL2 is trained with today, PPO; the defaults are those of the authors' last bandit launcher: clip
0.3, ten epochs, lambda = 1.

Deviations: the launcher takes a line search after PPO and stops at a mean KL of 0.01, here it is the clip alone;
collections are smaller than the paper's 250,000 steps (what fits in seconds); the baseline of TRPO is fitted by a few
steps of Adam on the trials of the update, after the policy has moved.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from classic_metarl.black_box.defaults import with_policy
from mrt.control.envs import EnvTasks
from mrt.control.trainer import VALUE, ControlConfig, ControlTrainer
from mrt.errors import ConfigError
from mrt.optim.trust_region import TrustRegion
from mrt.runs.recipe import Recipe
from mrt.training.collection import Batch

POLICY = {"memory": "gru", "hidden_size": 64}


@dataclass
class RL2Config(ControlConfig):
    """PPO as in the authors' launcher. `minibatches` counts updates an epoch, each of whole trials."""

    learning_rate: float = 1e-3
    gamma: float = 0.99
    lam: float = 1.0
    clip: float | None = 0.3
    epochs: int = 10
    minibatches: int = 2
    entropy: float = 0.01
    free_episodes: int = field(
        default=0, metadata={"help": "first episodes whose rewards the objective leaves out (E-RL2)"}
    )

    def __post_init__(self) -> None:
        if self.free_episodes < 0:
            raise ConfigError(f"free_episodes={self.free_episodes} must be at least 0")
        super().__post_init__()


class RL2Trainer(ControlTrainer):
    """RL2 with PPO: a GRU that is never reset within a trial."""

    args: RL2Config

    def __init__(self, model: Any, args: RL2Config, tasks: EnvTasks, **kwargs: Any) -> None:
        super().__init__(model, args, tasks, **kwargs)
        if self.free_episodes >= tasks.env.spec.episodes:
            raise ConfigError(
                f"free_episodes={self.free_episodes} of {tasks.env.spec.episodes}: no reward is left to learn from"
            )

    @classmethod
    def args_class(cls) -> type:
        return RL2Config

    @property
    def free_episodes(self) -> int:
        return max(self.args.free_episodes, super().free_episodes)

    @classmethod
    def make_policy(cls, recipe: Recipe, tasks: EnvTasks) -> Any:
        return super().make_policy(with_policy(recipe, POLICY), tasks)


@dataclass
class RL2TRPOConfig(ControlConfig):
    """TRPO: one step a collection, its length set by `max_kl`; `learning_rate` is that of the baseline.

    Raises:
        ConfigError: for several updates a collection, or an invalid trust region.
    """

    learning_rate: float = 1e-3
    gamma: float = 0.99
    lam: float = 1.0
    clip: float | None = None
    entropy: float = 0.0
    max_kl: float = field(default=0.01, metadata={"help": "mean KL divergence that a step may reach"})
    damping: float = field(default=1e-3, metadata={"help": "added to the Fisher matrix"})
    cg_iterations: int = field(default=10, metadata={"help": "conjugate-gradient iterations"})
    baseline_steps: int = field(default=10, metadata={"help": "steps of Adam on the baseline, each on all trials"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epochs * self.minibatches > 1:
            raise ConfigError(
                f"epochs={self.epochs}, minibatches={self.minibatches}: TRPO takes one step on a whole collection"
            )
        self.trust_region()

    def trust_region(self) -> TrustRegion:
        """The step that these arguments describe."""
        return TrustRegion(max_kl=self.max_kl, damping=self.damping, iterations=self.cg_iterations)


class RL2TRPOTrainer(ControlTrainer):
    """RL2 as in the paper: TRPO on the actor, a recurrent baseline of its own.

    Raises:
        ConfigError: for a policy whose critic shares the actor's memory, and in several processes.
    """

    args: RL2TRPOConfig

    def __init__(self, model: Any, args: RL2TRPOConfig, tasks: EnvTasks, **kwargs: Any) -> None:
        super().__init__(model, args, tasks, **kwargs)
        if args.world_size > 1:
            raise ConfigError("TRPO's step is taken in one process; use RL2Trainer (PPO) in several")
        if self.policy.critic_memory is None:
            raise ConfigError("TRPO moves the actor alone: give the policy separate_critic: true")
        trained = [(name, p) for name, p in self.policy.named_parameters() if p.requires_grad]
        self._actor = [p for name, p in trained if not _is_critic(name)]
        self._baseline = torch.optim.Adam([p for name, p in trained if _is_critic(name)], lr=args.learning_rate)
        self.register_state("baseline", self._baseline)

    @classmethod
    def args_class(cls) -> type:
        return RL2TRPOConfig

    @classmethod
    def make_policy(cls, recipe: Recipe, tasks: EnvTasks) -> Any:
        return super().make_policy(with_policy(recipe, {**POLICY, "separate_critic": True}), tasks)

    def update(self, batch: Batch) -> bool:
        """A TRPO step on the actor, then a few steps on the baseline's squared error."""
        # Fused attention and cuDNN's recurrent networks have no second derivative.
        with sdpa_kernel(SDPBackend.MATH), torch.backends.cudnn.flags(enabled=False):
            facts = self._step_actor(batch)
        for name in ("kl", "accepted", "backtracks"):
            self.log_metric(f"trpo/{name}", facts[name])
        self.log_metric("trpo/gain", facts["surrogate"] - facts["surrogate_before"])
        self._fit_baseline(batch)
        return True

    def _step_actor(self, batch: Batch) -> dict[str, float]:
        """Moves the actor; the facts of the step."""
        trials, weights, distribution = batch.trials, batch.weights, self.policy.distribution
        mask = trials.mask
        with torch.no_grad():
            old = self.policy(trials.inputs).logits[mask]
        actions, before = trials.actions[mask], distribution.logprob(old, trials.actions[mask])

        def evaluate() -> tuple[Tensor, Tensor]:
            logits = self.policy(trials.inputs).logits[mask]
            ratio = torch.exp(distribution.logprob(logits, actions) - before)
            gain = (ratio * weights[mask]).mean() + self.entropy_weight * distribution.entropy(logits).mean()
            return gain, distribution.kl(old, logits).mean()

        return self.args.trust_region().step(self._actor, evaluate)

    def _fit_baseline(self, batch: Batch) -> None:
        trials, targets = batch.trials, batch.targets[VALUE]
        mask = trials.mask
        for _ in range(self.args.baseline_steps):
            error = ((self.policy(trials.inputs).values - targets)[mask] / self.policy.value_std).square().mean()
            parameters = self._baseline.param_groups[0]["params"]
            for parameter, grad in zip(parameters, torch.autograd.grad(error, parameters), strict=True):
                parameter.grad = grad
            self._baseline.step()
            self._baseline.zero_grad()
            self.log_metric("value_error", error.item())


def _is_critic(name: str) -> bool:
    return any(part in ("critic", "critic_memory") for part in name.split("."))
