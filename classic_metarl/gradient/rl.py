"""The trainer that gradient-based meta-RL shares, and how a system hangs itself in.

A trial is what happens on one task while its adaptation lasts: an episode with phi_0, one with phi_1 = phi_0 + alpha
grad U(phi_0; D_0), ... one with phi_k. n such trials of a task share the adaptation: a row of `Trials` holds the b-th
episode of every stage, `group` is the task, D_j are the episodes j of the group, and J_j, the mean return of stage j,
is the stop value, so that progress and regret are those of every trial. `stage(trials, j)` gives one stage back, a row
an episode, with its credit in `privileged["credit"]`.

Letters: M tasks, n trials of each, B = M n rows in the order of the tasks, T steps, k gradient steps.

A system is a subclass of `GradientRLTrainer` that defines one of

    losses(trials, weights)   {"policy": loss} for the optimiser of the arguments, through `self.model_wrapped(f)`
    update(trials)            True after moving the parameters itself (`maml_trpo.py`)

and gets phi_0, ..., phi_k, with gradients into theta, from `self.adapted(trials)`. It may also override

    build                     another policy or learner: a latent for each task (`maesn.py`)
    stage_params              the task that stage j is played on: by default the same, in a chain the next one
    weighed                   the credit of a stage: importance weights on a_t, say; `surrogate` the inner objective U

`SURROGATES` are those of `estimators.py`, averaged over the acting steps of a task, so that step sizes are the papers'.
Values are fitted to each task's episodes (`baseline.py`), credits are those of `mrt.credit`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from classic_metarl.gradient.baseline import linear_values
from classic_metarl.gradient.functional import Order, Tree, rates_like
from classic_metarl.gradient.meta_policy import SURROGATES, MetaPolicy, inner_loop
from classic_metarl.gradient.paired import PairedTasks, paired_tasks
from classic_metarl.gradient.stages import NUMBER, WEIGHTS, join, numbers_of, stage
from classic_metarl.gradient.task_policy import Std, TaskPolicy, play
from mrt.control.evaluate import bounds_of
from mrt.credit import Credit, make_credit
from mrt.errors import ConfigError, nearest
from mrt.grouping import group_sum
from mrt.recipe import Recipe
from mrt.returns import reward_to_go
from mrt.trainer import TrialConfig, TrialTrainer
from mrt.trials import Trials

T = TypeVar("T", bound="GradientRLTrainer")


@dataclass
class GradientRLConfig(TrialConfig):
    """Arguments of gradient-based meta-RL. `per_device_train_batch_size` is the meta-batch, in tasks.

    Raises:
        ConfigError: for an unknown surrogate, or counts below 1.
    """

    hidden: list[int] = field(default_factory=lambda: [64, 64], metadata={"help": "sizes of the hidden layers"})
    activation: str = field(default="tanh", metadata={"help": "relu or tanh"})
    std: Std = field(default="free", metadata={"help": "standard deviation: free of the state, or the network's"})
    init_std: float = field(default=1.0, metadata={"help": "where a free standard deviation starts"})
    min_std: float = field(default=1e-6, metadata={"help": "below which a free standard deviation never falls"})
    episodes: int = field(default=20, metadata={"help": "episodes of each task and stage"})
    inner_steps: int = field(default=1, metadata={"help": "gradient steps in training, each on new episodes"})
    inner_rates: list[float] = field(
        default_factory=lambda: [0.1], metadata={"help": "step size of each gradient step; the last for all later ones"}
    )
    learn_rates: Literal["no", "tensor", "entry"] = field(
        default="no", metadata={"help": "learn the step sizes, one a tensor or an entry"}
    )
    order: Order = field(default="second", metadata={"help": "first: inner gradients are constants (FOMAML)"})
    surrogate: str = field(default="naive", metadata={"help": "inner objective: " + " | ".join(SURROGATES)})
    gamma: float = field(default=0.99, metadata={"help": "discount a step"})
    lam: float = field(default=1.0, metadata={"help": "lambda of GAE"})
    credit: str = field(default="gae", metadata={"help": "credit of a step, of mrt.credit"})
    normalise: bool = field(default=True, metadata={"help": "credit of a task's stage to mean 0 and deviation 1"})
    epochs: int = field(default=1, metadata={"help": "updates on what was collected once"})
    bounds: bool = field(default=True, metadata={"help": "log regret against random play and the known-task optimum"})
    curve_steps: int = field(default=3, metadata={"help": "gradient steps of the adaptation curve after training"})
    curve_tasks: int = field(default=40, metadata={"help": "held-out tasks of that curve; 0 for none"})
    paper: list[float] | None = field(default=None, metadata={"help": "the paper's returns after 0, 1, ... steps"})

    def __post_init__(self) -> None:
        for name in ("episodes", "inner_steps", "epochs"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} is to be at least 1")
        if self.surrogate not in SURROGATES:
            raise ConfigError(f"surrogate='{self.surrogate}' is unknown; {nearest(self.surrogate, set(SURROGATES))}")
        if not self.inner_rates:
            raise ConfigError("inner_rates needs at least one step size")
        self.make_credit()
        super().__post_init__()

    def make_credit(self) -> Credit:
        """The credit of a step within its episode."""
        options = {"gae": {"gamma": self.gamma, "lam": self.lam}, "reward_to_go": {"gamma": self.gamma}}
        return make_credit(self.credit, **options.get(self.credit, {}))


class GradientRLTrainer(TrialTrainer):
    """tasks -> episodes, gradient step, episodes, ... -> credit -> meta-update. How a system is made of it: see above.

    Args:
        model: a `MetaPolicy`.
        tasks: p(M) of an environment on tensors; it is moved to the device of the arguments, where the policy goes too.
    """

    args: GradientRLConfig
    model: MetaPolicy
    tasks: PairedTasks
    rows_written = 8

    def __init__(self, model: MetaPolicy, args: Any, tasks: PairedTasks, **kwargs: Any) -> None:
        super().__init__(model, args, tasks.to(args.device), args.make_credit(), **kwargs)
        self._collection: Trials | None = None
        self._left = 0
        self.register_state("collection", (self._collection_state, self._load_collection))

    @classmethod
    def args_class(cls) -> type:
        return GradientRLConfig

    @classmethod
    def from_recipe(cls: type[T], recipe: Recipe, output_dir: Path) -> T:
        """The trainer of a recipe: `tasks` names the environment, `args` the policy."""
        if not recipe.tasks:
            raise ConfigError("meta-RL needs tasks in the recipe (tasks: {name: navigation-2d})")
        if recipe.model or recipe.policy or recipe.peft is not None:
            raise ConfigError(f"{recipe.trainer} builds its own policy (args.hidden): leave out model, policy and peft")
        return cls.of(cls.tasks_of(recipe), recipe.build_args(cls.args_class(), output_dir))

    @classmethod
    def tasks_of(cls, recipe: Recipe) -> PairedTasks:
        """p(M) as the recipe describes it."""
        return paired_tasks(**recipe.tasks)

    @classmethod
    def of(cls: type[T], tasks: PairedTasks, args: Any, **kwargs: Any) -> T:
        """The trainer with a fresh policy, its weights drawn from `args.seed`."""
        torch.manual_seed(args.seed)
        return cls(cls.build(tasks, args), args, tasks, **kwargs)

    @classmethod
    def build(cls, tasks: PairedTasks, args: Any) -> MetaPolicy:
        """The system's policy and its inner step."""
        net = TaskPolicy(tasks.env.spec, **policy_options(args))
        steps = inner_loop(net, args.surrogate, args.order)
        return MetaPolicy(net, steps, args.inner_rates, learned_rates(net, args, args.inner_steps))

    # Collecting.

    def next_trials(self, indices: Sequence[int]) -> Trials:
        """New trials on the tasks at `indices`, or the last ones again until `epochs` updates have seen them."""
        if not self._left:
            with torch.no_grad():
                self._collection = self.collect_on(indices)
            self.record(self._collection)
            for number in range(self.args.inner_steps + 1):
                self.log_metric(f"return/{number}", float(self._collection.stop_values[:, number].mean()))  # type: ignore[index]
            self._left = self.args.epochs
        self._left -= 1
        assert self._collection is not None
        return self._collection

    def collect_on(self, indices: Sequence[int]) -> Trials:
        """Trials on the tasks (seed, index): episodes with phi_0, a gradient step, episodes with phi_1, ..."""
        params = self.tasks.batch(self.args.seed, indices)
        numbers = torch.tensor(indices, device=self.args.device)
        phi, stages = self.learner.start(numbers), []
        for number in range(self.args.inner_steps + 1):
            played = play(self.tasks.env, self.learner.net, phi, self.stage_params(params, number), self.args.episodes)
            stages.append(self.weighed(played))
            if number < self.args.inner_steps:
                phi = self.learner.adapt(phi, number, stages[-1], order="first")
        trials = join(stages)
        keys = self.tasks.env.task_keys(params, len(trials), self.rows_written or 0, each=self.args.episodes)
        known = {NUMBER: numbers.repeat_interleave(self.args.episodes), **trials.privileged, **self._bounds(params)}
        return replace(trials, privileged=known, task_keys=keys)

    def stage_params(self, params: Mapping[str, Tensor], number: int) -> Mapping[str, Tensor]:
        """The tasks {name: (M, ...)} that stage `number` is played on."""
        return params

    def weighed(self, trials: Trials) -> Trials:
        """The episodes of one stage with fitted values, and their credit among `privileged`."""
        return with_credit(trials, super().weigh, self.args)

    def weigh(self, trials: Trials) -> Tensor:
        return trials.privileged[WEIGHTS]

    def _bounds(self, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        logged = self.state.global_step % max(int(self.args.logging_steps), 1) == 0
        bounds = bounds_of(self.tasks, params) if self.args.bounds and logged else None
        if bounds is None:
            return {}
        found = {"oracle": bounds.ceiling, "floor": bounds.floor}
        episodes = self.tasks.env.spec.episodes - self.tasks.env.spec.free_episodes
        return {k: (v / episodes).repeat_interleave(self.args.episodes) for k, v in found.items()}

    # Learning.

    @property
    def learner(self) -> Any:
        """The `MetaPolicy` itself, out of whatever wraps it for training."""
        return self.unwrapped

    def adapted(self, trials: Trials, order: Order | None = None) -> list[Tree]:
        """phi_0, ..., phi_k of the tasks, each from the episodes of the stage before, with gradients into theta."""
        phis = [self.learner.start(numbers_of(trials))]
        for number in range(self.args.inner_steps):
            phis.append(self.learner.adapt(phis[-1], number, stage(trials, number), order))
        return phis

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Trains, then draws the adaptation curve on held-out tasks: adaptation.json and report.html of the run."""
        result = super().train(*args, **kwargs)
        if self.args.curve_tasks and self.is_world_process_zero():
            from classic_metarl.gradient.rl_measures import write_adaptation

            write_adaptation(self.learner, self.tasks, self.args, Path(str(self.args.output_dir)))
        return result

    # What is kept over a resume.

    def _collection_state(self) -> Any:
        if self._collection is None or not self._left:
            return None
        trials = {entry.name: getattr(self._collection, entry.name) for entry in dataclasses.fields(Trials)}
        return {"trials": trials, "left": self._left}

    def _load_collection(self, state: Any) -> None:
        if state is not None:
            self._collection, self._left = Trials(**state["trials"]).to(self.args.device), int(state["left"])


def policy_options(args: GradientRLConfig) -> dict[str, Any]:
    """What the arguments say of a `TaskPolicy`."""
    names = ("hidden", "activation", "std", "init_std", "min_std")
    return {name: getattr(args, name) for name in names}


def credit_of(trials: Trials, credit: Callable[[Trials], Tensor], gamma: float, normalise: bool) -> Tensor:
    """(B, T) credit of one stage's episodes over fitted values, each task's to mean 0 and deviation 1 if asked."""
    values = linear_values(trials.inputs["observation"], reward_to_go(trials, gamma=gamma), trials)
    weights = credit(replace(trials, values=values))
    if not normalise:
        return weights
    count = group_sum(trials.mask.sum(1).float(), trials.group)
    mean = (group_sum((weights * trials.mask).sum(1), trials.group) / count)[trials.group][:, None]
    centred = torch.where(trials.mask, weights - mean, 0.0)
    deviation = (group_sum(centred.square().sum(1), trials.group) / count).sqrt()
    return centred / (deviation[trials.group][:, None] + 1e-8)


def with_credit(trials: Trials, credit: Callable[[Trials], Tensor], args: GradientRLConfig) -> Trials:
    """One stage's episodes with their credit among `privileged`, over values fitted as the arguments say."""
    weights = credit_of(trials, credit, args.gamma, args.normalise)
    return replace(trials, privileged={**trials.privileged, WEIGHTS: weights})


def learned_rates(net: TaskPolicy, args: GradientRLConfig, steps: int) -> list[Tree]:
    """A tree of step sizes for each of `steps` gradient steps, where they are learned."""
    return [] if args.learn_rates == "no" else step_sizes(net, args, steps, args.learn_rates)


def step_sizes(net: TaskPolicy, args: GradientRLConfig, steps: int, each: Literal["tensor", "entry"]) -> list[Tree]:
    """`inner_rates` as a tree for each of `steps` gradient steps, a number for every tensor or every entry."""
    starts = [args.inner_rates[min(i, len(args.inner_rates) - 1)] for i in range(steps)]
    return [rates_like(dict(net.named_parameters()), start, each) for start in starts]
