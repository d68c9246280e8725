"""Credits: each maps `Trials` to the weight (B, T) of every step in the policy gradient, zero outside `mask`.

The trainer never asks which credit it runs. Letters: R_b return of row b, J_j stop value after j episodes, p_j = J_j -
J_(j-1).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from mrt.errors import ConfigError, nearest
from mrt.grouping import (
    forward_fill,
    group_max,
    group_mean,
    group_std,
    group_sum,
    interpolate,
    last_measured,
    rank,
    spread,
    weighable,
)
from mrt.returns import gae, reward_to_go
from mrt.trials import PROVERS, Trials

Gather = Callable[[Tensor], Tensor]


def outcome(
    trials: Trials, scale: Literal["group", "batch", "none"] = "group", eps: float = 1e-4, gather: Gather | None = None
) -> Tensor:
    """A = (R - mean_g R) / (s + eps), the same for every step of a row: GRPO (Shao et al. 2024, 2402.03300, section
    4.1.1).

    `scale="none"` is Dr. GRPO (2503.20783); `batch` divides by the standard deviation over the whole batch, which
    `gather` collects from the other processes. Standard deviations are unbiased. Unscorable rows get 0 and take no part
    in any statistic.
    """
    reward, ranks = trials.returns, rank(trials.group)
    mean = group_mean(reward, ranks)[ranks]
    if scale == "group":
        deviation = group_std(reward, ranks)[ranks]
    elif scale == "batch":
        everyone = gather(reward) if gather else reward
        everyone = everyone[~everyone.isnan()]
        deviation = everyone.std() if len(everyone) > 1 else torch.zeros(())
    elif scale != "none":
        raise ConfigError(
            f"scale={scale!r} is no scaling of the outcome; {nearest(str(scale), ('group', 'batch', 'none'))}"
        )
    advantage = reward - mean
    if scale != "none":
        advantage = advantage / (deviation + eps)
    return torch.nan_to_num(advantage, nan=0.0)[:, None] * trials.mask


def leave_one_out(trials: Trials) -> Tensor:
    """A_b = R_b - mean of the other rows of its group: RLOO (Ahmadian et al. 2024, 2402.14740, equation 8). A lone row
    gets 0.
    """
    reward, ranks = trials.returns, rank(trials.group)
    count = group_sum((~reward.isnan()).float(), ranks)[ranks]
    centred = torch.nan_to_num(reward - group_mean(reward, ranks)[ranks], nan=0.0)
    return (centred * count / (count - 1).clamp(min=1))[:, None] * trials.mask


def progress(
    trials: Trials,
    alpha: float = 1.0,
    mode: Literal["immediate", "to-go", "discounted", "trace"] = "immediate",
    gamma: float = 0.9,
    center: Literal["none", "depth"] = "none",
    unmeasured: Literal["zero", "spread"] = "zero",
    scale: Literal["group", "batch", "none"] = "group",
    eps: float = 1e-4,
    gather: Gather | None = None,
) -> Tensor:
    """A[b,t] = (R_b - mean_g R) / (s_g + eps) + alpha w_e(t): the MRT objective (Qu et al. 2025, 2503.07572, definition
    6.1 and the objective of section 6), e(t) the episode of step t. Steps outside any episode (the answer) get the
    outcome alone.

    w_j = p_j (immediate), sum over i >= j of p_i (to-go), sum over i >= j of gamma^(i-j) p_i (discounted), or the sum
    over all i (trace: the authors' end-of-trace scalar, which only a mixed group can use). The bonus is added after the
    normalisation. `center="depth"` subtracts the mean bonus of the group at the same episode. An unmeasured p_j is 0;
    with `unmeasured="spread"` the progress between two measured boundaries is shared equally by the episodes between
    them, so that the sum still telescopes to J_K - J_0.

    `alpha == 0` returns the outcome weights without touching J.
    """
    base = outcome(trials, scale=scale, eps=eps, gather=gather)
    if alpha == 0:
        return base
    return base + alpha * progress_bonus(trials, mode=mode, gamma=gamma, center=center, unmeasured=unmeasured)


def progress_bonus(
    trials: Trials, mode: str = "immediate", gamma: float = 0.9, center: str = "none", unmeasured: str = "zero"
) -> Tensor:
    """(B, T) the w_e(t) of `progress`, before alpha; zero outside `mask` and outside any episode."""
    gained = episode_progress(trials, unmeasured)  # (B, K)
    if mode in ("to-go", "discounted"):
        factor = 1.0 if mode == "to-go" else gamma
        weight, running = torch.zeros_like(gained), torch.zeros_like(gained[:, 0])
        for j in reversed(range(gained.shape[1])):
            running = gained[:, j] + factor * running
            weight[:, j] = running
    elif mode == "trace":
        weight = gained.sum(1, keepdim=True).expand_as(gained)
    elif mode == "immediate":
        weight = gained
    else:
        raise ConfigError(
            f"progress mode {mode!r} is unknown; {nearest(mode, ('immediate', 'to-go', 'discounted', 'trace'))}"
        )
    if center == "depth":
        ranks = rank(trials.group)
        present = torch.arange(weight.shape[1], device=weight.device) < trials.episodes[:, None]
        present &= trials.scored[:, None]
        mean = group_mean(torch.where(present, weight, torch.full_like(weight, torch.nan)), ranks)[ranks]
        weight = weight - torch.nan_to_num(mean, nan=0.0)
    elif center != "none":
        raise ConfigError(f"center={center!r} is unknown; {nearest(center, ('none', 'depth'))}")
    return spread(weight, trials)


def episode_progress(trials: Trials, unmeasured: str = "zero") -> Tensor:
    """(B, K) p_1..p_K; see `progress` for what happens between unmeasured boundaries."""
    if trials.stop_values is None:
        raise ValueError("progress needs stop values: probe the boundaries, or choose the outcome credit")
    values = trials.stop_values.float()
    if unmeasured == "spread":
        values = interpolate(values)
    elif unmeasured != "zero":
        raise ConfigError(f"unmeasured={unmeasured!r} is unknown; {nearest(unmeasured, ('zero', 'spread'))}")
    return torch.nan_to_num(values[:, 1:] - values[:, :-1], nan=0.0)


def brpo(trials: Trials, prior: Literal["uniform", "linear"] = "uniform") -> Tensor:
    """A_s = R_s - (s V1_s + (S-s) V2_s) / S on the steps of segment s = 0..S-1: BRPO (AnytimeReasoner, Qi et al. 2025,
    2505.13438).

    R_s = sum over t >= s of P_t J_t, V1_s = (sum over t < s of 2^t J_t / sum of 2^t) sum over t >= s of P_t, V2_s = the
    group's mean R_s; J_t is the stop value after segment t, P the prior over budgets (uniform, or linear in t). A trace
    that ended early keeps its last J. The answer's steps get R - mean_g R. No division by a standard deviation.
    """
    if trials.stop_values is None:
        raise ValueError("brpo needs stop values: probe the boundaries")
    ranks = rank(trials.group)
    values = torch.nan_to_num(forward_fill(trials.stop_values.float()))[:, 1:]  # (B, S)
    count = group_max(trials.episodes, ranks)[ranks]  # (B,) S of each group
    segments = torch.arange(values.shape[1], device=values.device)
    prior_weight = (segments < count[:, None]).float() * (
        segments + 1 if prior == "linear" else torch.ones_like(segments)
    )
    prior_weight = prior_weight / prior_weight.sum(1, keepdim=True).clamp(min=1e-12)
    remaining = prior_weight.flip(1).cumsum(1).flip(1)
    gain = (prior_weight * values).flip(1).cumsum(1).flip(1)
    power = 2.0**segments
    before = (power * values).cumsum(1) - power * values
    first = (
        torch.where(segments > 0, before / (power.cumsum(0) - power).clamp(min=1), torch.zeros_like(before)) * remaining
    )
    second = group_mean(torch.where(trials.scored[:, None], gain, torch.full_like(gain, torch.nan)), ranks)[ranks]
    size = count[:, None].clamp(min=1)
    weight = torch.nan_to_num(gain - (segments * first + (size - segments) * second) / size)
    answer = outcome(trials, scale="none")
    return torch.where(trials.episode >= 0, spread(weight, trials), answer) * weighable(trials)


def vineppo(trials: Trials) -> Tensor:
    """A_e = r_e + V_(e+1) - V_e per episode, V measured by going on: VinePPO (Kazemnejad et al. 2024, 2410.01679,
    equation 6).

    The answer's steps get R - V_K. Where V_K was not measured, the last episode and the answer both get R - V_(K-1).
    """
    if trials.stop_values is None:
        raise ValueError("vineppo needs stop values under a prover that continues")
    values, reward = trials.stop_values.float(), torch.nan_to_num(trials.returns)
    gained = values[:, 1:] - values[:, :-1]
    last = last_measured(values)
    to_end = (reward - values.gather(1, last[:, None])[:, 0])[:, None]
    after = torch.arange(gained.shape[1], device=gained.device) >= last[:, None]
    weight = torch.nan_to_num(torch.where(after, to_end.expand_as(gained), gained))
    return torch.where(trials.episode >= 0, spread(weight, trials), torch.nan_to_num(to_end)) * weighable(trials)


@dataclass(frozen=True)
class Credit:
    """A credit with its options: `credit(trials, fraction)` -> weights (B, T).

    `fraction` in [0, 1] is how far training has come: `alpha` moves linearly to `alpha_end` where that is given.

    Raises:
        ValueError: when the stop values were measured by another prover than the credit needs.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    alpha_end: float | None = None

    @property
    def prover(self) -> str:
        """The prover whose stop values it needs: forced, continue or none."""
        return "none" if self.options.get("alpha", 1) == 0 and self.alpha_end is None else CREDITS[self.name][1]

    def alpha(self, fraction: float = 0.0) -> float:
        """The bonus weight at `fraction` of training; 0 for a credit without a bonus."""
        if self.name != "progress":
            return 0.0
        start = float(self.options.get("alpha", 1.0))
        return start if self.alpha_end is None else start + (self.alpha_end - start) * min(max(fraction, 0.0), 1.0)

    def __call__(self, trials: Trials, fraction: float = 0.0, gather: Gather | None = None) -> Tensor:
        if self.prover != "none":
            wrong = trials.prover[trials.prover != PROVERS[self.prover]]
            if len(wrong):
                found = {number: name for name, number in PROVERS.items()}[int(wrong[0])]
                raise ValueError(
                    f"credit '{self.name}' needs stop values from the '{self.prover}' prover, these come from '{found}'"
                )
        options = dict(self.options)
        if self.name == "progress":
            options["alpha"] = self.alpha(fraction)
        if options.get("scale", "group") == "batch":
            options["gather"] = gather
        return CREDITS[self.name][0](trials, **options)


CREDITS: dict[str, tuple[Callable[..., Tensor], str]] = {
    "outcome": (outcome, "none"),
    "leave_one_out": (leave_one_out, "none"),
    "reward_to_go": (reward_to_go, "none"),
    "gae": (gae, "none"),
    "progress": (progress, "forced"),
    "brpo": (brpo, "forced"),
    "vineppo": (vineppo, "continue"),
}
"""Name -> (function, the prover it needs)."""


def make_credit(name: str, alpha_end: float | None = None, **options: Any) -> Credit:
    """The credit called `name`; raises ConfigError for an unknown name or option, with the nearest valid one."""
    if name not in CREDITS:
        raise ConfigError(f"credit '{name}' is unknown; {nearest(name, set(CREDITS))}")
    valid = set(inspect.signature(CREDITS[name][0]).parameters) - {"trials", "gather"}
    for key in options:
        if key not in valid:
            raise ConfigError(f"credit '{name}' has no option '{key}'; {nearest(key, valid)}")
    if alpha_end is not None and name != "progress":
        raise ConfigError(f"credit '{name}' has no alpha to anneal; alpha_end belongs to 'progress'")
    return Credit(name, options, alpha_end)
