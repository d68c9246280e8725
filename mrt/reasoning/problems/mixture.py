"""Several problem sets as one, by weights; every set keeps its own grader, and has metrics of its own."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mrt.errors import ConfigError, DataError
from mrt.reasoning.grading.verdict import Grade
from mrt.reasoning.problems.base import SPLITS, Problem, ProblemSet

OWN = ("weight", "label")


class Mixture:
    """Problems of several sets, in a random order that the seed decides.

        problems: {name: mixture, sets: [{name: countdown, weight: 3}, {name: chains, terms: 6}]}

    Args:
        parts: (label, weight, problem set) of each.
        train: problems for training; None: as many as the weights allow without a set running out.
        seed: decides which problems are taken where there are too many, and the order.

    The split "train" holds the sets in proportion to their weights, the others all that each set has. `data` of a
    problem names its set under "set".

    Raises:
        ConfigError: for weights and labels that cannot be, and more problems than there are.
        DataError: for a problem that one set trains on and another one tests.
    """

    name = "mixture"

    def __init__(self, parts: Sequence[tuple[str, float, ProblemSet]], train: int | None = None, seed: int = 0) -> None:
        if len({label for label, _, _ in parts}) < len(parts) or not parts:
            raise ConfigError("mixture: sets need labels that differ (label: ...), and there must be one at least")
        if any(not isinstance(weight, int | float) or weight <= 0 for _, weight, _ in parts):
            raise ConfigError("mixture: every weight must be a number above 0")
        self.sets = {label: problems for label, _, problems in parts}
        rng = random.Random(f"mixture:{seed}")
        splits: dict[str, list[Problem]] = {split: [] for split in SPLITS}
        counts = self._counts({label: weight for label, weight, _ in parts}, train)
        for label, problems in self.sets.items():
            for split in SPLITS:
                chosen = problems.problems(split)
                if split == "train":
                    chosen = rng.sample(chosen, counts[label])
                splits[split] += [replace(one, data={**one.data, "set": label}) for one in chosen]
        for split in SPLITS:
            rng.shuffle(splits[split])
        self._splits = {split: list({one.key: one for one in found}.values()) for split, found in splits.items()}
        self._check_apart()

    def _counts(self, weights: Mapping[str, float], train: int | None) -> dict[str, int]:
        there = {label: len(one.problems("train")) for label, one in self.sets.items()}
        total = sum(weights.values())
        most = min(int(there[label] * total / weight) for label, weight in weights.items())
        if train is not None and not 0 <= train <= most:
            raise ConfigError(
                f"mixture: train={train} is more than these sets and weights give ({most}): raise their own sizes, or "
                "lower train"
            )
        wanted = most if train is None else train
        return {label: min(there[label], round(wanted * weight / total)) for label, weight in weights.items()}

    def _check_apart(self) -> None:
        """Sets have canonical keys, and shares of their own: a key may be in one's train and another's test."""
        held_out = {one.key: one for one in self._splits["test"]}
        for one in (*self._splits["train"], *self._splits["warmstart"]):
            if one.key in held_out:
                raise DataError(
                    f"mixture: '{one.data['set']}' trains on {one.key[:60]!r}, which '{held_out[one.key].data['set']}' "
                    "tests: give both the same shares, or sets that do not overlap"
                )

    def problems(self, split: str) -> list[Problem]:
        if split not in SPLITS:
            raise ConfigError(f"mixture has no split '{split}': valid are {', '.join(SPLITS)}")
        return self._splits[split]

    def grade(self, problem: Problem, text: str, opened: bool | None = None) -> Grade:
        return self._of(problem).grade(problem, text, opened)

    def grade_answer(self, problem: Problem, answer: str) -> Grade:
        return self._of(problem).grade_answer(problem, answer)

    def solutions(self, problem: Problem) -> list[str]:
        """As the problem's own set."""
        return self._of(problem).solutions(problem)

    def _of(self, problem: Problem) -> ProblemSet:
        return self.sets[problem.data["set"]]


def parts_of_mixture(sets: Sequence[Mapping[str, Any]], load: Any) -> list[tuple[str, float, ProblemSet]]:
    """(label, weight, problem set) of every entry: {name, weight: 1, label: its name, and the set's own options}.

    Raises:
        ConfigError: for an entry without a name.
    """
    if not isinstance(sets, list | tuple) or not all(isinstance(one, Mapping) and "name" in one for one in sets):
        raise ConfigError("mixture: sets is a list like [{name: countdown, weight: 3}, {name: chains}]")
    found = []
    for one in sets:
        own = {key: value for key, value in one.items() if key not in OWN}
        found.append((str(one.get("label", one["name"])), one.get("weight", 1), load(**own)))
    return found
