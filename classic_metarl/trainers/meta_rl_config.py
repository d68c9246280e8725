"""The arguments that gradient-based meta-RL shares."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from classic_metarl.inner.gradient_steps import Order
from classic_metarl.inner.meta_policy import SURROGATES
from classic_metarl.inner.task_policy import Std
from mrt.credit.table import Credit, make_credit
from mrt.errors import ConfigError, nearest
from mrt.trainer import TrialConfig


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
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1")
        if self.surrogate not in SURROGATES:
            raise ConfigError(f"surrogate='{self.surrogate}' is unknown; {nearest(self.surrogate, set(SURROGATES))}")
        if self.surrogate == "dice" and (self.credit != "reward_to_go" or self.normalise):
            raise ConfigError(
                f"surrogate='dice' sums the rewards itself: credit='{self.credit}' and normalise={self.normalise} do "
                "nothing. Set credit=reward_to_go and normalise=false, or take loaded_dice"
            )
        if not self.inner_rates:
            raise ConfigError("inner_rates needs at least one step size")
        self.make_credit()
        super().__post_init__()

    def make_credit(self) -> Credit:
        """The credit of a step within its episode."""
        options = {"gae": {"gamma": self.gamma, "lam": self.lam}, "reward_to_go": {"gamma": self.gamma}}
        return make_credit(self.credit, **options.get(self.credit, {}))
