"""The credits that are built from step rewards: reward-to-go and generalised advantage estimation, per episode or
across the trial.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mrt.credit.grouping import stop_per_step, weighable
from mrt.trials import Stop, Trials


def reward_to_go(trials: Trials, scope: Literal["episode", "trial"] = "trial", gamma: float = 1.0) -> Tensor:
    """G_t = sum over t' >= t of gamma^(t'-t) r_t', to the end of the episode or across the whole trial (RL2,
    1611.02779, section 2.2).

    Steps are counted by acting rows: closing rows and given tokens neither discount nor earn.
    """
    total = torch.zeros_like(trials.rewards)
    running = torch.zeros(len(trials), dtype=trials.rewards.dtype, device=trials.rewards.device)
    last = torch.full_like(trials.episode[:, 0], -2)
    for t in reversed(range(trials.rewards.shape[1])):
        acting = trials.mask[:, t]
        if scope == "episode":
            running = torch.where(trials.episode[:, t] != last, torch.zeros_like(running), running)
            last = trials.episode[:, t]
        running = torch.where(acting, trials.rewards[:, t] + gamma * running, running)
        total[:, t] = running
    return total * weighable(trials)


def gae(trials: Trials, gamma: float = 0.99, lam: float = 0.95, scope: Literal["episode", "trial"] = "trial") -> Tensor:
    """A_t = sum over l of (gamma lam)^l delta_(t+l), delta_t = r_t + gamma V_(t+1) - V_t (Schulman et al. 2016,
    1506.02438, equation 16).

    What follows an episode's last act: with `scope="episode"` nothing after TERMINATED, BUDGET or FORCED, and the value
    of the closing row after TRUNCATED. With `scope="trial"` the next episode follows, whatever ended this one; only the
    trial's own end (`trial_stop`) is told apart in that way.

    Raises:
        ValueError: when `values` is missing at an acting step, or a truncated end has no closing row with a value.
    """
    if trials.values is None or bool((trials.values.isnan() & trials.mask).any()):
        raise ValueError(
            "gae needs values at every acting step: give the policy a value head, or choose another credit"
        )
    rows, steps = trials.rewards.shape
    stops = stop_per_step(trials)
    advantage = torch.zeros_like(trials.rewards)
    following_value = torch.zeros(rows, dtype=trials.values.dtype, device=trials.values.device)  # V of what comes next
    following_advantage = torch.zeros_like(following_value)
    seen_act = torch.zeros(
        rows, dtype=torch.bool, device=trials.mask.device
    )  # is there an act after this row (in scope)?
    closing = torch.full_like(following_value, torch.nan)
    previous = torch.full_like(trials.episode[:, 0], -2)
    for t in reversed(range(steps)):
        acting, value, episode = trials.mask[:, t], trials.values[:, t], trials.episode[:, t]
        if scope == "episode":
            seen_act &= episode == previous
        closing = torch.where(episode == previous, closing, torch.full_like(closing, torch.nan))
        closing = torch.where(~acting & (episode >= 0), value, closing)
        previous = episode
        stop = stops[:, t] if scope == "episode" else trials.trial_stop.long()
        bootstrap = acting & ~seen_act & (stop == Stop.TRUNCATED)
        if bool((bootstrap & closing.isnan()).any()):
            raise ValueError("a truncated episode needs its closing row with a value: gae cannot bootstrap without it")
        next_value = torch.where(seen_act, following_value, torch.where(bootstrap, closing, torch.zeros_like(value)))
        next_advantage = torch.where(seen_act, following_advantage, torch.zeros_like(value))
        here = trials.rewards[:, t] + gamma * next_value - value + gamma * lam * next_advantage
        advantage[:, t] = torch.where(acting, here, torch.zeros_like(here))
        following_advantage = torch.where(acting, here, following_advantage)
        following_value = torch.where(acting, value, following_value)
        seen_act = seen_act | acting
    return advantage * weighable(trials)
