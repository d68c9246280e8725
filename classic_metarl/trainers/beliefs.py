"""Policies that act on a learned belief about the task: what VariBAD and inference from task descriptors share.

    q(m | tau_:t) = N(mu_t, sigma_t^2)      a recurrent encoder of all that was seen up to step t
    pi(a | s_t, mu_t, log sigma_t^2)        a feed-forward policy that sees the whole belief, its spread included

Two learners with an optimiser and data of their own: `policy` learns by PPO from the last collection, as in
`mrt.control.trainer`; `inference` (encoder and decoders) learns from a replay of trials by the loss that a system gives
(`inference_loss`). The policy learns on the beliefs that it acted on, as they were recorded (the extra `latent`), so
that no gradient of reinforcement can reach the encoder, and no recurrent pass is needed. `rl_through_encoder` computes
them anew and lets it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from classic_metarl.black_box.defaults import with_policy
from mrt.control.agent import Choice, Seen, rows_of
from mrt.control.envs import EnvTasks
from mrt.control.envs.base import TensorEnv
from mrt.control.envs.told import task_vectors
from mrt.control.latents import Latent
from mrt.control.memories import Inputs
from mrt.control.oracles.beliefs import BELIEF, listed_tasks, task_numbers
from mrt.control.policy import INPUTS, ControlPolicy, Heads, PolicyConfig, State
from mrt.control.trainer import ControlConfig, ControlTrainer
from mrt.errors import ConfigError
from mrt.optim.learners import Learner
from mrt.replay import Replay
from mrt.runs.recipe import Recipe
from mrt.training.collection import Batch
from mrt.trials import Trials

LATENT = "latent"  # the extra: mu and log sigma^2 side by side, (..., 2 d)
TASK = "task_descriptor"  # in `privileged` of the stored trials: the number of a listed task, or its vector
ACTS = ("trunk.", "actor.", "critic.")  # what the policy's learner moves


class BeliefPolicyConfig(PolicyConfig):
    """`PolicyConfig`, whose memory and embedding are those of the encoder.

    Args:
        latent: size d of m.
        decoder_size: width of the decoders.
        tasks: how many tasks can be listed; 0 where they cannot.
        task_size: numbers of a task's vector.
    """

    model_type = "mrt-belief"

    def __init__(
        self, *, latent: int = 5, decoder_size: int = 32, tasks: int = 0, task_size: int = 0, **kwargs: Any
    ) -> None:
        self.latent, self.decoder_size, self.tasks, self.task_size = latent, decoder_size, tasks, task_size
        super().__init__(**kwargs)


class BeliefPolicy(ControlPolicy):
    """An encoder and a policy on its beliefs; a subclass adds decoders.

    Raises:
        ConfigError: for a critic with a memory of its own: both heads read the belief.
    """

    config_class = BeliefPolicyConfig

    def __init__(self, config: BeliefPolicyConfig) -> None:
        super().__init__(config)
        if config.separate_critic:
            raise ConfigError("separate_critic: actor and critic of a belief policy read the same belief")
        size, width = config.hidden_size, config.observation + 2 * config.latent
        self.posterior = nn.Linear(size, 2 * config.latent)
        self.tasks: Any = None  # what says the task, where a subclass has it
        self.trunk = nn.Sequential(nn.Linear(width, size), nn.Tanh(), nn.Linear(size, size), nn.Tanh())

    def decoded(self, latent: Latent) -> Tensor | None:
        """(..., N) what the belief says of N tasks or cells, decoded at its mean; None where nothing can be listed."""
        return None

    def encode(self, inputs: Inputs) -> Latent:
        """q(m | tau_:t) at every step of whole trials: inputs (B, T, ...) -> (B, T, d)."""
        steps = torch.arange(inputs["done"].shape[1], device=inputs["done"].device)
        x = self._inputs(inputs, steps.expand_as(inputs["done"]))
        return split(self.posterior(self.memory.embedded(self.embed, x, inputs)))

    def forward(self, inputs: Inputs) -> Heads:
        """Whole trials at once, on the recorded beliefs where `inputs` has them, else on those of the encoder now."""
        latent = inputs[LATENT] if LATENT in inputs else torch.cat(self.encode(inputs), -1)
        return self._heads(inputs["observation"], latent)

    def step(self, seen: Inputs, state: State) -> tuple[Heads, State]:
        x = self._inputs(seen, torch.full_like(seen["done"], state[2]))
        out, mine = self.memory.embedded_step(self.embed, x, seen, state[0])
        latent = self.posterior(out)
        return self._heads(seen["observation"], latent), (mine, latent, state[2] + 1)

    def act(self, seen: Seen, state: State, greedy: bool = False, generator: torch.Generator | None = None) -> Choice:
        """One step; the belief is recorded, and in evaluation what it says of tasks (`belief`) as well."""
        choice = super().act(seen, state, greedy, generator)
        extras = {LATENT: choice.state[1]}
        if not self.training:
            with torch.no_grad():
                said = self.decoded(split(choice.state[1]))
            extras |= {} if said is None else {BELIEF: said}
        return choice._replace(extras=extras)

    def fork(self, state: State, rows: Tensor) -> State:
        return self.memory.fork(state[0], rows), rows_of(state[1], rows), state[2]

    def _heads(self, observation: Tensor, latent: Tensor) -> Heads:
        read = self.trunk(torch.cat([observation, latent], -1))
        return Heads(self.actor(read), self._value(self.critic(read)))


def split(numbers: Tensor) -> Latent:
    """N(mu, sigma^2) of mu and log sigma^2 side by side (..., 2 d)."""
    return Latent(*numbers.chunk(2, -1))


class TaskDecoder(nn.Module):
    """p(task | m): one of `tasks` listed ones, or a Gaussian over a vector of `task_size` numbers.

    Raises:
        ConfigError: where there is neither.
    """

    def __init__(self, config: BeliefPolicyConfig) -> None:
        super().__init__()
        self.listed = config.tasks > 0
        width = config.tasks or 2 * config.task_size
        if not width:
            raise ConfigError("a task decoder needs tasks that can be listed (tasks) or described (task_size)")
        self.net = mlp(config.latent, config.decoder_size, width)

    def forward(self, m: Tensor) -> Tensor:
        """m (..., d) -> logits (..., N), or mean and log variance side by side."""
        return self.net(m)

    def logprob(self, m: Tensor, task: Tensor) -> Tensor:
        """(...) of m (..., d) and the tasks' numbers (...) int64 or vectors (..., D)."""
        said = self.net(m)
        if self.listed:
            return said.log_softmax(-1).gather(-1, task[..., None])[..., 0]
        return split(said).log_prob(task)


def mlp(first: int, size: int, last: int) -> nn.Sequential:
    """Two hidden layers of `size` with ReLU."""
    return nn.Sequential(nn.Linear(first, size), nn.ReLU(), nn.Linear(size, size), nn.ReLU(), nn.Linear(size, last))


def describe(env: TensorEnv, params: Mapping[str, Tensor]) -> tuple[dict[str, int], Tensor]:
    """({tasks, task_size}, (B,) int64 numbers or (B, D) vectors) of the tasks `params` {name: (B, ...)}: privileged."""
    vectors = task_vectors(params)
    try:
        listed = len(next(iter(listed_tasks(env).values())))
    except ConfigError:
        return {"tasks": 0, "task_size": vectors.shape[1]}, vectors
    return {"tasks": listed, "task_size": vectors.shape[1]}, task_numbers(env, params)


@dataclass
class BeliefConfig(ControlConfig):
    """PPO on beliefs, and the learner of these.

    Raises:
        ConfigError: for a number that is not positive.
    """

    learning_rate: float = 7e-4
    gamma: float = 0.95
    inference_rate: float = field(default=1e-3, metadata={"help": "step size of encoder and decoders (Adam)"})
    inference_batch: int = field(default=32, metadata={"help": "trials that an update of them learns from"})
    inference_every: int = field(default=1, metadata={"help": "they learn in every so many updates of the policy"})
    capacity: int = field(default=300_000, metadata={"help": "steps of past trials that they learn from"})
    rl_through_encoder: bool = field(default=False, metadata={"help": "the policy's loss moves the encoder as well"})

    def __post_init__(self) -> None:
        for name in ("inference_batch", "inference_every", "capacity"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1")
        super().__post_init__()


class BeliefTrainer(ControlTrainer):
    """PPO on (s, mu, log sigma^2), and `inference_loss` on a replay. A subclass gives that loss and `policy_class`."""

    args: BeliefConfig
    policy_class: type[BeliefPolicy] = BeliefPolicy

    def __init__(self, model: Any, args: Any, tasks: EnvTasks, **kwargs: Any) -> None:
        super().__init__(model, args, tasks, **kwargs)
        self.taught = self.policy.tasks is not None
        self.replay = Replay(args.capacity, args.device, keep=(TASK,) if self.taught else ())
        self.register_state("replay", self.replay)

    @classmethod
    def make_policy(cls, recipe: Recipe, tasks: EnvTasks) -> Any:
        if recipe.peft is not None:
            raise ConfigError("peft adapts one learner; a belief policy has two")
        shape, _ = describe(tasks.env, tasks.batch(recipe.seed, [0]))
        return super().make_policy(with_policy(recipe, shape), tasks)

    def inference_loss(self, trials: Trials) -> Tensor:
        """What encoder and decoders minimise on whole trials of the replay."""
        raise NotImplementedError(f"{type(self).__name__} has to define inference_loss(trials)")

    def play(self, indices: Sequence[int]) -> Trials:
        trials, known = super().play(indices), {}
        if self.taught:
            _, task = describe(self.tasks.env, self.tasks.batch(self.args.seed, indices))
            task = task.repeat_interleave(self.args.trials_per_task, 0)[:, None]
            known[TASK] = task.expand(-1, trials.mask.shape[1], *task.shape[2:])
        inputs = {name: trials.inputs[name] for name in INPUTS}
        self.replay.add(dataclasses.replace(trials, inputs=inputs, privileged=known, logprobs=None, values=None))
        return trials

    def learners(self) -> dict[str, Learner]:
        """The policy, clipped as the arguments say, and the inference, which is not."""
        acts: list[nn.Parameter] = []
        infers: list[nn.Parameter] = []
        for name, parameter in self.policy.named_parameters():
            if parameter.requires_grad:
                (acts if name.startswith(ACTS) else infers).append(parameter)
        return {
            "policy": Learner(torch.optim.Adam(acts, lr=self.args.learning_rate, fused=True)),
            "inference": Learner(torch.optim.Adam(infers, lr=self.args.inference_rate, fused=True), 0.0),
        }

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The policy's loss, and that of the inference where it is due."""
        if self.args.rl_through_encoder:
            inputs = {name: value for name, value in batch.trials.inputs.items() if name != LATENT}
            batch = dataclasses.replace(batch, trials=dataclasses.replace(batch.trials, inputs=inputs))
        losses = super().losses(batch)
        number = self.state.global_step * self.args.updates_per_step + self._number
        if number % self.args.inference_every == 0:
            losses["inference"] = self.inference_loss(self.replay.rows(self.args.inference_batch))
        if self.args.rl_through_encoder:
            losses["inference"] = losses["policy"] + losses.get("inference", 0.0)
        return losses


def mean_over_steps(values: Tensor, trials: Trials) -> Tensor:
    """Mean of (B, T) over the steps of each trial that are in an episode, and then over trials."""
    inside = trials.episode >= 0
    return (torch.where(inside, values, 0.0).sum(1) / inside.sum(1)).mean()
