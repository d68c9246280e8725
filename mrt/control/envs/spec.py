"""What environments and policies agree on: the shape of an environment, and what a step of it returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


@dataclass(frozen=True)
class Spec:
    """What a policy has to know of an environment, and how long a trial is.

    `actions` counts discrete actions; 0 means `action_size` continuous ones in [-1, 1]. `free_episodes` is K: the
    first K episodes explore for free, their rewards are not part of what is maximised.
    """

    observation: int
    episode_steps: int
    episodes: int
    actions: int = 0
    action_size: int = 0
    free_episodes: int = 0

    @property
    def trial_steps(self) -> int:
        """Most environment steps in a trial, without the closing rows."""
        return self.episode_steps * self.episodes


class Step(NamedTuple):
    """What `step` returns, each (B, ...). `fresh` rows have just begun an episode: their action was ignored.

    `terminated`: the environment ended the episode; `truncated`: by the time limit; `trial_over`: it was the last one.
    """

    observation: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    fresh: Tensor
    trial_over: Tensor
