"""Countdown with an operation that the model has never seen, as few-shot problems in text.

A task gives the sign `/` a meaning of its own,

    a / b = p a + q b + r        p in 1..3, q in -2..2, r in -offset..offset

and shows it in a Countdown trace: a problem, and the first step of an attempt at it. `<|user|>3 5 7->22<think>3/5=` is
the question and the number behind it the answer: what a language model has learned of the format serves, what the sign
means can only come from the examples. Operations are split into train and test by their keys; the pairs (a, b) of a
task are all different, so that no query is in a support set.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from mrt.control.envs.base import SPLITS
from mrt.errors import ConfigError
from mrt.tasks import Task, generator, split_of

SIGN, LARGEST = "/", 99
IGNORED = -100
PLACE = "0 0 0->0"  # stands for the problem while the chat template is asked for what is around it


@dataclass(frozen=True)
class Operations:
    """p(M), and what the supervised trainer asks of a family of few-shot problems. Inputs are token ids.

    Args:
        tokenizer: of the model, with its chat template.
        shots, queries: examples. stages: support sets.
        high: numbers are 1..high. offset: largest |r|. sign: what is given a meaning.
        split: whose operations: train or test.

    Raises:
        ConfigError: for counts below 1, an unknown split, or more examples than an operation has pairs.
    """

    tokenizer: Any
    shots: int = 16
    queries: int = 16
    stages: int = 1
    high: int = 25
    offset: int = 5
    split: str = "train"
    sign: str = SIGN
    name: str = "operations"

    def __post_init__(self) -> None:
        if min(self.shots, self.queries, self.stages, self.high) < 1 or self.offset < 0 or self.split not in SPLITS:
            raise ConfigError(
                f"operations: shots={self.shots}, queries={self.queries}, stages={self.stages}, high={self.high} "
                f"must be at least 1, offset={self.offset} at least 0, split={self.split!r} one of {sorted(SPLITS)}"
            )
        fewest = min(len(pairs_of(operation, self.high)) for operation in self.operations)
        if fewest < self.examples_a_task:
            raise ConfigError(
                f"operations: {self.examples_a_task} examples a task, but one of the operations has {fewest} pairs "
                f"with results from 0 to {LARGEST}: raise high={self.high}, or ask for fewer"
            )

    @property
    def examples_a_task(self) -> int:
        """Of all support sets and the query set."""
        return self.stages * self.shots + self.queries

    @cached_property
    def operations(self) -> list[tuple[int, int, int]]:
        """(p, q, r) of all operations of the split."""
        ranges = (range(1, 4), range(-2, 3), range(-self.offset, self.offset + 1))
        return [one for one in itertools.product(*ranges) if split_of(key_of(one), SPLITS) == self.split]

    @cached_property
    def around(self) -> tuple[str, str]:
        """What the chat template writes before and behind a problem; the thought, or the answer, begins there."""
        messages = [{"role": "user", "content": PLACE}]
        text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        before, _, behind = text.partition(PLACE)
        return before, behind

    def sample(self, seed: int, index: int) -> Task:
        """Task `index` of `seed`: the operation, and examples (T, 4) of a, b, a third number and a target."""
        source = generator(seed, index)
        operation = self.operations[int(torch.randint(len(self.operations), (1,), generator=source))]
        pairs = torch.tensor(pairs_of(operation, self.high))
        chosen = pairs[torch.randperm(len(pairs), generator=source)[: self.examples_a_task]]
        third = torch.randint(1, self.high + 1, (len(chosen), 1), generator=source)
        target = torch.randint(1, LARGEST + 1, (len(chosen), 1), generator=source)
        rows = torch.cat([chosen, third, target], 1)
        return Task(f"{key_of(operation)}:{seed}:{index}", {"op": operation, "x": rows})

    def texts(self, task: Task) -> list[tuple[str, str]]:
        """Question and answer of every example."""
        before, behind = self.around
        found = []
        for a, b, third, target in task.data["x"].tolist():
            numbers = " ".join(map(str, sorted((a, b, third))))
            question = f"{before}{numbers}->{target}{behind}{a}{self.sign}{b}="
            found.append((question, str(result(task.data["op"], a, b))))
        return found

    def examples(self, tasks: Sequence[Task]) -> tuple[Tensor, Tensor]:
        """Ids (M, T, L), padded on the right, and in each place the id that follows, where it belongs to the answer."""
        texts = [pair for task in tasks for pair in self.texts(task)]
        heads, wholes = (
            self.tokenizer(part, add_special_tokens=False)["input_ids"]
            for part in ([question for question, _ in texts], [question + answer for question, answer in texts])
        )
        length = max(map(len, wholes)) - 1
        ids = torch.full((len(texts), length), self.tokenizer.pad_token_id or 0)
        labels = torch.full_like(ids, IGNORED)
        for row, (head, whole) in enumerate(zip(heads, wholes, strict=True)):
            if whole[: len(head)] != head:
                raise ConfigError(f"the tokenizer joins question and answer: {texts[row]} has no border between them")
            ids[row, : len(whole) - 1] = torch.tensor(whole[:-1])
            labels[row, len(head) - 1 : len(whole) - 1] = torch.tensor(whole[len(head) :])
        return (part.view(len(tasks), -1, length) for part in (ids, labels))  # type: ignore[return-value]

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(..., n) mean cross-entropy of the answer's tokens, for logits (..., n, L, V)."""
        counts = (targets != IGNORED).to(outputs.dtype)
        chosen = outputs.log_softmax(-1).gather(-1, targets.clamp(min=0)[..., None])[..., 0]
        return -(chosen * counts).sum(-1) / counts.sum(-1)

    def scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(..., n) 1 where every token of the answer is the likeliest, else 0."""
        return ((outputs.argmax(-1) == targets) | (targets == IGNORED)).all(-1).to(outputs.dtype)

    def bounds(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """(M,) every answer right, and none."""
        ones = torch.ones(len(targets), device=targets.device)
        return ones, torch.zeros_like(ones)


def result(operation: tuple[int, int, int], a: int, b: int) -> int:
    """a / b under this meaning."""
    p, q, r = operation
    return p * a + q * b + r


def pairs_of(operation: tuple[int, int, int], high: int) -> list[tuple[int, int]]:
    """All (a, b) from 1 to `high` whose result is a number from 0 to 99."""
    numbers = range(1, high + 1)
    return [(a, b) for a in numbers for b in numbers if 0 <= result(operation, a, b) <= LARGEST]


def key_of(operation: tuple[int, int, int]) -> str:
    """The canonical key, which decides the split."""
    return "operation:" + ",".join(map(str, operation))
