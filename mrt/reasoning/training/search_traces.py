"""Search traces for the warm start: attempts at a Countdown problem, each worked out and marked, then the answer.

    signs   3+5=8,8*7=56~34✗\\n\\nWait3*5=15,15+7=22~0✓</think>\\boxed{(3*5)+7}<|end|>
    words   3+5=8, 8*7=56, no\\n\\nWait, 3*5=15, 15+7=22, yes\\n</think>\\n\\n**Final Answer**\\n\\boxed{3*5+7}

In signs, for the tiny model, each attempt ends with its distance to the target. Comparing two numbers in one look is
harder for a small model than arithmetic: without the distance it learned 99 % of the arithmetic and never to mark a
hit. A pretrained model compares two numbers well; its traces are written in words, and closed as its format asks.

A trace knows only what its own attempts have shown. The answer is the expression of the attempt that hit or, where
none did, one more expression drawn at random and not worked out: an honest guess. The known solution is never used.
Putting it behind a failed search teaches the model to answer without searching (stop value flat in the number of
attempts).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from mrt.errors import ConfigError
from mrt.reasoning.models.tiny import RIGHT, WAIT, WRONG
from mrt.reasoning.problems.base import Problem, ProblemSet
from mrt.reasoning.problems.chains import steps
from mrt.reasoning.problems.expressions import Attempt, draw_attempt, plain
from mrt.reasoning.training.cycle_traces import cycle_episodes


@dataclass(frozen=True)
class SearchTrace:
    """A thought, the answer behind it, whether an attempt hit the target, and how many attempts there were."""

    thought: str
    answer: str
    hit: bool
    attempts: int


@dataclass(frozen=True)
class Writing:
    """How attempts are spelled: what stands between two of them, between two steps, and behind a hit or a miss.
    `distance` stands before the mark with the distance to the target; None: the distance is not written. `plain`
    answers have no parentheses that change nothing: they follow the steps of the attempt number by number.
    """

    between: str
    comma: str
    right: str
    wrong: str
    distance: str | None = None
    plain: bool = False

    def answer(self, attempt: Attempt) -> str:
        """The expression of an attempt, as it is answered."""
        return plain(attempt.expression) if self.plain else attempt.expression

    def attempt(self, attempt: Attempt, target: int) -> str:
        """The steps of an attempt and what came of them."""
        off = abs(attempt.value - target)
        told = "" if self.distance is None else f"{self.distance}{off}"
        return attempt.steps.replace(",", self.comma) + told + (self.wrong if off else self.right)


SIGNS = Writing(WAIT, ",", RIGHT, WRONG, "~")
WORDS = Writing("\n\nWait, ", ", ", ", yes", ", no", plain=True)


@dataclass(frozen=True)
class Habits:
    """What an attempt after the first is: with chance `adjust` it keeps the first step of the one before and changes
    the rest, with chance `recheck` it works the one before out again, word by word, else it begins anew. With chance
    `overwrite` a best value that is carried along (`cycles`) is lost to another one.

    Rechecks are episodes without progress, as in the late part of long traces (Qu et al. 2025, section 5 and figure 3).

    Raises:
        ConfigError: where they are no probabilities, or the first two exceed 1 together.
    """

    adjust: float = 0.0
    recheck: float = 0.0
    overwrite: float = 0.0

    def __post_init__(self) -> None:
        if min(self.adjust, self.recheck) < 0 or self.adjust + self.recheck > 1:
            raise ConfigError(
                f"adjust={self.adjust} and recheck={self.recheck} must be probabilities with a sum of at most 1"
            )
        if not 0 <= self.overwrite <= 1:
            raise ConfigError(f"overwrite={self.overwrite} must be a probability")

    def draw(self, rng: random.Random) -> str:
        """adjust | recheck | anew."""
        if not self.adjust and not self.recheck:
            return "anew"
        u = rng.random()
        return "adjust" if u < self.adjust else "recheck" if u < self.adjust + self.recheck else "anew"


def search_trace(
    problem: Problem,
    rng: random.Random,
    max_attempts: int,
    habits: Habits | None = None,
    writing: Writing = SIGNS,
) -> SearchTrace:
    """Random attempts until one hits or `max_attempts` (0 or more) are made; no two differ by commuted operands only,
    save for rechecks.

    A chain is worked out from left to right instead, up to `max_attempts` steps (`chain_trace`); so are cycles.

    Raises:
        ConfigError: for a problem of another set.
    """
    if "terms" in problem.data:
        return chain_trace(problem, rng, max_attempts, habits or Habits(), writing)
    if "numbers_of_cycle" in problem.data:
        habits = habits or Habits()
        episodes, answer, everywhere = cycle_episodes(
            problem.data, rng, max_attempts, recheck=habits.recheck, overwrite=habits.overwrite
        )
        return SearchTrace(WAIT.join(episodes), str(answer), everywhere, len(episodes))
    if not {"numbers", "target", "operations"} <= set(problem.data):
        raise ConfigError(f"search traces are made for Countdown, chains and cycles only; {problem.key!r} is neither")
    numbers, target, operations = problem.data["numbers"], problem.data["target"], problem.data["operations"]
    limit = max(99, target, *numbers)
    tried: set[str] = set()
    written: list[str] = []
    habits, attempt = habits or Habits(), None
    while len(written) < max_attempts:
        habit = habits.draw(rng) if attempt else "anew"
        if habit == "recheck":
            written.append(written[-1])
            continue
        begin = attempt if habit == "adjust" else None
        attempt = _draw(numbers, operations, limit, rng, tried, begin=begin) or _draw(
            numbers, operations, limit, rng, tried
        )
        if attempt is None:
            break  # everything has been tried
        written.append(writing.attempt(attempt, target))
        if attempt.value == target:
            return SearchTrace(writing.between.join(written), writing.answer(attempt), True, len(written))
    guess = _draw(numbers, operations, limit, rng, tried) or _draw(numbers, operations, limit, rng, set())
    assert guess is not None, f"{problem.key} has no expression that can be worked out"
    return SearchTrace(writing.between.join(written), writing.answer(guess), False, len(written))


def chain_trace(
    problem: Problem, rng: random.Random, max_steps: int, habits: Habits, writing: Writing = SIGNS
) -> SearchTrace:
    """The steps of a chain, each an episode, until all are done or `max_steps` episodes are written, rechecks included.

    The answer is the right one, however much was left to do in the head: what a model learns of it is what it can do
    in the head.
    """
    left, written = steps(problem.data["terms"]), list[str]()
    while left and len(written) < max_steps:
        recheck = written and habits.draw(rng) == "recheck"
        written.append(written[-1] if recheck else left.pop(0))
    return SearchTrace(writing.between.join(written), problem.solution, not left, len(written))


def _draw(
    numbers: list[int],
    operations: str,
    limit: int,
    rng: random.Random,
    tried: set[str],
    *,
    begin: Attempt | None = None,
) -> Attempt | None:
    """A random attempt (with the first step of `begin`) that is not among those tried, and remembered as tried; None
    where 200 draws bring none, 20 after a given first step.
    """
    for _ in range(200 if begin is None else 20):
        attempt = draw_attempt(numbers, operations, limit, rng, begin)
        if attempt is None:
            return None
        if attempt.canonical not in tried:
            tried.add(attempt.canonical)
            return attempt
    return None


def search_traces(
    problem_set: ProblemSet,
    traces: int,
    attempts: tuple[int, int] = (0, 8),
    seed: int = 0,
    *,
    give_up: float = 0.0,
    patient: float = 0.0,
    habits: Habits | None = None,
    writing: Writing = SIGNS,
    make: Callable[[Problem, random.Random, int], SearchTrace | None] | None = None,
) -> list[tuple[Problem, SearchTrace]]:
    """`traces` search traces over the warm start split, deterministic in `seed`.

    The problems go round in shuffled order. Each trace draws its limit of attempts, so that lengths vary: evenly from
    `attempts` (lowest, highest), or, with `give_up` above 0, by giving up with that probability before each attempt
    beyond the lowest. Such traces are short, yet the model sees that more attempts are possible, and reinforcement can
    lengthen them; an even range ends in a wall that no sample ever climbs. A share `patient` of the traces never gives
    up before the highest, so that the model also knows how a search ends: without it, reinforcement lengthens the
    thought beyond every limit on tokens. `make` makes the traces in the place of `search_trace`; where it gives
    none, the next problem is taken.

    Raises:
        ConfigError: for an empty range, a number that is no probability, and an empty warm start split.
    """
    low, high = attempts
    if traces < 1:
        raise ConfigError(f"traces must be at least 1, got {traces}")
    if not 0 <= low <= high:
        raise ConfigError(f"attempts must be a range (lowest, highest) with 0 <= lowest <= highest, got {attempts}")
    if not 0 <= give_up < 1 or not 0 <= patient <= 1:
        raise ConfigError(f"give_up={give_up} must be at least 0 and below 1, patient={patient} between 0 and 1")
    problems = problem_set.problems("warmstart")
    if not problems:
        raise ConfigError(f"problem set '{problem_set.name}' has no warm start problems: raise its option 'warmstart'")
    rng = random.Random(f"search traces:{seed}")
    made: list[tuple[Problem, SearchTrace]] = []
    while len(made) < traces:
        before = len(made)
        for problem in rng.sample(problems, min(len(problems), traces - len(made))):
            limit = high if patient and rng.random() < patient else low
            while give_up and limit < high and rng.random() >= give_up:
                limit += 1
            most = limit if give_up else rng.randint(low, high)
            one = make(problem, rng, most) if make else search_trace(problem, rng, most, habits, writing)
            made += [(problem, one)] if one else []
        if len(made) == before:
            raise ConfigError(f"problem set '{problem_set.name}': no trace of its warm start problems could be made")
    return made
