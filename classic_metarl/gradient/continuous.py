"""Continuous adaptation: a task is followed by another, a little different one; a step on each is for the next.

    phi_i = theta - (1/K) sum_k [pi_theta(tau_k) / pi_(phi_(i-1))(tau_k)] alpha grad L(theta; tau_k)      (equation 9)

Al-Shedivat et al. 2018, 1710.03641. tau_k are the episodes of task i - 1, played by phi_(i-1); phi_i plays task i.
Adaptation always begins at theta again (`restart`), so that the episodes are those of another policy and their gradient
is weighed by importance; alpha is learned for every gradient step and tensor. theta and alpha are trained on chains of
neighbours (pairs in the paper) to do well on each task after one was met before it:

    grad E[sum_i L_i(phi_i)]  with the score of the episodes that adaptation saw (`sampling`, equation 8; E-MAML's term)

The outer step is PPO's, as in the paper: `epochs` updates on one collection under a clipped ratio.

A product of ratios over whole episodes has almost no effective sample size once phi is away from theta; `most`
truncates it, `importance: step` takes the ratio of each step alone (biased, of bounded variance), and `none` none. The
effective share of episodes is logged as `chain/effective`. `adapt: false` is the same policy without adaptation, and
`restart: false` goes on from phi_(i-1), where no ratio is needed. Of the two it is the one to use where phi moves by
more than a standard deviation of the actions: the episodes of a well-adapted phi then weigh nothing under theta, and
equation 9 adapts in every other task only (LOG.md).

The return of theta itself on the first task counts too (`first`; not in the paper): without it theta is free to be
useful for the step alone, and what a good phi does then says nothing about theta.

Deviations: the baseline is fitted to each task's episodes; losses of a stage are means over its steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from classic_metarl.gradient.emaml import standardised
from classic_metarl.inner import estimators
from classic_metarl.inner.gradient_steps import Order, Tree
from classic_metarl.inner.meta_policy import MetaPolicy, inner_loop
from classic_metarl.inner.stage_credit import with_credit
from classic_metarl.inner.stages import stage, task_means
from classic_metarl.inner.task_policy import TaskPolicy, play
from classic_metarl.trainers.meta_rl import GradientRLTrainer, learned_rates, policy_options
from classic_metarl.trainers.meta_rl_config import GradientRLConfig
from mrt.errors import ConfigError
from mrt.tasks import own_draws
from mrt.training.collection import Batch

Ratios = Literal["episode", "step", "none"]


@dataclass
class ContinuousConfig(GradientRLConfig):
    """Arguments of `ContinuousTrainer`. `episodes` are those of a task between two adaptations, K.

    `inner_steps` follows from `chain` and `steps_each`.
    """

    chain: int = field(default=2, metadata={"help": "neighbouring tasks that training plays in turn; 2: pairs"})
    steps_each: int = field(default=1, metadata={"help": "gradient steps on a task, each on new episodes of it"})
    restart: bool = field(default=True, metadata={"help": "every task is adapted to from theta, not from the last phi"})
    importance: Ratios = field(default="episode", metadata={"help": "ratio of policies by: episode | step | none"})
    most: float = field(default=2.0, metadata={"help": "ratios are truncated there"})
    sampling: float = field(default=1.0, metadata={"help": "weight of the score of what adaptation saw; 0: without"})
    first: bool = field(default=True, metadata={"help": "the first task of a chain counts as well, played by theta"})
    adapt: bool = field(default=True, metadata={"help": "false: the same policy for all tasks"})
    adapted: list[str] = field(
        default_factory=list, metadata={"help": "prefixes of the parameters that adapt (net: all but log_std); [] all"}
    )
    clip: float = field(default=0.2, metadata={"help": "PPO's clip of the outer ratio"})
    learn_rates: Literal["no", "tensor", "entry"] = field(
        default="tensor", metadata={"help": "learn the step sizes, one a tensor or an entry"}
    )
    curve_tasks: int = field(default=0, metadata={"help": "held-out tasks of the curve within one task; 0 for none"})

    def __post_init__(self) -> None:
        if self.chain < 2 or self.steps_each < 1 or self.importance not in ("episode", "step", "none"):
            raise ConfigError(
                f"chain={self.chain}, steps_each={self.steps_each}, importance={self.importance!r}: at least 2 tasks "
                "and 1 step, importance is episode, step or none"
            )
        if self.most <= 0 or self.sampling < 0:
            raise ConfigError(f"most={self.most} must be above 0, sampling={self.sampling} at least 0")
        self.inner_steps = self.steps_each * (self.chain - 1)
        super().__post_init__()


class ChainPolicy(MetaPolicy):
    """theta, the step sizes, and equation 9."""

    def __init__(self, net: TaskPolicy, args: ContinuousConfig) -> None:
        rates = learned_rates(net, args, args.steps_each) if args.adapt else []
        steps = inner_loop(net, args.surrogate, args.order, args.gamma, adapted=tuple(args.adapted))
        super().__init__(net, steps, args.inner_rates, rates)
        self.rule, self.effective = args, 1.0

    def adapt(self, phi: Tree, number: int, batch: Batch, order: Order | None = None) -> Tree:
        """The policies of what follows stage `number` (from 0), given its episodes, which phi has played."""
        rule = self.rule
        if not rule.adapt:
            return phi
        within = number % rule.steps_each
        if not rule.restart or within:
            return super().adapt(phi, within, batch, order)
        start = self.start()
        return super().adapt(start, within, self.reweighed(start, batch), order)

    @torch.no_grad()
    def reweighed(self, start: Tree, batch: Batch) -> Batch:
        """The episodes, their credit times the truncated ratios of `start` to the policy that acted."""
        if self.rule.importance == "none":
            return batch
        trials = batch.trials
        logprobs = self.net.logprobs(start, trials)
        ratio = estimators.importance(logprobs, trials, self.rule.most)
        self.effective = float(effective_share(ratio, trials.group).mean())
        weights = ratio[:, None]
        if self.rule.importance == "step":
            assert trials.logprobs is not None
            weights = (logprobs - trials.logprobs).exp().clamp(max=self.rule.most)
        return Batch(trials, batch.weights * weights)


class ContinuousTrainer(GradientRLTrainer):
    """Chains of neighbouring tasks -> a step after each -> what the next one pays.

    Raises:
        ConfigError: for tasks that are no chains.
    """

    args: ContinuousConfig
    model: ChainPolicy

    def __init__(self, model: Any, args: Any, tasks: Any, **kwargs: Any) -> None:
        stages = getattr(tasks.env, "stages", 0)
        if args.chain > stages:
            raise ConfigError(
                f"chain={args.chain}: {tasks.name} has {stages} stages. Continuous adaptation needs tasks that change "
                "(fading-legs, sumo), and chains no longer than they are"
            )
        env = tasks.env.with_spec()
        env.chain = args.chain  # chains begin where as many stages are left
        super().__init__(model, args, replace(tasks, env=env), **kwargs)

    @classmethod
    def args_class(cls) -> type:
        return ContinuousConfig

    @classmethod
    def build(cls, tasks: Any, args: Any) -> ChainPolicy:
        return ChainPolicy(TaskPolicy(tasks.env.spec, **policy_options(args)), args)

    def stage_params(self, params: Mapping[str, Tensor], number: int) -> Mapping[str, Tensor]:
        """The next task of every chain after `steps_each` stages."""
        return next_stage(params, number // self.args.steps_each)

    def next_batch(self, indices: Any) -> Batch:
        batch = super().next_batch(indices)
        self.log_metric("chain/effective", self.learner.effective)
        return batch

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Minus the clipped surrogate of every task of the chain, and equation 8's score term."""
        args, net = self.args, self.learner.net
        first = 0 if args.first or not args.adapt else args.steps_each

        def objective() -> Tensor:
            phis, total = self.adapted(batch), torch.zeros((), device=args.device)
            stages = [stage(batch, number) for number in range(args.inner_steps + 1)]
            spoken = [net.logprobs(phi, one.trials) for phi, one in zip(phis, stages, strict=True)]
            for number in range(first, args.inner_steps + 1):
                one, logprobs = stages[number].trials, spoken[number]
                clipped = estimators.clipped(logprobs, stages[number].weights, one, args.clip)
                total = total + task_means(clipped, one).mean()
                if args.sampling and args.adapt and number:
                    before, said = stages[number - 1].trials, spoken[number - 1]
                    score = estimators.sampling_term(said, before, standardised(one))
                    total = total + args.sampling * task_means(score, before).mean()
            return total / (args.inner_steps + 1 - first)

        return {"policy": -self.model_wrapped(objective)}


def next_stage(params: Mapping[str, Tensor], ahead: int) -> dict[str, Tensor]:
    """The tasks {name: (M, ...)} that come `ahead` stages later in their chains."""
    return {**params, "stage": params["stage"] + ahead}


def effective_share(ratio: Tensor, group: Tensor) -> Tensor:
    """(G,) effective sample size of ratios (B,) over the number of episodes, within each group."""
    size = torch.bincount(group).to(ratio.dtype)
    return estimators.effective_sample_size(ratio.clamp(min=1e-30), group) / size


def chain_returns(learner: ChainPolicy, tasks: Any, args: ContinuousConfig, count: int, seed: int) -> Tensor:
    """(count, S) mean return of an episode in every stage of whole chains, executed as equation 9 says.

    Each stage lasts `env.each` episodes, `steps_each` equal parts of which are followed by a gradient step. Torch's own
    random state is left as it was. Played where the learner is.
    """
    tasks = tasks.to(next(learner.parameters()).device)
    env, parts = tasks.env, args.steps_each
    episodes, left = divmod(env.each, parts)
    if left or not episodes:
        raise ConfigError(
            f"a stage of {tasks.name} has {env.each} episodes, which cannot be split evenly over {parts} steps"
        )
    params, returns = tasks.batch(seed, range(count)), []
    with own_draws(seed, env.device), torch.no_grad():
        phi = learner.start()
        for number in range(env.stages * parts):
            trials = play(env, learner.net, phi, next_stage(params, number // parts), episodes)
            returns.append(trials.returns.unflatten(0, (count, -1)).mean(1))
            weighed = with_credit(trials, args.make_credit(), args.gamma, args.normalise)
            phi = learner.adapt(phi, number, weighed, order="first")
    return torch.stack(returns, 1).unflatten(1, (env.stages, parts)).mean(2).cpu()
