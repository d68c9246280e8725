"""Goal-conditioned learning, the special case of multi-task learning in which the task is a goal state that is told,
with hindsight experience replay (Andrychowicz et al. 2017, arXiv 1707.01495).

    pi(a | s, g)          r(s, a, g) = 0 where the step ends within a radius of g, else -1

Of every sample that an update learns from, the share k / (k + 1) is relabelled: its goal becomes a state that was
reached later in the same episode (the paper's strategy "future"), or at its end ("final"), and its reward is what the
step would have earned for that goal. So trials that missed their goal teach how to get where they went.

A policy that is told its goal generalises to new goals without adaptation (zero-shot), where meta-RL adapts to a task
that it is not told (k-shot).

Deviations: SAC instead of DDPG. The k goals of a step are drawn once, when its trial is stored, and each sample takes
one of them. An episode is of fixed length and none ends at its goal.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mrt.control.envs import EnvTasks
from mrt.control.off_policy import SACConfig, SACTrainer
from mrt.errors import ConfigError
from mrt.trials import Trials

LATER = "later"  # what the replay keeps of every step: the goals that it may be relabelled with
STRATEGIES = ("future", "final")


@dataclass
class HERConfig(SACConfig):
    """Arguments of a `HERTrainer`."""

    relabelled: int = field(default=4, metadata={"help": "k: goals from hindsight for every real one; 0: none"})
    strategy: str = field(default="future", metadata={"help": "future | final: which later state is the goal"})

    def __post_init__(self) -> None:
        if self.relabelled < 0:
            raise ConfigError(f"relabelled={self.relabelled} must be at least 0")
        if self.strategy not in STRATEGIES:
            raise ConfigError(f"strategy={self.strategy!r} must be one of {', '.join(STRATEGIES)}")
        super().__post_init__()


class HERTrainer(SACTrainer):
    """SAC on transitions whose goals are partly from hindsight.

    Raises:
        ConfigError: for an environment that does not show a goal in the space of its observation (`point-robot` with
            `show_goal: true` and a `radius` does).
    """

    args: HERConfig
    told = (LATER,)

    def __init__(self, model: Any, args: HERConfig, tasks: EnvTasks, **kwargs: Any) -> None:
        env = tasks.env
        if not (hasattr(env, "paid") and getattr(env, "show_goal", False)):
            raise ConfigError(
                f"'{env.name}' does not show its goal: hindsight needs one that it can replace (tasks: {{name: "
                "point-robot, show_goal: true, radius: 0.1})"
            )
        super().__init__(model, args, tasks, **kwargs)
        self.width = env.spec.observation // 2  # numbers of a state, and of a goal

    @classmethod
    def args_class(cls) -> type:
        return HERConfig

    def stored(self, trials: Trials) -> Trials:
        """With k goals (B, T, k, G) of every step, states that its episode reached after it."""
        reached = trials.inputs["observation"][..., : self.width]
        chosen = later_steps(trials.episode, max(1, self.args.relabelled), final=self.args.strategy == "final")
        rows = torch.arange(len(reached), device=reached.device)[:, None, None]
        facts = {**trials.privileged, LATER: reached[rows, chosen]}
        return super().stored(dataclasses.replace(trials, privileged=facts))

    def sample(self) -> dict[str, Tensor]:
        batch = super().sample()
        later, count = batch.pop(LATER), len(batch["reward"])
        if not self.args.relabelled:
            return batch
        k = self.args.relabelled
        pick = torch.randint(k + 1, (count,), device=later.device)  # k: the goal stays
        goal = later[torch.arange(count, device=later.device), pick.clamp(max=k - 1)]
        return relabel(batch, goal, pick < k, self.tasks.env)


def later_steps(episode: Tensor, k: int, final: bool = False) -> Tensor:
    """(B, T, k) of every step k later steps of its episode, drawn uniformly up to the closing row, or that row itself.

    Args:
        episode: (B, T), -1 outside any. The last step of an episode, and what is outside, is given itself.
    """
    rows, steps = episode.shape
    place = torch.arange(steps, device=episode.device).expand(rows, -1)
    here = episode[:, :, None] == episode[:, None, :]  # (B, T, T)
    last = torch.where(here, place[:, None, :], -1).amax(2)
    if final:
        return last[:, :, None].expand(-1, -1, k)
    room = (last - place)[:, :, None]
    drawn = (torch.rand(rows, steps, k, device=episode.device) * room).long() + 1
    return place[:, :, None] + torch.where(room > 0, drawn.minimum(room), 0)


def relabel(batch: dict[str, Tensor], goal: Tensor, which: Tensor, env: Any) -> dict[str, Tensor]:
    """The transitions with other goals (N, G) where `which` (N,) says so, and what they earn then.

    Args:
        batch: as from `Replay.steps`; observations (N, 2 G) are a state and its goal.
        env: `paid(states, goals)` gives the rewards.
    """
    width, new = goal.shape[1], dict(batch)
    for name in ("observation", "next_observation"):
        state, told = batch[name][:, :width], batch[name][:, width:]
        new[name] = torch.cat([state, torch.where(which[:, None], goal, told)], 1)
    earned = env.paid(new["next_observation"][:, :width], goal)
    new["reward"] = torch.where(which, earned, batch["reward"])
    return new
