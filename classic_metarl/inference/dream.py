"""DREAM, decoupled exploration and execution (Liu, Raghunathan, Liang and Finn 2021, "Decoupling exploration and
exploitation for meta-reinforcement learning without sacrifices", 2008.02790).

A trial is a free episode, which explores, and a paid one, which exploits. Learned end to end, each waits for the other:
nothing is worth finding out as long as it is not used, and cannot be used before it is found. So the two are taught
apart. The exploiter learns from the task itself, z ~ N(f(task), rho^2), under a bottleneck that leaves in f what it
needs; the explorer learns to find out f(task), and a decoder g to read it from what was explored (section 4):

    exploiter, f    TD error of Q(s, a, z)  +  bottleneck max(|f(task)|^2, K)
    decoder g       mean over t of |f(task) - g(tau_:t)|^2                                          f held fixed
    explorer        TD error of Q(tau_:t, a) for the information gained by each step, less a price  f and g held fixed

                    r_t = |f(task) - g(tau_:t)|^2 - |f(task) - g(tau_:t+1)|^2 - penalty

The rewards of a trial sum to what g learned of the task in it. They are computed anew in each update, with f and g of
now. Both agents are dueling double Q-learners. Half of the training trials are exploited with f(task), the others, and
all at test, with g(tau) of the whole exploration.

Numbers by default are those of the released code where it has them: rho 0.1, K 10, penalty 0.1 a step, gamma 0.99. As
there, the explorer and the decoder are recurrent, and the exploiter acts on (s, z) without a memory.

Deviations: targets follow slowly (released: copied every 5,000 updates); the explorer learns from whole explorations;
rows explore by chance with probabilities of their own, U[0, epsilon]; f is linear in the task's features, for buses a
one-hot stop each (released: an embedded number).
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
from mrt.control.replay_trainer import feed_forward
from mrt.credit.targets import next_act, one_step
from mrt.errors import ConfigError
from mrt.optim.learners import Learner
from mrt.trials import Trials


class DREAMPolicyConfig(InformedPolicyConfig):
    """Memory and embedding are those of the explorer and of the decoder, which have one each."""

    model_type = "mrt-dream"

    def __init__(self, observation: int = 1, actions: int = 2, action_size: int = 0, **kwargs: Any) -> None:
        super().__init__(observation, actions, action_size, **kwargs)


class Trial(NamedTuple):
    """The memory of B trials."""

    explorer: Any
    decoder: Any
    episode: Tensor  # (B,) int64
    z: Tensor  # (B, latent): what the exploiter acts on; while exploring what was decoded up to now
    told: Tensor  # (B,) bool: z was given, not decoded


class DREAMPolicy(InformedPolicy):
    """The explorer in free episodes; in the others the exploiter, on what the decoder made of the exploration."""

    config_class = DREAMPolicyConfig

    def __init__(self, config: DREAMPolicyConfig) -> None:
        super().__init__(config)
        size, head = config.hidden_size, config.head_size
        self.explorer = History(config, DuelingQ(size, head, config.actions))
        self.decoder = History(config, feed_forward(size, head, config.latent))
        self.exploiter = DuelingQ(config.observation + config.latent, head, config.actions, layers=2)
        followers = {name: copy.deepcopy(getattr(self, name)) for name in ("explorer", "exploiter")}
        self.targets = nn.ModuleDict(followers).requires_grad_(False)
        self.post_init()

    @property
    def memory(self) -> nn.Module:
        """The explorer's."""
        return self.explorer.encoder.memory

    def init_state(self, rows: int) -> Trial:
        episode = torch.zeros(rows, dtype=torch.long, device=self.device)
        z = torch.zeros(rows, self.config.latent, device=self.device, dtype=self.dtype)
        explorer, decoder = (part.encoder.init_state(rows) for part in (self.explorer, self.decoder))
        return Trial(explorer, decoder, episode, z, torch.zeros_like(episode, dtype=torch.bool))

    def fork(self, state: Any, rows: Tensor) -> Trial:
        parts = ((self.explorer, state.explorer), (self.decoder, state.decoder))
        explorer, decoder = (part.encoder.fork(memory, rows) for part, memory in parts)
        at = rows.to(state.z.device)
        return Trial(explorer, decoder, state.episode[at], state.z[at], state.told[at])

    def values_step(self, seen: Seen, state: Any) -> tuple[Tensor, Trial]:
        """The closing step of the last exploration is decoded as well."""
        exploring = state.episode < self.config.free_episodes
        explore, explorer = self.explorer.step(seen, state.explorer)
        decoded, decoder = self.decoder.step(seen, state.decoder)
        z = torch.where((exploring & ~state.told)[:, None], decoded, state.z)
        values = torch.where(exploring[:, None], explore, self.exploit(seen["observation"], z))
        episode = state.episode + (seen["done"] > 0.5)
        return values, Trial(explorer, decoder, episode, z, state.told)

    def exploit(self, observation: Tensor, z: Tensor, target: bool = False) -> Tensor:
        """Q (..., A) of the exploiter, or of its target: observation (..., D) and z (..., latent)."""
        exploiter = self.targets["exploiter"] if target else self.exploiter
        return values_on(exploiter, observation, z)


def information_gain(away: Tensor, acted: Tensor) -> Tensor:
    """(B, T) by how much each step of an exploration lowered the distance to the task; 0 where nothing was acted.

    They sum to the first distance minus that of the step after the last action.

    Args:
        away: (B, T) |f(task) - g(tau_:t)|^2.
        acted: (B, T) bool, the steps of the exploration; each is followed by a row, if only the closing one.
    """
    following = torch.cat([away[:, 1:], away[:, -1:]], 1)
    goes_on = next_act(acted, torch.ones_like(away)) > 0
    after = torch.where(goes_on, next_act(acted, away), following)
    return torch.where(acted, away - after, 0.0)


@dataclass
class DREAMConfig(InformedConfig):
    """Q-learning of two agents, and what is asked of the task's embedding.

    Raises:
        ConfigError: for negative numbers.
    """

    penalty: float = field(default=0.1, metadata={"help": "price of a step of exploration"})
    bottleneck: float = field(default=1.0, metadata={"help": "weight of the task embedding's squared norm"})
    free_norm: float = field(default=10.0, metadata={"help": "K: a squared norm up to this costs nothing"})

    def __post_init__(self) -> None:
        for name in ("penalty", "bottleneck", "free_norm"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}={getattr(self, name)} must not be negative")
        super().__post_init__()


class DREAMTrainer(InformedTrainer):
    """Three learners: the exploiter with the task's embedding, the decoder, the explorer."""

    args: DREAMConfig
    policy_class = DREAMPolicy

    @classmethod
    def args_class(cls) -> type:
        return DREAMConfig

    def learners(self) -> dict[str, Learner]:
        """The targets follow the steps of their agents."""
        policy, targets = self.policy, self.policy.targets
        return {
            "exploiter": self.adam(
                [*policy.exploiter.parameters(), *policy.tasks.parameters()], (targets["exploiter"], policy.exploiter)
            ),
            "decoder": self.adam(policy.decoder.parameters()),
            "explorer": self.adam(policy.explorer.parameters(), (targets["explorer"], policy.explorer)),
        }

    def losses(self, batch: Trials) -> dict[str, Tensor]:
        """Those at the top of the module."""
        embedded = self.policy.tasks(self.task_of(batch))
        free = (batch.episode >= 0) & (batch.episode < self.policy.config.free_episodes)
        until = int(free.any(0).sum())  # explorations come first
        explored = {name: value[:, :until] for name, value in batch.inputs.items()}
        free, acted = free[:, :until], (batch.mask & free)[:, :until]
        away = (self.policy.decoder(explored) - embedded.detach()[:, None]).square().sum(-1)
        gain = information_gain(away.detach(), acted) - self.args.penalty * acted
        episode = torch.where(free, batch.episode[:, :until], -1)
        own = Trials(batch.actions[:, :until], gain, acted, episode, batch.group, inputs=explored)
        norm = embedded.square().sum(-1)
        found = {
            "exploiter": self.exploiter_loss(batch, embedded)
            + self.args.bottleneck * norm.clamp(min=self.args.free_norm).mean(),
            "decoder": torch.where(free, away, 0.0).sum() / free.sum(),
            "explorer": self.explorer_loss(own),
        }
        for name, value in (("decoder_loss", found["decoder"]), ("norm", norm.mean()), ("gain", gain.sum(1).mean())):
            self.log_metric(name, float(value.detach()))
        return found

    def explorer_loss(self, trials: Trials) -> Tensor:
        """Half the mean squared TD error of explorations (B, T), whose rewards are the gains."""
        policy = self.policy
        values = policy.explorer(trials.inputs)
        with torch.no_grad():
            after = double_q(values, policy.targets["explorer"](trials.inputs))
            target = one_step(trials, after, self.args.gamma)
        self.log_metric("explorer_q", float(values.detach().amax(-1)[:, 0].mean()))
        return 0.5 * squared_error(values, trials.actions, target, trials.mask)

    def exploiter_loss(self, batch: Trials, embedded: Tensor) -> Tensor:
        """Half the mean squared TD error over paid episodes, on f(task) with noise; a gradient reaches f."""
        inside = batch.episode >= self.policy.config.free_episodes
        row = torch.arange(len(batch), device=inside.device)[:, None].expand_as(inside)[inside]
        seen, z, acted = batch.inputs["observation"][inside], self.noisy(embedded)[row], batch.mask[inside]
        values = self.policy.exploit(seen, z)
        with torch.no_grad():
            after = double_q(values, self.policy.exploit(seen, z, target=True)) * acted
            target = batch.rewards[inside] + self.args.gamma * after.roll(-1)  # a closing row ends each episode
        self.log_metric("exploiter_q", float(values.detach().amax(-1).mean()))
        return 0.5 * squared_error(values, batch.actions[inside], target, acted)
