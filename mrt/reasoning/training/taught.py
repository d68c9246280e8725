"""Forced answers that are trained on: what a probe drew pays twice.

An answer becomes a row of its own behind the prompt and the thought up to its boundary. Only the answer's own tokens
are trained on, never the thought before it nor the forced close. Its baseline is the mean reward of the other answers
at the same boundary (leave one out): no number of another group enters. With probe='reference' the answer is the
reference, and its weight is 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mrt.errors import ConfigError
from mrt.reasoning.probes.base import Drawn
from mrt.reasoning.traces.trial import Trial

TAUGHT = ("coupled", "sampled", "pooled", "reference")
LOSSES = ("dapo", "cispo", "vespo")
"""Losses that divide by the tokens of the batch: rows that are added leave the weight of the others as it was."""
UNKNOWN = ("old_per_token_logps", "ref_per_token_logps", "importance_sampling_ratio", "sampling_per_token_logps")


def check_taught(args: Any) -> None:
    """Raises ConfigError where forced answers cannot be trained on."""
    if not 0 <= args.train_probes <= 1:
        raise ConfigError(f"train_probes={args.train_probes} is a share of the traces, between 0 and 1")
    if not args.train_probes:
        return
    if args.probe not in TAUGHT or args.rollout != "probed":
        raise ConfigError(f"train_probes needs rollout='probed' and a probe that gives answers: {', '.join(TAUGHT)}")
    if args.loss_type not in LOSSES:
        raise ConfigError(f"train_probes adds rows to the batch, for which loss_type must be one of {list(LOSSES)}")
    if args.use_vllm or args.beta or args.num_iterations > 1:
        raise ConfigError("train_probes knows no old log-probabilities: use_vllm=false, beta=0, num_iterations=1")


def with_answers(
    output: Mapping[str, Any], trials: Sequence[Trial], share: float, parts: int, pad: int
) -> dict[str, Any]:
    """TRL's batch (B rows) with `share` B forced answers as further rows, a multiple of `parts`.

    Answers are taken at random from those whose advantage is not 0, one a trace; too few are made up by rows without a
    trained token, so that every process has as many rows.

    Raises:
        ConfigError: where TRL's batch holds log-probabilities that the new rows do not have.
    """
    found = dict(output)
    if any(found.get(name) is not None for name in UNKNOWN):
        raise ConfigError(
            "train_probes needs a batch that is used once: num_iterations=1 and gradient accumulation over all of it"
        )
    rows = len(trials)
    count = round(share * rows / parts) * parts
    chosen: list[tuple[int, Drawn]] = []
    for i in torch.randperm(rows).tolist():
        telling = [one for one in trials[i].drawn if one.advantage]
        if telling and len(chosen) < count:
            chosen.append((i, telling[int(torch.randint(len(telling), ()))]))
    empty = Drawn((pad,), 1, 0.0)
    chosen += [(0, empty)] * (count - len(chosen))
    ids, mask = found["completion_ids"], found["completion_mask"]
    width = max([ids.shape[1], *(len(one.completion) for _, one in chosen)])
    new = {name: ids.new_zeros(count, width) for name in ("completion_ids", "completion_mask", "tool_mask")}
    new["completion_ids"] += pad
    weights = torch.zeros(count, width, device=ids.device)
    for row, (_, one) in enumerate(chosen):
        length = len(one.completion)
        new["completion_ids"][row, :length] = torch.tensor(one.completion, device=ids.device)
        new["completion_mask"][row, :length] = 1
        new["tool_mask"][row, one.start : length] = 1
        weights[row, one.start : length] = one.advantage
    old = {"completion_ids": ids, "completion_mask": mask, "tool_mask": found.get("tool_mask", torch.ones_like(mask))}
    for name, value in old.items():
        found[name] = torch.cat(
            [_wide(value, width, pad if name == "completion_ids" else 0), new[name].to(value.dtype)]
        )
    advantages = found["advantages"]
    if advantages.ndim == 1:
        advantages = advantages[:, None].expand_as(ids)
    found["advantages"] = torch.cat([_wide(advantages, width, 0), weights.to(advantages.dtype)])
    owners = torch.tensor([i for i, _ in chosen], device=ids.device, dtype=torch.long)
    for name in ("prompt_ids", "prompt_mask"):
        found[name] = torch.cat([found[name], found[name][owners]])
    return found


def _wide(values: Tensor, width: int, fill: float) -> Tensor:
    return torch.nn.functional.pad(values, (0, width - values.shape[1]), value=fill)
