"""Online meta-learning: what an update is made of is moved by what the update led to, in one lifetime.

    theta' = theta - alpha grad_theta L(theta, eta; tau)                      tau: what theta played
    eta   <- eta - beta dJ'(theta'; tau') / deta                              tau': what theta' played
    dJ' / deta = - alpha (dJ' / dtheta')^T  d(grad_theta L) / deta

Xu et al. 2018, 1805.09801, equations 1 to 5 (eta: discount and lambda); Zheng et al. 2018, 1804.06459 (eta: a reward).
The next sample is a cross-validation: on tau itself eta would learn to explain the noise of tau. Only the last update
is looked through (the trace of the first paper with mu = 0).

A subclass gives `inner_loss` and `outer_loss`. theta moves by plain gradient descent, whose step is what is
differentiated; eta by Adam.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedConfig, PreTrainedModel

from mrt.control.agent import Agent, Choice, Seen, Shape
from mrt.control.distributions import Categorical
from mrt.control.envs import EnvTasks, Spec
from mrt.control.loading import FromRecipe
from mrt.control.oracles import episode_bounds
from mrt.control.rollout import rollout
from mrt.errors import ConfigError, nearest
from mrt.optim.learners import Learner
from mrt.trainer import TrialConfig, TrialTrainer
from mrt.training.codec import tree_to
from mrt.training.collection import Batch
from mrt.trials import Stop, Trials

Tree = dict[str, Tensor]


@dataclass
class OnlineMetaConfig(TrialConfig):
    """Arguments of an `OnlineMetaTrainer`. `learning_rate` is alpha, `per_device_train_batch_size` counts episodes."""

    meta_rate: float = field(default=1e-2, metadata={"help": "beta, Adam's rate for eta; 0 leaves eta as it is"})
    value_weight: float = field(default=0.5, metadata={"help": "weight of half the critic's squared error"})
    policy_weight: float = field(default=1.0, metadata={"help": "weight of the policy gradient; 0: values alone"})
    entropy: float = field(default=0.01, metadata={"help": "weight of the entropy bonus in the inner loss"})
    lr_scheduler_type: str = field(default="constant", metadata={"help": "as in transformers"})
    max_grad_norm: float = field(default=0.0, metadata={"help": "clipping would not be differentiated: only 0"})

    def __post_init__(self) -> None:
        if self.max_grad_norm:
            raise ConfigError(f"max_grad_norm={self.max_grad_norm}: the step is differentiated and cannot be clipped")
        if self.meta_rate < 0:
            raise ConfigError(f"meta_rate={self.meta_rate} must be at least 0")
        super().__post_init__()


class OnlineMetaTrainer(FromRecipe, TrialTrainer):
    """theta learns from each collection, eta from what theta's last step led to.

    Args:
        model: has `theta` and `eta`, two modules, and is the agent that plays.
    """

    args: OnlineMetaConfig
    tasks: EnvTasks
    rows_written = 8

    def __init__(self, model: Any, args: Any, tasks: EnvTasks, **kwargs: Any) -> None:
        super().__init__(model, args, tasks.to(args.device), **kwargs)
        self.previous: dict[str, Any] = {}
        self.register_state("previous", (self._previous_tree, self._set_previous))

    @classmethod
    def args_class(cls) -> type:
        return OnlineMetaConfig

    @abstractmethod
    def inner_loss(self, theta: Mapping[str, Tensor], trials: Trials) -> Tensor:
        """L(theta, eta; tau): what theta descends, with gradients to theta by name and to the model's eta."""

    @abstractmethod
    def outer_loss(self, theta: Mapping[str, Tensor], trials: Trials) -> Tensor:
        """J'(theta; tau'): what eta is judged by, with gradients to theta."""

    def next_batch(self, indices: Sequence[int]) -> Batch:
        """New trials by the present theta."""
        env, params = self.tasks.env, self.tasks.batch(self.args.seed, indices)
        keys = env.task_keys(params, len(indices), self.rows_written or 0)
        number = torch.tensor(indices, device=env.device)
        trials = rollout(env, self.unwrapped, params, seed=int(torch.randint(2**31, (1,))), task=number, keys=keys)
        return self._recorded(dataclasses.replace(trials, privileged=episode_bounds(env, params)))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Those of theta and of eta; eta's has the gradient above, and its value says nothing."""
        model, trials = self.unwrapped, batch.trials
        theta = {name: value.detach().requires_grad_() for name, value in model.theta.named_parameters()}
        found = {}
        if self.previous and self.args.meta_rate > 0:
            slope = torch.autograd.grad(self.outer_loss(theta, trials), [*theta.values()], allow_unused=True)
            before = {name: value.requires_grad_() for name, value in self.previous["theta"].items()}
            loss = self.inner_loss(before, self.previous["trials"])
            inner = torch.autograd.grad(loss, [*before.values()], create_graph=True, allow_unused=True)
            pairs = [(a, b) for a, b in zip(slope, inner, strict=True) if a is not None and b is not None]
            found["eta"] = -self.step_size * torch.stack([(a * b).sum() for a, b in pairs]).sum()
        kept = {name: value.detach().clone() for name, value in theta.items()}
        self.previous = {"theta": kept, "trials": trials}
        return {"theta": self.inner_loss(dict(model.theta.named_parameters()), trials), **found}

    @property
    def step_size(self) -> float:
        """alpha now, that of theta's optimiser."""
        return self.learner_optimizer("theta").param_groups[0]["lr"]

    def learner_optimizer(self, name: str) -> torch.optim.Optimizer:
        """The optimiser of one learner."""
        composite = self._composite()
        assert composite is not None
        return composite.learners[name].optimizer

    def learners(self) -> dict[str, Learner]:
        model, args = self.unwrapped, self.args
        return {
            "theta": Learner(torch.optim.SGD(model.theta.parameters(), lr=args.learning_rate), 0.0),
            "eta": Learner(torch.optim.Adam(model.eta.parameters(), lr=args.meta_rate), 0.0),
        }

    def _previous_tree(self) -> dict[str, Any]:
        if not self.previous:
            return {}
        trials = self.previous["trials"]
        return {"theta": dict(self.previous["theta"]), "batch": Batch(trials, trials.mask.float()).to_tree()}

    def _set_previous(self, state: Mapping[str, Any]) -> None:
        if state:
            found = tree_to(state, self.args.device)
            trials = Batch.from_tree(found["batch"], self.args.device).trials
            self.previous = {"theta": dict(found["theta"]), "trials": trials}


class OnlineConfig(PreTrainedConfig):
    """Shapes as in `Spec`; `hidden` widths of the network, none: linear in the observation."""

    model_type = "mrt-online-meta"

    def __init__(self, observation: int = 1, actions: int = 2, hidden: Sequence[int] = (), **kwargs: Any) -> None:
        self.observation, self.actions, self.hidden = observation, actions, list(hidden)
        super().__init__(**kwargs)


class ActorCritic(nn.Module):
    """Logits (..., A) and a value (...) of an observation; both begin at 0."""

    def __init__(self, width: int, actions: int, hidden: Sequence[int]) -> None:
        super().__init__()
        sizes = [width, *hidden]
        parts: list[nn.Module] = []
        for a, b in pairwise(sizes):
            parts += [nn.Linear(a, b), nn.Tanh()]
        self.body, self.heads = nn.Sequential(*parts), nn.Linear(sizes[-1], actions + 1, bias=bool(hidden))
        nn.init.zeros_(self.heads.weight)

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        out = self.heads(self.body(observation))
        return out[..., :-1], out[..., -1]


class OnlineAgent(PreTrainedModel, Agent):
    """An actor-critic theta without memory, and eta, which a subclass makes."""

    config_class: type[Any] = OnlineConfig
    base_model_prefix = "policy"
    main_input_name = "observation"

    def __init__(self, config: OnlineConfig) -> None:
        super().__init__(config)
        self.shape = Shape(config.observation, config.actions, 0)
        self.distribution = Categorical()
        self.theta = ActorCritic(config.observation, config.actions, config.hidden)
        self.eta = self.make_eta(config)
        self.post_init()

    def make_eta(self, config: Any) -> nn.Module:
        """The module that holds eta."""
        raise NotImplementedError(f"{type(self).__name__} has to define make_eta(config)")

    def _init_weights(self, module: nn.Module) -> None:
        """Parts come initialised."""

    @classmethod
    def for_spec(cls, spec: Spec, **options: Any) -> Any:
        """A fresh agent for an environment.

        Raises:
            ConfigError: for continuous actions, and for an option that there is none of.
        """
        if not spec.actions:
            raise ConfigError("online meta-learning is written for discrete actions, this environment has none")
        kind = cls.config_class
        known = set(kind().to_dict()) - set(PreTrainedConfig().to_dict()) - {"observation", "actions"}
        for name in options:
            if name not in known:
                raise ConfigError(f"policy has no option '{name}'; {nearest(name, known)}")
        return cls(kind(spec.observation, spec.actions, **options))

    def heads(self, theta: Mapping[str, Tensor], observation: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and values by other parameters of `theta`, by name."""
        return functional_call(self.theta, dict(theta), (observation,))

    def init_state(self, rows: int) -> Any:
        """No memory."""

    @torch.no_grad()
    def act(self, seen: Seen, state: Any, greedy: bool = False, generator: torch.Generator | None = None) -> Choice:
        logits, values = self.theta(seen["observation"].to(self.device))
        actions = logits.argmax(-1) if greedy else self.distribution.sample(logits, generator)
        return Choice(actions, self.distribution.logprob(logits, actions), values, state)


def lambda_returns(
    trials: Trials, rewards: Tensor, values: Tensor, gamma: Tensor | float, lam: Tensor | float
) -> Tensor:
    """(B, T) g_t = r_t + gamma (1 - lambda) v_(t+1) + gamma lambda g_(t+1) within each episode, with gradients to all.

    rewards, values (B, T). At an episode's closing row stands v where the time limit ended it, and 0 where it
    ended by itself, or where the trial is over.
    """
    ended = trials.stop.gather(1, trials.episode.clamp(min=0)) != int(Stop.TRUNCATED)  # type: ignore[union-attr]
    last = trials.episode == trials.episodes[:, None] - 1
    after = torch.where(trials.mask, values, torch.where(ended | last, 0.0, values))
    total = after[:, -1]
    found = [total]
    for t in range(rewards.shape[1] - 2, -1, -1):
        ahead = rewards[:, t] + gamma * ((1 - lam) * after[:, t + 1] + lam * total)
        total = torch.where(trials.mask[:, t], ahead, after[:, t])
        found.append(total)
    return torch.stack(found[::-1], 1)
