"""Countdown in several attempts: after each wrong one the grader says what is wrong with it (`mrt.text_tasks`).

    tasks: {env: mrt.reasoning.attempts.countdown:CountdownAttempts, attempts: 4, split: train, numbers: 3, high: 25}

Feedback in signs, which the tiny model can read: `✓` right; `✗+5` the value is 5 too high, `✗-5` too low (at most 99);
`✗,` other numbers than the given ones; `✗` another value that is no whole number; `~` nothing that can be read. In
words: "12 is too low by 10. Try again." An attempt that cannot be read is used up and earns minus `penalty`.

Blind (SCoRe, 2409.12917): nothing is told, every trial has all its attempts, and each is paid for what it is. The reply
is `Wait` for the tiny model (blind), a request to look for an error in words (blind-words).
"""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from mrt.errors import ConfigError, nearest
from mrt.reasoning.grading.verdict import Verdict, extract_boxed
from mrt.reasoning.models.tiny import WAIT
from mrt.reasoning.problems import load_problems
from mrt.reasoning.problems.base import SPLITS, Problem
from mrt.reasoning.problems.expressions import evaluate
from mrt.tasks import Task
from mrt.text_tasks import Turn

MOST = 99  # of a difference in signs: numbers of the tiny model's vocabulary
FEEDBACK = ("signs", "words", "blind", "blind-words")
BLIND = {
    "blind": WAIT,
    "blind-words": "There might be an error in the answer above. Correct it if there is one, and give a final answer.",
}
E = TypeVar("E", bound="CountdownAttempts")


class CountdownAttempts:
    """Up to `attempts` answers to one problem of Countdown, each worth 1 where it is right, which ends the trial.

    Args:
        split: train | warmstart | test; `problems` are the options of the problem set.
        feedback: "signs" | "words" | "blind" | "blind-words".
        penalty: what an attempt that cannot be read costs.

    Raises:
        ConfigError: for options that cannot be.
    """

    choices: tuple[str, ...] = ()

    def __init__(
        self,
        attempts: int = 4,
        split: str = "train",
        feedback: Literal["signs", "words", "blind", "blind-words"] = "signs",
        penalty: float = 0.1,
        **problems: Any,
    ) -> None:
        if attempts < 1:
            raise ConfigError(f"attempts={attempts} must be at least 1")
        for value, valid, name in ((split, SPLITS, "split"), (feedback, FEEDBACK, "feedback")):
            if value not in valid:
                raise ConfigError(f"{name}={value!r} is unknown; {nearest(str(value), valid)}")
        self.problem_set = load_problems("countdown", **problems)
        self.problems = self.problem_set.problems(split)
        if not self.problems:
            raise ConfigError(f"split '{split}' has no problems: raise {split}")
        self.name, self.attempts, self.turns = "countdown in attempts", attempts, attempts
        self.feedback, self.penalty = feedback, penalty
        self.rows: list[Problem] = []
        self.answers: dict[str, dict[str, float]] = {}  # of the problems that payoffs were asked of
        self.used = torch.zeros(0, dtype=torch.long)

    def sample(self, seed: int, index: int) -> Task:
        """Every problem once in as many indices as there are problems, in an order of the seed."""
        number, place = divmod(index, len(self.problems))
        problem = self.problems[_order(f"{seed}:{number}", len(self.problems))[place]]
        return Task(problem.key, {"problem": problem})

    def reset(self, tasks: Sequence[Task], seed: int) -> list[str]:
        """The problems' own prompts; nothing is random here, so `seed` decides nothing."""
        self.rows = [task.data["problem"] for task in tasks]
        self.used = torch.zeros(len(tasks), dtype=torch.long)
        return [problem.prompt for problem in self.rows]

    def step(self, texts: Sequence[str]) -> Turn:
        """One attempt of every row: the last box of its text is graded."""
        replies, right, unread = [], [], []
        for problem, text in zip(self.rows, texts, strict=True):
            verdict, reply = self._judge(problem, text)
            replies.append(reply)
            right.append(verdict is Verdict.CORRECT)
            unread.append(verdict in (Verdict.UNPARSED, Verdict.TRUNCATED))
        self.used = self.used + 1
        solved, lost = torch.tensor(right), torch.tensor(unread)
        rewards = solved.float() - self.penalty * lost.float()
        over = self.used >= self.attempts
        if self.feedback in BLIND:
            told = [BLIND[self.feedback]] * len(replies)
            return Turn(told, rewards, torch.ones_like(over), over, solved & over, lost)
        over = solved | over
        return Turn(replies, rewards, torch.ones_like(over), over, solved, lost)

    def select(self: E, rows: Tensor) -> E:
        """An independent copy of some rows."""
        other = copy.copy(self)
        other.rows, other.used = [self.rows[row] for row in rows.tolist()], self.used[rows].clone()
        return other

    def payoffs(self) -> list[dict[str, float]] | None:
        r"""Every right answer in its box, worth 1; None for six numbers, whose answers are too many to list."""
        for problem in self.rows:
            if problem.key not in self.answers:
                listed = self.problem_set.solutions(problem)
                self.answers[problem.key] = {f"\\boxed{{{answer}}}": 1.0 for answer in listed}
        found = [self.answers[problem.key] for problem in self.rows]
        return found if all(found) else None

    def facts(self) -> dict[str, Tensor]:
        """An attempt that knows the answer earns 1, one that knows nothing 0."""
        return {"oracle": torch.ones(len(self.rows)), "floor": torch.zeros(len(self.rows))}

    def _judge(self, problem: Problem, text: str) -> tuple[Verdict, str]:
        grade = self.problem_set.grade(problem, text, opened=False)
        signs = self.feedback == "signs"
        if grade.verdict is Verdict.CORRECT:
            return grade.verdict, "✓" if signs else "Right."
        if grade.verdict is not Verdict.WRONG:
            return grade.verdict, "~" if signs else "That is no expression in \\boxed{}. Try again."
        target = problem.data["target"]
        used, value = evaluate(extract_boxed(text) or "", problem.data["operations"])
        if sorted(used) != sorted(problem.data["numbers"]):
            return grade.verdict, "✗," if signs else "Use each of the given numbers exactly once. Try again."
        if value is None or value.denominator != 1:
            return grade.verdict, "✗" if signs else f"The value is {value}, not {target}. Try again."
        off = int(value) - target
        if signs:
            return grade.verdict, f"✗{'+' if off > 0 else '-'}{min(abs(off), MOST)}"
        return grade.verdict, f"{value} is too {'high' if off > 0 else 'low'} by {abs(off)}. Try again."


@lru_cache(maxsize=4)
def _order(seed: str, size: int) -> list[int]:
    order = list(range(size))
    random.Random(f"countdown attempts:{seed}").shuffle(order)
    return order
