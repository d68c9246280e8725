"""Learning over whole trials: the policy plays them, a credit weighs the steps, one policy-gradient objective learns.

With one update a collection and no clip it is A2C (Wang et al. 2016, 1611.05763); with several it is PPO (Schulman et
al. 2017, 1707.06347, equation 7), as RL2 is trained today. What differs between systems are the policy's memory and the
numbers in the recipe.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mrt.control.agent import Agent
from mrt.control.envs import EnvTasks, TensorEnv, make_tasks
from mrt.control.failures import CURES, failures, shares
from mrt.control.loading import FromRecipe
from mrt.control.oracles import episode_bounds
from mrt.control.policy import ControlPolicy, Heads
from mrt.control.probes import ExactProbe, ExploitProbe, StopProbe
from mrt.control.rollout import Probe, rollout
from mrt.credit.returns import gae
from mrt.credit.table import Credit, make_credit
from mrt.credit.targets import without_free
from mrt.errors import ConfigError, nearest
from mrt.optim.surrogate import surrogate
from mrt.runs.recipe import Recipe
from mrt.tasks import own_draws
from mrt.trainer import TrialConfig, TrialTrainer
from mrt.training.collection import Batch, Collection
from mrt.trials import Trials

logger = logging.getLogger(__name__)
VALUE = "value"  # the critic's targets among those of a batch
PROBES = ("episodes", "exact")
GROUPED = ("outcome", "leave_one_out")  # credits that compare the trials of one task
UNITS = 0.1  # how fast the critic's units move


@dataclass
class ControlConfig(TrialConfig):
    """Arguments of a `ControlTrainer`. `per_device_train_batch_size` counts the tasks of a collection."""

    trials_per_task: int = field(default=1, metadata={"help": "trials on each task: the group of the outcome credits"})
    credit: str = field(default="gae", metadata={"help": "gae | reward_to_go | outcome | leave_one_out | progress"})
    credit_options: dict[str, Any] | None = field(default=None, metadata={"help": "options of the credit"})
    gamma: float = field(default=0.99, metadata={"help": "discount a step, over the ends of episodes"})
    lam: float = field(default=0.95, metadata={"help": "lambda of GAE, also of the critic's targets"})
    epochs: int = field(default=1, metadata={"help": "times that a collection is learned from"})
    minibatches: int = field(default=1, metadata={"help": "updates an epoch; each sees whole trials"})
    clip: float | None = field(default=0.2, metadata={"help": "PPO's clip of the ratio; null for none (A2C)"})
    entropy: float = field(default=0.01, metadata={"help": "weight of the entropy bonus"})
    entropy_end: float | None = field(default=None, metadata={"help": "it moves linearly to this over training"})
    value_weight: float = field(default=0.5, metadata={"help": "weight of the critic's squared error"})
    normalise: bool = field(default=True, metadata={"help": "weights of a collection to mean 0 and deviation 1"})
    probe: str = field(default="episodes", metadata={"help": "how J is measured: episodes | exact (by the posterior)"})
    probe_samples: int = field(default=0, metadata={"help": "exploitation episodes at every boundary (J); 0: none"})
    probe_last: bool = field(default=True, metadata={"help": "also measure J behind the last episode"})
    bounds: bool = field(default=True, metadata={"help": "log regret against random play and the known-task optimum"})
    max_grad_norm: float = field(default=0.5, metadata={"help": "the gradient is clipped to this norm"})

    def __post_init__(self) -> None:
        for name in ("trials_per_task", "epochs", "minibatches"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1")
        if self.probe not in PROBES:
            raise ConfigError(f"probe={self.probe!r} is unknown; {nearest(self.probe, PROBES)}")
        if self.train_batch_size * self.trials_per_task % self.minibatches:
            raise ConfigError(
                f"minibatches={self.minibatches} does not divide the {self.train_batch_size * self.trials_per_task} "
                "trials of a collection"
            )
        if self.trials_per_task > 1 and self.minibatches > 1 and self.credit != "gae":
            self.group_size = self.trials_per_task
        self.make_credit()
        super().__post_init__()

    def make_credit(self) -> Credit:
        """The credit with its options.

        Raises:
            ConfigError: for an unknown one, or one that needs stop values where none are measured.
        """
        options = dict(self.credit_options or {})
        if self.credit == "gae":
            options = {"gamma": self.gamma, "lam": self.lam, **options}
        elif self.credit == "reward_to_go":
            options = {"gamma": self.gamma, **options}
        elif self.credit == "progress" and options.setdefault("base", self.progress_base) == "gae":
            options = {"base_gamma": self.gamma, "base_lam": self.lam, **options}
        credit = make_credit(self.credit, alpha_end=options.pop("alpha_end", None), **options)
        if self.credit in GROUPED and self.trials_per_task < 2:
            raise ConfigError(
                f"credit='{self.credit}' sets a trial against the others of its task: with trials_per_task="
                f"{self.trials_per_task} every weight is 0. Set trials_per_task to at least 2"
            )
        if credit.prover != "none" and not self.measures:
            raise ConfigError(f"credit='{self.credit}' needs stop values: set probe_samples to at least 1")
        return credit

    @property
    def progress_base(self) -> str:
        """What progress is added to: a trial that is alone on its task has no group to be compared with."""
        return "outcome" if self.trials_per_task > 1 else "gae"

    @property
    def measures(self) -> bool:
        """Whether J is measured at the boundaries."""
        return self.probe == "exact" or self.probe_samples > 0

    def make_probe(self, env: TensorEnv) -> StopProbe | None:
        """What measures J in a collection, if anything does.

        Raises:
            ConfigError: for `probe=exact` where no exact value is known.
        """
        if self.probe == "exact":
            return ExactProbe(env, self.probe_last)
        return ExploitProbe(self.probe_samples, common=True, last=self.probe_last) if self.probe_samples else None


class ControlTrainer(FromRecipe, TrialTrainer):
    """Policy gradients on whole trials.

    Args:
        model: a `ControlPolicy`, or one that peft has wrapped.
        tasks: p(M) as `EnvTasks`; it is moved to the device of the arguments, where the policy goes too.
    """

    args: ControlConfig
    tasks: EnvTasks
    rows_written = 8
    policy_class: type[ControlPolicy] = ControlPolicy

    def __init__(self, model: Any, args: ControlConfig, tasks: EnvTasks, **kwargs: Any) -> None:
        args.make_probe(tasks.env)  # before anything is played
        super().__init__(model, args, tasks.to(args.device), args.make_credit(), **kwargs)
        self.collection = Collection(args.device)
        self._named: set[str] = set()
        self.register_state("collection", self.collection)
        if args.bounds and not episode_bounds(self.tasks.env, self.tasks.batch(args.seed, [0])):
            logger.warning("no bounds are known for %s: regret is not logged", tasks.name)

    @classmethod
    def args_class(cls) -> type:
        return ControlConfig

    @classmethod
    def make_policy(cls, recipe: Recipe, tasks: EnvTasks) -> Any:
        """The policy of a recipe: `model` names a saved one, `policy` describes a fresh one; `peft` wraps either."""
        policy = super().make_policy(recipe, tasks)
        if recipe.peft is not None:
            from peft import LoraConfig, get_peft_model

            policy = get_peft_model(policy, LoraConfig(**recipe.peft))
        return policy

    @classmethod
    def agent_of(cls, run: Path, recipe: Recipe) -> Agent:
        """The policy that the run of a recipe left behind."""
        if recipe.peft is None:
            return super().agent_of(run, recipe)
        from peft import PeftModel

        with own_draws(recipe.seed, torch.device("cpu")):  # a fresh policy under the adapter is drawn as it was
            policy = cls.make_policy(dataclasses.replace(recipe, peft=None), make_tasks(**recipe.tasks))
        return PeftModel.from_pretrained(policy, str(run / "model")).merge_and_unload().eval()

    # Collecting.

    def next_batch(self, indices: Sequence[int]) -> Batch:
        """The next minibatch; plays new trials on the tasks at `indices` when the last collection is used up."""
        if not self.collection:
            with torch.no_grad():
                trials = self.play(indices)
            self.record(trials)
            self._watch(trials)
            self.collection.fill(self.weighed(trials), self.args.epochs, self.args.minibatches)
        return self.collection.next()

    def play(self, indices: Sequence[int]) -> Trials:
        """`trials_per_task` trials on each task, one group a task."""
        probe = self.args.make_probe(self.tasks.env)
        return self.play_as(self.policy, indices, int(torch.randint(2**31, (1,))), probe)

    def play_as(self, agent: Agent, indices: Sequence[int], seed: int, probe: Probe | None = None) -> Trials:
        """The trials of any agent on the tasks at `indices`, with what is known of these tasks; `seed` of the noise."""
        env, repeats = self.tasks.env, self.args.trials_per_task
        params = self.tasks.batch(self.args.seed, indices)
        each = {name: value.repeat_interleave(repeats, 0) for name, value in params.items()}
        numbers = torch.tensor(indices, device=env.device).repeat_interleave(repeats)
        group = torch.arange(len(indices), device=env.device).repeat_interleave(repeats)
        keys = env.task_keys(each, len(group), self.rows_written or 0)
        trials = rollout(env, agent, each, seed=seed, group=group, task=numbers, keys=keys, probe=probe)
        if not self.args.bounds or not self.log_is_due(self.args.epochs * self.args.minibatches):
            return trials
        return dataclasses.replace(trials, privileged=episode_bounds(env, params, repeats))

    @property
    def policy(self) -> Any:
        """The policy itself, out of whatever wraps it for training."""
        return self.unwrapped

    @property
    def free_episodes(self) -> int:
        """How many episodes of a trial explore for free."""
        return self.tasks.env.spec.free_episodes

    def weighed(self, trials: Trials) -> Batch:
        """The trials with credit and value targets; rewards of free episodes count for nothing."""
        counted = without_free(trials, self.free_episodes)
        weights = self.weigh(counted)
        advantage = weights
        if self.args.credit != "gae" or self.args.credit_options:
            advantage = gae(counted, self.args.gamma, self.args.lam)
        targets = torch.where(trials.mask, advantage + trials.values.nan_to_num(), 0.0)  # type: ignore[union-attr]
        self._rescale(targets[trials.mask])
        if self.args.normalise:
            inside = self._of_all(weights[trials.mask])
            weights = torch.where(trials.mask, (weights - inside.mean()) / (inside.std() + 1e-8), 0.0)
        return Batch(trials, weights, {VALUE: targets})

    def _rescale(self, targets: Tensor) -> None:
        """The critic's units follow the mean and deviation of its targets (N,), over some ten collections."""
        targets = self._of_all(targets)
        policy, mean, square = self.policy, targets.mean(), targets.square().mean()
        if self.state.global_step:
            old = policy.value_std.square() + policy.value_mean.square()
            mean, square = (1 - UNITS) * policy.value_mean + UNITS * mean, (1 - UNITS) * old + UNITS * square
        policy.rescale_values(mean, (square - mean.square()).clamp(min=1e-4).sqrt())

    def _of_all(self, values: Tensor) -> Tensor:
        """(N,) of every process together: their policies keep one set of units, their weights one scale."""
        padded = self.accelerator.pad_across_processes(values, pad_index=torch.nan)
        everyone = self.accelerator.gather(padded)
        return everyone[~everyone.isnan()]

    def _watch(self, trials: Trials) -> None:
        measured = shares(self.tasks.env, trials)
        for name, value in measured.items():
            self.log_metric(name, value)
        named = failures(measured) if self.state.global_step else []
        for name in ("constant action", "never explores"):
            self.log_metric(f"failure/{name.replace(' ', '_')}", float(name in named))
        for name in set(named) - self._named:
            logger.warning("step %d: %s (%s). Cure: %s", self.state.global_step, name, measured, CURES[name])
        self._named = set(named)

    # Learning.

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """PPO's clipped surrogate (or the plain policy gradient), the critic's error and the entropy, over `mask`."""
        trials = batch.trials
        heads: Heads = self.model_wrapped(trials.inputs)
        logprobs, entropies = self.policy.distribution.both(heads.logits, trials.actions)
        weight = trials.mask / trials.mask.sum()  # means over the steps in `mask`, without gathering them
        change = torch.where(trials.mask, logprobs - trials.logprobs, 0.0)
        ratio = torch.exp(change)
        gain = surrogate(ratio, batch.weights, self.args.clip)
        entropy = (entropies * weight).sum()
        error = (((heads.values - batch.targets[VALUE]) / self.policy.value_std).square() * weight).sum()
        with torch.no_grad():
            self.log_metric("entropy", float(entropy))
            self.log_metric("value_error", float(error))
            self.log_metric("kl", float(((ratio - 1 - change) * weight).sum()))
        gain = (gain * weight).sum()
        return {"policy": -gain + self.args.value_weight * error - self.entropy_weight * entropy}

    @property
    def entropy_weight(self) -> float:
        """The weight of the entropy now."""
        start, end = self.args.entropy, self.args.entropy_end
        done = self.state.global_step / max(self.state.max_steps, 1)
        return start if end is None else start + (end - start) * done
