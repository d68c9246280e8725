"""Task distributions whose environment differs between training and test: dense rewards to learn from, sparse ones to
be judged by (MAESN, PEARL). The tasks are the same; what differs is declared with them:

    tasks: {name: sparse-semicircle, reward: dense, test: {reward: sparse}}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch

from mrt.control.envs import EnvTasks, TensorEnv, make_env, make_tasks
from mrt.errors import ConfigError

T = TypeVar("T", bound="PairedTasks")


@dataclass(frozen=True)
class PairedTasks(EnvTasks):
    """p(M), and the environment that it is judged in; without `test_env` the same one."""

    test_env: TensorEnv | None = None

    @property
    def test(self) -> EnvTasks:
        """The tasks as they are met at test."""
        return EnvTasks(self.test_env or self.env, self.split)

    def to(self: T, device: str | torch.device) -> T:
        """The same tasks, both environments on `device`."""
        test = self.test_env and self.test_env.to(device)
        return super().to(device) if test is self.test_env else replace(super().to(device), test_env=test)


def paired_tasks(
    name: str = "", test: Mapping[str, Any] | None = None, split: str | None = None, **options: Any
) -> Any:
    """p(M) of the environment `name`; `test` holds the options that differ at test.

    Raises:
        ConfigError: as `make_tasks`, and for a `test` that is not a mapping.
    """
    if test is not None and not isinstance(test, Mapping):
        raise ConfigError(
            f"tasks.test={test!r} must hold the options that differ at test, as in test: {{reward: sparse}}"
        )
    tasks = make_tasks(name, split, **options)
    return PairedTasks(tasks.env, split, make_env(name, **{**options, **test}) if test else None)
