"""PEARL: soft actor-critic on a latent task, drawn from a posterior once an episode (Rakelly, Zhou, Quillen, Finn &
Levine 2019, "Efficient off-policy meta-reinforcement learning via probabilistic context variables", 1903.08254).

    belief   q(z | c) from the transitions c of earlier episodes of the trial; N(0, I) before the first      equation 2
    critics  E_{z ~ q(z | c)} sum_i 1/2 (Q_i(s, a, z) - y)^2 + beta KL(q(z | c) || N(0, I))                  equation 3
             y = r + gamma (1 - terminated) (min_i Q'_i(s', a', z) - alpha log pi(a' | s', z))          z held fixed
    actor    alpha log pi(a~ | s, z) - min_i Q_i(s, a~, z)                                              z held fixed

The encoder's gradient comes from the critics' loss and the divergence, and from nothing else. An update learns from
`meta_batch` tasks: the transitions (s, a, r, s') come from everything that was played of a task, the context c from the
`recent` newest trials of it, which is closer to what the present policy will meet.

At test z is drawn at the start of each episode, from the belief after the episodes before it: in the first from the
prior, which is what explores (posterior sampling). It is recorded with every step.

Rewards may be sparse for whoever adapts and dense for the critics (`critic_reward: dense`), as in the authors' sparse
point robot: declared in the recipe, because then the critics know what the agent does not.

Deviations: twin critics with targets of their own and a learned temperature (mrt.control.off_policy) where the authors'
code has a state value and a fixed reward scale, so `penalty` counts against unscaled rewards, as the mean over tasks.
Trials are played whole, with z of the prior in the first episode and of the posterior later on. `context: 0` reads the
first episodes, one or more, of one recent trial, which is what the encoder meets at test; a number draws that many
transitions of all recent ones, as in the paper.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from classic_metarl.trainers.context_encoders import ENCODERS
from mrt.adaptation import Cadence
from mrt.control.agent import Choice, Seen
from mrt.control.off_policy import SACConfig, SACPolicy, SACPolicyConfig, SACTrainer
from mrt.errors import ConfigError, nearest
from mrt.optim.learners import Learner
from mrt.trials import Trials

DENSE = "dense_reward"


class PEARLPolicyConfig(SACPolicyConfig):
    """A SAC policy, the size of z, and the encoder: product | recurrent, its width and depth."""

    model_type = "mrt-pearl"

    def __init__(
        self,
        *shapes: int,
        latent: int = 5,
        encoder: str = "product",
        encoder_size: int = 200,
        encoder_layers: int = 3,
        **kwargs: Any,
    ) -> None:
        self.latent, self.encoder = latent, encoder
        self.encoder_size, self.encoder_layers = encoder_size, encoder_layers
        super().__init__(*shapes, **kwargs)


class Posterior(NamedTuple):
    """The memory of B trials."""

    belief: Any  # the encoder's, of everything met so far
    z: Tensor  # (B, latent) of the episode under way
    last: Tensor  # (B, D) observation at which the agent acted last
    drawn: Tensor  # (B,) bool: the episode under way has its z


class PEARLPolicy(SACPolicy):
    """A posterior sampler: draws z, keeps it for an episode, and adapts its belief by what the episode showed."""

    config_class = PEARLPolicyConfig
    options = (*SACPolicy.options, "latent", "encoder", "encoder_size", "encoder_layers")
    cadence: Cadence = "episode"
    encoder: Any

    def __init__(self, config: PEARLPolicyConfig) -> None:
        if config.encoder not in ENCODERS:
            raise ConfigError(f"encoder={config.encoder!r} is not known; {nearest(config.encoder, tuple(ENCODERS))}")
        super().__init__(config)
        width = config.observation + config.action_size + 1
        kind = ENCODERS[config.encoder]
        self.encoder = kind(width, config.latent, config.encoder_size, config.encoder_layers)
        self.post_init()

    @staticmethod
    def width(config: Any) -> int:
        """Actor and critics see the observation and z."""
        return config.observation + config.latent

    def init_state(self, rows: int) -> Posterior:
        zeros = torch.zeros(rows, self.config.latent, device=self.device)
        last = zeros.new_zeros(rows, self.config.observation)
        return Posterior(self.encoder.begin(rows), zeros, last, zeros.new_zeros(rows, dtype=torch.bool))

    @torch.no_grad()
    def act(self, seen: Seen, state: Any, greedy: bool = False, generator: torch.Generator | None = None) -> Choice:
        seen = {name: value.to(self.device) for name, value in seen.items()}
        ended = seen["done"] > 0.5
        belief, z = self._met(seen, state, state.drawn & ~ended), state.z
        begins = ~state.drawn & ~ended
        if bool(begins.any()):
            z = torch.where(begins[:, None], self.encoder.belief(belief).sample(generator), z)
        given = {"observation": torch.cat([seen["observation"], z], -1)}
        state = Posterior(belief, z, seen["observation"], state.drawn | begins)
        return super().act(given, state, greedy, generator)._replace(extras={"z": z})

    @torch.no_grad()
    def adapt(self, seen: Seen, state: Any, ended: Tensor) -> Posterior:
        """The last transition of the episodes that ended; their next episode draws a z of its own."""
        seen, ended = {name: value.to(self.device) for name, value in seen.items()}, ended.to(self.device)
        return state._replace(belief=self._met(seen, state, ended), drawn=state.drawn & ~ended)

    def _met(self, seen: Mapping[str, Tensor], state: Posterior, rows: Tensor) -> Any:
        """The belief after the last transition of `rows` (B,) bool."""
        if not bool(rows.any()):
            return state.belief
        return self.encoder.step(transitions(state.last, seen["action"], seen["reward"]), state.belief, rows)


def transitions(observation: Tensor, action: Tensor, reward: Tensor) -> Tensor:
    """(..., D + A + 1) what the encoder reads of steps: observation (..., D), action (..., A), reward (...)."""
    return torch.cat([observation, action, reward[..., None]], -1)


@dataclass
class PEARLConfig(SACConfig):
    """`train_tasks` tasks are played again and again; `batch_size` counts transitions of each task of an update.

    Raises:
        ConfigError: for numbers that cannot be.
    """

    train_tasks: int = field(default=100, metadata={"help": "number of training tasks"})
    meta_batch: int = field(default=16, metadata={"help": "tasks that an update learns from"})
    context: int = field(
        default=64, metadata={"help": "transitions of the context; 0: the first episodes of one recent trial"}
    )
    recent: int = field(default=10, metadata={"help": "newest trials of a task, from which contexts come"})
    penalty: float = field(default=1e-3, metadata={"help": "beta, weight of the divergence from the prior"})
    critic_reward: Literal["paid", "dense"] = field(
        default="paid", metadata={"help": "what critics learn: the reward, or the environment's dense one"}
    )

    def __post_init__(self) -> None:
        for name, least in (("train_tasks", 1), ("meta_batch", 1), ("context", 0), ("recent", 1), ("penalty", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least {least}")
        super().__post_init__()


class PEARLTrainer(SACTrainer):
    """SAC on (s, z), and the encoder by the critics' loss."""

    args: PEARLConfig
    policy_class: type[Any] = PEARLPolicy

    def __init__(self, model: PEARLPolicy, args: PEARLConfig, tasks: Any, **kwargs: Any) -> None:
        if args.critic_reward == "dense":
            if not hasattr(tasks.env, DENSE):
                raise ConfigError(f"critic_reward: dense, but '{tasks.name}' has no dense reward; leave it at paid")
            self.facts = (DENSE,)
        if model.config.encoder == "recurrent" and args.context:
            raise ConfigError(
                f"context={args.context} transitions in no order, but the encoder is recurrent: set context: 0"
            )
        super().__init__(model, args, tasks, **kwargs)

    @classmethod
    def args_class(cls) -> type:
        return PEARLConfig

    @property
    def encoder(self) -> Any:
        """The encoder of the policy."""
        return self.policy.encoder

    def numbers(self, indices: Any, number: int) -> list[int]:
        """As many of the training tasks, drawn anew each time; none twice before all are in."""
        order = torch.randperm(self.args.train_tasks).tolist()
        return [order[i % len(order)] for i in range(len(indices))]

    def sample(self) -> dict[str, Tensor]:
        """Transitions of `meta_batch` tasks, `batch_size` of each in their order, and `context` (M, n, width) with its
        `context_mask` (M, n).
        """
        tasks = self.replay.tasks
        tasks = tasks[torch.randperm(len(tasks))[: self.args.meta_batch]]
        batch = self.replay.steps(self.args.batch_size, tasks=tasks)
        if self.args.critic_reward == "dense":
            batch["reward"] = batch.pop(DENSE)
        return batch | self._context(tasks)

    def _context(self, tasks: Tensor) -> dict[str, Tensor]:
        args = self.args
        if args.context:
            found = self.replay.steps(args.context, tasks=tasks, recent=args.recent)
            flat = transitions(found["observation"], found["action"], found["reward"])
            context = flat.unflatten(0, (len(tasks), args.context))
            mask = torch.ones(context.shape[:2], dtype=torch.bool, device=context.device)
            return {"context": context, "context_mask": mask}
        trials = self.replay.rows(1, tasks=tasks, recent=args.recent)
        context = transitions(trials.inputs["observation"], trials.actions, trials.rewards)
        return {"context": context, "context_mask": self.shown(trials)}

    def shown(self, trials: Trials) -> Tensor:
        """(M, T) bool: the steps of a trial each that `context: 0` infers z from. Here those of its first episodes."""
        most = max(1, self.tasks.env.spec.episodes - 1)
        episodes = torch.randint(1, most + 1, (len(trials), 1)).to(trials.mask.device)
        return trials.mask & (trials.episode < episodes)

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those of SAC at (s, z); the critics' with the divergence, and a gradient to the encoder."""
        belief = self.encoder(batch["context"], batch["context_mask"])
        z = belief.sample()
        z = z.repeat_interleave(len(batch["reward"]) // len(z), 0)
        given = {
            **batch,
            "observation": torch.cat([batch["observation"], z], -1),
            "next_observation": torch.cat([batch["next_observation"], z.detach()], -1),
        }
        losses, divergence = super().losses(given), belief.kl_unit().mean()
        self.log_metric("divergence", float(divergence.detach()))
        self.log_metric("posterior_std", float(belief.std.detach().mean()))
        return losses | {"critics": losses["critics"] + self.args.penalty * divergence}

    def learners(self) -> dict[str, Learner]:
        """SAC's; the encoder moves with the critics."""
        learners = super().learners()
        learners["critics"].optimizer.add_param_group({"params": list(self.encoder.parameters())})
        return learners
