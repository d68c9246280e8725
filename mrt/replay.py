"""`Replay`: trials that were played before, to be learned from again.

`Trials` is transport, `Replay` is storage. The steps of all rows lie flat in a ring (`mrt.training.ring`), and samples
come as rows (recurrent and transformer learners) or as single transitions (SAC). Checkpoints share what they have in
common (`mrt.training.shards`): `trainer.register_state("replay", replay)` is all that is needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from mrt.errors import ConfigError
from mrt.training.ring import Column, Ring
from mrt.training.shards import Items, kept_shards, read_shards, write_shards
from mrt.trials import Stop, Trials

STORED = ("actions", "rewards", "mask", "episode", "logprobs", "values")
SPENT = ("action", "reward", "done")  # inputs that say what came before: a transition holds what comes of it


class Replay:
    """The newest trials, as many as fit into `capacity_steps` steps; when it is full the oldest rows go, always whole.

    Args:
        capacity_steps: of all rows together, closing rows included. The memory is taken at the first `add`.
        device: where the steps lie, and samples with them.
        keep: names in `privileged` that are facts of single steps, (B, T, ...), to be stored too. Nothing else of
            `privileged` is, nor are groups, stop values and costs.
    """

    def __init__(self, capacity_steps: int, device: torch.device | str = "cpu", keep: Sequence[str] = ()) -> None:
        if capacity_steps < 1:
            raise ConfigError(f"capacity_steps={capacity_steps} must be at least 1")
        self.capacity, self.keep = capacity_steps, tuple(keep)
        self._ring = Ring(capacity_steps, torch.device(device))

    def __len__(self) -> int:
        return len(self._ring.table)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the steps take, from the first `add` on, however many are stored."""
        return self._ring.nbytes

    @property
    def tasks(self) -> Tensor:
        """(N,) int64 the tasks of which rows are stored, in order."""
        return torch.tensor(sorted(self._ring.by_task), dtype=torch.long)

    def add(self, trials: Trials) -> None:
        """Stores the rows of `trials`, each up to its last step that is in an episode or acted; padding is left out.

        Raises:
            ConfigError: when a row is longer than the whole replay.
            ValueError: for other fields or shapes than those of the first trials.
        """
        inside = (trials.episode >= 0) | trials.mask
        position = torch.arange(inside.shape[1], device=inside.device)
        length = ((position + 1) * inside).amax(1)
        if int(length.sum()) > self.capacity:
            if len(trials) == 1:
                raise ConfigError(f"a trial of {int(length)} steps is longer than capacity_steps={self.capacity}")
            half = len(trials) // 2
            self.add(trials.rows(slice(half)))
            self.add(trials.rows(slice(half, None)))
            return
        stored = position < length[:, None]
        flat = {name: value[stored].to(self._ring.device) for name, value in self._fields(trials)}
        facts = torch.stack([length, trials.task, trials.trial_stop.long(), trials.scored.long()])
        self._ring.append(flat, facts[:, length > 0].cpu())

    def rows(
        self,
        n: int,
        generator: torch.Generator | None = None,
        tasks: Sequence[int] | Tensor | None = None,
        recent: int | None = None,
        length: int | None = None,
    ) -> Trials:
        """Rows drawn uniformly, with replacement.

        Args:
            n: rows in all; with `tasks` of each task, in the order of `tasks`.
            generator: on the CPU; torch's own where left out.
            recent: only the newest so many rows, of each task where tasks are given.
            length: a window of so many steps of each row, its beginning drawn uniformly; a shorter row comes whole.

        Returns:
            `Trials` padded to the longest; `group` is the task. Episodes keep their numbers in windows, and `stop` is
            PADDING for those whose end lies outside.

        Raises:
            ValueError: when nothing is stored, of one of the tasks or at all.
        """
        picked = []
        for numbers, before in self._ring.rows(tasks):
            position = torch.randint(_oldest(before, recent), len(before), (n,), generator=generator)
            picked.append(self._positions(numbers, position))
        row = self._ring.table.live[:, torch.cat(picked)]
        start, steps = row[Column.START], row[Column.LENGTH]
        if length is not None:
            room = (steps - length).clamp(min=0) + 1
            start = start + (torch.rand(len(start), generator=generator, dtype=torch.float64) * room).long()
            steps = steps.clamp(max=length)
        return self._trials(row, start, steps)

    def steps(
        self,
        n: int,
        generator: torch.Generator | None = None,
        tasks: Sequence[int] | Tensor | None = None,
        recent: int | None = None,
    ) -> dict[str, Tensor]:
        """Transitions drawn uniformly, with replacement: steps that were acted (`mask`) and have a next one.

        Args:
            n, generator, tasks, recent: as for `rows`, with n transitions; `recent` counts rows here too.

        Returns:
            {name: (N, ...)}: action, reward, terminated (bool: nothing is bootstrapped from what comes next; False
            where a time limit or a budget ended the episode), task, episode; x and next_x for every input x but the
            previous action, reward and done (observation, next_observation); logprobs, values and `keep` where stored.

        Raises:
            ValueError: when there is no transition, of one of the tasks or at all.
        """
        picked, nth, live = [], [], self._ring.table.live
        for numbers, before in self._ring.rows(tasks):
            last = self._positions(numbers, torch.tensor([len(before) - 1]))
            low, high = int(before[_oldest(before, recent)]), int(before[-1] + live[Column.COUNT, last])
            if low == high:
                raise ValueError("no transition is stored: no acting step is followed by another step of its row")
            drawn = torch.randint(0, high - low, (n,), generator=generator) + low
            position = torch.searchsorted(before, drawn, right=True) - 1
            nth.append(drawn - before[position])
            picked.append(self._positions(numbers, position))
        row = live[:, torch.cat(picked)]
        offset = self._ring.fields["nth"][self._ring.at(row[Column.START] + torch.cat(nth))]
        return self._transitions(row[Column.START].to(offset.device) + offset, row[Column.TASK])

    def save_shards(self, folder: Path, previous: Path | None) -> None:
        """Writes what `previous` does not have yet, and shares the rest with it."""

        def read(first: int, last: int) -> dict[str, Tensor]:
            flat, facts = self._ring.read(first, last)
            return {"rows": facts, **{f"steps/{name}": value for name, value in flat.items()}}

        write_shards(folder, previous, self._live(), read)

    def load_shards(self, folder: Path) -> None:
        """Replaces everything by what was saved; what is drawn next is what would have been drawn then.

        Raises:
            CheckpointError: naming the file that is missing, torn or altered.
        """
        (first, _), shards = read_shards(folder)
        self._ring = Ring(self.capacity, self._ring.device, first)
        for (begin, _), tensors in shards:
            facts, gone = tensors.pop("rows"), max(0, first - begin)  # of a shard's rows the first may be dropped since
            steps = int(facts[0, :gone].sum())
            flat = {name.removeprefix("steps/"): v[steps:].to(self._ring.device) for name, v in tensors.items()}
            self._ring.append(flat, facts[:, gone:])

    def unsaved_bytes(self, previous: Path | None) -> int:
        """Bytes that `save_shards` will write beside what it shares with `previous`."""
        kept = kept_shards(previous, self._live())
        new = self._ring.table.live[Column.LENGTH, kept[-1][1] - self._ring.first if kept else 0 :]
        return int(new.sum()) * self.nbytes // self.capacity

    def _live(self) -> Items:
        return self._ring.first, self._ring.first + len(self)

    def _positions(self, numbers: Tensor, index: Tensor) -> Tensor:
        """Positions in the table of all rows, from those in a task's (`numbers` is empty where it is that of all)."""
        return numbers[index] - self._ring.first if len(numbers) else index

    def _fields(self, trials: Trials) -> Iterator[tuple[str, Tensor]]:
        """What is stored of every step, (B, T, ...) each; `stop` stands at the last step of each episode."""
        yield from ((name, value) for name in STORED if (value := getattr(trials, name)) is not None)
        for outer, names in (("inputs", list(trials.inputs)), ("privileged", self.keep)):
            yield from ((f"{outer}/{name}", getattr(trials, outer)[name]) for name in names)
        episode = trials.episode
        stop = torch.full_like(episode, int(Stop.PADDING), dtype=torch.int8)
        if trials.stop is not None and trials.stop.shape[1]:
            last = episode >= 0
            last[:, :-1] &= episode[:, 1:] != episode[:, :-1]
            stop = torch.where(last, trials.stop.to(torch.int8).gather(1, episode.clamp(min=0)), stop)
        yield "stop", stop

    def _trials(self, row: Tensor, start: Tensor, steps: Tensor) -> Trials:
        """Steps `start` to `start + steps` (N,) of the rows whose columns are `row` (7, N), padded to the longest."""
        place = torch.arange(int(steps.max()))
        outside = (place >= steps[:, None]).to(self._ring.device)
        where = self._ring.at(start[:, None] + place)
        new: dict = {"inputs": {}, "privileged": {}}
        padding = {"episode": -1, "values": torch.nan, "stop": -1}
        for name, field in self._ring.fields.items():
            if name in ("nth", "terminated"):
                continue
            value = field[where]
            value[outside] = padding.get(name, 0)
            outer, _, inner = name.partition("/")
            (new[outer] if inner else new)[inner or name] = value
        new["episode"] = episode = new["episode"].long()
        marks, width = new.pop("stop"), int(episode.max()) + 1
        stop = marks.new_full((len(marks), width + 1), int(Stop.PADDING))  # the last column takes what is no end
        stop.scatter_(1, torch.where(marks >= 0, episode, width), marks)
        task, device = row[Column.TASK].to(self._ring.device), self._ring.device
        new |= {"group": task, "task": task, "stop": stop[:, :width]}
        new |= {
            "trial_stop": row[Column.TRIAL_STOP].to(device, torch.int8),
            "scored": row[Column.SCORED].bool().to(device),
        }
        return Trials(**new)

    def _transitions(self, steps: Tensor, task: Tensor) -> dict[str, Tensor]:
        here, then, fields = self._ring.at(steps), self._ring.at(steps + 1), self._ring.fields
        new = {"task": task.to(self._ring.device), "episode": fields["episode"][here].long()}
        renamed = {"actions": "action", "rewards": "reward", "terminated": "terminated"}
        for name, field in fields.items():
            outer, _, inner = name.partition("/")
            if outer == "inputs" and inner not in SPENT:
                new |= {inner: field[here], f"next_{inner}": field[then]}
            elif outer == "privileged" or name in ("logprobs", "values"):
                new[inner or name] = field[here]
            elif name in renamed:
                new[renamed[name]] = field[here]
        return new


def _oldest(rows: Tensor, recent: int | None) -> int:
    """Position of the first row that may be drawn."""
    return 0 if recent is None else max(0, len(rows) - recent)
