"""Train and test files of word problems, disjoint by text and by numbers, with worked solutions for a warm start.

    python -m mrt.reasoning.problems.word_problem_files --out data/word_problems \\
        --source mawps mawps_singleop.jsonl mawps_addsub.jsonl --source svamp svamp.jsonl

writes train.jsonl (question, thought, answer, equation, source), test_NAME.jsonl for every source (question, answer,
equation, source), and manifest.json: counts, what was left out and why, hashes of what was read and written. The shapes
of rows that are read are those of `mrt.reasoning.problems.word_problems`.

Test problems are drawn by their numbers: all problems whose equations begin with the same numbers go to one side. A
problem of the train side goes where its text has the numbers of a test problem, or where it is nearly the same text as
one: the words, numbers masked, share `--near` of their n-grams of three (Jaccard index).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any

from mrt.errors import ConfigError, MRTError
from mrt.reasoning.evaluation.contamination import words_of
from mrt.reasoning.problems.rows import read_rows
from mrt.reasoning.problems.word_problems import (
    MAWPS,
    NUMBER,
    SVAMP,
    Unusable,
    WordProblem,
    read_problem,
    worked_solution,
)

SCHEMA_VERSION = 1
NEAR, NGRAM = 0.6, 3
MASK = "number"


def build(sources: Mapping[str, Sequence[Path]], out: Path, *, test: int, near: float, seed: int) -> dict[str, Any]:
    """Writes the files; returns what manifest.json says.

    Args:
        test: test problems of each source.
        near: Jaccard index from which on two texts count as nearly the same.

    Raises:
        ConfigError: for a file that is missing, or a source that `test` would use up.
        DataError: for a row of a shape that is not known.
    """
    problems, left_out = read_sources(sources)
    train, held_out, removed = split_problems(problems, test, near, seed)
    out.mkdir(parents=True, exist_ok=True)
    files = {f"test_{name}.jsonl": [_row(one) for one in rows] for name, rows in held_out.items()}
    files["train.jsonl"] = [_row(one, worked_solution(one, Random(f"{seed} {one.text}"))) for one in train]
    for name, rows in files.items():
        (out / name).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "settings": {"test": test, "near": near, "ngram": NGRAM, "seed": seed},
        "read": {name: {path.name: _sha256(path) for path in paths} for name, paths in sources.items()},
        "left_out": {name: dict(sorted(counts.items())) for name, counts in left_out.items()},
        "removed_from_train": dict(sorted(removed.items())),
        "problems": {name: len(rows) for name, rows in files.items()},
        "train_by_source": dict(Counter(one.source for one in train)),
        "sha256": {name: _sha256(out / name) for name in files},
    }
    (out / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return manifest


def read_sources(sources: Mapping[str, Sequence[Path]]) -> tuple[list[WordProblem], dict[str, Counter[str]]]:
    """The problems of all sources in their order, and per source how many rows were left out for which reason."""
    problems: dict[tuple[str, ...], WordProblem] = {}
    left_out: dict[str, Counter[str]] = {name: Counter() for name in sources}
    for name, paths in sources.items():
        for path in paths:
            for number, row in read_rows(str(path), {*SVAMP, *MAWPS}):
                try:
                    problem = read_problem(row, name, f"{path.name}, row {number}")
                except Unusable as reason:
                    left_out[name][str(reason)] += 1
                    continue
                text = tuple(words_of(problem.text))
                if text in problems:
                    left_out[name]["the text of an earlier row"] += 1
                problems.setdefault(text, problem)
    return list(problems.values()), left_out


def split_problems(
    problems: Sequence[WordProblem], test: int, near: float, seed: int
) -> tuple[list[WordProblem], dict[str, list[WordProblem]], Counter[str]]:
    """(train, test by source, how many were removed from train for which reason)."""
    by_operands: dict[tuple[Fraction, ...], list[WordProblem]] = defaultdict(list)
    for problem in problems:
        by_operands[problem.operands].append(problem)
    groups = list(by_operands.values())
    Random(seed).shuffle(groups)
    held_out: dict[str, list[WordProblem]] = {name: [] for name in dict.fromkeys(one.source for one in problems)}
    rest: list[WordProblem] = []
    removed: Counter[str] = Counter()
    for group in groups:
        if all(len(held_out[one.source]) < test for one in group):
            for one in group:
                if len(held_out[one.source]) < test:
                    held_out[one.source].append(one)
                else:
                    removed["more of a group than the test set takes"] += 1
        else:
            rest += group
    for name, rows in held_out.items():
        if len(rows) < test or not any(one.source == name for one in rest):
            raise ConfigError(f"{name} has no {test} test problems and a train side beside them: lower --test")
    tests = [one for rows in held_out.values() for one in rows]
    numbers = {one.numbers for one in tests}
    index = _NearTexts(tests)
    train = []
    for one in rest:
        if one.numbers in numbers:
            removed["the numbers of a test problem"] += 1
        elif index.nearest(one) >= near:
            removed["nearly the text of a test problem"] += 1
        else:
            train.append(one)
    return train, held_out, removed


class _NearTexts:
    """Test problems by the n-grams of their words, numbers masked."""

    def __init__(self, problems: Sequence[WordProblem]) -> None:
        self.grams = [_grams(problem.text) for problem in problems]
        self.holders: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for number, grams in enumerate(self.grams):
            for gram in grams:
                self.holders[gram].append(number)

    def nearest(self, problem: WordProblem) -> float:
        """The highest Jaccard index with any of them."""
        own = _grams(problem.text)
        shared = Counter(number for gram in own for number in self.holders.get(gram, ()))
        return max((count / len(own | self.grams[number]) for number, count in shared.items()), default=0.0)


def _grams(text: str) -> set[tuple[str, ...]]:
    words = words_of(NUMBER.sub(f" {MASK} ", text))
    return {tuple(words[i : i + NGRAM]) for i in range(max(1, len(words) - NGRAM + 1))}


def _row(problem: WordProblem, thought: str | None = None) -> dict[str, str]:
    equation = "; ".join(map(str, problem.steps))
    worked = {} if thought is None else {"thought": thought}
    return {
        "question": problem.text,
        **worked,
        "answer": problem.answer,
        "equation": equation,
        "source": problem.source,
    }


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code (2: a user's mistake)."""
    parser = argparse.ArgumentParser(
        prog="python -m mrt.reasoning.problems.word_problem_files", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--source", nargs="+", action="append", required=True, metavar=("NAME", "FILE"))
    parser.add_argument("--out", type=Path, required=True, help="folder of the files")
    parser.add_argument("--test", type=int, default=250, help="test problems of each source (default 250)")
    parser.add_argument("--near", type=float, default=NEAR, help=f"nearly the same text from here on (default {NEAR})")
    parser.add_argument("--seed", type=int, default=0, help="draws the test problems and what the solutions say")
    ns = parser.parse_args(argv)
    try:
        for name, *paths in ns.source:
            if not paths:
                raise ConfigError(f"--source {name} names no file: --source NAME FILE [FILE ...]")
        if ns.test < 1 or not 0 < ns.near <= 1:
            raise ConfigError("--test must be at least 1, --near above 0 and at most 1")
        sources = {name: [Path(path) for path in paths] for name, *paths in ns.source}
        print(json.dumps(build(sources, ns.out, test=ns.test, near=ns.near, seed=ns.seed), indent=2))
    except MRTError as error:
        print(f"word_problem_files: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
