"""Rows of TRL's batches: chosen, put together, left out of the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from mrt.reasoning.traces.trial import Trial

Batch = Mapping[str, Any]
LEFT = ("prompt_ids", "prompt_mask")  # padded on the left


def taken(output: Batch, rows: Tensor) -> dict[str, Any]:
    """The rows at `rows` (int64 or bool) of a batch; what is no tensor of rows stays as it is."""
    return {name: value[rows] if _has_rows(value) else value for name, value in output.items()}


def joined(parts: Sequence[Batch], pad_id: int) -> dict[str, Any]:
    """One batch of several with the same names, padded to the widest. Advantages (B,) and (B, C) must not be mixed."""
    found: dict[str, Any] = dict(parts[0])
    for name, value in parts[0].items():
        if not _has_rows(value):
            continue
        values = [part[name] for part in parts]
        if value.ndim > 1:
            fill, width = (pad_id if name.endswith("_ids") else 0), max(one.shape[1] for one in values)
            sides = [(width - one.shape[1], 0) if name in LEFT else (0, width - one.shape[1]) for one in values]
            values = [pad(one, side, value=fill) for one, side in zip(values, sides, strict=True)]
        found[name] = torch.cat(values)
    return found


def left_out(output: Batch, kept: Tensor, gather: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """The batch with nothing to learn in the rows that are not `kept` (B,) bool: neither in the sum of the loss nor in
    what it is divided by.
    """
    found = dict(output)
    for name in ("completion_mask", "tool_mask"):
        if name in found:
            found[name] = found[name] * kept[:, None].to(found[name])
    advantages = found["advantages"]
    found["advantages"] = advantages * (kept if advantages.ndim == 1 else kept[:, None]).to(advantages)
    mask = found["completion_mask"] * found.get("tool_mask", 1)
    found["num_items_in_batch"] = gather(mask.sum()).sum()
    return found


def drawn_logprobs(trials: Sequence[Trial], completion_ids: Tensor) -> Tensor:
    """(B, C) log-probabilities with which the tokens were drawn, 0 for given tokens and padding."""
    table = torch.zeros(completion_ids.shape, device=completion_ids.device)
    for row, trial in zip(table, trials, strict=True):
        row[: len(trial.logprobs or ())] = torch.tensor(trial.logprobs or [])
    return table


def varying(rewards: Tensor, size: int) -> Tensor:
    """(B,) bool: rows of groups whose scorable rewards (B,) are not all the same."""
    groups = rewards.reshape(-1, size)
    high = groups.nan_to_num(nan=-torch.inf).amax(1)
    low = groups.nan_to_num(nan=torch.inf).amin(1)
    return (high - low > 1e-6).repeat_interleave(size)


def _has_rows(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0
