"""The arguments of `AttemptsTrainer`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mrt.credit.table import COMPARE, Credit, make_credit
from mrt.errors import ConfigError
from mrt.reasoning.attempts.probes import make_probe
from mrt.reasoning.models.loading import fill_precision
from mrt.runs.plan import MAX_POSITIONS
from mrt.trainer import TrialConfig


@dataclass
class AttemptsConfig(TrialConfig):
    """Arguments of an `AttemptsTrainer`. `per_device_train_batch_size` counts the tasks of a collection."""

    trials_per_task: int = field(default=8, metadata={"help": "trials on each task: the group of the credits"})
    credit: str = field(default="attempt_returns", metadata={"help": "attempt_returns | progress | outcome | ..."})
    credit_options: dict[str, Any] | None = field(default=None, metadata={"help": "options of the credit"})
    probe: str = field(
        default="none", metadata={"help": "J between attempts: none | payoff (exact) | played (attempts in a copy)"}
    )
    probe_samples: int = field(default=4, metadata={"help": "probe=played: attempts at every boundary"})
    style: str = field(default="chat", metadata={"help": "chat: the model's template | plain: texts without anything"})
    thinking: bool = field(default=False, metadata={"help": "the model thinks before each action (chat)"})
    choose: bool = field(
        default=False, metadata={"help": "only the tokens of the environment's choices can be drawn, one an action"}
    )
    action_tokens: int = field(default=64, metadata={"help": "tokens of an action at most, its thought included"})
    max_trial_tokens: int | None = field(default=None, metadata={"help": "tokens of a trial; the model's context"})
    temperature: float = field(default=1.0, metadata={"help": "of sampling, and of the distribution that learns"})
    epochs: int = field(default=1, metadata={"help": "times that a collection is learned from"})
    minibatches: int = field(default=1, metadata={"help": "updates an epoch; each sees whole trials"})
    clip: float | None = field(default=0.2, metadata={"help": "PPO's clip of the ratio; null for none"})
    entropy: float = field(default=0.0, metadata={"help": "weight of the entropy bonus"})
    entropy_end: float | None = field(default=None, metadata={"help": "it moves linearly to this over training"})
    max_cost: float | None = field(
        default=None, metadata={"help": "ends the run at this cost: positions sampled 1, probed 1, updated 3"}
    )
    max_positions: int = field(default=MAX_POSITIONS, metadata={"help": "keys and values at work at one time"})
    tiny_hidden: int = field(default=64, metadata={"help": "model=tiny: width"})
    tiny_layers: int = field(default=2, metadata={"help": "model=tiny: layers"})
    tiny_heads: int = field(default=4, metadata={"help": "model=tiny: heads of attention"})
    bf16: bool | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "bfloat16 mixed precision; None: on a GPU that can"}
    )
    gradient_checkpointing: bool | None = field(
        default=None, metadata={"help": "recompute activations; None: on a GPU"}
    )

    def __post_init__(self) -> None:
        fill_precision(self)
        for name in ("trials_per_task", "epochs", "minibatches", "action_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1")
        rows = self.train_batch_size * self.trials_per_task
        if rows % self.minibatches:
            raise ConfigError(f"minibatches={self.minibatches} does not divide the {rows} trials of a collection")
        if self.temperature <= 0:
            raise ConfigError(f"temperature={self.temperature} must be above 0: a greedy policy has no gradient")
        self.group_size = self.trials_per_task
        make_probe(self.probe, self.probe_samples)
        self.make_credit()
        super().__post_init__()

    def make_credit(self) -> Credit:
        """The credit with its options.

        Raises:
            ConfigError: for an unknown one, one that compares where there is nothing to compare, and one that needs
                stop values where none are measured, or values of a critic.
        """
        options = dict(self.credit_options or {})
        credit = make_credit(self.credit, alpha_end=options.pop("alpha_end", None), **options)
        if self.credit in COMPARE and self.trials_per_task < 2:
            raise ConfigError(
                f"credit='{self.credit}' sets a trial against the others of its task: with trials_per_task="
                f"{self.trials_per_task} every weight is 0. Set trials_per_task to at least 2"
            )
        if self.credit == "gae":
            raise ConfigError("credit='gae' needs a critic, which a language model has not: use attempt_returns")
        if credit.prover == "continue":
            raise ConfigError(f"credit='{self.credit}' needs J under going on, which is not measured between attempts")
        if credit.prover != "none" and self.probe == "none":
            raise ConfigError(f"credit='{self.credit}' needs stop values: set probe=payoff, or probe=played")
        return credit
