"""Few-shot prompts: solved problems before the one that is asked, as turns of the conversation or as text.

An example shows its question, a worked solution where the set knows one (`columns.worked` of `files`), and the answer
in a box. It comes from another split of the problem set or from a file of the same columns, and never from the
problems that are measured.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mrt.errors import ConfigError, DataError
from mrt.reasoning.problems import Problem, ProblemSet, load_problems
from mrt.reasoning.problems.base import SPLITS
from mrt.reasoning.problems.rows import SUFFIXES

if TYPE_CHECKING:
    from mrt.reasoning.evaluation.config import EvalConfig

WAYS = ("turns", "text")
Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Examples:
    """`examples(problem)` -> the messages that ask it, behind the solved ones."""

    solved: Sequence[Problem] = ()
    way: str = "turns"

    def __call__(self, problem: Problem, tags: tuple[str, str]) -> Messages:
        """Messages of one problem; `tags` are those between which the model thinks.

        As turns every example is a user's and an assistant's, with a thought between the tags, of which a template may
        keep the answer alone. As text all stand before the problem in the one message, without tags.
        """
        if self.way == "text" and self.solved:
            shown = "\n\n".join(f"Problem: {one.prompt}\nSolution: {_solution(one)}" for one in self.solved)
            return [{"role": "user", "content": f"{shown}\n\nProblem: {problem.prompt}"}]
        messages = []
        for one in self.solved:
            worked, box = str(one.data.get("worked") or "").strip(), _box(one)
            thought = f"{tags[0]}\n{worked}\n{tags[1]}\n\n{box}" if worked else f"{tags[0]}\n{tags[1]}\n\n{box}"
            messages += [{"role": "user", "content": one.prompt}, {"role": "assistant", "content": thought}]
        return [*messages, {"role": "user", "content": problem.prompt}]


def find_examples(problem_set: ProblemSet, chosen: Sequence[Problem], config: EvalConfig) -> Examples:
    """The first `config.shots` problems of `config.shots_from` that are not among the chosen ones.

    The source is a split of `problem_set`, or a file that is read with the dials of the set.

    Raises:
        ConfigError: for a source that is neither.
        DataError: where it has fewer problems.
    """
    shots, source, problems = config.shots, config.shots_from, config.problems
    if not shots:
        return Examples()
    if source in SPLITS:
        there = problem_set.problems(source)
    elif Path(source).suffix.lower() in SUFFIXES and problems == "files":
        kept = {key: value for key, value in config.dials.items() if key not in _OF_ONE_SOURCE}
        there = load_problems(problems, **kept, path=source, test=1.0).problems("test")
    else:
        raise ConfigError(
            f"shots_from={source!r} must be a split ({', '.join(SPLITS)})"
            + (f" or a file ({', '.join(SUFFIXES)})" if problems == "files" else "")
        )
    return Examples(tuple(_unseen(there, {one.key for one in chosen}, shots, source)), config.shots_as)


_OF_ONE_SOURCE = {"path", "split", "config", "revision", "test_path", "test_split", "test", "warmstart", "unusable"}


def _unseen(there: Sequence[Problem], chosen: Collection[str], shots: int, source: str) -> list[Problem]:
    found = [one for one in there if one.key not in chosen][:shots]
    if len(found) < shots:
        raise DataError(f"shots={shots} examples are asked for, but {source} has {len(found)} that are not measured")
    return found


def _box(problem: Problem) -> str:
    return f"\\boxed{{{problem.solution}}}"


def _solution(problem: Problem) -> str:
    return " ".join(filter(None, (str(problem.data.get("worked") or "").strip(), _box(problem))))
