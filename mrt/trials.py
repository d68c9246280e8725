"""The record: a batch of trials, tokens and actions alike. Read this first.

A **trial** is everything that an agent does on one task while its memory lasts: a sequence of **episodes**. A reasoning
trace is a trial (its episodes: the successive attempts at one problem); so is a bandit that is played for a hundred
pulls.

Letters used in every shape of the project: B rows (trials), T steps (tokens or environment steps), K episodes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import torch
from torch import Tensor

PROVERS = {"none": 0, "forced": 1, "continue": 2}
"""Who answered when a stop value was measured: `forced` must answer now (MRT's mu), `continue` goes on (V under the
policy).
"""


class Stop(IntEnum):
    """Why an episode, or a whole trial, ended. Stop is data, never inferred from a length."""

    PADDING = -1
    TERMINATED = 0  # it ended by itself
    TRUNCATED = 1  # the environment's time limit
    BUDGET = 2  # the trial's budget ran out
    FORCED = 3  # it was made to answer


DEFAULTS: dict[str, tuple[int, torch.dtype]] = {
    "scored": (1, torch.bool),
    "prover": (0, torch.int8),
    "trial_stop": (0, torch.int8),
    "parent": (-1, torch.long),
    "fork_episode": (-1, torch.long),
    "prefix_age": (0, torch.long),
}
"""What a field (B,) of a batch is filled with where it is not given."""


@dataclass(frozen=True)
class Trials:
    """B trials, padded to T steps and K episodes.

    Step t: the policy has seen `inputs[:, :t+1]`, takes `actions[:, t]`, receives `rewards[:, t]`. For tokens
    `inputs["input_ids"][:, t]` is ids[t] and `actions[:, t]` is ids[t+1]; prompt and given prefix are steps with mask
    False. For control every episode ends with one closing row (the observation after its last action, mask False).

    `mask` says "chosen now by the policy"; what a step weighs is the credit's business alone.

    Raises:
        ValueError: at construction, naming the field whose shape disagrees with `actions`.
    """

    actions: Tensor  # (B, T[, A])
    rewards: Tensor  # (B, T) float
    mask: Tensor  # (B, T) bool
    episode: Tensor  # (B, T) int64, -1 outside any episode
    group: Tensor  # (B,) int64: rows of one id start from one point
    task: Tensor = None  # type: ignore[assignment]  # (B,) int64: the task's number in the run; its group where not given
    inputs: Mapping[str, Tensor] = field(default_factory=dict)  # {name: (B, T, ...)}
    logprobs: Tensor | None = None  # (B, T) of the distribution sampled from (temperature, top-p, top-k applied)
    values: Tensor | None = None  # (B, T), NaN where there is none
    stop_values: Tensor | None = None  # (B, K+1): J_0..J_K, NaN where not measured
    stop_value_se: Tensor | None = None  # (B, K+1) standard errors
    prover: Tensor = None  # type: ignore[assignment]  # (B,) int8, see PROVERS
    stop: Tensor | None = None  # (B, K) int8, see Stop
    trial_stop: Tensor = None  # type: ignore[assignment]  # (B,) int8
    scored: Tensor = None  # type: ignore[assignment]  # (B,) bool: unscorable rows stay out of group statistics
    parent: Tensor = None  # type: ignore[assignment]  # (B,) int64: whose branch a row is, -1 for a root
    fork_episode: Tensor = None  # type: ignore[assignment]  # (B,) int64: how many episodes of the parent a branch was given, -1 for a root
    prefix_age: Tensor = None  # type: ignore[assignment]  # (B,) int64: optimiser steps since the given prefix was sampled
    cost: Mapping[str, Tensor] = field(default_factory=dict)  # sampled, probed, env_steps, probe_steps: (B,)
    privileged: Mapping[str, Tensor] = field(
        default_factory=dict
    )  # facts of the environment and of oracles, never shown to a policy
    task_keys: tuple[str, ...] = ()  # the one field that is no tensor

    def __post_init__(self) -> None:
        rows, steps = self.actions.shape[:2]
        episodes = int(self.episode.max()) + 1 if self.episode.numel() else 0
        for name, (default, kind) in DEFAULTS.items():
            if getattr(self, name) is None:
                filled = torch.full((rows,), default, dtype=kind, device=self.actions.device)
                object.__setattr__(self, name, filled)
        if self.task is None:
            object.__setattr__(self, "task", self.group)
        for name in ("rewards", "mask", "episode", "logprobs", "values"):
            _check(name, getattr(self, name), (rows, steps))
        for name in ("group", "task", *DEFAULTS):
            _check(name, getattr(self, name), (rows,))
        for fields in (self.inputs, self.privileged, self.cost):
            for name, value in fields.items():
                _check(name, value[:, 0] if value.ndim > 1 else value, (rows, *value.shape[2:]))
        if self.stop_values is not None:
            _check("stop_values", self.stop_values, (rows, max(self.stop_values.shape[1], episodes + 1)))
            _check("stop_value_se", self.stop_value_se, tuple(self.stop_values.shape))
        if self.stop is not None:
            _check("stop", self.stop, (rows, max(self.stop.shape[1], episodes)))
        if self.task_keys and len(self.task_keys) != rows:
            raise ValueError(f"task_keys has {len(self.task_keys)} entries for {rows} rows")
        if self.mask.dtype is not torch.bool:
            raise ValueError(f"mask must be bool, got {self.mask.dtype}")

    def __len__(self) -> int:
        return self.actions.shape[0]

    @property
    def episodes(self) -> Tensor:
        """(B,) number of episodes K of each row."""
        return self.episode.amax(1) + 1 if self.episode.shape[1] else torch.zeros_like(self.group)

    @property
    def returns(self) -> Tensor:
        """(B,) undiscounted sum of the rewards of each trial; NaN for an unscorable row."""
        total = self.rewards.sum(1)
        return torch.where(self.scored, total, torch.full_like(total, torch.nan))

    def rows(self, index: Tensor | slice | Sequence[int]) -> Trials:
        """The rows at `index` (int64 or bool, as for tensors), every field alike."""
        index = torch.as_tensor(index) if not isinstance(index, slice) else index
        positions = torch.arange(len(self))[index.cpu() if isinstance(index, Tensor) else index].tolist()
        keys = tuple(self.task_keys[i] for i in positions) if self.task_keys else ()
        return self._map(lambda value: value[index], task_keys=keys)

    def to(self, device: torch.device | str) -> Trials:
        """The same trials on `device`."""
        return self._map(lambda value: value.to(device))

    def by_task(self) -> dict[str, Tensor]:
        """Every tensor field as (M, n, ...): M groups in order of first appearance, n rows each.

        For K-shot learners, where a row is an episode and a group is a task.

        Raises:
            ValueError: when the groups have different sizes; the message lists them.
        """
        ids: list[int] = []
        first: dict[int, list[int]] = {}
        for position, group in enumerate(self.group.tolist()):
            first.setdefault(group, []).append(position)
        sizes = sorted({len(members) for members in first.values()})
        if len(sizes) > 1:
            raise ValueError(f"by_task needs groups of one size, got sizes {sizes}")
        for members in first.values():
            ids += members
        order = torch.tensor(ids)
        shape = (len(first), sizes[0] if sizes else 0)
        return {name: value[order].reshape(*shape, *value.shape[1:]) for name, value in self._tensors()}

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        for entry in dataclasses.fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, Tensor):
                yield entry.name, value
            elif isinstance(value, Mapping):
                yield from ((f"{entry.name}/{name}", inner) for name, inner in value.items())

    def _map(self, function, **changed) -> Trials:  # type: ignore[no-untyped-def]
        new = {}
        for entry in dataclasses.fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, Tensor):
                new[entry.name] = function(value)
            elif isinstance(value, Mapping):
                new[entry.name] = {name: function(inner) for name, inner in value.items()}
        return dataclasses.replace(self, **{**new, **changed})


def concatenate(parts: Sequence[Trials]) -> Trials:
    """One batch from several: T and K are padded to the longest, groups stay as they are numbered.

    Raises:
        ValueError: when the parts do not hold the same fields.
    """
    names = [dict(part._tensors()).keys() for part in parts]
    if any(set(other) != set(names[0]) for other in names[1:]):
        raise ValueError(f"parts hold different fields: {[sorted(set(n) ^ set(names[0])) for n in names]}")
    padding = {"episode": -1, "stop": -1, "values": torch.nan, "stop_values": torch.nan, "stop_value_se": torch.nan}
    new: dict = {"task_keys": tuple(key for part in parts for key in part.task_keys)}
    for name in names[0]:
        tensors = [dict(part._tensors())[name] for part in parts]
        width = max(t.shape[1] for t in tensors) if tensors[0].ndim > 1 else None
        if width is not None:
            tensors = [_pad(t, width, padding.get(name, 0)) for t in tensors]
        outer, _, inner = name.partition("/")
        if inner:
            new.setdefault(outer, {})[inner] = torch.cat(tensors)
        else:
            new[outer] = torch.cat(tensors)
    return Trials(**new)


def _pad(value: Tensor, width: int, fill: float) -> Tensor:
    missing = width - value.shape[1]
    return (
        torch.cat([value, value.new_full((value.shape[0], missing, *value.shape[2:]), fill)], 1) if missing else value
    )


def _check(name: str, value: Tensor | None, shape: tuple[int, ...]) -> None:
    if value is not None and tuple(value.shape) != shape:
        raise ValueError(f"{name} has shape {tuple(value.shape)}, expected {shape}")
