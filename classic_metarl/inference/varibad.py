"""VariBAD, variational Bayes-adaptive deep RL (Zintgraf, Shiarlis, Igl, Schulze, Gal, Hofmann and Whiteson 2020,
arXiv 1910.08348).

A recurrent encoder approximates the posterior over a latent m that describes the task; the policy sees it whole, its
uncertainty included, and so explores as far as that is worth it (section 3, equations 8 to 10):

    max over phi, theta of  E sum_t ELBO_t
    max over psi of         E sum_t gamma^t r_t,        pi(a | s, mu_t, log sigma_t^2)

    ELBO_t = E_(m ~ q(m|tau_:t)) [ sum_j log p(r_j | s_j, a_j, s_(j+1), m) + log p(s_(j+1) | s_j, a_j, m) ]
             - w KL(q(m|tau_:t) || q(m|tau_:t-1))

The sum over j is over the whole trial, the past and the future of t alike: m says what is still to come (`future:
false` is the paper's ablation). The prior of step t is the posterior of t - 1, with its gradient, as in the released
code; that of the first step is N(0, I). Encoder and decoders have an optimiser and a buffer of their own, and no
gradient of the policy's loss (`rl_through_encoder`, see `classic_metarl/trainers/beliefs.py`).

Decoders (`reward`, `transition`, `task` of the policy):

    reward: state     a Bernoulli head for each entry of a one-hot s_(j+1) says whether a step that ends there is paid,
                      r > 0 (the released gridworld's multi-head decoder). What a trial says of a head are two counts,
                      so that all t x j terms cost as much as one row of heads a step
    reward: action    the same, a head for each action (bandits)
    reward: gaussian  r of (s_j, a_j, s_(j+1), m), squared error
    transition        s_(j+1) of (s_j, a_j, m), squared error
    task              the task itself: the released code's `decode_task`, with privileged information

Deviations: the posterior of t = 0 has read the first observation; `elbo_terms` draws the steps t that the pairwise
decoders look from, one draw for the batch; GridNavi shows its cell one-hot here (the released code shows x and y, and
gives the decoder the cell's number); trials are collected side by side, 128 at a time, where the code has 16 processes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from classic_metarl.trainers.beliefs import (
    TASK,
    BeliefConfig,
    BeliefPolicy,
    BeliefPolicyConfig,
    BeliefTrainer,
    TaskDecoder,
    mean_over_steps,
    mlp,
)
from mrt.control.encoder import shown_action
from mrt.control.latents import Latent
from mrt.errors import ConfigError
from mrt.trials import Trials

REWARDS = ("state", "action", "gaussian", "none")


class VariBADPolicyConfig(BeliefPolicyConfig):
    """Which decoders there are; see the top of the module."""

    model_type = "mrt-varibad"

    def __init__(self, *, reward: str = "state", transition: bool = False, task: bool = False, **kwargs: Any) -> None:
        self.reward, self.transition, self.task = reward, transition, task
        super().__init__(**kwargs)


class VariBADPolicy(BeliefPolicy):
    """The encoder, the policy, and what the latent is decoded into.

    Raises:
        ConfigError: for an unknown reward decoder, or without any decoder.
    """

    config_class = VariBADPolicyConfig

    def __init__(self, config: VariBADPolicyConfig) -> None:
        super().__init__(config)
        if config.reward not in REWARDS:
            raise ConfigError(f"reward={config.reward!r} is no decoder; there are {', '.join(REWARDS)}")
        if config.reward == "action" and not config.actions:
            raise ConfigError("reward='action' has a head for each action: actions here are continuous")
        if config.reward == "none" and not config.transition and not config.task:
            raise ConfigError("a latent that is decoded into nothing means nothing: give reward, transition or task")
        size, see, act = config.decoder_size, config.observation, config.actions or config.action_size
        self.heads = self.rewards = self.transitions = None
        if config.reward in ("state", "action"):
            self.heads = mlp(config.latent, size, see if config.reward == "state" else config.actions)
        elif config.reward == "gaussian":
            self.rewards = PairDecoder(config.latent, 2 * see + act, size, 1)
        if config.transition:
            self.transitions = PairDecoder(config.latent, see + act, size, see)
        if config.task:
            self.tasks = TaskDecoder(config)

    def decoded(self, latent: Latent) -> Tensor | None:
        """The task's probabilities, or those of a reward in each cell (for each action)."""
        if self.tasks is not None and self.tasks.listed:
            return self.tasks(latent.mean).softmax(-1)
        return None if self.heads is None else self.heads(latent.mean).sigmoid()

    def one_hot(self, actions: Tensor) -> Tensor:
        """(B, T, A) of what was done, as the policy is shown it."""
        return shown_action(self.config, actions, self.dtype)


class PairDecoder(nn.Module):
    """What follows at every step j, seen from every posterior t: m (B, S, d), x (B, T, k) -> (B, S, T, out)."""

    def __init__(self, latent: int, inputs: int, size: int, out: int) -> None:
        super().__init__()
        self.of_m, self.of_x = nn.Linear(latent, size), nn.Linear(inputs, size, bias=False)
        self.rest = nn.Sequential(nn.ReLU(), nn.Linear(size, size), nn.ReLU(), nn.Linear(size, out))

    def forward(self, m: Tensor, x: Tensor) -> Tensor:
        """The first layer is linear in both: no pair is laid out before its sum."""
        return self.rest(self.of_m(m)[:, :, None] + self.of_x(x)[:, None])


# ---- the terms of the ELBO


def divergences(latent: Latent) -> Tensor:
    """(B, T) KL(q_t || q_(t-1)) of the posteriors (B, T, d), N(0, I) before the first; its gradient reaches both."""
    before = (torch.cat([torch.zeros_like(part[:, :1]), part[:, :-1]], 1) for part in latent)
    return latent.kl(Latent(*before))


def head_loglik(logits: Tensor, place: Tensor, paid: Tensor, acted: Tensor, future: bool = True) -> Tensor:
    """(B, T) sum over j of log p(r_j | m_t) for heads of Bernoulli variables.

    Args:
        logits: (B, T, C) the heads, read from a draw of every posterior.
        place: (B, T, C) one-hot: the head of step j. paid: (B, T) bool, what it says. acted: (B, T) bool, who counts.
        future: also the steps from t on; else those before t alone.
    """
    taken = place * acted[..., None]
    won, lost = taken * paid[..., None], taken * ~paid[..., None]
    if future:
        won, lost = won.sum(1, keepdim=True), lost.sum(1, keepdim=True)
    else:
        won, lost = won.cumsum(1) - won, lost.cumsum(1) - lost
    return (won * F.logsigmoid(logits) + lost * F.logsigmoid(-logits)).sum(-1)


def pair_loglik(said: Tensor, true: Tensor, acted: Tensor, steps: Tensor | None = None) -> Tensor:
    """(B, S) sum over j of -|said - true|^2 for predictions (B, S, T, n) of `true` (B, T, n), over `acted` (B, T).

    `steps` (S,): the t of each row of predictions, where only what lies before it counts; None for past and future.
    """
    error = (said - true[:, None]).square().sum(-1)
    counted = acted[:, None].expand_as(error)
    if steps is not None:
        counted = counted & (torch.arange(acted.shape[1], device=acted.device) < steps[:, None])
    return -torch.where(counted, error, 0.0).sum(-1)


@dataclass
class VariBADConfig(BeliefConfig):
    """PPO's numbers and the ELBO's."""

    kl_weight: float = field(default=0.01, metadata={"help": "weight of the KL term"})
    future: bool = field(default=True, metadata={"help": "decode the future too; false: the past alone"})
    elbo_terms: int = field(default=20, metadata={"help": "steps t that pairwise decoders look from; 0: all"})

    def __post_init__(self) -> None:
        if self.kl_weight < 0 or self.elbo_terms < 0:
            raise ConfigError(f"kl_weight={self.kl_weight}, elbo_terms={self.elbo_terms}: neither may be negative")
        super().__post_init__()


class VariBADTrainer(BeliefTrainer):
    """VariBAD: PPO on beliefs, the ELBO on a buffer of trials."""

    args: VariBADConfig
    policy_class = VariBADPolicy

    @classmethod
    def args_class(cls) -> type:
        return VariBADConfig

    def inference_loss(self, trials: Trials) -> Tensor:
        """Minus the mean of ELBO_t over all steps of the trials."""
        terms = self.elbo(trials)
        for name, value in terms.items():
            self.log_metric(f"elbo/{name}", float(value.detach()))
        return self.args.kl_weight * terms.pop("kl") - sum(terms.values(), torch.zeros((), device=self.args.device))

    def elbo(self, trials: Trials) -> dict[str, Tensor]:
        """{reward, transition, task, kl}: means over steps t and trials; log-likelihoods are of whole trials."""
        policy, acted = self.policy, trials.mask
        latent = policy.encode(trials.inputs)
        m, terms = latent.sample(), {"kl": mean_over_steps(divergences(latent), trials)}
        here = trials.inputs["observation"]
        there = torch.cat([here[:, 1:], here[:, -1:]], 1)  # every acted step has a next row
        if policy.heads is not None:
            place = there if policy.config.reward == "state" else policy.one_hot(trials.actions)
            found = head_loglik(policy.heads(m), place, trials.rewards > 0, acted, self.args.future)
            terms["reward"] = mean_over_steps(found, trials)
        if policy.tasks is not None:
            terms["task"] = mean_over_steps(policy.tasks.logprob(m, trials.privileged[TASK]), trials)
        if policy.rewards is not None or policy.transitions is not None:
            terms |= self._pairs(m, there, trials)
        return terms

    def _pairs(self, m: Tensor, there: Tensor, trials: Trials) -> dict[str, Tensor]:
        """The terms of the decoders that look from every t at every j."""
        policy, length = self.policy, m.shape[1]
        count = min(self.args.elbo_terms or length, length)
        steps = torch.randperm(length, device=m.device)[:count]
        before, seen_from = None if self.args.future else steps, m[:, steps]
        inside = (trials.episode >= 0)[:, steps]
        weight = inside / inside.sum().clamp(min=1)
        x = torch.cat([trials.inputs["observation"], policy.one_hot(trials.actions)], -1)
        found = {}
        if policy.rewards is not None:
            said = policy.rewards(seen_from, torch.cat([x, there], -1))
            found["reward"] = pair_loglik(said, trials.rewards[..., None], trials.mask, before)
        if policy.transitions is not None:
            found["transition"] = pair_loglik(policy.transitions(seen_from, x), there, trials.mask, before)
        return {name: (value * weight).sum() for name, value in found.items()}
