"""What POET's population is made of: niches, a task with its agent each, and the rules by which they come and go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from mrt.errors import ConfigError

Task = dict[str, Tensor]
"""Parameters of one task, {name: (1, ...)}."""
Theta = list[Tensor]
Fitness = Callable[[Theta, Task, int], Tensor]
"""(agents, each tensor (P, ...); a task; a seed) -> (P,) scores."""
Mutate = Callable[[Task, int], Task]
"""(a task, a seed) -> a small change of it."""


@dataclass(frozen=True)
class POETRules:
    """How niches are made, filled and emptied.

    Args:
        reproduce_every, transfer_every: iterations.
        good_enough: score of an agent on its task from which on the task has children.
        lowest, highest: minimal criterion for a child, of the best agent there is.
        children: that are tried in a round. admitted: of them at most.
        capacity: niches at most.
        nearest: tasks that novelty is the mean distance to.
        rate: step of evolution strategies.

    Raises:
        ConfigError: for counts below 1, and an empty minimal criterion.
    """

    reproduce_every: int = 10
    transfer_every: int = 10
    good_enough: float = 0.8
    lowest: float = 0.2
    highest: float = 0.9
    children: int = 16
    admitted: int = 2
    capacity: int = 8
    nearest: int = 5
    rate: float = 0.3

    def __post_init__(self) -> None:
        counts = ("reproduce_every", "transfer_every", "children", "admitted", "capacity", "nearest")
        for name in counts:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1")
        if not self.lowest < self.highest:
            raise ConfigError(f"minimal criterion: lowest={self.lowest} must be below highest={self.highest}")


@dataclass
class Niche:
    """A task with its agent, the agent's score there, and where both come from."""

    task: Task
    theta: Theta
    score: float
    number: int = 0
    parent: int = -1
    born: int = 0
    admitted_at: float = float("nan")
    replaced: list[tuple[int, int, float, float]] = field(default_factory=list)
    """(iteration, number of the niche that the new agent came from, score before, after) of each transfer."""
