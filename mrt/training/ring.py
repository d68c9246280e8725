"""A ring of flat steps: rows of different lengths one after the other; the oldest go, whole, when it is full.

Every row belongs to a task. Some of its steps are transitions (acted, and followed by another step of the row); the
ring counts them, so that the k-th of all, or of one task, is found without a search through the steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum

import torch
from torch import Tensor

from mrt.trials import Stop

OWN = ("terminated", "nth")  # fields that follow from the others
DTYPES = {"episode": torch.int32, "stop": torch.int8, "nth": torch.int32}


class Column(IntEnum):
    """Columns of the table of rows: `before` counts the transitions of all earlier rows, `count` those of this one."""

    START = 0  # in steps since the first that was ever added
    LENGTH = 1
    BEFORE = 2
    COUNT = 3
    TASK = 4
    TRIAL_STOP = 5
    SCORED = 6


NUMBER, TASK_BEFORE = 0, 1  # columns of a task's table: the number of a row, transitions of the task before it


class Table:
    """Columns of int64 that grow at their end and shrink at their front; `live` is (columns, N)."""

    def __init__(self, columns: int) -> None:
        self._data = torch.zeros(columns, 16, dtype=torch.long)
        self._low = self._high = 0

    def __len__(self) -> int:
        return self._high - self._low

    @property
    def live(self) -> Tensor:
        return self._data[:, self._low : self._high]

    def append(self, new: Tensor) -> None:
        """new: (columns, N)."""
        if self._high + new.shape[1] > self._data.shape[1]:
            live = self.live
            self._data = live.new_zeros(len(live), 2 * (live.shape[1] + new.shape[1]))
            self._data[:, : live.shape[1]] = live
            self._low, self._high = 0, live.shape[1]
        self._data[:, self._high : self._high + new.shape[1]] = new
        self._high += new.shape[1]

    def drop(self, count: int) -> None:
        """Drops the first `count`."""
        self._low += count


class Ring:
    """Room for `capacity` steps on `device`; the tables lie on the CPU.

    `first` is the number of the oldest row, counted from the first that was ever added.
    """

    def __init__(self, capacity: int, device: torch.device, first: int = 0) -> None:
        self.capacity, self.device, self.first = capacity, device, first
        self.fields: dict[str, Tensor] = {}  # {name: (capacity, ...)}, from the first `append` on
        self.table = Table(len(Column))
        self.by_task: dict[int, Table] = {}
        self._head = 0  # steps that were ever added

    @property
    def nbytes(self) -> int:
        """Bytes of the steps, those that are still empty included."""
        return sum(value.nbytes for value in self.fields.values())

    def append(self, flat: Mapping[str, Tensor], facts: Tensor) -> None:
        """Adds steps {field: (N, ...)} of rows with `facts` (4, R): length, task, trial_stop, scored. They have to fit.

        Raises:
            ValueError: for other fields or shapes than those of the first steps.
        """
        length, total = facts[0], int(facts[0].sum())
        if not total:
            return
        begin, number = length.cumsum(0) - length, torch.repeat_interleave(torch.arange(len(length)), length)
        begin_here, number = begin.to(self.device), number.to(self.device)
        terminated, transition = _ends(flat, number)
        index = transition.nonzero()[:, 0]
        owner = number[index]
        count = torch.bincount(owner, minlength=len(length)).cpu()
        # nth[start of a row + k] is the offset of its k-th transition.
        k = torch.arange(len(index), device=self.device) - (count.cumsum(0) - count).to(self.device)[owner]
        nth = torch.zeros(total, dtype=torch.int32, device=self.device)
        nth[begin_here[owner] + k] = (index - begin_here[owner]).int()
        new = {**flat, "terminated": terminated, "nth": nth}
        self._check(new)
        self._evict(self._head + total - self.capacity)
        where = self.at(self._head + torch.arange(total, device=self.device))
        for name, field in self.fields.items():
            field[where] = new[name].to(field.dtype)
        self._enter(facts, begin, count)
        self._head += total

    def at(self, steps: Tensor) -> Tensor:
        """Where in the fields these steps lie, counted as in `Column.START`."""
        return steps.to(self.device) % self.capacity

    def rows(self, tasks: Sequence[int] | Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
        """(positions in the table (N,) or () for all, transitions before each row (N,)) of every task, or of all rows.

        Raises:
            ValueError: for a task without rows.
        """
        if not len(self.table):
            raise ValueError("the replay is empty")
        if tasks is None:
            yield torch.zeros(0, dtype=torch.long), self.table.live[Column.BEFORE]
            return
        for task in torch.as_tensor(tasks).tolist():
            if task not in self.by_task:
                raise ValueError(f"the replay holds no rows of task {task}")
            yield self.by_task[task].live[NUMBER], self.by_task[task].live[TASK_BEFORE]

    def read(self, first: int, last: int) -> tuple[dict[str, Tensor], Tensor]:
        """(steps, facts) as `append` takes them, of the rows numbered from `first` to before `last`."""
        rows = self.table.live[:, first - self.first : last - self.first]
        facts = rows[[Column.LENGTH, Column.TASK, Column.TRIAL_STOP, Column.SCORED]]
        where = self.at(int(rows[Column.START, 0]) + torch.arange(int(facts[0].sum())))
        return {name: value[where] for name, value in self.fields.items() if name not in OWN}, facts

    def _check(self, flat: Mapping[str, Tensor]) -> None:
        if not self.fields:
            self.fields = {
                name: torch.zeros(
                    self.capacity, *value.shape[1:], dtype=DTYPES.get(name, value.dtype), device=self.device
                )
                for name, value in flat.items()
            }
        wrong = set(flat) ^ set(self.fields)
        wrong |= {name for name in set(flat) - wrong if flat[name].shape[1:] != self.fields[name].shape[1:]}
        if wrong:
            raise ValueError(f"trials of other fields than the first: {', '.join(sorted(wrong))} differ")

    def _evict(self, start: int) -> None:
        """Drops every row that begins before step `start`."""
        live = self.table.live
        gone = live[Column.TASK, : int(torch.searchsorted(live[Column.START], start))]
        if not len(gone):
            return
        for task, count in zip(*(part.tolist() for part in gone.unique(return_counts=True)), strict=True):
            self.by_task[task].drop(count)
            if not len(self.by_task[task]):
                del self.by_task[task]
        self.table.drop(len(gone))
        self.first += len(gone)

    def _enter(self, facts: Tensor, begin: Tensor, count: Tensor) -> None:
        """The new rows in the table and in those of their tasks."""
        live = self.table.live
        before = count.cumsum(0) - count + (live[Column.BEFORE : Column.COUNT + 1, -1].sum() if len(self.table) else 0)
        fresh = self.first + len(self.table)
        self.table.append(torch.cat([torch.stack([self._head + begin, facts[0], before, count]), facts[1:]]))
        for task in facts[1].unique().tolist():
            mine = (facts[1] == task).nonzero()[:, 0]
            table = self.by_task.setdefault(task, Table(2))
            before = count[mine].cumsum(0) - count[mine]
            if len(table):
                last, earlier = table.live[:, -1].tolist()
                before = before + earlier + self.table.live[Column.COUNT, last - self.first]
            table.append(torch.stack([fresh + mine, before]))


def _ends(flat: Mapping[str, Tensor], number: Tensor) -> tuple[Tensor, Tensor]:
    """(N,) bool each: which steps led to an end that nothing follows, and which are transitions.

    `stop` stands at the last step of an episode: in control its closing row, which is the step after the last action.
    """
    mask, episode, stop = flat["mask"], flat["episode"], flat["stop"]
    follows = torch.zeros_like(mask)
    follows[:-1] = number[1:] == number[:-1]
    closing = torch.zeros_like(mask)
    closing[:-1] = ~mask[1:] & (episode[1:] == episode[:-1]) & (stop[1:] == int(Stop.TERMINATED))
    return mask & (closing & follows | (stop == int(Stop.TERMINATED))), mask & follows
