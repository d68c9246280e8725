"""MAME, model-agnostic meta-exploration: who explores is another policy than who adapts (Gurumurthy, Kumar & Sycara
2019, "MAME: model-agnostic meta-exploration", CoRL 2019).

    D ~ mu_phi                                     episodes of the explorer, without adaptation
    z' = z - alpha grad_z mean_t w_t (M_beta(s_t, a_t; z) - G_t)^2          G_t = sum_(i < N) gamma^i r_(t+i),  w_t = 1
    max over theta, beta, z, alpha of  E_(tau ~ pi_theta(.; z')) R(tau)
    max over phi of                    E_(D ~ mu_phi)[ the same ]

Adaptation is self-supervised: z, which the policy pi and the model M share, moves so that M predicts the N-step returns
of what was explored. There is no policy gradient in the inner step, so its data may come from anyone, and its variance
is that of a regression. The task reaches the policy through z alone.

The explorer has an outer gradient of its own. A step that it took counts by what its example did to the outcome: d J /
d w_t at w_t = 1, with J the outer objective after the gradient step. That is what DiCE's box, put on w_t, passes on to
phi (Foerster et al. 2018, 1802.05098): an example of step t hangs on the actions up to t + N - 1, so

    grad_phi J = E sum_t grad log mu(a_t | s_t)  sum_(u > t - N) d J / d w_u

The sum is the explorer's return; values are fitted to it for each task as to any other. theta, beta, z and alpha
learn through the inner step by the clipped objective of ProMP (`promp.py`), phi by the same with its own ratios.

`explorer: false` is the ablation: the policy at z explores for itself, and is not answerable for it.

Written from the abstract and a description of the method; no code of the authors was found. Deviations that are known:
ProMP's outer objective in place of TRPO's; `model_weight` teaches M by what it predicts after the step, too (0: through
z' alone, as in the equations); usefulness is normalised for each task, as advantages are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from classic_metarl.gradient.promp import ProMPConfig
from classic_metarl.inner import estimators
from classic_metarl.inner.gradient_agent import GradientAgent, State
from classic_metarl.inner.gradient_steps import GradientSteps, Tree, parameters_of
from classic_metarl.inner.meta_policy import MetaPolicy
from classic_metarl.inner.stages import as_batch, stage, task_means
from classic_metarl.inner.task_networks import MLP
from classic_metarl.inner.task_policy import TaskAgent, TaskPolicy
from classic_metarl.problems.paired import PairedTasks
from classic_metarl.trainers.meta_rl import GradientRLTrainer, learned_rates, policy_options
from mrt.control.agent import Choice, Seen
from mrt.control.envs.base import Spec
from mrt.credit.returns import reward_to_go
from mrt.errors import ConfigError
from mrt.optim.learners import Learner
from mrt.training.collection import Batch
from mrt.trials import Trials

LATENT = "z"
MODEL = "model."
COUNTED = "counted"  # w_t, among the inputs of the episodes that adaptation is given


class SharedLatentPolicy(TaskPolicy):
    """A `TaskPolicy` that also sees z (latent,), and the model M of returns on (s, a, z)."""

    def __init__(self, spec: Spec, latent: int, hidden: Sequence[int], activation: str, **options: Any) -> None:
        super().__init__(spec, hidden, activation, **options, extra=latent)
        self.z = nn.Parameter(torch.zeros(latent))
        self.actions = spec.actions
        width = spec.observation + (spec.actions or spec.action_size) + latent
        self.model = MLP([width, *hidden, 1], activation)

    def encode(self, parameters: Tree, inputs: Mapping[str, Tensor]) -> Tensor:
        """(M, q, observation + latent)."""
        return self._beside(parameters, inputs["observation"])

    def predict(self, parameters: Tree, trials: Trials) -> Tensor:
        """(B, T) what M says of recorded steps, whose rows are in the order of the tasks."""
        tasks, steps = self.tasks_of(parameters) or 1, trials.mask.shape[1]
        actions = trials.actions
        if self.actions:
            actions = nn.functional.one_hot(actions.clamp(min=0), self.actions)
        x = torch.cat([trials.inputs["observation"], actions.to(self.z.dtype)], -1)
        own = {name.removeprefix(MODEL): value for name, value in parameters.items() if name.startswith(MODEL)}
        said = self.model.of_tasks(own, self._beside(parameters, x.flatten(0, 1).unflatten(0, (tasks, -1))))
        return said.flatten().unflatten(0, (-1, steps))

    def _beside(self, parameters: Tree, x: Tensor) -> Tensor:
        z = parameters[LATENT]
        z = z if z.ndim == 1 else z[:, None]
        return torch.cat([x, z.expand(*x.shape[:-1], z.shape[-1])], -1)


class ExploredPolicy(MetaPolicy):
    """theta, beta, z and alpha, and the explorer, who plays the first `explored` stages."""

    net: SharedLatentPolicy

    def __init__(self, net: SharedLatentPolicy, explorer: TaskPolicy | None, args: MAMEConfig) -> None:
        rates = [{LATENT: tree[LATENT]} for tree in learned_rates(net, args, args.inner_steps)]
        super().__init__(net, prediction_steps(net, args), args.inner_rates, rates)
        self.explorer, self.explored = explorer, args.inner_steps

    def player(self, phi: Tree, number: int) -> tuple[TaskPolicy, Tree]:
        """The explorer before the adaptation of training is over."""
        if self.explorer is None or number >= self.explored:
            return super().player(phi, number)
        return self.explorer, parameters_of(self.explorer)


def n_step(trials: Trials, steps: int, gamma: float) -> Tensor:
    """(B, T) G_t = sum_(i < steps) gamma^i r_(t+i) of episodes, a row each; less where an episode ends before."""
    whole = reward_to_go(trials, gamma=gamma)
    later = torch.cat([whole[:, steps:], torch.zeros_like(whole[:, :steps])], 1)[:, : whole.shape[1]]
    return torch.where(trials.mask, whole - gamma**steps * later, 0.0)


def prediction_error(net: SharedLatentPolicy, phi: Tree, trials: Trials, args: MAMEConfig) -> Tensor:
    """(B, T) squared error of M at the acting steps, 0 elsewhere."""
    away = net.predict(phi, trials) - n_step(trials, args.horizon, args.gamma)
    return torch.where(trials.mask, away.square(), 0.0)


def prediction_steps(net: SharedLatentPolicy, args: MAMEConfig) -> GradientSteps:
    """The inner step: on the mean error of M over a task's steps, each counted w_t times; z alone moves."""

    def loss(phi: Tree, data: Tree) -> Tensor:
        trials = as_batch(data).trials
        error = prediction_error(net, phi, trials, args)
        counted = trials.inputs.get(COUNTED)
        return task_means((error if counted is None else error * counted).sum(1), trials)

    return GradientSteps(loss, order=args.order, over="fold", adapted=(LATENT,))


def usefulness(share: Tensor, trials: Trials, steps: int) -> Tensor:
    """(B, T) d J / d w_t, each at the last step that its example hangs on: t + steps - 1, or the end of the episode."""
    place = torch.arange(share.shape[1], device=share.device)
    last = (trials.mask * place).amax(1, keepdim=True)
    at = torch.minimum((place + steps - 1).expand_as(share), last)
    return torch.zeros_like(share).scatter_add(1, at, torch.where(trials.mask, share, 0.0))


@dataclass
class MAMEConfig(ProMPConfig):
    """ProMP's, the model's and the explorer's.

    Raises:
        ConfigError: for sizes below 1, a negative weight or a rate that is none.
    """

    inner_rates: list[float] = field(default_factory=lambda: [1.0])
    latent: int = field(default=4, metadata={"help": "size of z"})
    horizon: int = field(default=10, metadata={"help": "N, steps of the return that M predicts"})
    model_weight: float = field(default=1.0, metadata={"help": "weight of M's error after adaptation"})
    explorer: bool = field(default=True, metadata={"help": "a policy of its own explores; false: the ablation"})
    explorer_rate: float = field(default=1e-3, metadata={"help": "step size of the explorer (Adam)"})
    explorer_min_std: float = field(default=0.3, metadata={"help": "below which its standard deviation never falls"})

    def __post_init__(self) -> None:
        for name in ("latent", "horizon"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1")
        if self.model_weight < 0 or self.explorer_rate <= 0:
            raise ConfigError(
                f"model_weight={self.model_weight} must not be negative, explorer_rate={self.explorer_rate} above 0"
            )
        super().__post_init__()


class ExplorerAgent(GradientAgent):
    """A `GradientAgent` whose rows explore by the explorer until they have adapted as often as in training."""

    def choose(self, seen: Seen, state: State, greedy: bool, generator: torch.Generator | None) -> Choice:
        choice = super().choose(seen, state, greedy, generator)
        learner: Any = self.learner
        exploring = state["number"] < learner.explored
        if learner.explorer is None or not bool(exploring.any()):
            return choice
        explored = TaskAgent(*learner.player(state["phi"], 0)).act(seen, state["drawn"], greedy, generator)
        rows = exploring.view(-1, *[1] * (choice.actions.ndim - 1))
        actions = torch.where(rows, explored.actions, choice.actions)
        return choice._replace(actions=actions, logprobs=torch.where(exploring, explored.logprobs, choice.logprobs))


class MAMETrainer(GradientRLTrainer):
    """Two learners: `policy` through the inner step, `explorer` by what its steps did to the outcome."""

    args: MAMEConfig
    model: ExploredPolicy
    agent_class = ExplorerAgent

    @classmethod
    def args_class(cls) -> type:
        return MAMEConfig

    @classmethod
    def build(cls, tasks: PairedTasks, args: Any) -> MetaPolicy:
        spec, options = tasks.env.spec, policy_options(args)
        explorer = TaskPolicy(spec, **{**options, "min_std": args.explorer_min_std}) if args.explorer else None
        return ExploredPolicy(SharedLatentPolicy(spec, args.latent, **options), explorer, args)

    def learners(self) -> dict[str, Learner]:
        """Each by Adam."""
        learner, args = self.learner, self.args
        explores = [] if learner.explorer is None else list(learner.explorer.parameters())
        hers = {id(parameter) for parameter in explores}
        adapts = [parameter for parameter in learner.parameters() if id(parameter) not in hers]
        found = {"policy": Learner(torch.optim.Adam(adapts, lr=args.learning_rate))}
        return found | ({"explorer": Learner(torch.optim.Adam(explores, lr=args.explorer_rate))} if explores else {})

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Minus the objectives at the top of the module."""
        args, net, k = self.args, self.learner.net, self.args.inner_steps
        explored = [counted(stage(batch, j)) for j in range(k)]
        phi = self.learner.start()
        for number, one in enumerate(explored):
            phi = self.learner.adapt(phi, number, one)
        last = stage(batch, k)
        gains = estimators.clipped(net.logprobs(phi, last.trials), last.weights, last.trials, args.clip)
        gain = task_means(gains, last.trials).mean()
        error = task_means(prediction_error(net, phi, last.trials, args).sum(1), last.trials).mean()
        self.log_metric("model_error", float(error.detach()))
        losses = {"policy": args.model_weight * error - gain}
        if self.learner.explorer is not None:
            wanted = [one.trials.inputs[COUNTED] for one in explored]
            shares = torch.autograd.grad(gain, wanted, retain_graph=True)
            own = [self.explorer_gain(one.trials, share) for one, share in zip(explored, shares, strict=True)]
            losses["explorer"] = -torch.stack(own).mean()
        return losses

    def explorer_gain(self, trials: Trials, share: Tensor) -> Tensor:
        """The clipped objective of the explorer in one stage, whose rewards are the usefulness of its steps (B, T)."""
        explorer, args = self.learner.explorer, self.args
        rewards = usefulness(share, trials, args.horizon)
        self.log_metric("useful", float(rewards.sum(1).mean()))
        own = self.weighed(replace(trials, rewards=rewards))
        each = estimators.clipped(explorer.logprobs(parameters_of(explorer), trials), own.weights, trials, args.clip)
        return task_means(each, trials).mean()


def counted(batch: Batch) -> Batch:
    """The episodes with w_t = 1, of which derivatives are to be taken."""
    ones = torch.ones_like(batch.trials.rewards).requires_grad_()
    return replace(batch, trials=replace(batch.trials, inputs={**batch.trials.inputs, COUNTED: ones}))
