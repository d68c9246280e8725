"""Rooms of cells with something hidden in them: GridNavi, Dark Room, Key-to-Door.

The rooms are dark: a policy sees where it stands, never what it looks for. A position is the number of a cell,
x * size + y, so that a step is one look into a table, whatever the room looks like.

`FiniteEnv` is for environments whose states and tasks can be listed; `mrt.control.oracles.grids` computes their exact
values from `move` itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from mrt.control.envs.base import Spec, TensorEnv
from mrt.errors import ConfigError

Encoding = Literal["xy", "one_hot"]
Start = Literal["corner", "centre", "random", "task"]
Pays = Literal["every", "once", "ends"]
MOVES = ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0))  # stay, up, right, down, left, as VariBAD numbers them


def pick(u: Tensor, n: int) -> Tensor:
    """The numbers u in [0, 1), any shape, as int64 in 0..n-1. In float64: float32 would round u * n up to n."""
    return (u.double() * n).long()


def midpoints(counts: Sequence[int]) -> Tensor:
    """(product of counts, len(counts)) uniform numbers: one row for each combination of `pick(u[:, i], counts[i])`."""
    axes = [(torch.arange(n) + 0.5) / n for n in counts]
    return torch.cartesian_prod(*axes).reshape(-1, len(counts)) if axes else torch.zeros(1, 0)


class FiniteEnv(TensorEnv):
    """An environment without noise whose state is a few whole numbers: `ranges` {name: n}, each in 0..n-1.

    Every combination of `task_choices` (one count a task draw) is an equally likely task; () where they are too many
    to list. `start_choices` is the same for the start of an episode. `timed`: rewards depend on the clock.
    """

    ranges: dict[str, int]
    task_choices: tuple[int, ...] = ()
    start_choices: tuple[int, ...] = ()
    timed = False

    def all_tasks(self) -> dict[str, Tensor]:
        """Every task once, {name: (number of tasks, ...)}, on the environment's device."""
        if not self.task_choices:
            raise ConfigError(f"the tasks of {self.name} are too many to list; draw some with EnvTasks(env).batch(...)")
        drawn = self.task_params(midpoints(self.task_choices))
        return {name: value.to(self.device) for name, value in drawn.items()}


class Room(FiniteEnv):
    """A square room, five actions: stay, up (y + 1), right (x + 1), down, left; a wall stops a move.

    Args:
        encoding: "xy" shows (x, y), each scaled to [-1, 1]; "one_hot" shows the cell, (size * size,).
        start: "corner" (0, 0) | "centre" | "random", drawn in each episode | "task", drawn with the task.
    """

    def __init__(self, spec: Spec, size: int, encoding: Encoding, start: Start, device: str | torch.device) -> None:
        super().__init__(spec, device)
        self.size, self.start, self.cells = size, start, size * size
        self.ranges = {"cell": self.cells}
        self.start_draws = int(start == "random")
        self.start_choices = (self.cells,) * self.start_draws
        cell = torch.arange(self.cells, device=self.device)
        self.xy = torch.stack([cell // size, cell % size], dim=1)
        moves = torch.tensor(MOVES, device=self.device)
        ends = (self.xy[:, None] + moves).clamp(0, size - 1)
        self.ends = (ends[..., 0] * size + ends[..., 1]).flatten()
        one_hot = torch.eye(self.cells, device=self.device)
        self.views = one_hot if encoding == "one_hot" else 2 * self.xy.float() / (size - 1) - 1

    def begin_episode(self, u: Tensor) -> dict[str, Tensor]:
        if self.start == "random":
            return {"cell": pick(u[:, 0], self.cells)}
        if self.start == "task":
            return {"cell": self.params["start"].clone()}
        middle = self.size // 2
        cell = 0 if self.start == "corner" else middle * self.size + middle
        return {"cell": torch.full((len(u),), cell, device=self.device)}

    def observe(self) -> Tensor:
        return self.views.index_select(0, self.state["cell"])  # copies whole rows; `views[cell]` goes number by number

    def walk(self, actions: Tensor) -> Tensor:
        """(B,) the cells that the actions (B,) lead to."""
        return self.ends[self.state["cell"] * len(MOVES) + actions]


def room_spec(size: int, encoding: Encoding, steps: int, episodes: int, more: int = 0) -> Spec:
    """Of a room: a policy sees its cell, and `more` numbers."""
    width = size * size if encoding == "one_hot" else 2
    return Spec(observation=width + more, episode_steps=steps, episodes=episodes, actions=len(MOVES))


class GridNavi(Room):
    """VariBAD's gridworld (Zintgraf 2020, arXiv 1910.08348; numbers as in its code): 5x5, start in a corner.

    +1 for every step that ends on the goal, -0.1 for any other; the goal is in one of the 21 cells outside the 2x2
    corner of the start. Nothing ends an episode but its 15 steps. Here x and y are scaled; the released code shows
    them raw.
    """

    name = "grid-navi"

    def __init__(
        self,
        size: int = 5,
        steps: int = 15,
        episodes: int = 4,
        encoding: Encoding = "xy",
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__(room_spec(size, encoding, steps, episodes), size, encoding, "corner", device)
        self.goals = [x * size + y for x in range(size) for y in range(size) if max(x, y) > 1]
        self.task_choices = (len(self.goals),)

    def task_params(self, u: Tensor) -> dict[str, Tensor]:
        return {"goal": torch.tensor(self.goals, device=u.device)[pick(u[:, 0], len(self.goals))]}

    def move(self, actions: Tensor, u: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        cell = self.walk(actions)
        there = cell == self.params["goal"]
        return {"cell": cell}, torch.where(there, 1.0, -0.1), torch.zeros_like(there)


class DarkRoom(Room):
    """Find an unseen goal in an empty room; the goal is any cell, that of the start included.

    Args:
        pays: what the goal pays. "every": 1 for each step that ends on it. "once": 1 for the first such step of an
            episode, which goes on. "ends": 1, and the episode ends.

    `named` builds what the papers play.
    """

    name = "dark-room"

    def __init__(
        self,
        size: int = 9,
        steps: int = 20,
        episodes: int = 4,
        *,
        start: Start = "centre",
        pays: Pays = "every",
        encoding: Encoding = "one_hot",
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__(room_spec(size, encoding, steps, episodes), size, encoding, start, device)
        self.pays = pays
        self.task_choices = (self.cells,) * (1 + (start == "task"))
        self.task_draws = len(self.task_choices)
        if pays == "once":
            self.ranges = {**self.ranges, "found": 2}

    @classmethod
    def named(
        cls, convention: Literal["ad", "ad_hard", "dpt"], episodes: int = 4, device: str | torch.device = "cpu"
    ) -> DarkRoom:
        """The room of a paper.

        "ad": Algorithm Distillation (Laskin 2022, arXiv 2210.14215), 9x9, 20 steps from the centre, paid every step.
        "ad_hard": its hard version, 17x17, paid once (20 steps here too, which is a guess). "dpt":
        Decision-Pretrained Transformer (Lee 2023, arXiv 2306.14892), 10x10, 100 steps from (0, 0), paid every step.
        """
        if convention == "dpt":
            return cls(10, 100, episodes, start="corner", pays="every", device=device)
        if convention == "ad_hard":
            return cls(17, 20, episodes, pays="once", device=device)
        return cls(9, 20, episodes, device=device)

    def task_params(self, u: Tensor) -> dict[str, Tensor]:
        names = ("goal", "start")[: self.task_draws]
        return {name: pick(u[:, i], self.cells) for i, name in enumerate(names)}

    def begin_episode(self, u: Tensor) -> dict[str, Tensor]:
        begun = super().begin_episode(u)
        return {**begun, "found": torch.zeros_like(begun["cell"])} if self.pays == "once" else begun

    def move(self, actions: Tensor, u: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        cell = self.walk(actions)
        there = cell == self.params["goal"]
        if self.pays == "once":
            found = self.state["found"]
            first = there & (found == 0)
            return {"cell": cell, "found": found | there}, first.float(), torch.zeros_like(there)
        return {"cell": cell}, there.float(), there if self.pays == "ends" else torch.zeros_like(there)


class KeyToDoor(Room):
    """Find an unseen key, then an unseen door: 1 for the key, once, and 1 for the door, which pays only with the key.

    Key and door lie in any two cells, possibly the same one; then the door needs one more step there.

    Args:
        pays: what the door pays: "once" | "ends" (1, and the episode ends) | "every" step on it, as in `DarkRoom`.
        aware: shows, beside the cell, whether the key is held and the share of the episode's steps that is over.

    `named` builds what the papers play.
    """

    name = "key-to-door"

    def __init__(
        self,
        size: int = 9,
        steps: int = 50,
        episodes: int = 4,
        *,
        start: Start = "centre",
        pays: Pays = "once",
        aware: bool = False,
        encoding: Encoding = "one_hot",
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__(room_spec(size, encoding, steps, episodes, 2 * aware), size, encoding, start, device)
        self.pays, self.aware = pays, aware
        self.task_choices = (self.cells,) * (2 + (start == "task"))
        self.task_draws = len(self.task_choices)
        self.ranges = {**self.ranges, "stage": 3}  # 0 without the key, 1 with it, 2 the door was opened

    @classmethod
    def named(
        cls, convention: Literal["ad", "amago"], episodes: int = 4, device: str | torch.device = "cpu"
    ) -> KeyToDoor:
        """The task of a paper, 9x9 and 50 steps in both.

        "ad": Algorithm Distillation (Laskin 2022): from the centre, the cell is all that is seen, key and door pay
        once each and the episode goes on. "amago": AMAGO's `RoomKeyDoor` (Grigsby 2024, arXiv 2310.09971): the start
        belongs to the task, the key held and the clock are seen, the door ends the episode. Both pay at most 2.
        """
        if convention == "amago":
            return cls(episodes=episodes, start="task", pays="ends", aware=True, encoding="xy", device=device)
        return cls(episodes=episodes, device=device)

    def task_params(self, u: Tensor) -> dict[str, Tensor]:
        names = ("key", "door", "start")[: self.task_draws]
        return {name: pick(u[:, i], self.cells) for i, name in enumerate(names)}

    def begin_episode(self, u: Tensor) -> dict[str, Tensor]:
        begun = super().begin_episode(u)
        return {**begun, "stage": torch.zeros_like(begun["cell"])}

    def move(self, actions: Tensor, u: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        cell, stage = self.walk(actions), self.state["stage"]
        took = (stage == 0) & (cell == self.params["key"])
        at_door = (stage > 0) & (cell == self.params["door"])
        opened = at_door & (stage == 1)
        paid = took | (at_door if self.pays == "every" else opened)
        over = opened if self.pays == "ends" else torch.zeros_like(opened)
        return {"cell": cell, "stage": stage + took + opened}, paid.float(), over

    def observe(self) -> Tensor:
        seen = super().observe()
        if not self.aware:
            return seen
        late = self.clock / self.spec.episode_steps
        return torch.cat([seen, torch.stack([(self.state["stage"] > 0).float(), late], dim=1)], dim=1)
