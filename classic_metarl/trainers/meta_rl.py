"""The trainer that gradient-based meta-RL shares, and what a system defines.

A trial is what happens on one task while its adaptation lasts: an episode with phi_0, one with phi_1 = phi_0 + alpha
grad U(phi_0; D_0), ... one with phi_k. n such trials of a task share the adaptation: a row of `Trials` holds the b-th
episode of every stage, `group` is the task, D_j are the episodes j of the group, and J_j, the mean return of stage j,
is the stop value, so that progress and regret are those of every trial. `stage(batch, j)` gives one stage back, a row
an episode, with its credit.

Letters: M tasks, n trials of each, B = M n rows in the order of the tasks, T steps, k gradient steps.

A system is a subclass of `GradientRLTrainer` that defines one of

    losses(batch)   {"policy": loss} for the optimiser of the arguments, through `self.model_wrapped(f)`
    update(batch)   True after moving the parameters itself (`maml_trpo.py`)

and gets phi_0, ..., phi_k, with gradients into theta, from `self.adapted(batch)`. It may also override

    build                     another policy or learner: a latent for each task (`maesn.py`)
    stage_params              the task that stage j is played on: by default the same, in a chain the next one
    weighed                   the credit of a stage: importance weights on a_t, say; `surrogate` the inner objective U

`SURROGATES` are those of `estimators.py`, averaged over the acting steps of a task, so that step sizes are the papers'.
Values are fitted to each task's episodes (`linear_baseline.py`), credits are those of `mrt.credit`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from classic_metarl.inner.gradient_agent import GradientAgent
from classic_metarl.inner.gradient_steps import Order, Tree, rates_like
from classic_metarl.inner.meta_policy import MetaPolicy, inner_loop
from classic_metarl.inner.stage_credit import with_credit
from classic_metarl.inner.stages import join, numbers_of, stage
from classic_metarl.inner.task_policy import TaskPolicy, play
from classic_metarl.problems.paired import PairedTasks, paired_tasks
from classic_metarl.trainers.meta_rl_config import GradientRLConfig
from mrt.control.agent import Agent
from mrt.control.oracles import episode_bounds
from mrt.errors import ConfigError
from mrt.runs.recipe import Recipe
from mrt.runs.rundir import trained_weights
from mrt.trainer import TrialTrainer
from mrt.training.collection import Batch, Collection
from mrt.trials import Trials

T = TypeVar("T", bound="GradientRLTrainer")


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
    agent_class: type[GradientAgent] = GradientAgent

    def __init__(self, model: MetaPolicy, args: Any, tasks: PairedTasks, **kwargs: Any) -> None:
        super().__init__(model, args, tasks.to(args.device), args.make_credit(), **kwargs)
        self.collection = Collection(args.device)
        self.register_state("collection", self.collection)

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
        steps = inner_loop(net, args.surrogate, args.order, args.gamma)
        return MetaPolicy(net, steps, args.inner_rates, learned_rates(net, args, args.inner_steps))

    @classmethod
    def agent_of(cls, run: Path, recipe: Recipe) -> Agent:
        """The trained learner of a run: it adapts as it plays, after as many episodes as in training."""
        from safetensors.torch import load_model

        path, tasks = trained_weights(run), cls.tasks_of(recipe)
        args = recipe.build_args(cls.args_class(), run)
        learner = cls.build(tasks, args)
        load_model(learner, path)
        own = {"credit": args.make_credit(), "gamma": args.gamma, "normalise": args.normalise}
        return cls.agent_class(learner.eval(), tasks.env.spec, episodes=args.episodes, **own)

    # Collecting.

    def next_batch(self, indices: Sequence[int]) -> Batch:
        """New trials on the tasks at `indices`, or the last ones again until `epochs` updates have seen them."""
        if not self.collection:
            with torch.no_grad():
                batch = self.collect_on(indices)
            self.record(batch.trials)
            for number in range(self.args.inner_steps + 1):
                self.log_metric(f"return/{number}", float(batch.trials.stop_values[:, number].mean()))  # type: ignore[index]
            self.collection.fill(batch, self.args.epochs)
        return self.collection.next()

    def collect_on(self, indices: Sequence[int]) -> Batch:
        """Trials on the tasks (seed, index): episodes with phi_0, a gradient step, episodes with phi_1, ..."""
        params = self.tasks.batch(self.args.seed, indices)
        numbers, each = torch.tensor(indices, device=self.args.device), self.args.episodes
        phi, stages = self.learner.start(numbers), []
        for number in range(self.args.inner_steps + 1):
            net, own = self.learner.player(phi, number)
            played = play(self.tasks.env, net, own, self.stage_params(params, number), each)
            stages.append(self.weighed(played))
            if number < self.args.inner_steps:
                phi = self.learner.adapt(phi, number, stages[-1], order="first")
        batch = join(stages)
        keys = self.tasks.env.task_keys(params, len(batch), self.rows_written or 0, each=each)
        known = {}
        if self.args.bounds and self.log_is_due(self.args.epochs):
            known = episode_bounds(self.tasks.env, params, each)
        task = numbers.repeat_interleave(each)
        return replace(batch, trials=replace(batch.trials, privileged=known, task=task, task_keys=keys))

    def stage_params(self, params: Mapping[str, Tensor], number: int) -> Mapping[str, Tensor]:
        """The tasks {name: (M, ...)} that stage `number` is played on."""
        return params

    def weighed(self, trials: Trials) -> Batch:
        """The episodes of one stage over fitted values, with their credit."""
        return with_credit(trials, self.weigh, self.args.gamma, self.args.normalise)

    # Learning.

    @property
    def learner(self) -> Any:
        """The `MetaPolicy` itself, out of whatever wraps it for training."""
        return self.unwrapped

    def adapted(self, batch: Batch, order: Order | None = None) -> list[Tree]:
        """phi_0, ..., phi_k of the tasks, each from the episodes of the stage before, with gradients into theta."""
        phis = [self.learner.start(numbers_of(batch.trials))]
        for number in range(self.args.inner_steps):
            phis.append(self.learner.adapt(phis[-1], number, stage(batch, number), order))
        return phis

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Trains, then draws the adaptation curve on held-out tasks: adaptation.json and report.html of the run."""
        result = super().train(*args, **kwargs)
        if self.args.curve_tasks and self.is_world_process_zero():
            from classic_metarl.trainers.return_curves import write_adaptation

            write_adaptation(self.learner, self.tasks, self.args, Path(str(self.args.output_dir)))
        return result


def policy_options(args: GradientRLConfig) -> dict[str, Any]:
    """What the arguments say of a `TaskPolicy`."""
    names = ("hidden", "activation", "std", "init_std", "min_std")
    return {name: getattr(args, name) for name in names}


def learned_rates(net: TaskPolicy, args: GradientRLConfig, steps: int) -> list[Tree]:
    """A tree of step sizes for each of `steps` gradient steps, where they are learned."""
    return [] if args.learn_rates == "no" else step_sizes(net, args, steps, args.learn_rates)


def step_sizes(net: TaskPolicy, args: GradientRLConfig, steps: int, each: Literal["tensor", "entry"]) -> list[Tree]:
    """`inner_rates` as a tree for each of `steps` gradient steps, a number for every tensor or every entry."""
    starts = [args.inner_rates[min(i, len(args.inner_rates) - 1)] for i in range(steps)]
    return [rates_like(dict(net.named_parameters()), start, each) for start in starts]
