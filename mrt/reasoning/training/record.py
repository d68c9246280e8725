"""From token ids to the record: the batch that TRL made, as `Trials`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mrt.reasoning.traces.trial import Trial
from mrt.trials import PROVERS, Stop, Trials


def build_trials(
    output: Mapping[str, Tensor],
    trials: Sequence[Trial],
    rewards: Tensor,
    group_size: int,
    *,
    prover: str = "none",
    keys: Sequence[str] = (),
    spent: Mapping[str, float] | None = None,
) -> Trials:
    """The record of a generation batch.

    Args:
        output: TRL's dict with prompt_ids (B, P) left-padded, completion_ids (B, C) right-padded, their masks, and
            tool_mask (B, C) where some completion tokens were given and not chosen.
        trials: B trials in the same order.
        rewards: (B,), NaN for an unscorable row.
        group_size: rows of one group follow each other.
        spent: positions that the batch took through the model, sampled and probed. The record's `cost` shares them
            among the rows: sampled by the tokens of prompt and completion, probed by the boundaries measured.

    Returns:
        Trials with T = P + C - 1: step t sees ids[:t+1] and takes ids[t+1]. `completion_weights` takes (B, T) back to
        (B, C).
    """
    ids = torch.cat([output["prompt_ids"], output["completion_ids"]], 1)
    prompt, (rows, width) = output["prompt_ids"].shape[1], ids.shape
    device = ids.device
    chosen = output["completion_mask"].bool()
    if "tool_mask" in output:
        chosen = chosen & output["tool_mask"].bool()
    mask = torch.zeros(rows, width - 1, dtype=torch.bool, device=device)
    mask[:, prompt - 1 :] = chosen
    reward = torch.zeros(rows, width - 1, device=device)
    last = torch.tensor([prompt - 2 + len(trial.completion) for trial in trials], device=device)
    reward[torch.arange(rows, device=device), last] = torch.nan_to_num(rewards)
    parts: dict[str, Any] = {k: v.to(device) for k, v in _episodes(trials, width - 1, prompt - 1).items()}
    return Trials(
        inputs={"input_ids": ids[:, :-1]},
        actions=ids[:, 1:],
        logprobs=_logprobs(trials, width - 1, prompt - 1, device),
        cost={name: value.to(device) for name, value in _shares(trials, output["prompt_mask"], spent or {}).items()},
        rewards=reward,
        mask=mask,
        group=torch.arange(rows, device=device) // group_size,
        prover=torch.full((rows,), PROVERS[prover], dtype=torch.int8, device=device),
        scored=~rewards.isnan(),
        fork_episode=torch.tensor([trial.fork for trial in trials], device=device),
        prefix_age=torch.tensor([trial.age for trial in trials], device=device),
        task_keys=tuple(keys),
        **parts,
    )


def _logprobs(trials: Sequence[Trial], steps: int, offset: int, device: torch.device) -> Tensor | None:
    """(B, T) log-probabilities under the distribution sampled from, 0 where nothing was drawn; None if not known."""
    if any(trial.logprobs is None for trial in trials):
        return None
    table = torch.zeros(len(trials), steps)
    for b, trial in enumerate(trials):
        values = trial.logprobs or []
        table[b, offset : offset + len(values)] = torch.tensor(values)
    return table.to(device)


def _shares(trials: Sequence[Trial], prompt_mask: Tensor, spent: Mapping[str, float]) -> dict[str, Tensor]:
    """(B,) of each counter of `spent`: what the batch took, shared among its rows."""
    tokens = prompt_mask.sum(1).cpu().double() + torch.tensor([float(len(trial.completion)) for trial in trials])
    probed = [float(sum(not math.isnan(value) for value in trial.stop_values)) for trial in trials]
    weights = {"sampled": tokens, "probed": torch.tensor(probed, dtype=torch.float64)}
    return {
        name: (weights[name] / weights[name].sum().clamp(min=1.0) * float(total)).float()
        for name, total in spent.items()
    }


def _episodes(trials: Sequence[Trial], steps: int, offset: int) -> dict[str, Tensor]:
    """The fields that know episodes: episode (B, T), stop_values and their errors (B, K+1), stop (B, K), trial_stop
    (B,)."""
    rows = len(trials)
    most = max([len(trial.ends) for trial in trials], default=0)
    episode = torch.full((rows, steps), -1)
    stop_values = torch.full((rows, most + 1), math.nan)
    errors = torch.full((rows, most + 1), math.nan)
    stops = torch.full((rows, most), int(Stop.PADDING), dtype=torch.int8)
    trial_stop = torch.zeros(rows, dtype=torch.int8)
    for b, trial in enumerate(trials):
        first = offset + trial.start
        for e, (begin, end) in enumerate(zip([0, *trial.ends], trial.ends, strict=False)):
            episode[b, first + begin : first + end] = e
            stops[b, e] = Stop.TERMINATED
        stop_values[b, : len(trial.stop_values)] = torch.tensor(trial.stop_values)
        errors[b, : len(trial.errors)] = torch.tensor(trial.errors)
        trial_stop[b] = Stop.FORCED if trial.forced else Stop.TERMINATED if trial.closed else Stop.BUDGET
        if trial.ends and trial_stop[b] != Stop.TERMINATED:
            stops[b, len(trial.ends) - 1] = trial_stop[b]
    return {
        "episode": episode,
        "stop_values": stop_values,
        "stop_value_se": errors,
        "stop": stops,
        "trial_stop": trial_stop,
    }


def completion_weights(weights: Tensor, completion_width: int) -> Tensor:
    """(B, C) the part of step weights (B, T) that belongs to the completion tokens."""
    return weights[:, weights.shape[1] - completion_width :]


def rows_of(trials: Sequence[Trial], rewards: Tensor, inputs: Sequence[Mapping[str, Any]], step: int) -> list[dict]:
    """One JSON-able object a trial, for trials.jsonl."""
    lines = []
    for trial, reward, row in zip(trials, rewards.tolist(), inputs, strict=True):
        lines.append(
            {
                "step": step,
                "key": row.get("key"),
                "reward": None if math.isnan(reward) else reward,
                "tokens": len(trial.completion),
                "ends": trial.ends,
                "closed": trial.closed,
                "forced": trial.forced,
                "fork": trial.fork,
                "prefix_age": trial.age,
                "stop_values": [None if math.isnan(v) else round(v, 6) for v in trial.stop_values],
            }
        )
    return lines
