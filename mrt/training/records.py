"""What is logged and written of a batch of trials."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mrt.errors import ConfigError
from mrt.trials import Trials


def trial_metrics(trials: Trials) -> dict[str, float]:
    """Means over a batch: reward; progress/* and regret/stop where stop values are; regret/* where `privileged` knows.

    It may hold `oracle` (B,) J* of one episode that pays, `floor` (B,) a random policy's, and `free_episodes` (B,), the
    number of first episodes that explore for free and have no regret. With a floor regret is sum(J* - J)
    over the batch divided by sum(J* - floor): 0 plays as the oracle, 1 as the floor. Without it, it is the gap summed
    over a trial, averaged over trials.
    """
    from mrt.metrics import regret as metrics

    values = {"reward": _mean(trials.returns)}
    tables = {}
    if trials.stop_values is not None:
        stop_values = trials.stop_values.detach().cpu().double().numpy()
        steps = metrics.progress(stop_values)
        measured = steps[~np.isnan(steps)]
        if len(measured):
            values |= {"progress/mean": float(measured.mean()), "progress/negative_rate": float((measured < 0).mean())}
        tables["regret/stop"] = (stop_values, 1)
    oracle, floor = trials.privileged.get("oracle"), trials.privileged.get("floor")
    if oracle is None:
        return values
    returns = episode_returns(trials)
    if (free := trials.privileged.get("free_episodes")) is not None:
        returns = returns.masked_fill(torch.arange(returns.shape[1], device=free.device) < free[:, None], torch.nan)
    tables["regret/return"] = (returns.cpu().double().numpy(), 0)
    best = oracle.cpu().double().numpy()[:, None]
    for name, (table, first) in tables.items():
        lost = np.nansum(metrics.cumulative_regret(table, best, first))
        if floor is not None:  # over the whole batch: a row whose oracle and floor are close would drown the others
            worst = np.where(np.isnan(table), np.nan, floor.cpu().double().numpy()[:, None])
            span = np.nansum(metrics.cumulative_regret(worst, best, first))
            values[name] = float(lost / span) if span > 0 else float("nan")
        else:
            values[name] = float(lost / len(trials))
    return values


def episode_returns(trials: Trials) -> Tensor:
    """(B, K) undiscounted return of each episode, NaN beyond the last one of a row."""
    width = int(trials.episodes.max()) if len(trials) else 0
    inside = trials.episode >= 0
    returns = trials.rewards.new_zeros(len(trials), width)
    returns.scatter_add_(1, trials.episode.clamp(min=0), torch.where(inside, trials.rewards, 0.0))
    beyond = torch.arange(width, device=returns.device) >= trials.episodes[:, None]
    return returns.masked_fill(beyond, torch.nan)


def check_groups(group: Tensor, expected: int) -> None:
    """Every group (B,) of a batch must be whole.

    Raises:
        ConfigError: naming a group that is not, and the sizes that would divide the batch.
    """
    ids, sizes = torch.unique(group, return_counts=True)
    wrong = sizes != expected
    if wrong.any():
        valid = [size for size in range(1, len(group) + 1) if len(group) % size == 0]
        raise ConfigError(
            f"group {int(ids[wrong][0])} has {int(sizes[wrong][0])} rows in this process instead of {expected}: "
            f"groups may not be split. Valid sizes for {len(group)} rows are {valid}"
        )


def trial_rows(trials: Trials, step: int) -> list[dict[str, Any]]:
    """One JSON-able object per trial: the lines of trials.jsonl at this step."""
    returns, episodes = trials.returns.tolist(), trials.episodes.tolist()
    values = trials.stop_values.tolist() if trials.stop_values is not None else None
    rows = []
    for i, reward in enumerate(returns):
        row = {"step": step, "key": trials.task_keys[i] if trials.task_keys else "", "group": int(trials.group[i])}
        row |= {"reward": reward, "episodes": episodes[i], "stop": int(trials.trial_stop[i])}
        rows.append(row | ({"stop_values": values[i][: episodes[i] + 1]} if values else {}))
    return rows


def _mean(values: Tensor) -> float:
    kept = values[~values.isnan()]
    return float(kept.double().mean()) if len(kept) else float("nan")
