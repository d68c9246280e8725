"""Reasoning Gym: more than a hundred generators of puzzles with their verifiers (Stojanovski et al. 2025, 2505.24760).

    problems: {name: reasoning_gym, dataset: chain_sum, options: {max_terms: 3}, train: 2000, test: 200}

Needs the optional package `reasoning-gym` (extra `gym`). Its verifiers run in this process and some work an answer out
as a formula; answers longer than 2,000 characters are not given to them.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Mapping
from typing import Any

from mrt.errors import ConfigError, DataError, nearest
from mrt.reasoning.grading.verdict import Grade, Verdict
from mrt.reasoning.problems.base import SPLITS, Problem
from mrt.reasoning.problems.boxed import Boxed
from mrt.reasoning.problems.files import DEFAULT_PROMPT
from mrt.reasoning.problems.whole_numbers import SHARES, check_sizes
from mrt.tasks import split_of

EXAMPLES = ("example_answer", "example_correct_answer", "possible_answer")
LONGEST = 2_000  # characters of an answer
DRAWS = 20  # entries looked at for every problem that is asked for


class ReasoningGym(Boxed):
    """The problem set of one generator. Deterministic in its options; entries are made anew where they are needed.

    Args:
        dataset: the generator's name, such as chain_sum or countdown.
        options: of the generator's configuration.
        train, warmstart, test: how many problems each split has. A problem's split depends on its question alone.
        seed: decides which problems there are.
        prompt: the text around a question, with {problem} in it.

    Raises:
        ConfigError: without the package, for unknown generators and options, and for too few different questions.
        DataError: for a generator that names no answer which its own verifier takes for right.
    """

    name = "reasoning_gym"

    def __init__(
        self,
        *,
        dataset: str,
        options: Mapping[str, Any] | None = None,
        train: int = 2_000,
        warmstart: int = 0,
        test: int = 200,
        seed: int = 0,
        prompt: str = DEFAULT_PROMPT,
    ) -> None:
        if not isinstance(prompt, str) or "{problem}" not in prompt:
            raise ConfigError(f"reasoning_gym: prompt must hold {{problem}}, got {str(prompt)[:100]!r}")
        sizes = {"train": train, "warmstart": warmstart, "test": test}
        check_sizes(self.name, sizes)
        self.dataset, self.template = dataset, prompt
        self.skipped = 0  # entries whose own gold answer is not right, or missing
        most = 100 + DRAWS * sum(sizes.values())
        self.entries = generator_of(dataset, dict(options or {}), seed, most)
        super().__init__(self._draw(sizes, most))

    def _draw(self, sizes: Mapping[str, int], most: int) -> dict[str, list[Problem]]:
        found: dict[str, dict[str, Problem]] = {split: {} for split in SPLITS}
        looked = 0
        for index in range(most):
            if all(len(found[split]) >= size for split, size in sizes.items()):
                break
            looked += 1
            problem = self._problem(index)
            if problem is None:
                self.skipped += 1
                if self.skipped >= 20 and self.skipped > looked / 2:
                    raise DataError(
                        f"reasoning_gym: {self.skipped} of {looked} entries of '{self.dataset}' name no answer that "
                        "its own verifier takes for right: it cannot be trained on; choose another generator"
                    )
                continue
            found[split_of(problem.key, SHARES)].setdefault(problem.key, problem)
        splits = {split: list(found[split].values())[: sizes[split]] for split in SPLITS}
        for split, size in sizes.items():
            if len(splits[split]) < size:
                raise ConfigError(
                    f"reasoning_gym: '{self.dataset}' gave {len(splits[split])} different questions for '{split}' in "
                    f"{looked} entries, {size} are asked for: lower '{split}', or widen the generator's options"
                )
        return splits

    def _problem(self, index: int) -> Problem | None:
        """None for an entry whose answer is missing, or not right by its verifier as it stands in a box."""
        entry = self.entries[index]
        question, answer = str(entry["question"]), entry.get("answer")
        if answer is None:  # generators with many right answers name one here
            answer = next((entry["metadata"][name] for name in EXAMPLES if entry["metadata"].get(name)), None)
        text = " ".join(question.split())
        key = f"reasoning_gym:{self.dataset}:{hashlib.sha256(text.encode()).hexdigest()}"
        data = {"dataset": self.dataset, "index": index}
        problem = Problem(key, self.template.replace("{problem}", question), str(answer).strip(), data)
        boxed = self.grade(problem, "<think></think>\\boxed{" + problem.solution + "}")
        return problem if answer is not None and boxed.verdict is Verdict.CORRECT else None

    def grade_answer(self, problem: Problem, answer: str) -> Grade:
        """The generator's own score; partial scores are kept."""
        shown = answer[:200]
        if len(answer) > LONGEST:
            return Grade(Verdict.UNPARSED, shown, f"longer than {LONGEST} characters")
        try:
            score = float(self.entries.score_answer(answer, self.entries[problem.data["index"]]))
        except Exception as error:  # verifiers trip over answers that are none
            return Grade(Verdict.UNPARSED, shown, f"the verifier could not read it ({type(error).__name__})")
        score = min(1.0, max(0.0, score))
        return Grade(Verdict.CORRECT if score == 1.0 else Verdict.WRONG, shown, "", score)

    def solutions(self, problem: Problem) -> list[str]:
        """[]: a verifier takes more answers than can be listed."""
        return []


def generator_of(dataset: str, options: Mapping[str, Any], seed: int, size: int) -> Any:
    """The generator called `dataset`, of `size` entries, each a function of the seed and its index."""
    try:
        package = importlib.import_module("reasoning_gym")
        known = importlib.import_module("reasoning_gym.factory").DATASETS
    except ImportError as error:
        raise ConfigError(
            f"problems: name=reasoning_gym needs the package reasoning-gym ({error}). "
            "Cure: pip install 'mrt-rl[gym]' (in a checkout: pip install -e '.[gym]')"
        ) from error
    if dataset not in known:
        raise ConfigError(f"reasoning_gym has no generator '{dataset}'; {nearest(str(dataset), set(known))}")
    # Entry i is drawn from seed + i: seeds side by side would share almost all of their entries.
    apart = int.from_bytes(hashlib.sha256(f"{dataset}:{seed}".encode()).digest()[:4], "big")
    try:
        return package.create_dataset(dataset, seed=apart, size=size, **options)
    except (AssertionError, TypeError, ValueError) as error:
        raise ConfigError(f"reasoning_gym: '{dataset}' refuses the options {dict(options)}: {error}") from error
