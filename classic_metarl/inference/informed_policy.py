"""IMPORT, informed policy regularisation (Kamienny, Pirotta, Lazaric, Lavril, Usunier and Denoyer 2020, "Learning
adaptive exploration strategies in dynamic environments through informed policy regularization", 2005.02934).

One network acts on (s, z), where z is either what was made of the task itself or of the history of the trial:

    informed       z = f(task)
    uninformed     z = g(tau_:t), recurrent over the whole trial

and both learn from the reward, through the same head; g is drawn to f beside (section 4):

    TD error of Q(s, z, a) with z = f(task) or g(tau_:t), by a coin toss a trial  +  beta mean_t |f(task) - g(tau_:t)|^2

with f held fixed in the last term. Knowing the task, the head learns what it is good for; what is found out pays only
once g can tell. Free episodes earn nothing by themselves, as in E-RL2: exploration and execution are learned end to
end, which is what DREAM (`dream.py`) is compared with.

Deviations: dueling double Q-learning on whole trials, as in the comparison of Liu et al. 2021, where the paper has A2C.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from classic_metarl.trainers.informed import (
    DuelingQ,
    History,
    InformedConfig,
    InformedPolicy,
    InformedPolicyConfig,
    InformedTrainer,
    double_q,
    squared_error,
    values_on,
)
from mrt.control.agent import Seen
from mrt.control.memories import Inputs
from mrt.credit.targets import one_step, without_free
from mrt.errors import ConfigError
from mrt.optim.learners import Learner
from mrt.trials import Trials

PARTS = ("tasks", "histories", "head")


class IMPORTPolicyConfig(InformedPolicyConfig):
    """Nothing beside what informed policies have; memory and embedding are those of g."""

    model_type = "mrt-import"

    def __init__(self, observation: int = 1, actions: int = 2, action_size: int = 0, **kwargs: Any) -> None:
        super().__init__(observation, actions, action_size, **kwargs)


class Trial(NamedTuple):
    """The memory of B trials."""

    history: Any
    z: Tensor  # (B, latent): what the head acts on
    told: Tensor  # (B,) bool: z was given


class IMPORTPolicy(InformedPolicy):
    """A head on the observation and z; f, g and the head have a target each."""

    config_class = IMPORTPolicyConfig

    def __init__(self, config: IMPORTPolicyConfig) -> None:
        super().__init__(config)
        self.histories = History(config, nn.Linear(config.hidden_size, config.latent))
        self.head = DuelingQ(config.observation + config.latent, config.head_size, config.actions, layers=2)
        followers = {name: copy.deepcopy(getattr(self, name)) for name in PARTS}
        self.targets = nn.ModuleDict(followers).requires_grad_(False)
        self.post_init()

    @property
    def memory(self) -> nn.Module:
        """That of g."""
        return self.histories.encoder.memory

    def init_state(self, rows: int) -> Trial:
        z = torch.zeros(rows, self.config.latent, device=self.device, dtype=self.dtype)
        return Trial(self.histories.encoder.init_state(rows), z, torch.zeros_like(z[:, 0], dtype=torch.bool))

    def fork(self, state: Any, rows: Tensor) -> Trial:
        at = rows.to(state.z.device)
        return Trial(self.histories.encoder.fork(state.history, rows), state.z[at], state.told[at])

    def values_step(self, seen: Seen, state: Any) -> tuple[Tensor, Trial]:
        inferred, history = self.histories.step(seen, state.history)
        z = torch.where(state.told[:, None], state.z, inferred)
        return values_on(self.head, seen["observation"], z), Trial(history, z, state.told)

    def embeddings(self, inputs: Inputs, task: Tensor, target: bool = False) -> tuple[Tensor, Tensor]:
        """f(task) (B, latent) and g (B, T, latent), or their targets, of whole trials."""
        tasks, histories = (self.targets[name] if target else getattr(self, name) for name in PARTS[:2])
        return tasks(task), histories(inputs)


@dataclass
class IMPORTConfig(InformedConfig):
    """Q-learning with and without the task.

    Raises:
        ConfigError: for a negative weight.
    """

    regularisation: float = field(default=1.0, metadata={"help": "beta, weight of the distance of g from f"})

    def __post_init__(self) -> None:
        if self.regularisation < 0:
            raise ConfigError(f"regularisation={self.regularisation} must not be negative")
        super().__post_init__()


class IMPORTTrainer(InformedTrainer):
    """One learner of f, g and the head."""

    args: IMPORTConfig
    policy_class = IMPORTPolicy

    @classmethod
    def args_class(cls) -> type:
        return IMPORTConfig

    def learners(self) -> dict[str, Learner]:
        """The targets follow its steps."""
        policy = self.policy
        parts = [getattr(policy, name) for name in PARTS]
        parameters = [parameter for part in parts for parameter in part.parameters()]
        pairs = ((policy.targets[name], part) for name, part in zip(PARTS, parts, strict=True))
        return {"agent": self.adam(parameters, *pairs)}

    def losses(self, batch: Trials) -> dict[str, Tensor]:
        """That at the top of the module; half the squared TD error, over the steps in `mask`."""
        policy, task = self.policy, self.task_of(batch)
        told = (torch.rand(len(batch), device=task.device) < self.args.told)[:, None, None]
        f, g = policy.embeddings(batch.inputs, task)
        seen = batch.inputs["observation"]
        values = values_on(policy.head, seen, torch.where(told, self.noisy(f)[:, None], g))
        with torch.no_grad():
            f_ahead, g_ahead = policy.embeddings(batch.inputs, task, target=True)
            z = torch.where(told, self.noisy(f_ahead)[:, None], g_ahead)
            after = double_q(values, values_on(policy.targets["head"], seen, z))
            target = one_step(without_free(batch, policy.config.free_episodes), after, self.args.gamma)
        error = squared_error(values, batch.actions, target, batch.mask)
        inside = batch.episode >= 0
        away = torch.where(inside, (g - f.detach()[:, None]).square().sum(-1), 0.0).sum() / inside.sum()
        for name, value in (("q_error", error), ("distance", away), ("norm", f.square().sum(-1).mean())):
            self.log_metric(name, float(value.detach()))
        return {"agent": 0.5 * error + self.args.regularisation * away}
