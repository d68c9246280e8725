"""MAESN: exploration by a latent that holds for a whole episode, and that adapts.

    z ~ N(mu_i, sigma_i), once an episode; the policy sees (s, z)
    (mu, log sigma)_i' = (mu, log sigma)_i + alpha (.) grad mean_b[log N(z_b; mu_i, sigma_i) A_b]       alpha learned
    max over theta, mu, sigma, alpha of  mean_i E[ratio A](mu_i', sigma_i') - lambda KL(N(mu_i, sigma_i), N(0, I))

Gupta, Mendonca, Liu, Abbeel & Levine 2018, 1802.07245, algorithm 1 and equation 4. Each training task has a mu_i and
sigma_i of its own, from which its trials start; the divergence (of these, before adaptation) keeps them near the prior
N(0, I), from which tasks of the test start. Rewards are dense in training and sparse at test, declared with the tasks
(`paired.py`). The meta-update is TRPO's, its gradient goes through z = mu + sigma eps, eps recorded.

The inner step is that of the authors' code: z is the first act of an episode and A_b the credit of that step (the
discounted return with GAE's lambda at 1), standardised over the task's episodes: the score of z compares whole
episodes. (The gradient through z = mu + sigma eps rests on the noise of single actions instead and says next to
nothing: LOG.md.) Only the latents adapt; `adapt_weights: true` lets the network take the step of `surrogate` as well,
as the paper writes it.

Deviations, all from LOG.md's measurements: those of `maml_trpo.py`; mu_i and sigma_i follow the meta-gradient by an
Adam of their own (`latent_rate`), because few directions of a TRPO step are theirs and they hardly moved in it; what
(mu_i, sigma_i) earn before the step counts too (`first`), so that goals lie where the prior puts its mass and not only
where a large step leads; step sizes of log sigma start at `std_rate` times those of mu; those of steps that training
does not take halve from each to the next (`decay`), as 20 episodes are few when most find the goal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from classic_metarl.gradient.maml_trpo import MAMLTRPOConfig, MAMLTRPOTrainer
from classic_metarl.inner import estimators
from classic_metarl.inner.gradient_steps import GradientSteps, Order, Tree, parameters_of
from classic_metarl.inner.meta_policy import MetaPolicy, surrogate_of
from classic_metarl.inner.stages import as_batch, numbers_of, stage, task_means
from classic_metarl.inner.task_policy import TaskPolicy, play
from classic_metarl.problems.paired import PairedTasks
from classic_metarl.trainers.meta_rl import policy_options, step_sizes
from mrt.control.envs.base import EnvTasks, Spec
from mrt.control.latents import Latent
from mrt.errors import ConfigError
from mrt.training.collection import Batch

LATENTS = "latent_"
MEAN, LOG_STD = "latent_mean", "latent_log_std"
NOISE, DRAWN = "noise", "z"


class LatentPolicy(TaskPolicy):
    """A `TaskPolicy` that also sees z = mu + sigma eps; its own mu and sigma are those of the prior, 0 and 1."""

    def __init__(self, spec: Spec, latent: int = 2, **options: Any) -> None:
        super().__init__(spec, **options, extra=latent)
        self.latent_mean, self.latent_log_std = (
            nn.Parameter(torch.zeros(latent), requires_grad=False) for _ in range(2)
        )

    def draw(self, parameters: Tree, rows: int) -> dict[str, Tensor]:
        """eps and z of every episode."""
        noise = torch.randn(rows, len(self.latent_mean), device=self.latent_mean.device)
        many = (v if v.ndim == 1 else v.repeat_interleave(rows // len(v), 0) for v in _latent(parameters))
        return {NOISE: noise, DRAWN: Latent(*many).at(noise)}

    def encode(self, parameters: Tree, inputs: Mapping[str, Tensor]) -> Tensor:
        """(M, q, observation + latent)."""
        z = Latent(*(v if v.ndim == 1 else v[:, None] for v in _latent(parameters))).at(inputs[NOISE])
        return torch.cat([inputs["observation"], z], -1)


def _latent(parameters: Tree) -> Latent:
    return Latent(parameters[MEAN], 2 * parameters[LOG_STD])


class LatentMetaPolicy(MetaPolicy):
    """theta, and mu_i and log sigma_i (tasks, latent) of every training task."""

    def __init__(self, net: LatentPolicy, args: MAESNConfig) -> None:
        steps = latent_loop(net, args)
        moving = steps.moving(parameters_of(net))
        rates = [{n: r for n, r in tree.items() if n in moving} for tree in latent_rates(net, args)]
        super().__init__(net, steps, args.inner_rates, rates)
        for rate in self.rates.parameters():
            rate.requires_grad_(args.learn_rates != "no")
        self.decay = args.decay
        self.means, self.log_stds = (nn.Parameter(torch.zeros(args.num_tasks, args.latent)) for _ in range(2))

    def start(self, tasks: Tensor | None = None) -> Tree:
        """phi_0: the latents of the training tasks `tasks` (M,), or the prior for tasks never met."""
        phi = super().start(tasks)
        return phi if tasks is None else {**phi, MEAN: self.means[tasks], LOG_STD: self.log_stds[tasks]}

    def adapt(self, phi: Tree, number: int, batch: Batch, order: Order | None = None) -> Tree:
        """The gradient step, smaller by `decay` with each one that training does not take."""
        after, share = super().adapt(phi, number, batch, order), self.decay ** max(0, number - len(self.rates) + 1)
        moving = self.steps.moving(phi)
        return {n: torch.lerp(phi[n], v, share) if n in moving else v for n, v in after.items()}

    def divergence(self, tasks: Tensor) -> Tensor:
        """(M,) KL(N(mu_i, sigma_i), N(0, I)), before adaptation."""
        return Latent(self.means[tasks], 2 * self.log_stds[tasks]).kl_unit()


def latent_loop(net: LatentPolicy, args: MAESNConfig) -> GradientSteps:
    """The inner step: the score of z times the standardised return of its episode, and with `adapt_weights` the
    surrogate of the actions at that z, which moves the network alone.
    """
    function = surrogate_of(args.surrogate, args.gamma)

    def loss(phi: Tree, data: Tree) -> Tensor:
        drawn_from = Latent(*(value[:, None] for value in _latent(phi)))
        gain = (drawn_from.log_prob(data[f"inputs/{DRAWN}"][:, :, 0]) * standard(data["weights"][:, :, 0])).mean(1)
        if args.adapt_weights:
            given = {**phi, **{name: torch.zeros_like(phi[name]) for name in (MEAN, LOG_STD)}}  # z is what it was
            batch = as_batch({**data, f"inputs/{NOISE}": data[f"inputs/{DRAWN}"]})
            trials = batch.trials
            gain = gain + task_means(function(net.logprobs(given, trials), batch.weights, trials), trials)
        return -gain

    moving = () if args.adapt_weights else (LATENTS,)
    return GradientSteps(loss, order=args.order, over="fold", adapted=moving, adapt_frozen=(LATENTS,))


def standard(credit: Tensor) -> Tensor:
    """(M, n) to mean 0 and deviation 1 over the episodes of each task; 0 where all are alike."""
    centred = credit - credit.mean(1, keepdim=True)
    return centred / (centred.square().mean(1, keepdim=True).sqrt() + 1e-6)


def latent_rates(net: LatentPolicy, args: MAESNConfig) -> list[Tree]:
    """A tree for each gradient step of training, whether they are learned or not: log sigma has its own."""
    trees = step_sizes(net, args, args.inner_steps, "tensor" if args.learn_rates == "no" else args.learn_rates)
    return [{n: r * args.std_rate if n == LOG_STD else r for n, r in tree.items()} for tree in trees]


@dataclass
class MAESNConfig(MAMLTRPOConfig):
    """`num_tasks` training tasks, each with a latent of its own.

    Raises:
        ConfigError: without a number of training tasks, or for an invalid decay or rate.
    """

    num_tasks: int = 100
    learn_rates: Literal["no", "tensor", "entry"] = "entry"
    latent: int = field(default=2, metadata={"help": "size of z"})
    penalty: float = field(default=0.1, metadata={"help": "lambda, weight of the divergence from the prior"})
    adapt_weights: bool = field(default=False, metadata={"help": "the network takes the gradient step too"})
    std_rate: float = field(default=0.5, metadata={"help": "step size of log sigma at the start, over that of mu"})
    decay: float = field(default=0.5, metadata={"help": "factor on step sizes with each step beyond those of training"})
    latent_rate: float = field(default=0.05, metadata={"help": "Adam's step size on mu_i and log sigma_i"})
    first: float = field(default=1.0, metadata={"help": "weight of what is earned before the step"})

    def __post_init__(self) -> None:
        if self.num_tasks < 1:
            raise ConfigError("MAESN keeps a latent for each training task: num_tasks says how many there are")
        if not 0 < self.decay <= 1 or self.latent_rate <= 0:
            raise ConfigError(
                f"decay={self.decay}, latent_rate={self.latent_rate}: decay must be in (0, 1], the rate above 0"
            )
        super().__post_init__()


class MAESNTrainer(MAMLTRPOTrainer):
    """MAML-TRPO on a latent policy, and Adam on the latents of the training tasks."""

    args: MAESNConfig
    model: LatentMetaPolicy

    def __init__(self, model: Any, args: Any, tasks: Any, **kwargs: Any) -> None:
        super().__init__(model, args, tasks, **kwargs)
        latents = [self.learner.means, self.learner.log_stds]
        self.latents = torch.optim.SparseAdam(latents, lr=args.latent_rate)  # rows that are not met stay as they are
        self.register_state("latents", self.latents)

    @classmethod
    def args_class(cls) -> type:
        return MAESNConfig

    @classmethod
    def build(cls, tasks: PairedTasks, args: Any) -> MetaPolicy:
        net = LatentPolicy(tasks.env.spec, args.latent, **policy_options(args))
        return LatentMetaPolicy(net, args)

    def region(self) -> list[nn.Parameter]:
        """All but the latents of tasks."""
        mine = (self.learner.means, self.learner.log_stds)
        return [p for p in super().region() if not any(p is one for one in mine)]

    def update(self, batch: Batch) -> bool:
        """TRPO's step on theta and alpha, and Adam's on mu_i and sigma_i, both from where they were."""
        mine, rows = [self.learner.means, self.learner.log_stds], numbers_of(batch.trials)
        slopes = torch.autograd.grad(self.meta_objective(self.adapted(batch), batch) * len(rows), mine)
        super().update(batch)
        for latent, slope in zip(mine, slopes, strict=True):
            latent.grad = torch.sparse_coo_tensor(rows[None], -slope[rows], latent.shape, check_invariants=True)
        self.latents.step()
        self.latents.zero_grad()
        return True

    def meta_objective(self, phis: list[Tree], batch: Batch) -> Tensor:
        """MAML's, what is earned before the step, less the divergence of the latents from the prior."""
        gain = super().meta_objective(phis, batch)
        if self.args.first:
            first = stage(batch, 0)
            logprobs = self.learner.net.logprobs(phis[0], first.trials)
            before = task_means(estimators.likelihood_ratio(logprobs, first.weights, first.trials), first.trials)
            gain = gain + self.args.first * before.mean()
        return gain - self.args.penalty * self.learner.divergence(numbers_of(batch.trials)).mean()


@torch.no_grad()
def structured_noise(learner: MetaPolicy, tasks: EnvTasks, zs: int = 50, repeats: int = 20) -> tuple[float, float]:
    """Variance of the end of an episode (a point, its coordinates summed) over z, and within one z: how much of the
    exploration of the prior holds for a whole episode. The first is that of the means over `repeats` episodes.
    """
    net, start, tasks = learner.net, learner.start(), tasks.to(next(learner.parameters()).device)
    params = {name: value.expand(zs, *value.shape[1:]) for name, value in tasks.batch(0, [0]).items()}
    drawn = {name: value[:, None] for name, value in net.draw(start, zs).items()}
    held = _Held(
        net, {name: value.expand(-1, repeats, *value.shape[2:]).flatten(0, 1) for name, value in drawn.items()}
    )
    trials = play(tasks.env, held, start, params, repeats)  # type: ignore[arg-type]
    last = trials.mask.shape[1] - 1 - trials.mask.flip(1).long().argmax(1) + 1  # the closing row
    ends = trials.inputs["observation"][torch.arange(len(last), device=last.device), last].unflatten(0, (zs, repeats))
    within = float(ends.var(1).sum(-1).mean())
    return float(ends.mean(1).var(0).sum()) - within / repeats, within


class _Held:
    """A policy whose noise is given: equal rows of it are one z in several episodes."""

    def __init__(self, net: TaskPolicy, drawn: dict[str, Tensor]) -> None:
        self.net, self.drawn, self.distribution = net, drawn, net.distribution
        self.of_tasks, self.tasks_of = net.of_tasks, net.tasks_of

    def draw(self, parameters: Tree, rows: int) -> dict[str, Tensor]:
        """What was given."""
        return self.drawn
