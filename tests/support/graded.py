"""What a completion is paid: texts as TRL decodes them, the ids, a think format and the grader of mathematics."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from mrt.reasoning.grading.math_grader import MathGrader
from mrt.reasoning.grading.verdict import Grade
from mrt.reasoning.problems.base import Problem
from mrt.reasoning.problems.reward import ProblemReward
from mrt.reasoning.traces.prompts import ThinkFormat, forced_prefix
from mrt.reasoning.traces.templates import encode_behind
from mrt.reasoning.training.think_reward import ThinkReward


@lru_cache
def grader() -> MathGrader:
    """One for all tests of a process."""
    return MathGrader()


class Exact:
    """A problem set whose problems are answered by their solution, graded as mathematics."""

    name = "exact"

    def grade(self, problem: Problem, text: str, opened: bool | None = None) -> Grade:
        """The verdict of the grader of mathematics."""
        return grader().grade(text, problem.solution, opened)


def reward(fmt: ThinkFormat, ids: Sequence[int], gold: str = "7") -> float | None:
    """As a recipe pays a completion."""
    graded = ThinkReward(ProblemReward(Exact()), fmt)  # type: ignore[arg-type]  # it only grades
    text = fmt.tokenizer.decode(list(ids), skip_special_tokens=True)
    columns: dict[str, Any] = {"key": ["k"], "solution": [gold], "data": ["{}"]}
    texts = [[{"role": "assistant", "content": text}]]
    return graded(prompts=["What is it?"], completions=texts, completion_ids=[list(ids)], **columns)[0]


def behind(fmt: ThinkFormat, *texts: str) -> list[int]:
    """Ids of texts that follow another text."""
    return [i for ids in encode_behind(fmt.tokenizer, texts) for i in ids]


def answered(fmt: ThinkFormat, thought: Sequence[int], answer: str, complete: bool = False) -> list[int]:
    """A thought, its forced close, and an answer that ends the turn."""
    box = f"{fmt.answer_open_text}{answer}{fmt.answer_close_text}"
    return [*thought, *forced_prefix(thought, fmt, complete), *behind(fmt, box), fmt.end_ids[0]]
